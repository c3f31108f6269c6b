"""Defines the contract between a task and everything that trains on it, evaluates it or plots it.

A task is a frozen dataclass whose fields are its sizes: each becomes an option of the commands and
part of a run's identity, and has a plain value as its default: a number, a text, None, or a tuple
of them.  A task describes its tokens and answers to the model (`interface`), loads its fixed
splits, draws training batches on the device, and computes the accuracies that trivial predictors
reach, called floors.  Loss and accuracy are the same for every task: integer cross-entropy and
argmax over `logits[batch, answer, class]`.

The commands import this module and the classes that implement it for `--help`: jax is imported
inside the methods that run on the device, never at the top.

Shapes in the whole package: B batch, N examples, T tokens, W width of a continuous token, D width
of the body, H heads, L layers, R runs of a stack (runs that are trained at once), Q queries (the
tokens whose hidden states the output layer reads, in short the tokens that are read), A answers
(Q x answers per query), C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

UNSCORED = -1  # a target that counts neither in the loss nor in the accuracy
HEADS = ("fresh", "tied")


@dataclass(frozen=True, kw_only=True)
class Interface:
    """Describes what a model must know of a task: its tokens, and the answers that it asks for."""

    tokens: int  # T: tokens of an example, pads included
    classes: int  # C
    width: int | None = None  # W: numbers in a continuous token; None where tokens are symbols
    vocabulary: int | None = None  # symbols, the pad included; None where tokens are continuous
    pad: int | None = None  # symbol that fills up on the right, after the tokens that are read
    queries: int = 1  # Q: how many tokens the answers are read from, the last ones but for pads
    answers_per_query: int = 1
    head: str = "fresh"  # or tied: the body's token table embeds the symbols and gives the logits

    @property
    def answers(self) -> int:
        """Counts the labels of one example, A."""
        return self.queries * self.answers_per_query

    @property
    def tied(self) -> bool:
        """Tells whether the model has no input and output layers but the body's token table."""
        return self.head == "tied"


class Split(NamedTuple):
    """Holds examples as they are stored: uint8 images, int8 bits, symbol numbers."""

    inputs: Any  # [N, ...]
    targets: Any  # [N, A] int32, some of them UNSCORED


class Batch(NamedTuple):
    """Holds the examples of one training step, in stored form."""

    inputs: Any  # [B, ...]
    targets: Any  # [B, A] int32, some of them UNSCORED
    anywhere: bool = False  # begins at any position of the body with room for it, else at the first


# Settings of a run that drops nothing anywhere.
WITHOUT_DROPOUT = dict.fromkeys(
    ("dropout", "embedding_dropout", "attention_dropout", "residual_dropout"), 0.0)


@dataclass(frozen=True)
class Preset:
    """Holds the settings that a task is run under unless an option overrules them."""

    body: str
    batch: int
    steps: int
    lr: float
    eval_every: int  # steps between evaluations on validation
    eval_examples: int | None = None  # None: 2,000 of validation, and all of test
    sizes: Mapping[str, Any] | None = None  # fields of the task that differ from their defaults
    settings: Mapping[str, Any] | None = None  # other fields of the configuration that do


@dataclass(frozen=True)
class Task(ABC):
    """Declares what a task must give (the abstract members), and what it may give beside."""

    name: ClassVar[str]  # letters, digits, points, dashes and underscores; a letter or digit first
    presets: ClassVar[Mapping[str, Preset]]  # "laptop": minutes on two cores; "paper": as published
    levels: ClassVar[int]  # how many values `symbols` takes
    grid: ClassVar[tuple[int, int] | None] = None  # rows and columns of the patches of a picture
    # Sizes that the task had once, and the value that they have for good: records state them still.
    retired: ClassVar[Mapping[str, Any]] = {}
    probes: ClassVar[tuple[str, ...]] = ()  # splits scored at each evaluation, which choose nothing

    @property
    @abstractmethod
    def interface(self) -> Interface:
        """Describes what a model must know of the task in its sizes: its tokens and its answers."""

    @property
    def draws_stored(self) -> bool:
        """Tells whether `draw` picks examples of `train` and gives them as they are stored.

        True promises that a batch holds some rows of `train.inputs` and the same rows of
        `train.targets`, chosen by key and step alone and changed in nothing, and that `draw` does
        the same whatever shape and dtype the rows of `train.inputs` have.  A run that trains the
        output layer alone then computes the hidden states of each example once, and lets `draw`
        pick rows of these in place of the stored inputs.  False, for a task that augments its
        examples or makes new ones, is always right.
        """
        return False

    @abstractmethod
    def load(self, folder: Path | None, report: Callable[[str], None] = print) -> dict[str, Split]:
        """Loads the splits as host arrays: `validation`, `test`, the `probes`, and perhaps `train`.

        The `probes` are further splits that runs are scored on.  `train` holds the examples that
        `draw` takes batches from, and is left out where `draw` makes them from the random key
        alone.  `folder` is what `--data-dir` or `FPT_DATA` names, or None.  `report` takes
        progress, a line at a time.  Raises UserError where data are missing, short or corrupt.
        """

    @abstractmethod
    def draw(self, train: Split | None, key, step, batch: int) -> Batch:
        """Draws a training batch, augmented; traced by jax.  Depends on (train, key, step) only."""

    @abstractmethod
    def encode(self, inputs):
        """Turns stored inputs [B, ...] into tokens for the model; traced by jax.

        Tokens are [B, T, W] float32 where they are continuous, [B, T] int32 where they are symbols.
        """

    @abstractmethod
    def floors(self, data: dict[str, Split], examples: Split) -> dict[str, float]:
        """Computes the floors: the accuracies of trivial predictors on `examples`, by predictor.

        A predictor may be fitted on data's `train`.  A floor on one of the `slices` alone is named
        `slice/predictor`; at least one floor is on all answers.
        """

    @abstractmethod
    def token_labels(self, example) -> list[str]:
        """Names each of the T tokens of one stored input."""

    @abstractmethod
    def show(self, example, target) -> str:
        """Writes one stored input and its targets [A] as text that a person can read."""

    def rank(self, score: Mapping[str, Any]) -> tuple:
        """Returns a sort key of a score on validation, the greater the better: here its accuracy.

        A score whose loss is None, that of a run which has diverged, comes last.
        """
        return (False, 0.0) if score["loss"] is None else (True, score["accuracy"])

    def symbols(self, inputs):
        """Turns stored inputs [B, ...] into the symbols of each token, which `self-NAME` predicts.

        They are int32 [B, T, S] in 0 .. levels - 1, or UNSCORED; S is W, or 1 where tokens are
        symbols; traced by jax.  A task needs this method only if `self-NAME`, next-token prediction
        on its inputs, is to be derived from it.
        """
        raise NotImplementedError

    def headline(self, score: dict[str, Any], probes: dict[str, dict[str, Any]]) -> str:
        """Sums up the scores on validation and on the probes in a few words, for a progress bar.

        Probes are the task's additional splits that are scored at each evaluation.
        """
        return f"val {score['accuracy']:.3f}"

    def figures(self, data: dict[str, Split], examples: Split, score: dict[str, Any],
                probes: dict[str, dict[str, Any]]) -> dict[str, float]:
        """Computes further figures, by name, from the score on `examples` and those on `probes`."""
        return {}

    def slices(self, inputs) -> dict[str, Any]:
        """Marks named parts of the A answers to each of the stored inputs [N, ...]: bool [N, A].

        The accuracy on each part is reported beside that on all answers.  Parts may overlap, and
        some answers may be in none.
        """
        return {}

    def answer_tokens(self, inputs) -> dict[str, Any]:
        """Returns masks of the tokens of stored inputs [N, ...] by name, each bool [N, Q, T].

        A query is a token whose hidden state the output layer reads.  The first mask marks, for
        each query, the tokens that a model has to look at to answer there; others are there to
        compare it with.
        """
        return {}

    def picture(self, example) -> Any:
        """Draws one stored input as a picture: uint8 [height, width, 1 or 3].

        `grid` divides it into patches, one for each token; a task without a grid returns None.
        """
        return None

    def sources(self) -> dict[str, str]:
        """Identifies the raw files that the loaded splits were made of: their sha256 by name."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Returns the sizes (the fields and the `retired` ones) by name, as hashed and recorded."""
        sizes = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**sizes, **self.retired}


def about(task: type[Task]) -> str:
    """Returns the first paragraph of a task's docstring, on one line."""
    return " ".join(task.__doc__.partition("\n\n")[0].split())
