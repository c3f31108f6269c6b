"""Defines a task of copying random symbols, which induction heads solve (Olsson et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fpt.task import Batch, Preset, Split
from tasks.nexttoken import BEGIN, PRETRAINING, NextToken

EXAMPLES = 256  # in a split


@dataclass(frozen=True)
class Copying(NextToken):
    """Shows random symbols, then the same again, and asks for the next one each time."""

    name: ClassVar[str] = "copy"
    retired: ClassVar[Mapping[str, Any]] = {"varied": False}
    presets: ClassVar[Mapping[str, Preset]] = {
        "laptop": Preset(body="gpt2-mini", batch=8, steps=600, lr=3e-3, eval_every=100,
                         settings=PRETRAINING | {"warmup": 100}),
    }

    context: int = 128
    """Sets how many symbols the body sees at once."""

    def load(self, folder=None, report=print) -> dict[str, Split]:
        import jax

        fixed = jax.jit(self._sample, static_argnums=1)
        drawn = {name: Split(*map(np.asarray, fixed(jax.random.key(number), EXAMPLES)))
                 for number, name in enumerate(["validation", "test"])}
        return drawn | self.repetitions()

    def draw(self, train, key, step, batch) -> Batch:
        import jax

        return Batch(*self._sample(jax.random.fold_in(key, step), batch), self.anywhere)

    def _sample(self, key, batch: int) -> Split:
        """Draws inputs and targets [batch, context], of a period of half the context."""
        import jax
        import jax.numpy as jnp

        symbols, _ = jax.random.split(key)  # the other part drew periods once: draws stay the same
        drawn = jax.random.randint(symbols, (batch, self.context), 1, self.vocabulary, jnp.int32)
        place = jnp.arange(self.context) % (self.context // 2)
        stream = jnp.take(drawn, place, axis=1)
        return Split(jnp.pad(stream[:, :-1], ((0, 0), (1, 0)), constant_values=BEGIN), stream)

    def floors(self, data, examples) -> dict[str, float]:
        counts = np.bincount(examples.targets.ravel(), minlength=self.vocabulary)
        return {"majority": float(counts.max() / counts.sum())}

    def token_labels(self, example) -> list[str]:
        return [f"place {place}: symbol {symbol}" for place, symbol in enumerate(example)]

    def show(self, example, target) -> str:
        return " ".join(map(str, [*example, target[-1]]))
