"""Checks that frozen parameters cannot move, that trained ones do, and what freezing saves."""

import dataclasses

import jax
import numpy as np
import pytest

from fpt import roles
from fpt.arrays import digest
from fpt.config import Config
from fpt.parameters import Source, model_of
from fpt.trainer import Trainer
from tasks.bits import BitXor
from tests.conftest import TINY

SETS = ["fpt", "all", "output", "norm", "input+output", "position", "fpt+attention",
        "fpt+feedforward@1", "body"]


def stacked(train, runs=1, geometry=TINY, dtype="float32", changes=(), **settings):
    """Makes a trainer, its frozen parameters, and the condition and state of its runs.

    changes: for each run, the settings in which it differs from the others, beside its seed.
    """
    config = Config(BitXor(), "tiny", steps=1, batch=4, lr=1e-2, eval_every=1, load="none",
                    train=train, dtype=dtype, geometry=geometry, **settings)
    configs = [dataclasses.replace(config, seed=seed, **(changes[seed] if changes else {}))
               for seed in range(runs)]
    source = Source(config, None, configs)
    trainable, frozen = source.stack(configs)
    trainer = Trainer(model_of(config), config, source.table, source.axes(runs), runs)
    return trainer, frozen, trainer.condition(configs), trainer.begin(trainable)


@pytest.mark.parametrize("train", SETS)
def test_frozen_leaves_stay_to_the_bit_and_trained_ones_move(train):
    trainer, frozen, condition, state = stacked(train)
    before, start = digest(frozen), jax.tree.map(np.asarray, state.trainable)
    state = trainer.advance(frozen, None, condition, state, np.int32(0), np.int32(20))
    assert digest(frozen) == before
    assert set(state.trainable) == {*start} and not set(state.trainable) & set(frozen)
    for name, value in state.trainable.items():
        moved = np.asarray(value) != start[name]
        assert moved.any(), name
        if name == "body/wpe":
            assert not moved[0, trainer.task.interface.tokens :].any()


def test_moments_are_of_trained_parameters_only():
    *_, state = stacked("fpt")
    numbers = sum(leaf.size for leaf in jax.tree.leaves(state.moments)) - 1  # the count of steps
    assert numbers == 2 * sum(value.size for value in state.trainable.values())


def test_a_frozen_step_costs_at_most_seven_tenths_of_a_full_one():
    def flops(train):
        wide = dataclasses.replace(TINY, width=256, layers=4)
        trainer, frozen, condition, state = stacked(train, geometry=wide)
        one = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
        lowered = jax.jit(trainer.step).lower(frozen, None, one(condition), one(state), 0)
        return lowered.compile().cost_analysis()["flops"]

    assert flops("fpt") <= 0.70 * flops("all")


def test_frozen_matrices_are_held_in_the_dtype_of_the_products():
    _, frozen, _, state = stacked("fpt", dtype="bfloat16")
    kinds = {name: str(value.dtype) for name, value in frozen.items()}
    assert {kinds[name] for name in kinds if name.endswith("kernel")} == {"bfloat16"}
    assert {kinds[name] for name in kinds if name.endswith("bias")} == {"float32"}
    assert {str(value.dtype) for value in state.trainable.values()} == {"float32"}
    *_, state = stacked("all", dtype="bfloat16")  # where matrices are trained too
    assert {str(value.dtype) for value in state.trainable.values()} == {"float32"}


def test_a_digest_changes_with_any_number_name_or_place():
    values = {"a": np.arange(12.0), "b": np.zeros(5)}
    others = [values | {"a": np.where(np.arange(12) == place, -1, values["a"])}
              for place in (0, 6, 11)]
    others += [values | {"b": np.full(5, 1e-30)}, {"a": values["b"], "b": values["a"]},
               {"a": values["a"], "c": values["b"]}]
    assert len({digest(one) for one in [values, *others]}) == len(others) + 1
    assert digest(dict(reversed(values.items()))) == digest(values)


def test_the_set_fpt_is_the_roles_that_the_paper_trains():
    assert roles.parse("fpt").terms == roles.parse("input+output+position+norm").terms
