"""Stores tokenizers under the SHA-256 of their content, by which a record names them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from fpt.errors import UserError
from fpt.files import cache_folder, sha256, write_whole

DIGEST = "sha256:"  # begins the name of a tokenizer that a record gives


def kept(name: str) -> str:
    """Names the tokenizer in a file by its digest, and keeps a copy of the file in the cache.

    A name that is a digest is returned.  Raises UserError where there is no such file.
    """
    if name.startswith(DIGEST):
        return name
    file = found(name)
    digest = sha256(file)
    if not _place(digest).exists():
        with contextlib.suppress(UserError):  # without a copy, the file must be named again
            write_whole(_place(digest), file.read_bytes())
    return DIGEST + digest


def found(name: str) -> Path:
    """Finds the file of a tokenizer that is named by its path or by its digest."""
    if not name.startswith(DIGEST):
        if not os.path.isfile(name):
            raise UserError(f"no tokenizer at {name}; --tokenizer takes a tokenizer.json")
        return Path(name)
    place = _place(name.removeprefix(DIGEST))
    if not place.is_file():
        raise UserError(f"the tokenizer {name[:19]}... is not in the cache; put its tokenizer.json "
                        f"at {place}")
    if DIGEST + sha256(place) != name:
        raise UserError(f"{place} is damaged; put the right tokenizer.json there")
    return place


def _place(digest: str) -> Path:
    return cache_folder() / "tokenizers" / f"{digest}.json"
