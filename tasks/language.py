"""Defines causal language modelling on a folder of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fpt.errors import UserError
from fpt.task import UNSCORED, Batch, Preset, Split
from tasks.nexttoken import PRETRAINING, NextToken, loss
from tasks.text import END, prepare
from tasks.tokenizers import found, kept

VALIDATION = 128  # windows
SHORTEST_REPEATED = 8  # tokens


@dataclass(frozen=True)
class Language(NextToken):
    """Asks for the next token of English prose, or of other text in the data folder's text/."""

    name: ClassVar[str] = "language"
    presets: ClassVar[Mapping[str, Preset]] = {
        "laptop": Preset(body="gpt2-mini", batch=16, steps=3_000, lr=3e-3, eval_every=250,
                         settings=PRETRAINING | {"warmup": 200}),
    }

    vocabulary: int = 8_192
    """Sets the size of the vocabulary, which is the number of rows of the token table."""
    context: int = 256
    """Sets how many tokens the body sees at once."""
    anywhere: bool = True
    """Lets the positions of a training batch begin at any row of the position table, to train all
    its rows."""
    tokenizer: str | None = None
    """Names a tokenizer.json to use; None learns a byte-level vocabulary from the text. Runs record
    the sha256 of the file, and keep a copy of it in the cache folder."""

    repeats: float = 0.0
    """Sets the share of training windows in which the first tokens are repeated up to the end. How
    many are repeated is drawn for each window, from 8 to half the context. Such windows teach a
    body to copy."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.repeats <= 1:
            raise UserError(f"language: --repeats must be from 0 to 1, not {self.repeats:g}")
        if self.repeats and self.context < 2 * SHORTEST_REPEATED:
            raise UserError(f"language: --repeats needs a --context of at least "
                            f"{2 * SHORTEST_REPEATED}, not {self.context}")

    def settings(self) -> dict[str, Any]:
        """Gives the sizes, with the sha256 of the tokenizer, since its place does not matter.

        Without repeats there is no word of them, so that older runs keep their names.
        """
        found = super().settings() | {"tokenizer": self.tokenizer and kept(self.tokenizer)}
        return found if self.repeats else {name: found[name] for name in found if name != "repeats"}

    def sources(self) -> dict[str, str]:
        return self.text.sources

    def load(self, folder=None, report=print) -> dict[str, Split]:
        file = self.tokenizer and found(self.tokenizer)
        text = prepare(folder, self.vocabulary, file, report)
        self.__dict__["text"] = text  # beside the fields: the text is not part of the task's sizes
        train = text.stream("train")
        if len(train) <= 2 * self.context:
            raise UserError(f"{folder / 'text'} holds {len(train)} tokens to train on; --context "
                            f"{self.context} needs more than {2 * self.context}")
        validation = self._windows(text.stream("validation"), folder)
        spread = np.linspace(0, len(validation.inputs) - 1, VALIDATION)
        spread = np.unique(spread.round().astype(int))
        return {"train": Split(train, np.zeros((0, self.context), np.int32)),
                "validation": Split(*(part[spread] for part in validation)),
                "test": self._windows(text.stream("heldout"), folder),
                **self.repetitions(text.tokenizer.token_to_id(END))}

    def _windows(self, tokens: np.ndarray, folder: Path | None) -> Split:
        """Cuts a stream into windows that overlap by half, of which the second half is scored.

        folder: where the data lie, for the error that a stream is too short.
        """
        half = self.context // 2
        count = (len(tokens) - 1) // half - 1
        if count < 1:
            raise UserError(f"a split of {folder / 'text'} holds {len(tokens)} tokens; --context "
                            f"{self.context} needs more")
        places = half * np.arange(count)[:, None] + np.arange(self.context)
        scored = np.arange(self.context) >= half
        following = tokens[places + 1].astype(np.int32)
        return Split(tokens[places], np.where(scored, following, UNSCORED))

    def draw(self, train, key, step, batch) -> Batch:
        """Draws windows of the stream, each once in an epoch.

        All windows of a step are shifted by one offset, which is drawn for that step.  In a share
        `repeats` of them, the first tokens are repeated up to the end.
        """
        import jax
        import jax.numpy as jnp

        from fpt.randomness import shuffled, stream

        size = (len(train.inputs) - 1) // self.context - 1
        phase_key = jax.random.fold_in(stream(key, "phase"), step)
        phase = jax.random.randint(phase_key, (), 0, self.context)
        first = shuffled(key, step, batch, size) * self.context + phase
        places = jnp.arange(self.context + 1)[None]
        if self.repeats:
            longest = self.context // 2
            keys = jax.random.split(jax.random.fold_in(stream(key, "repeat"), step))
            length = jax.random.randint(keys[0], (batch, 1), SHORTEST_REPEATED, longest + 1)
            chosen = jax.random.uniform(keys[1], (batch, 1)) < self.repeats
            places = jnp.where(chosen, places % length, places)
        tokens = train.inputs[first[:, None] + places].astype(jnp.int32)
        return Batch(tokens[:, :-1], tokens[:, 1:], self.anywhere)

    def floors(self, data, examples) -> dict[str, float]:
        scored = examples.targets != UNSCORED
        followed = self.text.successor[examples.inputs] == examples.targets
        frequent = np.bincount(data["train"].inputs, minlength=self.vocabulary).argmax()
        return {"most frequent token": float((examples.targets == frequent).mean(where=scored)),
                "most frequent successor": float(followed.mean(where=scored))}

    def figures(self, data, examples, score, probes) -> dict[str, float]:
        """Adds the bits per byte of the scored text, and on all held-out text those of baselines:
        unigram, bigram and xz."""
        targets = examples.targets[examples.targets != UNSCORED]
        nats = loss(score)
        bits = nats * targets.size / math.log(2) / self.text.bytes_of[targets].sum()
        floors = {f"bits per byte, {name}": value for name, value in self.text.floors.items()}
        usual = super().figures(data, examples, score, probes)
        return usual | {"bits per byte": float(bits)} | floors

    def token_labels(self, example) -> list[str]:
        return [self._decode([token]) for token in example]

    def show(self, example, target) -> str:
        return self._decode([token for token in [*example, target[-1]] if token != UNSCORED])

    def _decode(self, tokens) -> str:
        return self.text.tokenizer.decode(list(map(int, tokens)), skip_special_tokens=False)
