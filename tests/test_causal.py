"""Attention in blocks of queries is the attention of the formula, and so is its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpt.causal import attend, weigh
from fpt.randomness import keep_mask

HEADS, SIZE = 2, 4


def drawn(tokens, queries, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(tokens), 4)
    shapes = [(2, HEADS, count, SIZE) for count in (queries, tokens, tokens, queries)]
    *factors, gradient = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes))
    return [one.astype(dtype) for one in factors], gradient


def by_formula(query, key, value, places, mask):
    """Computes attention as it is written in the paper, over all keys at once."""
    scores = jnp.einsum("bhqd,bhtd->bhqt", query, key, precision="highest")
    later = jnp.arange(key.shape[2])[None, None, None] > places[:, None, :, None]
    weights = jax.nn.softmax(jnp.where(later, -jnp.inf, scores))
    return jnp.einsum("bhqt,bhtd->bhqd", weights * mask, value, precision="highest")


# One token; one block; blocks of which the last is short; as many blocks as there are.
@pytest.mark.parametrize("tokens", [1, 20, 150, 300])
@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_attention_and_its_gradient_are_the_formulas(tokens, rate):
    factors, gradient = drawn(tokens, tokens)
    bits = jnp.array([3, 5], jnp.uint32)
    mask = keep_mask(bits, (2, HEADS, tokens, tokens), rate).astype(jnp.float32) / (1 - rate)
    places = jnp.arange(tokens)[None]
    found, back = jax.vjp(lambda *all: attend(*all, None, bits, rate), *factors)
    expected, expected_back = jax.vjp(lambda *all: by_formula(*all, places, mask), *factors)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    for one, other in zip(back(gradient), expected_back(gradient)):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("places", [[[137, 149]], [[0, 70], [149, 3]]], ids=["shared", "own"])
def test_some_queries_answer_as_they_do_among_all(places):
    places = jnp.array(places)
    (query, key, value), gradient = drawn(150, 150)
    rows = jnp.broadcast_to(places, (2, 2))[:, None, :, None]
    some = lambda query: jnp.take_along_axis(query, rows, axis=2)
    found, back = jax.vjp(lambda *all: attend(some(all[0]), *all[1:], places, None, 0.0),
                          query, key, value)
    whole, back_whole = jax.vjp(lambda *all: some(attend(*all, None, None, 0.0)),
                                query, key, value)
    np.testing.assert_allclose(found, whole, atol=2e-6)
    for one, other in zip(back(some(gradient)), back_whole(some(gradient))):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_weights_of_all_tokens_sum_to_one_and_are_zero_for_later_ones():
    (query, key, _), _ = drawn(70, 70)
    weights = np.asarray(weigh(query, key, None))
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert not np.triu(weights, 1).any()


def test_stacked_attention_is_that_of_each_run():
    (query, key, value), _ = drawn(150, 150)
    bits = jnp.array([[1, 2], [3, 4]], jnp.uint32)
    one = lambda query, bits: attend(query, key, value, None, bits, 0.1)
    twice = jnp.stack([query, 2 * query])
    found = jax.vmap(one)(twice, bits)
    for number in range(2):
        np.testing.assert_allclose(found[number], one(twice[number], bits[number]), atol=2e-6)


def test_attention_in_bfloat16_is_near_that_in_float32():
    factors, gradient = drawn(150, 150, jnp.bfloat16)
    wide = [one.astype(jnp.float32) for one in factors]
    found, back = jax.vjp(lambda *all: attend(*all, None, None, 0.0), *factors)
    expected, expected_back = jax.vjp(lambda *all: attend(*all, None, None, 0.0), *wide)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=0.01)
    for one, other in zip(back(gradient), expected_back(gradient)):
        assert one.dtype == jnp.bfloat16
        allowed = 0.02 * float(jnp.abs(other).max())
        np.testing.assert_allclose(one.astype(jnp.float32), other, atol=allowed)
