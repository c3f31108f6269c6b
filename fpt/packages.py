"""Lists the installed packages that offer tasks.

A package offers tasks by an entry point of the group `fpt.tasks`, which names a module with three
mappings: `TASKS` and `BIRTHS` (tasks that a body is pretrained on; not the births of `fpt.births`)
from the name of a task to "module:class", and `DERIVED` from the prefix of a name to
"module:function", which makes the class of the task PREFIX-NAME from that of the task NAME.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from fpt.errors import UserError


@cache
def packages() -> tuple[ModuleType, ...]:
    """Imports the modules that offer tasks.  Raises UserError where none is installed."""
    if not (found := entry_points(group="fpt.tasks")):
        raise UserError("no package of tasks is installed; run `pip install -e .` in the project")
    return tuple(point.load() for point in found)


def offered(kind: str) -> dict[str, str]:
    """Joins the packages' mappings of one kind: TASKS, BIRTHS or DERIVED."""
    return {name: place for package in packages() for name, place in getattr(package, kind).items()}


def member(place: str) -> Any:
    """Imports what "module:name" names."""
    module, name = place.split(":")
    return getattr(import_module(module), name)
