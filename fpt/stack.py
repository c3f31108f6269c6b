"""One stack of runs on its way: train, evaluate, keep the best, write; and take up what was left."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from fpt import machine, records
from fpt.arrays import digest
from fpt.config import Config
from fpt.errors import UserError
from fpt.evaluation import evaluate
from fpt.progress import Steps
from fpt.trainer import NEVER, Condition, keep_best, restart

if TYPE_CHECKING:
    from fpt.run import Stacks

SECONDS_PER_DISPATCH = 2  # on a slow device; a Ctrl-C waits for at most about this long, or for a chunk of an evaluation
MOST_PER_DISPATCH = 500  # steps
SECONDS_PER_STATE = 2  # at least, between states written to the disk
STATE_SHARE = 0.05  # of the time, at most, that writing them takes


class Interrupted(KeyboardInterrupt):
    """Training was stopped from outside, and its state is on the disk."""


class _Stop(Exception):
    """A signal has asked for the end; what is on the device is a state to go on from."""


def condition_of(configs: list[Config]) -> Condition:
    """What the runs of a stack are given."""
    return Condition(jnp.stack([jax.random.key(config.seed) for config in configs]),
                     jnp.array([config.lr for config in configs], jnp.float32))


class Stack:
    """One stack: its state on the device, its history on the host."""

    def __init__(self, common: Stacks, folders: list[records.Folder], step: int | None):
        """step: that of the states which the runs go on from; None where they begin."""
        self.common, self.folders = common, folders
        self.trainer = common.trainer(len(folders))
        self.advance, _ = common.compile(len(folders))
        configs = [folder.config for folder in folders]
        kept = [{} if step is None else records.frozen(folder.path) for folder in folders]
        trainable, self.frozen = common.source.stack(configs, kept)
        if step is None and (inexact := common.source.inexact):
            for number, folder in enumerate(folders):
                made = self._frozen(number)
                folder.write_frozen({name: np.asarray(made[name]) for name in inexact})
        self.condition = condition_of(configs)
        self.best = jax.tree.map(jnp.copy, trainable)
        self.state = self.trainer.begin(trainable)
        self.step, self.seconds, self.training = 0, 0.0, 0.0
        self.history: list[list[dict]] = [[] for _ in folders]
        self.results: list[dict] | None = None
        self.due, self.per_dispatch = time.monotonic() + SECONDS_PER_STATE, 1
        if step is not None:
            self._restore(step)
        self.resumed = self.step, self.training  # what a person sees is the pace of today

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
                    if self.step in self.common.keep:
                        self._keep()
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
            for folder, history, result, best in zip(self.folders, self.history, self.results, self._unstacked(self.best)):
                identity = {"body": config.body, "checkpoint": config.checkpoint or "none", "run": folder.config.digest}
                folder.write_result(history, result, best, identity | {"frozen": result["frozen"]})
            _summarise(progress, self.folders, self.results)
            if asked:
                raise Interrupted(signal.Signals(asked[0]).name)

    def _advance(self, progress: Steps) -> None:
        """One dispatch: as many steps as take about SECONDS_PER_DISPATCH, at most to the next halt; a state if due."""
        config = self.common.config
        begun = time.monotonic()
        if begun > self.due:
            self._save()
            saved = time.monotonic()
            self.due = saved + max(SECONDS_PER_STATE, (saved - begun) / STATE_SHARE)
            begun = saved
        halts = (config.eval_every * (self.step // config.eval_every + 1), config.steps, *self.common.keep)
        count = min(self.per_dispatch, *(halt - self.step for halt in halts if halt > self.step))
        self.state = self.advance(
            self.frozen, self.common.train_split, self.condition, self.state, np.int32(self.step), np.int32(count))
        losses, diverged = np.asarray(self.state.loss), np.asarray(self.state.diverged)
        taken = time.monotonic() - begun
        self.step += count
        self.training += taken
        self.per_dispatch = max(1, min(MOST_PER_DISPATCH, int(SECONDS_PER_DISPATCH * count / taken)))
        alive = losses[diverged == NEVER] / (self.step - self.evaluated)
        latest = max((history[-1] for history in self.history), key=lambda line: self.common.task.rank(line["validation"]))
        step, training = self.resumed
        pace = (self.training - training) / (self.step - step)
        progress.update(self.step, pace, alive.mean() if len(alive) else math.nan,
                        self.common.task.headline(latest["validation"], latest.get("probes", {})))

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
        probed = self._probed(self.state.trainable, between)
        diverged = np.asarray(self.state.diverged)
        improved = np.zeros(len(self.folders), bool)
        for number, history in enumerate(self.history):
            if history and self._ended(history):
                continue
            ranks = [self.common.task.rank(line["validation"]) for line in history]
            improved[number] = not ranks or self.common.task.rank(found[number]) > max(ranks)
            last = history[-1]["step"] if history else 0
            steps = (self.step if diverged[number] == NEVER else int(diverged[number])) - last
            trained = {"loss": records.finite(self.state.loss[number] / steps),
                       "accuracy": records.finite(self.state.accuracy[number] / steps)} if steps else None
            line = {"step": self.step, "train": trained, "validation": found[number], "seconds": round(self.seconds, 3)}
            history.append(line | ({"probes": probed[number]} if probed[number] else {}))
            if diverged[number] != NEVER:
                history[-1]["diverged_at"] = int(diverged[number])
                others = "; the others go on" if len(self.folders) > 1 else ""
                progress.say(f"{self.folders[number].path.name} diverged at step {diverged[number]}{others}")
        self.best = keep_best(jnp.array(improved), self.state.trainable, self.best)
        self.state = restart(self.state)
        for folder, history in zip(self.folders, self.history):
            folder.write_metrics(history)
            self.common.log(folder.path, history)

    def _probed(self, trainable: dict, between: Callable[[], None]) -> list[dict[str, dict]]:
        """Each run's score on each of the task's probes, by name."""
        scores = {name: evaluate(self.trainer, self.frozen, trainable, split, between)
                  for name, split in self.common.probes.items()}
        return [{name: score[number] for name, score in scores.items()} for number in range(len(self.folders))]

    def _results(self, between: Callable[[], None]) -> list[dict]:
        common, config = self.common, self.common.config
        tested = evaluate(self.trainer, self.frozen, self.best, common.test, between)
        probed = self._probed(self.best, between)
        floors = {name: records.finite(value) for name, value in common.task.floors(common.data, common.test).items()}
        frozen = [digest(self._frozen(number)) for number in range(len(self.folders))]
        between()
        results = []
        for number, history in enumerate(self.history):
            best = max(history, key=lambda line: common.task.rank(line["validation"]))  # the earliest of equals
            diverged = history[-1].get("diverged_at")
            figures = common.task.figures(common.data, common.test, tested[number], probed[number])
            results.append({
                "figures": {name: records.finite(value) for name, value in figures.items()},
                "status": "finished" if diverged is None else "diverged", "diverged_at": diverged,
                "test": tested[number], "validation": best["validation"], "best_step": best["step"],
                "steps": history[-1]["step"], "floors": floors, "counts": common.counts, "seconds": round(self.seconds, 3),
                "steps_per_second": self.step / self.training, "runs_in_stack": len(self.folders),
                "device": machine.device(), "dtype": config.dtype, "versions": machine.versions(), "commit": machine.commit(),
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

    def _keep(self) -> None:
        """Keeps the trainable parameters of every run as they are now, unless a run that was killed here has done so."""
        missing = [folder for folder in self.folders if self.step not in records.kept(folder.path)]
        for folder, trainable in zip(self.folders, self._unstacked(self.state.trainable) if missing else ()):
            if folder in missing:
                folder.write_kept(self.step, trainable)

    def _restore(self, step: int) -> None:
        """Takes up the states of a step."""
        self.step = step
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
        also = (test["slices"] | result["figures"]).items()
        parts = "".join(f", {name} {value:.4f}" for name, value in also if value is not None)
        state = "" if result["status"] == "finished" else f"diverged at step {result['diverged_at']}; "
        progress.say(f"{folder.path}\n"
                     f"  {state}test accuracy {test['accuracy']:.4f} on {test['n']:,} examples{parts}\n"
                     f"  best floor    {floors[floor]:.4f} ({floor}); took {result['seconds']:.0f} s\n"
                     f"  its picture   python -m scripts.figure {folder.path}")
