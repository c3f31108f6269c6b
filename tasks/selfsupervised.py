"""Next-token prediction on a task's own inputs, labels unseen (Amos et al. 2024): a control for pretraining on language."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from fpt.errors import UserError
from fpt.task import UNSCORED, Split, Task


@cache
def on_own_inputs(task: type[Task]) -> type[Task]:
    """The class of the task `self-NAME`: the same inputs and sizes; each token's answer is the symbols of the next one."""
    if task.symbols is Task.symbols:
        raise UserError(f"{task.name} does not say what of its tokens is to be predicted: its class lacks `symbols`")

    @dataclass(frozen=True)
    class OnOwnInputs(task):
        __doc__ = f"The next token of {task.name}'s inputs."
        name = f"self-{task.name}"
        presets = task.presets
        pad = None  # all tokens are read, also where they fill up

        def __post_init__(self):  # the base refuses its own impossible sizes
            if self.base.tokens < 2:
                raise UserError(f"{self.name}: an example is one token, which has no next one; choose other sizes")

        @cached_property
        def base(self) -> Task:
            return task(**self.settings())

        @property
        def tokens(self) -> int:
            return self.base.tokens

        @property
        def queries(self) -> int:
            return self.base.tokens

        @property
        def width(self) -> int | None:
            return self.base.width

        @property
        def answers_per_query(self) -> int:
            return self.base.width or 1

        @property
        def classes(self) -> int:
            return self.base.levels

        def load(self, folder=None, report=print) -> dict[str, Split]:
            return {name: Split(inputs, self._targets(inputs)) if name != "train" else Split(inputs, targets)
                    for name, (inputs, targets) in self.base.load(folder, report).items()}

        def draw(self, train, key, step, batch) -> Split:
            inputs = self.base.draw(train, key, step, batch).inputs
            return Split(inputs, self._following(inputs))

        def encode(self, inputs):
            return self.base.encode(inputs)

        def _following(self, inputs):
            """Stored inputs [B, ...] -> targets [B, T x S]: the symbols of the token that follows, none for the last."""
            import jax.numpy as jnp

            after = jnp.pad(self.base.symbols(inputs)[:, 1:], ((0, 0), (0, 1), (0, 0)), constant_values=UNSCORED)
            return after.reshape(len(after), -1)

        def _targets(self, inputs) -> np.ndarray:
            parts = [np.asarray(self._following(inputs[first : first + 1_000])) for first in range(0, len(inputs), 1_000)]
            return np.concatenate(parts)

        def token_labels(self, example) -> list[str]:
            return self.base.token_labels(example)

        def slices(self, inputs):
            return {}

        def floors(self, data, examples) -> dict[str, float]:
            counted = examples.targets[examples.targets != UNSCORED]
            return {"majority": float(np.bincount(counted, minlength=1).max() / max(1, counted.size))}

        def show(self, example, target) -> str:
            return " ".join(map(str, np.asarray(self.base.symbols(example[None]))[0].tolist()))

    return OnOwnInputs
