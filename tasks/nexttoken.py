"""Defines what tasks of next-token prediction share, and the probe for a body's copying."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fpt.errors import UserError
from fpt.task import UNSCORED, WITHOUT_DROPOUT, Interface, Split, Task

SPAN = 64  # tokens that a probe repeats, where the context has room for them
PROBES = 128  # examples of a probe
BEGIN = 0  # the symbol that begins an example of random symbols, and is none of them

# How a body is pretrained unless options overrule these settings.
PRETRAINING = {
    "train": "body+token", "load": "none", "init": "depth-scaled", "optimizer": "muon",
    "weight_decay": 0.1, "decay": "cosine", **WITHOUT_DROPOUT,
}


@dataclass(frozen=True)
class NextToken(Task):
    """Represents a stream of symbols, each to be predicted from those before it.

    The body's own token table embeds the symbols and gives the logits, as in a language model.
    """

    probes: ClassVar[tuple[str, ...]] = ("random", "repeated")

    vocabulary: int = 512
    """Sets how many symbols there are, which are the rows of the token table."""
    context: int = 64
    """Sets how many tokens the body sees at once."""
    anywhere: bool = False
    """Lets the positions of a training batch begin at any row of the position table, to train all
    its rows."""

    def __post_init__(self):
        if self.context < 2 or self.context % 2:
            raise UserError(f"{self.name}: --context must be even and at least 2, not "
                            f"{self.context}")
        if self.vocabulary < 2:
            raise UserError(f"{self.name}: --vocabulary must be at least 2, not "
                            f"{self.vocabulary}")

    @property
    def interface(self) -> Interface:
        return Interface(tokens=self.context, vocabulary=self.vocabulary, queries=self.context,
                         classes=self.vocabulary, head="tied")

    def encode(self, inputs):
        import jax.numpy as jnp

        return inputs.astype(jnp.int32)

    def repetitions(self, begin: int = BEGIN) -> dict[str, Split]:
        """Makes the probes, two additional splits of random symbols that are then repeated.

        `random` is scored on the first half, `repeated` on the repetition.  begin: the symbol that
        begins each example and occurs nowhere else in it.
        """
        span = min(SPAN, self.context // 2)
        noise = np.random.default_rng(0)
        drawn = noise.integers(1, self.vocabulary, (PROBES, span), dtype=np.int32)
        drawn = np.where(drawn == begin, 0, drawn)  # all symbols but the one that begins
        whole = np.concatenate([np.full((PROBES, 1), begin, np.int32), drawn, drawn], axis=1)
        again = np.arange(2 * span) >= span
        inputs, targets = whole[:, :-1], whole[:, 1:]
        scored = {"random": ~again, "repeated": again}
        return {name: Split(inputs, np.where(where, targets, UNSCORED).astype(np.int32))
                for name, where in scored.items()}

    def rank(self, score) -> tuple:
        return by_loss(score)

    def headline(self, score, probes) -> str:
        return f"val loss {loss(score):.3f}  copying gain {copying_gain(probes):.2f}"

    def figures(self, data, examples, score: Mapping[str, Any], probes) -> dict[str, float]:
        """Gives the loss in nats per token, and the copying gain."""
        return {"loss": loss(score), "copying gain": copying_gain(probes)}


def loss(score: Mapping[str, Any]) -> float:
    """Reads the loss off a score; NaN stands for one that is not finite."""
    return math.nan if score["loss"] is None else score["loss"]


def by_loss(score: Mapping[str, Any]) -> tuple:
    """Returns a sort key of a score, as `Task.rank` does: the lower its loss, the greater."""
    return (False, 0.0) if score["loss"] is None else (True, -score["loss"])


def copying_gain(probes: Mapping[str, Mapping[str, Any]]) -> float:
    """Computes by how many nats a token the loss is lower where random symbols are repeated.

    NaN stands for a run that has diverged.
    """
    losses = [probes[name]["loss"] for name in ("random", "repeated")]
    return math.nan if None in losses else losses[0] - losses[1]
