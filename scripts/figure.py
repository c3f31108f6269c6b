"""Draws how runs learned: `python -m scripts.figure RUN ...`, or `--study NAME` for recorded ones."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fpt.errors import UserError, nearest
from fpt.files import write_whole
from scripts import recorded
from scripts.command import parsed, run
from scripts.recorded import Run

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe & Ito 2008
LINES = ("-", "--", ":")
MOST = len(COLOURS) * len(LINES)


@dataclass(frozen=True)
class Options:
    """Draws accuracy on validation by training step, a line for each run, with the floors that apply.

    Runs that differ by their seed alone share a colour.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(name="runs")] = ()
    """Folders of finished runs."""
    study: str | None = None
    """Instead, a study in results/records."""
    task: str | None = None
    """The task, where a study has several."""
    part: str | None = None
    """A slice of the answers, `hidden` of bit memory say; None: all of them."""
    chosen: bool = False
    """Only the runs at the rate that validation chooses for each condition, on its first seed."""
    to: Path | None = None
    """The picture, .svg or .png; None: curve.svg in the folder of the first run."""


def main(arguments: list[str]) -> None:
    options = parsed(Options, arguments, "python -m scripts.figure")
    if bool(options.runs) == bool(options.study):
        raise UserError("name the folders of runs, or a --study; see python -m scripts.figure --help")
    if options.study and not options.to:
        raise UserError("--study needs --to, the file of the picture")
    target = options.to or options.runs[0] / "curve.svg"
    if target.suffix not in (".svg", ".png"):
        raise UserError(f"--to takes a name that ends in .svg or .png, not {target.name!r}")
    found = recorded.of_task(_finished(options.runs), options.task) if options.runs else recorded.study(
        options.study, options.task)
    if len(names := sorted({one["config"]["task"] for one in found})) > 1:
        raise UserError(f"one picture shows one task, and these runs have {', '.join(names)}; name one with --task")
    told = recorded.chosen(found) if options.chosen else recorded.conditions(found)
    if len(told) > MOST:
        raise UserError(f"{len(told)} conditions are more than the {MOST} that a picture can tell apart; name fewer"
                        + ("" if options.chosen else ", or say --chosen True"))
    write_whole(target, draw(told, options.part, target.suffix[1:]))
    shown = sum(map(len, told.values()))
    print(f"{target}: {shown} run{'s' * (shown > 1)}")


def _finished(folders: tuple[Path, ...]) -> list[Run]:
    from fpt.records import summary

    return [summary(folder) for folder in folders]


def draw(told: dict[str, list[Run]], part: str | None, kind: str) -> bytes:
    """The picture of runs by their labels, as a file's content: the same bytes for the same runs and versions."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams.update({"svg.hashsalt": "fpt", "svg.fonttype": "none", "font.size": 10})
    from matplotlib import pyplot

    columns = max(1, min(4, 80 // (8 + max(map(len, told)))))  # as many as the width has room for
    rows = -(-len(told) // columns)
    figure, axes = pyplot.subplots(figsize=(7.2, 4.8 + 0.21 * max(0, rows - 4)), layout="constrained")  # inches
    for number, (label, alike) in enumerate(told.items()):
        for place, one in enumerate(alike):
            points = [(line["step"], _accuracy(line["validation"], part, one["config"]["task"])) for line in one["curve"]]
            axes.plot(*zip(*points), color=COLOURS[number % len(COLOURS)], linestyle=LINES[number // len(COLOURS)],
                      label="" if place else label, marker="o", markersize=3)
    floors = {}
    for one in itertools.chain(*told.values()):
        for name, value in one["result"]["floors"].items():
            belongs, _, predictor = name.rpartition("/")
            if belongs == (part or "") and value is not None:
                floors.setdefault(f"{predictor}\n{value:.3f}", value)
    for label, value in sorted(floors.items(), key=lambda item: item[1]):
        axes.axhline(value, color="0.55", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(label, (1.01, value), xycoords=("axes fraction", "data"), va="center", color="0.4", fontsize=8)
    axes.set(xlabel="training step", ylabel=f"accuracy on validation{f', {part}' if part else ''}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside upper left", ncols=columns)
    packed = io.BytesIO()
    figure.savefig(packed, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else {"Software": None})
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
