"""Draws how runs learned: `python -m scripts.figure RUN ...`, or `--study NAME` for recorded
runs."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fpt.errors import UserError, nearest
from fpt.files import write_whole
from scripts import recorded, studies
from scripts.arguments import POSITIONAL, parsed
from scripts.command import run
from scripts.recorded import Run

# Okabe & Ito 2008
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
LINES = ("-", "--", ":")
MOST = len(COLOURS) * len(LINES)


@dataclass(frozen=True)
class Options:
    """Draws accuracy on validation by training step, a line for each run, and as dashed lines the
    accuracies of trivial predictors. Runs that differ by their seed alone share a colour."""

    runs: tuple[Path, ...] = field(default=(), metadata=POSITIONAL)
    """Names the folders of finished runs."""
    study: str | None = None
    """Names a study in results/records, instead of runs."""
    track: str = "mini"
    """Names the sizes at which the study was made, where it has a file in results/studies."""
    task: str | None = None
    """Names the task, where there are runs of several."""
    part: str | None = None
    """Draws the accuracy on one slice of the answers alone, such as `hidden`, the hidden bits of
    bit-memory; None means all answers."""
    chosen: bool = False
    """Draws, of runs alike but for seed and learning rate, those at one rate: the best on
    validation for the first seed, or for the seeds that choose it in the study's file."""
    to: Path | None = None
    """Names the file of the picture, .svg or .png; None means curve.svg in the folder of the first
    run."""


def main(arguments: list[str]) -> None:
    options = parsed(Options, arguments, "python -m scripts.figure")
    if bool(options.runs) == bool(options.study):
        raise UserError("name the folders of runs, or a --study; see python -m scripts.figure "
                        "--help")
    if options.study and not options.to:
        raise UserError("--study needs --to, the file of the picture")
    target = options.to or options.runs[0] / "curve.svg"
    if target.suffix not in (".svg", ".png"):
        raise UserError(f"--to takes a name that ends in .svg or .png, not {target.name!r}")
    groups = _grouped(options)
    if len(groups) > MOST:
        raise UserError(f"{len(groups)} conditions are more than the {MOST} that a picture can "
                        "tell apart; name fewer" + ", or say --chosen True" * (not options.chosen))
    write_whole(target, draw(groups, options.part, target.suffix[1:]))
    shown = sum(map(len, groups.values()))
    print(f"{target}: {shown} run{'s' * (shown > 1)}")


def _grouped(options: Options) -> dict[str, list[Run]]:
    """Reads the runs that are asked for, and groups them under the labels of the legend: the names
    that a study's file gives to its conditions, or the settings that tell runs apart."""
    if options.study in studies.names():
        return _of_study(options)
    if options.study:
        found = recorded.study(options.study, options.task)
    else:
        from fpt.records import summary

        found = recorded.of_task([summary(folder) for folder in options.runs], options.task)
    _check_one_task(one["config"]["task"] for one in found)
    return recorded.chosen(found) if options.chosen else recorded.conditions(found)


def _of_study(options: Options) -> dict[str, list[Run]]:
    """Groups the recorded runs that a study's file asks for: by condition, and also by learning
    rate where those at all rates are drawn."""
    from scripts.ledger import Ledger

    study, groups, names = studies.study(options.study), {}, set()
    cells = study.cells(options.track)
    if options.task and options.task not in (known := {cell.task for cell in cells}):
        raise nearest(options.task, known, f"task of {study.name}")
    ledger = Ledger(recorded.RECORDS / f"{study.name}.jsonl")
    for cell in cells:
        if options.task not in (None, cell.task):
            continue
        for one in ledger.counted(cell) if options.chosen else ledger.there(cell):
            rate = "" if options.chosen else f", lr {one['config']['lr']:g}"
            groups.setdefault(f"{cell.condition.name}{rate}", []).append(one)
            names.add(cell.task)
    if not groups:
        raise UserError(f"no such run of {study.name} is on record; train them with python -m "
                        f"scripts.study {study.name}")
    _check_one_task(names)
    return groups


def _check_one_task(tasks: Iterable[str]) -> None:
    if len(names := sorted({*tasks})) > 1:
        raise UserError(f"one picture shows one task, and these runs have {', '.join(names)}; name "
                        "one with --task")


def draw(groups: dict[str, list[Run]], part: str | None, kind: str, source: str | None = None
         ) -> bytes:
    """Draws the learning curves of groups of runs, a colour a label; returns the image as bytes.

    kind: svg or png.  source: see `content`.  The same runs and versions give the same bytes.
    """
    pyplot = plotting(10)
    columns = max(1, min(4, 80 // (8 + max(map(len, groups)))))  # as many as the width has room for
    rows = -(-len(groups) // columns)
    inches = 7.2, 4.8 + 0.21 * max(0, rows - 4)
    figure, axes = pyplot.subplots(figsize=inches, layout="constrained")
    for number, (label, alike) in enumerate(groups.items()):
        for place, one in enumerate(alike):
            points = [(line["step"], _accuracy(line["validation"], part, one["config"]["task"]))
                      for line in one["curve"]]
            axes.plot(*zip(*points), color=COLOURS[number % len(COLOURS)],
                      linestyle=LINES[number // len(COLOURS)], label="" if place else label,
                      marker="o", markersize=3)
    floors = {}
    for one in itertools.chain(*groups.values()):
        for predictor, value in recorded.floors(one["result"], part).items():
            floors.setdefault(f"{predictor}\n{value:.3f}", value)
    for label, value in sorted(floors.items(), key=lambda item: item[1]):
        axes.axhline(value, color="0.55", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(label, (1.01, value), xycoords=("axes fraction", "data"), va="center",
                      color="0.4", fontsize=8)
    axes.set(xlabel="training step", ylabel=f"accuracy on validation{f', {part}' if part else ''}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside upper left", ncols=columns)
    return content(figure, kind, source)


def plotting(size: int):
    """Prepares matplotlib to draw files, with no display and no random ids; returns its pyplot.

    size: of the font, in points.
    """
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams.update({"svg.hashsalt": "fpt", "svg.fonttype": "none", "font.size": size})
    from matplotlib import pyplot

    return pyplot


def content(figure, kind: str, source: str | None = None) -> bytes:
    """Returns the content of a figure's file, without the date and version that matplotlib adds.

    source: says what it was drawn from, in the metadata of the file.
    """
    from matplotlib import pyplot

    packed = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(packed, format=kind, dpi=160,
                   metadata=metadata | ({"Source": source} if source else {}))
    pyplot.close(figure)
    return packed.getvalue()


def _accuracy(score: dict, part: str | None, task: str) -> float:
    if part is None:
        return score["accuracy"]
    if part not in score["slices"]:
        raise nearest(part, score["slices"], f"part of {task}")
    return score["slices"][part]


if __name__ == "__main__":
    run(main)
