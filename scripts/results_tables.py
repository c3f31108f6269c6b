"""Writes a study's tables: each condition on each task, beside floors and the paper's numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from fpt.errors import UserError
from scripts import information, recorded, statistics
from scripts.ledger import Ledger
from scripts.markdown import markdown
from scripts.qualities import Quality, qualities
from scripts.recorded import Run
from scripts.statistics import Interval
from scripts.studies import Cell, Study

Numbers = dict[tuple[str, str, str], dict[str, Any]]  # (section, condition, task) -> a number
LIMIT, DIVERGED = "*", "†"  # mark what was stopped by its number of steps, and what diverged
NONE = "-"
ABSENT = "A dash stands for what is not on record in this study."


def papers(file: Path) -> Numbers:
    """Reads the papers' accuracies.  Raises UserError for a file that does not hold them."""
    found: Numbers = {}
    try:
        for one in json.loads(file.read_text())["numbers"]:
            if one["metric"] != "test_acc_pct":
                continue
            place = f"{one['condition']!r} on {one['task']}, section {one['section']}"
            if not (isinstance(one["value"], (int, float)) and math.isfinite(one["value"])
                    and isinstance(one["source"], str)):
                raise ValueError(f"{place} needs a number as value and a text as source")
            key = one["section"], one["condition"], one["task"]
            if found.get(key, one)["value"] != one["value"]:  # two of their tables may repeat one
                raise ValueError(f"{place} is stated as {found[key]['value']} and {one['value']}")
            found[key] = one
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} does not hold the papers' numbers: {type(error).__name__}: "
                        f"{error}") from None
    return found


def tables(study: Study, track: str, known: Ledger, numbers: Numbers, figures: Iterable[str] = ()
           ) -> str:
    """Makes the document of a study: its question, a table of all tasks, its figures as Markdown,
    and a table of each task."""
    cells = study.cells(track)
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    runs = [run for cell in cells for run in known.counted(cell)]
    return "\n\n".join([
        f"# {study.name}: {study.question}",
        f"{study.source}. Sizes: `{track}`.",
        "\n".join(f"- {line}" for line in _explained(study, runs)),
        _summary(study, cells, tasks, known), *figures,
        *(detail(study, [cell for cell in cells if cell.task == task], known, numbers)
          for task in tasks)]) + "\n"


def _explained(study: Study, runs: Iterable[Run]) -> Iterator[str]:
    """Says what the cells and columns of a study's tables hold, a line each.

    runs: those that the tables are made of.
    """
    counted, choosing = (", ".join(map(str, seeds)) for seeds in (study.counted, study.choosing))
    chosen = f"at the learning rate that was best on validation for seed {choosing}"
    yield (f"A cell is the mean accuracy on test over seeds {counted}"
           + f", {chosen}" * bool(choosing) + "; ± is half of the 95% interval by Student's t.")
    yield (f"`{LIMIT}` marks a cell of which some runs may not have converged: their best "
           f"evaluation on validation is one of the last {study.patience}.")
    if any(map(diverged, runs)):
        yield (f"`{DIVERGED}` marks a cell of which some runs diverged: their loss was no number, "
               "and they stand with their best evaluation before.")
    yield ("`rate` is the learning rate; `highest` or `lowest` says that it is the end of those "
           "tried, beyond which a better one may lie. `n` counts the seeds.")
    yield ("`training` is the accuracy on the training batches between the best evaluation and the "
           "one before it, with dropout where there is any. It can be well below that on test, as "
           "the model improves during these steps.")
    yield ("`steps` is the median of the steps until the first evaluation within "
           f"{recorded.NEAR:g} of the run's best on validation.")
    if study.information:
        yield ("`KL` is the mean Kullback-Leibler divergence KL(p || q), in nats per scored answer "
               "on test, of the predictions p of a condition's runs from the predictions q of the "
               f"runs of *{study.information}* with the same seeds: 0 where both predict the same "
               "probabilities.")
    if study.bodies:
        yield ("`gain` is the copying gain of a body: by how many nats a token it predicted random "
               "symbols better where they were repeated, when it was pretrained.")
    yield "`trained` and `parameters` count the trained parameters and all."
    yield ("`paper` is the paper's accuracy, at its own sizes, with its source: [notes:T3] is "
           "table 3 of the paper, copied from public notes and not checked against the paper; "
           "[memory c=0.7] is quoted from memory, with a confidence of 0.7, and not checked.")
    yield ABSENT


def overview(asked: Mapping[str, Study], track: str, known: Mapping[str, Ledger]) -> str:
    """Makes the table of all studies: what they ask, their runs on record, and their commands."""
    rows = [["study", "question", "source", "runs on record", "command"]]
    for name, study in asked.items():
        cells = study.cells(track)
        total = sum(map(known[name].expected, cells))
        there = total - sum(map(known[name].missing, cells))
        rows.append([f"[`{name}`](studies/{name}.toml)", study.question, study.source,
                     f"[{there} of {total}](tables/{name}.md)",
                     f"`python -m scripts.study {name}`"])
    return markdown(rows)


def _summary(study: Study, cells: Sequence[Cell], tasks: Sequence[str], known: Ledger) -> str:
    found = {(cell.task, cell.condition.name): cell for cell in cells}
    floors = {task: _floor(known, [cell for cell in cells if cell.task == task]) for task in tasks}
    rows = [["condition", *tasks]]
    for condition in study.conditions:
        made = [found.get((task, condition.name)) for task in tasks]
        rows.append([condition.name, *(_accuracy(study, cell, known) for cell in made)])
    rows.append(["best floor", *(f"{floors[task][1]:.3f}" if floors[task] else NONE
                                 for task in tasks)])
    return markdown(rows)


def _accuracy(study: Study, cell: Cell | None, known: Ledger) -> str:
    runs = known.counted(cell) if cell else []
    marks = (LIMIT * any(not (diverged(run) or converged(run, study.patience)) for run in runs)
             + DIVERGED * any(map(diverged, runs)))
    return _mean([run["result"]["test"]["accuracy"] for run in runs], study) + marks


def _mean(values: Sequence[float], study: Study) -> str:
    """Writes the mean of a value over the seeds that count, and how many there are if some are
    missing."""
    few = f" (n {len(values)})" if len(values) < len(study.counted) else ""
    return said(statistics.mean(values)) + few if values else NONE


def detail(study: Study, cells: Sequence[Cell], known: Ledger, numbers: Numbers) -> str:
    """Makes the table of a study's cells on one task, under a heading with the task's sizes."""
    made = {cell.condition.name: known.counted(cell) for cell in cells}
    runs = [run for found in made.values() for run in found]
    parts = sorted({part for run in runs for part in run["result"]["test"]["slices"]})
    known_bodies = qualities(cells, known.file.parent) if study.bodies else {}
    lines = information.read(information.file_of(known)) if study.information else None
    rows = [["condition", "rate", "n", "test", *parts, "training", "steps",
             *(["KL"] if study.information else []),
             *(["gain"] if study.bodies else []), "trained", "parameters", "paper"]]
    for cell in cells:
        found, rate = made[cell.condition.name], known.rate(cell)
        number = numbers.get((study.section, cell.condition.paper, cell.task))
        test = [run["result"]["test"] for run in found]
        mean = lambda part: statistics.mean([one["slices"][part] for one in test]).mean
        counts = found[0]["result"]["counts"] if found else None
        rows.append([
            cell.condition.name, _rate(cell, rate), str(len(found)),
            _accuracy(study, cell, known),
            *(f"{mean(part):.3f}" if test else NONE for part in parts),
            _training(found),
            f"{median(map(recorded.converged_at, found)):,.0f}" if found else NONE,
            *([_mean(information.nats(cell, known, lines), study)] if study.information else []),
            *([_gain(known_bodies.get(cell.condition.name))] if study.bodies else []),
            f"{counts['effective']:,}" if counts else NONE,
            f"{counts['total']:,}" if counts else NONE,
            f"{number['value'] / 100:.3f} [{number['source']}]" if number else NONE])
    usual, floor = cells[0].usual, _floor(known, cells)
    sizes = ", ".join(f"{name} {value}" for name, value in usual.task.settings().items())
    best = f"Best floor on test: {floor[1]:.3f} ({floor[0]})." if floor else "Not run yet."
    devices = " or ".join(sorted({run["result"]["device"] for run in runs}))
    where = f" Trained on {devices}." if runs else ""
    return (f"## {cells[0].task}\n\n{sizes}; {usual.steps:,} steps of {usual.batch} examples. "
            f"{_dropout(cells)}{best}{where}\n\n{markdown(rows)}")


def _dropout(cells: Sequence[Cell]) -> str:
    """Says what dropout the runs of some cells have, where it is the same in all."""
    rates = {(one.dropout, one.embedding_dropout, one.attention_dropout, one.residual_dropout)
             for one in (cell.usual for cell in cells)}
    if len(rates) > 1:
        return ""
    (first, *inside), = rates
    usual = "what its configuration says (0.1 in GPT-2)"
    inside = " or ".join(sorted({usual if rate is None else f"{rate:g}" for rate in inside}))
    return f"Dropout: {first:g} after a linear input layer; in the body, {inside}. "


def _rate(cell: Cell, rate: float | None) -> str:
    """Writes the chosen learning rate, and whether it is an end of those that were tried."""
    if rate is None:
        return NONE
    tried = sorted((cell.leader or cell).rates)
    ends = {tried[0]: " (lowest)", tried[-1]: " (highest)"} if len(tried) > 1 else {}
    return f"{rate:g}{ends.get(rate, '')}"


def _gain(quality: Quality | None) -> str:
    return f"{quality.gain:z.2f}" if quality else NONE


def _training(runs: Sequence[Run]) -> str:
    """Writes the mean accuracy in training of those runs that were trained before their best
    evaluation."""
    found = [reached for run in runs if (reached := recorded.training_accuracy(run)) is not None]
    return f"{statistics.mean(found).mean:.3f}" if found else NONE


def _floor(known: Ledger, cells: Sequence[Cell]) -> tuple[str, float] | None:
    """Finds the best trivial predictor of a task, where a run of it is there."""
    run = next((run for cell in cells for run in known.counted(cell)), None)
    return run and recorded.best_floor(run)


def diverged(run: Run) -> bool:
    """Tells whether a run ended because its loss was no longer a number."""
    return run["result"].get("diverged_at") is not None


def converged(run: Run, patience: int) -> bool:
    """Tells whether a run was evaluated at least `patience` times after its best evaluation."""
    later = [line for line in run["curve"] if line["step"] > run["result"]["best_step"]]
    return len(later) >= patience


def said(found: Interval) -> str:
    """Writes a mean with half its interval."""
    half = found.high - found.mean
    return f"{found.mean:.3f}" + ("" if math.isnan(half) else f" ±{half:.3f}")
