"""Crops, flips and rotates images at random, on the device and in one gather.

The released code of Lu et al. 2021 (`cifar10.py`, `cifar10_gray.py`) uses torchvision's
`RandomCrop(32, padding=4)`, `RandomHorizontalFlip()` and `RandomRotation(20)`, in that order.  Each
of them only moves pixels, so the three compose into one map from a pixel of the result to a pixel
of the original.  Importing this module imports jax.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PADDING = 4  # zeros around the image that the crop may reach into
DEGREES = 20  # largest rotation either way
STEPS = 100  # angles per degree
ONE = 1 << 16  # 1 in the fixed point of Pillow's affine transform, which torchvision uses


class Moves(NamedTuple):
    """Describes how each image of a batch is moved."""

    top: jax.Array  # [B] int32 in 0..2 PADDING: first row of the crop in the padded image
    left: jax.Array  # [B] int32
    flip: jax.Array  # [B] bool
    turn: jax.Array  # [B] int32: number of the angle in `angles()`


def angles() -> np.ndarray:
    """Lists the angles in degrees by which images are turned: from -20 to 20 in steps of 0.01.

    Positive angles turn anticlockwise.
    """
    return np.linspace(-DEGREES, DEGREES, 2 * DEGREES * STEPS + 1)


def draw(key, batch: int) -> Moves:
    """Draws uniform moves: (2 PADDING + 1)^2 crops, a flip or none, any of the angles."""
    crop, flip, turn = jax.random.split(key, 3)
    top, left = jax.random.randint(crop, (2, batch), 0, 2 * PADDING + 1)
    return Moves(top, left, jax.random.bernoulli(flip, shape=(batch,)),
                 jax.random.randint(turn, (batch,), 0, 2 * DEGREES * STEPS + 1))


def moved(images, numbers, moves: Moves):
    """Crops, flips, then turns some of the images [N, S, S, C], those of `numbers` [B].

    The result is [B, S, S, C] of the same dtype: nearest pixels, zeros outside, and pixel for pixel
    what Pillow gives for the three in sequence.
    """
    size = images.shape[1]
    coefficients = jnp.asarray(_turns(size))[moves.turn]  # [B, 6]
    a, b, c, d, e, f = (coefficients[:, i, None, None] for i in range(6))
    rows, columns = jnp.arange(size)[None, :, None], jnp.arange(size)[None, None]
    # [B, S, S]: where a pixel of the result was before the rotation.
    x = (a * columns + b * rows + c) >> 16
    y = (d * columns + e * rows + f) >> 16
    inside = _within(x, size) & _within(y, size)
    x = jnp.where(moves.flip[:, None, None], size - 1 - x, x) + moves.left[:, None, None] - PADDING
    y = y + moves.top[:, None, None] - PADDING
    inside &= _within(x, size) & _within(y, size)
    place = (numbers[:, None, None] * size + y) * size + x
    flat = images.reshape(-1, images.shape[-1])
    pixels = flat.at[jnp.where(inside, place, 0)].get(mode="promise_in_bounds")
    return jnp.where(inside[..., None], pixels, jnp.zeros((), images.dtype))


def _within(coordinate, size: int):
    return (coordinate >= 0) & (coordinate < size)


def _turns(size: int) -> np.ndarray:
    """Computes the coefficients a to f of each rotation about the centre, int32 [angles, 6].

    x' = (a x + b y + c) / ONE, and y' = (d x + e y + f) / ONE.  They are computed on the host in
    double precision, so that every device turns an image by the same pixels.
    """
    radians = -np.deg2rad(angles())
    cosine, sine = np.cos(radians), np.sin(radians)
    half = size / 2
    across, down = half - half * (cosine + sine), half - half * (cosine - sine)
    # Pixels are taken at their centres, half a pixel from their corners.
    exact = [cosine, sine, across + (cosine + sine) / 2, -sine, cosine, down + (cosine - sine) / 2]
    return np.floor(np.stack(exact, axis=1) * ONE + 0.5).astype(np.int32)
