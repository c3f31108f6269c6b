"""Computes the accuracy and loss of runs on a split, and the accuracy on each slice of it.

The runs are those of a stack: they are trained and evaluated at once.  Slices are the groups of
answers that a task names (`Task.slices`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fpt import machine
from fpt.records import finite
from fpt.task import UNSCORED, Interface, Split, Task
from fpt.trainer import Trainer

# In a chunk.  What a block computes of 2,048 tokens fits a CPU's cache, and little of the last
# chunk is computed in vain: bit XOR's evaluation takes 0.4 of the time that it takes with 16,384.
TOKENS_AT_ONCE = {"cpu": 2_048, "other": 16_384}
LOGITS_AT_ONCE = 2**26


def at_once(asked: Interface, examples: int, runs: int = 1) -> int:
    """Chooses how many of so many examples, at least one, are computed at once by so many runs."""
    size = min(machine.by_device(**TOKENS_AT_ONCE) // (asked.tokens * runs),
               LOGITS_AT_ONCE // (asked.answers * asked.classes * runs))
    return max(1, min(examples, size))


def chunks(count: int, size: int) -> Iterator[np.ndarray]:
    """Yields the indices of so many examples in chunks of one size, for one compiled function; the
    first examples fill up the last chunk."""
    for start in range(0, count, size):
        yield np.arange(start, start + size) % count


def answers(trainer: Trainer, frozen: dict, trainable: dict, split: Split,
            between: Callable[[], None] = lambda: None) -> tuple[np.ndarray, np.ndarray]:
    """Computes a stack's predictions [R, N, A] and mean losses [R, N], without dropout, in chunks.

    between: called before each chunk; an exception that it raises ends the evaluation.
    """
    size = at_once(trainer.task.interface, len(split.inputs), trainer.runs)
    predictions, losses = [], []
    for chosen in chunks(len(split.inputs), size):
        between()
        found = trainer.answer(frozen, trainable, split.inputs[chosen], split.targets[chosen])
        predictions.append(np.asarray(found[0]))
        losses.append(np.asarray(found[1]))
    count = len(split.inputs)
    return (np.concatenate(predictions, axis=1)[:, :count],
            np.concatenate(losses, axis=1)[:, :count])


def score(task: Task, split: Split, predictions: np.ndarray, losses: np.ndarray) -> dict[str, Any]:
    """Scores one run's predictions [N, A] and losses [N] on a split.

    Returns the accuracy over all scored answers, the mean loss of the examples that have one, the
    number of examples `n`, and the accuracy by slice.
    """
    right, scored = predictions == split.targets, split.targets != UNSCORED
    parts = {name: mask & scored for name, mask in task.slices(split.inputs).items()}
    slices = {name: finite(right[part].mean()) for name, part in parts.items() if part.any()}
    return {"accuracy": float(right.mean(where=scored)),
            "loss": finite(losses[scored.any(axis=1)].mean(dtype=np.float64)),
            "n": len(right), "slices": slices}


def evaluate(trainer: Trainer, frozen: dict, trainable: dict, split: Split,
             between: Callable[[], None] = lambda: None, given: Split | None = None
             ) -> list[dict[str, Any]]:
    """Scores every run of a stack on a split; `between` as in `answers`.

    given: the split as the trainer takes it, where that is not as it is stored: see
    `features.Features`.
    """
    predictions, losses = answers(trainer, frozen, trainable, given or split, between)
    return [score(trainer.task, split, *found) for found in zip(predictions, losses)]
