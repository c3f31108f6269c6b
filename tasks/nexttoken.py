"""What tasks of next-token prediction share, and the probe that watches whether a body learns to copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fpt.errors import UserError
from fpt.task import UNSCORED, Split, Task

SPAN, PROBES = 64, 128  # tokens that are repeated, and examples of it
BEGIN = 0  # the symbol that begins a probe; the tasks give it no other use inside a document


@dataclass(frozen=True)
class NextToken(Task):
    """A stream of symbols of which each is to be predicted from those before it, by a body's own token table."""

    tied: ClassVar[bool] = True
    probes: ClassVar[tuple[str, ...]] = ("random", "repeated")

    vocabulary: int = 512
    """Entries of the token table."""
    context: int = 128
    """Tokens that are seen at once."""

    def __post_init__(self):
        if self.context < 2 or self.context % 2:
            raise UserError(f"{self.name}: --context must be even and at least 2, not {self.context}")
        if not 2 <= self.vocabulary:
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

    def repetitions(self) -> dict[str, Split]:
        """The probes: 64 random symbols and the same again, scored in the first part or in the second."""
        drawn = np.random.default_rng(0).integers(1, self.vocabulary, (PROBES, SPAN), dtype=np.int32)
        whole = np.concatenate([np.full((PROBES, 1), BEGIN, np.int32), drawn, drawn], axis=1)
        again = np.arange(2 * SPAN) >= SPAN
        targets = {"random": np.where(again, UNSCORED, whole[:, 1:]), "repeated": np.where(again, whole[:, 1:], UNSCORED)}
        return {name: Split(whole[:, :-1], found.astype(np.int32)) for name, found in targets.items()}

    def figures(self, data, examples, score: Mapping[str, Any], probes) -> dict[str, float]:
        """loss: nats per token.  copying gain: nats per token on random symbols less those on their repetition."""
        return {"loss": score["loss"], "copying gain": copying_gain(probes)}


def copying_gain(probes: Mapping[str, Mapping[str, Any]]) -> float:
    """Nats per token that a body saves on the repetition of what it has just seen; NaN if it has diverged."""
    losses = [probes[name]["loss"] for name in ("random", "repeated")]
    return float("nan") if None in losses else losses[0] - losses[1]
