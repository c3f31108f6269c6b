"""Accuracy and loss of a stack on a fixed split, whole and in the parts that its task names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fpt.records import finite
from fpt.task import UNSCORED, Split, Task
from fpt.trainer import Trainer

TOKENS_AT_ONCE = 16_384
LOGITS_AT_ONCE = 2**26


def answers(trainer: Trainer, frozen: dict, trainable: dict, split: Split,
            between: Callable[[], None] = lambda: None) -> tuple[np.ndarray, np.ndarray]:
    """Predictions [R, N, A] and mean losses [R, N] of a stack, without dropout, in chunks of one size.

    between: called before each chunk; what it raises ends the evaluation.
    """
    asked = trainer.task.interface
    size = min(TOKENS_AT_ONCE // asked.tokens, LOGITS_AT_ONCE // (asked.answers * asked.classes)) // trainer.runs
    size = max(1, min(len(split.inputs), size))
    predictions, losses = [], []
    for start in range(0, len(split.inputs), size):
        between()
        chosen = np.arange(start, start + size) % len(split.inputs)  # the last chunk is filled up from the front
        found = trainer.answer(frozen, trainable, split.inputs[chosen], split.targets[chosen])
        predictions.append(np.asarray(found[0]))
        losses.append(np.asarray(found[1]))
    count = len(split.inputs)
    return np.concatenate(predictions, axis=1)[:, :count], np.concatenate(losses, axis=1)[:, :count]


def score(task: Task, split: Split, predictions: np.ndarray, losses: np.ndarray) -> dict[str, Any]:
    """One run's predictions [N, A] and losses [N] -> accuracy over all scored answers, mean loss, n, accuracy by slice."""
    right, scored = predictions == split.targets, split.targets != UNSCORED
    parts = {name: mask & scored for name, mask in task.slices(split.inputs).items()}
    slices = {name: finite(right[part].mean()) for name, part in parts.items() if part.any()}
    return {"accuracy": float(right.mean(where=scored)),
            "loss": finite(losses.mean(dtype=np.float64)), "n": len(right), "slices": slices}


def evaluate(trainer: Trainer, frozen: dict, trainable: dict, split: Split,
             between: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    """The score of every run of a stack on a split; `between` as in `answers`."""
    predictions, losses = answers(trainer, frozen, trainable, split, between)
    return [score(trainer.task, split, *found) for found in zip(predictions, losses)]
