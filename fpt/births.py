"""The values that parameters are born with, but for a checkpoint's own: a function of (key, name), the same on every device.

Drawn on the host: a body's 85 million numbers are there before XLA would have compiled their first draw.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from zlib import crc32

import jax
import numpy as np

GAIN = 1.41  # of an orthogonal input layer, in the released code
SPREAD = 0.02  # of GPT-2's weights
AT_ONCE = 2**16  # numbers
# Of mimetic attention: a product of two matrices is (noise of this size) + sign x (this) x identity.
QUERY_KEY, VALUE_PROJECTION = 0.7, 0.4

Seeded = Callable[[str], np.random.Generator]  # a text -> the generator that it and the key stand for
Draw = Callable[[Seeded], np.ndarray]


def draw(shapes: dict[str, tuple[int, ...]], key, layers: int, depth_scaled: bool = False,
         dtypes: Mapping[str, Any] | None = None, instead: Mapping[str, Draw] | None = None) -> dict[str, np.ndarray]:
    """Fresh values by name, for parameters of these shapes; float32, or rounded to what `dtypes` says of a name.

    instead: how parameters are drawn that are not born in the way that follows.

    Body: GPT-2's own initialisation, N(0, 0.02) for matrices and positions, norms at 1 and 0, zero biases; with
    `depth_scaled` residual projections have 0.02 / sqrt(2 layers), as transformers has since 2021 (the original
    experiments predate it).  Input layer: orthogonal with gain 1.41, zero bias; N(0, 1) for symbols.  Output layer: as
    torch draws a linear one, uniform within 1 / sqrt(width).
    """
    seed = np.asarray(jax.random.key_data(key)).tolist()
    residual = SPREAD / math.sqrt(2 * layers) if depth_scaled else SPREAD
    width = shapes["output/kernel"][0] if "output/kernel" in shapes else 1

    def seeded(text: str) -> np.random.Generator:
        return np.random.default_rng([*seed, crc32(text.encode())])

    def value(name: str) -> np.ndarray:
        shape, dtype = shapes[name], (dtypes or {}).get(name, np.float32)
        if instead and name in instead:
            return instead[name](seeded).astype(dtype)
        generator = seeded(name)
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


def from_statistics(values: Mapping[str, np.ndarray], group: Callable[[str], str]) -> dict[str, Draw]:
    """How parameters are drawn that keep of a checkpoint's values only their mean and standard deviation (Lu et al. 2021, 3.8).

    group: name -> that of the group over which both are taken.  Values are normal, and independent.
    """
    members: dict[str, list[np.ndarray]] = {}
    for name, value in values.items():
        members.setdefault(group(name), []).append(np.asarray(value, np.float32).ravel())
    stated = {}
    for name, parts in members.items():
        joined = np.concatenate(parts)
        stated[name] = joined.mean(dtype=np.float64), joined.std(dtype=np.float64)

    def normal(name: str, shape: tuple[int, ...]) -> Draw:
        mean, deviation = map(np.float32, stated[group(name)])
        return lambda seeded: mean + deviation * seeded(name).standard_normal(shape, np.float32)

    return {name: normal(name, value.shape) for name, value in values.items()}


def mimetic(names: list[str], width: int, heads: int, sign: int) -> dict[str, Draw]:
    """How the attention matrices among `names` are drawn after Trockman & Kolter 2023, section 4.

    With Z standard normal over sqrt(width): of each head, W_Q W_K' is 0.7 Z + sign 0.7 I as nearly as its rank allows;
    of all heads together, W_V W_O is 0.4 Z - sign 0.4 I.  sign: 1 is what they found in vision transformers and
    propose, -1 what they found in GPT-2.  Biases, and all that is not attention, are theirs as usual; their sinusoidal
    positions are left out, since positions are trained here.
    """
    size = width // heads

    def factors(generator: np.random.Generator, scale: float, sign: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Two matrices [width, rank] and [rank, width] whose product is nearest to what is asked for."""
        noise = generator.standard_normal((width, width)) / math.sqrt(width)
        left, values, right = np.linalg.svd(scale * noise + sign * scale * np.eye(width))
        signs = np.sign(left[0])  # which of the two that it may be, a library is free to choose
        left, right = left * signs, signs[:, None] * right
        root = np.sqrt(values[:rank])
        return left[:, :rank] * root, root[:, None] * right[:rank]

    def joint(block: str) -> Draw:
        def drawn(seeded: Seeded) -> np.ndarray:
            pairs = [factors(seeded(f"{block}/head {head}"), QUERY_KEY, sign, size) for head in range(heads)]
            query, key = np.hstack([left for left, _ in pairs]), np.hstack([right.T for _, right in pairs])
            return np.hstack([query, key, factors(seeded(f"{block}/value"), VALUE_PROJECTION, -sign, width)[0]])
        return drawn

    def out(block: str) -> Draw:
        return lambda seeded: factors(seeded(f"{block}/value"), VALUE_PROJECTION, -sign, width)[1]

    kinds = {"c_attn/kernel": joint, "c_proj/kernel": out}
    found = ((name, re.fullmatch(r"(body/h_\d+/attn)/(.*)", name)) for name in names)
    return {name: kinds[match[2]](match[1]) for name, match in found if match and match[2] in kinds}
