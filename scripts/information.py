"""Measures how far the predictions of a study's runs are from those of a reference condition:
`python -m scripts.information main`.

The reference, `information` in the study's file, is a frozen random body, say.  Of each run that
counts, the predictions p on test are compared with the predictions q of the reference's run with
the same seed, by the Kullback-Leibler divergence KL(p || q): the information that is gained by
having the one body in place of the other.  results/records/information/STUDY.jsonl holds a line for
each such pair of runs:

    run, reference                  their names
    trainable, reference_trainable  the digests of their trained parameters
    nats                            the divergence in nats, in the mean of all scored answers; null
                                    where a prediction is not a number
    answers                         how many answers are scored

A line counts where both digests are those on record.  A line about other parameters is ignored, and
replaced as soon as the pair is measured again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from fpt.errors import UserError
from fpt.files import write_whole
from scripts import options, recorded, studies
from scripts.arguments import POSITIONAL, parsed
from scripts.command import RunOptions, run
from scripts.ledger import Ledger
from scripts.recorded import Run
from scripts.studies import Cell

Line = dict[str, Any]
Lines = Mapping[tuple[str, str], Line]  # by the names of both runs


@dataclass(frozen=True)
class Options:
    """Measures how far the predictions of a study's runs are from those of the condition that its
    file names as `information`, and adds what was not measured yet to
    results/records/information/STUDY.jsonl. Needs the runs' folders."""

    study: str = field(metadata=POSITIONAL)
    """Names the study, a file in results/studies."""
    track: str = "mini"
    """Names the sizes at which the study was made: mini or paper."""
    data_dir: Path | None = None
    """Names the folder that holds mnist/ and cifar10/; None means the one that FPT_DATA names, and
    without that the data are downloaded."""
    out: Path = Path("runs/studies")
    """Names the folder of the runs, which studies share."""
    records: Path = recorded.RECORDS
    """Names the folder of the records; the folder `information` lies in it."""


def main(arguments: list[str]) -> None:
    options.keep_compiled()
    asked = parsed(Options, arguments, "python -m scripts.information")
    study = studies.study(asked.study)
    cells = study.cells(asked.track)
    if study.information is None:
        raise UserError(f"{studies.STUDIES / study.name}.toml names no condition to measure the "
                        'others against; add a line like information = "frozen random" to it')
    known = Ledger(asked.records / f"{study.name}.jsonl", asked.out)
    new = measure(cells, known, asked.data_dir)
    lines, wanted = read(file_of(known)), [pair for cell in cells for pair in pairs(cell, known)]
    there = sum(counting(*pair, lines) is not None for pair in wanted)
    print(f"{file_of(known)}: {there} of {len(wanted)} pairs of runs are measured, {new} of them "
          "now")
    if there < len(wanted):
        print(f"of the others {asked.out} lacks a run, or holds other parameters than those on "
              "record")


def file_of(known: Ledger) -> Path:
    """Names the file of a study's lines, in the folder of its records."""
    return known.file.parent / "information" / known.file.name


def read(file: Path) -> Lines:
    """Reads the lines of a file; there are none where the file is missing.

    Raises UserError naming a line that is damaged.
    """
    found: dict[tuple[str, str], Line] = {}
    for number, text in enumerate(file.read_bytes().splitlines() if file.is_file() else (), 1):
        try:
            line = json.loads(text.decode())
            if not isinstance(line["nats"], float | None):
                raise TypeError(f"{line['nats']!r} is no number of nats")
            found[line["run"], line["reference"]] = line
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{file}, line {number} is damaged ({type(error).__name__}: {error}); "
                            "delete the line, and measure its runs again with python -m "
                            f"scripts.information {file.stem}") from None
    return found


def pairs(cell: Cell, known: Ledger) -> list[tuple[Run, Run]]:
    """Lists the runs of a cell that count, each with the reference's run of the same seed; a run
    without the other is left out."""
    others = known.counted(cell.reference) if cell.reference else ()
    by_seed = {run["config"]["seed"]: run for run in others}
    return [(run, by_seed[run["config"]["seed"]]) for run in known.counted(cell)
            if run["config"]["seed"] in by_seed]


def counting(run: Run, reference: Run, lines: Lines) -> Line | None:
    """Finds the line that counts for a pair of runs; None where there is none, or where it is about
    other parameters than those on record."""
    line = lines.get((run["run"], reference["run"]), {})
    return line if _stated(run, reference).items() <= line.items() else None


def nats(cell: Cell, known: Ledger, lines: Lines) -> list[float]:
    """Lists the divergences of a cell's runs from those of the reference, as far as there are lines
    that count."""
    found = [counting(*pair, lines) for pair in pairs(cell, known)]
    return [line["nats"] for line in found if line and line["nats"] is not None]


def measure(cells: Iterable[Cell], known: Ledger, data_dir: Path | None) -> int:
    """Measures the pairs of runs for which no line counts yet and whose folders are there, and
    writes their lines; returns how many."""
    there, count = read(file_of(known)), 0
    # All conditions on a task are measured against the same few runs.
    predicted_once = lru_cache(maxsize=8)(predicted)
    for cell in cells:
        for pair in pairs(cell, known):
            run, reference = (_folder(one, known) for one in pair)
            if counting(*pair, there) or not (run and reference):
                continue
            from fpt.progress import waiting
            from fpt.records import finite

            with waiting(f"{run.name}: its predictions, and those of {reference.name}"):
                asked = cell.usual.eval_examples, data_dir
                found, scored = predicted(run, *asked)
                other, _ = predicted_once(reference, *asked)
            _write(file_of(known), _stated(*pair) | {
                "nats": finite(divergence(found, other, scored)), "answers": int(scored.sum())})
            count += 1
    return count


def predicted(folder: Path, examples: int | None, data_dir: Path | None
              ) -> tuple[np.ndarray, np.ndarray]:
    """Computes the log-probabilities of all classes, float64 [N, A, C], that a run predicts on a
    sample of test, without dropout; also tells which answers are scored, bool [N, A].

    examples: the size of the fixed sample, None for all of test.
    """
    from scipy.special import log_softmax

    from fpt import splits
    from fpt.evaluation import at_once, chunks
    from fpt.task import UNSCORED

    place = RunOptions(data_dir=data_dir)
    loaded = place.load(folder)
    inputs, targets = splits.sample(place.data(loaded), "test", examples)
    size = at_once(loaded.task.interface, len(inputs))
    logits = [np.asarray(loaded(inputs[chosen]), np.float64)
              for chosen in chunks(len(inputs), size)]
    found = np.concatenate(logits)[: len(inputs)]
    return log_softmax(found, axis=-1), np.asarray(targets) != UNSCORED


def divergence(found: np.ndarray, other: np.ndarray, scored: np.ndarray) -> float:
    """Computes the Kullback-Leibler divergence KL(found || other) in nats, in the mean of the
    scored answers.

    found, other: log-probabilities [N, A, C].  scored: bool [N, A].
    """
    return float(np.sum(np.exp(found) * (found - other), axis=-1).mean(where=scored))


def _stated(run: Run, reference: Run) -> Line:
    """Names the two runs that a line is about, and the digests of their trained parameters."""
    return {"run": run["run"], "trainable": run["result"].get("trainable"),
            "reference": reference["run"],
            "reference_trainable": reference["result"].get("trainable")}


def _folder(run: Run, known: Ledger) -> Path | None:
    """Finds the folder of a run; None where there is none that holds the parameters on record."""
    from fpt.records import RESULT, read_json

    folder, digest = known.out / run["run"], run["result"].get("trainable")
    there = digest and (folder / RESULT).is_file()
    return folder if there and read_json(folder / RESULT).get("trainable") == digest else None


def _write(file: Path, line: Line) -> None:
    """Writes a line beside those that are there, with those that another process has written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        lines = {**read(file), (line["run"], line["reference"]): line}
        text = (json.dumps(lines[names], sort_keys=True, allow_nan=False)
                for names in sorted(lines))
        write_whole(file, "".join(f"{one}\n" for one in text).encode())


if __name__ == "__main__":
    run(main)
