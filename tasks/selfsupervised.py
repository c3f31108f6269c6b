"""Derives next-token prediction on a task's own inputs, whose labels stay unseen.

This is the control for pretraining on language that Amos et al. 2024 ask for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np

from fpt.errors import UserError
from fpt.task import UNSCORED, Batch, Interface, Split, Task
from tasks.nexttoken import by_loss


@cache
def on_own_inputs(task: type[Task]) -> type[Task]:
    """Makes the class of the task `self-NAME`: each token's answer is the symbols of the next."""
    if task.symbols is Task.symbols:
        raise UserError(f"{task.name} does not say what of its tokens is to be predicted: its "
                        "class lacks `symbols`")

    @dataclass(frozen=True)
    class OnOwnInputs(task):
        __doc__ = f"Asks for the next token of {task.name}'s inputs."
        name = f"self-{task.name}"
        presets = task.presets
        draws_stored = False  # targets are made of the inputs

        def __post_init__(self):  # the base refuses its own impossible sizes
            if self.base.interface.tokens < 2:
                raise UserError(f"{self.name}: an example is one token, which has no next one; "
                                "choose other sizes")

        @cached_property
        def base(self) -> Task:
            return task(**self.settings())

        @property
        def interface(self) -> Interface:
            base = self.base.interface
            # All tokens are read, also those that fill up.
            return replace(base, pad=None, queries=base.tokens, answers_per_query=base.width or 1,
                           classes=self.base.levels)

        def load(self, folder=None, report=print) -> dict[str, Split]:
            splits = self.base.load(folder, report)
            return {name: split if name == "train" else split._replace(targets=self._targets(split))
                    for name, split in splits.items()}

        def draw(self, train, key, step, batch) -> Batch:
            drawn = self.base.draw(train, key, step, batch)
            return drawn._replace(targets=self._following(drawn.inputs))

        def encode(self, inputs):
            return self.base.encode(inputs)

        def _following(self, inputs):
            """Makes targets [B, T x S]: the symbols of the next token, UNSCORED at the end."""
            import jax.numpy as jnp

            after = jnp.pad(self.base.symbols(inputs)[:, 1:], ((0, 0), (0, 1), (0, 0)),
                            constant_values=UNSCORED)
            return after.reshape(len(after), -1)

        def _targets(self, split: Split) -> np.ndarray:
            starts = range(0, len(split.inputs), 1_000)  # a thousand at a time, to save memory
            return np.concatenate([np.asarray(self._following(split.inputs[start : start + 1_000]))
                                   for start in starts])

        def rank(self, score) -> tuple:
            return by_loss(score)

        def token_labels(self, example) -> list[str]:
            return self.base.token_labels(example)

        def slices(self, inputs):
            return {}  # the base's are of other answers, as are its answer tokens

        answer_tokens = slices

        def floors(self, data, examples) -> dict[str, float]:
            counted = examples.targets[examples.targets != UNSCORED]
            most = np.bincount(counted, minlength=1).max()
            return {"majority": float(most / max(1, counted.size))}

        def show(self, example, target) -> str:
            return " ".join(map(str, np.asarray(self.base.symbols(example[None]))[0].tolist()))

    return OnOwnInputs
