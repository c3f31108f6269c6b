"""The values that fresh parameters are born with: a function of (key, name), the same on every device and version of jax.

Drawn on the host: a body's 85 million numbers are there before XLA would have compiled their first draw.
"""

from __future__ import annotations

import math
import re
from concurrent.futures import ThreadPoolExecutor
from zlib import crc32

import jax
import numpy as np

GAIN = 1.41  # of an orthogonal input layer, in the released code
SPREAD = 0.02  # of GPT-2's weights


def draw(shapes: dict[str, tuple[int, ...]], key, layers: int, depth_scaled: bool = False) -> dict[str, np.ndarray]:
    """Fresh float32 values by name, for parameters of these shapes.

    Body: GPT-2's own initialisation, N(0, 0.02) for matrices and positions, norms at 1 and 0, zero biases; with
    `depth_scaled` residual projections have 0.02 / sqrt(2 layers), as transformers has since 2021 (the original
    experiments predate it).  Input layer: orthogonal with gain 1.41, zero bias; N(0, 1) for symbols.  Output layer: as
    torch draws a linear one, uniform within 1 / sqrt(width).
    """
    seed = np.asarray(jax.random.key_data(key)).tolist()
    residual = SPREAD / math.sqrt(2 * layers) if depth_scaled else SPREAD

    def value(name: str) -> np.ndarray:
        shape = shapes[name]
        generator = np.random.default_rng([*seed, crc32(name.encode())])
        normal = lambda spread: generator.standard_normal(shape, np.float32) * np.float32(spread)
        if name.startswith("output/"):
            bound = 1 / math.sqrt(shapes["output/kernel"][0])
            return generator.uniform(-bound, bound, shape).astype(np.float32)
        if name == "input/kernel":
            return GAIN * _orthogonal(normal(1))
        if name == "input/embedding":
            return normal(1)
        if name.endswith("/bias"):
            return np.zeros(shape, np.float32)
        if name.endswith("/scale"):
            return np.ones(shape, np.float32)
        return normal(residual if re.search("/c_proj/kernel$", name) else SPREAD)

    with ThreadPoolExecutor() as threads:
        return dict(zip(shapes, threads.map(value, shapes)))


def _orthogonal(matrix: np.ndarray) -> np.ndarray:
    """Orthonormal rows or columns, whichever are fewer, in a direction drawn uniformly (Saxe et al. 2014)."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    basis, triangle = np.linalg.qr(tall)
    basis = basis * np.sign(np.diag(triangle))
    return (basis if tall is matrix else basis.T).astype(np.float32)
