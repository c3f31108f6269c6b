"""Makes the page of a run: one HTML file with its result, its attention maps and its measures, that
needs no network."""

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
from fpt.config import FOUND, Config
from fpt.errors import UserError
from fpt.load import LoadedRun
from fpt.parameters import INITIAL
from fpt.task import Split, about
from scripts import page_examples, page_measures, recorded
from scripts.page_frame import fill, shareable
from scripts.page_maps import Head, View, pack
from scripts.page_measures import Moment

# Means are taken over at most so many examples, tokens, and attention weights in one head.
AVERAGED, TOKENS, WEIGHTS = 1_000, 2**16, 2**24
# Bytes of a page that hold neither examples nor heads, and that hold the numbers of a head.
FRAME, QUANTITIES = 120_000, 250
# Megabytes of a page: for tasks whose tokens are numbers without a picture, and for others.
SMALL, LARGE = 1.0, 8.0


@dataclass(frozen=True)
class Asked:
    """Describes what a page shall hold."""

    examples: tuple[int, ...] = ()  # of the test split; none: some answered right, some wrong
    heads: tuple[Head, ...] = ()  # whose whole map is kept first, where not all can be
    megabytes: float | None = None  # of the page, at most; None: SMALL or LARGE


def page(run: LoadedRun, twins: Sequence[LoadedRun], data: dict[str, Split], asked: Asked) -> str:
    """Makes the page of a run, with other runs of the same task beside it.

    data: the task's splits.  Raises UserError for an example or a head that is not there, and for a
    run of another task.
    """
    check(run, twins, data, asked)
    task, test, tokens = run.task, data["test"], run.task.interface.tokens
    count = max(1, min(AVERAGED, TOKENS // tokens, WEIGHTS // tokens**2))
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
        """Computes the mean maps of a moment, which are too large to be kept; what is measured with
        them, a few numbers for each head, is kept."""
        measured = measures.get(number) or attention.measure(moments[number].model, sample.inputs)
        measures[number] = dataclasses.replace(measured, mean=np.empty(0))
        return measured.mean

    def view(number: int, place: int) -> View:
        moment, example = moments[number], examples[place]
        geometry, last = moment.model.geometry, place == len(shown)
        own = lambda: (layer[0] for layer in attention.maps(moment.model, chosen.inputs[[place]]))
        between = moment.of == 0 and moment.step > 0 and not moment.trained
        return View(geometry.layers * geometry.heads, example["tokens"], example["read"],
                    between and 0 < place < len(shown), partial(mean, number) if last else own)

    views = [[view(number, place) for place in range(len(examples))]
             for number in range(len(moments))]
    small = task.grid is None and task.interface.vocabulary is None
    taken = FRAME + len(json.dumps(examples)) + QUANTITIES * sum(one.heads for (one, *_) in views)
    room = (asked.megabytes or (SMALL if small else LARGE)) * 1e6 - taken
    store, stored = pack(views, now, asked.heads, heads, room)
    measured = [measures[number] for number in range(len(moments))]
    known = page_measures.quantities(task, masks, moments, measured, found)
    summary = records.summary(run.folder)
    answers = [[page_examples.answered(moment.model, *one) for one in zip(*chosen)]
               for moment in moments]
    content = {
        "run": summary["run"], "grid": task.grid, "now": now, "head": heads[0],
        "examples": examples, "quantities": known, "curves": curves(summary),
        "bars": bars([run, *twins], names),
        "moments": [{"label": moment.label, "short": moment.short, "of": moment.of,
                     "step": moment.step, "views": there,
                     "layers": moment.model.geometry.layers,
                     "heads": moment.model.geometry.heads, "answers": answered}
                    for moment, there, answered in zip(moments, stored, answers)],
    }
    stated = {"config": summary["config"]} | {
        name: run.result[name] for name in ("counts", "data", "versions", "commit")}
    return fill(
        "run.html.j2", content=content, blobs=store.blobs, difference=store.difference,
        averaged=len(sample.inputs), run=summary["run"], folder=shareable(run.folder),
        config=summary["config"], result=run.result, floor=recorded.best_floor(summary),
        stated=json.dumps(stated, indent=2, sort_keys=True), task=task,
        about=about(type(task)), command=command(run.config), measured=found[0],
        correlations=page_measures.correlations(found[0]))


def check(run: LoadedRun, twins: Sequence[LoadedRun], data: dict[str, Split], asked: Asked) -> None:
    """Raises UserError for what a page is asked to show and is not there."""
    geometry, count = run.geometry, len(data["test"].inputs)
    for layer, head in asked.heads:
        if layer >= geometry.layers or head >= geometry.heads:
            raise UserError(f"no head {layer}.{head} in {run.folder}: its layers are 0 to "
                            f"{geometry.layers - 1}, its heads 0 to {geometry.heads - 1}")
    if outside := [number for number in asked.examples if not 0 <= number < count]:
        raise UserError(f"no example {outside[0]}: those of {run.task.name}'s test split are 0 to "
                        f"{count - 1}")
    found = splits.digests(data)
    for twin in twins:
        if twin.task != run.task:
            raise UserError(f"{twin.folder} is of {_sized(twin)}, while {run.folder} is of "
                            f"{_sized(run)}; --beside takes runs of the same task in the same "
                            "sizes")
        splits.check(found, twin.result["data"], str(twin.folder))


def _sized(run: LoadedRun) -> str:
    sizes = (f"{name} {value}" for name, value in run.task.settings().items())
    return " ".join([run.task.name, *sizes])


def labels(runs: Sequence[LoadedRun]) -> list[str]:
    """Labels runs by what tells them apart."""
    summaries = [records.summary(run.folder) for run in runs]
    found = {one["run"]: label for label, alike in recorded.conditions(summaries, ()).items()
             for one in alike}
    return [found[summary["run"]] for summary in summaries]


def moments_of(run: LoadedRun, twins: Sequence[LoadedRun], names: Sequence[str]) -> list[Moment]:
    """Lists the run before its first step, at the steps that were kept, and as it ended, by step;
    then the runs beside it."""
    best, own = run.result["best_step"], []
    for step in run.steps:
        if step == 0 or step != best:
            label = f"step {step:,}" if step else "before the first step"
            own.append(Moment(label, label, 0, step, False, run.at(step)))
    own.append(Moment(f"after training (step {best:,}, best on validation)", "after training", 0,
                      best, True, run))
    return sorted(own, key=lambda moment: (moment.step, moment.trained)) + [
        Moment(f"{name}, after training", name, number, twin.result["best_step"], True, twin)
        for number, (name, twin) in enumerate(zip(names[1:], twins), 1)]


def accuracy(score: dict[str, Any], part: str | None) -> float | None:
    """Reads the accuracy of a slice off a score, or of all answers; None where it has none."""
    return score["accuracy"] if part is None else score["slices"].get(part)


def curves(summary: recorded.Run) -> list[dict[str, Any]]:
    """Lists accuracy on validation by step, of all answers and then of each slice, and floors."""
    lines = [(line["step"], line["validation"]) for line in summary["curve"]]
    parts = dict.fromkeys(part for _, score in lines for part in score.get("slices", {}))
    return [{"name": part or "all answers", "floors": recorded.floors(summary["result"], part),
             "points": [[step, value] for step, score in lines
                        if (value := accuracy(score, part)) is not None]}
            for part in (None, *parts)]


def bars(runs: Sequence[LoadedRun], names: Sequence[str]) -> list[dict[str, Any]]:
    """Lists accuracy on test, of all answers and then of each slice: that of the runs, and that of
    the trivial predictors."""
    result, found = runs[0].result, []
    for part in (None, *result["test"].get("slices", {})):
        rows = [{"name": name, "floor": False, "value": accuracy(run.result["test"], part)}
                for name, run in zip(("this run", *names[1:]), runs)]
        rows += [{"name": name, "floor": True, "value": value}
                 for name, value in recorded.floors(result, part).items()]
        found.append({"name": part or "all answers",
                      "rows": [row for row in rows if row["value"] is not None]})
    return found


def command(config: Config) -> str | None:
    """Writes the command that trains a run of this configuration; None for a task that the training
    command does not know, and for a run that pretrained a body, in a stream of its own."""
    if not config.task_file and config.task.name not in tasks.TASKS:
        return None
    if config.stream and not config.start:
        return None
    usual = Config.preset(type(config.task)())
    named = ["--task-file", config.task_file] if config.task_file else [config.task.name]
    changed = {name: value for name, value in config.task.settings().items()
               if value != usual.task.settings()[name]}
    changed |= {name: value for name, value in vars(config).items()
                if name not in ("task", *FOUND) and value != getattr(usual, name)}
    if config.load == "body" and usual.load is None and not config.birth.startswith("mimetic"):
        changed.pop("load", None)  # it is loaded unless something else is said
    if config.body_file:
        changed.pop("body", None)
    if config.start:  # the other run's settings are its own
        named += ["--from", config.start]
        changed = {name: value for name, value in changed.items()
                   if name not in INITIAL | config.task.settings().keys()}
    words = ["python", "-m", "scripts.train", *named]
    for name, value in changed.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)
