"""What tasks of next-token prediction share, and the probe that watches whether a body learns to copy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fpt.errors import UserError
from fpt.task import UNSCORED, Split, Task

SPAN, PROBES = 64, 128  # tokens that are repeated, where the context has room for them, and examples of it
BEGIN = 0  # the symbol that begins an example of random symbols, and is none of them


# How a body is pretrained unless options say otherwise.
PRETRAINING = {
    "train": "body+token", "load": "none", "init": "depth-scaled", "optimizer": "muon", "weight_decay": 0.1,
    "decay": "cosine", "dropout": 0.0, "embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0,
}


@dataclass(frozen=True)
class NextToken(Task):
    """A stream of symbols of which each is to be predicted from those before it, by a body's own token table."""

    tied: ClassVar[bool] = True
    probes: ClassVar[tuple[str, ...]] = ("random", "repeated")

    vocabulary: int = 512
    """Entries of the token table."""
    context: int = 64
    """Tokens that are seen at once."""
    anywhere: bool = False
    """Whether training contexts begin at any position, so that all rows of the position table are trained."""

    def __post_init__(self):
        if self.context < 2 or self.context % 2:
            raise UserError(f"{self.name}: --context must be even and at least 2, not {self.context}")
        if self.vocabulary < 2:
            raise UserError(f"{self.name}: --vocabulary must be at least 2, not {self.vocabulary}")

    @property
    def tokens(self) -> int:
        return self.context

    @property
    def queries(self) -> int:
        return self.context

    @property
    def classes(self) -> int:
        return self.vocabulary

    def encode(self, inputs):
        import jax.numpy as jnp

        return inputs.astype(jnp.int32)

    def repetitions(self, begin: int = BEGIN) -> dict[str, Split]:
        """The probes: 64 random symbols and the same again, scored in the first part or in the second."""
        span = min(SPAN, self.context // 2)
        drawn = np.random.default_rng(0).integers(1, self.vocabulary, (PROBES, span), dtype=np.int32)
        drawn = np.where(drawn == begin, 0, drawn)  # all symbols but the one that begins
        whole = np.concatenate([np.full((PROBES, 1), begin, np.int32), drawn, drawn], axis=1)
        again = np.arange(2 * span) >= span
        targets = {"random": np.where(again, UNSCORED, whole[:, 1:]), "repeated": np.where(again, whole[:, 1:], UNSCORED)}
        return {name: Split(whole[:, :-1], found.astype(np.int32)) for name, found in targets.items()}

    def headline(self, score, probes) -> str:
        loss = math.nan if score["loss"] is None else score["loss"]
        return f"val loss {loss:.3f}  copying gain {copying_gain(probes):.2f}"

    def figures(self, data, examples, score: Mapping[str, Any], probes) -> dict[str, float]:
        """loss: nats per token.  copying gain: nats per token on random symbols less those on their repetition."""
        return {"loss": score["loss"], "copying gain": copying_gain(probes)}


def copying_gain(probes: Mapping[str, Mapping[str, Any]]) -> float:
    """Nats per token that a body saves on the repetition of what it has just seen; NaN if it has diverged."""
    losses = [probes[name]["loss"] for name in ("random", "repeated")]
    return math.nan if None in losses else losses[0] - losses[1]
