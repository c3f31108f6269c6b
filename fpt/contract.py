"""Checks that a task keeps its contract, `fpt.task`, before anything is trained on it or written.

`check_class` looks at the class, `check_sizes` at the task in the sizes that it is run in, `check_data` at its splits and at
what its methods make of them.  A breach is a UserError of one line.  What a method of a user's own task raises becomes one
too, with the line of the user's file; what a method of a shipped task raises is a fault of ours and stays a traceback.
Shipped tasks are tested, so that only the checks that cost next to nothing are made of them at each run.
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

from fpt.config import Config
from fpt.errors import UserError
from fpt.task import UNSCORED, Preset, Split, Task

REQUIRED = ("load", "draw", "encode", "floors", "token_labels", "show")  # methods that every task has to give
OTHERS = ("slices", "symbols", "headline", "figures", "settings", "answer_tokens", "picture")
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # it begins the name of a run's folder
# What the `settings` of a preset may not state: its own fields, and what is found or given with a run.
STATED = {"task", "seed", "geometry", "checkpoint", "task_file", *(field.name for field in fields(Preset))}
EXAMPLES = 2_000  # of validation, for the floors of a user's own task
BATCHES = 4  # that a user's own task is made to draw
NUMBERS_AT_ONCE = 2**22  # of tokens, looked at together


def own(task: type[Task]) -> bool:
    """Tells whether a task is a user's own: none of the package `tasks`."""
    return not task.__module__.startswith("tasks.")


def raised(error: BaseException, file: str | None) -> str:
    """What an exception says, on one line, and the last line of `file` that it came through."""
    text, lines = str(error).strip().partition("\n")[0], _lines(error, file)  # jax goes on for paragraphs
    return type(error).__name__ + (f": {text}" if text else "") + (f" (line {lines[-1]})" if lines else "")


@contextlib.contextmanager
def blamed(task: type[Task], member: str) -> Iterator[None]:
    """What is raised in the context, where code of a user's own task runs, becomes a UserError that names the member."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if not own(task) or (isinstance(error, SystemExit) and not _lines(error, _file(task))):  # a command's --help, say
            raise
        raise UserError(f"{_where(task)}: {member} raised {raised(error, _file(task))}") from error


def call(task: Task, method: str, *arguments: Any) -> Any:
    """Calls a method of a task; `blamed` for what it raises."""
    with blamed(type(task), method):
        return getattr(task, method)(*arguments)


def check_class(task: type[Task]) -> None:
    """Checks the methods, fields and presets of a class, and its sizes under each preset."""
    if "__dataclass_fields__" not in vars(task):
        raise _breach(task, "the class", "is no dataclass", "@dataclass(frozen=True) above it")
    for method in (*REQUIRED, *OTHERS):
        if not callable(getattr(task, method)):
            raise _breach(task, method, f"is {_shown(getattr(task, method))}", "a method")
        if method in REQUIRED and getattr(task, method) is getattr(Task, method):
            raise _breach(task, method, "is missing", "a method")
    with blamed(task, "the annotation of a field"):
        get_type_hints(task)
    for field in fields(task):
        if field.default is MISSING:
            raise _breach(task, f"the field {field.name}", "has no default", "a value as the default of each field")
    presets = getattr(task, "presets", None)
    if not (isinstance(presets, Mapping) and "laptop" in presets):
        raise _breach(task, "presets", f"is {_shown(presets)}", 'a mapping with "laptop" in it')
    for name, preset in presets.items():
        _check_preset(task, name, preset)


def _check_preset(task: type[Task], name: str, preset: Preset) -> None:
    what = f"presets[{name!r}]"
    if not isinstance(preset, Preset):
        raise _breach(task, what, f"is {_shown(preset)}", "a fpt.task.Preset")
    known = {"sizes": {field.name for field in fields(task)}, "settings": {field.name for field in fields(Config)} - STATED}
    for kind, names in known.items():
        stated = getattr(preset, kind)
        if not isinstance(stated, Mapping | None):
            raise _breach(task, what, f"has {kind} that are {_shown(stated)}", "a mapping")
        if unknown := set(stated or {}) - names:
            raise _breach(task, what, f"has {kind} named {', '.join(sorted(map(str, unknown)))}",
                          f"names out of {', '.join(sorted(names)) or 'none, as the class has no fields'}")
    try:
        with blamed(task, what):
            config = Config.preset(task(), name)
    except UserError as error:
        raise UserError(f"{_where(task)}: {what}: {error}") from None
    check_sizes(config.task)


def check_sizes(task: Task) -> None:
    """Checks a task's name, its sizes, and what these come to: tokens, symbols, queries and classes."""
    kind, shapes = type(task), {}
    for name in ("name", "tokens", "width", "vocabulary", "pad", "queries", "answers_per_query", "classes", "tied", "probes"):
        with blamed(kind, name):
            shapes[name] = getattr(task, name)
    _check_name(kind, shapes["name"])
    for name, value in call(task, "settings").items():
        if not _plain(value):
            raise _breach(kind, f"the field {name}", f"is {_shown(value)}", "a number, a text, None, or a tuple of them")
    for name in ("tokens", "queries", "answers_per_query", "classes"):
        if not _count(shapes[name]):
            raise _breach(kind, name, f"is {_shown(shapes[name])}", "a whole number of at least 1")
    if shapes["queries"] > shapes["tokens"]:
        raise _breach(kind, "queries", f"is {shapes['queries']}", f"at most `tokens`, {shapes['tokens']}")
    width, vocabulary = shapes["width"], shapes["vocabulary"]
    if (width is None) == (vocabulary is None) or not _count(vocabulary if width is None else width):
        raise _breach(kind, "width and vocabulary", f"are {_shown(width)} and {_shown(vocabulary)}",
                      "one of them to be a whole number of at least 1, and the other None")
    if shapes["pad"] is not None and (vocabulary is None or shapes["pad"] not in range(vocabulary)):
        raise _breach(kind, "pad", f"is {_shown(shapes['pad'])}", "None or one of the symbols of `vocabulary`")
    if shapes["tied"] and (vocabulary, 1) != (shapes["classes"], shapes["answers_per_query"]):
        raise _breach(kind, "tied", "is true", "as many classes as symbols then, and one answer per query")
    if not (isinstance(shapes["probes"], tuple) and all(isinstance(name, str) for name in shapes["probes"])):
        raise _breach(kind, "probes", f"is {_shown(shapes['probes'])}", "a tuple of names of splits")


def _check_name(task: type[Task], name: Any) -> None:
    from tasks import BIRTHS, TASKS

    if not (isinstance(name, str) and re.fullmatch(NAME, name)):
        raise _breach(task, "name", f"is {_shown(name)}", "letters, digits, points, dashes and "
                      "underscores, a letter or digit first")
    if own(task) and (name.removeprefix("self-") in TASKS or name in BIRTHS):
        raise _breach(task, "name", f"is {name!r}, a task that ships with the project", "a name of its own")


def check_data(task: Task, data: Mapping[str, Split], batch: int = 2) -> None:
    """Checks the splits that a task has loaded, the batches that it draws, and what its other methods make of both."""
    import jax

    kind = type(task)
    if not isinstance(data, Mapping):
        raise _breach(kind, "load", f"gave {_shown(data)}", "a dictionary of splits")
    if missing := [name for name in ("validation", "test", *task.probes) if name not in data]:
        raise _breach(kind, "load", f"gave no split {missing[0]!r}", "validation, test, and the splits that `probes` names")
    for name, split in data.items():
        _check_split(task, name, split)
    validation, test, train = data["validation"], data["test"], data.get("train")
    if validation.inputs.shape[1:] != test.inputs.shape[1:]:
        raise _breach(kind, "load", f"gave inputs {_shape(validation.inputs)} for validation and {_shape(test.inputs)} for test",
                      "examples of one shape")

    abstract = lambda array, rows: jax.ShapeDtypeStruct((rows, *array.shape[1:]), jax.dtypes.canonicalize_dtype(array.dtype))
    draw = lambda train, key, step: task.draw(train, key, step, batch)
    stored = train and Split(*(abstract(part, len(part)) for part in train))
    with blamed(kind, "draw"):
        drawn = jax.eval_shape(draw, stored, jax.random.key(0), np.int32(0))
    if not isinstance(drawn, Split):
        raise _breach(kind, "draw", f"gave {_shown(drawn)}", "a fpt.task.Split")
    _check_targets(task, "draw", f"for a batch of {batch}", drawn.targets, batch)
    for name, inputs in (("validation", abstract(validation.inputs, 2)), ("test", abstract(test.inputs, 2)),
                         (f"a batch of {batch} that `draw` gave", drawn.inputs)):
        _check_encoded(task, name, inputs)
    if own(kind):
        _check_values(task, data, draw)
        _check_descriptions(task, data)


def _check_split(task: Task, name: str, split: Any) -> None:
    """A fixed split; or what batches are drawn from, whose targets may be none, or others than those of the batches."""
    kind, place = type(task), f"for {name}"
    if not (isinstance(split, Split) and all(isinstance(getattr(part, "dtype", None), np.dtype) for part in split)):
        raise _breach(kind, "load", f"gave {_shown(split)} {place}", "a fpt.task.Split of two numpy arrays")
    if split.inputs.dtype.hasobject or not split.inputs.ndim:
        raise _breach(kind, "load", f"gave inputs {_shape(split.inputs)} {place}", "numbers [N, ...]")
    if name == "train" and (not len(split.targets) or split.targets.shape[1:] != (task.answers,)):
        return
    # A probe may be shorter than the examples of the other splits.
    width = split.targets.shape[1:] if name in task.probes else None
    _check_targets(task, "load", place, split.targets, len(split.inputs), width)
    if not len(split.inputs):
        raise _breach(kind, "load", f"gave no examples {place}", "at least one")
    _check_range(task, "load", place, split.targets)
    if split.targets.max() == UNSCORED:
        raise _breach(kind, "load", f"gave targets {place} that are all {UNSCORED}, which is not scored", "some that are scored")


def _check_targets(task: Task, method: str, place: str, targets: Any, rows: int, width: tuple[int, ...] | None = None) -> None:
    wanted = (rows, *((task.answers,) if width is None else width))
    if targets.shape != wanted or targets.dtype.kind not in "iu":
        raise _breach(type(task), method, f"gave targets {_shape(targets)} {place}", f"int32 {list(wanted)}")


def _check_range(task: Task, method: str, place: str, targets: np.ndarray) -> None:
    least, most = int(targets.min()), int(targets.max())
    if least < UNSCORED or most >= task.classes:
        raise _breach(type(task), method, f"gave the target {least if least < UNSCORED else most} {place}",
                      f"0 to `classes` - 1, {task.classes - 1}, or {UNSCORED} where none is scored")


def _check_encoded(task: Task, name: str, inputs: Any) -> None:
    """The shape and kind of what `encode` gives for inputs of that shape; nothing is computed."""
    import jax
    import jax.numpy as jnp

    kind = type(task)
    with blamed(kind, "encode"):
        tokens = jax.eval_shape(task.encode, inputs)
    shape = (inputs.shape[0], task.tokens) if task.width is None else (inputs.shape[0], task.tokens, task.width)
    what, numbers = ("int32", jnp.integer) if task.width is None else ("float32", jnp.floating)
    if not (hasattr(tokens, "dtype") and tokens.shape == shape and jnp.issubdtype(tokens.dtype, numbers)):
        raise _breach(kind, "encode", f"gave {_shape(tokens)} for {name}", f"{what} {list(shape)}, by `tokens` and "
                      f"{'`vocabulary`' if task.width is None else '`width`'}")


def _check_values(task: Task, data: Mapping[str, Split], draw) -> None:
    """Encodes all examples that are stored and a few batches, and looks at each symbol, number and target."""
    import jax
    import jax.numpy as jnp

    encode, draw, train = jax.jit(task.encode), jax.jit(draw), data.get("train")
    form = data["validation"].inputs.shape[1:]
    for name, (inputs, _) in data.items():
        if inputs.shape[1:] != form:  # a stream, say, of which `draw` makes examples
            continue
        size = min(len(inputs), max(1, NUMBERS_AT_ONCE // (task.tokens * (task.width or 1))))
        for start in range(0, len(inputs), size):
            numbers = np.arange(start, start + size) % len(inputs)  # chunks of one size are compiled once
            with blamed(type(task), "encode"):
                tokens = np.asarray(encode(inputs[numbers]))
            _check_tokens(task, f"for {name}", tokens)
    train = train and Split(*map(jnp.asarray, train))
    for step in range(BATCHES):
        with blamed(type(task), "draw"):
            batch = draw(train, jax.random.key(step), np.int32(step))
        _check_range(task, "draw", f"at step {step}", np.asarray(batch.targets))
        with blamed(type(task), "encode"):
            tokens = np.asarray(encode(batch.inputs))
        _check_tokens(task, f"for what `draw` gave at step {step}", tokens)


def _check_tokens(task: Task, place: str, tokens: np.ndarray) -> None:
    kind = type(task)
    if task.width is not None:
        if not np.isfinite(tokens).all():
            raise _breach(kind, "encode", f"gave numbers that are NaN or infinite {place}", "finite ones")
        return
    if (least := tokens.min()) < 0 or (most := tokens.max()) >= task.vocabulary:
        raise _breach(kind, "encode", f"gave the symbol {least if least < 0 else most} {place}",
                      f"0 to `vocabulary` - 1, {task.vocabulary - 1}")
    if task.pad is None:
        return
    real = tokens != task.pad
    if (real[:, 1:] & ~real[:, :-1]).any():
        raise _breach(kind, "encode", f"gave `pad`, {task.pad}, before another symbol {place}", "pads on the right alone")
    if (fewest := real.sum(axis=1).min()) < task.queries:
        raise _breach(kind, "encode", f"gave {fewest} symbols and else pads {place}", f"at least `queries`, {task.queries}")


def _check_descriptions(task: Task, data: Mapping[str, Split]) -> None:
    """Calls the methods that describe examples on a few of validation."""
    kind, examples = type(task), Split(*(part[:EXAMPLES] for part in data["validation"]))
    floors = call(task, "floors", data, examples)
    if not (_named(floors) and any("/" not in name for name in floors)):
        raise _breach(kind, "floors", f"gave {_shown(floors)}", "a dictionary of names and accuracies, not empty")
    for name, value in floors.items():
        with blamed(kind, f"floors[{name!r}]"):
            value = float(value)
        if not (0 <= value <= 1 or ("/" in name and math.isnan(value))):  # no example may belong to a slice
            raise _breach(kind, "floors", f"gave {value} for {name!r}", "an accuracy between 0 and 1")
    slices = call(task, "slices", examples.inputs)
    if not _named(slices):
        raise _breach(kind, "slices", f"gave {_shown(slices)}", "a dictionary of names and arrays")
    for name, mask in slices.items():
        if getattr(mask, "dtype", None) != np.dtype(bool) or mask.shape != examples.targets.shape:
            raise _breach(kind, "slices", f"gave {_shape(mask)} for {name!r}", f"bool {list(examples.targets.shape)}")
    masks, wanted = call(task, "answer_tokens", examples.inputs), (len(examples.inputs), task.queries, task.tokens)
    if not _named(masks):
        raise _breach(kind, "answer_tokens", f"gave {_shown(masks)}", "a dictionary of names and arrays")
    for name, mask in masks.items():
        if getattr(mask, "dtype", None) != np.dtype(bool) or mask.shape != wanted:
            raise _breach(kind, "answer_tokens", f"gave {_shape(mask)} for {name!r}", f"bool {list(wanted)}")
    example, target = examples.inputs[0], examples.targets[0]
    if task.grid is not None:
        _check_picture(task, example)
    labels = call(task, "token_labels", example)
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels) and len(labels) == task.tokens):
        count = f"{len(labels)} of them" if isinstance(labels, list) else _shown(labels)
        raise _breach(kind, "token_labels", f"gave {count}", f"a list of `tokens` texts, {task.tokens}")
    if not isinstance(shown := call(task, "show", example, target), str):
        raise _breach(kind, "show", f"gave {_shown(shown)}", "a text")


def _check_picture(task: Task, example: Any) -> None:
    """The grid of a task whose tokens are patches, and the picture that it divides."""
    kind, grid = type(task), task.grid
    if not (isinstance(grid, tuple) and len(grid) == 2 and all(map(_count, grid)) and grid[0] * grid[1] == task.tokens):
        raise _breach(kind, "grid", f"is {_shown(grid)}", f"rows and columns of its {task.tokens} tokens, or None")
    picture = call(task, "picture", example)
    if not (getattr(picture, "dtype", None) == np.dtype(np.uint8) and picture.ndim == 3 and picture.shape[2] in (1, 3)
            and not any(side % parts for side, parts in zip(picture.shape, grid))):
        raise _breach(kind, "picture", f"gave {_shape(picture)}",
                      f"uint8 [height, width, 1 or 3] that a grid of {grid[0]} by {grid[1]} divides")


def _lines(error: BaseException, file: str | None) -> list[int]:
    """The lines of a file that an exception came through, the one that raised it last."""
    return [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]


def _breach(task: type[Task], member: str, gave: str, wanted: str) -> UserError:
    return UserError(f"{_where(task)}: {member} {gave}; the contract wants {wanted}: see tasks/own_task.md")


def _where(task: type[Task]) -> str:
    return f"{_file(task)}, {task.__name__}" if _file(task) else task.__name__


def _file(task: type[Task]) -> str | None:
    return getattr(sys.modules.get(task.__module__), "__file__", None)


def _shape(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}" if hasattr(array, "dtype") else _shown(array)


def _shown(value: Any) -> str:
    """A value, as far as it is short; else its type."""
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else f"a {type(value).__name__}"


def _count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1


def _plain(value: Any) -> bool:
    """Whether a size can be written in a record, and read from there as what it was."""
    if isinstance(value, tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def _named(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
