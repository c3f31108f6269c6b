"""Plans which runs are trained at once, as a stack."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fpt import machine, records
from fpt.errors import UserError
from fpt.experiment import Experiment

MEMORY_SHARE = 0.85  # of the device's memory that a stack may take
# So many tokens in a step keep a device busy: with more of them a step takes as much longer.  Those
# of CPUs were measured on two cores, see results/log.md; those of other devices were not.
ENOUGH_TOKENS = {"cpu": 640, "other": 65_536}
# So many runs that share no matrix of the blocks gain from each other: a CPU's caches hold no more.
ENOUGH_BODIES = {"cpu": 4, "other": 1_000}

NO_ROOM = "more at once need more memory than there is"


def stacks(experiment: Experiment, folders: list[records.Folder]
           ) -> Iterator[tuple[list[records.Folder], int | None]]:
    """Yields the folders of each stack, and the step of the states that it goes on from, or None.

    Runs that share a state go on together; runs without one make new stacks, as large as fit.  Runs
    that train on features are in one stack only where they share them: see `features`.
    """
    say = (lambda line: None) if experiment.quiet else print
    named = {folder.path.name: folder for folder in folders}
    for step, names in together({name: folder.begun() for name, folder in named.items()}):
        some = f": {', '.join(names)}" if len(names) < len(folders) else ""
        say(f"going on at step {step}{some}")
        for group in _divided(experiment, [named.pop(name) for name in names]):
            yield group, step
    for fresh in _divided(experiment, list(named.values())):
        if experiment.on_features:  # a step is so small that more runs at once are always faster
            size, why = fitting(experiment, len(fresh)), NO_ROOM
        else:
            size, why = planned(experiment, len(fresh))
        if size < len(fresh):
            say(f"{len(fresh)} runs, {size} at a time: {why}")
        for first in range(0, len(fresh), size):
            yield fresh[first : first + size], None


def _divided(experiment: Experiment, folders: list[records.Folder]) -> list[list[records.Folder]]:
    """Divides runs into those that may be in one stack: on features, those that share them."""
    groups: dict[tuple, list[records.Folder]] = {}
    for folder in folders:
        shared = experiment.source.shared_by(folder.config) if experiment.on_features else ()
        groups.setdefault(shared, []).append(folder)
    return list(groups.values())


def together(begun: dict[str, list[tuple[int, tuple[str, ...]]]]) -> list[tuple[int, list[str]]]:
    """Groups runs whose newest state was trained in one stack, at the newest step that all have.

    begun: for each run, the step and the stack of each of its states, the newest first.  Where a
    stack was killed while it wrote, some of its runs have a newer state than others; all of them go
    back to the newest step that each of them has.  A run that was later trained without its stack
    goes on from its own newest state.
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


def planned(experiment: Experiment, fresh: int) -> tuple[int, str]:
    """Chooses how many of so many fresh runs are trained at once, and says why they are not more.

    The measured time of a run's step falls with the number of runs until the step has a certain
    number of tokens, or of bodies; more are not taken, nor more than the memory holds.  The runs
    that were asked for, finished ones too, are divided evenly, so that few sizes are compiled and
    stacks are the same ones after a kill.  Raises UserError where the device cannot train one run.
    """
    config, runs = experiment.config, len(experiment.runs)
    tokens = config.batch // config.accumulate * config.task.interface.tokens
    most, why = machine.by_device(**ENOUGH_TOKENS) // tokens, "more at once would not be faster"
    if not experiment.source.shares_body(runs):
        most = min(most, machine.by_device(**ENOUGH_BODIES))
    quick = min(fresh, _even(runs, max(1, most)))
    size = fitting(experiment, quick)
    if size < quick:
        size, why = _even(runs, size), NO_ROOM
    return size, why


def _even(runs: int, most: int) -> int:
    """Computes the size of as few groups of runs as `most` allows, nearly alike."""
    return math.ceil(runs / math.ceil(runs / most))


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
