"""Computes the hidden states of all examples once, for runs that train the output layer alone.

Where the body and the input layer are frozen and nothing is dropped, an example has the same hidden
states at every step.  They are computed before the first step, by the name of features, and the
steps train the output layer on them (Lu et al. 2021, section 3.9): all epochs but the first cost
what the output layer costs.

Features belong to the frozen parameters that they were computed with.  The input layer is drawn
from a run's seed, so that runs of different seeds have different features, and a stack is made of
runs that share them, those of several learning rates (`planning.stacks`).  It then holds them once,
however many runs it has, as other stacks hold a frozen body; larger stacks would need the memory
several times over, and save little where a step costs so little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp

from fpt import machine, roles
from fpt.config import Config
from fpt.evaluation import at_once
from fpt.model import apply, table
from fpt.task import Batch, Split
from fpt.trainer import Trainer

MEMORY_SHARE = 0.25  # of the device's memory that the features of all examples may take
BYTES = 4  # of a number, at most


def apply_to(config: Config, batch: Batch, train: Split | None, examples: int) -> bool:
    """Tells whether runs of a configuration train on features.

    They do where that gives what the ordinary way gives, costs less and fits the memory; whoever
    goes on with a run finds the same.  batch: the task's, traced.  examples: how many are trained
    on or scored.
    """
    asked, body = config.task.interface, config.geometry
    if train is None or not config.task.draws_stored or batch.anywhere:
        return False
    described = table(asked, body)
    trained = {described[name].role for name in roles.parse(config.train).among(described)}
    dropped = config.dropout > 0 and asked.vocabulary is None
    if trained != {"output"} or dropped or body.random:
        return False
    size = examples * asked.queries * body.width * BYTES
    return (config.steps * config.batch >= len(train.inputs)
            and size <= MEMORY_SHARE * machine.memory())


@dataclass(frozen=True)
class OutputTrainer(Trainer):
    """Trains and evaluates the output layer on features [B, Q, D] in the place of stored inputs."""

    def logits(self, parameters, inputs, key=None, first=0):
        return apply(self.model, parameters, inputs, method="answer")

    @cached_property
    def states(self) -> Callable:
        """Returns the compiled function (frozen, stored inputs [B, ...]) -> features [B, Q, D]."""
        return jax.jit(lambda frozen, inputs: apply(
            self.model, frozen, self.task.encode(inputs), method="states"))

    def describe(self, frozen: Mapping[str, Any], split: Split) -> Split:
        """Describes a split with features in the place of its inputs, as shapes and dtypes."""
        one = jax.eval_shape(self.states, frozen, split.inputs[:1])
        return Split(jax.ShapeDtypeStruct((len(split.inputs), *one.shape[1:]), one.dtype),
                     jax.eval_shape(jnp.asarray, split.targets))


class Features:
    """Holds the features of splits on the device."""

    def __init__(self, trainer: OutputTrainer, frozen: dict, splits: Sequence[Split],
                 between: Callable[[], None], tell: Callable[[int, int], None]):
        """Computes the features of all examples, in chunks.

        between: called before each chunk; an exception that it raises ends the computation.  tell:
        called after each chunk with the number of examples done, and of all.
        """
        self._splits, done = {}, 0
        count = sum(len(split.inputs) for split in splits)
        for split in splits:
            size = at_once(trainer.task.interface, len(split.inputs))
            like = trainer.describe(frozen, split).inputs
            found = jnp.zeros(like.shape, like.dtype)
            for start in range(0, len(split.inputs), size):
                between()
                # The last chunk reaches back, so that all have one size and are compiled once.
                first = min(start, len(split.inputs) - size)
                part = trainer.states(frozen, split.inputs[first : first + size])
                found = _put(found, part, first).block_until_ready()
                tell(done + first + size, count)
            done += len(split.inputs)
            self._splits[id(split)] = split, Split(found, jnp.asarray(split.targets))

    def of(self, split: Split) -> Split:
        """Returns one of the splits with features [N, Q, D] in the place of its inputs."""
        return self._splits[id(split)][1]


@partial(jax.jit, donate_argnums=0)
def _put(whole, part, first):
    """Writes the rows `part` into `whole`, from row `first` on."""
    return jax.lax.dynamic_update_slice_in_dim(whole, part, first, 0)
