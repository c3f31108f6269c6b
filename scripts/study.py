"""Makes a study: `python -m scripts.study main` trains what is missing of it and records it.

Each condition's learning rate is chosen on validation, with seeds that serve for nothing else; the
seeds that count are then trained at that rate, and scored on test once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fpt.config import Config
from fpt.errors import InUse, UserError
from scripts import cluster, information, ledger, options, pretrained, recorded, studies
from scripts.arguments import POSITIONAL, parsed
from scripts.command import run
from scripts.ledger import Ledger
from scripts.studies import Cell


@dataclass(frozen=True)
class Options:
    """Trains the missing runs of a study, several at once where possible, records them in
    results/records/STUDY.jsonl, and prints its tables. The same command goes on where it was
    stopped."""

    study: str = field(metadata=POSITIONAL)
    """Names the study, a file in results/studies."""
    track: str = "mini"
    """Names the sizes at which the study is made: mini, hours on two cores; paper, those of the
    papers, for an accelerator."""
    only: str | None = None
    """Names the one task or condition that is made; None means all."""
    dry: bool = False
    """Trains nothing; lists the runs, those that are there, and the hours that the others take."""
    tflops: float | None = None
    """Estimates the hours at so many 10^12 operations a second, a rate that was measured on another
    machine; None means the rate of the runs on record."""
    shard: str = "1/1"
    """Makes one part of the study, 2/8 for the second of eight; the parts share no run."""
    cluster: str | None = None
    """Makes the parts of the study as jobs through submitit: `slurm`, or `local` for processes on
    this machine. The folders of runs and records must be the same for all."""
    jobs: int = 2
    """Sets the number of parts that --cluster makes at once."""
    job: tuple[str, ...] = ()
    """Sets parameters of submitit's executor, timeout_min=600 slurm_partition=gpu for example."""
    data_dir: Path | None = None
    """Names the folder that holds mnist/ and cifar10/; None means the one that FPT_DATA names, and
    without that the data are downloaded."""
    out: Path = Path("runs/studies")
    """Names the folder of the runs, which studies share."""
    records: Path = recorded.RECORDS
    """Names the folder of the records; scripts.information writes to the folder `information`
    in it."""


def main(arguments: list[str]) -> None:
    options.keep_compiled()
    asked = parsed(Options, arguments, "python -m scripts.study")
    study = studies.study(asked.study)
    if asked.tflops is not None and not 0 < asked.tflops < math.inf:
        raise UserError(f"--tflops must be a positive number, not {asked.tflops:g}")
    if asked.cluster and asked.shard != Options.shard:
        raise UserError(f"--cluster {asked.cluster} makes all parts of the study, and --shard "
                        f"{asked.shard} one; leave one of them out")
    cells = part(study.cells(asked.track, asked.only), asked.shard)
    known = Ledger(asked.records / f"{study.name}.jsonl", asked.out, asked.tflops)
    if asked.dry:
        print(ledger.plan(study, cells, known))
        if before := pretrained.plan(cells, known):
            print(before)
        return
    if asked.cluster:
        submit(asked)
        known = Ledger(known.file, asked.out)
    else:
        complete(cells, known, asked)
    information.measure(cells, known, asked.data_dir)
    from scripts import results_tables  # with scipy, which --help needs not wait for

    numbers = results_tables.papers(recorded.RECORDS.parent / "papers.json")
    for task in dict.fromkeys(cell.task for cell in cells):
        of_task = [cell for cell in cells if cell.task == task]
        print(f"\n{results_tables.detail(study, of_task, known, numbers)}")
    print(f"\n{known.file}: {len(known.recorded)} runs")


def submit(asked: Options) -> None:
    """Has the jobs of a cluster make all parts of a study, and waits for them."""
    stated = [asked.study, "--track", asked.track, "--out", str(asked.out.absolute()),
              "--records", str(asked.records.absolute())]
    stated += ["--only", asked.only] if asked.only else []
    stated += ["--data-dir", str(asked.data_dir.absolute())] if asked.data_dir else []
    cluster.submitted(stated, asked.cluster, asked.jobs, asked.job, asked.out / "jobs")


def complete(cells: list[Cell], known: Ledger, asked: Options) -> None:
    """Makes what is missing of some cells: their bodies, then their runs."""
    record_known(cells, known)
    pretrained.make(cells, known, asked.data_dir)
    elsewhere = []  # cells of which another process trains a run
    for number, cell in enumerate(cells, 1):
        missing = known.missing(cell)
        if missing:
            hours = sum(ledger.hours(later, known) for later in cells[number - 1 :])
            print(f"[{number} of {len(cells)}] {cell.task}, {cell.condition.name}: {missing} "
                  f"run{'s' * (missing > 1)} to train; about {ledger.said(hours)} hours left in "
                  "all", flush=True)
        try:
            make(cell, known, asked)
        except InUse as error:
            print(f"left for later: {error}", flush=True)
            elsewhere.append(f"{cell.condition.name} on {cell.task}")
    known.write()
    if elsewhere:
        raise UserError(f"another process trains runs of {', '.join(elsewhere)}; once it has "
                        "ended, the same command records them and trains what is left")


def record_known(cells: Iterable[Cell], known: Ledger) -> None:
    """Records the runs of cells that are there before anything is trained: those of other studies,
    and finished ones that were not recorded."""
    for cell in cells:
        rate = known.rate(cell)
        for config in [*cell.known(), *(cell.counted(rate) if rate else ())]:
            if known.find(config):
                known.record(config)
    known.write()


def make(cell: Cell, known: Ledger, asked: Options) -> None:
    """Trains the missing runs of a cell, and records all that are there after each step."""
    if cell.leader:
        train(cell.leader.candidates(), known, asked)
    train(cell.known(), known, asked)
    train(cell.counted(known.rate(cell)), known, asked)


def train(configs: Iterable[Config], known: Ledger, asked: Options) -> None:
    """Trains those of the runs that are not known, and adds them to the records."""
    missing = [config for config in configs if known.find(config) is None]
    if missing:
        from fpt.interrupt import Interrupted
        from fpt.run import train

        try:
            train(missing, asked.out, asked.data_dir)
        except Interrupted as stopped:
            raise KeyboardInterrupt(f"stopped by {stopped}; the state is saved, and the same "
                                    "command goes on from it") from None
        known.look()
    for config in configs:
        known.record(config)
    known.write()


def part(cells: list[Cell], shard: str) -> list[Cell]:
    """Selects the cells of one part of a study; cells that share a rate are in one part.

    Raises UserError for a part that cannot be.
    """
    number, _, parts = shard.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise UserError(f"--shard must be like 2/8, from 1/8 to 8/8, not {shard!r}")
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        first = cell.leader or cell
        groups.setdefault((first.task, first.condition.name), []).append(cell)
    mine = list(groups.values())[int(number) - 1 :: int(parts)]
    return [cell for group in mine for cell in group]


if __name__ == "__main__":
    run(main)
