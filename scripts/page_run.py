"""Makes the page of a run: one HTML file with its result, its attention maps and its measures, that needs no network."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import tasks
from fpt import attention, records, splits
from fpt.config import Config
from fpt.errors import UserError
from fpt.load import LoadedRun
from fpt.task import Split
from scripts import page_examples, page_measures, recorded
from scripts.page_frame import fill, shareable
from scripts.page_maps import Head, View, pack
from scripts.page_measures import Moment

# What means are taken over, at most: examples, their tokens, and their attention weights in one head.
AVERAGED, TOKENS, WEIGHTS = 1_000, 2**16, 2**24
FRAME, QUANTITIES = 120_000, 250  # bytes of a page: all but examples and heads; numbers of a head at a moment
SMALL, LARGE = 1.0, 8.0  # megabytes of a page: of a task whose tokens are numbers without a picture, and of any other


@dataclass(frozen=True)
class Asked:
    """What a page shall hold."""

    examples: tuple[int, ...] = ()  # of the test split, by number; none: some that are answered right and some wrong
    heads: tuple[Head, ...] = ()  # whose whole map is kept first, where not all can be
    megabytes: float | None = None  # of the page, at most; None: SMALL or LARGE


def page(run: LoadedRun, twins: Sequence[LoadedRun], data: dict[str, Split], asked: Asked) -> str:
    """The page of a run, with other runs of the same task beside it.

    data: the task's splits.  Raises UserError for an example or a head that is not there, and for a run of another task.
    """
    check(run, twins, data, asked)
    task, test = run.task, data["test"]
    count = max(1, min(AVERAGED, TOKENS // task.interface.tokens, WEIGHTS // task.interface.tokens**2))
    numbers = splits.sampled("test", len(test.inputs), count)
    sample = splits.sample(data, "test", count)
    shown = list(asked.examples) or page_examples.some(run, sample, numbers, len(test.inputs))
    chosen = Split(test.inputs[shown], test.targets[shown])
    examples = [page_examples.describe(task, *one) for one in zip(*chosen, shown)]
    examples.append(page_examples.describe_mean(task, sample, examples))
    names = labels([run, *twins])
    moments = moments_of(run, twins, names)
    now = next(number for number, moment in enumerate(moments) if moment.model is run)
    found = [recorded.looked_into(one.folder, one.trained) for one in (run, *twins)]
    masks = list(task.answer_tokens(chosen.inputs))
    measures: dict[int, attention.Measures] = {now: attention.measure(run, sample.inputs)}
    heads = page_measures.ranked(masks, measures[now], found[0])

    def mean(number: int) -> np.ndarray:
        """The mean maps of a moment, which are many; of what is measured with them, the numbers are kept."""
        measured = measures.get(number) or attention.measure(moments[number].model, sample.inputs)
        measures[number] = dataclasses.replace(measured, mean=np.empty(0))
        return measured.mean

    def view(number: int, place: int) -> View:
        moment, example = moments[number], examples[place]
        geometry, last = moment.model.geometry, place == len(shown)
        own = lambda: (layer[0] for layer in attention.maps(moment.model, chosen.inputs[[place]]))
        return View(geometry.layers * geometry.heads, example["tokens"], example["read"],
                    moment.of == 0 and 0 < place < len(shown) and moment.step > 0 and not moment.trained,
                    partial(mean, number) if last else own)

    views = [[view(number, place) for place in range(len(examples))] for number in range(len(moments))]
    megabytes = asked.megabytes or (SMALL if task.grid is None and task.interface.vocabulary is None else LARGE)
    told = FRAME + len(json.dumps(examples)) + QUANTITIES * sum(one.heads for (one, *_) in views)
    store, stored = pack(views, now, asked.heads, heads, megabytes * 1e6 - told)
    known = page_measures.quantities(task, masks, moments, [measures[number] for number in range(len(moments))], found)
    summary = records.summary(run.folder)
    content = {
        "run": summary["run"], "grid": task.grid, "now": now, "head": heads[0], "examples": examples, "quantities": known,
        "curves": curves(summary), "bars": bars([run, *twins], names),
        "moments": [{"label": moment.label, "short": moment.short, "of": moment.of, "step": moment.step, "views": there,
                     "layers": moment.model.geometry.layers, "heads": moment.model.geometry.heads,
                     "answers": [page_examples.answered(moment.model, *one) for one in zip(*chosen)]}
                    for moment, there in zip(moments, stored)],
    }
    stated = {"config": summary["config"]} | {name: run.result[name] for name in ("counts", "data", "versions", "commit")}
    return fill(
        "run.html.j2", content=content, blobs=store.blobs, difference=store.difference, averaged=len(sample.inputs),
        run=summary["run"], folder=shareable(run.folder), config=summary["config"], result=run.result,
        stated=json.dumps(stated, indent=2, sort_keys=True), floor=recorded.best_floor(summary), task=task,
        about=type(task).__doc__.splitlines()[0], command=command(run.config), measured=found[0],
        correlations=page_measures.correlations(found[0]))


def check(run: LoadedRun, twins: Sequence[LoadedRun], data: dict[str, Split], asked: Asked) -> None:
    """Raises UserError for what a page is asked to show and is not there."""
    geometry, count = run.geometry, len(data["test"].inputs)
    if outside := [head for head in asked.heads if not (head[0] < geometry.layers and head[1] < geometry.heads)]:
        raise UserError(f"no head {outside[0][0]}.{outside[0][1]} in {run.folder}: its layers are 0 to {geometry.layers - 1}, "
                        f"its heads 0 to {geometry.heads - 1}")
    if outside := [number for number in asked.examples if not 0 <= number < count]:
        raise UserError(f"no example {outside[0]}: those of {run.task.name}'s test split are 0 to {count - 1}")
    for twin in twins:
        if twin.task != run.task:
            raise UserError(f"{twin.folder} is of {_told(twin)}, while {run.folder} is of {_told(run)}; --beside takes runs of "
                            "the same task in the same sizes")
        splits.check(data, twin.result["data"], str(twin.folder))


def _told(run: LoadedRun) -> str:
    return " ".join([run.task.name, *(f"{name} {value}" for name, value in run.task.settings().items())])


def labels(runs: Sequence[LoadedRun]) -> list[str]:
    """What tells each of several runs from the others."""
    summaries = [records.summary(run.folder) for run in runs]
    found = {one["run"]: label for label, alike in recorded.conditions(summaries, ()).items() for one in alike}
    return [found[summary["run"]] for summary in summaries]


def moments_of(run: LoadedRun, twins: Sequence[LoadedRun], names: Sequence[str]) -> list[Moment]:
    """The run before its first step, at the steps that were kept, and as it ended, by step; then those beside it."""
    best = run.result["best_step"]
    own = [Moment(*2 * [f"step {step:,}" if step else "before the first step"], 0, step, False, run.at(step))
           for step in run.steps if step == 0 or step != best]
    own.append(Moment(f"after training (step {best:,}, best on validation)", "after training", 0, best, True, run))
    return sorted(own, key=lambda moment: (moment.step, moment.trained)) + [
        Moment(f"{name}, after training", name, number, twin.result["best_step"], True, twin)
        for number, (name, twin) in enumerate(zip(names[1:], twins), 1)]


def curves(summary: recorded.Run) -> list[dict[str, Any]]:
    """Accuracy on validation by step: of all answers, then of each slice, with the floors that belong to it."""
    lines = [(line["step"], line["validation"]) for line in summary["curve"]]
    parts = list(dict.fromkeys(part for _, score in lines for part in score.get("slices", {})))
    floors = {part: {name.rpartition("/")[2]: value for name, value in summary["result"]["floors"].items()
                     if name.rpartition("/")[0] == (part or "") and value is not None} for part in (None, *parts)}
    value = lambda score, part: score["accuracy"] if part is None else score["slices"].get(part)
    return [{"name": part or "all answers", "floors": floors[part],
             "points": [[step, value(score, part)] for step, score in lines if value(score, part) is not None]}
            for part in (None, *parts)]


def bars(runs: Sequence[LoadedRun], names: Sequence[str]) -> list[dict[str, Any]]:
    """Accuracy on test: of the runs, and of the trivial predictors; all answers, then those of each slice."""
    result = runs[0].result
    said = lambda name, number: "this run" if number == 0 else name
    found = []
    for part in (None, *result["test"].get("slices", {})):
        rows = [{"name": said(name, number), "floor": False,
                 "value": run.result["test"]["accuracy"] if part is None else run.result["test"]["slices"].get(part)}
                for number, (name, run) in enumerate(zip(names, runs))]
        rows += [{"name": name.rpartition("/")[2], "floor": True, "value": value} for name, value in result["floors"].items()
                 if name.rpartition("/")[0] == (part or "")]
        found.append({"name": part or "all answers", "rows": [row for row in rows if row["value"] is not None]})
    return found


def command(config: Config) -> str | None:
    """The command that trains a run of this configuration; None for a task that the training command does not know."""
    if not config.task_file and config.task.name not in tasks.TASKS:
        return None
    usual = Config.preset(type(config.task)())
    named = ["--task-file", config.task_file] if config.task_file else [config.task.name]
    fields = [field.name for field in dataclasses.fields(Config) if field.name not in (
        "task", "task_file", "geometry", "checkpoint")]
    sizes = config.task.settings()
    changed = {name: value for name, value in sizes.items() if value != usual.task.settings()[name]}
    changed |= {name: getattr(config, name) for name in fields if getattr(config, name) != getattr(usual, name)}
    if config.load == "body" and usual.load is None and not config.birth.startswith("mimetic"):
        changed.pop("load", None)  # it is what is loaded unless something else is said
    options = [word for name, value in changed.items() for word in
               (f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else [value]))]
    return shlex.join(["python", "-m", "scripts.train", *named, *options])
