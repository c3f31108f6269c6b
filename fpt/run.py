"""Trains runs from configurations to records: leaves finished ones alone, and stacks the others."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fpt import contract, parameters, records, saved, splits
from fpt.checkpoint import Checkpoint
from fpt.config import Config, kept_steps
from fpt.errors import UserError
from fpt.experiment import Experiment
from fpt.files import data_folder
from fpt.interrupt import interruptible
from fpt.planning import stacks
from fpt.progress import Steps
from fpt.stack import Log, Pace, Stack
from fpt.task import Task


def train(configs: Config | Iterable[Config], out: Path | str = "runs",
          data_dir: Path | str | None = None, quiet: bool = False, keep: int = 0,
          log: Log | None = None, pace: Pace | None = None) -> list[dict[str, Any]]:
    """Trains every run that is not finished yet; returns the results of all.

    Runs that differ only in learning rates, seed and start are trained at once, as a stack: as many
    as the device's memory holds.

    out: the folder of run folders.  data_dir: where data lie, else `FPT_DATA`.  keep: at how many
    evenly spaced steps, the last among them, the trainable parameters are kept.  log: called after
    each evaluation with a run's folder and its history so far, the lines of metrics.jsonl;
    `fpt.tensorboard.Tensorboard()` is one.  pace: how often states are saved.

    A run that was killed goes on from its last state and ends in the same numbers.  A finished run
    is left alone; where the data's folder is named, the data are compared with those it was trained
    with.  Raises UserError for what cannot be done, Interrupted at Ctrl-C.
    """
    pace = pace or Pace()
    begun = pace.clock()
    asked = list(configs) if isinstance(configs, Iterable) else [configs]
    if strange := [config for config in asked if not isinstance(config, Config)]:
        raise UserError(f"train takes a Config or several of them, not {strange[0]!r}")
    check_keep(keep, asked)
    found = resolved(asked)
    names = [config.name for config, _ in found]
    folders = {name: records.Folder(Path(out), config) for name, (config, _) in zip(names, found)}
    named = data_folder(data_dir)
    _check_finished([folder for folder in folders.values() if folder.finished], named, keep, quiet)
    checkpoints = {config.stackable(): checkpoint for config, checkpoint in found}
    for common, checkpoint in checkpoints.items():
        group = [folder for folder in folders.values() if folder.config.stackable() == common]
        unfinished = [folder for folder in group if not folder.finished]
        if not unfinished:
            continue
        runs = [folder.config for folder in group]
        experiment = Experiment(common, checkpoint, runs, named, quiet)
        with contextlib.ExitStack() as held:
            for folder in unfinished:
                folder.open()
                held.callback(folder.close)
            # Another process may have been faster.
            unfinished = [folder for folder in unfinished if not folder.finished]
            for stacked, step in stacks(experiment, unfinished):
                halts = kept_steps(common.steps, keep)
                train_stack(experiment, stacked, step, halts, log, pace, begun)
                begun = pace.clock()
    results = {name: folder.result() for name, folder in folders.items()}
    return [results[name] for name in names]


def resolved(configs: Iterable[Config]) -> list[tuple[Config, Checkpoint | None]]:
    """Resolves configurations, each with the checkpoint that it loads from.

    Raises UserError as `parameters.resolve` does, and for a seed that a run which trained the body
    had: see `checkpoint._seeds`.
    """
    found: dict[Config, tuple[Config, Checkpoint | None]] = {}  # by what runs of a stack share
    runs = []
    for config in configs:
        contract.check_sizes(config.task)
        common = config.stackable()
        if common not in found:
            found[common] = parameters.resolve(common)
        ready, checkpoint = found[common]
        if checkpoint and config.seed in checkpoint.seeds and not config.stream:
            raise UserError(f"the body in {checkpoint.folder} was trained under seed "
                            f"{config.seed}; a run under the same seed draws the input and output "
                            "layers that it grew around, and knows answers untrained: choose "
                            "another --seed")
        config = dataclasses.replace(config, body=ready.body, load=ready.load,
                                     geometry=ready.geometry, checkpoint=ready.checkpoint)
        runs.append((config, checkpoint))
    return runs


def train_stack(experiment: Experiment, folders: list[records.Folder], step: int | None,
                keep: tuple[int, ...], log: Log | None, pace: Pace, begun: float) -> None:
    """Trains a stack of runs to its end and writes its results.

    step: that of the states that the runs go on from, or None.  keep: the steps whose parameters
    are kept.  begun: the clock's time from which the runs' seconds count.  Raises Interrupted once
    the state is saved, where a signal asks to stop.
    """
    stack, config = Stack(experiment, folders, step, begun, pace), experiment.config
    asked = config.task.interface
    tokens = len(folders) * config.batch * asked.tokens if asked.tied else None
    progress = Steps(config.task.name, config.steps, stack.step, experiment.quiet, tokens)
    with progress, interruptible(stack.save) as check:
        if stack.results is None:
            stack.prepare(check, progress.prepare)
        while stack.results is None:
            check()
            if stack.step in keep:
                stack.keep()
            if stack.evaluation_due:
                stack.evaluate(check, progress.say)
                stack.write_metrics(log)
            check()
            if stack.ended:
                stack.conclude(check)
                stack.save()
            else:
                stack.save_if_due()
                stack.advance(keep)
                progress.update(stack.step, *stack.progress())
        stack.write_results()
        for folder, result in zip(stack.folders, stack.results):
            progress.say(summary(folder.path, result))


def summary(folder: Path, result: dict[str, Any]) -> str:
    """Describes how a run ended, beside its best floor: the accuracy of a trivial predictor."""
    floors = {name: value for name, value in result["floors"].items() if "/" not in name}
    floor, test = max(floors, key=floors.get), result["test"]
    also = (test["slices"] | result["figures"]).items()
    parts = "".join(f", {name} {value:.4f}" for name, value in also if value is not None)
    diverged = result["status"] != "finished"
    state = f"diverged at step {result['diverged_at']}; " if diverged else ""
    return (f"{folder}\n"
            f"  {state}test accuracy {test['accuracy']:.4f} on {test['n']:,} examples{parts}\n"
            f"  best floor    {floors[floor]:.4f} ({floor}); took {result['seconds']:.0f} s\n"
            f"  its picture   python -m scripts.figure {folder}")


def _check_finished(folders: list[records.Folder], data_dir: Path | None, keep: int,
                    quiet: bool) -> None:
    """Checks that finished runs are those that were asked for, and says that they are finished."""
    found: dict[Task, dict[str, str]] = {}  # the digests of each task's data
    for folder in folders:
        folder.check()
        task, steps = folder.config.task, folder.config.steps
        if data_dir:
            if task not in found:
                data = contract.call(task, "load", data_dir, lambda line: None)
                found[task] = splits.digests(data)
            splits.check(found[task], folder.result()["data"], str(folder.path))
        if not quiet:
            lacks = keep and not {*kept_steps(steps, keep)} <= {*saved.kept(folder.path)}
            missing = ", without all the steps that --keep asks for" if lacks else ""
            print(f"{folder.path} is finished{missing}; delete it to train again")


def check_keep(keep: int, configs: Iterable[Config]) -> None:
    """Raises UserError where a run has too few steps to keep parameters at `keep` of them."""
    if fewest := [config.steps for config in configs if not 0 <= keep <= config.steps]:
        raise UserError(f"--keep must be from 0 to the number of steps, {min(fewest)}, not {keep}")
