"""Trains a body that others are frozen from: `python -m scripts.pretrain language`.

    language     causal language modelling of the prose in the data folder's text/
    copy         random symbols, then the same again
    task TASK    all weights, on a task
    self TASK    the next token of a task's own inputs

It is the training of `scripts.train` with other defaults; the body is then written as a GPT-2 checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import tasks
from fpt.errors import UserError, nearest
from fpt.task import Task
from scripts import options as training
from scripts.command import run

TaskType = TypeVar("TaskType", bound=Task)
KINDS = ("language", "copy", "task", "self")


@dataclass(frozen=True)
class Options(training.Options[TaskType]):
    """Trains all weights of a body, and writes it as a checkpoint that --body takes."""

    to: Path | None = None
    """Folder of the checkpoint; None: bodies/ and the kind's name."""
    half: bool = False
    """Whether its numbers are written in half precision."""
    sample: int = 0
    """Tokens of text to print from the trained language model."""


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0].startswith("-"):
        print(__doc__.strip() + "\n\n`python -m scripts.pretrain language --help` lists the options.")
        raise SystemExit(0 if {"-h", "--help"} & set(arguments) else 2)
    kind, rest = arguments[0], arguments[1:]
    if kind not in KINDS:
        raise nearest(kind, KINDS, "pretraining")
    name, settings = kind, {}
    if kind in ("task", "self"):
        if not rest or rest[0].startswith("-"):
            raise UserError(f"python -m scripts.pretrain {kind} TASK: which task? one of {', '.join(tasks.TASKS)}")
        kind, rest, settings = f"{kind}-{rest[0]}", rest[1:], {"train": "all", "load": "none"}
        name = kind if kind.startswith("self-") else kind.removeprefix("task-")
    task_class = tasks.find(name)
    configs, options = training.configurations(
        task_class, None, rest, f"python -m scripts.pretrain {' '.join(arguments[: len(arguments) - len(rest)])}",
        Options, **settings)
    if len(configs) > 1:
        raise UserError("pretraining makes one body: one --lr and one --seed; compare rates with scripts.train "
                        f"{name} first")
    training.train_all(configs, options)
    import numpy as np

    from fpt.load import load_run
    from fpt.parameters import resolve

    folder = options.to or Path("bodies") / kind
    loaded = load_run(options.out / resolve(configs[0])[0].name)
    loaded.export(folder, whole=False, dtype=np.float16 if options.half else np.float32)
    print(f"{folder}: the body, for --body {folder}")


if __name__ == "__main__":
    run(main)
