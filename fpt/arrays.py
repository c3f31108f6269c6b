"""Files of named arrays: safetensors that carry a digest of all that they hold, so that damage is seen when they are read."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fpt.errors import UserError

ABOUT, DIGEST = "fpt", "sha256"  # keys of our metadata in safetensors files


def digest(arrays: Mapping[str, Any]) -> str:
    """Identifies arrays by the sha256 over their names and bytes, in order of name."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        state.update(name.encode())
        state.update(np.ascontiguousarray(arrays[name]).tobytes())
    return state.hexdigest()


def _content(arrays: Mapping[str, np.ndarray], about: str) -> str:
    """The digest of a file's content: the arrays with their shapes and dtypes, and the text that says what they are."""
    shapes = {name: [str(arrays[name].dtype), *arrays[name].shape] for name in sorted(arrays)}
    return hashlib.sha256(f"{digest(arrays)}{json.dumps(shapes)}{about}".encode()).hexdigest()


def pack(arrays: Mapping[str, Any], about: Mapping[str, Any]) -> bytes:
    """Lays out arrays by name as a safetensors file, with what they are as one JSON text in its metadata; bytes repeat.

    Arrays are laid out in C order: safetensors writes others wrongly, and silently.
    """
    from safetensors.numpy import save

    arrays = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    text = json.dumps(about, sort_keys=True, allow_nan=False)
    # One key of metadata: safetensors writes several in an order that differs from call to call.
    return save(arrays, metadata={ABOUT: json.dumps({"about": text, DIGEST: _content(arrays, text)}, sort_keys=True)})


def unpack(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a file's arrays by name, and what they are.  Raises UserError where it is missing, or not as it was written."""
    with _opened(path) as (file, stated):
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    if DIGEST not in stated:  # written before files had a digest
        return arrays, stated
    if _content(arrays, stated["about"]) != stated[DIGEST]:
        raise _damaged(path, "it does not hold what was written")
    return arrays, json.loads(stated["about"])


def described(path: Path) -> dict[str, Any]:
    """Reads what a file's arrays are, and not the arrays themselves, so that damage may go unseen."""
    with _opened(path) as (_, stated):
        return json.loads(stated["about"]) if DIGEST in stated else stated


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Opens a safetensors file, and reads its metadata.  Raises UserError where it is missing, cut short or damaged."""
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
