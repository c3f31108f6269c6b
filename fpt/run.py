"""Trains runs from configurations to records: which are finished, and which are trained together."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fpt import contract, machine, parameters, records, splits
from fpt.config import Config
from fpt.errors import UserError
from fpt.experiment import Experiment
from fpt.files import data_folder
from fpt.progress import Steps
from fpt.stack import Log, Pace, Stack
from fpt.stack import train as train_stack

MEMORY_SHARE = 0.85  # of the device's memory that a stack may take


def train(configs: Config | Iterable[Config], out: Path | str = "runs",
          data_dir: Path | str | None = None, quiet: bool = False, keep: int = 0,
          log: Log | None = None, pace: Pace | None = None) -> list[dict[str, Any]]:
    """Trains every run that is not finished yet, in as few stacks as fit; returns their results.

    out: the folder of run folders.  data_dir: where data lie, else `FPT_DATA`.  keep: at how many
    evenly spaced steps, the last among them, the trainable parameters are kept.  log: called after
    each evaluation with a run's folder and its history so far, the lines of metrics.jsonl;
    `fpt.tensorboard.Tensorboard()` is one.  pace: when states are saved.

    A run that was killed goes on from its last state and ends in the same numbers.  A finished run is
    left alone; where the data's folder is named, the data are compared with those it was trained
    with.  Raises UserError for what cannot be done, Interrupted at Ctrl-C.
    """
    pace = pace or Pace()
    begun = pace.clock()
    asked = list(configs) if isinstance(configs, Iterable) else [configs]
    if strange := [config for config in asked if not isinstance(config, Config)]:
        raise UserError(f"train takes a Config or several of them, not {strange[0]!r}")
    if fewest := [config.steps for config in asked if not 0 <= keep <= config.steps]:
        raise UserError(f"--keep must be from 0 to the number of steps, {min(fewest)}, not {keep}")
    groups: dict[Config, list[Config]] = {}  # what runs share -> the runs, resolved
    found, names = {}, []
    for config in asked:
        contract.check_sizes(config.task)
        common = config.stackable()
        if common not in found:
            found[common] = parameters.resolve(common)
        ready, checkpoint = found[common]
        if checkpoint and config.seed in checkpoint.seeds and not config.stream:
            raise UserError(f"the body in {checkpoint.folder} was trained under seed {config.seed}; a "
                            "run under the same seed draws the input and output layers that it grew "
                            "around, and knows answers untrained: choose another --seed")
        config = dataclasses.replace(config, body=ready.body, load=ready.load,
                                     geometry=ready.geometry, checkpoint=ready.checkpoint)
        if config.name not in names:
            groups.setdefault(common, []).append(config)
        names.append(config.name)
    folders = {config.name: records.Folder(Path(out), config)
               for runs in groups.values() for config in runs}
    named = data_folder(data_dir)
    _check_finished([folder for folder in folders.values() if folder.finished], named, keep, quiet)
    for common, runs in groups.items():
        unfinished = [folders[run.name] for run in runs if not folders[run.name].finished]
        if not unfinished:
            continue
        ready, checkpoint = found[common]
        experiment = Experiment(ready, checkpoint, runs, named, quiet)
        with contextlib.ExitStack() as held:
            for folder in unfinished:
                folder.open()
                held.callback(folder.close)
            # Another process may have been faster.
            unfinished = [folder for folder in unfinished if not folder.finished]
            for stacked, step in stacks(experiment, unfinished):
                label, total, runs_in_it = ready.task.name, ready.steps, len(stacked)
                stack = Stack(experiment, stacked, step, begun, pace)
                tokens = runs_in_it * ready.batch * ready.task.interface.tokens
                tokens = tokens if ready.task.interface.tied else None
                with Steps(label, total, stack.step, quiet, tokens) as progress:
                    train_stack(stack, progress, kept_steps(total, keep), log or _no_log)
                begun = pace.clock()
    results = {name: folder.result() for name, folder in folders.items()}
    return [results[name] for name in names]


def _no_log(folder: Path, history: list[dict[str, Any]]) -> None:
    pass


def _check_finished(folders: list[records.Folder], data_dir: Path | None, keep: int,
                    quiet: bool) -> None:
    """Checks that finished runs are those that were asked for, and says that they are left alone."""
    loaded = {}
    for folder in folders:
        folder.check()
        task, steps = folder.config.task, folder.config.steps
        if data_dir:
            if task not in loaded:
                loaded[task] = contract.call(task, "load", data_dir, lambda line: None)
            splits.check(loaded[task], folder.result()["data"], str(folder.path))
        if not quiet:
            lacks = keep and not {*kept_steps(steps, keep)} <= {*records.kept(folder.path)}
            missing = ", without all the steps that --keep asks for" if lacks else ""
            print(f"{folder.path} is finished{missing}; delete it to train again")


def kept_steps(steps: int, keep: int) -> tuple[int, ...]:
    """Chooses the steps after which parameters are kept: `keep`, evenly spaced, up to the last."""
    return tuple(steps * number // keep for number in range(1, keep + 1))


def stacks(experiment: Experiment, folders: list[records.Folder]):
    """Yields the folders of each stack, and the step of the states that it goes on from, or None.

    Runs that share a state go on together; runs without one make new stacks, as large as fit.
    """
    say = (lambda line: None) if experiment.quiet else print
    named = {folder.path.name: folder for folder in folders}
    for step, names in together({name: folder.begun() for name, folder in named.items()}):
        some = f": {', '.join(names)}" if len(names) < len(folders) else ""
        say(f"going on at step {step}{some}")
        yield [named.pop(name) for name in names], step
    fresh = list(named.values())
    while fresh:
        size = fitting(experiment, len(fresh))
        if size < len(fresh):
            say(f"{len(fresh)} runs at once need more memory than there is; going on with {size}")
        yield fresh[:size], None
        fresh = fresh[size:]


def together(begun: dict[str, list[tuple[int, tuple[str, ...]]]]) -> list[tuple[int, list[str]]]:
    """Groups runs whose newest state was trained in one stack, at the newest step that all have.

    begun: for each run, the step and the stack of each of its states, the newest first.  A stack
    that was killed while it wrote has runs with a newer state than the others, which these go back
    for.  Runs that were taken out of their stack since, and trained further, go on from where they
    are.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for name, states in begun.items():
        if states:
            found.setdefault(states[0][1], []).append(name)
    groups = []
    for stack, names in found.items():
        steps = [{step for step, other in begun[name] if other == stack} for name in names]
        if common := set.intersection(*steps):
            groups.append((max(common), names))
        else:  # somebody has removed a file
            for step in dict.fromkeys(begun[name][0][0] for name in names):
                groups.append((step, [name for name in names if begun[name][0][0] == step]))
    return groups


def fitting(experiment: Experiment, runs: int) -> int:
    """Finds the most runs, up to `runs`, that the device can train at once.

    Raises UserError where it cannot train one.
    """
    most, needed = MEMORY_SHARE * machine.memory(), experiment.compiled(runs).bytes
    if needed <= most:
        return runs
    fit, too_many = 0, runs
    while too_many - fit > 1:
        middle = (fit + too_many) // 2
        needed = experiment.compiled(middle).bytes
        fit, too_many = (middle, too_many) if needed <= most else (fit, middle)
    if not fit:
        raise UserError(f"a run needs about {needed / 2**30:.1f} GiB of memory, and "
                        f"{most / 2**30:.1f} GiB may be taken here; a smaller --batch needs less")
    return fit
