"""Defines GPT-2's body in Flax Linen, which maps embedded tokens to hidden states.

The architecture is pre-norm and causal, with learned positions (Radford et al. 2019).  It is
written in Linen, because a model is then a pure function of a plain dictionary of arrays on every
supported jax: the freeze is a split of that dictionary, and `jax.jit`, `grad` and `vmap` are used
unchanged.

For speed, layers are unrolled, since slicing stacked weights costs more than it saves on a CPU;
and the last block computes its attention's queries, and all that follows, only for tokens that are
read.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fpt.body import Body, Parameter, Table
from fpt.causal import attend, weigh
from fpt.errors import UserError, nearest
from fpt.initialisers import normal, ones, zeros
from fpt.layers import Projection, dropout, materialised, norm, pick, positions

NO_DROPOUT = (None, None, None)  # bits for a block's three uses of dropout
DEVIATION = 0.02  # of the weights' initialiser
# Beyond these a number is a mistake, and one that takes long to fail.
MOST = {"layers": 1_000, "width": 2**17, "heads": 2**12, "positions": 2**22, "inner": 2**20,
        "vocabulary": 2**24}

ACTIVATIONS = {
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


@dataclass(frozen=True)
class GPT2(Body):
    """Describes a GPT-2 body: its sizes, and what else of its configuration changes its output."""

    inits: ClassVar[tuple[str, ...]] = ("original", "depth-scaled")

    layers: int
    width: int
    heads: int
    positions: int = 1024
    inner: int | None = None  # width of the feed-forward layer; None: four times the width
    vocabulary: int = 50_257  # rows of the token table: counted, and held by language models alone
    activation: str = "gelu_new"
    epsilon: float = 1e-5
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    residual_dropout: float = 0.1

    def __post_init__(self):
        """Raises UserError for sizes that no body can have."""
        for name, most in MOST.items():
            value = getattr(self, name)
            if name == "inner" and value is None:
                object.__setattr__(self, "inner", 4 * self.width)
            elif not (isinstance(value, int) and 0 < value <= most):
                raise UserError(f"a body's {name} must be a whole number from 1 to {most:,}, not "
                                f"{value!r}")
        for name in ("embedding_dropout", "attention_dropout", "residual_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"a body's {name.replace('_', ' ')} must be at least 0 and below "
                                f"1, not {getattr(self, name)!r}")
        if not 0 < self.epsilon < 1:
            raise UserError(f"a body's epsilon must be above 0 and below 1, not {self.epsilon!r}")
        if self.width % self.heads:
            raise UserError("a body's width must be a multiple of its heads, not "
                            f"{self.width} with {self.heads}")
        if self.activation not in ACTIVATIONS:
            raise nearest(self.activation, ACTIVATIONS, "activation")

    @property
    def random(self) -> bool:
        return any((self.embedding_dropout, self.attention_dropout, self.residual_dropout))

    def table(self, init: str = "original") -> Table:
        """Describes the parameters under the names of GPT-2's checkpoints, `h_0` for `h.0`.

        The original initialisation draws matrices and positions from N(0, 0.02^2), with zero biases
        and norms of gain 1.  With `depth-scaled`, the projections onto the residual stream have the
        deviation 0.02 / sqrt(2 layers), as in Hugging Face's transformers since 2021; the original
        experiments predate it.
        """
        residual = DEVIATION / math.sqrt(2 * self.layers) if init == "depth-scaled" else DEVIATION
        width, table = self.width, {}

        def add_norm(name: str, layer: int | None = None) -> None:
            table[f"{name}/scale"] = Parameter((width,), "norm", ones, layer)
            table[f"{name}/bias"] = Parameter((width,), "norm", zeros, layer)

        def add_dense(name: str, role: str, inputs: int, outputs: int, deviation: float) -> None:
            table[f"h_{layer}/{name}/kernel"] = Parameter(
                (inputs, outputs), role, normal(deviation), layer, matrix=True)
            table[f"h_{layer}/{name}/bias"] = Parameter((outputs,), role, zeros, layer)

        table["wpe"] = Parameter((self.positions, width), "position", normal(DEVIATION),
                                 by_position=True)
        for layer in range(self.layers):
            add_norm(f"h_{layer}/ln_1", layer)
            add_dense("attn/c_attn", "attention", width, 3 * width, DEVIATION)
            add_dense("attn/c_proj", "attention", width, width, residual)
            add_norm(f"h_{layer}/ln_2", layer)
            add_dense("mlp/c_fc", "feedforward", width, self.inner, DEVIATION)
            add_dense("mlp/c_proj", "feedforward", self.inner, width, residual)
        add_norm("ln_f")
        return table

    def module(self, dtype) -> Stack:
        return Stack(self, dtype)

    def resized(self, layers: int | None = None, width: int | None = None, **others) -> Body:
        """Cuts the body to its first `layers` blocks; its width is its checkpoint's."""
        if width not in (None, self.width):
            raise UserError(f"--width does not apply to a GPT-2 body, which has {self.width}; "
                            "choose another --body")
        if layers is not None and not 0 < layers <= self.layers:
            raise UserError(f"--layers must be from 1 to {self.layers}, the body's, not {layers}")
        return super().resized(layers=layers, **others)


BODIES = {
    "gpt2-nano": GPT2(layers=3, width=64, heads=2, vocabulary=8_192),
    "gpt2-micro": GPT2(layers=4, width=128, heads=4, vocabulary=8_192),
    "gpt2-mini": GPT2(layers=6, width=256, heads=8, vocabulary=8_192),
    "gpt2": GPT2(layers=12, width=768, heads=12),
    "gpt2-medium": GPT2(layers=24, width=1024, heads=16),
    "gpt2-large": GPT2(layers=36, width=1280, heads=20),
    "gpt2-xl": GPT2(layers=48, width=1600, heads=25),
}


class Seen(NamedTuple):
    """Holds the intermediate results that a forward pass was asked for; None for the others."""

    hidden: jax.Array | None  # [L + 1, B, T, D]: before each block, and after the last norm
    maps: jax.Array | None  # [L, B, H, T, T]: attention weights by query and key, before dropout


class Heads(NamedTuple):
    """Holds, for an ablation, which heads of a layer stay and what replaces the others' outputs."""

    kept: jax.Array  # bool [H]: the heads whose results stay
    instead: jax.Array  # float32 [Q, H, D / H], or broadcast to it: the others' outputs


class Attention(nn.Module):
    """Computes causal multi-head attention over x [B, T, D]."""

    geometry: GPT2
    dtype: jnp.dtype

    def setup(self):
        self.c_attn = Projection(3 * self.geometry.width, self.dtype)
        self.c_proj = Projection(self.geometry.width, self.dtype)

    def __call__(self, x, read, bits, heads: Heads | None = None):
        """Returns [B, Q, D] for the tokens that are read, and the attention map [B, H, Q, T]."""
        mixed, weights = self.mix(x, read, bits[0])
        if heads is not None:
            mixed = jnp.where(heads.kept[:, None], mixed, heads.instead)
        out = self.c_proj(mixed.reshape(*mixed.shape[:2], self.geometry.width))
        return dropout(out, self.geometry.residual_dropout, bits[1]), weights

    def mix(self, x, read, bits):
        """Sums the value vectors of each head, weighted by its attention.

        Returns the sums before the output projection, float32 [B, Q, H, D / H], and the attention
        weights [B, H, Q, T].
        """
        width, heads = self.geometry.width, self.geometry.heads
        if read is None:
            query, key, value = jnp.split(self.c_attn(x), 3, axis=-1)
        else:
            query = self.c_attn(pick(x, read), slice(width))
            key, value = jnp.split(self.c_attn(x, slice(width, None)), 2, axis=-1)
        query = query / math.sqrt(width // heads)
        split = lambda t: t.reshape(*t.shape[:2], heads, -1).swapaxes(1, 2).astype(self.dtype)
        query, key, value = split(query), split(key), split(value)  # [B, H, T, D / H]
        places = jnp.arange(x.shape[1])[None, -read:] if isinstance(read, int) else read
        mixed = attend(query, key, value, places, bits, self.geometry.attention_dropout)
        return jnp.swapaxes(mixed, 1, 2), weigh(query, key, places)


class FeedForward(nn.Module):
    """Maps each token of x [B, T, D] through the inner width and back."""

    geometry: GPT2
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, bits):
        geometry = self.geometry
        activation = ACTIVATIONS[geometry.activation]
        inner = activation(Projection(geometry.inner, self.dtype, name="c_fc")(x))
        out = Projection(geometry.width, self.dtype, name="c_proj")(inner)
        return dropout(out, geometry.residual_dropout, bits[2])


class Block(nn.Module):
    """Adds attention and a feed-forward layer to the residual stream x [B, T, D]."""

    geometry: GPT2
    dtype: jnp.dtype

    def setup(self):
        self.ln_1, self.ln_2 = norm(self.geometry.epsilon), norm(self.geometry.epsilon)
        self.attn = Attention(self.geometry, self.dtype)
        self.mlp = FeedForward(self.geometry, self.dtype)

    def __call__(self, x, read=None, bits=NO_DROPOUT, heads: Heads | None = None):
        """Returns the stream [B, Q, D] of the tokens that are read, and the attention map."""
        x = materialised(x)
        mixed, weights = self.attn(self.ln_1(x), read, bits, heads)
        x = materialised(pick(x, read) + mixed)
        return x + self.mlp(self.ln_2(x), bits), weights

    def mix(self, x, read=None):
        """Computes the outputs of the block's heads for x: see `Attention.mix`."""
        return self.attn.mix(self.ln_1(x), read, None)


class Stack(nn.Module):
    """Adds positions and applies GPT-2's stack of blocks, one after another, and the last norm."""

    geometry: GPT2
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        geometry = self.geometry
        self.wpe = positions(self, geometry.positions, geometry.width)
        self.h = [Block(geometry, self.dtype) for _ in range(geometry.layers)]
        self.ln_f = norm(geometry.epsilon)

    def __call__(self, embeds, key=None, read=None, first=0, hidden=False, maps=False):
        """Maps embedded tokens to hidden states: see `Body.module`; the second result is Seen.

        hidden, maps: what Seen shall hold; without them the last block computes only what is read.
        """
        geometry = self.geometry
        tokens = embeds.shape[1]
        if tokens > len(self.wpe):
            raise ValueError(f"{tokens} tokens, but the body has {len(self.wpe)} positions")
        if isinstance(read, int) and read == tokens:
            read = None  # all are read
        places = 3 * geometry.layers + 1
        bits = [None] * places if key is None else jax.random.bits(key, (places, 2))

        x = self.place(embeds, first, bits[-1])
        states, seen = [], []
        for layer, block in enumerate(self.h):
            last = layer == geometry.layers - 1
            early = read if last and not (hidden or maps) else None
            states.append(x)
            x, weights = block(x, early, bits[3 * layer : 3 * layer + 3])
            seen.append(weights)
        x = self.ln_f(x)
        states.append(x)
        out = pick(x, read) if hidden or maps else x
        return out, Seen(jnp.stack(states) if hidden else None, jnp.stack(seen) if maps else None)

    def place(self, embeds, first=0, bits=None):
        """Adds positions to embedded tokens [B, T, D], as they enter the first block."""
        rows = jax.lax.dynamic_slice_in_dim(self.wpe, first, embeds.shape[1])
        return dropout(embeds + rows[None], self.geometry.embedding_dropout, bits)
