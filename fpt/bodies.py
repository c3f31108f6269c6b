"""Finds bodies by name, and lists those whose weights come with the package."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fpt.body import Body

# Kind of body -> its class; the module's BODIES holds those that have names.
KINDS = {
    "gpt2": "fpt.gpt2:GPT2",
    "lstm": "fpt.lstm:LSTM",
    "none": "fpt.identity:Identity",
}
SHIPPED = Path(__file__).parent / "weights"


def named(name: str) -> Body | None:
    """Finds the body of that name; None where no kind of body has one."""
    for place in KINDS.values():
        module = importlib.import_module(place.partition(":")[0])
        if name in module.BODIES:
            return module.BODIES[name]
    return None


def names() -> list[str]:
    """Lists all names that `--body` takes: those of bodies, and of shipped weights."""
    modules = (importlib.import_module(place.partition(":")[0]) for place in KINDS.values())
    known = (name for module in modules for name in module.BODIES)
    return list(dict.fromkeys([*known, *shipped()]))


def stated(body: Body) -> dict[str, Any]:
    """Describes a body as JSON; its kind is stated where it is not GPT-2, `own` for a user's."""
    place = f"{type(body).__module__}:{type(body).__name__}"
    kind = next((kind for kind, known in KINDS.items() if known == place), "own")
    return ({} if kind == "gpt2" else {"kind": kind}) | dataclasses.asdict(body)


def from_stated(found: dict[str, Any], own: type[Body] | None = None) -> Body:
    """Makes the body that JSON describes; `own` is the class that a user's file defines, if any.

    Raises KeyError or TypeError where the JSON describes none.
    """
    sizes = dict(found)
    kind = sizes.pop("kind", "gpt2")
    if own is None:
        module, name = KINDS[kind].split(":")
        own = getattr(importlib.import_module(module), name)
    return own(**sizes)


def shipped() -> list[str]:
    """Lists the names of the bodies whose weights come with the package."""
    return sorted(file.parent.name for file in SHIPPED.glob("*/config.json"))


def weights_digest(digests: Iterable[str]) -> str:
    """Hashes the sha256 of each of a checkpoint's weight files into one digest of 32 hex digits.

    digests: in the order of the files' names.
    """
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:32]
