"""Prepares a task's data and describes them: `python -m scripts.data TASK`."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

from fpt import contract
from fpt.config import Config
from fpt.errors import UserError
from fpt.files import data_folder
from scripts.arguments import ahead, options_of, read
from scripts.command import chosen_task, run, scored_split


@dataclass(frozen=True)
class Options:
    """Prepares a task's data and prints their splits, shapes, floors (the accuracies of trivial
    predictors) and an example."""

    split: str = "test"
    """Names the split whose floors and example are shown."""
    example: int = 0
    """Gives the number, from 0, of the example that is shown."""
    preset: str = "laptop"
    """Names the preset that the sizes come from: `laptop` or `paper`."""
    data_dir: Path | None = None
    """Names the folder that holds mnist/, cifar10/, listops/ or text/; None means the one that
    FPT_DATA names, and without that the data are downloaded."""
    task_file: Path | None = None
    """Names a Python file that defines a task of your own, in place of TASK."""


def main(arguments: list[str]) -> None:
    task_class, _, rest = chosen_task(arguments, "python -m scripts.data")
    program = f"python -m scripts.data {task_class.name}"
    usual = Config.preset(task_class(), ahead(rest, program).preset).task
    options, sizes = read(Options, options_of(task_class, usual), rest, program, Options.__doc__)
    from fpt.contract_data import check_data

    with contract.blamed(task_class, "its sizes"):
        task = Config.preset(task_class(), options.preset, **sizes).task
    contract.check_sizes(task)
    data = contract.call(task, "load", data_folder(options.data_dir))
    check_data(task, data)
    split = scored_split(task, data, options.split)
    if not 0 <= options.example < len(split.inputs):
        raise UserError(f"--example must be between 0 and {len(split.inputs) - 1}, "
                        f"not {options.example}")

    asked = task.interface
    kind = f"{asked.width} numbers each" if asked.width else f"symbols of {asked.vocabulary}"
    print(f"{task.name}: {asked.tokens} tokens, {kind}; {asked.answers} answers of {asked.classes} "
          f"classes, read from {asked.queries} token{'s' * (asked.queries > 1)}")
    if "train" not in data:
        print("  train       drawn from the key, without end")
    for name, (inputs, targets) in data.items():
        unit = "examples" if len(targets) else "tokens  "  # one stream, of which examples are cut
        print(f"  {name:<10}  {len(inputs):>7,} {unit}  inputs {inputs.dtype} {inputs.shape[1:]}  "
              f"targets {targets.shape[1:]}")
    print(f"floors on {options.split}:")
    for name, accuracy in contract.call(task, "floors", data, split).items():
        print(f"  {accuracy:.4f}  {name}")
    example, target = split.inputs[options.example], split.targets[options.example]
    print(f"example {options.example} of {options.split}:\n"
          f"{contract.call(task, 'show', example, target)}")
    labels = contract.call(task, "token_labels", example)
    shown = labels if len(labels) <= 12 else [*labels[:6], "...", *labels[-5:]]
    print(textwrap.fill("its tokens: " + " | ".join(shown), 80, subsequent_indent="  "))


if __name__ == "__main__":
    run(main)
