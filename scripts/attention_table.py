"""Writes what was found in the heads of runs as text: runs side by side, and the tables of a
study."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from fpt.errors import UserError
from scripts import recorded
from scripts.markdown import markdown

Run = dict[str, Any]  # a run's record, with what was found in its heads as "attention"
BY = "mean"  # the kind of ablation that is shown: zeros are further from what a model has met
ERRORS = 3  # a head is needed if more is lost without it than so many of the loss's standard errors
WIDTH = 130  # characters of a line of markdown


@dataclass(frozen=True)
class Findings:
    """Holds what was found in the heads of one run; None where it was not measured."""

    mass: float | None  # on the tokens that hold the answer, of the head that has most
    head: tuple[int, int] | None  # that head: layer and number
    before: float | None  # the mass of the same head before the first step
    uniform: float | None  # the mass that uniform attention would have
    needed: int | None  # heads without which accuracy is lost
    lost: float | None  # the most accuracy that is lost without one head
    worst: tuple[int, int] | None  # that head
    rho: dict[str, float | None] | None  # rank correlation over heads of mass and accuracy lost
    nats: dict[str, float | None] | None  # of mass and loss gained
    smallest: list[list[int]] | None  # a smallest set of heads


def findings(run: Run) -> Findings:
    """Reads the findings off the record of a run."""
    found = run["attention"]
    mass = head = before = uniform = needed = lost = worst = rho = nats = None
    if answer := found["answer"]:
        masses = _of_heads(run, answer, -1)
        head = _most(masses)
        mass, before = float(masses[head]), float(_of_heads(run, answer, 0)[head])
        uniform = found["uniform"][answer]["read"]
    if "ablation" in found:
        losses, errors = (np.array(found["ablation"][BY][name]) for name in ("lost", "error"))
        worst, needed = _most(losses), int((losses > ERRORS * errors).sum())
        lost = float(losses[worst])
        if answer:
            rho, nats = found["correlation"][BY]["lost"], found["correlation"][BY]["nats"]
    smallest = found.get("smallest") and found["smallest"]["heads"]
    return Findings(mass, head, before, uniform, needed, lost, worst, rho, nats, smallest)


def _of_heads(run: Run, name: str, moment: int) -> np.ndarray:
    """Returns a measure of each head [L, H]; moment: 0 before the first step, -1 as trained."""
    return np.array(run["attention"]["measures"][moment]["values"][name]["read"])


def _most(values: np.ndarray) -> tuple[int, int]:
    layer, head = np.unravel_index(values.argmax(), values.shape)
    return int(layer), int(head)


def beside(runs: list[Run]) -> str:
    """Compares runs of one task: does a head attend to the answer, did it before training, and is
    it needed?"""
    shown = {label: alike[0] for label, alike in recorded.conditions(runs, ()).items()}
    first = runs[0]["attention"]
    rows = [("", *shown)]
    all_found = [findings(run) for run in shown.values()]

    def of_runs(title: str, cell) -> None:
        rows.append((title, *map(cell, shown.values())))

    def of_findings(title: str, cell) -> None:
        rows.append((title, *map(cell, all_found)))

    of_runs("accuracy on test", lambda run: f"{run['result']['test']['accuracy']:.3f}")
    of_runs("best floor", lambda run: f"{recorded.best_floor(run)[1]:.3f}")
    if first["answer"]:
        of_findings(f"mass on {first['answer']!r}, at most", lambda one: _of(one.mass, one.head))
        of_findings("  of that head before the first step", lambda one: _number(one.before))
        of_findings("  of uniform attention", lambda one: _number(one.uniform))
    for name, unit in first["units"].items():
        mean = lambda moment, name=name: lambda run: f"{_of_heads(run, name, moment).mean():.3f}"
        of_runs(f"{name} ({unit}), mean of heads", mean(-1))
        of_runs("  before the first step", mean(0))
        of_runs("  of uniform attention",
                lambda run, name=name: _number(run["attention"]["uniform"][name]["read"]))
    if any(one.needed is not None for one in all_found):
        of_findings(f"heads needed, of {first['layers'] * first['heads']}",
                    lambda one: _count(one.needed))
        of_findings("  most accuracy lost without one", lambda one: _of(one.lost, one.worst))
        if first["answer"]:
            of_findings("rank correlation: mass, accuracy lost", lambda one: _interval(one.rho))
            of_findings("  mass, loss gained", lambda one: _interval(one.nats))
    if any(one.smallest is not None for one in all_found):
        of_findings("heads that keep 95% above the floor", lambda one: _heads(one.smallest))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [f"{first['task']}: {first['n']:,} examples of {first['split']}, at the tokens that "
             "are read; heads by layer.number",
             *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)]
    if first["answer"] is None:
        lines.append(f"{first['task']} names no tokens that hold the answer: there is no mass on "
                     "them to tell")
    return "\n".join(lines)


def tables(runs: list[Run]) -> str:
    """Writes the tables of a study's heads in markdown: for each task, means over the seeds of each
    condition."""
    looked = [run for run in runs if "attention" in run]
    if not looked:
        raise UserError("none of these runs has been looked into; say python -m scripts.attention "
                        "RUNS, then collect them again")
    names = sorted({run["config"]["task"] for run in looked})
    return "\n\n".join(_tables(recorded.of_task(looked, name)) for name in names) + "\n"


def _tables(runs: list[Run]) -> str:
    """Writes the two tables of a task: which heads are needed, and what heads attend to."""
    first = runs[0]["attention"]
    answer = first["answer"]
    needs = [["condition", "rate", "seeds", "test",
              *(["mass", "at step 0", "uniform"] if answer else []), "heads needed", "most lost",
              "without", *(["rho, accuracy", "rho, loss"] if answer else []), "smallest set"]]
    looks = [["condition", "measure", "trained", "at step 0", "uniform", "highest", "of head"]]
    masks = [name for name in first["uniform"] if name not in first["units"]]
    for label, alike in recorded.chosen(runs).items():
        all_found = [findings(run) for run in alike]
        mean = lambda name: _mean([getattr(one, name) for one in all_found])
        accuracy = fmean(run["result"]["test"]["accuracy"] for run in alike)
        needs.append([
            label, f"{alike[0]['config']['lr']:g}", str(len(alike)), f"{accuracy:.3f}",
            *([mean(name) for name in ("mass", "before", "uniform")] if answer else []),
            ", ".join(_count(one.needed) for one in all_found), mean("lost"),
            ", ".join(_name(one.worst) for one in all_found),
            *([_several([one.rho for one in all_found]), _several([one.nats for one in all_found])]
              if answer else []),
            ", ".join(_count(one.smallest and len(one.smallest)) for one in all_found)])
        for name in [*sorted(masks, key=lambda name: name != answer), *first["units"]]:
            trained = [_of_heads(run, name, -1) for run in alike]
            before = [_of_heads(run, name, 0) for run in alike]
            uniform = fmean(run["attention"]["uniform"][name]["read"] for run in alike)
            looks.append([label, name, f"{fmean(one.mean() for one in trained):.3f}",
                          f"{fmean(one.mean() for one in before):.3f}", f"{uniform:.3f}",
                          f"{fmean(one.max() for one in trained):.3f}",
                          ", ".join(_name(_most(one)) for one in trained)])
    about = ("What heads attend to at the tokens that are read: means over heads and seeds, and "
             "the highest value with the head that has it.")
    return (f"### {runs[0]['config']['task']}\n\n{textwrap.fill(_legend(runs), WIDTH)}\n\n"
            f"{markdown(needs)}\n\n{about}\n\n{markdown(looks)}")


def _legend(runs: list[Run]) -> str:
    """Explains the columns of a task's first table."""
    first, config = runs[0]["attention"], runs[0]["config"]
    sizes = ", ".join(f"{key} {value}" for key, value in config["sizes"].items())
    name, floor = recorded.best_floor(runs[0])
    sentences = [f"{sizes}; {len(runs)} run{'s' * (len(runs) > 1)} in all. Best floor on test: "
            f"{floor:.3f} ({name})."]
    if first["answer"]:
        sentences.append(f"`mass`: the share of a head's weights on \"{first['answer']}\", "
                         f"averaged over {first['n']:,} examples of {first['split']}, of the head "
                         "that has most; `at step 0`: of the same head before training.")
    if counts := sorted({run["attention"]["ablation"][BY]["n"] for run in runs
                         if "ablation" in run["attention"]}):
        sentences.append(f"`heads needed` counts, seed by seed, the heads (of "
                         f"{first['layers'] * first['heads']}) whose replacement by their mean "
                         f"over {' or '.join(map('{:,}'.format, counts))} examples costs more "
                         f"accuracy than {ERRORS} standard errors; `most lost` is the largest such "
                         "loss of one head, averaged over seeds; `without` names that head by "
                         "layer and number, seed by seed.")
    if first["answer"]:
        sentences.append("`rho`: Spearman's rank correlation, over heads, of a head's mass "
                         "with the accuracy lost, or loss gained, without it; the mean of the "
                         "seeds, and for how many of them the 95% interval leaves out zero.")
    sentences.append("`smallest set`: heads that keep 95% of the accuracy above the floor, found "
                     "greedily; a dash where none is.")
    return " ".join(sentences)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _mean(values: list[float | None]) -> str:
    """Writes the mean over the seeds that have a value."""
    there = [value for value in values if value is not None]
    return _number(fmean(there) if there else None)


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _name(head: tuple[int, int] | None) -> str:
    return "-" if head is None else f"{head[0]}.{head[1]}"


def _of(value: float | None, head: tuple[int, int] | None) -> str:
    return "-" if value is None else f"{value:.3f} ({_name(head)})"


def _interval(rho: dict[str, float | None] | None) -> str:
    if rho is None or rho["rho"] is None:
        return "-"
    bounds = "" if rho["low"] is None else f" [{rho['low']:.2f}, {rho['high']:.2f}]"
    return f"{rho['rho']:.2f}{bounds}"


def _several(rhos: list[dict[str, float | None] | None]) -> str:
    """Writes the mean over seeds of a rank correlation, and how many 95% intervals exclude zero."""
    there = [rho for rho in rhos if rho and rho["rho"] is not None]
    clear = [rho for rho in there if rho["low"] is not None and rho["low"] * rho["high"] > 0]
    if not there:
        return "-"
    return f"{fmean(rho['rho'] for rho in there):.2f} ({len(clear)} of {len(rhos)})"


def _heads(heads: list[list[int]] | None) -> str:
    if heads is None:
        return "-"
    return f"{len(heads)}: {' '.join(map(_name, heads))}" if len(heads) <= 4 else str(len(heads))
