"""The fixed splits that a run is evaluated on: a sample of one, and whether they are those that it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import numpy as np

from fpt.arrays import digest
from fpt.errors import UserError
from fpt.task import Split


def sampled(name: str, size: int, examples: int | None) -> np.ndarray:
    """Chooses the examples that stand for the split of that name and size: their numbers, int [examples], ascending.

    The first `examples` of a fixed permutation, so that a larger sample holds every smaller one, and the order in which
    a task lists its examples does not matter.  All of them for None.
    """
    if examples is None or examples >= size:
        return np.arange(size)
    # RandomState, because its streams are promised never to change.
    return np.sort(np.random.RandomState(crc32(name.encode())).permutation(size)[:examples])


def sample(data: Mapping[str, Split], name: str, examples: int | None) -> Split:
    """Takes the examples of a split that `sampled` chooses."""
    split = data[name]
    if examples is None or examples >= len(split.inputs):
        return split  # as it lies there, not copied
    numbers = sampled(name, len(split.inputs), examples)
    return Split(split.inputs[numbers], split.targets[numbers])


def digests(data: Mapping[str, Split]) -> dict[str, str]:
    """Identifies each split by the sha256 of what it holds."""
    return {name: digest(split._asdict()) for name, split in data.items()}


def check(data: Mapping[str, Split], stated: Mapping[str, str], run: str) -> None:
    """Compares splits with the digests that a run states.  Raises UserError where they differ."""
    found = digests(data)
    if differ := sorted(name for name in found.keys() | stated.keys() if found.get(name) != stated.get(name)):
        verb = "differs" if len(differ) == 1 else "differ"
        raise UserError(f"the data here are not those that {run} was trained with ({', '.join(differ)} {verb}); name the "
                        "folder that holds them with --data-dir, or train anew on these in another --out")
