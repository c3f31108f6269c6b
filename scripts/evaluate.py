"""Evaluates a finished run again, on any split: `python -m scripts.evaluate RUN`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from fpt.errors import UserError
from fpt.files import write_whole
from scripts.arguments import POSITIONAL, parsed
from scripts.command import RunOptions, run, scored_split


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Evaluates a finished run on a split and prints accuracy, loss and floors (the accuracies of
    trivial predictors) as JSON."""

    run: Path = field(metadata=POSITIONAL)
    """Names the folder of a finished run."""
    split: str = "test"
    """Names the split: test, validation, or train where the task has one."""
    examples: int | None = None
    """Evaluates a fixed sample of this many examples; a larger sample contains all smaller ones.
    None means all of the split."""
    predictions: Path | None = None
    """Names a file for the predictions and targets of each example, one JSON object a line."""
    export: Path | None = None
    """Names a folder that the whole model is written to as a GPT-2 checkpoint."""


def main(arguments: list[str]) -> None:
    options = parsed(Options, arguments, "python -m scripts.evaluate")
    if options.examples is not None and options.examples < 1:
        raise UserError(f"--examples must be at least 1, not {options.examples}")
    loaded = options.load(options.run)
    from fpt import splits
    from fpt.evaluation import answers, score
    from fpt.records import finite

    data = options.data(loaded)
    size = len(scored_split(loaded.task, data, options.split).inputs)
    split = splits.sample(data, options.split, options.examples)
    predictions, losses = (found[0] for found in answers(
        loaded.trainer, loaded.frozen, loaded.trainable, split))
    if options.export:  # first, as it may be refused
        loaded.export(options.export)
    if options.predictions:
        numbers = splits.sampled(options.split, size, options.examples).tolist()
        lines = [json.dumps({"example": number, "prediction": predicted.tolist(),
                             "target": target.tolist()})
                 for number, predicted, target in zip(numbers, predictions, split.targets)]
        write_whole(options.predictions, ("\n".join(lines) + "\n").encode())
    floors = {name: finite(value) for name, value in loaded.task.floors(data, split).items()}
    print(json.dumps({
        "run": loaded.folder.name, "split": options.split,
        **score(loaded.task, split, predictions, losses), "floors": floors,
    }, indent=2))


if __name__ == "__main__":
    run(main)
