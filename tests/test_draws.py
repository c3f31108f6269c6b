"""Checks that a seed always stands for the same draws, so that recorded runs can be made again, and
that each parameter is drawn from its distribution.

The numbers written out here are those that recorded runs had.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpt.config import Config
from fpt.gpt2 import GPT2
from fpt.parameters import Source
from fpt.randomness import keep_mask, shuffled, stream
from tasks.bits import BitXor
from tasks.expressions import Law, draw_block, write

# The first number of each, of a run of seed 3 on a body of seed 4.
NUMBERS = {
    "input/kernel": -0.168269,
    "output/kernel": 0.07786035,
    "output/bias": -0.1151375,
    "body/wpe": 0.02037281,
    "body/h_0/attn/c_attn/kernel": 0.01399134,
    "body/h_7/mlp/c_proj/kernel": -0.01481735,
}
GEOMETRY = GPT2(layers=8, width=64, heads=2, positions=16, vocabulary=11)


def born(**settings):
    """Draws the parameters of a run with a random body, by name."""
    config = Config(BitXor(bits=6, patch=6), "tiny", steps=1, batch=1, lr=1, eval_every=1,
                    load="none", geometry=GEOMETRY, **settings)
    source = Source(config, None)
    return jax.tree.map(np.asarray, source.values(config, [*source.table]))


def test_a_stream_is_the_one_that_it_was():
    numbers = lambda name: jax.random.key_data(stream(jax.random.key(7), name)).tolist()
    assert numbers("data") == [3934983963, 3255876617]
    assert numbers("dropout") == [3992892943, 3444976499]


def test_the_order_of_the_examples_is_the_one_that_it_was():
    drawn = [shuffled(jax.random.key(1), step, 4, 10).tolist() for step in range(5)]
    assert drawn == [[8, 2, 1, 5], [9, 6, 7, 4], [3, 0, 9, 5], [3, 0, 7, 8], [2, 4, 6, 1]]


def test_a_mask_is_the_one_that_it_was():
    mask = keep_mask(jnp.array([5, 9], jnp.uint32), (4, 16), 0.25)
    assert np.packbits(np.asarray(mask)).tobytes().hex() == "dd67a7bdfde7ffff"


def test_expressions_are_those_that_they_were():
    drawn = [write(list(symbols)) for symbols, _ in draw_block(Law(4, 40, 6, 5), 1, 2)[:2]]
    assert drawn == ["[SM [SM 7 9 3 1 6 ] 4 9 6 8 ]", "[SM 8 9 9 4 ]"]


def test_parameters_are_those_that_they_were():
    found = born(seed=3, body_seed=4)
    numbers = {name: found[name].ravel()[0].item() for name in NUMBERS}
    assert numbers == pytest.approx(NUMBERS, rel=1e-5)


def test_a_stream_of_a_runs_own_changes_its_layers_and_not_its_body():
    usual, other = born(seed=3), born(seed=3, stream="stage 1")
    for name, value in usual.items():
        if value.std() > 0:
            assert np.array_equal(value, other[name]) == name.startswith("body/"), name


@pytest.mark.parametrize("init, residual", [("original", 0.02),
                                            ("depth-scaled", 0.02 / math.sqrt(16))])
def test_a_random_body_has_gpt2s_initialisation(init, residual):
    for name, value in born(init=init).items():
        if name.startswith("body/") and name.endswith(("/kernel", "/wpe")):
            spread = residual if name.endswith("/c_proj/kernel") else 0.02
            assert value.std() == pytest.approx(spread, rel=5 / math.sqrt(2 * value.size)), name
            assert abs(value.mean()) < 5 * spread / math.sqrt(value.size), name
        elif name.startswith("body/"):
            assert (value == (1 if name.endswith("/scale") else 0)).all(), name


def test_the_input_layer_is_orthogonal_and_the_output_layer_as_torch_draws_a_linear_one():
    found = born()
    kernel = found["input/kernel"]
    np.testing.assert_allclose(kernel @ kernel.T, 1.41**2 * np.eye(6), atol=1e-5)
    assert not found["input/bias"].any()
    outer = np.concatenate([found["output/kernel"].ravel(), found["output/bias"]])
    assert 0.98 / 8 < np.abs(outer).max() <= 1 / 8
    assert found["output/bias"].any()
    assert outer.std() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.05)


def test_no_two_parameters_nor_seeds_share_their_draws():
    found = born()
    drawn = {name: value for name, value in found.items() if value.std() > 0}
    starts = [tuple((value.ravel()[:2] / value.std()).round(3)) for value in drawn.values()]
    assert len(set(starts)) == len(starts)
    other, same_body = born(seed=1), born(seed=1, body_seed=0)
    for name, value in drawn.items():
        assert not np.array_equal(value, other[name]), name
        assert np.array_equal(value, same_body[name]) == name.startswith("body/"), name
