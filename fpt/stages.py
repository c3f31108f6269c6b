"""Trains in stages: each begins where the one before ended, and may train other roles.

Where a run ended means the parameters of its best evaluation on validation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from fpt import optimization, parameters, records, roles
from fpt.config import Config
from fpt.errors import UserError
from fpt.load import configuration
from fpt.model import table
from fpt.run import check_keep, resolved, train

AFTER = "after "  # and the stages before: names a later stage's stream of randomness


class Stage(NamedTuple):
    """States the roles that a stage trains and its number of steps."""

    train: str
    steps: int


def parse(text: str) -> Stage:
    """Reads a stage such as `output:500`.  Raises UserError where it is none."""
    train, colon, steps = text.rpartition(":")
    if not colon or not steps.isdecimal() or not int(steps):
        raise UserError(f"--stages takes roles and a number of steps, output:500 for example, not "
                        f"{text!r}")
    roles.parse(train)
    return Stage(train, int(steps))


def following(folder: Path | str, task_file: Path | str | None = None, **changes: Any) -> Config:
    """Makes the configuration of a run that begins where the finished run in a folder ended.

    The new run has that run's settings but for `changes`, its body as that run left it, and batches
    and dropout of its own.  task_file: as in `load_run`.  Raises UserError where the run is not
    finished, and for a change of what the new run begins with.
    """
    folder = Path(folder)
    before = configuration(folder, {"task_file": task_file and Path(task_file)})
    if fixed := sorted(changes.keys() & (parameters.INITIAL | before.task.settings().keys())):
        raise UserError(f"--{fixed[0].replace('_', '-')} cannot differ from that of {folder}, "
                        "which the run begins from; leave it out")
    earlier = before.stream if (before.stream or "").startswith(AFTER) else AFTER.strip()
    body_seed = before.seed if before.body_seed is None else before.body_seed
    _, begins = records.ended(folder)
    return dataclasses.replace(before, **{
        "start": str(folder.absolute()), "begins": begins,
        "stream": f"{earlier} {before.train}:{before.steps}",
        "rates": applying(before.rates, changes.get("train", before.train)),
        "body_seed": body_seed, "geometry": None} | changes)


def applying(rates: Sequence[str], train: str) -> tuple[str, ...]:
    """Chooses those factors of the learning rate, such as norm=0.1, whose roles `train` names."""
    trained = roles.parse(train).roles
    return tuple(text for text in rates if roles.parse(text.partition("=")[0]).roles & trained)


def train_stages(configs: Sequence[Config], stages: Sequence[Stage], out: Path | str = "runs",
                 **settings: Any) -> list[dict[str, Any]]:
    """Trains runs in several stages, one after another; returns the results of the last stage.

    Every stage is a run with a folder of its own, as if it had been trained by itself from the
    folder of the one before.  Factors of the learning rate apply in stages that train their roles.
    settings: those of `fpt.train`.  Raises UserError before the first stage for one that cannot be.
    """
    planned = [[dataclasses.replace(config, train=stage.train, steps=stage.steps,
                                    rates=applying(config.rates, stage.train))
                for config in configs] for stage in stages]
    check_keep(settings.get("keep", 0), chain(*planned))
    for rate in chain(*(config.rates for config in configs)):
        if not any(rate in run.rates for run in chain(*planned)):
            raise UserError(f"--rates {rate}: no stage trains such a parameter; leave the factor "
                            "out, or train these roles in a stage")
    for run, _ in resolved(chain(*planned)):  # refuses roles and factors of what is not there
        optimization.rates(run, table(run.task.interface, run.geometry))
    folders, results = [], []
    for runs in planned:
        if folders:
            runs = [following(folder, train=run.train, steps=run.steps, rates=run.rates)
                    for folder, run in zip(folders, runs)]
        results = train(runs, out, **settings)
        folders = [Path(out) / run.name for run, _ in resolved(runs)]
    return results
