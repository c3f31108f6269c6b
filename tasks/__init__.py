"""The tasks by name.  Each is a class in a file of its own kind; nothing else in the project knows them by name."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

from fpt import contract
from fpt.errors import UserError, nearest
from fpt.files import cache_folder, write_whole
from fpt.task import Task

TASKS = {
    "bit-memory": "tasks.bits:BitMemory",
    "bit-xor": "tasks.bits:BitXor",
    "listops": "tasks.listops:ListOps",
    "listops-original": "tasks.listops:ListOpsOriginal",
    "mnist": "tasks.images:Mnist",
    "cifar10": "tasks.images:Cifar10",
    "cifar10-lra": "tasks.images:Cifar10Lra",
}
BIRTHS = {  # what a body is pretrained on
    "language": "tasks.language:Language",
    "copy": "tasks.copying:Copying",
}


def find(name: str) -> type[Task]:
    """The class of a task that ships with the project.  Raises UserError naming the nearest name."""
    if name.startswith("self-"):
        from tasks.selfsupervised import on_own_inputs

        return on_own_inputs(find(name.removeprefix("self-")))
    known = TASKS | BIRTHS
    if name not in known:
        raise nearest(name, TASKS, "task")
    module, cls = known[name].split(":")
    return getattr(importlib.import_module(module), cls)


def from_file(path: Path) -> type[Task]:
    """The one subclass of Task that a user's file defines; the file is executed, and remembered as one that was.

    Raises UserError where there is none, or several, and where the class does not keep the contract of a task.
    """
    if not os.path.isfile(path):
        raise UserError(f"no task file at {path}")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(f"the task file {path} cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(source).hexdigest()
    module = ModuleType(f"own_task_{digest}")
    module.__file__ = os.fsencode(path).decode(errors="replace")  # jax takes no name that is not UTF-8
    sys.modules[module.__name__] = module  # where dataclasses look up the annotations of a class
    try:
        # Not by an import, which would write compiled code beside the file, and could take an older one's for it.
        exec(compile(source, module.__file__, "exec", dont_inherit=True), vars(module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's code raises, sys.exit() included
        raise UserError(f"{path} cannot be imported: {contract.raised(error, module.__file__)}") from error
    found = [value for value in vars(module).values()
             if isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__]
    if len(found) != 1:
        raise UserError(f"{path} must define one subclass of fpt.task.Task, not {len(found)}")
    contract.check_class(found[0])
    with contextlib.suppress(UserError):  # where nothing can be remembered, a run's task file is asked for again
        write_whole(_mark(digest), b"")
    return found[0]


def executed(digest: str) -> bool:
    """Tells whether a task file of this sha256 has been executed here before, so that to do it again risks nothing new."""
    return _mark(digest).is_file()


def _mark(digest: str) -> Path:
    return cache_folder() / "task-files" / digest
