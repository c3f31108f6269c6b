"""GPT-2's body in Flax Linen: embedded tokens in, hidden states out.

Linen, because a model is then a pure function of a plain dictionary of arrays on every supported jax: the freeze is a
split of that dictionary, and `jax.jit`, `grad` and `vmap` are used as they are.  Pre-norm, causal, learned positions
(Radford et al. 2019); layers are unrolled, since slicing stacked weights costs more than it saves on a CPU.

What was measured for speed (two cores, `gpt2`, 64 tokens, batch 16) and is kept for it:
- Dropout bits come from a hash of (key, place), 10% of a step cheaper than threefry, and are recomputed in the
  backward pass instead of being kept.
- Cotangents of the residual stream are computed once per block (`_materialised`): XLA's CPU fusion otherwise
  computes the sum of all later blocks again in each of them, up to a fifth of a step.
- bfloat16 products ask for float32 results with both operands in bfloat16, in the backward pass too; XLA's CPU
  matmul is fast in no other case.
- The last block computes its attention's queries, and all that follows, only for the tokens that are read.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

from fpt.bodies import Geometry
from fpt.randomness import keep_mask

NO_DROPOUT = (None, None, None)  # bits of a block's three places

ACTIVATIONS = {
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def dropout(x, rate: float, bits):
    """x with each number zero with probability `rate`, the others scaled up; x itself where `bits` is None.

    `bits` is uint32 [2], as drawn for this one place of this one step.
    """
    if bits is None or rate == 0:
        return x
    return jnp.where(keep_mask(bits, x.shape, rate), x / (1 - rate), 0)


def norm(geometry: Geometry) -> nn.LayerNorm:
    """A layer norm of the body, its variance computed in two passes."""
    return nn.LayerNorm(epsilon=geometry.epsilon, use_fast_variance=False)


def precision(dtype) -> str:
    """float32 means float32: GPUs and TPUs multiply it in fewer bits unless told not to."""
    return "highest" if dtype == jnp.float32 else "default"


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x, kernel, dtype):
    """x [..., I] @ kernel [I, O] -> float32 [..., O], with both operands in `dtype`, here and in the gradients."""
    return jnp.matmul(x.astype(dtype), kernel.astype(dtype), precision=precision(dtype), preferred_element_type=jnp.float32)


def _product_forward(x, kernel, dtype):
    return product(x, kernel, dtype), (x, kernel)


def _product_backward(dtype, residuals, gradient):
    x, kernel = residuals
    gradient = gradient.astype(dtype)
    along = lambda left, right, axes: jax.lax.dot_general(
        left.astype(dtype), right.astype(dtype), (axes, ((), ())), precision(dtype), jnp.float32)
    leading = tuple(range(x.ndim - 1))
    by_x = along(gradient, kernel, ((x.ndim - 1,), (1,)))
    by_kernel = along(x, gradient, (leading, leading))  # dead code, and removed as such, where the kernel is frozen
    return by_x.astype(x.dtype), by_kernel.astype(kernel.dtype)


product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def _materialised(x):
    """x; its cotangent is computed once and stored, never again inside each fusion that reads it (CPU only)."""
    return x


def _materialise(_, gradient):
    if jax.default_backend() != "cpu":
        return (gradient,)
    with set_xla_metadata(inlineable="false"):  # a call that XLA leaves alone: fusions do not reach across it
        return (jax.jit(lambda g: g + 0)(gradient),)


_materialised.defvjp(lambda x: (x, None), _materialise)


class Projection(nn.Module):
    """A dense layer: float32 [..., I] -> [..., features], multiplied in `dtype`; or some of its columns only."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, columns=slice(None)):
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return product(x, kernel[:, columns], self.dtype) + bias[columns]


class Seen(NamedTuple):
    """What a forward pass looked at on request, else None."""

    hidden: jax.Array | None  # [L + 1, B, T, D]: before each block, and after the last norm
    maps: jax.Array | None  # [L, B, H, T, T]: attention weights by query and key, before their dropout


def pick(x, read):
    """The tokens of x [B, T, D] that are read: all (None), the last `read` (an int), or those at places `read` [B, Q]."""
    if read is None:
        return x
    if isinstance(read, int):
        return x[:, -read:]
    return jnp.take_along_axis(x, read[:, :, None], axis=1)


def visible(read, tokens: int):
    """Which of T tokens each token that is read may attend to: bool [1 or B, 1, Q, T]."""
    places = jnp.arange(tokens)
    queries = places[None] if read is None else places[None, -read:] if isinstance(read, int) else read
    return (places <= queries[:, :, None])[:, None]


class Heads(NamedTuple):
    """What the heads of a layer pass on instead of their own results, as an ablation wants it."""

    kept: jax.Array  # bool [H]: the heads whose results stay as they are
    instead: jax.Array  # float32 [Q, H, D / H], or what broadcasts to it: what the others pass on


class Attention(nn.Module):
    """Causal multi-head attention: x [B, T, D] -> [B, Q, D] for the tokens that are read, and its map [B, H, Q, T]."""

    geometry: Geometry
    dtype: jnp.dtype

    def setup(self):
        self.c_attn = Projection(3 * self.geometry.width, self.dtype)
        self.c_proj = Projection(self.geometry.width, self.dtype)

    def __call__(self, x, read, bits, heads: Heads | None = None):
        mixed, weights = self.mix(x, read, bits[0])
        if heads is not None:
            mixed = jnp.where(heads.kept[:, None], mixed, heads.instead)
        out = self.c_proj(mixed.reshape(*mixed.shape[:2], self.geometry.width))
        return dropout(out, self.geometry.residual_dropout, bits[1]), weights

    def mix(self, x, read, bits):
        """The values of x as each head mixes them, float32 [B, Q, H, D / H], and the weights that it mixes them by."""
        width, heads = self.geometry.width, self.geometry.heads
        if read is None:
            query, key, value = jnp.split(self.c_attn(x), 3, axis=-1)
        else:
            query = self.c_attn(pick(x, read), slice(width))
            key, value = jnp.split(self.c_attn(x, slice(width, None)), 2, axis=-1)
        split = lambda t: t.reshape(*t.shape[:2], heads, -1).astype(self.dtype)  # [B, T, H, D / H]
        query, key, value = split(query), split(key), split(value)
        einsum = functools.partial(jnp.einsum, precision=precision(self.dtype), preferred_element_type=jnp.float32)
        scores = einsum("bqhd,bthd->bhqt", query, key)
        scores = scores / math.sqrt(width // heads)
        scores = jnp.where(visible(read, x.shape[1]), scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores)
        mixed = dropout(weights, self.geometry.attention_dropout, bits).astype(self.dtype)
        return einsum("bhqt,bthd->bqhd", mixed, value), weights


class FeedForward(nn.Module):
    """x [B, T, D] -> [B, T, D] through the inner width."""

    geometry: Geometry
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, bits):
        geometry = self.geometry
        inner = ACTIVATIONS[geometry.activation](Projection(geometry.inner, self.dtype, name="c_fc")(x))
        out = Projection(geometry.width, self.dtype, name="c_proj")(inner)
        return dropout(out, geometry.residual_dropout, bits[2])


class Block(nn.Module):
    """Attention and feed-forward layer around one residual stream [B, T, D]; from attention on, only what is read."""

    geometry: Geometry
    dtype: jnp.dtype

    def setup(self):
        self.ln_1, self.ln_2 = norm(self.geometry), norm(self.geometry)
        self.attn = Attention(self.geometry, self.dtype)
        self.mlp = FeedForward(self.geometry, self.dtype)

    def __call__(self, x, read=None, bits=NO_DROPOUT, heads: Heads | None = None):
        x = _materialised(x)
        mixed, weights = self.attn(self.ln_1(x), read, bits, heads)
        x = _materialised(pick(x, read) + mixed)
        return x + self.mlp(self.ln_2(x), bits), weights

    def mix(self, x, read=None):
        """What the block's heads do with x: see `Attention.mix`."""
        return self.attn.mix(self.ln_1(x), read, None)


class Body(nn.Module):
    """The stack of blocks.  Parameters have the names of GPT-2's checkpoints, `h_0` for `h.0`.

    Modules state the shapes of their parameters; their values come from `births` or a checkpoint.
    """

    geometry: Geometry
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        geometry = self.geometry
        self.wpe = self.param("wpe", nn.initializers.zeros, (geometry.positions, geometry.width))
        self.h = [Block(geometry, self.dtype) for _ in range(geometry.layers)]
        self.ln_f = norm(geometry)

    def __call__(self, embeds, key=None, read=None, hidden: bool = False, maps: bool = False, first=0):
        """Embedded tokens [B, T, D] -> the last hidden states [B, Q, D] of the tokens that are read, and what was Seen.

        key: draws the dropout; None for none.  read: see `pick`.  first: the position of the first token.
        hidden, maps: what Seen shall hold; without them the last block computes what is read and nothing else.
        """
        geometry = self.geometry
        tokens = embeds.shape[1]
        if tokens > geometry.positions:
            raise ValueError(f"{tokens} tokens, but the body has {geometry.positions} positions")
        places = 3 * geometry.layers + 1
        bits = [None] * places if key is None else jax.random.bits(key, (places, 2))

        x = self.place(embeds, first, bits[-1])
        states, seen = [], []
        for layer, block in enumerate(self.h):
            early = read if layer == geometry.layers - 1 and not (hidden or maps) else None
            states.append(x)
            x, weights = block(x, early, bits[3 * layer : 3 * layer + 3])
            seen.append(weights)
        x = self.ln_f(x)
        states.append(x)
        out = pick(x, read) if hidden or maps else x
        return out, Seen(jnp.stack(states) if hidden else None, jnp.stack(seen) if maps else None)

    def place(self, embeds, first=0, bits=None):
        """Embedded tokens [B, T, D] with their positions added, as they enter the first block."""
        rows = jax.lax.dynamic_slice_in_dim(self.wpe, first, embeds.shape[1])
        return dropout(embeds + rows, self.geometry.embedding_dropout, bits)
