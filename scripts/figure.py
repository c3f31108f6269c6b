"""Draws how runs learned: `python -m scripts.figure RUN ...`, or `--study NAME` for recorded ones."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fpt.errors import UserError, nearest
from fpt.files import write_whole
from scripts.command import RECORDS, parsed, run

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe & Ito 2008
LINES = ("-", "--", ":")
MOST = len(COLOURS) * len(LINES)
UNTOLD = {"geometry", "checkpoint", "task_file"}  # of a configuration: what the names of body and task stand for


@dataclass(frozen=True)
class Options:
    """Draws accuracy on validation by training step, a line for each run, with the floors that apply."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(name="runs")] = ()
    """Folders of finished runs."""
    study: str | None = None
    """Instead, a study in results/records."""
    task: str | None = None
    """The task, where a study has several."""
    part: str | None = None
    """A slice of the answers, `hidden` of bit memory say; None: all of them."""
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
    found = _recorded(options.study) if options.study else _finished(options.runs)
    if options.task:
        known = {one["config"]["task"] for one in found}
        if options.task not in known:
            raise nearest(options.task, known, "task of these runs")
        found = [one for one in found if one["config"]["task"] == options.task]
    if len(names := sorted({one["config"]["task"] for one in found})) > 1:
        raise UserError(f"one picture shows one task, and these runs have {', '.join(names)}; name one with --task")
    if len(found) > MOST:
        raise UserError(f"{len(found)} runs are more than the {MOST} that a picture can tell apart; name fewer")
    write_whole(target, draw(found, options.part, target.suffix[1:]))
    print(f"{target}: {len(found)} run{'s' * (len(found) > 1)}")


def _recorded(study: str) -> list[dict[str, Any]]:
    file = RECORDS / f"{study}.jsonl"
    if not file.is_file():
        raise nearest(study, [path.stem for path in RECORDS.glob("*.jsonl")], "study")
    return [json.loads(line) for line in file.read_text().splitlines()]


def _finished(folders: tuple[Path, ...]) -> list[dict[str, Any]]:
    from fpt.records import summary

    return [summary(folder) for folder in folders]


def labelled(runs: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Each run with what tells it from the others, in order of that; task and body where there is nothing to tell apart."""
    said = lambda one, key: Path(one["config"][key]).name if key == "body" else one["config"].get(key)
    # What all runs state: records outlive the configurations of their time.
    stated = sorted(set.intersection(*(set(one["config"]) for one in runs)) - UNTOLD)
    differ = [key for key in stated if len({json.dumps(said(one, key)) for one in runs}) > 1] or ["task", "body"]

    def order(one: dict[str, Any]) -> list[tuple[float, str]]:
        values = (said(one, key) for key in differ)
        return [(float(value), "") if isinstance(value, (int, float)) else (math.inf, str(value)) for value in values]

    def word(one: dict[str, Any], key: str) -> str:
        value = said(one, key)
        if key == "load" and value == "none":
            return "random"
        return f"{value}" if key in ("task", "body", "birth") else f"{key} {value}"

    return [(", ".join(word(one, key) for key in differ), one) for one in sorted(runs, key=order)]


def draw(runs: list[dict[str, Any]], part: str | None, kind: str) -> bytes:
    """The picture as a file's content: the same bytes for the same runs and versions."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams.update({"svg.hashsalt": "fpt", "svg.fonttype": "none", "font.size": 10})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.8), layout="constrained")
    told = labelled(runs)
    for number, (label, one) in enumerate(told):
        points = [(line["step"], _accuracy(line["validation"], part, one["config"]["task"])) for line in one["curve"]]
        axes.plot(*zip(*points), color=COLOURS[number % len(COLOURS)], linestyle=LINES[number // len(COLOURS)], label=label,
                  marker="o", markersize=3)
    floors = {}
    for one in runs:
        for name, value in one["result"]["floors"].items():
            belongs, _, predictor = name.rpartition("/")
            if belongs == (part or "") and value is not None:
                floors.setdefault(f"{predictor}\n{value:.3f}", value)
    for label, value in sorted(floors.items(), key=lambda item: item[1]):
        axes.axhline(value, color="0.55", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(label, (1.01, value), xycoords=("axes fraction", "data"), va="center", color="0.4", fontsize=8)
    axes.set(xlabel="training step", ylabel=f"accuracy on validation{f', {part}' if part else ''}")
    axes.spines[["top", "right"]].set_visible(False)
    columns = max(1, min(4, 80 // (8 + max(len(label) for label, _ in told))))  # as many as the width has room for
    figure.legend(frameon=False, loc="outside upper left", ncols=columns)
    packed = io.BytesIO()
    figure.savefig(packed, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else {"Software": None})
    pyplot.close(figure)
    return packed.getvalue()


def _accuracy(score: dict[str, Any], part: str | None, task: str) -> float:
    if part is None:
        return score["accuracy"]
    if part not in score["slices"]:
        raise nearest(part, score["slices"], f"part of {task}")
    return score["slices"][part]


if __name__ == "__main__":
    run(main)
