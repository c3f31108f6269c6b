"""The values that fresh parameters are born with: a function of (key, name), the same on every device and jax.

Drawn on the host: a body's 85 million numbers are there before XLA would have compiled their first draw.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from zlib import crc32

import jax
import numpy as np

GAIN = 1.41  # of an orthogonal input layer, in the released code
SPREAD = 0.02  # of GPT-2's weights
AT_ONCE = 2**16  # numbers


def draw(shapes: dict[str, tuple[int, ...]], key, layers: int, depth_scaled: bool = False,
         dtypes: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
    """Fresh values by name, for parameters of these shapes; float32, or rounded to what `dtypes` says of a name.

    Body: GPT-2's own initialisation, N(0, 0.02) for matrices and positions, norms at 1 and 0, zero biases; with
    `depth_scaled` residual projections have 0.02 / sqrt(2 layers), as transformers has since 2021 (the original
    experiments predate it).  Input layer: orthogonal with gain 1.41, zero bias; N(0, 1) for symbols.  Output layer: as
    torch draws a linear one, uniform within 1 / sqrt(width).
    """
    seed = np.asarray(jax.random.key_data(key)).tolist()
    residual = SPREAD / math.sqrt(2 * layers) if depth_scaled else SPREAD
    width = shapes["output/kernel"][0] if "output/kernel" in shapes else 1

    def value(name: str) -> np.ndarray:
        shape, dtype = shapes[name], (dtypes or {}).get(name, np.float32)
        generator = np.random.default_rng([*seed, crc32(name.encode())])
        if name.startswith("output/"):
            return generator.uniform(-1, 1, shape).astype(dtype) / dtype(math.sqrt(width))
        if name == "input/kernel":
            return GAIN * _orthogonal(_normal(generator, shape, 1, dtype))
        if name == "input/embedding":
            return _normal(generator, shape, 1, dtype)
        if name.endswith("/bias"):
            return np.zeros(shape, dtype)
        if name.endswith("/scale"):
            return np.ones(shape, dtype)
        return _normal(generator, shape, residual if re.search("/c_proj/kernel$", name) else SPREAD, dtype)

    with ThreadPoolExecutor() as threads:
        return dict(zip(shapes, threads.map(value, shapes)))


def _normal(generator: np.random.Generator, shape: tuple[int, ...], spread: float, dtype) -> np.ndarray:
    """N(0, spread) in `dtype`, a few rows at a time: a whole body in float32 beside itself would be most of the memory."""
    drawn = _aligned(shape, np.dtype(dtype))
    rows = max(1, AT_ONCE // shape[1])
    for first in range(0, shape[0], rows):
        part = drawn[first : first + rows]
        part[:] = generator.standard_normal(part.shape, np.float32) * np.float32(spread)
    return drawn


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory that begins at a multiple of 64 bytes, which jax takes over on a CPU instead of copying it."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def _orthogonal(matrix: np.ndarray) -> np.ndarray:
    """Orthonormal rows or columns, whichever are fewer, in a direction drawn uniformly (Saxe et al. 2014)."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    basis, triangle = np.linalg.qr(tall)
    basis = basis * np.sign(np.diag(triangle))
    return (basis if tall is matrix else basis.T).astype(np.float32)
