"""Defines births: ways to give first values to the parameters that `--load` names.

The birth `weights` copies the checkpoint's values.  Every other birth replaces the initialisers of
some parameters: by statistics of the checkpoint's values, or by a formula that needs none of them.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    from fpt.body import Body, Initialiser, Seeded, Table

# In mimetic attention, a product of two matrices is noise and identity, each of this size.
QUERY_KEY, VALUE_PROJECTION = 0.7, 0.4


class Birth(ABC):
    """Describes one way to make the values of parameters, other than copying a checkpoint's."""

    reads: ClassVar[bool]  # whether it needs the checkpoint's values of what it makes
    exact: ClassVar[bool]  # whether every kind of CPU makes the same bits
    roles: ClassVar[frozenset[str] | None] = None  # the roles that it can make; None for all

    @abstractmethod
    def initialisers(self, table: Table, values: Mapping[str, np.ndarray], body: Body
                     ) -> dict[str, Initialiser]:
        """Makes an initialiser for each parameter of a table that this birth can make.

        values: the checkpoint's values by name, where the birth reads them.
        """


@dataclass(frozen=True)
class Statistics(Birth):
    """Draws normal numbers with the mean and deviation of the checkpoint's (Lu et al. 2021, 3.8).

    These two are taken over each tensor or, `by_layer`, over all kernels, all biases or all gains
    of a layer.
    """

    reads: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    by_layer: bool

    def initialisers(self, table, values, body):
        members: dict[str, list[np.ndarray]] = {}
        for name, value in values.items():  # in the checkpoint's order, which the sums depend on
            flat = np.asarray(value, np.float32).ravel()
            members.setdefault(self._group(name, table), []).append(flat)
        stated = {}
        for group, parts in members.items():
            joined = np.concatenate(parts)
            stated[group] = joined.mean(dtype=np.float64), joined.std(dtype=np.float64)

        def normal(mean: np.float32, deviation: np.float32) -> Initialiser:
            return lambda seeded, name, shape, dtype: (
                mean + deviation * seeded(name).standard_normal(shape, np.float32))

        return {name: normal(*map(np.float32, stated[self._group(name, table)])) for name in table}

    def _group(self, name: str, table: Table) -> str:
        layer = table[name].layer
        return f"{layer}/{name.rpartition('/')[2]}" if self.by_layer and layer is not None else name


@dataclass(frozen=True)
class Mimetic(Birth):
    """Sets the weights of attention by a formula, after Trockman & Kolter 2023, section 4.

    The entries of Z are drawn from N(0, 1 / width), I is the identity, s the `sign`.  W_Q W_K' of
    each head is 0.7 Z + 0.7 s I, as nearly as its rank allows; W_V W_O of all heads together is
    0.4 Z - 0.4 s I.  s = 1 is what they found in vision transformers and propose, s = -1 what they
    found in GPT-2.  Biases keep their initialiser; the paper's sinusoidal positions are left out,
    since positions are trained here.
    """

    reads: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    roles: ClassVar[frozenset[str]] = frozenset({"attention"})
    sign: int

    def initialisers(self, table, values, body):
        kinds = {"c_attn/kernel": self._joint, "c_proj/kernel": self._out}
        found = {}
        for name in table:
            match = re.fullmatch(r"(.*/attn)/(c_attn/kernel|c_proj/kernel)", name)
            if match:
                found[name] = kinds[match[2]](match[1], body.width, body.heads)
        return found

    def _joint(self, block: str, width: int, heads: int) -> Initialiser:
        def initialise(seeded, name, shape, dtype):
            pairs = [self._factors(seeded(f"{block}/head {head}"), width, QUERY_KEY, self.sign)
                     for head in range(heads)]
            size = width // heads
            query = np.hstack([left[:, :size] for left, _ in pairs])
            key = np.hstack([right[:size].T for _, right in pairs])
            return np.hstack([query, key, self._value(seeded, block, width)[0]])

        return initialise

    def _out(self, block: str, width: int, heads: int) -> Initialiser:
        return lambda seeded, name, shape, dtype: self._value(seeded, block, width)[1]

    def _value(self, seeded: Seeded, block: str, width: int) -> tuple[np.ndarray, np.ndarray]:
        return self._factors(seeded(f"{block}/value"), width, VALUE_PROJECTION, -self.sign)

    @staticmethod
    def _factors(generator: np.random.Generator, width: int, scale: float, sign: int
                 ) -> tuple[np.ndarray, np.ndarray]:
        """Draws scale (Z + sign I), [width, width], and factors it by SVD into left and right.

        For each r, left[:, :r] @ right[:r] is its best approximation of rank r.
        """
        noise = generator.standard_normal((width, width)) / math.sqrt(width)
        left, values, right = np.linalg.svd(scale * noise + sign * scale * np.eye(width))
        signs = np.sign(left[0])  # a library is free to choose either sign of a pair of vectors
        left, right = left * signs, signs[:, None] * right
        root = np.sqrt(values)
        return left * root, root[:, None] * right


# The births by name; None stands for the checkpoint's weights themselves.
BIRTHS: dict[str, Birth | None] = {
    "weights": None,
    "statistics": Statistics(by_layer=False),
    "statistics-by-layer": Statistics(by_layer=True),
    "mimetic": Mimetic(sign=1),
    "mimetic-language": Mimetic(sign=-1),
}
