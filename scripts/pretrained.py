"""Makes the bodies that a study pretrains: checkpoints on the way of pretraining runs.

A study states under [bodies] a command line of `scripts.pretrain` for each pretraining, with
--keep; a condition names the body after some of its steps as NAME@STEP.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock

from fpt.config import Config
from fpt.errors import UserError
from scripts import ledger
from scripts.ledger import Ledger, key
from scripts.studies import BODIES, Cell, pretraining

STUDY = "bodies"  # whose records hold the pretraining runs of all studies


class Body(NamedTuple):
    """Describes a body that a study pretrains."""

    name: str  # of its pretraining run, which may make several bodies
    step: int
    words: tuple[str, ...]  # of the command line of that run

    @property
    def folder(self) -> Path:
        return BODIES / f"{self.name}-{self.step}"

    @property
    def key(self) -> str:
        """Returns the key by which a ledger knows the pretraining run."""
        return key(pretraining(self.words).record())


def bodies(cell: Cell, runs: Iterable[Config]) -> list[Body]:
    """Lists the bodies of some of a cell's runs; there are none where the study makes none."""
    found = {}
    for run in runs if cell.pretrained_by else ():
        name, _, step = Path(run.body).name.rpartition("-")
        found[run.body] = Body(name, int(step), cell.pretraining(run.seed))
    return list(found.values())


def plan(cells: Iterable[Cell], known: Ledger) -> str:
    """Says which bodies are pretrained before the missing runs of cells can be trained, and how
    many hours that takes; says nothing where all of them are there."""
    runs = {body.name: pretraining(body.words) for body in _needed(cells, known)
            if not body.folder.is_dir()}
    hours = ledger.said(sum(ledger.seconds(run, known) for run in runs.values()) / 3600)
    told = f"before that, it pretrains the bodies {', '.join(runs)} ({hours} hours)"
    return told if runs else ""


def make(cells: Sequence[Cell], known: Ledger, data_dir: Path | None) -> None:
    """Pretrains the bodies that the missing runs of some cells begin from, where they are not there
    yet, and puts their pretraining on record.

    Raises UserError where a body, or a run on record, was made by another command line.
    """
    needed = _needed(cells, known)
    if not needed:
        return
    BODIES.mkdir(exist_ok=True)
    with FileLock(BODIES / ".lock"):  # another part of the study may be making them
        for name in dict.fromkeys(body.name for body in needed):
            lacking = [body for body in needed
                       if body.name == name and not body.folder.is_dir()]
            if lacking:
                _export(_pretrain(lacking[0], known.out, data_dir), lacking)
    from fpt.records import summary

    pretrainings = _pretrainings(known)
    for body in needed:
        if body.key not in pretrainings.recorded:
            pretrainings.recorded[body.key] = summary(known.out / _origin(body)["run"])
    pretrainings.write()


def _needed(cells: Iterable[Cell], known: Ledger) -> list[Body]:
    """Lists the bodies of the missing runs of cells, and of those that choose their rates.

    Raises UserError where a body, or a run on record, was made by another command line.
    """
    found, recorded = {}, _pretrainings(known).recorded
    for cell in cells:
        if cell.pretrained_by:
            _refuse_others(cell, known, recorded)
        leading = [(cell.leader, run) for run in (cell.leader.candidates() if cell.leader else ())
                   if known.find(run) is None]
        for of, run in [*leading, *((cell, run) for run in known.lacking(cell))]:
            found |= dict.fromkeys(bodies(of, [run]))
    return list(found)


def _refuse_others(cell: Cell, known: Ledger, recorded: dict[str, ledger.Run]) -> None:
    """Refuses bodies, and runs on record, that were made by another command line than the study
    states today: they are known by their names alone."""
    there = [run for run in known.configs(cell) if known.find(run)]
    for body in bodies(cell, known.configs(cell)):
        if (BODIES / body.name).is_dir() and key(_origin(body)["config"]) != body.key:
            raise UserError(f"{BODIES / body.name} was made by another command line than the "
                            "study's; delete it and what was exported of it, or give the body "
                            "another name in the study")
    for body in bodies(cell, there):
        if body.key not in recorded:
            raise UserError(
                f"{known.file} holds runs of {cell.condition.name!r} on {cell.task}, and "
                f"{STUDY}.jsonl beside it no pretraining of {body.name} by the command line that "
                "the study states; remove these runs, or give the body another name in the study")


def _pretrainings(known: Ledger) -> Ledger:
    """Reads the pretraining runs that are on record beside a study's runs."""
    return Ledger(known.file.parent / f"{STUDY}.jsonl")


def _origin(body: Body) -> dict:
    """Reads the record of the run that a body was made by."""
    from fpt.records import read_json
    from scripts.pretrain import PROVENANCE

    return read_json(BODIES / body.name / PROVENANCE)


def _pretrain(body: Body, out: Path, data_dir: Path | None) -> Path:
    """Carries out the command line that makes a body, and returns the folder of its run."""
    from scripts.pretrain import main

    data = ["--data-dir", str(data_dir)] if data_dir else []
    main([*body.words, *data, "--out", str(out), "--to", str(BODIES / body.name)])
    return out / _origin(body)["run"]


def _export(run: Path, lacking: Iterable[Body]) -> None:
    from fpt.load import load_run

    loaded = load_run(run)
    for body in lacking:
        loaded.at(body.step).export(body.folder, whole=False, dtype=np.float16)
