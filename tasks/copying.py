"""Defines copying without language, which is what induction heads do (Olsson et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fpt.task import Batch, Preset, Split
from tasks.nexttoken import BEGIN, PRETRAINING, NextToken

EXAMPLES = 256  # in a split


@dataclass(frozen=True)
class Copying(NextToken):
    """Shows random symbols, then the same again, and asks for the next one each time."""

    name: ClassVar[str] = "copy"
    presets: ClassVar[Mapping[str, Preset]] = {
        "laptop": Preset(body="gpt2-mini", batch=8, steps=600, lr=3e-3, eval_every=100,
                         settings=PRETRAINING | {"warmup": 100}),
    }

    context: int = 128
    """Sets how many symbols the body sees at once."""
    varied: bool = False
    """Whether each example repeats with a period of its own, so that only content tells what comes next."""

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
        """Inputs and targets [batch, context], of a period of half the context, or drawn between an eighth and a half of it."""
        import jax
        import jax.numpy as jnp

        symbols, periods = jax.random.split(key)
        drawn = jax.random.randint(symbols, (batch, self.context), 1, self.vocabulary, jnp.int32)
        half = self.context // 2
        period = jnp.full((batch, 1), half)
        if self.varied:
            period = jax.random.randint(periods, (batch, 1), max(1, half // 4), half + 1)
        stream = jnp.take_along_axis(drawn, jnp.arange(self.context) % period, axis=1)
        return Split(jnp.pad(stream[:, :-1], ((0, 0), (1, 0)), constant_values=BEGIN), stream)

    def floors(self, data, examples) -> dict[str, float]:
        counts = np.bincount(examples.targets.ravel(), minlength=self.vocabulary)
        return {"majority": float(counts.max() / counts.sum())}

    def token_labels(self, example) -> list[str]:
        return [f"place {place}: symbol {symbol}" for place, symbol in enumerate(example)]

    def show(self, example, target) -> str:
        return " ".join(map(str, [*example, target[-1]]))
