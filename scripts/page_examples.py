"""Describes examples for a page: what their tokens are, from which of them the output is read,
where the answer lies, and what a model answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fpt.evaluation import answers
from fpt.load import LoadedRun
from fpt.splits import sampled
from fpt.task import UNSCORED, Split, Task

EXAMPLES = 4  # that are shown unless others are asked for
ANSWERS = 64  # of an example that are listed, at most


def some(run: LoadedRun, sample: Split, numbers: np.ndarray, total: int) -> list[int]:
    """Chooses examples of a test split of `total` and returns their numbers: half of them answered
    wrong, as far as there are any.

    sample, numbers: the examples to choose from, as `splits.sample` and `sampled` give them.  They
    are taken in the order in which samples of growing size include them, since the first examples
    of the split itself may be too regular to show anything.
    """
    predictions, _ = answers(run.trainer, run.frozen, run.trainable, sample)
    right = ((predictions[0] == sample.targets) | (sample.targets == UNSCORED)).all(axis=1)
    sizes = [EXAMPLES * 2**power for power in range(len(numbers).bit_length())]
    first = [[number in sampled("test", total, size) for size in sizes].index(True)
             for number in numbers]
    order = np.argsort(first, kind="stable")
    wrong = [number for number in order if not right[number]]
    few = [number for number in order if right[number]]
    few = few[: EXAMPLES - len(wrong[: EXAMPLES // 2])]
    return sorted(int(number) for number in numbers[[*few, *wrong[: EXAMPLES - len(few)]]])


def describe(task: Task, inputs: np.ndarray, targets: np.ndarray, number: int) -> dict[str, Any]:
    """Describes one example of the test split."""
    encoded, asked = np.asarray(task.encode(inputs[None]))[0], task.interface
    tokens = asked.tokens if asked.pad is None else int((encoded != asked.pad).sum())
    picture, text = task.picture(inputs), str(task.show(inputs, targets))
    return {
        "number": number, "tokens": tokens,
        "labels": [str(label) for label in task.token_labels(inputs)][:tokens],
        "text": text if picture is None else text.splitlines()[0],
        # Where a token is one number, its label names its place and not the number.
        "values": [f"{value:g}" for value in encoded[:, 0]]
                  if asked.width == 1 and picture is None else None,
        "read": list(range(tokens - asked.queries, tokens)),
        "masks": {name: _places(np.asarray(mask)[0])
                  for name, mask in task.answer_tokens(inputs[None]).items()},
        "targets": targets.tolist() if len(targets) <= ANSWERS else None,
        "picture": picture if picture is None else {
            "size": [*picture.shape], "pixels": _hexadecimal(picture)},
    }


def _places(mask: np.ndarray) -> list[list[int]]:
    """Lists, for each token that the output is read from, the tokens that a mask [Q, T] marks."""
    return [np.flatnonzero(row).tolist() for row in mask]


def _hexadecimal(picture: np.ndarray) -> str:
    """Writes the numbers of a picture, row after row, with two digits each."""
    return np.ascontiguousarray(picture, np.uint8).tobytes().hex()


def describe_mean(task: Task, sample: Split, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Describes what all examples of a sample have in common, in the form that `describe` returns.

    It goes with the mean of their attention maps.
    """
    asked, labels = task.interface, examples[0]["labels"]
    tokens, aligned = asked.tokens, asked.pad is None
    if not aligned:
        real = np.asarray(task.encode(sample.inputs)) != asked.pad
        tokens = int(real.sum(axis=1).max())
    if not aligned or any(example["labels"] != labels for example in examples):
        labels = [f"token {place}" for place in range(tokens)]
    masks = task.answer_tokens(sample.inputs) if aligned else {}
    masks = {name: np.asarray(mask) for name, mask in masks.items()}
    return {
        "number": None, "tokens": tokens, "labels": labels,
        "text": f"The mean over {len(sample.inputs):,} examples of test.", "values": None,
        "read": list(range(tokens - asked.queries, tokens)) if aligned else [],
        "masks": {name: _places(mask[0]) for name, mask in masks.items()
                  if (mask == mask[0]).all()},
        "targets": None, "picture": None,
    }


def answered(model: LoadedRun, inputs: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Describes what a model answers on one example, and how much of the answer is right."""
    logits, task = np.asarray(model(inputs[None])[0], np.float64), model.task
    predicted, scored = logits.argmax(axis=-1), targets != UNSCORED
    alone = len(targets) == 1
    return {
        "right": int((predicted == targets)[scored].sum()), "scored": int(scored.sum()),
        "predicted": predicted.tolist() if len(targets) <= ANSWERS else None,
        "probability": float(jax.nn.softmax(logits[0])[predicted[0]]) if alone else None,
        "text": str(task.show(inputs, predicted)).splitlines()[0]
                if alone and task.grid else None,
    }
