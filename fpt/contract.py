"""Checks that the class and the sizes of a task keep the contract, `fpt.task`.

`check_class` looks at the class, `check_sizes` at a task in the sizes that it is run in;
`contract_data` checks its splits and what its methods make of them.  A breach is a UserError of
one line, and so is what a method of a user's own task raises, with the line of the user's file.
What a method of an installed package's task raises is a fault of the package and stays a traceback.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

import numpy as np

from fpt.config import FOUND, Config
from fpt.errors import UserError
from fpt.packages import offered, packages
from fpt.task import HEADS, Interface, Preset, Task

METHODS = ("load", "draw", "encode", "floors", "token_labels", "show", "rank", "symbols",
           "headline", "figures", "slices", "sources", "answer_tokens", "picture", "settings")
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # it begins the name of a run's folder
# What the `settings` of a preset may not state: its own fields, and what comes with a run.
STATED = {"task", "seed", *FOUND, *(field.name for field in fields(Preset))}


def own(task: type[Task]) -> bool:
    """Tells whether a task is a user's own: defined outside of the packages that offer tasks."""
    top = lambda module: module.partition(".")[0]
    return top(task.__module__) not in {top(package.__name__) for package in packages()}


def raised(error: BaseException, file: str | None) -> str:
    """Describes an exception on one line, with the innermost line of `file` that raised it."""
    text = str(error).strip().partition("\n")[0]  # jax goes on for paragraphs
    lines = lines_of(error, file)
    line = f" (line {lines[-1]})" if lines else ""
    return type(error).__name__ + (f": {text}" if text else "") + line


@contextlib.contextmanager
def blamed(task: type[Task], member: str) -> Iterator[None]:
    """Turns what a user's own task raises in the context into a UserError that names the member."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        ended = isinstance(error, SystemExit) and not lines_of(error, _file(task))  # --help, say
        if not own(task) or ended:
            raise
        raise UserError(f"{where(task)}: {member} raised {raised(error, _file(task))}") from error


def call(task: Task, method: str, *arguments: Any) -> Any:
    """Calls a method of a task; what a user's own task raises becomes a UserError: see `blamed`."""
    with blamed(type(task), method):
        return getattr(task, method)(*arguments)


def check_class(task: type[Task]) -> None:
    """Checks the members, fields and presets of a class, and the sizes under each preset."""
    if "__dataclass_fields__" not in vars(task):
        raise breach(task, "the class", "is no dataclass", "@dataclass(frozen=True) above it")
    for name in ("interface", *METHODS):
        if name in task.__abstractmethods__:
            raise breach(task, name, "is missing", "one")
    for name in METHODS:
        if not callable(getattr(task, name)):
            raise breach(task, name, f"is {shown(getattr(task, name))}", "a method")
    with blamed(task, "the annotation of a field"):
        get_type_hints(task)
    for field in fields(task):
        if field.default is MISSING:
            raise breach(task, f"the field {field.name}", "has no default",
                         "a value as the default of each field")
    presets = getattr(task, "presets", None)
    if not (isinstance(presets, Mapping) and "laptop" in presets):
        raise breach(task, "presets", f"is {shown(presets)}", 'a mapping with "laptop" in it')
    for name, preset in presets.items():
        _check_preset(task, name, preset)


def _check_preset(task: type[Task], name: str, preset: Preset) -> None:
    what = f"presets[{name!r}]"
    if not isinstance(preset, Preset):
        raise breach(task, what, f"is {shown(preset)}", "a fpt.task.Preset")
    known = {"sizes": {field.name for field in fields(task)},
             "settings": {field.name for field in fields(Config)} - STATED}
    for kind, names in known.items():
        stated = getattr(preset, kind)
        if not isinstance(stated, Mapping | None):
            raise breach(task, what, f"has {kind} that are {shown(stated)}", "a mapping")
        if unknown := set(stated or {}) - names:
            listed = ", ".join(sorted(names)) or "none, as the class has no fields"
            raise breach(task, what, f"has {kind} named {', '.join(sorted(map(str, unknown)))}",
                         f"names out of {listed}")
    try:
        with blamed(task, what):
            config = Config.preset(task(), name)
    except UserError as error:
        raise UserError(f"{where(task)}: {what}: {error}") from None
    check_sizes(config.task)


def check_sizes(task: Task) -> None:
    """Checks a task's name, its sizes, and what follows from them: its interface and its probes.

    Probes are the names of further splits that runs are scored on.
    """
    kind = type(task)
    with blamed(kind, "name"):
        _check_name(kind, task.name)
    for name, value in call(task, "settings").items():
        if not _plain(value):
            raise breach(kind, f"the field {name}", f"is {shown(value)}",
                         "a number, a text, None, or a tuple of them")
    with blamed(kind, "interface"):
        interface = task.interface
    if not isinstance(interface, Interface):
        raise breach(kind, "interface", f"is {shown(interface)}", "a fpt.task.Interface")
    _check_interface(kind, interface)
    with blamed(kind, "draws_stored"):
        stored = task.draws_stored
    if not isinstance(stored, bool):
        raise breach(kind, "draws_stored", f"is {shown(stored)}", "True or False")
    with blamed(kind, "probes"):
        probes = task.probes
    if not (isinstance(probes, tuple) and all(isinstance(name, str) for name in probes)):
        raise breach(kind, "probes", f"is {shown(probes)}", "a tuple of names of splits")


def _check_interface(kind: type[Task], found: Interface) -> None:
    for name in ("tokens", "queries", "answers_per_query", "classes"):
        if not is_count(value := getattr(found, name)):
            raise breach(kind, f"interface.{name}", f"is {shown(value)}",
                         "a whole number of at least 1")
    if found.queries > found.tokens:
        raise breach(kind, "interface.queries", f"is {found.queries}",
                     f"at most `tokens`, {found.tokens}")
    width, vocabulary = found.width, found.vocabulary
    if (width is None) == (vocabulary is None) or not is_count(width or vocabulary):
        raise breach(kind, "interface: width and vocabulary",
                     f"are {shown(width)} and {shown(vocabulary)}",
                     "one of them to be a whole number of at least 1, and the other None")
    if found.pad is not None and (vocabulary is None or found.pad not in range(vocabulary)):
        raise breach(kind, "interface.pad", f"is {shown(found.pad)}",
                     "None or one of the symbols of `vocabulary`")
    if found.head not in HEADS:
        raise breach(kind, "interface.head", f"is {shown(found.head)}", " or ".join(HEADS))
    if found.tied and (vocabulary, 1) != (found.classes, found.answers_per_query):
        raise breach(kind, "interface.head", "is tied",
                     "as many classes as symbols then, and one answer per query")


def _check_name(task: type[Task], name: Any) -> None:
    if not (isinstance(name, str) and re.fullmatch(NAME, name)):
        raise breach(task, "name", f"is {shown(name)}", "letters, digits, points, dashes and "
                     "underscores, a letter or digit first")
    plain = name
    for prefix in offered("DERIVED"):
        plain = plain.removeprefix(prefix)
    if own(task) and plain in offered("TASKS") | offered("BIRTHS"):
        raise breach(task, "name", f"is {name!r}, a task of an installed package",
                     "a name of its own")


def lines_of(error: BaseException, file: str | None) -> list[int]:
    """Lists the lines of a file that an exception came through, the innermost last."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.lineno for frame in frames if frame.filename == file]


def _file(task: type[Task]) -> str | None:
    return getattr(sys.modules.get(task.__module__), "__file__", None)


def where(task: type[Task]) -> str:
    """Names a class with its file."""
    return f"{_file(task)}, {task.__name__}" if _file(task) else task.__name__


def breach(task: type[Task], member: str, gave: str, wanted: str) -> UserError:
    """Makes the error that says what a member gave, and what the contract wants of it."""
    return UserError(f"{where(task)}: {member} {gave}; the contract wants {wanted}: "
                     "see tasks/own_task.md")


def described(array: Any) -> str:
    """Writes the dtype and shape of an array for an error; of something else what `shown` gives."""
    return f"{array.dtype} {list(array.shape)}" if hasattr(array, "dtype") else shown(array)


def shown(value: Any) -> str:
    """Writes a value for an error where it is short, else its type."""
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else f"a {type(value).__name__}"


def is_count(value: Any) -> bool:
    """Tells whether a value is a whole number of at least 1."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1


def _plain(value: Any) -> bool:
    """Tells whether a size stays the same when a record, which is JSON, is written and read."""
    if isinstance(value, tuple):
        return all(map(_plain, value))
    return (value is None or isinstance(value, bool | int | str)
            or (isinstance(value, float) and math.isfinite(value)))
