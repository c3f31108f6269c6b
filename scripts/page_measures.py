"""Collects the numbers that a run's page shows of each head: those that `scripts.attention` wrote
to the run's folder, and those that are measured while the page is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fpt import attention
from fpt.load import LoadedRun
from fpt.task import Task

DIGITS = 6
Table = list[list[float]]  # [L][H]


@dataclass(frozen=True)
class Moment:
    """Describes a model that a page shows: the run at some step, or another run beside it."""

    label: str
    short: str
    of: int  # 0: the run itself, 1: the first that is beside it, ...
    step: int
    trained: bool  # whether it is the run as it ended
    model: LoadedRun


def quantities(task: Task, masks: Sequence[str], moments: Sequence[Moment],
               measures: Sequence[attention.Measures],
               found: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Lists the measures of the heads: each has a table [L][H] for moments, by the moment's number,
    and for steps of the run that were measured but are no moment of the page.

    masks: names of the task's `answer_tokens`.  found: for each run, what `recorded.looked_into`
    gives.
    """
    return _measured(task, masks, moments, measures, found) + _lost(moments, found)


def _measured(task: Task, masks: Sequence[str], moments, measures, found) -> list[dict[str, Any]]:
    """Lists what the maps show: the mass on each mask, and the measures that all tasks have."""
    units = attention.units(task)
    known = [{line["step"]: line["values"] for line in (one or {"measures": ()})["measures"]}
             for one in found]
    values = [known[moment.of].get(moment.step, measure.values)
              for moment, measure in zip(moments, measures)]
    uniform = found[0]["uniform"] if found[0] else measures[0].uniform
    own, quantities = {moment.step for moment in moments if moment.of == 0}, []
    for name in (*masks, *units):
        for which in sorted(uniform[name], reverse=True):
            all_tokens = which == attention.ALL
            quantities.append({
                "name": (name if name in units else f"mass on {name}")
                        + ", at all tokens" * all_tokens,
                "unit": units.get(name, "share"), "all": all_tokens,
                "n": found[0]["n"] if found[0] else measures[0].n, "uniform": uniform[name][which],
                "tables": {number: _table(one[name][which]) for number, one in enumerate(values)},
                "errors": {},
                "steps": [[step, _table(one[name][which])] for step, one in known[0].items()
                          if step not in own],
            })
    return quantities


def _lost(moments: Sequence[Moment],
          found: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Lists what runs lose without each head, where it was measured: accuracy, whole and by slices,
    and loss in nats."""
    known = {number: found[moment.of]["ablation"] for number, moment in enumerate(moments)
             if moment.trained and found[moment.of] and found[moment.of].get("ablation")}
    if not known:
        return []
    parts = list(next(iter(known.values()))["zero"]["slices"])
    quantities = []
    for by, words in (("zero", "zeros"), ("mean", "its mean")):
        kinds = [("accuracy lost", "accuracy", lambda one: one["lost"]),
                 ("loss gained", "nats gained", lambda one: one["nats"])]
        kinds += [(f"accuracy lost on {part} answers", "accuracy",
                   lambda one, part=part: one["slices"][part]) for part in parts]
        for name, unit, table in kinds:
            quantities.append({
                "name": f"{name} with {words} in its place", "unit": unit, "all": False, "n": None,
                "uniform": None, "steps": [],
                "tables": {number: table(one[by]) for number, one in known.items()},
                "errors": {number: one[by]["error"] for number, one in known.items()
                           if name == "accuracy lost"},
            })
    return quantities


def _table(values) -> Table:
    """Rounds a table to significant digits."""
    return [[float(f"{value:.{DIGITS}g}") for value in row] for row in values]


def ranked(masks: Sequence[str], measured: attention.Measures,
           found: dict[str, Any] | None) -> list[tuple[int, int]]:
    """Ranks the heads of a run by the accuracy lost without them; where that was not measured, by
    their mass on the answer; and for a task that does not say where the answer lies, by how little
    they spread their weights."""
    if found and found.get("ablation"):
        table = np.array(found["ablation"]["zero"]["lost"])
    elif masks:
        table = measured.values[masks[0]][attention.READ]
    else:
        table = -measured.values["entropy"][attention.READ]
    order = np.argsort(-table, axis=None, kind="stable")
    return [(int(layer), int(head)) for layer, head in zip(*np.unravel_index(order, table.shape))]


def correlations(found: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Lists rank correlations over the heads of a run: of a head's mass on the answer with what
    accuracy is lost without the head, and with how much the loss in nats grows."""
    kinds = {"lost": "accuracy", "nats": "loss in nats"}
    return [{"lost": kinds[kind], "by": "zeros" if by == "zero" else "its mean", **one}
            for by, ranks in ((found or {}).get("correlation") or {}).items()
            for kind, one in ranks.items() if one["rho"] is not None]
