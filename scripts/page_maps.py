"""Packs attention maps for a page: as exactly as its size allows, and small enough to be mailed.

A *view* is what one model shows on one example, or on the mean of many: a map for each layer and
head.  Its *grid* holds all of them, in blocks of tokens where there are more than 64.  Beside a
grid in blocks lie, token by token, the rows of the tokens that are read (those from whose hidden
states the output is computed), and the whole map of as many heads as the page has room for.

Only what is not above the diagonal is stored: for each map and row the largest weight, float32,
then each weight as a fraction of it, rounded to a whole number of 16 or 8 bits, the high bytes
before the low ones; deflated, in base64.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SIDE = 64  # blocks of a map in the grid, at most
# Plans from the most exact to the smallest.
LADDER = ((16, SIDE, False), (8, SIDE, False),
          *((8, SIDE // divisor, True) for divisor in (1, 2, 4, 8)))
EXPECTED = 4  # cells of a whole map that a byte of the page has room for, at most: they deflate
Head = tuple[int, int]  # layer and head, from 0


@dataclass(frozen=True)
class View:
    """Describes what a model shows on one example, or on the mean of many."""

    heads: int  # in all layers
    tokens: int  # that are no pads
    read: Sequence[int]  # places of the tokens that are read
    spare: bool  # whether it may be left out of a page that gets too large
    maps: Callable[[], Iterable[Any]]  # gives the maps of each layer, [H, T, T]


@dataclass(frozen=True)
class Plan:
    """Describes how exactly the maps of a page are stored."""

    bits: int  # of a number: 16 or 8
    side: int  # blocks of a map in the grid, at most
    thin: bool  # whether views that can be spared are left out

    def block(self, tokens: int) -> int:
        """Counts the tokens of a block, for an example of this many tokens."""
        return math.ceil(tokens / self.side)


def plan(views: Sequence[View], room: float) -> Plan:
    """Chooses how finely maps are stored so that those of all views fit into `room` bytes: how many
    bits a weight has, and how many tokens are pooled to one.

    Where tokens are pooled, the maps get half of the room.  The other half is left for the rows
    and maps that are stored beside them token by token.
    """
    for rung in LADDER:
        found = Plan(*rung)
        kept = [view for view in views if not (found.thin and view.spare)]
        blurred = any(found.block(view.tokens) > 1 for view in kept)
        sides = [(view.heads, math.ceil(view.tokens / found.block(view.tokens))) for view in kept]
        size = sum(heads * (cells(side) * found.bits / 8 + 4 * side) for heads, side in sides)
        if size * 4 / 3 <= (room / 2 if blurred else room) and not (blurred and found.bits == 16):
            break
    return found


def cells(side: int) -> int:
    """Counts the cells of a square map that are not above its diagonal."""
    return side * (side + 1) // 2


def causal(maps: np.ndarray) -> np.ndarray:
    """Takes the cells not above the diagonal, row after row, out of maps [..., n, n]: returns
    [..., n (n + 1) / 2]."""
    rows, columns = np.tril_indices(maps.shape[-1])
    return maps[..., rows, columns]


def pooled(maps: np.ndarray, block: int) -> np.ndarray:
    """Pools maps [..., T, T] to [..., n, n]: the weight that a block of keys gets together,
    averaged over a block of queries.

    Rows sum to one as before; the last block may be smaller.
    """
    if block == 1:
        return maps
    tokens = maps.shape[-1]
    starts = np.arange(0, tokens, block)
    keys = np.add.reduceat(maps, starts, axis=-1, dtype=np.float64)
    summed = np.add.reduceat(keys, starts, axis=-2)
    return (summed / np.diff(starts, append=tokens)[:, None]).astype(np.float32)


@dataclass
class Store:
    """Holds the packed arrays of a page, and the largest difference between a number that they give
    back and the model's own."""

    blobs: list[str] = field(default_factory=list)
    size: int = 0
    difference: float = 0.0

    def add(self, values: np.ndarray, bits: int, most: float = math.inf,
            first: int = 1) -> dict[str, int] | None:
        """Packs weights [maps, cells], float32, and returns what the page needs to read them; None
        where they take more than `most` bytes.

        first: how many cells the first row of each map has; each row has one more than the row
        before it.
        """
        lengths = lengths_of(values.shape[1], first)
        scales = np.maximum.reduceat(values, np.cumsum(lengths) - lengths, axis=1)
        wide = np.repeat(np.where(scales > 0, scales, 1), lengths, axis=1).astype(np.float64)
        levels = 2**bits - 1
        numbers = np.rint(values / wide * levels).astype(np.uint16)
        planes = [numbers >> 8, numbers & 255] if bits == 16 else [numbers]
        content = [scales.astype("<f4"), *(plane.astype(np.uint8) for plane in planes)]
        packed = zlib.compress(b"".join(part.tobytes() for part in content), 9)
        blob = base64.b64encode(packed).decode()
        if len(blob) > most:
            return None
        difference = np.abs(numbers / levels * wide - values).max()
        self.difference = max(self.difference, float(difference))
        self.blobs.append(blob)
        self.size += len(blob)
        return {"blob": len(self.blobs) - 1, "bits": bits, "maps": len(values),
                "rows": len(lengths), "first": first}


def lengths_of(cells: int, first: int) -> np.ndarray:
    """Returns the lengths of rows that begin with `first`, grow by one, and sum to `cells`."""
    rows = round((math.sqrt((2 * first - 1) ** 2 + 8 * cells) - 2 * first + 1) / 2)
    return np.arange(first, first + rows)


def pack(moments: Sequence[Sequence[View]], first: int, asked: Sequence[Head],
         ranked: Sequence[Head], room: float) -> tuple[Store, list[list[dict[str, Any] | None]]]:
    """Packs the views of each model into `room` bytes, and returns where each is stored; None for a
    view that is left out.

    first: the number of the model that matters most.  asked: heads whose whole maps are kept before
    all others, in all views.  ranked: heads whose whole maps are kept as far as there is room, in
    the first and the last view of model `first` alone.
    """
    store = Store()
    chosen = plan([view for views in moments for view in views], room)
    order = sorted(range(len(moments)), key=lambda number: number != first)
    places = [(m, v) for m in order for v, view in enumerate(moments[m])
              if not (chosen.thin and view.spare)]
    wanted = [(m, v, head) for head in asked for m, v in places]
    wanted += [(first, v, head) for head in ranked for v in (0, len(moments[first]) - 1)]
    wanted = [(m, v, head) for m, v, head in dict.fromkeys(wanted)
              if chosen.block(moments[m][v].tokens) > 1]
    sizes = [cells(moments[m][v].tokens) for m, v, _ in wanted]
    wanted = wanted[: int(np.searchsorted(np.cumsum(sizes), EXPECTED * room, side="right"))]
    found: list[list[dict[str, Any] | None]] = [[None] * len(views) for views in moments]
    rows, whole = {}, {}
    for m, v in places:
        view, grids, at_read = moments[m][v], [], []
        tokens, block = view.tokens, chosen.block(view.tokens)
        for layer, maps in enumerate(view.maps()):
            maps = np.asarray(maps)[:, :tokens, :tokens]
            grids.append(causal(pooled(maps, block)))
            if block > 1 and len(view.read):
                at_read.append(np.concatenate(
                    [maps[:, place, : place + 1] for place in view.read], axis=1))
            for head in range(len(maps)):
                if (m, v, (layer, head)) in wanted:
                    whole[m, v, (layer, head)] = causal(maps[head])
        found[m][v] = {"block": block, "grid": store.add(np.concatenate(grids), chosen.bits),
                       "rows": None, "whole": {}}
        if at_read:
            rows[m, v] = np.concatenate(at_read)
    for (m, v), values in rows.items():
        first_row = moments[m][v].read[0] + 1
        for bits in (16, 8):
            found[m][v]["rows"] = found[m][v]["rows"] or store.add(
                values, bits, (room - store.size) / 4, first_row)
    for m, v, head in wanted:
        if (stored := store.add(whole[m, v, head][None], 8, room - store.size)) is not None:
            found[m][v]["whole"]["{}.{}".format(*head)] = stored
    return store, found
