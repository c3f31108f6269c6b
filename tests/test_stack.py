"""A run inside a stack is the run alone; a run that diverges leaves the others as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpt.trainer import NEVER
from tests.test_freeze import stacked


def alone(state, number):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[number : number + 1], state)


@pytest.mark.parametrize("body_seed", [0, None], ids=["one body", "own bodies"])
def test_a_stacked_run_equals_the_run_alone(body_seed):
    trainer, frozen, condition, state = stacked("fpt", runs=3, body_seed=body_seed)
    condition = condition._replace(rate=jnp.array([1e-2, 3e-3, 1e-3]))
    starts = [jax.tree.map(jnp.asarray, alone(state, number)) for number in range(3)]
    parts = [{n: v if trainer.axes[n] is None else v[i] for n, v in frozen.items()} for i in range(3)]
    state = trainer.advance(frozen, None, condition, state, np.int32(0), np.int32(12))
    single = stacked("fpt", body_seed=body_seed)[0]
    for number in range(3):
        one = jax.tree.map(lambda leaf, number=number: leaf[number : number + 1], condition)
        solo = single.advance(parts[number], None, one, starts[number], np.int32(0), np.int32(12))
        np.testing.assert_allclose(solo.loss, state.loss[number : number + 1], rtol=1e-4)
        for name, value in solo.trainable.items():
            np.testing.assert_allclose(value[0], state.trainable[name][number], atol=2e-4, err_msg=name)


def test_a_shared_body_is_held_once():
    trainer, frozen, *_ = stacked("fpt", runs=3, body_seed=0)
    assert set(trainer.axes.values()) == {None}
    assert frozen["body/h_0/attn/c_attn/kernel"].ndim == 2


def test_a_diverging_run_stops_where_it_was_and_the_others_go_on():
    trainer, frozen, condition, state = stacked("fpt", runs=2, body_seed=0)
    quiet = trainer.advance(frozen, None, condition, jax.tree.map(jnp.copy, state), np.int32(0), np.int32(8))
    wild = condition._replace(rate=jnp.array([1e-2, 1e38]))
    finite = []
    for number in range(8):
        state = trainer.advance(frozen, None, wild, state, np.int32(number), np.int32(1))
        finite.append(state.diverged[1] == NEVER)
    assert state.diverged[0] == NEVER and 0 < state.diverged[1] < 7
    assert state.diverged[1] == sum(finite)  # the first step whose loss was no number, and it stays that
    assert all(np.array_equal(value[0], quiet.trainable[name][0]) for name, value in state.trainable.items())
    assert np.isfinite(state.loss).all()


def test_rates_seeds_and_counts_compile_once():
    trainer, frozen, condition, state = stacked("fpt", runs=2)
    for count, rate in ((1, 1e-3), (3, 1e-2), (2, 1e-4)):
        given = condition._replace(rate=jnp.full(2, rate))
        state = trainer.advance(frozen, None, given, state, np.int32(0), np.int32(count))
    assert trainer.advance._cache_size() == 1


def test_steps_do_not_depend_on_how_they_are_dispatched():
    trainer, frozen, condition, state = stacked("fpt")
    once = trainer.advance(frozen, None, condition, jax.tree.map(jnp.copy, state), np.int32(0), np.int32(7))
    for first, count in ((0, 1), (1, 4), (5, 2)):
        state = trainer.advance(frozen, None, condition, state, np.int32(first), np.int32(count))
    assert all(np.array_equal(value, once.trainable[name]) for name, value in state.trainable.items())
