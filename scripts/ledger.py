"""Keeps account of a study: which of its runs are there, and how long the others will take."""

from __future__ import annotations

import json
import math
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean, median
from typing import Any

from filelock import FileLock

from fpt import bodies
from fpt.bodies import SHIPPED, weights_digest
from fpt.config import ABSENT, FILES, NEWER, Config
from fpt.errors import UserError
from fpt.files import sha256, write_whole
from scripts import recorded
from scripts.markdown import markdown
from scripts.recorded import Run
from scripts.studies import Cell, Study, pretraining


class Ledger:
    """Holds the runs of a study that are there: on record, or finished in a folder of runs.

    Where there is a folder of runs, those on record in other studies are there as well.
    """

    def __init__(self, file: Path, out: Path | None = None, tflops: float | None = None):
        """Reads what is there.

        file: of the study's records, which may be missing.  out: the folder of runs; None reads the
        records alone.  tflops: the rate by which times are estimated, in 10^12 operations a second;
        None means that of the runs on record.
        """
        self.file, self.out, self.tflops = file, out, tflops
        self.recorded = self._read()
        self.look()

    def _read(self) -> dict[str, Run]:
        """Reads the records, by `key`."""
        runs = recorded.read(self.file) if self.file.is_file() else ()
        return {key(run["config"]): run for run in runs}

    def look(self) -> None:
        """Lists the finished runs in the folder of runs."""
        self._finished: dict[str, Path] = {}
        for result in sorted(self.out.glob("*/result.json") if self.out else ()):
            try:
                config = json.loads((result.parent / "config.json").read_text())
                self._finished[key(config)] = result.parent
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{result.parent} is damaged ({error}); delete it, and it is "
                                "trained again") from None

    def find(self, config: Config) -> Run | None:
        """Returns the run of a configuration, or None where it is not there."""
        asked = key(config.record())
        if asked in self.recorded:
            return self.recorded[asked]
        if self.out and asked in self._elsewhere:
            return self._elsewhere[asked]
        if asked in self._finished:
            from fpt.records import summary

            return summary(self._finished[asked])
        return None

    def record(self, config: Config) -> None:
        """Puts a run on record; one that is on record already stays as it is."""
        self.recorded.setdefault(key(config.record()), self.find(config))

    def write(self) -> None:
        """Writes the records, sorted by run, with those that another process has written meanwhile.

        A run that is on record stays as it is there.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.file}.lock"):
            self.recorded |= self._read()
            runs = sorted(self.recorded.values(), key=lambda run: run["run"])
            lines = [json.dumps(run, sort_keys=True, allow_nan=False) for run in runs]
            write_whole(self.file, "".join(f"{line}\n" for line in lines).encode())

    def rate(self, cell: Cell) -> float | None:
        """Returns the rate at which a condition does best on validation, in the mean of the seeds
        that choose; None where some of these runs are not there.

        A cell with a leader takes the leader's rate.
        """
        if cell.leader:
            return self.rate(cell.leader)
        rates = cell.rates
        if len(rates) == 1:
            return rates[0]
        merits: dict[float, list[tuple[float, float]]] = {rate: [] for rate in rates}
        for config in cell.candidates():
            if (run := self.find(config)) is None:
                return None
            merits[config.lr].append(recorded.merit(run))
        return max(rates, key=lambda rate: [fmean(parts) for parts in zip(*merits[rate])])

    def counted(self, cell: Cell) -> list[Run]:
        """Returns the runs of a cell that count, at the chosen rate, as far as they are there."""
        rate = self.rate(cell)
        return [] if rate is None else self.at(cell, rate)

    def at(self, cell: Cell, rate: float) -> list[Run]:
        """Returns the runs of a cell's seeds that count at a rate, as far as they are there."""
        return [run for config in cell.counted(rate) if (run := self.find(config))]

    def candidates(self, cell: Cell) -> list[Run]:
        """Returns the runs among which validation chooses the rate, as far as they are there."""
        return [run for config in cell.candidates() if (run := self.find(config))]

    def there(self, cell: Cell) -> list[Run]:
        """Returns the runs of a cell that are there: those that choose its rate, and of those that
        count the ones at the chosen rate and at fixed ones."""
        return [run for config in self.configs(cell) if (run := self.find(config))]

    def expected(self, cell: Cell) -> int:
        """Counts the runs of a cell, those that are there and those that are not."""
        again = self.rate(cell) in cell.fixed
        return len(cell.known()) + len(cell.seeds) * (not again)

    def missing(self, cell: Cell) -> int:
        """Counts the runs of a cell that are not there."""
        rate = self.rate(cell)
        asked = [*cell.known(), *(cell.counted(rate) if rate and rate not in cell.fixed else ())]
        there = sum(self.find(config) is not None for config in asked)
        return self.expected(cell) - there

    def configs(self, cell: Cell) -> list[Config]:
        """Lists the runs of a cell; while its rate is not chosen, those of the seeds that count
        have the first of the rates."""
        return [*dict.fromkeys([*cell.known(), *cell.counted(self.rate(cell) or cell.rates[0])])]

    def lacking(self, cell: Cell) -> list[Config]:
        """Lists the runs of a cell that are not there, or whose rate is not chosen yet."""
        chosen = self.rate(cell)
        return [run for run in self.configs(cell)
                if self.find(run) is None or (chosen is None and run.seed in cell.seeds)]

    @cached_property
    def all(self) -> list[Run]:
        """Lists all runs on record, of this study and others."""
        files = sorted(self.file.parent.glob("*.jsonl"))
        return [run for file in files for run in recorded.read(file)]

    @cached_property
    def timed(self) -> list[Run]:
        """Lists the runs by which times are estimated: those on record that a CPU has trained,
        without those of a user's own file, which a record names and does not hold."""
        return [run for run in self.all if recorded.on_cpu(run)
                and not any(run["config"].get(name) for name in FILES)]

    @cached_property
    def _elsewhere(self) -> dict[str, Run]:
        """Reads the records of all studies, by `key`."""
        return {key(run["config"]): run for run in self.all}

    @cached_property
    def rate_of_flops(self) -> float:
        """Computes the median of the operations a second of the runs recorded on CPUs."""
        from fpt.records import configuration

        found = []
        for run in self.timed:
            config, result = configuration(run["config"]), run["result"]
            if needed := flops(config):
                took = config.steps / (result["steps_per_second"] * result["runs_in_stack"])
                found.append(needed / took)
        return median(found) if found else math.nan


def key(stated: dict[str, Any]) -> str:
    """Identifies a run by its settings as they are stated before its body is looked for.

    A shipped body also counts by its weights, so that runs of older ones are not taken for it.
    """
    told = ABSENT | NEWER | stated
    for name in ("body", *FILES):  # a record tells no folder of a machine
        if told.get(name):
            told[name] = Path(told[name]).name
    body = told["body"]
    shipped = _shipped(body) if told["load"] not in (None, "none") else None
    told["checkpoint"] = (told["checkpoint"] or shipped) if shipped else None
    return json.dumps({name: told[name] for name in told if name != "geometry"}, sort_keys=True)


@cache
def _shipped(body: str) -> str | None:
    """Computes the digest of a body's weights, where they come with the package."""
    weights = SHIPPED / body / "model.safetensors"
    return weights_digest([sha256(weights)]) if weights.is_file() else None


def flops(config: Config, shape: str | None = None) -> float:
    """Counts the operations of a run's training: 4 for each number of a frozen body's matrices and
    each token, 6 where the body is trained; those of attention, input and output are left out, but
    not those of a token table that is trained.

    shape: the name of the body whose shape the run's has, where that is a checkpoint's folder.
    """
    tokens = config.batch * config.task.interface.tokens * config.steps
    trained = {"all", "body"} & {*config.train.split("+")}
    rows = config.task.interface.vocabulary if "token" in config.train.split("+") else 0
    numbers = _numbers(shape or config.body, config.layers, rows)
    return (6 if trained else 4) * numbers * tokens


@cache  # thousands of runs have few bodies
def _numbers(shape: str, layers: int | None, rows: int) -> int:
    """Counts the numbers in the matrices of a body, or of its first layers, and in the rows of its
    token table; a body without a name counts as gpt2-mini."""
    body = bodies.named(shape) or bodies.named("gpt2-mini")
    return rows * body.width + sum(
        math.prod(one.shape) for one in body.table().values()
        if one.matrix and (one.layer or 0) < (layers or math.inf))


def seconds(config: Config, known: Ledger, shape: str | None = None) -> float:
    """Estimates how long a run trains, by its operations where a rate of them is given; else by the
    runs recorded on CPUs that are like it but for rate, seed and birth; where there is none, by its
    operations and the rate of all runs recorded on CPUs."""
    if known.tflops:
        return flops(config, shape) / (known.tflops * 1e12)

    def like(told: dict[str, Any]) -> list[Any]:
        told = ABSENT | NEWER | told
        return [told["task"], told["sizes"], Path(told["body"]).name, told["layers"], told["batch"],
                told["dtype"], told["train"], told["optimizer"]]

    asked = like(json.loads(json.dumps(config.record())))
    pace = lambda run: run["result"]["steps_per_second"] * run["result"]["runs_in_stack"]
    alike = [pace(run) for run in known.timed if like(run["config"]) == asked]
    return config.steps / median(alike) if alike else flops(config, shape) / known.rate_of_flops


def plan(study: Study, cells: list[Cell], known: Ledger) -> str:
    """Lists the cells of a study: runs that are there, the chosen rate, and the hours to come."""
    rows, there, total, left = [["task", "condition", "there", "of", "rate", "hours"]], 0, 0, 0.0
    for cell in cells:
        all_runs, missing = known.expected(cell), known.missing(cell)
        rate, time = known.rate(cell), hours(cell, known)
        there, total, left = there + all_runs - missing, total + all_runs, left + time
        rows.append([cell.task, cell.condition.name, str(all_runs - missing), str(all_runs),
                     "-" if rate is None else f"{rate:g}", said(time)])
    return (f"{study.name}: {study.question}\n{study.source}\n\n{markdown(rows)}\n\n"
            f"{there} of {total} runs are there; the missing ones train for about {said(left)} "
            "hours")


def said(hours: float) -> str:
    """Writes a number of hours; `?` stands for one that the runs on record do not tell."""
    if 0 < hours < 0.1:
        return "<0.1"
    return "?" if math.isnan(hours) else f"{hours:.1f}"


def hours(cell: Cell, known: Ledger) -> float:
    """Estimates how long the missing runs of a cell train, one after another, in hours."""
    missing = known.missing(cell)
    words = cell.pretraining(cell.seeds[0])
    shape = words and pretraining(words).body
    return missing * seconds(cell.usual, known, shape) / 3600 if missing else 0.0
