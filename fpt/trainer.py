"""Trains runs: many steps in one call of a compiled function, and several runs in one step.

Parameters are frozen by the signature of the loss.  They are split once into `trainable` and
`frozen`; the loss is a function of (trainable, frozen, batch, key) and is differentiated with
respect to its first argument alone, so a frozen matrix has no gradient that could be computed, no
optimiser state that could be stored, and no way to move.

A stack is several runs of one shape around one body, trained at once.  `step` is written for one
run and mapped over the runs' axis R.  What belongs to a run (State, Condition) has that axis; a
frozen body that the runs share does not, and so its matrix products fold into larger ones.  A
single run is a stack of one.
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

from fpt.body import Table
from fpt.config import Config
from fpt.model import Model, apply
from fpt.optimization import rates, schedule, transformation
from fpt.parameters import run_key
from fpt.randomness import stream
from fpt.task import UNSCORED, Batch, Split, Task

NEVER = -1


class Condition(NamedTuple):
    """Holds what differs between the runs of a stack: their keys and their learning rates.

    A condition in `scripts.recorded` is something else: a group of runs alike but for their seeds.
    """

    key: Any  # [R] typed keys, from the runs' seeds
    rates: dict[str, Any]  # learning rate of each trainable parameter, [R] float32


class State(NamedTuple):
    """Holds what training changes in the runs of a stack: parameters, optimiser state, and the sums
    of loss and accuracy since the last evaluation."""

    trainable: dict  # name -> [R, ...] float32
    moments: Any  # the optimiser state, [R, ...]
    diverged: Any  # [R] int32: the step whose loss was not finite, and the last; or NEVER
    loss: Any  # [R] float32: sum over the steps since the last evaluation
    accuracy: Any  # [R] float32: likewise


@dataclass(frozen=True)
class Trainer:
    """Compiles the functions that train and evaluate stacks of one size.

    Learning rates, seeds and step counts are arguments of the compiled functions, so that changing
    them compiles nothing again.
    """

    model: Model
    config: Config  # of all runs, but for rates and seeds
    table: Table  # describes the parameters
    axes: dict[str, int | None]  # the runs' axis of each frozen parameter, None where they share it
    runs: int  # R

    @property
    def task(self) -> Task:
        return self.config.task

    def condition(self, configs: list[Config]) -> Condition:
        """Returns the runs' keys [R], and the learning rates [R] of each parameter by its name."""
        found = [rates(config, self.table) for config in configs]
        return Condition(
            jnp.stack([run_key(config.seed, config.stream) for config in configs]),
            {name: jnp.array([run[name] for run in found], jnp.float32) for name in found[0]})

    def loss(self, trainable, frozen, batch: Batch, key=None):
        """Computes mean cross-entropy over a batch's answers, and accuracy; `key` draws dropout.

        In training (with a key), the first token of a batch marked `anywhere` gets a position drawn
        anew for each step, more often the least and the greatest that leave room for all tokens, so
        that all rows of the position table are trained about alike.
        """
        first, positions = 0, self.model.geometry.positions
        if batch.anywhere and key is not None and positions is not None:
            tokens, drawn = self.task.interface.tokens, stream(key, "position")
            spare = positions - tokens
            drawn = jax.random.randint(drawn, (), -tokens, spare + tokens + 1)
            first = jnp.clip(drawn, 0, spare)
        logits = self.logits(trainable | frozen, batch.inputs, key, first)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
        scored = batch.targets != UNSCORED
        right = predict(logits) == batch.targets
        return losses.mean(where=scored), right.mean(where=scored)

    def logits(self, parameters, inputs, key=None, first=0):
        """Maps inputs [B, ...] to logits [B, A, C]; `key` and `first` as in `Model.__call__`."""
        return apply(self.model, parameters, self.task.encode(inputs), key, first=first)[0]

    def gradient(self, trainable, frozen, batch: Batch, key):
        """Computes ((loss, accuracy), gradient with respect to `trainable`) of a batch.

        The batch is computed in `accumulate` equal parts, one after another.  Each part counts by
        its share of the batch's scored answers, so the sum is the gradient of the whole batch.
        """
        count = self.config.accumulate
        value_and_gradient = jax.value_and_grad(self.loss, has_aux=True)
        if count == 1:
            return value_and_gradient(trainable, frozen, batch, key)
        split = lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:])
        inputs, targets = jax.tree.map(split, batch.inputs), split(batch.targets)
        scored = jnp.sum(targets != UNSCORED, axis=tuple(range(1, targets.ndim)))  # [count]

        def add(number, total):
            take = partial(jax.tree.map, lambda leaf: leaf[number])
            part = Batch(take(inputs), targets[number], batch.anywhere)
            share = scored[number] / scored.sum()
            part_key = jax.random.fold_in(key, number)
            found = value_and_gradient(trainable, frozen, part, part_key)
            # A part without a scored answer has no mean: it is left out, not multiplied by zero.
            weigh = lambda sum, value: sum + jnp.where(share > 0, share * value, 0)
            return jax.tree.map(weigh, total, found)

        zero = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, trainable))
        return jax.lax.fori_loop(0, count, add, zero)

    def step(self, frozen, train: Split | None, condition: Condition, state: State, number
             ) -> State:
        """Takes one step of one run: draws a batch, clips its gradient, moves the trainables."""
        data = stream(condition.key, "data")
        batch = self.task.draw(train, data, number, self.config.batch)
        key = jax.random.fold_in(stream(condition.key, "dropout"), number)
        (loss, accuracy), gradient = self.gradient(state.trainable, frozen, batch, key)

        # A run that has diverged stays where it is: its gradient and its rate are zero.  To choose
        # between new and old values instead would make XLA's CPU compiler copy the whole state.
        running = (state.diverged == NEVER) & jnp.isfinite(loss)
        gradient = jax.tree.map(lambda leaf: jnp.where(running, leaf, 0), gradient)
        share = jnp.where(running, schedule(self.config, number), 0)
        updates, moments = self._optimizer.update(gradient, state.moments, state.trainable)
        updates = {name: -(condition.rates[name] * share) * updates[name] for name in updates}
        return State(
            optax.apply_updates(state.trainable, updates), moments,
            jnp.where((state.diverged == NEVER) & ~running, number, state.diverged),
            state.loss + jnp.where(running, loss, 0),
            state.accuracy + jnp.where(running, accuracy, 0))

    def begin(self, trainable: dict) -> State:
        """Makes the state before the first step; trainable [R, ...]."""
        moments = jax.vmap(self._optimizer.init)(trainable)
        never = jnp.full(self.runs, NEVER, jnp.int32)
        return State(trainable, moments, never, jnp.zeros(self.runs), jnp.zeros(self.runs))

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return transformation(self.config, self.table)

    @cached_property
    def advance(self):
        """Returns the compiled function (frozen, train, condition, state, first, count) -> state.

        It takes `count` steps, numbered from `first`.  As `count` bounds a loop at run time and is
        not the length of a scan, calls for any number of steps run the same compiled code, so where
        a run is interrupted cannot change its numbers.
        """
        step = self._mapped(self.step, (self.axes, None, 0, 0, None))

        def steps(frozen, train, condition, state, first, count):
            one = lambda number, state: step(frozen, train, condition, state, number)
            return jax.lax.fori_loop(first, first + count, one, state)

        # Outside the loop, since XLA's CPU compiler copies a state that gains an axis in each step.
        steps = self._without_axis(steps, (self.axes, None, 0, 0, None, None))

        @partial(jax.jit, donate_argnames="state", compiler_options=_compiler_options())
        def advance(frozen, train, condition, state, first, count):
            return steps(frozen, train, condition, state, first, count)

        return advance

    def compile(self, frozen, train, condition, state):
        """Compiles `advance` for arguments of these shapes, ahead of the first step."""
        lowered = self.advance.lower(frozen, train, condition, state, np.int32(0), np.int32(1))
        compiled = lowered.compile()
        # glibc keeps what the compiler has freed, two thirds of `gpt2`'s weights: give it back.
        with contextlib.suppress(AttributeError, OSError, TypeError):  # another libc
            ctypes.CDLL(None).malloc_trim(0)
        return compiled

    @cached_property
    def answer(self):
        """Returns the compiled function by which the runs of a stack answer, without dropout.

        It maps (frozen, trainable [R, ...], inputs [N, ...], targets [N, A]) to predictions
        [R, N, A] and mean losses [R, N], NaN for an example of which nothing is scored.
        """

        def answer(frozen, trainable, inputs, targets):
            return predictions_and_losses(self.logits(trainable | frozen, inputs), targets)

        axes = (self.axes, 0, None, None)
        return jax.jit(self._without_axis(self._mapped(answer, axes), axes))

    def _mapped(self, function, axes):
        """Maps a function of one run over the runs' axis; that of a single run is returned.

        To call it directly is 5% faster than a map over one run.
        """
        return jax.vmap(function, in_axes=axes) if self.runs > 1 else function

    def _without_axis(self, function, axes):
        """Gives a function the arguments of a single run without the runs' axis, which its results
        have again; the function of several runs is returned."""
        if self.runs > 1:
            return function
        first = partial(jax.tree.map, lambda leaf: leaf[0])
        axis = partial(jax.tree.map, lambda leaf: leaf[None])
        return lambda *arguments: axis(function(
            *(first(one) if at == 0 else one for one, at in zip(arguments, axes))))


def _compiler_options() -> dict[str, str]:
    """Keeps XLA's CPU compiler from moving transposed copies of frozen matrices out of the loop."""
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_disable_hlo_passes": "while-loop-invariant-code-motion"}


def predictions_and_losses(logits, targets) -> tuple[jax.Array, jax.Array]:
    """Computes predictions [B, A], and each example's mean loss [B], from logits [B, A, C]."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return predict(logits), losses.mean(-1, where=targets != UNSCORED)


def predict(logits) -> jax.Array:
    """Finds the class of the greatest logit, the first of equal ones: [B, A, C] to int32 [B, A].

    This is an argmax that takes half the time on a CPU.  Where a logit is NaN, it gives the last
    class.
    """
    classes = jnp.arange(logits.shape[-1], dtype=jnp.float32)[None, None]
    greatest = logits == logits.max(-1, keepdims=True)
    return jnp.where(greatest, classes, logits.shape[-1] - 1).min(-1).astype(jnp.int32)


@jax.jit
def keep_best(improved, trainable: dict, best: dict) -> dict:
    """Takes `trainable` [R, ...] for the runs that improved (bool [R]), `best` for the others."""
    wide = lambda new: improved.reshape(-1, *[1] * (new.ndim - 1))
    return jax.tree.map(lambda new, old: jnp.where(wide(new), new, old), trainable, best)
