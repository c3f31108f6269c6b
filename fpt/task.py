"""The contract between a task and everything that trains on it, evaluates it or draws it.

A task is a frozen dataclass whose fields are its sizes: each becomes an option of the commands, and part of a run's
identity, and has a plain value as its default: a number, a text, None, or a tuple of them.  A task says what the tokens
are, how a training batch is drawn on the device, what its fixed splits hold, what each token means, and what trivial
predictors reach.  Loss and accuracy are the same for every task: integer cross-entropy and argmax over
`logits[batch, answer, class]`.

This module and the classes that implement it are imported by `--help`: jax is imported inside the methods that run
on the device, never at the top.

Shapes in the whole package: B batch, N examples, T tokens, W width of a continuous token, D width of the body,
H heads, L layers, R runs of a stack, Q queries, A answers (Q x answers per query), C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

UNSCORED = -1  # a target that counts neither in the loss nor in the accuracy


class Split(NamedTuple):
    """Examples as they are stored: uint8 images, int8 bits, symbol numbers."""

    inputs: Any  # [N, ...]
    targets: Any  # [N, A] int32, some of them UNSCORED


@dataclass(frozen=True)
class Preset:
    """The settings under which a task is run unless an option says otherwise."""

    body: str
    batch: int
    steps: int
    lr: float
    eval_every: int  # steps between evaluations on validation
    eval_examples: int | None = None  # None: 2,000 of validation, and all of test
    sizes: Mapping[str, Any] | None = None  # fields of the task that differ from their defaults
    settings: Mapping[str, Any] | None = None  # likewise, of the configuration's other fields


@dataclass(frozen=True)
class Task:
    """Base of all tasks.  A subclass gives the class attributes, the properties and the methods below."""

    name: ClassVar[str]  # of letters, digits, points, dashes and underscores, a letter or digit first
    presets: ClassVar[Mapping[str, Preset]]  # "laptop": ends in minutes on two cores; "paper": as published

    # What the model must know. Exactly one of width and vocabulary is not None.
    tokens: ClassVar[int]  # T: tokens of an example, pads included
    width: ClassVar[int | None] = None  # W: numbers in a continuous token
    vocabulary: ClassVar[int | None] = None  # symbols, the pad included
    pad: ClassVar[int | None] = None  # symbol that fills up on the right; the last `queries` real tokens are read
    queries: ClassVar[int] = 1  # Q: trailing tokens that are read
    answers_per_query: ClassVar[int] = 1  # A / Q
    classes: ClassVar[int]  # C
    levels: ClassVar[int]  # of `symbols`
    tied: ClassVar[bool] = False  # symbols are embedded by the body's token table, and answered by it, as in a language model
    anywhere: ClassVar[bool] = False  # training examples begin at any position that leaves room for them, else at the first
    grid: ClassVar[tuple[int, int] | None] = None  # rows and columns, where the tokens are the patches of a picture, row by row
    probes: ClassVar[tuple[str, ...]] = ()  # splits that are scored beside validation, to be watched: nothing is chosen by them

    def load(self, folder: Path | None, report: Callable[[str], None] = print) -> dict[str, Split]:
        """The splits as host arrays: `validation`, `test`, and `train` where training examples are not drawn from a key.

        `folder` is what `--data-dir` or `FPT_DATA` names, None if neither is given.  `report` takes progress, a line
        at a time.  Raises UserError where data are missing, short or corrupt.
        """
        raise NotImplementedError

    def draw(self, train: Split | None, key, step, batch: int) -> Split:
        """A training batch in stored form, augmented; traced by jax.  A function of (key, step) and nothing else."""
        raise NotImplementedError

    def encode(self, inputs):
        """Stored inputs [B, ...] -> tokens [B, T, W] float32 or [B, T] int32; traced by jax."""
        raise NotImplementedError

    def symbols(self, inputs):
        """Stored inputs [B, ...] -> what a model of the inputs themselves predicts of each token: int32 [B, T, S] in
        0 .. levels - 1, or UNSCORED; traced by jax.  Needed only for pretraining on the task's own inputs."""
        raise NotImplementedError

    def floors(self, data: dict[str, Split], examples: Split) -> dict[str, float]:
        """Name of a trivial predictor -> the accuracy it reaches on `examples`; what is fitted is fitted on data's `train`.

        A floor of one of the `slices` alone is named `slice/predictor`; there is at least one of all examples.
        """
        raise NotImplementedError

    def headline(self, score: dict[str, Any], probes: dict[str, dict[str, Any]]) -> str:
        """A score on validation, and those on the probes, in the few words that a progress bar has room for."""
        return f"val {score['accuracy']:.3f}"

    def figures(self, data: dict[str, Split], examples: Split, score: dict[str, Any],
                probes: dict[str, dict[str, Any]]) -> dict[str, float]:
        """What else a score on `examples` and those on the probes come to, by name, in a unit of the task's own."""
        return {}

    def slices(self, inputs) -> dict[str, Any]:
        """Stored inputs [N, ...] -> name of a part -> bool [N, A]: accuracies reported beside the headline."""
        return {}

    def answer_tokens(self, inputs) -> dict[str, Any]:
        """Stored inputs [N, ...] -> which tokens hold the answer of each token that is read: bool [N, Q, T].

        The first mask is what a model has to look at; others, if there are any, are what it is to be compared with.
        """
        return {}

    def picture(self, example) -> Any:
        """One stored input as the picture that `grid` divides: uint8 [height, width, 1 or 3].  Where there is no grid, None."""
        return None

    def token_labels(self, example) -> list[str]:
        """One stored input -> what each of its T tokens stands for."""
        raise NotImplementedError

    def show(self, example, target) -> str:
        """One stored input and its targets [A] as text that a person can read."""
        raise NotImplementedError

    @property
    def answers(self) -> int:
        """A: labels of one example."""
        return self.queries * self.answers_per_query

    def settings(self) -> dict[str, Any]:
        """The sizes by name, as they are hashed and recorded."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
