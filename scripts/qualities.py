"""Finds how well the bodies of a study copy and read, as their pretraining measured it.

The run that pretrained a body is looked up, never guessed:

    NAME@STEP       the run in results/records/bodies.jsonl that has all settings of the command
                    line NAME of the study; the evaluation after STEP steps; the mean over all where
                    each seed has a body of its own
    a shipped body  the run in its pretraining.json; the evaluation of the weights that are shipped
    a random body   that of the body whose shape it has; the evaluation before the first step, if
                    that run too began from random weights

Other bodies have no known quality: those of which only some roles are loaded or some layers kept,
those whose weights are drawn anew (`birth`), and those whose pretraining did not measure it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from fpt.bodies import SHIPPED
from scripts import pretrain, pretrained
from scripts.ledger import Ledger
from scripts.recorded import Run
from scripts.studies import Cell
from tasks.nexttoken import copying_gain

RANDOM = "random"
LANGUAGE = "language"


@dataclass(frozen=True)
class Quality:
    """Holds how well a body copies and reads, in nats per token."""

    pretraining: str  # the task that it was pretrained on, or RANDOM
    gain: float  # by how much it predicts random symbols better where they are repeated
    loss: float | None  # on text that it has not read; None where it was not measured on text


def qualities(cells: Iterable[Cell], records: Path) -> dict[str, Quality]:
    """Finds the qualities of the bodies that cells are made on, by the name of their condition; a
    condition whose body has no known quality is left out.

    records: the folder of the records.
    """
    known = Ledger(records / f"{pretrained.STUDY}.jsonl")
    made = {cell.condition.name: cell for cell in cells}
    found = {name: _quality(cell, known) for name, cell in made.items()}
    return {name: quality for name, quality in found.items() if quality}


def _quality(cell: Cell, known: Ledger) -> Quality | None:
    usual = cell.usual
    drawn = usual.load == "none"
    if usual.layers or not (drawn or (usual.load == "body" and usual.birth == "weights")):
        return None
    file = SHIPPED / usual.body / pretrain.PROVENANCE
    if made := pretrained.bodies(cell, cell.counted(cell.rates[0])):
        runs, step = [known.recorded.get(body.key) for body in made], made[0].step
    elif file.is_file():
        runs = [json.loads(file.read_text())]
        step = runs[0]["result"]["best_step"]
    else:
        return None
    found = [_measured(run, step, drawn) for run in runs]
    if None in found:
        return None
    losses = [one.loss for one in found]
    return Quality(found[0].pretraining, fmean(one.gain for one in found),
                   None if None in losses else fmean(losses))


def _measured(run: Run | None, step: int, drawn: bool) -> Quality | None:
    """Reads how well a pretraining run copied and read at a step; None where that is not known.

    drawn: whether it is asked of the random body that the run began from, not of a trained one.
    """
    if run is None or (drawn and run["config"]["load"] != "none"):
        return None
    line = next((line for line in run["curve"] if line["step"] == (0 if drawn else step)), {})
    if "probes" not in line or math.isnan(gain := copying_gain(line["probes"])):
        return None
    task = run["config"]["task"]
    return Quality(RANDOM if drawn else task, gain,
                   line["validation"]["loss"] if task == LANGUAGE else None)
