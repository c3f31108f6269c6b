"""Evaluates a finished run again, on any split: `python -m scripts.evaluate RUN`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fpt.errors import UserError, nearest
from fpt.files import data_folder, write_whole
from scripts.command import parsed, run


@dataclass(frozen=True)
class Options:
    """Evaluates a finished run on a split and prints accuracy, loss and floors as JSON."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]
    """Folder of a finished run."""
    split: str = "test"
    """test, validation, or train where the task has one."""
    examples: int | None = None
    """Evaluate a fixed sample of so many, in which every smaller one is contained; None: all."""
    predictions: Path | None = None
    """A file for each example's predictions and targets, one JSON object a line."""
    export: Path | None = None
    """A folder for the whole model as a GPT-2 checkpoint."""
    data_dir: Path | None = None
    """Where data lie; None: FPT_DATA."""
    body: Path | None = None
    """Where the run's body lies now; None: where it was."""
    task_file: Path | None = None
    """The file that defines the run's task, if it is one of a user's own and has not been executed here before."""


def main(arguments: list[str]) -> None:
    options = parsed(Options, arguments, "python -m scripts.evaluate")
    if not options.folder.is_dir():
        raise UserError(f"no folder {options.folder}; name the folder of a run, as train prints it")
    if options.examples is not None and options.examples < 1:
        raise UserError(f"--examples must be at least 1, not {options.examples}")
    from fpt import splits
    from fpt.evaluation import answers, score
    from fpt.load import load_run

    loaded = load_run(options.folder, options.body, options.task_file)
    data = loaded.task.load(data_folder(options.data_dir), lambda line: None)
    if options.split not in data:
        raise nearest(options.split, data, f"split of {loaded.task.name}")
    if data[options.split].targets.shape[1:] != (loaded.task.interface.answers,) or not len(data[options.split].targets):
        raise UserError(f"the {options.split} split of {loaded.task.name} is what examples are cut from, and cannot be evaluated")
    splits.check(data, loaded.result["data"], str(options.folder))
    split = splits.sample(data, options.split, options.examples)
    predictions, losses = (found[0] for found in answers(loaded.trainer, loaded.frozen, loaded.trainable, split))
    if options.predictions:
        numbers = splits.sampled(options.split, len(data[options.split].inputs), options.examples).tolist()
        lines = [json.dumps({"example": number, "prediction": predicted.tolist(), "target": target.tolist()})
                 for number, predicted, target in zip(numbers, predictions, split.targets)]
        write_whole(options.predictions, ("\n".join(lines) + "\n").encode())
    if options.export:
        loaded.export(options.export)
    print(json.dumps({
        "run": loaded.folder.name, "split": options.split, **score(loaded.task, split, predictions, losses),
        "floors": loaded.task.floors(data, split),
    }, indent=2))


if __name__ == "__main__":
    run(main)
