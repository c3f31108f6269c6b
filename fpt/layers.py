"""Defines the layers that bodies, input layers and output layers are built of.

What was measured for speed (two cores, `gpt2`, 64 tokens, batch 16) and is kept for it:
- Dropout bits come from a hash of (key, index of the element), 10% of a step cheaper than
  threefry, and are recomputed in the backward pass instead of being kept.
- Cotangents of the residual stream are computed once per block (`materialised`): XLA's CPU fusion
  otherwise sums those of all later blocks anew in every block, which takes up to a fifth of a step.
- bfloat16 products ask for float32 results with both operands in bfloat16, in the backward pass
  too; XLA's CPU matmul is fast in no other case.
"""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

from fpt.randomness import keep_mask


def dropout(x, rate: float, bits):
    """Zeroes each number of x with probability `rate` and scales the others up.

    `bits` is uint32 [2], drawn for this use of dropout in the model in this step; None returns x
    itself.
    """
    if bits is None or rate == 0:
        return x
    return jnp.where(keep_mask(bits, x.shape, rate), x / (1 - rate), 0)


def precision(dtype) -> str:
    """Names jax's precision for products in `dtype`.

    It is "highest" for float32, which GPUs and TPUs multiply in fewer bits by default.
    """
    return "highest" if dtype == jnp.float32 else "default"


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x, kernel, dtype):
    """Multiplies x [..., I] with kernel [I, O] into float32 [..., O].

    Both operands are rounded to `dtype`, here and in the gradients.
    """
    return jnp.matmul(x.astype(dtype), kernel.astype(dtype), precision=precision(dtype),
                      preferred_element_type=jnp.float32)


def _product_forward(x, kernel, dtype):
    return product(x, kernel, dtype), (x, kernel)


def _product_backward(dtype, residuals, gradient):
    x, kernel = residuals
    gradient = gradient.astype(dtype)
    along = lambda left, right, axes: jax.lax.dot_general(
        left.astype(dtype), right.astype(dtype), (axes, ((), ())), precision(dtype), jnp.float32)
    leading = tuple(range(x.ndim - 1))
    by_x = along(gradient, kernel, ((x.ndim - 1,), (1,)))
    # Where the kernel is frozen, the next lines are dead code, and the compiler removes them.
    # XLA's CPU compiler copies the left factor, transposed: let that be the narrower one, unless
    # the tokens are so few that it costs more to transpose the result.  The barrier keeps it from
    # folding the transposition into the product, as it has no transposed one in bfloat16.
    if min(x.shape[-1], math.prod(x.shape[:-1])) <= gradient.shape[-1]:
        by_kernel = along(x, gradient, (leading, leading))
    else:
        by_kernel = jax.lax.optimization_barrier(along(gradient, x, (leading, leading))).T
    return by_x.astype(x.dtype), by_kernel.astype(kernel.dtype)


product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def materialised(x):
    """Returns x, and has its cotangent computed once and stored, not in each fusion that reads it.

    This acts on CPUs alone.
    """
    return x


def _materialise(_, gradient):
    if jax.default_backend() != "cpu":
        return (gradient,)
    # XLA leaves such a call alone: fusions do not reach across it.
    with set_xla_metadata(inlineable="false"):
        return (jax.jit(lambda g: g + 0)(gradient),)


materialised.defvjp(lambda x: (x, None), _materialise)


class Projection(nn.Module):
    """Multiplies float32 [..., I] with a kernel in `dtype` and adds a bias: [..., features]."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, columns=slice(None)):
        """Computes all features, or those of some `columns` alone."""
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        out = product(x, kernel[:, columns], self.dtype)
        return out + jnp.expand_dims(bias[columns], range(x.ndim - 1))


def positions(module: nn.Module, count: int, width: int):
    """Gives a body's table of positions [count, D], or the first rows alone, if those are given."""
    if module.has_variable("params", "wpe"):
        return module.get_variable("params", "wpe")
    return module.param("wpe", nn.initializers.zeros, (count, width))


def norm(epsilon: float) -> nn.LayerNorm:
    """Makes a layer norm that computes its variance in two passes."""
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False)


def pick(x, read):
    """Takes the tokens of x [B, T, D] that are read: [B, Q, D].

    read: None for all tokens, an int n for the last n, or token indices [B, Q].
    """
    if read is None:
        return x
    if isinstance(read, int):
        return x[:, -read:]
    return jnp.take_along_axis(x, read[:, :, None], axis=1)
