"""Holds a stack of runs: trains them at once, evaluates, keeps the best, saves, and restores."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fpt import machine, records, saved
from fpt.arrays import digest
from fpt.errors import UserError
from fpt.evaluation import evaluate
from fpt.experiment import Experiment
from fpt.features import Features
from fpt.task import Split
from fpt.trainer import NEVER, keep_best

Log = Callable[[Path, list[dict[str, Any]]], None]  # takes a run's folder and its history


@dataclass(frozen=True)
class Pace:
    """Decides how many steps a dispatch takes and when states are saved, by a clock in seconds.

    A dispatch is one call of the compiled function that takes several steps, `Trainer.advance`.
    """

    clock: Callable[[], float] = time.monotonic
    dispatch_seconds: float = 2  # a Ctrl-C waits for about as long, or for a chunk of an evaluation
    most_steps: int = 500  # of a dispatch
    save_seconds: float = 2  # at least, between states
    save_share: float = 0.05  # of the time, at most, for writing states


class Stack:
    """Holds a stack: its state on the device, its history on the host."""

    def __init__(self, experiment: Experiment, folders: list[records.Folder], step: int | None,
                 begun: float, pace: Pace):
        """Begins runs, or takes up their states after `step` steps where it is not None.

        begun: the clock's time from which the runs' seconds count.
        """
        self.experiment, self.folders, self.pace = experiment, folders, pace
        self.config, self.task = experiment.config, experiment.task
        self.trainer, self._advance, _ = experiment.compiled(len(folders))
        source, configs = experiment.source, [folder.config for folder in folders]
        stored = [None if step is None else saved.frozen(folder.path) for folder in folders]
        trainable, self.frozen = source.stack(configs, stored)
        for number, folder in enumerate(folders if step is None else ()):
            if names := source.to_store(folder.config):
                frozen = self._frozen(number)
                folder.write_frozen({name: np.asarray(frozen[name]) for name in names})
        self.condition = self.trainer.condition(configs)
        self.best = jax.tree.map(jnp.copy, trainable)
        self.state = jax.jit(self.trainer.begin)(trainable)
        self.step, self.training, self._begun = 0, 0.0, begun
        self.history: list[list[dict]] = [[] for _ in folders]
        self._features: Features | None = None
        self.results: list[dict] | None = None
        if step is not None:
            self._restore(step)
        self._save_due, self._per_dispatch = pace.clock() + pace.save_seconds, 1
        self._resumed = self.step, self.training  # progress tells the pace of this process alone

    @property
    def seconds(self) -> float:
        """Computes the seconds that the runs have taken, in this process and before."""
        return self.pace.clock() - self._begun

    @property
    def evaluation_due(self) -> bool:
        """Tells whether the runs are to be evaluated at this step and have not been yet."""
        if self.step % self.config.eval_every and self.step != self.config.steps:
            return False
        return not all(history and (history[-1]["step"] == self.step or _diverged(history))
                       for history in self.history)

    @property
    def ended(self) -> bool:
        """Tells whether all steps are taken and evaluated, or all runs have diverged."""
        return self.step == self.config.steps or all(map(_diverged, self.history))

    def prepare(self, check: Callable[[], None], tell: Callable[[int, int], None]) -> None:
        """Computes features, before the first step, where the steps take these: see `Features`."""
        if self.experiment.on_features:
            self._features = Features(
                self.trainer, self.frozen, self.experiment.splits, check, tell)

    def advance(self, halts: tuple[int, ...]) -> None:
        """Takes the steps of one dispatch: up to the next evaluation or one of `halts` at most."""
        config, pace = self.config, self.pace
        begun = pace.clock()
        halts = (config.eval_every * (self.step // config.eval_every + 1), config.steps, *halts)
        count = min(self._per_dispatch, *(halt - self.step for halt in halts if halt > self.step))
        train = (self._features.of(self.experiment.data["train"]) if self._features
                 else self.experiment.train)
        self.state = self._advance(self.frozen, train, self.condition, self.state,
                                   np.int32(self.step), np.int32(count))
        self.state.loss.block_until_ready()
        taken = pace.clock() - begun
        self.step += count
        self.training += taken
        fitting = pace.dispatch_seconds * count / taken if taken else pace.most_steps
        self._per_dispatch = max(1, int(min(pace.most_steps, fitting)))

    def progress(self) -> tuple[float, float, str]:
        """Computes seconds a step, the mean training loss since the evaluation, and a headline."""
        losses, diverged = np.asarray(self.state.loss), np.asarray(self.state.diverged)
        evaluated = max(history[-1]["step"] for history in self.history)
        alive = losses[diverged == NEVER] / (self.step - evaluated)
        best = max((history[-1] for history in self.history),
                   key=lambda line: self.task.rank(line["validation"]))
        step, training = self._resumed
        headline = self.task.headline(best["validation"], best.get("probes", {}))
        pace = (self.training - training) / (self.step - step)
        return pace, alive.mean() if len(alive) else math.nan, headline

    def evaluate(self, check: Callable[[], None], say: Callable[[str], None]) -> None:
        """Scores every run on validation and on the probes, and adds a line to its history.

        The parameters of a run whose score is its best so far are remembered in `best`.
        check: called between chunks; what it raises ends the evaluation.  say: prints a line.
        """
        trainable = self.state.trainable
        found, probed = self._scores(trainable, self.experiment.validation, check)
        diverged = np.asarray(self.state.diverged)
        improved = np.zeros(len(self.folders), bool)
        for number, history in enumerate(self.history):
            if history and _diverged(history):
                continue
            ranks = [self.task.rank(line["validation"]) for line in history]
            improved[number] = not ranks or self.task.rank(found[number]) > max(ranks)
            running = diverged[number] == NEVER
            ended = self.step if running else int(diverged[number])
            steps = ended - (history[-1]["step"] if history else 0)
            trained = {"loss": records.finite(self.state.loss[number] / steps),
                       "accuracy": records.finite(self.state.accuracy[number] / steps)
                       } if steps else None
            line = {"step": self.step, "train": trained, "validation": found[number],
                    "seconds": round(self.seconds, 3)}
            history.append(line | ({"probes": probed[number]} if probed[number] else {}))
            if not running:
                history[-1]["diverged_at"] = int(diverged[number])
                others = "; the others go on" if len(self.folders) > 1 else ""
                say(f"{self.folders[number].path.name} diverged at step {diverged[number]}{others}")
        self.best = keep_best(jnp.array(improved), trainable, self.best)
        # Two arrays of zeros: the state's arrays are donated to the next dispatch.
        self.state = self.state._replace(loss=jnp.zeros(len(self.folders)),
                                         accuracy=jnp.zeros(len(self.folders)))

    def write_metrics(self, log: Log | None) -> None:
        """Writes the history of every run, and passes it to `log`."""
        for folder, history in zip(self.folders, self.history):
            folder.write_metrics(history)
            if log:
                log(folder.path, history)

    def _scores(self, trainable: dict, split: Split, check: Callable[[], None]
                ) -> tuple[list[dict], list[dict[str, dict]]]:
        """Scores each run on a split, and on each of the task's probes by name."""
        def score(split: Split) -> list[dict]:
            given = self._features.of(split) if self._features else split
            return evaluate(self.trainer, self.frozen, trainable, split, check, given)

        found = score(split)
        probed = {name: score(probe) for name, probe in self.experiment.probes.items()}
        return found, [{name: scores[number] for name, scores in probed.items()}
                       for number in range(len(self.folders))]

    def conclude(self, check: Callable[[], None]) -> None:
        """Evaluates every run on test and makes the results.

        It is evaluated with the parameters of its best evaluation on validation.
        """
        experiment = self.experiment
        tested, probed = self._scores(self.best, experiment.test, check)
        frozen = [digest(self._frozen(number)) for number in range(len(self.folders))]
        check()
        common = {
            "floors": experiment.floors, "counts": experiment.counts,
            "seconds": round(self.seconds, 3), "steps_per_second": self.step / self.training,
            "runs_in_stack": len(self.folders), "device": machine.device(),
            "dtype": self.config.dtype, "versions": machine.versions(),
            "commit": machine.commit(), "data": experiment.digests}
        if sources := self.task.sources():
            common["sources"] = sources
        self.results = []
        for number, history in enumerate(self.history):
            # Of equals, `max` takes the earliest.
            best = max(history, key=lambda line: self.task.rank(line["validation"]))
            diverged = history[-1].get("diverged_at")
            self.results.append(common | {
                "figures": experiment.figures(tested[number], probed[number]),
                "status": "finished" if diverged is None else "diverged", "diverged_at": diverged,
                "test": tested[number], "validation": best["validation"],
                "best_step": best["step"], "steps": history[-1]["step"],
                "frozen": frozen[number]})

    def write_results(self) -> None:
        """Writes every run's best parameters and its result."""
        config = self.config
        body = {"body": config.body, "checkpoint": config.checkpoint or "none"}
        best = self._unstacked(self.best)
        for folder, history, result, trained in zip(
                self.folders, self.history, self.results, best, strict=True):
            identity = body | {"run": folder.digest, "frozen": result["frozen"]}
            folder.write_result(history, result, trained, identity)

    def _frozen(self, number: int) -> dict:
        axes = self.trainer.axes
        return {name: value if axes[name] is None else value[number]
                for name, value in self.frozen.items()}

    def _unstacked(self, tree: Any) -> list[Any]:
        """Copies a tree of arrays [R, ...] to the host, and gives each run its part."""
        host, runs = jax.tree.map(np.asarray, tree), range(len(self.folders))
        return [jax.tree.map(lambda leaf: leaf[number], host) for number in runs]

    def save_if_due(self) -> None:
        """Saves the state unless that was done recently: saving takes a bounded share of time."""
        begun = self.pace.clock()
        if begun > self._save_due:
            self.save()
            saved = self.pace.clock()
            self._save_due = saved + max(self.pace.save_seconds,
                                         (saved - begun) / self.pace.save_share)

    def save(self) -> None:
        """Writes the state of every run, then removes the older ones."""
        names = [folder.path.name for folder in self.folders]
        states = self._unstacked((self.state, self.best))
        for number, (folder, state) in enumerate(zip(self.folders, states)):
            notes = {"history": self.history[number], "seconds": self.seconds,
                     "training": self.training, "data": self.experiment.digests,
                     "result": self.results and self.results[number]}
            folder.write_state(self.step, saved.flatten(state), notes, names)
        for folder in self.folders:
            folder.remove_states(but=self.step)

    def keep(self) -> None:
        """Keeps the trainable parameters of every run at this step, where they are not kept yet."""
        for folder, trainable in zip(self.folders, self._unstacked(self.state.trainable)):
            if self.step not in saved.kept(folder.path):
                folder.write_kept(self.step, trainable)

    def _restore(self, step: int) -> None:
        """Takes up the states of a step."""
        self.step = step
        without_runs = lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
        like = jax.tree.map(without_runs, (self.state, self.best))
        states, results = [], []
        for number, folder in enumerate(self.folders):
            leaves, notes = folder.read_state(self.step)
            if notes["data"] != self.experiment.digests:
                raise UserError(f"the data are not those that {folder.path} was begun with; put "
                                "them back, or delete the folder")
            states.append(saved.unflatten(leaves, like))
            self.history[number] = notes["history"]
            results.append(notes["result"])
        # A stack that was killed while it saved its results makes all of them again.
        self.results = results if all(results) else None
        self.training = notes["training"]
        self._begun -= notes["seconds"]
        self.state, self.best = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def _diverged(history: list[dict]) -> bool:
    """Tells whether a run has diverged: its history then ends with the evaluation that found it."""
    return "diverged_at" in history[-1]
