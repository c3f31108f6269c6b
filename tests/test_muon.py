"""Muon's update turns a gradient into a matrix with singular values near one, of Adam's size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from fpt.muon import orthogonalised, scale_by_muon

SHAPES = [(16, 48), (48, 16), (16, 16)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_singular_values_come_near_one_and_singular_vectors_stay(shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = np.asarray(orthogonalised(jnp.asarray(matrix)))
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ found @ right.T
    large = values > 0.05 * np.linalg.norm(matrix)  # the others have not come all the way
    assert large.sum() > 10
    assert (np.diag(turned)[large] > 0.6).all() and (np.diag(turned) < 1.3).all()
    np.testing.assert_allclose(turned, np.diag(np.diag(turned)), atol=2e-4)


def test_a_matrix_of_zeros_stays_zero():
    assert not np.asarray(orthogonalised(jnp.zeros((3, 5)))).any()


def test_the_first_update_is_optaxs_muon():
    """Later ones differ, since optax corrects the momentum for its start at zero."""
    gradients = {str(shape): jax.random.normal(jax.random.key(0), shape) for shape in SHAPES}
    zeros = jax.tree.map(jnp.zeros_like, gradients)
    ours = scale_by_muon()
    theirs = optax.contrib.muon(-1.0, consistent_rms=0.2)
    with jax.numpy_dtype_promotion("standard"):
        expected, _ = theirs.update(gradients, theirs.init(zeros), zeros)
    found, _ = ours.update(gradients, ours.init(zeros), zeros)
    for name in gradients:
        np.testing.assert_allclose(found[name], expected[name], atol=5e-6)


def test_momentum_is_nesterovs():
    first, second = (jax.random.normal(jax.random.key(number), (4, 6)) for number in range(2))
    ours = scale_by_muon()
    _, state = ours.update(first, ours.init(first))
    found, _ = ours.update(second, state)
    momentum = 0.95 * (0.95 * first + second) + second
    expected = 0.2 * 6**0.5 * orthogonalised(momentum)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_update_has_a_root_mean_square_of_a_fifth():
    gradient = jax.random.normal(jax.random.key(0), (64, 256))
    ours = scale_by_muon()
    found, _ = ours.update(gradient, ours.init(gradient))
    assert 0.15 < float(jnp.sqrt(jnp.mean(found**2))) < 0.21
