"""Writing to the cache folder; and arrays that are kept there, and made again where they are not what was written."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fpt.errors import UserError
from fpt.files import cache_folder, write_whole

ELSEWHERE = "or name another folder with FPT_CACHE"


def cached(name: str, make: Callable[[], dict[str, np.ndarray]], report: Callable[[str], None]) -> dict[str, np.ndarray]:
    """What `make` gives, made once for each name and kept in the cache folder as `name`.safetensors.

    The file holds a digest of its name and of all that is in it.  Where that does not fit, `report` is told and the arrays
    are made again.  Raises UserError, before anything is made, where the file could not be written.
    """
    path = cache_folder() / f"{name}.safetensors"
    try:
        return _read(path, name)
    except FileNotFoundError:
        pass
    except Exception:  # a damaged file may make the reader raise anything
        report(f"{path} is damaged; making it again")
    if path.is_dir():
        raise UserError(f"{path} is a folder where a file belongs; remove it, {ELSEWHERE}")
    make_folder(path.parent)
    arrays = make()
    from safetensors.numpy import save

    write(path, save(arrays, {"sha256": _digest(name, arrays)}))
    return arrays


def make_folder(folder: Path) -> None:
    """Makes a folder of the cache.  Raises UserError, which names FPT_CACHE, where it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; make it writable, {ELSEWHERE}") from error


def write(path: Path, content: bytes) -> None:
    """Writes a file of the cache whole or not at all; where that fails, the UserError names FPT_CACHE."""
    try:
        write_whole(path, content)
    except UserError as error:
        raise UserError(f"{error} with FPT_CACHE") from error


def _read(path: Path, name: str) -> dict[str, np.ndarray]:
    """The arrays of a file.  Raises FileNotFoundError where there is none, anything else where it is not as it was written."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}
        if file.metadata() != {"sha256": _digest(name, arrays)}:
            raise ValueError("the digest differs")
    return arrays


def _digest(name: str, arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of a file's name, and of the names, types, shapes and numbers of its arrays."""
    stated = [[key, array.dtype.str, array.shape] for key, array in sorted(arrays.items())]
    digest = hashlib.sha256(json.dumps([name, stated]).encode())
    for _, array in sorted(arrays.items()):
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
