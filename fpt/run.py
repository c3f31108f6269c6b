"""A run from configuration to record: draw or load, train, evaluate, keep the best, write; and take up what was left."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fpt import counts, parameters, records, roles
from fpt.config import Config
from fpt.errors import UserError
from fpt.evaluation import evaluate, take
from fpt.files import data_folder
from fpt.progress import Steps, waiting
from fpt.task import Split
from fpt.trainer import NEVER, Condition, Trainer, keep_best, restart

SECONDS_PER_DISPATCH = 2  # on a slow device; a Ctrl-C waits for at most about this long
MOST_PER_DISPATCH = 500  # steps
SECONDS_PER_STATE = 2  # at least, between states written to the disk
STATE_SHARE = 0.05  # of the time, at most, that writing them takes
VALIDATION = 2_000  # examples of validation, unless said otherwise
MEMORY_SHARE = 0.85  # of the device's memory that a stack may take


class Interrupted(KeyboardInterrupt):
    """Training was stopped from outside, and its state is on the disk."""


def train(configs: Config | list[Config], out: Path | str = "runs", data_dir: Path | str | None = None,
          quiet: bool = False) -> list[dict[str, Any]]:
    """Trains every run that is not finished yet, as few stacks as fit; returns the results, in the order given.

    out: the folder of run folders.  data_dir: where data lie, else `FPT_DATA`.  A run that was killed goes on from its
    last state and ends in the same numbers.  Raises UserError for what cannot be done, Interrupted at Ctrl-C.
    """
    begun = time.monotonic()
    configs = [configs] if isinstance(configs, Config) else configs
    resolved, bodies = [], {}
    for config in configs:
        common = config.stackable()
        if common not in bodies:
            bodies[common] = parameters.resolve(common)
        ready, _ = bodies[common]
        resolved.append(dataclasses.replace(config, load=ready.load, geometry=ready.geometry, checkpoint=ready.checkpoint))
    folders = [records.Folder(Path(out), config) for config in resolved]
    for folder in folders:
        if folder.finished:
            folder.check()
            if not quiet:
                print(f"{folder.path} is finished; delete it to train again")
    for common, (ready, found) in bodies.items():
        same = [folder for folder, config in zip(folders, configs) if config.stackable() == common]
        unfinished = [folder for folder in same if not folder.finished]
        if not unfinished:
            continue
        own_bodies = ready.body_seed is None and len({folder.config.seed for folder in same}) > 1
        stacks = _Stacks(ready, found, own_bodies, data_folder(data_dir), quiet, begun)
        with contextlib.ExitStack() as held:
            for folder in unfinished:
                folder.open()
                held.callback(folder.close)
            stacks.train([folder for folder in unfinished if not folder.finished])  # another process may have been faster
        begun = time.monotonic()
    return [folder.result() for folder in folders]


class _Stacks:
    """Runs that differ in rate and seed only, on their way through as many stacks as they need."""

    def __init__(self, config: Config, found, own_bodies: bool, data_dir: Path | None, quiet: bool, begun: float):
        self.config, self.task, self.quiet, self.begun = config, config.task, quiet, begun
        self.say = (lambda line: None) if quiet else print
        self.data = self.task.load(data_dir, self.say)
        self.data_digests = {name: parameters.digest(split._asdict()) for name, split in self.data.items()}
        self.validation = take(self.data["validation"], config.eval_examples or VALIDATION)
        self.test = take(self.data["test"], config.eval_examples)
        train = self.data.get("train")
        self.train_split = None if train is None else Split(*map(jnp.asarray, train))
        self.model = parameters.model_of(config)
        self.source = parameters.Source(config, self.model, found, own_bodies)
        self.counts = counts.count(self.source.shapes, roles.parse(config.train), config.geometry, self.task.tokens)
        origin = f"loads {config.load} from {found.folder}" if found else "random, nothing loaded"
        self.say(f"{self.task.name}: body {config.body} ({origin}), trains {config.train}")
        self.say(counts.describe(self.counts))
        self.compiled: dict[int, tuple[Any, int]] = {}  # runs -> what `compile` gives

    def train(self, folders: list[records.Folder]) -> None:
        """Runs that were begun together go on together, whatever else is asked for; the others make new stacks."""
        begun = {folder.path.name: folder.begun_with() for folder in folders}
        together = {name for names in begun.values() for name in names}
        for names in dict.fromkeys(filter(None, begun.values())):
            self._train([folder for folder in folders if folder.path.name in names])
        fresh = [folder for folder in folders if folder.path.name not in together]
        while fresh:
            size = self._fitting(len(fresh))
            self._train(fresh[:size])
            fresh = fresh[size:]

    def _train(self, folders: list[records.Folder]) -> None:
        stack = _Stack(self, folders)
        with Steps(self.task.name, self.config.steps, stack.step, self.quiet) as progress:
            stack.run(progress)
        self.begun = time.monotonic()

    def trainer(self, runs: int) -> Trainer:
        return Trainer(self.model, self.task, self.config.batch, self.config.clip, runs, self.source.axes(runs))

    def compile(self, runs: int) -> tuple[Any, int]:
        """The training loop of a stack of so many runs, and the bytes that it needs on the device.  Nothing is drawn."""
        if runs not in self.compiled:
            trainer, (trainable, frozen) = self.trainer(runs), self.source.describe(runs)
            state = jax.eval_shape(trainer.begin, trainable)
            condition = jax.eval_shape(lambda: _condition([self.config] * runs))
            with waiting("compiling", self.quiet):
                compiled = trainer.compile(frozen, self.train_split, condition, state)
            used = compiled.memory_analysis()
            best = sum(leaf.size * leaf.dtype.itemsize for leaf in trainable.values())
            self.compiled[runs] = compiled, used.argument_size_in_bytes + used.temp_size_in_bytes + best if used else 0
        return self.compiled[runs]

    def _fitting(self, runs: int) -> int:
        """The most runs, up to `runs`, that the device can train at once.  Raises UserError where it cannot train one."""
        most, needed = _memory(), self.compile(runs)[1]
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


def _condition(configs: list[Config]) -> Condition:
    return Condition(jnp.stack([jax.random.key(config.seed) for config in configs]),
                     jnp.array([config.lr for config in configs], jnp.float32))


class _Stop(Exception):
    """A signal has asked for the end; what is on the device is a state to go on from."""


class _Stack:
    """One stack: its state on the device, its history on the host."""

    def __init__(self, common: _Stacks, folders: list[records.Folder]):
        self.common, self.folders = common, folders
        self.trainer = common.trainer(len(folders))
        self.advance, _ = common.compile(len(folders))
        configs = [folder.config for folder in folders]
        trainable, self.frozen = common.source.stack(configs)
        self.condition = _condition(configs)
        self.best = jax.tree.map(jnp.copy, trainable)
        self.state = self.trainer.begin(trainable)
        self.step, self.seconds, self.training = 0, 0.0, 0.0
        self.history: list[list[dict]] = [[] for _ in folders]
        self.results: list[dict] | None = None
        self._restore()

    def run(self, progress: Steps) -> None:
        """Trains to the end and writes the records.  Raises Interrupted once the state is saved, if asked to stop."""
        started = self.common.begun - self.seconds
        config = self.common.config
        with _stop_signals() as asked:
            def between() -> None:
                self.seconds = time.monotonic() - started
                if asked:
                    raise _Stop

            try:
                while self.results is None:
                    between()
                    if self.step % config.eval_every == 0 or self.step == config.steps:
                        if not self._evaluated():
                            self._evaluate(progress, between)
                        if self.step == config.steps or all(self._ended(history) for history in self.history):
                            self.results = self._results(between)
                            self._save()
                            break
                        between()
                    self._advance(progress)
            except _Stop:
                self._save()
                raise Interrupted(signal.Signals(asked[0]).name) from None
            for folder, result, best in zip(self.folders, self.results, self._unstacked(self.best)):
                identity = {"body": config.body, "checkpoint": config.checkpoint or "none", "run": folder.config.digest}
                folder.write_result(result, best, identity | {"frozen": result["frozen"]})
            _summarise(progress, self.folders, self.results)
            if asked:
                raise Interrupted(signal.Signals(asked[0]).name)

    def _advance(self, progress: Steps) -> None:
        """One dispatch: as many steps as take about SECONDS_PER_DISPATCH, at most to the next evaluation; a state if due."""
        config = self.common.config
        begun = time.monotonic()
        if begun > self.due:
            self._save()
            saved = time.monotonic()
            self.due = saved + max(SECONDS_PER_STATE, (saved - begun) / STATE_SHARE)
            begun = saved
        count = min(self.per_dispatch, config.eval_every - self.step % config.eval_every, config.steps - self.step)
        self.state = self.advance(
            self.frozen, self.common.train_split, self.condition, self.state, np.int32(self.step), np.int32(count))
        losses, diverged = np.asarray(self.state.loss), np.asarray(self.state.diverged)
        taken = time.monotonic() - begun
        self.step += count
        self.training += taken
        self.per_dispatch = max(1, min(MOST_PER_DISPATCH, int(SECONDS_PER_DISPATCH * count / taken)))
        alive = losses[diverged == NEVER] / (self.step - self.evaluated)
        progress.update(self.step, self.step / self.training, alive.mean() if len(alive) else math.nan,
                        max(history[-1]["validation"]["accuracy"] for history in self.history))

    @property
    def evaluated(self) -> int:
        """The step of the last evaluation."""
        return max(history[-1]["step"] for history in self.history)

    def _evaluated(self) -> bool:
        return all(history and (history[-1]["step"] == self.step or self._ended(history)) for history in self.history)

    @staticmethod
    def _ended(history: list[dict]) -> bool:
        """Whether a run has diverged: its history then ends with the next evaluation, as it would if it were alone."""
        return "diverged_at" in history[-1]

    def _evaluate(self, progress: Steps, between: Callable[[], None]) -> None:
        """Adds a line to each run's history, and keeps the weights of those that are better than ever before."""
        found = evaluate(self.trainer, self.frozen, self.state.trainable, self.common.validation, between)
        diverged = np.asarray(self.state.diverged)
        improved = np.zeros(len(self.folders), bool)
        for number, history in enumerate(self.history):
            if history and self._ended(history):
                continue
            improved[number] = _better(found[number], max((line["validation"] for line in history), key=_rank, default=None))
            last = history[-1]["step"] if history else 0
            steps = (self.step if diverged[number] == NEVER else int(diverged[number])) - last
            trained = {"loss": records.finite(self.state.loss[number] / steps),
                       "accuracy": records.finite(self.state.accuracy[number] / steps)} if steps else None
            history.append({"step": self.step, "train": trained, "validation": found[number],
                            "seconds": round(self.seconds, 3)})
            if diverged[number] != NEVER:
                history[-1]["diverged_at"] = int(diverged[number])
                others = "; the others go on" if len(self.folders) > 1 else ""
                progress.say(f"{self.folders[number].path.name} diverged at step {diverged[number]}{others}")
        self.best = keep_best(jnp.array(improved), self.state.trainable, self.best)
        self.state = restart(self.state)
        for folder, history in zip(self.folders, self.history):
            folder.write_metrics(history)

    def _results(self, between: Callable[[], None]) -> list[dict]:
        common, config = self.common, self.common.config
        tested = evaluate(self.trainer, self.frozen, self.best, common.test, between)
        floors = {name: records.finite(value) for name, value in common.task.floors(common.data, common.test).items()}
        frozen = [parameters.digest(self._frozen(number)) for number in range(len(self.folders))]
        between()
        results = []
        for number, history in enumerate(self.history):
            best = max(history, key=lambda line: _rank(line["validation"]))  # the earliest of equals
            diverged = history[-1].get("diverged_at")
            results.append({
                "status": "finished" if diverged is None else "diverged", "diverged_at": diverged,
                "test": tested[number], "validation": best["validation"], "best_step": best["step"],
                "steps": history[-1]["step"], "floors": floors, "counts": common.counts, "seconds": round(self.seconds, 3),
                "steps_per_second": self.step / self.training, "runs_in_stack": len(self.folders),
                "device": _device(), "dtype": config.dtype, "versions": _versions(), "commit": _commit(),
                "frozen": frozen[number], "data": common.data_digests,
            })
        return results

    def _frozen(self, number: int) -> dict:
        axes = self.trainer.axes
        return {name: value if axes[name] is None else value[number] for name, value in self.frozen.items()}

    def _unstacked(self, tree: Any) -> list[Any]:
        host = jax.tree.map(np.asarray, tree)
        return [jax.tree.map(lambda leaf: leaf[number], host) for number in range(len(self.folders))]

    def _save(self) -> None:
        """Writes the state of every run, then removes the older ones."""
        names = [folder.path.name for folder in self.folders]
        for number, (folder, kept) in enumerate(zip(self.folders, self._unstacked((self.state, self.best)))):
            notes = {"history": self.history[number], "seconds": self.seconds, "training": self.training,
                     "result": self.results and self.results[number], "data": self.common.data_digests}
            folder.write_state(self.step, records.flatten(kept), notes, names)
        for folder in self.folders:
            folder.remove_states(but=self.step)

    def _restore(self) -> None:
        """Goes on from the newest step of which every run of the stack has a state, if there is one."""
        self.due, self.per_dispatch = time.monotonic() + SECONDS_PER_STATE, 1
        common = set.intersection(*(set(folder.states()) for folder in self.folders))
        if not common:
            return
        self.step = max(common)
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (self.state, self.best))
        kept = []
        for number, folder in enumerate(self.folders):
            leaves, notes = folder.read_state(self.step)
            if notes["data"] != self.common.data_digests:
                raise UserError(f"the data are not those that {folder.path} was begun with; put them back, or delete the folder")
            kept.append(records.unflatten(leaves, like))
            self.history[number] = notes["history"]
            self.seconds, self.training = notes["seconds"], notes["training"]
            self.results = (self.results or []) + [notes["result"]] if notes["result"] else None
        self.state, self.best = jax.tree.map(lambda *leaves: jnp.stack(leaves), *kept)
        self.common.say(f"going on at step {self.step}")


def _rank(score: dict) -> tuple[bool, float]:
    """What makes one evaluation better than another: accuracy, as long as the loss is a number."""
    return score["loss"] is not None, score["accuracy"]


def _better(score: dict, than: dict | None) -> bool:
    return than is None or _rank(score) > _rank(than)


@contextlib.contextmanager
def _stop_signals():
    """Collects SIGINT and SIGTERM in a list instead of letting them cut a step in two; a second SIGINT cuts."""
    asked: list[int] = []

    def handle(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are its caller's
        before = {}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summarise(progress: Steps, folders: list[records.Folder], results: list[dict]) -> None:
    for folder, result in zip(folders, results):
        floors = {name: value for name, value in result["floors"].items() if "/" not in name}
        floor = max(floors, key=floors.get)
        test = result["test"]
        parts = "".join(f", {name} {value:.4f}" for name, value in test["slices"].items())
        state = "" if result["status"] == "finished" else f"diverged at step {result['diverged_at']}; "
        progress.say(f"{folder.path}\n  {state}test accuracy {test['accuracy']:.4f} on {test['n']:,} examples{parts}; "
                     f"best floor {floors[floor]:.4f} ({floor}); {result['seconds']:.0f} s")


def _memory() -> float:
    """Bytes of the device that a stack may take."""
    stated = jax.devices()[0].memory_stats() or {}
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return MEMORY_SHARE * stated.get("bytes_limit", physical)


def _device() -> str:
    device = jax.devices()[0]
    return f"{os.cpu_count()} x {platform.processor() or platform.machine()}" if device.platform == "cpu" else device.device_kind


def _versions() -> dict[str, str]:
    names = ("fpt", "jax", "jaxlib", "flax", "optax", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def _commit() -> str | None:
    """The commit of the clone that this code runs from, marked where files differ from it; None outside a clone."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        found = subprocess.run([*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
                               capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
