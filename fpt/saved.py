"""Reads the arrays in a run's folder, and turns trees of arrays into dictionaries and back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from fpt.arrays import unpack
from fpt.errors import UserError

TRAINABLE, FROZEN = "trainable.safetensors", "frozen.safetensors"


def by_step(folder: Path, kind: str) -> dict[int, Path]:
    """Lists a folder's files called `kind`-<step>.safetensors by step, in order."""
    found = ((re.fullmatch(rf"{kind}-(\d+)\.safetensors", file.name), file)
             for file in folder.iterdir())
    return dict(sorted((int(match[1]), file) for match, file in found if match))


def kept(folder: Path) -> tuple[int, ...]:
    """Lists the steps after which a run's trainable parameters were kept, in order."""
    return tuple(by_step(folder, "trainable"))


def read_kept(folder: Path, step: int, digest: str) -> dict[str, np.ndarray]:
    """Reads the trainable parameters that were kept after a step.

    digest: of the configuration.  Raises UserError where the file is damaged, or another run's.
    """
    file = by_step(folder, "trainable")[step]
    values, about = unpack(file)
    if about != {"digest": digest, "step": step}:
        raise UserError(f"{file} belongs to another run or step; delete it")
    return values


def frozen(folder: Path) -> dict[str, np.ndarray]:
    """Reads the frozen parameters that are kept with a run, if any are."""
    return unpack(folder / FROZEN)[0] if (folder / FROZEN).exists() else {}


def _name(path: tuple) -> str:
    """Names the place of a leaf in its tree."""
    import jax

    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """Copies the leaves of a tree to the host, as a dictionary by path."""
    import jax  # here, since who reads records alone needs no jax

    return {_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def unflatten(leaves: dict[str, np.ndarray], like: Any) -> Any:
    """Rebuilds a tree from its leaves by path.

    like: a tree of the same structure and shapes.  Raises UserError where the leaves do not fit it.
    """
    import jax

    named, structure = jax.tree.flatten_with_path(like)
    shapes = {_name(path): leaf.shape for path, leaf in named}
    if {name: leaf.shape for name, leaf in leaves.items()} != shapes:
        raise UserError("a state does not fit its run; delete the run's state files to start anew")
    return jax.tree.unflatten(structure, [leaves[name] for name in shapes])
