"""Trains some parts of a model on a task, the others frozen: `python -m scripts.train TASK`.

Several learning rates and seeds are trained at once, as one stack: `python -m scripts.train bit-xor
--lr 1e-3 3e-4 --seed 0 1 2`.
"""

from dataclasses import dataclass
from pathlib import Path

from scripts import options
from scripts.command import chosen_task, run


@dataclass(frozen=True)
class Options(options.Options):
    """Holds the options of training."""

    task_file: Path | None = None
    """Names a Python file that defines a task of your own, in place of TASK."""


def main(arguments: list[str]) -> None:
    options.keep_compiled()
    program = "python -m scripts.train"
    task_class, file, rest = chosen_task(arguments, program)
    options.train_all(*options.configurations(
        task_class, file, rest, f"{program} {task_class.name}", Options))


if __name__ == "__main__":
    run(main)
