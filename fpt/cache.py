"""Writing to the cache folder; and arrays that are kept there, and made again where they are not what was written."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fpt.arrays import pack, unpack
from fpt.errors import UserError
from fpt.files import cache_folder, write_whole

ELSEWHERE = "or name another folder with FPT_CACHE"


def cached(name: str, make: Callable[[], dict[str, np.ndarray]], report: Callable[[str], None]) -> dict[str, np.ndarray]:
    """What `make` gives, made once for each name and kept in the cache folder as `name`.safetensors.

    Where the file is damaged, or was made under another name, `report` is told and the arrays are made again.  Raises
    UserError, before anything is made, where the file could not be written.
    """
    path = cache_folder() / f"{name}.safetensors"
    if path.is_dir():
        raise UserError(f"{path} is a folder where a file belongs; remove it, {ELSEWHERE}")
    if path.exists():
        try:
            arrays, about = unpack(path)
            if about == {"cached": name}:
                return arrays
        except UserError:
            pass
        report(f"{path} is damaged; making it again")
    make_folder(path.parent)
    arrays = make()
    write(path, pack(arrays, {"cached": name}))
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
