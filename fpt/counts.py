"""Counts in three ways the parameters that a run trains.

They are counted as the released code enables them, without those that its inputs never reach, and
as in Lu et al. 2021, section 2.2.
"""

from __future__ import annotations

import math

from fpt.body import Body, Table
from fpt.roles import RoleSet


def count(table: Table, chosen: RoleSet, body: Body, reached: int | None) -> dict[str, float]:
    """Counts a model's parameters.

    chosen: the roles that are trained.  reached: how many positions the inputs reach; None for all.
    Returns by name:

    trainable: all that have a gradient, as the released code enables them.
    effective: without the rows of the position table that the inputs never reach.
    paper: the paper's arithmetic: as effective, without the output layer's bias and the last norm.
    total: body, input and output layer, and the vocabulary table although no task reads it.
    percent: the share of `trainable` in `total`.
    """
    size = {name: math.prod(parameter.shape) for name, parameter in table.items()}
    trainable = effective = paper = 0
    for name, parameter in table.items():
        if not chosen.holds(parameter):
            continue
        role, used = parameter.role, size[name]
        if parameter.by_position and reached:
            used = min(used, reached * body.width)
        trainable, effective = trainable + size[name], effective + used
        bias_of_output = role == "output" and len(parameter.shape) == 1
        if not bias_of_output and not (role == "norm" and parameter.layer is None):
            paper += used
    total = sum(size.values())
    if not any(parameter.role == "token" for parameter in table.values()):
        total += getattr(body, "vocabulary", 0) * body.width
    return {"trainable": trainable, "effective": effective, "paper": paper, "total": total,
            "percent": 100 * trainable / total}


def describe(counts: dict[str, float]) -> str:
    """Says in two lines how much is trained."""
    return (f"trains {counts['trainable']:,} of {counts['total']:,} parameters "
            f"({counts['percent']:.3f}%)\n  {counts['effective']:,} by positions in use, "
            f"{counts['paper']:,} by the paper's counting")
