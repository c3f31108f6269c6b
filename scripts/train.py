"""Trains a frozen body on a task: `python -m scripts.train TASK`.

Several rates and seeds are trained as one stack: `python -m scripts.train bit-xor --lr 1e-3 3e-4 --seed 0 1 2`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fpt.task import Task
from scripts import options
from scripts.command import chosen_task, run

TaskType = TypeVar("TaskType", bound=Task)


@dataclass(frozen=True)
class Options(options.Options[TaskType]):
    """Trains a task on a frozen body; rates and seeds together make a stack of runs."""

    task_file: Path | None = None
    """A Python file that defines a task of your own, in place of TASK."""


def main(arguments: list[str]) -> None:
    options.keep_compiled()
    task_class, file, rest = chosen_task(arguments, "python -m scripts.train TASK [options]")
    options.train_all(*options.configurations(
        task_class, file, rest, f"python -m scripts.train {task_class.name}", Options))


if __name__ == "__main__":
    run(main)
