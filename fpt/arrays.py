"""Reads and writes named arrays as safetensors files with a digest, so that damage is noticed."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fpt.errors import UserError

ABOUT, DIGEST = "fpt", "sha256"  # the key of a file's metadata, and that of the digest within it


def digest(arrays: Mapping[str, Any]) -> str:
    """Computes the sha256 of the arrays' names and bytes, in order of name."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        state.update(name.encode())
        state.update(np.ascontiguousarray(arrays[name]).tobytes())
    return state.hexdigest()


def _content(arrays: Mapping[str, np.ndarray], about: str) -> str:
    """Computes the digest of a whole file: arrays, their shapes and dtypes, and the description."""
    shapes = {name: [str(arrays[name].dtype), *arrays[name].shape] for name in sorted(arrays)}
    return hashlib.sha256(f"{digest(arrays)}{json.dumps(shapes)}{about}".encode()).hexdigest()


def pack(arrays: Mapping[str, Any], about: Mapping[str, Any]) -> bytes:
    """Packs named arrays and their description into the bytes of a safetensors file.

    Equal arrays and descriptions give equal bytes.  about: the description, stored as JSON in the
    file's metadata.
    """
    from safetensors.numpy import save

    # Arrays in another order than C are written wrongly by safetensors, without an error.
    arrays = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    text = json.dumps(about, sort_keys=True, allow_nan=False)
    # One key of metadata: safetensors writes several in an order that differs from call to call.
    stated = json.dumps({"about": text, DIGEST: _content(arrays, text)}, sort_keys=True)
    return save(arrays, metadata={ABOUT: stated})


def unpack(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads the arrays of a file by name, and their description.

    Raises UserError where the file is missing, or does not hold what was written.
    """
    with _opened(path) as (file, stated):
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    if DIGEST not in stated:  # written before files had a digest
        return arrays, stated
    if _content(arrays, stated["about"]) != stated[DIGEST]:
        raise _damaged(path, "it does not hold what was written")
    return arrays, json.loads(stated["about"])


def described(path: Path) -> dict[str, Any]:
    """Reads the description of a file's arrays alone: damage to the arrays is not noticed."""
    with _opened(path) as (_, stated):
        return json.loads(stated["about"]) if DIGEST in stated else stated


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Opens a safetensors file and reads its metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            stated = json.loads((file.metadata() or {}).get(ABOUT, "null"))
            # Both keys of today, or, written before files had a digest, neither.
            if not isinstance(stated, dict) or len(stated.keys() & {"about", DIGEST}) == 1:
                raise ValueError("it does not say what it is")
            yield file, stated
    except FileNotFoundError:
        raise UserError(f"no {path.name} in {path.parent}; the run is not finished") from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, how: object) -> UserError:
    return UserError(f"{path} is damaged ({how}); delete it and train again")
