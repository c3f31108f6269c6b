"""Measures what the heads of trained runs look at, and which of them are needed:
`python -m scripts.attention RUN [RUN ...]`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fpt.errors import UserError
from fpt.files import write_whole
from fpt.progress import counting, waiting
from scripts import recorded
from scripts.arguments import POSITIONAL, parsed
from scripts.command import RunOptions, run, scored_split
from scripts.options import keep_compiled

MAPS = "attention.npz"  # beside what `recorded.ATTENTION` names
MOST_EXAMPLES = 1_000
# Unless options say otherwise: tokens of all examples that are measured on, and that heads are
# ablated on; and weights of all examples' maps at one step.
TOKENS_MEASURED, TOKENS_ABLATED, WEIGHTS_STORED = 131_072, 32_768, 2**26
DIGITS = 6  # of a measure


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Measures where each head attends, and how much accuracy is lost without the head.

    The maps go to attention.npz in the folder of each run, the measures to attention.json. Several
    runs are shown side by side.
    """

    runs: tuple[Path, ...] = field(default=(), metadata=POSITIONAL)
    """Names the folders of finished runs of one task, for example a run and the same run with a
    random body."""
    split: str = "test"
    """Names the split that the examples come from: test, validation, or train where the task has
    one."""
    count: int | None = None
    """Sets the number of examples to measure on; None means 1,000, or fewer where they have over
    131 tokens."""
    ablated: int | None = None
    """Sets the number of examples on which each head in turn is ablated, 0 for none; None means
    1,000, or fewer where they have over 32 tokens."""
    smallest: bool = False
    """Searches greedily for a small set of heads that, with all others ablated, keeps 95% of the
    accuracy above that of the best trivial predictor."""
    examples: tuple[int, ...] | None = None
    """Gives the numbers, from 0, of the examples whose own maps are written beside the mean maps;
    None means the first four, or fewer where they are long."""
    study: str | None = None
    """Prints the tables of a study in results/records, instead of measuring runs."""
    task: str | None = None
    """Names one task of the --study."""
    to: Path | None = None
    """Names a file to write the --study to: its tables (.md), or a picture of one task (.svg or
    .png). None prints the tables."""


def main(arguments: list[str]) -> None:
    keep_compiled()
    options = parsed(Options, arguments, "python -m scripts.attention")
    if bool(options.runs) == bool(options.study):
        raise UserError("name the folders of runs, or a --study; see python -m scripts.attention "
                        "--help")
    if options.study:
        _show_study(recorded.study(options.study, options.task), options.to)
        return
    if options.to or options.task:
        raise UserError("--to and --task are for a --study; what is measured of a run is written "
                        "to its folder")
    for name, least in (("count", 1), ("ablated", 0)):
        if getattr(options, name) is not None and getattr(options, name) < least:
            raise UserError(f"--{name} must be at least {least}, not {getattr(options, name)}")
    from scripts.attention_table import beside

    loaded = [options.load(folder) for folder in options.runs]
    for one in loaded:
        one.check_attention()
    if len(names := sorted({one.task.name for one in loaded})) > 1:
        raise UserError(f"runs of several tasks, {', '.join(names)}, cannot be set side by side; "
                        "name those of one")
    print(beside([_measure(one, options) for one in loaded]))
    for one in loaded:
        print(f"{one.folder / recorded.ATTENTION}, {one.folder / MAPS}")


def _show_study(runs: list[recorded.Run], target: Path | None) -> None:
    """Prints the tables of recorded runs, or writes them, or a picture, to a file."""
    from scripts import attention_figure, attention_table

    if target is None:
        print(attention_table.tables(runs), end="")
        return
    if target.suffix not in (".md", ".svg", ".png"):
        raise UserError(f"--to takes a name that ends in .md, .svg or .png, not {target.name!r}")
    write_whole(target, attention_table.tables(runs).encode() if target.suffix == ".md" else
                attention_figure.draw(runs, target.suffix[1:]))
    print(target)


def _measure(loaded, options: Options) -> dict[str, Any]:
    """Measures a run, writes the findings to its folder, and returns them with the run's record."""
    from fpt import attention, splits
    from fpt.records import finite, summary

    begun, task, geometry = time.monotonic(), loaded.task, loaded.geometry
    data = options.data(loaded)
    whole = scored_split(task, data, options.split)
    count, ablated = (
        asked if asked is not None else max(1, min(MOST_EXAMPLES, most // task.interface.tokens))
        for asked, most in ((options.count, TOKENS_MEASURED), (options.ablated, TOKENS_ABLATED)))
    measured = splits.sample(data, options.split, count)
    shown = options.examples
    if shown is None:
        weights = geometry.layers * geometry.heads * task.interface.tokens**2
        shown = range(min(4, len(whole.inputs), WEIGHTS_STORED // weights))
    if strange := [number for number in shown if not 0 <= number < len(whole.inputs)]:
        raise UserError(f"--examples: {options.split} has the examples 0 to "
                        f"{len(whole.inputs) - 1:,}, and no {strange[0]}")

    moments = [(step, "before the first step" if step == 0 else f"step {step:,}", f"step_{step}")
               for step in loaded.steps]
    moments.append((loaded.result["best_step"], "trained", "trained"))
    arrays: dict[str, np.ndarray] = {"axes": np.array(["layer", "head", "query", "key"]),
                                     "examples": np.array(shown, np.int64)}
    measures = []
    for step, label, name in moments:
        model = loaded if name == "trained" else loaded.at(step)
        with waiting(f"{loaded.folder.name}: {len(measured.inputs):,} examples, {label}"):
            trained = attention.measure(model, measured.inputs)
        measures.append({"step": step, "label": label, "values": trained.values})
        if trained.mean.size <= WEIGHTS_STORED or name in ("step_0", "trained"):
            arrays[f"mean_{name}"] = trained.mean
        for number in shown:
            maps = attention.maps(model, whole.inputs[number : number + 1])
            arrays[f"example_{number}_{name}"] = np.concatenate([*map(np.asarray, maps)])
    taken_out = {}
    if ablated:
        taken_out = _ablated(loaded, data, splits.sample(data, options.split, ablated), trained,
                             options.smallest)
    record = summary(loaded.folder)
    content = _plain({
        "run": record["run"], "task": task.name, "split": options.split, "n": trained.n,
        "layers": geometry.layers, "heads": geometry.heads,
        "answer": next(iter(task.answer_tokens(measured.inputs[:1])), None),
        "units": attention.units(task), "measures": measures, "uniform": trained.uniform,
        "floors": {name: finite(value) for name, value in task.floors(data, measured).items()},
        "trainable": loaded.trained,
        "seconds": round(time.monotonic() - begun, 1), **taken_out,
    })
    text = json.dumps(content, sort_keys=True, allow_nan=False) + "\n"
    write_whole(loaded.folder / MAPS, lambda file: np.savez_compressed(file, **arrays))
    write_whole(loaded.folder / recorded.ATTENTION, text.encode())
    return record | {"attention": content}


def _ablated(loaded, data, split, measured, smallest: bool) -> dict[str, Any]:
    """Measures what is lost when a head's output is replaced by zero or by its mean, and how this
    correlates with the head's mass: its attention weight on the tokens that hold the answer."""
    from fpt import ablation, attention

    heads, name = loaded.geometry.layers * loaded.geometry.heads, loaded.folder.name
    answer = next(iter(loaded.task.answer_tokens(split.inputs[:1])), None)
    found: dict[str, Any] = {"ablation": {}, "correlation": {}, "smallest": None}
    for by in ablation.BY:
        without = ablation.Ablation(loaded, split, by)
        with counting(f"{name}: without each head ({by})", heads) as step:
            losses = ablation.ablate(without, step)
        found["ablation"][by] = {kind: getattr(losses, kind) for kind in (
            "n", "accuracy", "lost", "error", "nats", "slices")}
        if answer:
            mass = measured.values[answer][attention.READ]
            found["correlation"][by] = {"lost": ablation.correlation(mass, losses.lost),
                                        "nats": ablation.correlation(mass, losses.nats)}
    floors = loaded.task.floors(data, split)
    floor = max(value for name, value in floors.items() if "/" not in name)
    if smallest and losses.accuracy > floor:
        with counting(f"{name}: a smallest set of heads") as step:
            kept, accuracy = ablation.smallest(without, losses, floor, step=step)
        found["smallest"] = {"by": by, "heads": np.argwhere(kept), "accuracy": accuracy,
                             "floor": floor}
    return found


def _plain(value: Any) -> Any:
    """Turns a value into JSON's types, its numbers rounded to significant digits."""
    if isinstance(value, dict):
        return {name: _plain(held) for name, held in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(held) for held in value]
    if isinstance(value, np.integer):
        return int(value)
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float | np.floating) else value


if __name__ == "__main__":
    run(main)
