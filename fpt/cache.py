"""Writes to the cache folder, and keeps arrays there that can be made again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fpt.arrays import pack, unpack
from fpt.errors import UserError
from fpt.files import cache_folder, write_whole

ELSEWHERE = "or name another folder with FPT_CACHE"


def cached(name: str, make: Callable[[], dict[str, np.ndarray]],
           report: Callable[[str], None]) -> dict[str, np.ndarray]:
    """Reads arrays from `name`.safetensors in the cache, or makes them and writes them there.

    make: makes the arrays.  report: called with a line of text where the file is damaged, or was
    written under another name (it records its name), so that its arrays are made again.  Raises
    UserError, before anything is made, where the cache folder cannot be written.
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
    """Makes a folder in the cache, or raises a UserError that names FPT_CACHE."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # fails where the folder cannot be written
            pass
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; make it writable, "
                        f"{ELSEWHERE}") from error


def write(path: Path, content: bytes) -> None:
    """Writes a file in the cache whole, or raises a UserError that names FPT_CACHE."""
    try:
        write_whole(path, content)
    except UserError as error:
        raise UserError(f"{error} with FPT_CACHE") from error
