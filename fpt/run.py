"""A run from configuration to record: draw or load, train, evaluate, keep the best, write; and take up what was left."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import signal
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fpt import counts, parameters, records, roles
from fpt.config import Config
from fpt.evaluation import evaluate, take
from fpt.progress import Steps
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
    configs = [configs] if isinstance(configs, Config) else configs
    out = Path(out)
    data_dir = data_dir or os.environ.get("FPT_DATA") or None
    resolved, bodies = [], {}
    for config in configs:
        common = config.stackable()
        if common not in bodies:
            bodies[common] = parameters.resolve(common)
        ready, *_ = bodies[common]
        resolved.append(dataclasses.replace(config, load=ready.load, checkpoint=ready.checkpoint))
    folders = [records.Folder(out, config) for config in resolved]
    for folder in folders:
        if folder.finished:
            folder.check()
            if not quiet:
                print(f"{folder.path} is finished; delete it to train again")
    for common, (ready, geometry, found) in bodies.items():
        same = [folder for folder, config in zip(folders, configs) if config.stackable() == common]
        waiting = [folder for folder in same if not folder.finished]
        if not waiting:
            continue
        stacks = _Stacks(ready, geometry, found, Path(data_dir) if data_dir else None, quiet)
        with contextlib.ExitStack() as held:
            for folder in waiting:
                folder.open()
                held.callback(folder.close)
            stacks.train([folder for folder in waiting if not folder.finished])  # another process may have been faster
    return [folder.result() for folder in folders]


class _Stacks:
    """Runs that differ in rate and seed only, on their way through as many stacks as they need."""

    def __init__(self, config: Config, geometry, found, data_dir: Path | None, quiet: bool):
        self.config, self.task, self.quiet = config, config.task, quiet
        self.say = (lambda line: None) if quiet else print
        self.data = self.task.load(data_dir, self.say)
        self.validation = take(self.data["validation"], config.eval_examples or VALIDATION)
        self.test = take(self.data["test"], config.eval_examples)
        train = self.data.get("train")
        self.train_split = None if train is None else Split(*map(jnp.asarray, train))
        self.model = parameters.model_of(config, geometry)
        self.source = parameters.Source(config, self.model, found)
        chosen = roles.parse(config.train)
        self.counts = counts.count(self.source.shapes, chosen, geometry, self.task.tokens)
        origin = f"loads {config.load} from {found.folder}" if found else "random, nothing loaded"
        self.say(f"{self.task.name}: body {config.body} ({origin}), trains {config.train}")
        self.say(counts.describe(self.counts))

    def train(self, folders: list[records.Folder]) -> None:
        waiting, size = list(folders), len(folders)
        while waiting:
            stack = _Stack(self, waiting[:size])
            with Steps(self.task.name, self.config.steps, stack.step, self.quiet) as progress:
                if stack.compile() > _memory() and size > 1:
                    size = -(-size // 2)
                    progress.say(f"{len(stack.folders)} runs at once need more memory than there is; going on with {size}")
                    continue
                stack.run(progress)
            waiting = waiting[size:]


class _Stack:
    """One stack: its state on the device, its history on the host."""

    def __init__(self, common: _Stacks, folders: list[records.Folder]):
        self.common, self.folders = common, folders
        configs = [folder.config for folder in folders]
        trainable, self.frozen, axes = common.source.stack(configs)
        config = common.config
        self.trainer = Trainer(common.model, common.task, config.batch, config.clip, len(configs), axes)
        self.condition = Condition(
            jnp.stack([jax.random.key(config.seed) for config in configs]), jnp.array([c.lr for c in configs], jnp.float32))
        self.best = jax.tree.map(jnp.copy, trainable)
        self.state = self.trainer.begin(trainable)
        self.step, self.seconds, self.training = 0, 0.0, 0.0
        self.history: list[list[dict]] = [[] for _ in folders]
        self.results: list[dict] | None = None
        self._restore()

    def compile(self) -> int:
        """Compiles the training loop; returns the bytes that it needs on the device."""
        self.advance = self.trainer.compile(self.frozen, self.common.train_split, self.condition, self.state)
        used = self.advance.memory_analysis()
        return 0 if used is None else used.argument_size_in_bytes + used.temp_size_in_bytes

    def run(self, progress: Steps) -> None:
        """Trains to the end and writes the records.  Raises Interrupted once the state is saved, if asked to stop."""
        started, due = time.monotonic() - self.seconds, time.monotonic() + SECONDS_PER_STATE
        config, per_dispatch = self.common.config, 1
        with _stop_signals() as asked:
            while self.results is None:
                self.seconds = time.monotonic() - started
                if (self.step % config.eval_every == 0 or self.step == config.steps) and not self._evaluated():
                    self._evaluate(progress)
                if self.step == config.steps or bool((self.state.diverged != NEVER).all()):
                    self.seconds = time.monotonic() - started
                    self.results = self._results(progress)
                    self._save()
                    break
                if asked or time.monotonic() > due:
                    begun = time.monotonic()
                    self._save()
                    due = time.monotonic() + max(SECONDS_PER_STATE, (time.monotonic() - begun) / STATE_SHARE)
                if asked:
                    raise Interrupted(signal.Signals(asked[0]).name)
                count = min(per_dispatch, config.eval_every - self.step % config.eval_every, config.steps - self.step)
                begun = time.monotonic()
                self.state = self.advance(
                    self.frozen, self.common.train_split, self.condition, self.state, np.int32(self.step), np.int32(count))
                losses = np.asarray(self.state.loss)
                taken = time.monotonic() - begun
                self.step += count
                self.training += taken
                per_dispatch = max(1, min(MOST_PER_DISPATCH, int(SECONDS_PER_DISPATCH * count / taken)))
                since = self.step - self.history[0][-1]["step"]
                shown = [line["validation"]["accuracy"] for history in self.history for line in history[-1:]]
                progress.update(self.step, self.step / self.training, float(np.nanmean(losses)) / since, max(shown))
        for folder, result, best in zip(self.folders, self.results, self._unstacked(self.best)):
            identity = {"body": config.body, "checkpoint": config.checkpoint or "none", "run": folder.config.digest}
            folder.write_result(result, best, identity | {"frozen": result["frozen"]})
        _summarise(progress, self.folders, self.results)

    def _evaluated(self) -> bool:
        return all(history and history[-1]["step"] == self.step for history in self.history)

    def _evaluate(self, progress: Steps) -> None:
        """Adds a line to each run's history, and keeps the weights of those that are better than ever before."""
        found = evaluate(self.trainer, self.frozen, self.state.trainable, self.common.validation)
        diverged = np.asarray(self.state.diverged)
        since = self.step - self.history[0][-1]["step"] if self.step else 0
        improved = []
        for number, history in enumerate(self.history):
            best = max((line["validation"]["accuracy"] for line in history), default=-1)
            improved.append(found[number]["accuracy"] > best)
            trained = {"loss": records.finite(self.state.loss[number] / since),
                       "accuracy": records.finite(self.state.accuracy[number] / since)} if since else None
            history.append({"step": self.step, "train": trained, "validation": found[number],
                            "seconds": round(self.seconds, 3)})
            if diverged[number] != NEVER and not any("diverged_at" in line for line in history):
                history[-1]["diverged_at"] = int(diverged[number])
                progress.say(f"{self.folders[number].path.name} diverged at step {diverged[number]}; the others go on")
        self.best = keep_best(jnp.array(improved), self.state.trainable, self.best)
        self.state = restart(self.state)
        for folder, history in zip(self.folders, self.history):
            folder.write_metrics(history)

    def _results(self, progress: Steps) -> list[dict]:
        common, config = self.common, self.common.config
        diverged = np.asarray(self.state.diverged)
        tested = evaluate(self.trainer, self.frozen, self.best, common.test)
        floors = {name: records.finite(value) for name, value in
                  common.task.floors(common.data | {"test": common.test}, "test").items()}
        frozen = [self._frozen(number) for number in range(len(self.folders))]
        results = []
        for number, history in enumerate(self.history):
            best = max(history, key=lambda line: line["validation"]["accuracy"])  # the earliest of equals
            results.append({
                "status": "finished" if diverged[number] == NEVER else "diverged",
                "diverged_at": None if diverged[number] == NEVER else int(diverged[number]),
                "test": tested[number], "validation": best["validation"], "best_step": best["step"], "steps": self.step,
                "floors": floors, "counts": common.counts, "seconds": round(self.seconds, 3),
                "steps_per_second": self.step / self.training if self.training else None, "runs_in_stack": len(self.folders),
                "device": _device(), "dtype": config.dtype, "versions": _versions(), "commit": _commit(),
                "frozen": parameters.digest(frozen[number]),
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
        for number, (folder, kept) in enumerate(zip(self.folders, self._unstacked((self.state, self.best)))):
            notes = {"history": self.history[number], "seconds": self.seconds, "training": self.training,
                     "result": self.results and self.results[number]}
            folder.write_state(self.step, records.flatten(kept), notes)
        for folder in self.folders:
            folder.remove_states(but=self.step)

    def _restore(self) -> None:
        """Goes on from the newest step of which every run of the stack has a state, if there is one."""
        common = set.intersection(*(set(folder.states()) for folder in self.folders))
        if not common:
            return
        self.step = max(common)
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (self.state, self.best))
        kept = []
        for number, folder in enumerate(self.folders):
            leaves, notes = folder.read_state(self.step)
            kept.append(records.unflatten(leaves, like))
            self.history[number] = notes["history"]
            self.seconds, self.training = notes["seconds"], notes["training"]
            self.results = (self.results or []) + [notes["result"]] if notes["result"] else None
        self.state, self.best = jax.tree.map(lambda *leaves: jnp.stack(leaves), *kept)
        self.common.say(f"going on at step {self.step}")


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
