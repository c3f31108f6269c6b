"""Checks that a run inside a stack is the run alone, and that a diverging one disturbs no other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpt.trainer import NEVER
from tests.test_freeze import stacked


def alone(tree, number):
    """Takes one run of a stack, as a stack of one."""
    return jax.tree.map(lambda leaf: leaf[number : number + 1], tree)


RATES = [{"lr": rate} for rate in (1e-2, 3e-3, 1e-3)]
FACTORS = [{"rates": rates} for rates in ((), ("norm=0.01", "output=3"), ("position=0.1",))]


@pytest.mark.parametrize("body_seed, changes", [(0, RATES), (None, RATES), (0, FACTORS)],
                         ids=["one body", "own bodies", "factors of rates"])
def test_a_stacked_run_equals_the_run_alone(body_seed, changes):
    trainer, frozen, condition, state = stacked("fpt", 3, changes=changes, body_seed=body_seed)
    starts = [jax.tree.map(jnp.copy, alone(state, number)) for number in range(3)]
    parts = [{name: value if trainer.axes[name] is None else value[number]
              for name, value in frozen.items()} for number in range(3)]
    state = trainer.advance(frozen, None, condition, state, np.int32(0), np.int32(12))
    single, *_ = stacked("fpt", body_seed=body_seed)
    for number, start in enumerate(starts):
        before = jax.tree.map(np.asarray, start.trainable)
        solo = single.advance(parts[number], None, alone(condition, number), start, np.int32(0),
                              np.int32(12))
        np.testing.assert_allclose(solo.loss, state.loss[number : number + 1], rtol=1e-4)
        for name, value in solo.trainable.items():
            np.testing.assert_allclose(value[0], state.trainable[name][number], atol=2e-4,
                                       err_msg=name)
        norm = "body/h_0/ln_1/scale"  # moves by the rate in each of Adam's first steps
        moved = np.abs(solo.trainable[norm] - before[norm]).max()
        assert moved < 2e-3 if "rates" in changes[number] and number == 1 else moved > 2e-3


def test_a_shared_body_is_held_once():
    trainer, frozen, *_ = stacked("fpt", runs=3, body_seed=0)
    assert set(trainer.axes.values()) == {None}
    assert frozen["body/h_0/attn/c_attn/kernel"].ndim == 2


def at(condition, *rates):
    """Gives the runs of a condition other learning rates."""
    return condition._replace(rates=dict.fromkeys(condition.rates, jnp.float32(rates)))


def test_a_diverging_run_stops_where_it_was_and_the_others_go_on():
    trainer, frozen, condition, state = stacked("fpt", runs=2, body_seed=0)
    copy = jax.tree.map(jnp.copy, state)
    quiet = trainer.advance(frozen, None, condition, copy, np.int32(0), np.int32(8))
    wild, finite, weights = at(condition, 1e-2, 1e38), [], []
    for number in range(8):
        weights.append({name: np.array(value[1]) for name, value in state.trainable.items()})
        state = trainer.advance(frozen, None, wild, state, np.int32(number), np.int32(1))
        finite.append(bool(state.diverged[1] == NEVER))
    assert state.diverged[0] == NEVER and 0 < state.diverged[1] < 7
    assert state.diverged[1] == sum(finite)  # the first step whose loss was no number, for good
    for name, value in state.trainable.items():
        assert np.array_equal(value[0], quiet.trainable[name][0]), name
        assert np.array_equal(value[1], weights[sum(finite)][name]), name
    assert np.isfinite(state.loss).all()


def test_rates_seeds_and_counts_compile_once():
    trainer, frozen, condition, state = stacked("fpt", runs=2)
    for count, rate in ((1, 1e-3), (3, 1e-2), (2, 1e-4)):
        given = at(condition, rate, rate)
        state = trainer.advance(frozen, None, given, state, np.int32(0), np.int32(count))
    assert trainer.advance._cache_size() == 1


def test_steps_do_not_depend_on_how_they_are_dispatched():
    trainer, frozen, condition, state = stacked("fpt")
    copy = jax.tree.map(jnp.copy, state)
    once = trainer.advance(frozen, None, condition, copy, np.int32(0), np.int32(7))
    for first, count in ((0, 1), (1, 4), (5, 2)):
        state = trainer.advance(frozen, None, condition, state, np.int32(first), np.int32(count))
    assert all(np.array_equal(value, once.trainable[name])
               for name, value in state.trainable.items())
