"""How many parameters a run trains, by the three countings in use (Lu et al. 2021, section 2.2 and the released code)."""

from __future__ import annotations

import math

from fpt.bodies import Geometry
from fpt.roles import RoleSet


def count(shapes: dict[str, tuple[int, ...]], chosen: RoleSet, geometry: Geometry, tokens: int) -> dict[str, float]:
    """The counts of a model whose parameters have these shapes, for a train set and a task of T `tokens`.

    trainable: all numbers that have a gradient, as the released code enables them.
    effective: without the rows of the position table that the task never reaches.
    paper: the paper's own arithmetic: as effective, without the output layer's bias and the last norm.
    total: body, input and output layer, the vocabulary table included although no task reads it; percent: of it.
    """
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    trainable = {name: size[name] for name in shapes if name in chosen}
    effective = trainable | {name: tokens * geometry.width for name in trainable if name == "body/wpe"}
    left_out = ("output/bias", "body/ln_f/scale", "body/ln_f/bias")
    total = sum(size.values()) + ("token/embedding" not in size) * geometry.vocabulary * geometry.width
    return {
        "trainable": sum(trainable.values()),
        "effective": sum(effective.values()),
        "paper": sum(number for name, number in effective.items() if name not in left_out),
        "total": total,
        "percent": 100 * sum(trainable.values()) / total,
    }


def describe(counts: dict[str, float]) -> str:
    """Two lines that say how much is trained."""
    return (f"trains {counts['trainable']:,} of {counts['total']:,} parameters ({counts['percent']:.3f}%)\n"
            f"  {counts['effective']:,} by positions in use, {counts['paper']:,} by the paper's counting")
