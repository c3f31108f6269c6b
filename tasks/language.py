"""Causal language modelling on a folder of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fpt.errors import UserError
from fpt.task import UNSCORED, Preset, Split
from tasks.nexttoken import PRETRAINING, NextToken
from tasks.text import END, prepare

VALIDATION = 128  # windows


@dataclass(frozen=True)
class Language(NextToken):
    """The next token of English prose, or of whatever lies in the folder."""

    name: ClassVar[str] = "language"
    presets: ClassVar[Mapping[str, Preset]] = {
        "laptop": Preset(body="gpt2-mini", batch=16, steps=3_000, lr=3e-3, eval_every=250,
                         settings=PRETRAINING | {"warmup": 200}),
    }

    vocabulary: int = 8_192
    """Entries of the vocabulary, and rows of the token table."""
    context: int = 256
    """Tokens that are seen at once."""
    anywhere: bool = True
    """Whether training contexts begin at any position, so that all rows of the position table are trained."""
    tokenizer: str | None = None
    """A tokenizer.json to use; None: a byte-level vocabulary is learnt from the text."""

    def load(self, folder=None, report=print) -> dict[str, Split]:
        text = prepare(folder, self.vocabulary, self.tokenizer and Path(self.tokenizer), report)
        self.__dict__["text"] = text  # found, not stated: it is no part of what a task is
        train = text.stream("train")
        if len(train) <= 2 * self.context:
            raise UserError(f"{folder / 'text'} holds {len(train)} tokens to train on; --context {self.context} needs more than "
                            f"{2 * self.context}")
        validation = self._windows(text.stream("validation"), folder)
        spread = np.unique(np.linspace(0, len(validation.inputs) - 1, VALIDATION).round().astype(int))
        return {"train": Split(train, np.zeros((0, self.context), np.int32)),
                "validation": Split(*(part[spread] for part in validation)),
                "test": self._windows(text.stream("heldout"), folder)} | self.repetitions(text.tokenizer.token_to_id(END))

    def _windows(self, tokens: np.ndarray, folder: Path) -> Split:
        """A stream cut into windows that overlap by half; scored is the second half, which has the first before it."""
        half = self.context // 2
        count = (len(tokens) - 1) // half - 1
        if count < 1:
            raise UserError(f"a split of {folder / 'text'} holds {len(tokens)} tokens; --context {self.context} needs more")
        places = half * np.arange(count)[:, None] + np.arange(self.context)
        scored = np.arange(self.context) >= half
        return Split(tokens[places], np.where(scored, tokens[places + 1].astype(np.int32), UNSCORED))

    def draw(self, train, key, step, batch) -> Split:
        """Windows of the stream, all once in an epoch, which begin somewhere else in each step."""
        import jax
        import jax.numpy as jnp

        from fpt.randomness import shuffled, stream

        size = (len(train.inputs) - 1) // self.context - 1
        phase = jax.random.randint(jax.random.fold_in(stream(key, "phase"), step), (), 0, self.context)
        first = shuffled(key, step, batch, size) * self.context + phase
        tokens = train.inputs[first[:, None] + jnp.arange(self.context + 1)].astype(jnp.int32)
        return Split(tokens[:, :-1], tokens[:, 1:])

    def floors(self, data, examples) -> dict[str, float]:
        scored = examples.targets != UNSCORED
        followed = self.text.successor[examples.inputs] == examples.targets
        frequent = np.bincount(data["train"].inputs, minlength=self.vocabulary).argmax()
        return {"most frequent token": float((examples.targets == frequent).mean(where=scored)),
                "most frequent successor": float(followed.mean(where=scored))}

    def figures(self, data, examples, score, probes) -> dict[str, float]:
        """Also bits per byte of the text that is scored, and those of the floors on all held-out text."""
        targets = examples.targets[examples.targets != UNSCORED]
        nats = math.nan if score["loss"] is None else score["loss"]
        bits = nats * targets.size / math.log(2) / self.text.bytes_of[targets].sum()
        return super().figures(data, examples, score, probes) | {"bits per byte": float(bits)} | {
            f"bits per byte, {name}": value for name, value in self.text.floors.items()}

    def token_labels(self, example) -> list[str]:
        return [self.text.tokenizer.decode([int(token)], skip_special_tokens=False) for token in example]

    def show(self, example, target) -> str:
        return self.text.tokenizer.decode([int(token) for token in [*example, target[-1]] if token != UNSCORED],
                                          skip_special_tokens=False)
