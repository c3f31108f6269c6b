"""Chooses the examples of a split that runs are scored on, and compares splits with a record's."""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import numpy as np

from fpt.arrays import digest
from fpt.errors import UserError
from fpt.task import Split


def sampled(name: str, size: int, examples: int | None) -> np.ndarray:
    """Chooses a fixed sample of a split's examples: their numbers, int [examples], ascending.

    name, size: the split's.  examples: how many; None, or more than there are, takes all.  A larger
    sample holds every smaller one, and the order in which a task lists its examples does not
    matter: the sample is the first `examples` of a fixed permutation.
    """
    if examples is None or examples >= size:
        return np.arange(size)
    # RandomState, because its streams are promised never to change.
    return np.sort(np.random.RandomState(crc32(name.encode())).permutation(size)[:examples])


def sample(data: Mapping[str, Split], name: str, examples: int | None) -> Split:
    """Takes the examples of the split called `name` that `sampled` chooses."""
    split = data[name]
    if examples is None or examples >= len(split.inputs):
        return split  # without a copy
    numbers = sampled(name, len(split.inputs), examples)
    return Split(split.inputs[numbers], split.targets[numbers])


def digests(data: Mapping[str, Split]) -> dict[str, str]:
    """Computes the sha256 of each split's arrays."""
    return {name: digest(split._asdict()) for name, split in data.items()}


def check(found: Mapping[str, str], stated: Mapping[str, str], run: str) -> None:
    """Raises UserError where the digests of splits differ from those in the record of `run`."""
    if differ := sorted(name for name in found.keys() | stated.keys()
                        if found.get(name) != stated.get(name)):
        verb = "differs" if len(differ) == 1 else "differ"
        raise UserError(f"the data here are not those that {run} was trained with "
                        f"({', '.join(differ)} {verb}); name the folder that holds them with "
                        "--data-dir, or train anew on these in another --out")
