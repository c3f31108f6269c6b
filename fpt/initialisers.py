"""Draws the first values of parameters: functions of (seed, name), the same on every device.

NumPy draws them on the host: the 85 million numbers of a body are there before XLA would have
compiled their first draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any
from zlib import crc32

import jax
import numpy as np

from fpt.body import Initialiser, Seeded, Table

AT_ONCE = 2**16  # numbers that are drawn at once


def draw(table: Table, key, dtypes: Mapping[str, Any] = MappingProxyType({})
         ) -> dict[str, np.ndarray]:
    """Draws a value for each parameter of a table, in float32 or the dtype stated for its name."""
    seed = np.asarray(jax.random.key_data(key)).tolist()

    def seeded(text: str) -> np.random.Generator:
        return np.random.default_rng([*seed, crc32(text.encode())])

    def value(name: str) -> np.ndarray:
        dtype = dtypes.get(name, np.float32)
        drawn = table[name].initialiser(seeded, name, table[name].shape, dtype)
        return drawn.astype(dtype, copy=False)

    with ThreadPoolExecutor() as threads:
        return dict(zip(table, threads.map(value, table)))


def zeros(seeded: Seeded, name: str, shape: tuple[int, ...], dtype) -> np.ndarray:
    """Fills a parameter with zeros."""
    return np.zeros(shape, dtype)


def ones(seeded: Seeded, name: str, shape: tuple[int, ...], dtype) -> np.ndarray:
    """Fills a parameter with ones."""
    return np.ones(shape, dtype)


def normal(deviation: float) -> Initialiser:
    """Makes an initialiser that draws from N(0, deviation^2)."""
    return lambda seeded, name, shape, dtype: _normal(seeded(name), shape, deviation, dtype)


def uniform(fan: int) -> Initialiser:
    """Makes an initialiser that draws uniformly within 1 / sqrt(fan), as torch's linear layers."""
    def initialise(seeded, name, shape, dtype):
        drawn = seeded(name).uniform(-1, 1, shape).astype(np.float32)
        return drawn / np.float32(math.sqrt(fan))

    return initialise


def orthogonal(gain: float) -> Initialiser:
    """Makes an initialiser of `gain` times orthonormal rows or columns, whichever are fewer.

    Their directions are drawn uniformly (Saxe et al. 2014).
    """
    def initialise(seeded, name, shape, dtype):
        matrix = _normal(seeded(name), shape, 1, np.float32)
        tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
        basis, triangle = np.linalg.qr(tall)
        basis = basis * np.sign(np.diag(triangle))
        return gain * (basis if tall is matrix else basis.T).astype(np.float32)

    return initialise


def _normal(generator: np.random.Generator, shape: tuple[int, ...], deviation: float, dtype):
    """Draws an array from N(0, deviation^2), a few rows at a time.

    So no float32 copy of the whole array is held beside the one in `dtype`.
    """
    drawn = _aligned(shape, np.dtype(dtype))
    rows = max(1, AT_ONCE // math.prod(shape[1:]))
    for first in range(0, shape[0], rows):
        part = drawn[first : first + rows]
        part[:] = generator.standard_normal(part.shape, np.float32) * np.float32(deviation)
    return drawn


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Allocates an array at an address that 64 divides: jax on a CPU uses it without a copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)
