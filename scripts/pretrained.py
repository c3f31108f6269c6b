"""Makes the bodies that a study pretrains: checkpoints on the way of one pretraining run.

A study states under [bodies] a command line of `scripts.pretrain` for each pretraining, with
--keep; a condition names the body after some of its steps as NAME@STEP.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from filelock import FileLock

from fpt.errors import UserError
from scripts import ledger
from scripts.ledger import Ledger, key
from scripts.studies import BODIES, Cell, pretraining

STUDY = "bodies"  # whose records hold the pretraining runs of all studies


def wanted(cells: Iterable[Cell]) -> dict[str, set[int]]:
    """Lists the bodies that cells are made on: the steps of each pretraining, by its name."""
    found: dict[str, set[int]] = {}
    for cell in cells:
        for name in cell.pretrainings():
            found.setdefault(name, set()).add(int(cell.usual.body.rpartition("-")[2]))
    return found


def lacking(cells: Iterable[Cell]) -> dict[str, set[int]]:
    """Lists those of the bodies that cells are made on of which a checkpoint is missing."""
    return {name: steps for name, steps in wanted(cells).items()
            if not all((BODIES / f"{name}-{step}").is_dir() for step in steps)}


def plan(cells: Iterable[Cell], known: Ledger) -> str:
    """Says which bodies are pretrained before the missing runs of cells can be trained, and how
    many hours that takes; says nothing where all of them are there."""
    cells = _incomplete(cells, known)
    commands = _commands(cells)
    seconds = {name: ledger.seconds(pretraining(commands[name]), known) for name in lacking(cells)}
    if not seconds:
        return ""
    hours = ledger.said(sum(seconds.values()) / 3600)
    return f"before that, it pretrains the bodies {', '.join(seconds)} ({hours} hours)"


def make(cells: Iterable[Cell], known: Ledger, data_dir: Path | None) -> None:
    """Pretrains the bodies that missing runs of some cells lack, and records the pretraining runs.

    Raises UserError for a step that the pretraining does not keep.
    """
    cells, out = _incomplete(cells, known), known.out
    commands = _commands(cells)
    if lacking(cells):
        BODIES.mkdir(exist_ok=True)
        with FileLock(BODIES / ".lock"):  # another part of the study may be making them
            for name, steps in lacking(cells).items():
                _export(_pretrain(commands[name], BODIES / name, out, data_dir), name, steps)
    made = [out / json.loads((BODIES / name / "pretraining.json").read_text())["run"]
            for name in wanted(cells)]
    if made:
        from fpt.records import summary

        pretrainings = Ledger(known.file.parent / f"{STUDY}.jsonl")
        for folder in made:
            run = summary(folder)
            pretrainings.recorded.setdefault(key(run["config"]), run)
        pretrainings.write()


def _incomplete(cells: Iterable[Cell], known: Ledger) -> list[Cell]:
    """Lists the cells of which a run is missing."""
    return [cell for cell in cells if known.missing(cell)]


def _commands(cells: Iterable[Cell]) -> dict[str, str]:
    """Lists the command lines that make the bodies of cells, by the names of the bodies."""
    return {name: line for cell in cells for name, line in cell.pretrainings().items()}


def _pretrain(command: str, to: Path, out: Path, data_dir: Path | None) -> Path:
    """Runs a command line of `scripts.pretrain`, and returns the folder of its run."""
    from scripts.pretrain import PROVENANCE, main

    data = ["--data-dir", str(data_dir)] if data_dir else []
    main([*command.split(), *data, "--out", str(out), "--to", str(to)])
    return out / json.loads((to / PROVENANCE).read_text())["run"]


def _export(run: Path, name: str, steps: Iterable[int]) -> None:
    from fpt.load import load_run

    loaded = load_run(run)
    if strange := sorted({*steps} - {*loaded.steps}):
        kept = ", ".join(map(str, loaded.steps))
        raise UserError(f"{name}@{strange[0]}: the pretraining of {name} keeps the steps {kept}")
    for step in steps:
        if not (folder := BODIES / f"{name}-{step}").is_dir():
            loaded.at(step).export(folder, whole=False, dtype=np.float16)
