"""Defines the layer-normed LSTM that the paper compares GPT-2 with, in Flax Linen.

A layer turns an input x and the state (h, c) of the token before into the next state.  Each LN is a
layer norm with a gain and an offset of its own, i2h and h2h are dense layers from D to 4 D:

    gates = LN(i2h(x)) + LN(h2h(h));  i, f, o = sigmoid of the first three quarters of the gates
    c = LN(f c + i tanh(last quarter of the gates));  h = dropout(o tanh(c))

The normalised cell is carried on, and so is the h that dropout has passed; h is the layer's output.

For speed, i2h is one product for all tokens, and so is the gradient with respect to each kernel:
the loops over tokens multiply with h2h alone.  The backward pass computes the gates again instead
of keeping them.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from fpt.body import Body, Parameter, Table
from fpt.errors import UserError, nearest
from fpt.initialisers import ones, uniform, zeros
from fpt.layers import dropout, pick, positions, precision, product
from fpt.randomness import stream

CELLS = ("published", "repaired")
EPSILON = 1e-6  # of the layer norms
# Beyond these a number is a mistake; a single number has no variance that a norm could divide by.
RANGES = {"layers": (1, 1_000), "width": (2, 2**17), "positions": (1, 2**22)}


@dataclass(frozen=True)
class LSTM(Body):
    """Describes layers of layer-normed LSTM cells, as in the released code of Lu et al. 2021."""

    layers: int = 3
    width: int = 768
    cell: str = "published"
    """Chooses the first values of norms and states: `published` draws gains and offsets uniformly
    within +-1 / sqrt(their size), and the state before the first token at random; `repaired` has
    gains 1, offsets 0 and that state 0."""
    residual: bool = False
    """Adds the input of each layer to its output."""
    positions: int | None = None
    """Sets the number of rows of a table of positions that is added to the input; None for none."""
    dropout: float = 0.1

    def __post_init__(self):
        """Raises UserError for sizes that no body can have."""
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            fits = isinstance(value, int) and least <= value <= most
            if not fits and (name, value) != ("positions", None):
                raise UserError(f"a body's {name} must be a whole number from {least} to {most:,}, "
                                f"not {value!r}")
        if not 0 <= self.dropout < 1:
            raise UserError("a body's dropout must be at least 0 and below 1, not "
                            f"{self.dropout!r}")
        if self.cell not in CELLS:
            raise nearest(self.cell, CELLS, "LSTM cell")

    @property
    def random(self) -> bool:
        return self.dropout > 0 or self.cell == "published"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """States the shapes of a layer's kernels and of its norms' gains, by name."""
        gates = 4 * self.width
        return {"i2h": (self.width, gates), "h2h": (self.width, gates),
                "ln_i2h": (gates,), "ln_h2h": (gates,), "ln_cell": (self.width,)}

    def table(self, init: str = "original") -> Table:
        """Describes the parameters by the names of the released code; positions begin as zeros."""
        table = {}
        if self.positions is not None:
            table["wpe"] = Parameter((self.positions, self.width), "position", zeros,
                                     by_position=True)
        for layer in range(self.layers):
            for name, shape in self.shapes.items():
                place, offset = f"layer_{layer}/{name}", shape[-1:]
                if len(shape) == 2:
                    drawn = uniform(self.width)
                    table[f"{place}/kernel"] = Parameter(
                        shape, "recurrent", drawn, layer, matrix=True)
                    table[f"{place}/bias"] = Parameter(offset, "recurrent", drawn, layer)
                else:
                    gain = bias = uniform(*shape)
                    if self.cell == "repaired":
                        gain, bias = ones, zeros
                    table[f"{place}/scale"] = Parameter(shape, "norm", gain, layer)
                    table[f"{place}/bias"] = Parameter(offset, "norm", bias, layer)
        return table

    def module(self, dtype) -> Layers:
        return Layers(self, dtype)


RESIDUAL = LSTM(layers=12, residual=True, positions=1024)
MINI = LSTM(width=456)  # has about as many parameters as `gpt2-mini` without its token table
BODIES = {
    "lstm": LSTM(),
    "lstm-repaired": LSTM(cell="repaired"),
    "lstm-residual": RESIDUAL,
    "lstm-residual-repaired": RESIDUAL.resized(cell="repaired"),
    "lstm-mini": MINI,
    "lstm-mini-repaired": MINI.resized(cell="repaired"),
}


class Affine(nn.Module):
    """Holds the kernel [I, O] of a dense layer, or the gain of a norm, and its bias."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self):
        """Returns both with two axes: the kernel [I, O] or gain [1, O], and the bias [1, O]."""
        zeros = nn.initializers.zeros
        factor = self.param("kernel" if len(self.shape) == 2 else "scale", zeros, self.shape)
        return jnp.atleast_2d(factor), self.param("bias", zeros, self.shape[-1:])[None]


def norm(x, gain, offset):
    """Normalises the rows of x [B, N] with the unbiased variance, as the released code does."""
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.sum(centred**2, -1, keepdims=True) / (x.shape[-1] - 1)
    return gain * (centred * jax.lax.rsqrt(variance + EPSILON)) + offset


def cell(by_input, by_state, c, norms, bits, rate: float):
    """Computes the next state (h, c), each [B, D], from the last c.

    by_input: LN(i2h(x)), by_state: h2h(h), both [B, 4D].  norms: gain and offset of the norm of
    by_state and of that of c.  bits: of the dropout, uint32 [2], or None.
    """
    ln_h2h, ln_cell = norms
    i, f, o, g = jnp.split(by_input + norm(by_state, *ln_h2h), 4, axis=-1)
    c = norm(jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g), *ln_cell)
    return dropout(jax.nn.sigmoid(o) * jnp.tanh(c), rate, bits), c


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def loop(by_input, h2h, norms, state, bits, rate: float, dtype):
    """Computes the states h [T, B, D] of all tokens.

    by_input: LN(i2h(x)) [T, B, 4D].  h2h: kernel and bias.  norms, rate: see `cell`.  state: (h, c)
    before the first token.  bits: of the dropout, uint32 [T, 2], or None.
    """
    return _forward(by_input, h2h, norms, state, bits, rate, dtype)[0]


def _forward(by_input, h2h, norms, state, bits, rate, dtype):
    kernel, bias = h2h[0].astype(dtype), h2h[1]

    def step(state, given):
        (h, c), (by_input, bits) = state, given
        by_state = product(h, kernel, dtype) + bias
        state = cell(by_input, by_state, c, norms, bits, rate)
        return state, (state[0], (h, c, by_state))

    _, (states, kept) = jax.lax.scan(step, state, (by_input, bits))
    return states, (by_input, h2h, norms, bits, kept)


def _backward(rate, dtype, residuals, gradient):
    by_input, h2h, norms, bits, (h, c, by_state) = residuals
    kernel = h2h[0].astype(dtype)

    def step(carried, given):
        (h_gradient, c_gradient, sums), (gradient, bits, *values) = carried, given
        _, pull = jax.vjp(lambda *values: cell(*values, bits, rate), *values, norms)
        *gradients, c_gradient, more = pull((h_gradient + gradient, c_gradient))
        h_gradient = transposed_product(gradients[1], kernel, dtype)
        return (h_gradient, c_gradient, jax.tree.map(jnp.add, sums, more)), gradients

    zeros = jax.tree.map(jnp.zeros_like, (h[0], c[0], norms))
    (*of_state, of_norms), (of_input, of_sum) = jax.lax.scan(
        step, zeros, (gradient, bits, by_input, by_state, c), reverse=True)
    # Where the kernel is frozen, the next line is dead code, and the compiler removes it.
    of_kernel, = jax.vjp(lambda kernel: product(h, kernel, dtype), h2h[0])[1](of_sum)
    return of_input, (of_kernel, of_sum.sum((0, 1))[None]), of_norms, tuple(of_state), None


loop.defvjp(_forward, _backward)


def transposed_product(gradient, kernel, dtype):
    """Multiplies gradient [B, 4D] with the transposed kernel [D, 4D] into [B, D].

    With few rows, XLA's CPU takes less than half the time in float32 where the kernel is the left
    factor, and several times as long in bfloat16.
    """
    dot = functools.partial(jax.lax.dot_general, precision=precision(dtype),
                            preferred_element_type=jnp.float32)
    if dtype != jnp.float32:
        return dot(gradient.astype(dtype), kernel, (((1,), (1,)), ((), ())))
    fixed = jax.lax.optimization_barrier  # keeps XLA from swapping the factors back
    return fixed(dot(kernel, fixed(gradient.T), (((1,), (0,)), ((), ())))).T


class Layer(nn.Module):
    """Maps x [T, B, D] to the states [T, B, D] of one layer."""

    geometry: LSTM
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, state, bits):
        geometry = self.geometry
        part = {name: Affine(shape, name=name)() for name, shape in geometry.shapes.items()}
        kernel, bias = part["i2h"]
        rows = product(x.reshape(-1, geometry.width), kernel, self.dtype) + bias
        by_input = norm(rows, *part["ln_i2h"]).reshape(*x.shape[:2], -1)
        norms = part["ln_h2h"], part["ln_cell"]
        states = loop(by_input, part["h2h"], norms, state, bits, geometry.dropout, self.dtype)
        return x + states if geometry.residual else states


class Layers(nn.Module):
    """Applies the layers one after another: the module of an LSTM body.

    The published cell's first state is drawn by `key` for each example, from a normal distribution
    of variance 1 / D.  Without a key, all examples begin with one state that is always the same, so
    that evaluations repeat.
    """

    geometry: LSTM
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, embeds, key=None, read=None, first=0):
        """Maps embedded tokens to hidden states: see `Body.module`."""
        geometry, (batch, tokens, width) = self.geometry, embeds.shape
        x = embeds
        if geometry.positions is not None:
            wpe = positions(self, geometry.positions, width)
            if tokens > len(wpe):
                raise ValueError(f"{tokens} tokens, but the body has {len(wpe)} positions")
            x = x + jax.lax.dynamic_slice_in_dim(wpe, first, tokens)[None]
        bits = [None] * geometry.layers
        if key is not None:
            bits = jax.random.bits(stream(key, "dropout"), (geometry.layers, tokens, 2))
        states = self.begin(key, batch)
        x = x.swapaxes(0, 1)
        for layer in range(geometry.layers):
            name = f"layer_{layer}"
            x = Layer(geometry, self.dtype, name=name)(x, tuple(states[layer]), bits[layer])
        return pick(x.swapaxes(0, 1), read), None

    def begin(self, key, batch: int):
        """Makes the states (h, c) of all layers before the first token: [L, 2, B, D]."""
        geometry = self.geometry
        shape = (geometry.layers, 2, batch, geometry.width)
        if geometry.cell == "repaired":
            return jnp.zeros(shape)
        key, drawn = (jax.random.key(0), 1) if key is None else (key, batch)
        drawn = jax.random.normal(stream(key, "state"), (*shape[:2], drawn, geometry.width))
        return jnp.broadcast_to(drawn / math.sqrt(geometry.width), shape)
