"""Training: one step, many steps in one dispatch, and many runs in one step.

The freeze is in the signature.  Parameters are split once into `trainable` and `frozen`; the loss is a function of
(trainable, frozen, batch, key) and its gradient is taken of the first argument alone, so a frozen matrix has no
gradient that could be computed, no moment that could be stored, and no way to move.

A stack is several runs of one shape around one body.  `step` is written for one run and mapped over their axis R:
what belongs to a run (State, Condition) has that axis, a frozen body that they share has not, and its matrix products
then fold into larger ones.  A single run is a stack of one.
"""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fpt.config import Config
from fpt.model import Model, apply
from fpt.optimization import rate_factor, transformation
from fpt.randomness import stream
from fpt.task import UNSCORED, Batch, Split, Task

NEVER = -1


class Condition(NamedTuple):
    """What a run is given."""

    key: Any  # [R] typed keys, from its seed
    rate: Any  # [R] float32


class State(NamedTuple):
    """What a run has come to."""

    trainable: dict  # name -> [R, ...] float32
    moments: Any  # the optimiser's, [R, ...]
    diverged: Any  # [R] int32: the step whose loss was not finite, or NEVER; the state stays as it was before it
    loss: Any  # [R] float32: sum over the steps since `restart`
    accuracy: Any  # [R] float32: likewise


@dataclass(frozen=True)
class Trainer:
    """The compiled functions of one model on one task.  Rates, seeds and step counts are values: nothing compiles twice."""

    model: Model
    config: Config  # of all runs, but for rate and seed
    runs: int  # R
    axes: dict[str, int | None]  # the runs' axis of each frozen parameter, None where they share it

    @property
    def task(self) -> Task:
        return self.config.task

    def loss(self, trainable, frozen, batch: Batch, key=None):
        """Mean cross-entropy over a batch's answers, and accuracy.  `key` draws the dropout.

        A batch that may begin `anywhere` begins at a position drawn anew for each step, more often at the first and the
        last that it can, so that every row of the table is trained about alike.
        """
        first = 0
        if batch.anywhere and key is not None:
            tokens = self.task.interface.tokens
            spare = self.model.geometry.positions - tokens
            first = jnp.clip(jax.random.randint(stream(key, "position"), (), -tokens, spare + tokens + 1), 0, spare)
        logits, _ = apply(self.model, trainable | frozen, self.task.encode(batch.inputs), key, first=first)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
        scored = batch.targets != UNSCORED
        return losses.mean(where=scored), (logits.argmax(-1) == batch.targets).mean(where=scored)

    def gradient(self, trainable, frozen, batch: Batch, key):
        """((loss, accuracy), gradient by the trainables) of a batch, taken in `accumulate` parts of as many examples.

        Each part counts by its share of the batch's scored answers, so that the parts are to the batch what it is whole.
        """
        count = self.config.accumulate
        value_and_gradient = jax.value_and_grad(self.loss, has_aux=True)
        if count == 1:
            return value_and_gradient(trainable, frozen, batch, key)
        inputs, targets = (array.reshape(count, -1, *array.shape[1:]) for array in batch[:2])
        scored = jnp.sum(targets != UNSCORED, axis=tuple(range(1, targets.ndim)))  # [count]

        def add(number, total):
            part, share = Batch(inputs[number], targets[number], batch.anywhere), scored[number] / scored.sum()
            found = value_and_gradient(trainable, frozen, part, jax.random.fold_in(key, number))
            # A part without a scored answer has no mean: it is left out, not multiplied by zero.
            return jax.tree.map(lambda sum, value: sum + jnp.where(share > 0, share * value, 0), total, found)

        zero = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, trainable))
        return jax.lax.fori_loop(0, count, add, zero)

    def step(self, frozen, train: Split | None, condition: Condition, state: State, number) -> State:
        """One step of one run: draw a batch, differentiate by the trainables, clip, move."""
        batch = self.task.draw(train, stream(condition.key, "data"), number, self.config.batch)
        key = jax.random.fold_in(stream(condition.key, "dropout"), number)
        (loss, accuracy), gradient = self.gradient(state.trainable, frozen, batch, key)
        updates, moments = transformation(self.config).update(gradient, state.moments, state.trainable)
        rate = condition.rate * rate_factor(self.config, number)
        moved = optax.apply_updates(state.trainable, optax.tree.scale(-rate, updates))

        running = (state.diverged == NEVER) & jnp.isfinite(loss)
        keep = partial(jax.tree.map, lambda new, old: jnp.where(running, new, old))
        return State(
            keep(moved, state.trainable), keep(moments, state.moments),
            jnp.where((state.diverged == NEVER) & ~running, number, state.diverged),
            state.loss + jnp.where(running, loss, 0), state.accuracy + jnp.where(running, accuracy, 0),
        )

    def begin(self, trainable: dict) -> State:
        """The state before the first step; trainable [R, ...]."""
        moments = jax.vmap(transformation(self.config).init)(trainable)
        return State(trainable, moments, jnp.full(self.runs, NEVER, jnp.int32), jnp.zeros(self.runs), jnp.zeros(self.runs))

    @cached_property
    def advance(self):
        """(frozen, train, condition, state, first, count) -> state after steps first .. first + count - 1.

        The count is a value of a loop, not the length of a scan: dispatches of any length run the same compiled code,
        so where a run is interrupted cannot change its numbers.
        """
        steps = self._mapped(self.step, (self.axes, None, 0, 0, None))

        @partial(jax.jit, donate_argnames="state", compiler_options=_compiler_options())
        def advance(frozen, train, condition, state, first, count):
            one = lambda number, state: steps(frozen, train, condition, state, number)
            return jax.lax.fori_loop(first, first + count, one, state)

        return advance

    def compile(self, frozen, train, condition, state):
        """`advance` compiled for arguments of these shapes, ahead of the first step."""
        compiled = self.advance.lower(frozen, train, condition, state, np.int32(0), np.int32(1)).compile()
        # glibc keeps what the compiler has freed, for `gpt2` as much as two thirds of its weights; this hands it back.
        with contextlib.suppress(AttributeError, OSError, TypeError):  # another libc
            ctypes.CDLL(None).malloc_trim(0)
        return compiled

    @cached_property
    def answer(self):
        """(frozen, trainable [R, ...], inputs [N, ...], targets [N, A]) -> predictions [R, N, A], mean losses [R, N]."""

        def answer(frozen, trainable, inputs, targets):
            logits, _ = apply(self.model, trainable | frozen, self.task.encode(inputs))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
            return logits.argmax(-1).astype(jnp.int32), losses.mean(-1, where=targets != UNSCORED)

        return jax.jit(self._mapped(answer, (self.axes, 0, None, None)))

    def _mapped(self, function, axes):
        """`function` of one run mapped over the runs' axis; called as it is for a single run, which is 5% faster so."""
        if self.runs > 1:
            return jax.vmap(function, in_axes=axes)
        first, axis = partial(jax.tree.map, lambda leaf: leaf[0]), partial(jax.tree.map, lambda leaf: leaf[None])
        return lambda *arguments: axis(function(*(first(a) if at == 0 else a for a, at in zip(arguments, axes))))


def _compiler_options() -> dict[str, str]:
    """On CPU, keeps XLA from moving transposed copies of all frozen matrices out of the loop: they are never needed."""
    return {"xla_disable_hlo_passes": "while-loop-invariant-code-motion"} if jax.default_backend() == "cpu" else {}


@jax.jit
def restart(state: State) -> State:
    """The state with its sums at zero, as after an evaluation."""
    return state._replace(loss=jnp.zeros_like(state.loss), accuracy=jnp.zeros_like(state.accuracy))


@jax.jit
def keep_best(improved, trainable: dict, best: dict) -> dict:
    """`trainable` [R, ...] for the runs that improved (bool [R]), `best` for the others."""
    chosen = lambda new, old: jnp.where(improved.reshape(-1, *[1] * (new.ndim - 1)), new, old)
    return jax.tree.map(chosen, trainable, best)
