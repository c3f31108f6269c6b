"""Finds the class of a task: by its name in an installed package, or in a user's own file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path
from types import ModuleType

from fpt import contract
from fpt.errors import UserError, nearest
from fpt.files import cache_folder, write_whole
from fpt.packages import member, offered
from fpt.task import Task


def find(name: str) -> type[Task]:
    """Imports the task that an installed package offers by a name: `bit-xor`, `self-mnist`.

    Raises UserError naming the nearest name.
    """
    for prefix, maker in offered("DERIVED").items():
        if name.startswith(prefix):
            return member(maker)(find(name.removeprefix(prefix)))
    tasks = offered("TASKS")
    known = tasks | offered("BIRTHS")
    if name not in known:
        raise nearest(name, tasks, "task")
    return member(known[name])


def from_file(path: Path) -> type[Task]:
    """Executes a user's file, remembers that it was executed, and gives the one Task it defines.

    Raises UserError where the file defines none or several, or the class breaks the contract.
    """
    if not os.path.isfile(path):
        raise UserError(f"no task file at {path}")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"the task file {path} cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(source).hexdigest()
    module = ModuleType(f"own_task_{digest}")
    module.__file__ = os.fsencode(path).decode(errors="replace")  # jax takes names in UTF-8 only
    sys.modules[module.__name__] = module  # where dataclasses look up the annotations of a class
    try:
        # Importing would write compiled code beside the file, and could take an older one's for it.
        exec(compile(source, module.__file__, "exec", dont_inherit=True), vars(module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's code raises, sys.exit() included
        said = contract.raised(error, module.__file__)
        raise UserError(f"{path} cannot be imported: {said}") from error
    found = [value for value in vars(module).values() if isinstance(value, type)
             and issubclass(value, Task) and value.__module__ == module.__name__]
    if len(found) != 1:
        raise UserError(f"{path} must define one subclass of fpt.task.Task, not {len(found)}")
    contract.check_class(found[0])
    with contextlib.suppress(UserError):  # else a run's task file is asked for again
        write_whole(_mark(digest), b"")
    return found[0]


def executed(digest: str) -> bool:
    """Tells whether a task file of this sha256 was executed on this machine before."""
    return _mark(digest).is_file()


def _mark(digest: str) -> Path:
    return cache_folder() / "task-files" / digest
