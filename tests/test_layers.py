"""Checks the product of a projection, and its gradients, which are computed in one of two orders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpt.layers import product

# Tokens, numbers that come in, features: kernels that widen, that narrow few tokens, that narrow many.
SIZES = [(20, 3, 5), (4, 8, 5), (20, 8, 5)]


@pytest.mark.parametrize("dtype, error", [(jnp.float32, 3e-7), (jnp.bfloat16, 8e-3)])
@pytest.mark.parametrize("tokens, width, features", SIZES)
def test_a_product_and_its_gradients_are_the_formulas(tokens, width, features, dtype, error):
    draw = np.random.default_rng(0).standard_normal
    x, kernel = draw((2, tokens // 2, width)), draw((width, features))
    gradient = draw((2, tokens // 2, features))
    out, back = jax.vjp(lambda x, kernel: product(x, kernel, dtype), *map(jnp.float32, (x, kernel)))
    found = [out, *back(jnp.float32(gradient))]
    wanted = [x @ kernel, gradient @ kernel.T, np.einsum("bti,bto->io", x, gradient)]
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == jnp.float32 and one.shape == other.shape
        assert np.abs(one - other).max() <= error * np.abs(other).max()
