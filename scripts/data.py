"""Prepares a task's data and describes them: `python -m scripts.data TASK`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import tyro

from fpt import contract
from fpt.errors import UserError, nearest
from fpt.files import data_folder
from fpt.task import Task
from scripts.command import chosen_task, parsed, preset_of, run

TaskType = TypeVar("TaskType", bound=Task)


@dataclass(frozen=True)
class Options(Generic[TaskType]):
    """Prepares a task's data and prints its splits, shapes, floors and an example."""

    task: Annotated[TaskType, tyro.conf.arg(name="")]
    split: str = "test"
    """The split whose floors and example are shown."""
    example: int = 0
    """Number of the example."""
    preset: str = "laptop"
    """Where the sizes come from: laptop or paper."""
    data_dir: Path | None = None
    """Folder that holds mnist/, cifar10/, listops/ or text/; None: FPT_DATA, else they are fetched."""
    task_file: Path | None = None
    """A Python file that defines a task of your own, in place of TASK."""


def main(arguments: list[str]) -> None:
    task_class, _, rest = chosen_task(arguments, "python -m scripts.data TASK [options]")
    _, _, sized = preset_of(task_class, rest)
    options = parsed(Options[task_class], rest, f"python -m scripts.data {task_class.name}", default=Options(task=sized))
    from fpt.contract_data import check_data

    task = options.task
    contract.check_sizes(task)
    data = contract.call(task, "load", data_folder(options.data_dir))
    check_data(task, data)
    if options.split not in data:
        raise nearest(options.split, data, f"split of {task.name}")
    split = data[options.split]
    if split.targets.shape[1:] != (task.interface.answers,) or not len(split.targets):
        raise UserError(f"the {options.split} split of {task.name} is what examples are cut from; --split test shows some")
    if not 0 <= options.example < len(split.inputs):
        raise UserError(f"--example must be between 0 and {len(split.inputs) - 1}, not {options.example}")

    asked = task.interface
    kind = f"{asked.width} numbers each" if asked.width else f"symbols of {asked.vocabulary}"
    print(f"{task.name}: {asked.tokens} tokens, {kind}; {asked.answers} answers of {asked.classes} classes, "
          f"read from {asked.queries} token{'s' * (asked.queries > 1)}")
    if "train" not in data:
        print("  train       drawn from the key, without end")
    for name, (inputs, targets) in data.items():
        unit = "examples" if len(targets) else "tokens  "  # one stream, of which examples are cut
        print(f"  {name:<10}  {len(inputs):>7,} {unit}  inputs {inputs.dtype} {inputs.shape[1:]}  targets {targets.shape[1:]}")
    print(f"floors on {options.split}:")
    for name, accuracy in contract.call(task, "floors", data, split).items():
        print(f"  {accuracy:.4f}  {name}")
    example, target = split.inputs[options.example], split.targets[options.example]
    print(f"example {options.example} of {options.split}:\n{contract.call(task, 'show', example, target)}")
    labels = contract.call(task, "token_labels", example)
    shown = labels if len(labels) <= 12 else [*labels[:6], "...", *labels[-5:]]
    print("its tokens: " + " | ".join(shown))


if __name__ == "__main__":
    run(main)
