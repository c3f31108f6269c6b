"""What was found in the heads of runs, as text: runs side by side, and the tables of a study."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from fpt.errors import UserError
from scripts import recorded

Run = dict[str, Any]  # a run's record, with what was found in its heads as "attention"
BY = "mean"  # the kind of ablation that is told: zeros are further from anything that a model has met
ERRORS = 3  # a head is needed if what is lost without it is more than so many of its standard errors
WIDTH = 130  # characters of a line of markdown


@dataclass(frozen=True)
class Findings:
    """What the heads of one run come to."""

    mass: float | None  # on the tokens that hold the answer, of the head that has most; None where a task names none
    head: tuple[int, int] | None  # that head: layer and number
    before: float | None  # the mass of the same head before the first step
    uniform: float | None  # what uniform attention would have
    needed: int | None  # heads without which accuracy is lost; None where none were taken out, as in what follows
    lost: float | None  # the most that is lost without one
    worst: tuple[int, int] | None  # without which
    rho: dict[str, float | None] | None  # rank correlation over heads of mass and accuracy lost, with its interval
    nats: dict[str, float | None] | None  # of mass and loss gained
    smallest: list[list[int]] | None  # a smallest set of heads; None where none was looked for, or there can be none


def findings(run: Run) -> Findings:
    """Reads off what the heads of a run come to."""
    found = run["attention"]
    mass = head = before = uniform = needed = lost = worst = rho = nats = None
    if answer := found["answer"]:
        masses = _masses(found, -1)
        head = _most(masses)
        mass, before, uniform = float(masses[head]), float(_masses(found, 0)[head]), found["uniform"][answer]["read"]
    if "ablation" in found:
        losses, errors = (np.array(found["ablation"][BY][name]) for name in ("lost", "error"))
        worst, needed = _most(losses), int((losses > ERRORS * errors).sum())
        lost = float(losses[worst])
        if answer:
            rho, nats = found["correlation"][BY]["lost"], found["correlation"][BY]["nats"]
    smallest = found.get("smallest") and found["smallest"]["heads"]
    return Findings(mass, head, before, uniform, needed, lost, worst, rho, nats, smallest)


def _masses(found: dict[str, Any], moment: int) -> np.ndarray:
    return np.array(found["measures"][moment]["values"][found["answer"]]["read"])


def _most(values: np.ndarray) -> tuple[int, int]:
    layer, head = np.unravel_index(values.argmax(), values.shape)
    return int(layer), int(head)


def beside(runs: list[Run]) -> str:
    """Runs of one task side by side: does a head attend to the answer, did it before training, and is it needed?"""
    told = {label: alike[0] for label, alike in recorded.conditions(runs, ()).items()}
    first = runs[0]["attention"]
    rows = [("", *told)]
    come = [findings(run) for run in told.values()]
    rows.append(("accuracy on test", *(f"{run['result']['test']['accuracy']:.3f}" for run in told.values())))
    rows.append(("best floor", *(f"{recorded.best_floor(run)[1]:.3f}" for run in told.values())))
    if first["answer"]:
        rows.append((f"mass on {first['answer']!r}, at most", *(_of(one.mass, one.head) for one in come)))
        rows.append(("  of that head before the first step", *(_number(one.before) for one in come)))
        rows.append(("  of uniform attention", *(_number(one.uniform) for one in come)))
    for name, unit in first["units"].items():
        rows.append((f"{name} ({unit}), mean of heads", *(_mean(run, name, -1) for run in told.values())))
        rows.append(("  before the first step", *(_mean(run, name, 0) for run in told.values())))
        rows.append(("  of uniform attention", *(_number(run["attention"]["uniform"][name]["read"]) for run in told.values())))
    if any(one.needed is not None for one in come):
        rows.append((f"heads needed, of {first['layers'] * first['heads']}", *(_count(one.needed) for one in come)))
        rows.append(("  most accuracy lost without one", *(_of(one.lost, one.worst) for one in come)))
        if first["answer"]:
            rows.append(("rank correlation: mass, accuracy lost", *(_interval(one.rho) for one in come)))
            rows.append(("  mass, loss gained", *(_interval(one.nats) for one in come)))
    if any(one.smallest is not None for one in come):
        rows.append(("heads that keep 95% above the floor", *(_heads(one.smallest) for one in come)))
    lines = [f"{first['task']}: {first['n']:,} examples of {first['split']}, at the tokens that are read; heads by layer.number",
             *_aligned(rows)]
    if first["answer"] is None:
        lines.append(f"{first['task']} names no tokens that hold the answer: there is no mass on them to tell")
    return "\n".join(lines)


def tables(runs: list[Run]) -> str:
    """The heads of a study's runs, in markdown: for each task, means over the seeds of each condition."""
    looked = [run for run in runs if "attention" in run]
    if not looked:
        raise UserError("none of these runs has been looked into; say python -m scripts.attention RUNS, then collect them again")
    names = sorted({run["config"]["task"] for run in looked})
    return "\n\n".join(_table(recorded.of_task(looked, name)) for name in names) + "\n"


def _table(runs: list[Run]) -> str:
    first = runs[0]["attention"]
    answer, heads = first["answer"], first["layers"] * first["heads"]
    rows = [["condition", "rate", "seeds", "test", *(["mass", "at step 0", "uniform"] if answer else []), "heads needed",
             "most lost", "without", *(["rho, accuracy", "rho, loss"] if answer else []), "smallest set"]]
    looks = [["condition", "measure", "trained", "at step 0", "uniform", "highest", "of head"]]
    masks = [name for name in first["uniform"] if name not in first["units"]]
    for label, alike in recorded.chosen(runs).items():
        come = [findings(run) for run in alike]
        mean = lambda name: fmean(getattr(one, name) for one in come)
        rows.append([label, f"{alike[0]['config']['lr']:g}", str(len(alike)),
                     f"{fmean(run['result']['test']['accuracy'] for run in alike):.3f}",
                     *([f"{mean(name):.3f}" for name in ("mass", "before", "uniform")] if answer else []),
                     ", ".join(_count(one.needed) for one in come), f"{mean('lost'):.3f}",
                     ", ".join(_name(one.worst) for one in come),
                     *([_several([one.rho for one in come]), _several([one.nats for one in come])] if answer else []),
                     ", ".join("-" if one.smallest is None else str(len(one.smallest)) for one in come)])
        for name in [*sorted(masks, key=lambda name: name != answer), *first["units"]]:
            values = [[np.array(run["attention"]["measures"][moment]["values"][name]["read"]) for moment in (-1, 0)]
                      for run in alike]
            looks.append([label, name, *(f"{fmean(pair[at].mean() for pair in values):.3f}" for at in (0, 1)),
                          f"{fmean(run['attention']['uniform'][name]['read'] for run in alike):.3f}",
                          f"{fmean(pair[0].max() for pair in values):.3f}",
                          ", ".join(_name(_most(pair[0])) for pair in values)])
    config = runs[0]["config"]
    sizes = ", ".join(f"{key} {value}" for key, value in config["sizes"].items())
    name, floor = recorded.best_floor(runs[0])
    told = [f"{sizes}; {len(runs)} run{'s' * (len(runs) > 1)} in all. Best floor on test: {floor:.3f} ({name})."]
    if answer:
        told.append(f"`mass`: the share of a head's weights on \"{answer}\", averaged over {first['n']:,} examples of "
                    f"{first['split']}, of the head that has most; `at step 0`: of the same head before training.")
    if "ablation" in first:
        counts = sorted({run["attention"]["ablation"][BY]["n"] for run in runs if "ablation" in run["attention"]})
        over = " or ".join(f"{count:,}" for count in counts)
        told.append(f"`heads needed`: those, of {heads}, without which more accuracy is lost than {ERRORS} standard errors, each "
                    f"replaced by its mean over {over} examples; `most lost`: accuracy that is lost without one of them, mean of "
                    "seeds; `without`: which one, by layer and number, seed by seed.")
    if answer:
        told.append("`rho`: Spearman's rank correlation over heads of mass with accuracy lost, or loss gained; the mean of the "
                    "seeds, and for how many of them the 95% interval leaves out zero.")
    told.append("`smallest set`: heads that keep 95% of the accuracy above the floor, found greedily; a dash where none is.")
    about = ("What heads attend to at the tokens that are read: means over heads and seeds, and the highest value with the head "
             "that has it.")
    return (f"### {config['task']}\n\n{textwrap.fill(' '.join(told), WIDTH)}\n\n{_markdown(rows)}\n\n"
            f"{about}\n\n{_markdown(looks)}")


def _mean(run: Run, name: str, moment: int) -> str:
    return f"{np.mean(run['attention']['measures'][moment]['values'][name]['read']):.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _name(head: tuple[int, int] | None) -> str:
    return "-" if head is None else f"{head[0]}.{head[1]}"


def _of(value: float | None, head: tuple[int, int] | None) -> str:
    return "-" if value is None else f"{value:.3f} ({_name(head)})"


def _interval(rho: dict[str, float | None] | None) -> str:
    if rho is None or rho["rho"] is None:
        return "-"
    return f"{rho['rho']:.2f}" + ("" if rho["low"] is None else f" [{rho['low']:.2f}, {rho['high']:.2f}]")


def _several(rhos: list[dict[str, float | None] | None]) -> str:
    """The mean over seeds, and how many of the intervals leave out zero."""
    there = [rho for rho in rhos if rho and rho["rho"] is not None]
    clear = [rho for rho in there if rho["low"] is not None and rho["low"] * rho["high"] > 0]
    return f"{fmean(rho['rho'] for rho in there):.2f} ({len(clear)} of {len(rhos)})" if there else "-"


def _heads(heads: list[list[int]] | None) -> str:
    if heads is None:
        return "-"
    return f"{len(heads)}: {' '.join(map(_name, heads))}" if len(heads) <= 4 else str(len(heads))


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _markdown(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths))} |" for row in rows]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return "\n".join(lines)
