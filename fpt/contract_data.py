"""Checks that the data and the methods of a task keep the contract, `fpt.task`.

Shipped tasks are tested, so that each run checks of them only what costs next to nothing: shapes
and dtypes, and the targets of the splits.  Of a user's own task all examples are encoded too, a few
batches are drawn, and the methods that describe examples are called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fpt.contract import blamed, breach, call, described, is_count, own, shown
from fpt.task import UNSCORED, Batch, Split, Task

EXAMPLES = 2_000  # of validation, for the floors of a user's own task
BATCHES = 4  # that a user's own task is made to draw
NUMBERS_AT_ONCE = 2**22  # of tokens, looked at together


def check_data(task: Task, data: Mapping[str, Split], batch: int = 2) -> None:
    """Checks the splits that a task has loaded, the batches that it draws and its other methods."""
    kind = type(task)
    if not isinstance(data, Mapping):
        raise breach(kind, "load", f"gave {shown(data)}", "a dictionary of splits")
    missing = [name for name in ("validation", "test", *task.probes) if name not in data]
    if missing:
        raise breach(kind, "load", f"gave no split {missing[0]!r}",
                     "validation, test, and the splits that `probes` names")
    for name, split in data.items():
        _check_split(task, name, split)
    validation, test = data["validation"], data["test"]
    if validation.inputs.shape[1:] != test.inputs.shape[1:]:
        raise breach(kind, "load", f"gave inputs {described(validation.inputs)} for validation and "
                     f"{described(test.inputs)} for test", "examples of one shape")
    drawn = trace_batch(task, data.get("train"), batch)
    _check_targets(task, "draw", f"for a batch of {batch}", drawn.targets, batch)
    for name, inputs in (("validation", _abstract(validation.inputs, 2)),
                         ("test", _abstract(test.inputs, 2)),
                         (f"a batch of {batch} that `draw` gave", drawn.inputs)):
        _check_encoded(task, name, inputs)
    if own(kind):
        _check_values(task, data, batch)
        _check_descriptions(task, data)


def trace_batch(task: Task, train: Split | None, batch: int) -> Batch:
    """Traces `draw`: the batch that it would give, with shapes and dtypes for arrays."""
    begins = []

    def draw(train, key, step):
        drawn = task.draw(train, key, step, batch)
        if not isinstance(drawn, Batch):
            raise breach(type(task), "draw", f"gave {shown(drawn)}", "a fpt.task.Batch")
        begins.append(drawn.anywhere)  # is no array, and so no result of what jax traces
        return drawn.inputs, drawn.targets

    stored = train and Split(*(_abstract(part, len(part)) for part in train))
    with blamed(type(task), "draw"):
        inputs, targets = jax.eval_shape(draw, stored, jax.random.key(0), np.int32(0))
    if not isinstance(anywhere := begins[0], bool):
        raise breach(type(task), "draw", f"gave a batch whose `anywhere` is {shown(anywhere)}",
                     "True or False")
    return Batch(inputs, targets, anywhere)


def _abstract(array: np.ndarray, rows: int) -> jax.ShapeDtypeStruct:
    """Describes so many rows of a stored array as they will be on the device."""
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    return jax.ShapeDtypeStruct((rows, *array.shape[1:]), dtype)


def _check_split(task: Task, name: str, split: Any) -> None:
    """Checks the arrays of a split.

    The targets of `train` are not checked where there are none, or where they have another shape
    than those of a batch: `draw` may make its own.
    """
    kind, place, answers = type(task), f"for {name}", task.interface.answers
    arrays = isinstance(split, Split) and all(
        isinstance(getattr(part, "dtype", None), np.dtype) for part in split)
    if not arrays:
        raise breach(kind, "load", f"gave {shown(split)} {place}",
                     "a fpt.task.Split of two numpy arrays")
    if split.inputs.dtype.hasobject or not split.inputs.ndim:
        raise breach(kind, "load", f"gave inputs {described(split.inputs)} {place}",
                     "numbers [N, ...]")
    if name == "train" and (not len(split.targets) or split.targets.shape[1:] != (answers,)):
        return
    # A probe may be shorter than the examples of the other splits.
    width = split.targets.shape[1:] if name in task.probes else None
    _check_targets(task, "load", place, split.targets, len(split.inputs), width)
    if not len(split.inputs):
        raise breach(kind, "load", f"gave no examples {place}", "at least one")
    _check_range(task, "load", place, split.targets)
    if split.targets.max() == UNSCORED:
        raise breach(kind, "load", f"gave targets {place} that are all {UNSCORED}, which is not "
                     "scored", "some that are scored")


def _check_targets(task: Task, method: str, place: str, targets: Any, rows: int,
                   width: tuple[int, ...] | None = None) -> None:
    wanted = (rows, *((task.interface.answers,) if width is None else width))
    if targets.shape != wanted or targets.dtype.kind not in "iu":
        raise breach(type(task), method, f"gave targets {described(targets)} {place}",
                     f"int32 {list(wanted)}")


def _check_range(task: Task, method: str, place: str, targets: np.ndarray) -> None:
    least, most, greatest = int(targets.min()), int(targets.max()), task.interface.classes - 1
    if least < UNSCORED or most > greatest:
        raise breach(type(task), method,
                     f"gave the target {least if least < UNSCORED else most} {place}",
                     f"0 to `classes` - 1, {greatest}, or {UNSCORED} where none is scored")


def _check_encoded(task: Task, name: str, inputs: Any) -> None:
    """Checks the shape and dtype of the tokens that `encode` makes of `inputs`, by tracing alone.

    name: says in an error what the inputs are.
    """
    kind, interface = type(task), task.interface
    with blamed(kind, "encode"):
        tokens = jax.eval_shape(task.encode, inputs)
    wanted, dtype, numbers, stated = (
        ((), "int32", jnp.integer, "`vocabulary`") if interface.width is None else
        ((interface.width,), "float32", jnp.floating, "`width`"))
    wanted = (inputs.shape[0], interface.tokens, *wanted)
    if not (hasattr(tokens, "dtype") and tokens.shape == wanted
            and jnp.issubdtype(tokens.dtype, numbers)):
        raise breach(kind, "encode", f"gave {described(tokens)} for {name}",
                     f"{dtype} {list(wanted)}, by `tokens` and {stated}")


def _check_values(task: Task, data: Mapping[str, Split], batch: int) -> None:
    """Checks each symbol, number and target of all stored examples and of a few batches."""
    encode, train = jax.jit(task.encode), data.get("train")
    form = data["validation"].inputs.shape[1:]
    for name, (inputs, _) in data.items():
        if inputs.shape[1:] != form:  # a stream, say, of which `draw` makes examples
            continue
        most = NUMBERS_AT_ONCE // (task.interface.tokens * (task.interface.width or 1))
        size = min(len(inputs), max(1, most))
        for start in range(0, len(inputs), size):
            # Chunks of one size are compiled once.
            numbers = np.arange(start, start + size) % len(inputs)
            with blamed(type(task), "encode"):
                tokens = np.asarray(encode(inputs[numbers]))
            _check_tokens(task, f"for {name}", tokens)
    draw = jax.jit(lambda train, key, step: task.draw(train, key, step, batch)[:2])
    train = train and Split(*map(jnp.asarray, train))
    for step in range(BATCHES):
        with blamed(type(task), "draw"):
            inputs, targets = draw(train, jax.random.key(step), np.int32(step))
        _check_range(task, "draw", f"at step {step}", np.asarray(targets))
        with blamed(type(task), "encode"):
            tokens = np.asarray(encode(inputs))
        _check_tokens(task, f"for what `draw` gave at step {step}", tokens)
    if task.draws_stored:
        _check_stored(task, train, draw)


def _check_stored(task: Task, train: Split | None, draw: Callable) -> None:
    """Checks that `draw` picks rows of `train` and changes nothing, as `draws_stored` promises.

    It is given the rows' numbers in the place of inputs, in the form that hidden states have.
    """
    kind, gave = type(task), "is True, and "
    if train is None:
        raise breach(kind, "draws_stored", gave + "`load` gives no `train`", "False then")
    numbers = jnp.arange(len(train.inputs))
    for step in range(BATCHES):
        place = jax.random.key(step), np.int32(step)
        with blamed(kind, "draw"):
            chosen = draw(Split(numbers[:, None, None], train.targets), *place)[0]
            drawn = draw(train, *place)
        rows = chosen.ravel()
        picked = chosen.shape == (*drawn[1].shape[:1], 1, 1) and all(
            np.array_equal(part, stored[rows]) for part, stored in zip(drawn, train))
        if not picked:
            raise breach(kind, "draws_stored", gave + f"`draw` gave at step {step} what is not "
                         "stored", "rows of `train`, unchanged, or False")


def _check_tokens(task: Task, place: str, tokens: np.ndarray) -> None:
    kind, interface = type(task), task.interface
    if interface.width is not None:
        if not np.isfinite(tokens).all():
            raise breach(kind, "encode", f"gave numbers that are NaN or infinite {place}",
                         "finite ones")
        return
    greatest, pad = interface.vocabulary - 1, interface.pad
    if (least := tokens.min()) < 0 or (most := tokens.max()) > greatest:
        raise breach(kind, "encode", f"gave the symbol {least if least < 0 else most} {place}",
                     f"0 to `vocabulary` - 1, {greatest}")
    if pad is None:
        return
    real = tokens != pad
    if (real[:, 1:] & ~real[:, :-1]).any():
        raise breach(kind, "encode", f"gave `pad`, {pad}, before another symbol {place}",
                     "pads on the right alone")
    if (fewest := real.sum(axis=1).min()) < interface.queries:
        raise breach(kind, "encode", f"gave {fewest} symbols and else pads {place}",
                     f"at least `queries`, {interface.queries}")


def _check_descriptions(task: Task, data: Mapping[str, Split]) -> None:
    """Checks what the methods that describe examples give for some examples of validation."""
    kind, interface = type(task), task.interface
    examples = Split(*(part[:EXAMPLES] for part in data["validation"]))
    floors = call(task, "floors", data, examples)
    if not (_named(floors) and any("/" not in name for name in floors)):
        raise breach(kind, "floors", f"gave {shown(floors)}",
                     "a dictionary of names and accuracies, not empty")
    for name, value in floors.items():
        with blamed(kind, f"floors[{name!r}]"):
            value = float(value)
        # A slice may have no example.
        if not (0 <= value <= 1 or ("/" in name and math.isnan(value))):
            raise breach(kind, "floors", f"gave {value} for {name!r}",
                         "an accuracy between 0 and 1")
    _check_masks(task, "slices", examples.inputs, examples.targets.shape)
    _check_masks(task, "answer_tokens", examples.inputs,
                 (len(examples.inputs), interface.queries, interface.tokens))
    example, target = examples.inputs[0], examples.targets[0]
    if task.grid is not None:
        _check_picture(task, example)
    labels = call(task, "token_labels", example)
    if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)
            and len(labels) == interface.tokens):
        count = f"{len(labels)} of them" if isinstance(labels, list) else shown(labels)
        raise breach(kind, "token_labels", f"gave {count}",
                     f"a list of `tokens` texts, {interface.tokens}")
    if not isinstance(text := call(task, "show", example, target), str):
        raise breach(kind, "show", f"gave {shown(text)}", "a text")


def _check_masks(task: Task, method: str, inputs: Any, wanted: tuple[int, ...]) -> None:
    masks = call(task, method, inputs)
    if not _named(masks):
        raise breach(type(task), method, f"gave {shown(masks)}", "a dictionary of names and arrays")
    for name, mask in masks.items():
        if getattr(mask, "dtype", None) != np.dtype(bool) or mask.shape != wanted:
            raise breach(type(task), method, f"gave {described(mask)} for {name!r}",
                         f"bool {list(wanted)}")


def _check_picture(task: Task, example: Any) -> None:
    """Checks the grid of a task whose tokens are patches, and the picture that the grid divides."""
    kind, grid, tokens = type(task), task.grid, task.interface.tokens
    if not (isinstance(grid, tuple) and len(grid) == 2 and all(map(is_count, grid))
            and grid[0] * grid[1] == tokens):
        raise breach(kind, "grid", f"is {shown(grid)}",
                     f"rows and columns of its {tokens} tokens, or None")
    picture = call(task, "picture", example)
    if not (getattr(picture, "dtype", None) == np.dtype(np.uint8) and picture.ndim == 3
            and picture.shape[2] in (1, 3)
            and not any(side % parts for side, parts in zip(picture.shape, grid))):
        raise breach(kind, "picture", f"gave {described(picture)}",
                     f"uint8 [height, width, 1 or 3] that a grid of {grid[0]} by {grid[1]} divides")


def _named(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
