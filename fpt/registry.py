"""Finds the class of a task by its name, and that of a task or a body in a user's own file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path
from types import ModuleType

from fpt import contract
from fpt.body import Body
from fpt.errors import UserError, nearest
from fpt.files import cache_folder, sha256, write_whole
from fpt.packages import member, offered
from fpt.task import Task

OWN = "own_"  # begins the names of the modules that users' files make


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
    """Executes a user's file, and gives the one Task that it defines, if it keeps the contract."""
    found = _executed(path, Task)
    contract.check_class(found)
    _remember(path)
    return found


def body_from_file(path: Path) -> type[Body]:
    """Executes a user's file, and gives the one Body that it defines, if it keeps the contract."""
    from fpt.contract_body import check_body_class  # with jax, which `--help` does without

    found = _executed(path, Body)
    check_body_class(found, str(path))
    _remember(path)
    return found


def _executed(path: Path, base: type) -> type:
    """Executes a file, and gives the one subclass of `base` that it defines.

    Raises UserError where the file cannot be executed, or defines none or several.
    """
    what = base.__name__.lower()
    if not os.path.isfile(path):
        raise UserError(f"no {what} file at {path}")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"the {what} file {path} cannot be read: {error.strerror}") from None
    module = ModuleType(f"{OWN}{what}_{hashlib.sha256(source).hexdigest()}")
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
             and issubclass(value, base) and value.__module__ == module.__name__]
    if len(found) != 1:
        raise UserError(f"{path} must define one subclass of {base.__module__}.{base.__name__}, "
                        f"not {len(found)}")
    return found[0]


def fault(error: Exception) -> str | None:
    """Describes on one line an exception that was raised in a user's own file, or in what the file
    called; returns None for one that came through no such file."""
    files = {module.__file__ for name, module in sys.modules.items() if name.startswith(OWN)}
    through = next((file for file in files if contract.lines_of(error, file)), None)
    return through and f"{through} raised {contract.raised(error, through)}"


def _remember(path: Path) -> None:
    """Records that a file was executed on this machine: loading a run permits only such a file.

    Where this cannot be written, the user has to name the file again when a run is loaded.
    """
    with contextlib.suppress(UserError):
        write_whole(_mark(sha256(path)), b"")


def executed(digest: str) -> bool:
    """Tells whether a user's file of this sha256 was executed on this machine before."""
    return _mark(digest).is_file()


def _mark(digest: str) -> Path:
    return cache_folder() / "task-files" / digest
