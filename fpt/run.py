"""From configurations to records: which runs are trained together, and what is finished already."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fpt import contract, contract_data, counts, machine, parameters, records, roles, splits
from fpt.config import Config
from fpt.errors import UserError
from fpt.files import data_folder
from fpt.progress import Steps, waiting
from fpt.stack import Stack, condition_of
from fpt.task import Split
from fpt.trainer import Trainer

VALIDATION = 2_000  # examples of validation, unless said otherwise
MEMORY_SHARE = 0.85  # of the device's memory that a stack may take
Log = Callable[[Path, list[dict[str, Any]]], None]  # of a run's folder and its history


def train(configs: Config | Iterable[Config], out: Path | str = "runs", data_dir: Path | str | None = None,
          quiet: bool = False, keep: int = 0, log: Log | None = None) -> list[dict[str, Any]]:
    """Trains every run that is not finished yet, as few stacks as fit; returns the results, in the order given.

    out: the folder of run folders.  data_dir: where data lie, else `FPT_DATA`.  keep: at how many evenly spaced steps,
    the last among them, the trainable parameters are kept.  log: is called after each evaluation with a run's folder and
    its history so far, the lines of metrics.jsonl; `fpt.tensorboard.Tensorboard()` is one.  A run that was killed goes on
    from its last state and ends in the same numbers; one that is finished is left alone, after a look whether the data,
    where their folder is named, are those that it was trained with.  Raises UserError for what cannot be done, Interrupted
    at Ctrl-C.
    """
    begun = time.monotonic()
    asked = list(configs) if isinstance(configs, Iterable) else [configs]
    if strange := [config for config in asked if not isinstance(config, Config)]:
        raise UserError(f"train takes a Config or several of them, not {strange[0]!r}")
    if fewest := [config.steps for config in asked if not 0 <= keep <= config.steps]:
        raise UserError(f"--keep must be from 0 to the number of steps, {min(fewest)}, not {keep}")
    resolved, bodies = [], {}
    for config in asked:
        contract.check_sizes(config.task)
        common = config.stackable()
        if common not in bodies:
            bodies[common] = parameters.resolve(common)
        ready, found = bodies[common]
        if found and config.seed in found.seeds:
            raise UserError(f"the body in {found.folder} was trained under seed {config.seed}; a run under the same seed draws "
                            "the input and output layers that it grew around, and knows answers untrained: choose another --seed")
        resolved.append(dataclasses.replace(config, body=ready.body, load=ready.load, geometry=ready.geometry,
                                            checkpoint=ready.checkpoint))
    names = [config.name for config in resolved]
    distinct = dict(zip(names, zip(asked, resolved)))  # what was asked for twice is one run
    configs = [config for config, _ in distinct.values()]
    folders = [records.Folder(Path(out), config) for _, config in distinct.values()]
    named, loaded = data_folder(data_dir), {}
    for folder in folders:
        if folder.finished:
            folder.check()
            if named:
                task = folder.config.task
                loaded[task] = loaded.get(task) or contract.call(task, "load", named, lambda line: None)
                splits.check(loaded[task], folder.result()["data"], str(folder.path))
            if not quiet:
                lacks = keep and not {*kept_steps(folder.config.steps, keep)} <= {*records.kept(folder.path)}
                print(f"{folder.path} is finished{', without all the steps that --keep asks for' if lacks else ''}; delete it "
                      "to train again")
    for common, (ready, found) in bodies.items():
        same = [folder for folder, config in zip(folders, configs) if config.stackable() == common]
        unfinished = [folder for folder in same if not folder.finished]
        if not unfinished:
            continue
        own_bodies = ready.body_seed is None and len({folder.config.seed for folder in same}) > 1
        stacks = Stacks(ready, found, own_bodies, named, quiet, begun, kept_steps(ready.steps, keep), log)
        with contextlib.ExitStack() as held:
            for folder in unfinished:
                folder.open()
                held.callback(folder.close)
            stacks.train([folder for folder in unfinished if not folder.finished])  # another process may have been faster
        begun = time.monotonic()
    results = {name: folder.result() for name, folder in zip(distinct, folders)}
    return [results[name] for name in names]


def kept_steps(steps: int, keep: int) -> tuple[int, ...]:
    """The steps after which parameters are kept: `keep` of them, evenly spaced, up to the last."""
    return tuple(steps * number // keep for number in range(1, keep + 1))


def together(begun: dict[str, list[tuple[int, tuple[str, ...]]]]) -> list[tuple[int, list[str]]]:
    """Groups the runs that have states: those whose newest was trained in one stack, at the newest step that all have.

    begun: for each run, the step and the stack of each of its states, the newest first.  A stack that was killed while it
    wrote has runs with a newer state than the others, which these go back for.  Runs that were taken out of their stack
    since, and trained further, go on from where they are.
    """
    stacks: dict[tuple[str, ...], list[str]] = {}
    for name, states in begun.items():
        if states:
            stacks.setdefault(states[0][1], []).append(name)
    found = []
    for stack, names in stacks.items():
        if common := set.intersection(*({step for step, other in begun[name] if other == stack} for name in names)):
            found.append((max(common), names))
        else:  # somebody has removed a file
            for step in dict.fromkeys(begun[name][0][0] for name in names):
                found.append((step, [name for name in names if begun[name][0][0] == step]))
    return found


class Stacks:
    """Runs that differ in rate and seed only, on their way through as many stacks as they need."""

    def __init__(self, config: Config, found, own_bodies: bool, data_dir: Path | None, quiet: bool, begun: float,
                 keep: tuple[int, ...], log: Log | None):
        self.config, self.task, self.quiet, self.begun, self.keep = config, config.task, quiet, begun, keep
        self.log = log or (lambda folder, history: None)
        self.say = (lambda line: None) if quiet else print
        self.data = contract.call(self.task, "load", data_dir, self.say)
        contract_data.check_data(self.task, self.data, config.batch)
        self.data_digests = splits.digests(self.data)
        self.validation = splits.sample(self.data, "validation", config.eval_examples or VALIDATION)
        self.test = splits.sample(self.data, "test", config.eval_examples)
        self.probes = {name: self.data[name] for name in self.task.probes}
        train = self.data.get("train")
        self.train_split = None if train is None else Split(*map(jnp.asarray, train))
        self.model = parameters.model_of(config)
        self.source = parameters.Source(config, self.model, found, own_bodies)
        anywhere = contract_data.trace_batch(self.task, train, config.batch).anywhere
        self.counts = counts.count(self.source.shapes, roles.parse(config.train), config.geometry,
                                   config.geometry.positions if anywhere else self.task.interface.tokens)
        origin = f"loads {config.load} from {found.folder}" if found else "random, nothing loaded"
        if config.birth != "weights":
            origin = f"{config.birth} for {config.load}" + (f" from {found.folder}" if found else "")
        self.say(f"{self.task.name}: body {config.body} ({origin}), trains {config.train}")
        self.say(counts.describe(self.counts))
        self.compiled: dict[int, tuple[Any, int]] = {}  # runs -> what `compile` gives

    def train(self, folders: list[records.Folder]) -> None:
        """Runs that share a state go on together, whatever else is asked for; those without one make new stacks."""
        named = {folder.path.name: folder for folder in folders}
        shared = together({name: folder.begun() for name, folder in named.items()})
        for step, names in shared:
            self.say(f"going on at step {step}" + (f": {', '.join(names)}" if len(names) < len(folders) else ""))
            self._train([named.pop(name) for name in names], step)
        fresh = list(named.values())
        while fresh:
            size = self._fitting(len(fresh))
            self._train(fresh[:size])
            fresh = fresh[size:]

    def _train(self, folders: list[records.Folder], step: int | None = None) -> None:
        stack = Stack(self, folders, step)
        tokens = len(folders) * self.config.batch * self.task.interface.tokens if self.task.interface.tied else None
        with Steps(self.task.name, self.config.steps, stack.step, self.quiet, tokens) as progress:
            stack.run(progress)
        self.begun = time.monotonic()

    def trainer(self, runs: int) -> Trainer:
        return Trainer(self.model, self.config, runs, self.source.axes(runs))

    def compile(self, runs: int) -> tuple[Any, int]:
        """The training loop of a stack of so many runs, and the bytes that it needs on the device.  Nothing is drawn."""
        if runs not in self.compiled:
            trainer, (trainable, frozen) = self.trainer(runs), self.source.describe(runs)
            state = jax.eval_shape(trainer.begin, trainable)
            condition = jax.eval_shape(lambda: condition_of([self.config] * runs))
            with waiting("compiling", self.quiet):
                compiled = trainer.compile(frozen, self.train_split, condition, state)
            used = compiled.memory_analysis()
            best = sum(leaf.size * leaf.dtype.itemsize for leaf in trainable.values())
            self.compiled[runs] = compiled, used.argument_size_in_bytes + used.temp_size_in_bytes + best if used else 0
        return self.compiled[runs]

    def _fitting(self, runs: int) -> int:
        """The most runs, up to `runs`, that the device can train at once.  Raises UserError where it cannot train one."""
        most, needed = MEMORY_SHARE * machine.memory(), self.compile(runs)[1]
        if needed <= most:
            return runs
        fit, too_many = 0, runs
        while too_many - fit > 1:
            middle = (fit + too_many) // 2
            needed = self.compile(middle)[1]
            fit, too_many = (middle, too_many) if needed <= most else (fit, middle)
        if not fit:
            raise UserError(f"a run needs about {needed / 2**30:.1f} GiB of memory, and {most / 2**30:.1f} GiB may be taken "
                            "here; a smaller --batch needs less")
        self.say(f"{runs} runs at once need more memory than there is; going on with {fit}")
        return fit
