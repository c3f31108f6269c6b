"""Draws randomness as a function of (seed, stream, step), never of history.

A key is split by *name* into streams, and inside a stream by step number: resuming needs no
generator's state, a new stream disturbs no other, and one seed gives the same data to every
condition, so that conditions compare in pairs.
"""

import math
from zlib import crc32

import jax
import jax.numpy as jnp

ROUNDS = 4


def stream(key, name: str):
    """Derives the key of a named stream."""
    return jax.random.fold_in(key, crc32(name.encode()))


def shuffled(key, step, batch: int, size: int):
    """Draws the numbers of the examples in training batch `step`, int32 [batch].

    An epoch of `size` draws holds each of 0..size-1 once, in an order of its own; batches run on
    across epochs.  Nothing is stored: a draw's place in its epoch goes through a keyed bijection of
    0..size-1, a Feistel network on the next even power of two, walked until it lands inside
    (Black & Rogaway 2002).
    """
    position = step * batch + jnp.arange(batch)
    epoch, place = (position // size).astype(jnp.uint32), (position % size).astype(jnp.uint32)
    half = max(1, -(-(size - 1).bit_length() // 2))
    mask = jnp.uint32((1 << half) - 1)
    round_keys = jax.random.bits(key, (ROUNDS,))

    def permute(value):
        left, right = value >> half, value & mask
        for number in range(ROUNDS):
            left, right = right, left ^ (_mix(right ^ _mix(epoch ^ round_keys[number])) & mask)
        return left << half | right

    outside = lambda value: jnp.any(value >= size)
    walk = lambda value: jnp.where(value >= size, permute(value), value)
    return jax.lax.while_loop(outside, walk, permute(place)).astype(jnp.int32)


def _mix(bits):
    """Mixes the bits of uint32 by a bijection, the finaliser of MurmurHash3."""
    bits = (bits ^ bits >> 16) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ bits >> 13) * jnp.uint32(0xC2B2AE35)
    return bits ^ bits >> 16


def keep_mask(bits, shape: tuple[int, ...], rate: float):
    """Draws a dropout mask: bool of that shape, False with probability `rate`.

    Each element is a hash of its index, keyed by `bits`, uint32 [2]: cheaper than threefry, cheap
    enough to be computed again in the backward pass, and the same for a run alone and in a stack.
    """
    place = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return _mix(_mix(place ^ bits[0]) ^ bits[1]) >= jnp.uint32(round(rate * 2**32))
