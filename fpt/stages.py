"""Trains in stages: each begins where the one before ended, and may train other roles."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fpt import parameters, records, roles
from fpt.config import Config
from fpt.errors import UserError
from fpt.run import train

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


def following(folder: Path | str, **changes: Any) -> Config:
    """Makes the configuration of a run that begins where the finished run in a folder ended.

    It has that run's settings but for `changes`, its body as that run left it, and batches and
    dropout of its own.  Raises UserError where the run is not finished, and for a change of what
    the body is.
    """
    folder = Path(folder)
    before = records.configuration(records.read_json(folder / records.CONFIG))
    if fixed := sorted(changes.keys() & (parameters.INITIAL | before.task.settings().keys())):
        option = fixed[0].replace("_", "-")
        raise UserError(f"--{option} cannot differ from that of {folder}, which the run begins "
                        "from; leave it out")
    earlier = before.stream if (before.stream or "").startswith(AFTER) else AFTER.strip()
    _, begins = records.ended(folder)
    body_seed = before.seed if before.body_seed is None else before.body_seed
    stream = f"{earlier} {before.train}:{before.steps}"
    return dataclasses.replace(before, **{
        "start": str(folder.absolute()), "begins": begins, "stream": stream,
        "body_seed": body_seed, "geometry": None, "rates": ()} | changes)


def train_stages(configs: Sequence[Config], stages: Sequence[Stage], out: Path | str = "runs",
                 **settings: Any) -> list[dict[str, Any]]:
    """Trains runs in several stages, one after another; returns the results of the last stage.

    Every stage is a run with a folder of its own, as if it had been trained by itself from the
    folder of the one before.  Factors of the rate apply in the stages that train their roles.
    settings: those of `fpt.train`.
    """
    reached, results = [None] * len(configs), []
    for stage in stages:
        chosen, staged = roles.parse(stage.train), []
        for config, folder in zip(configs, reached):
            rates = tuple(text for text in config.rates
                          if roles.parse(text.partition("=")[0]).roles & chosen.roles)
            changes = {"train": stage.train, "steps": stage.steps, "rates": rates}
            staged.append(dataclasses.replace(config, **changes) if folder is None
                          else following(folder, **changes))
        results = train(staged, out, **settings)
        reached = [Path(out) / parameters.resolve(config)[0].name for config in staged]
    return results
