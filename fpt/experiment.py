"""Prepares what is common to runs that differ only in learning rates, seeds and start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fpt import contract, contract_data, counts, features, optimization, roles, splits
from fpt.checkpoint import Checkpoint
from fpt.config import Config
from fpt.model import table
from fpt.parameters import Source, model_of
from fpt.progress import waiting
from fpt.records import finite
from fpt.task import Split
from fpt.trainer import Trainer

VALIDATION = 2_000  # examples of validation, unless said otherwise


class Compiled(NamedTuple):
    """Holds the compiled functions of stacks of one size."""

    trainer: Trainer
    advance: Callable  # see `Trainer.advance`
    bytes: int  # of the device's memory that a stack takes


class Experiment:
    """Holds what training needs: data, model, the `Source` of its parameters, and the floors.

    Floors are the accuracies that trivial predictors reach on test.
    """

    def __init__(self, config: Config, found: Checkpoint | None, runs: Sequence[Config],
                 data_dir: Path | None, quiet: bool = False):
        """Loads the data, checks them against the task's contract, and computes the floors.

        config: what the runs share, resolved; found: the checkpoint that it loads from.
        """
        self.config, self.runs, self.task, self.quiet = config, runs, config.task, quiet
        say = (lambda line: None) if quiet else print
        self.data = contract.call(self.task, "load", data_dir, say)
        contract_data.check_data(self.task, self.data, config.batch)
        batch = contract_data.trace_batch(self.task, self.data.get("train"), config.batch)
        self.digests = splits.digests(self.data)
        examples = config.eval_examples
        self.validation = splits.sample(self.data, "validation", examples or VALIDATION)
        self.test = splits.sample(self.data, "test", examples)
        self.probes = {name: self.data[name] for name in self.task.probes}
        # A batch that begins anywhere reaches all positions.
        reached = None if batch.anywhere else self.task.interface.tokens
        # Whether the steps take hidden states that are computed once.
        examples = sum(len(split.inputs) for split in self.splits)
        self.on_features = features.apply_to(config, batch, self.data.get("train"), examples)
        self.model = model_of(config)
        self.source = Source(config, found, runs, reached, self.on_features)
        for run in runs:
            optimization.rates(run, self.source.table)  # refuses factors that apply to nothing
        self.counts = counts.count(
            table(self.task.interface, config.geometry), roles.parse(config.train),
            config.geometry, reached)
        weights = f" from {found.folder}" if found else ""
        origin = f"loads {config.load}{weights}" if found else "random, nothing loaded"
        if config.birth != "weights":
            origin = f"{config.birth} for {config.load}{weights}"
        say(f"{self.task.name}: body {config.body} ({origin}), trains {config.train}")
        if starts := list(dict.fromkeys(run.start for run in runs if run.begins)):
            others = f" and {len(starts) - 1} others" if len(starts) > 1 else ""
            say(f"begins where {Path(starts[0]).name}{others} ended")
        say(counts.describe(self.counts))
        if self.on_features:
            say(f"computes the body's hidden states of all {examples:,} examples once, and trains "
                "the output layer on them")
        self.floors = {name: finite(value) for name, value
                       in contract.call(self.task, "floors", self.data, self.test).items()}
        self._compiled: dict[int, Compiled] = {}

    @property
    def splits(self) -> list[Split]:
        """Lists the splits that runs are trained and scored on."""
        train = [self.data["train"]] if "train" in self.data else []
        return [*train, self.validation, self.test, *self.probes.values()]

    @cached_property
    def train(self) -> Split | None:
        """Holds the training split on the device; None where the task generates its batches."""
        train = self.data.get("train")
        return None if train is None else Split(*map(jnp.asarray, train))

    def compiled(self, runs: int) -> Compiled:
        """Compiles the functions of a stack of so many runs, once; nothing is drawn."""
        if runs not in self._compiled:
            axes, (trainable, frozen) = self.source.axes(runs), self.source.describe(runs)
            kind = features.OutputTrainer if self.on_features else Trainer
            trainer = kind(self.model, self.config, self.source.table, axes, runs)
            if self.on_features:
                train, *scored = (trainer.describe(frozen, split) for split in self.splits)
                held = trainable, frozen, scored  # beside what a step takes
            else:
                train, held = self.train, trainable
            state = jax.eval_shape(trainer.begin, trainable)
            condition = jax.eval_shape(lambda: trainer.condition([self.config] * runs))
            with waiting("compiling", self.quiet):
                advance = trainer.compile(frozen, train, condition, state)
            used = advance.memory_analysis()
            kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(held))
            size = used.argument_size_in_bytes + used.temp_size_in_bytes + kept if used else 0
            self._compiled[runs] = Compiled(trainer, advance, size)
        return self._compiled[runs]

    def figures(self, score: dict[str, Any], probes: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Computes the task's additional metrics from a run's scores on test and on each probe."""
        found = contract.call(self.task, "figures", self.data, self.test, score, probes)
        return {name: finite(value) for name, value in found.items()}
