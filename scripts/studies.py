"""Reads a study: what it asks, and the runs that answer it, as data in results/studies/NAME.toml.

    question, source    what is asked, and where the papers ask it
    section             the section whose numbers in results/papers.json stand beside ours
    choosing, counted   the seeds that choose a condition's learning rate, and those that count
    fixed               learning rates at which the seeds that count are trained as well, whichever
                        rate is chosen
    figures             the figures that are drawn of it, see scripts/results_figures.py
    information         the condition that the others' predictions are measured against, see
                        scripts/information.py; without it, none are measured
    [rates]             the learning rates that are chosen among, by what a condition trains;
                        without any, the preset's is taken
    patience            evaluations without a better one after which a run counts as converged
    [bodies]            command lines of scripts.pretrain, by the name of what they make; {seed}
                        stands for the seed of the run that takes the body, so that each seed has a
                        body that was pretrained for it alone
    [conditions.NAME]   settings of a run: body, load, birth, train, and so on; `among` states rates
                        of its own, `rate_of` names the condition whose rate it takes, `tasks` those
                        that it is made on, and `paper` names it in results/papers.json; NAME@STEP
                        as a body is what the command line NAME makes in so many steps
    [tracks.TRACK]      preset, the tasks, and the body that stands for each body of the paper
    [tracks.TRACK.settings.TASK]  settings that differ from the preset's, for a task; `like` names a
                        study whose settings for the same track hold here too
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import tasks
from fpt.config import FOUND, Config, grid, kept_steps
from fpt.errors import UserError, nearest, refuse_unknown

PROJECT = Path(__file__).parent.parent  # where the paths in pretraining command lines begin
STUDIES = PROJECT / "results" / "studies"
OWN = ("tasks", "paper", "rate_of")  # what a condition states beside settings and rates
BODIES = Path("bodies")  # holds the bodies that studies pretrain
SEED = "{seed}"
# What the values in a study's file are; a type in a tuple stands for a list of such values.
KINDS = {str: "a text", int: "a whole number", (str,): "a list of texts",
         (float,): "a list of numbers"}
TYPES = {"question": str, "source": str, "section": str, "information": str, "patience": int,
         "figures": (str,), "fixed": (float,)}
CONDITION = {"among": (float,), "paper": str, "rate_of": str, "tasks": (str,)}


@cache  # tables and verdicts ask for the same runs many times
def _grid(usual: Config, rates: tuple[float, ...], seeds: tuple[int, ...]) -> list[Config]:
    """Makes the runs of a cell at some rates and seeds, each on the body of its seed."""
    runs = grid(usual, rates, seeds)
    if SEED not in usual.body:
        return runs
    return [dataclasses.replace(run, body=run.body.replace(SEED, f"{run.seed}")) for run in runs]


@dataclass(frozen=True)
class Condition:
    """Describes what a study compares: settings of runs, under the name that the papers use."""

    name: str
    settings: Mapping[str, Any]
    rates: tuple[float, ...]  # that validation chooses from; none: the preset's
    tasks: tuple[str, ...] | None = None  # None: all of the track
    paper: str | None = None  # its name in results/papers.json
    rate_of: str | None = None  # the condition whose chosen rate it takes


@dataclass(frozen=True)
class Track:
    """Holds the sizes at which a study is made: its bodies and tasks."""

    tasks: tuple[str, ...]
    preset: str = "laptop"
    bodies: Mapping[str, str] = field(default_factory=dict)  # a condition's body -> the track's
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by task


@dataclass(frozen=True)
class Cell:
    """Describes one cell of a study's table: a condition on a task."""

    task: str
    condition: Condition
    usual: Config  # of all its runs, but for rate and seed
    choosing: tuple[int, ...]
    seeds: tuple[int, ...]
    fixed: tuple[float, ...] = ()  # rates at which the seeds that count are trained in any case
    leader: Cell | None = None  # the cell whose chosen rate this one takes
    reference: Cell | None = None  # the cell that predictions are measured against
    pretrained_by: str | None = None  # the command line that makes its body, if the study does

    def pretraining(self, seed: int) -> tuple[str, ...] | None:
        """Returns the words of the command line that makes the body of a seed's runs; None where
        the study does not make it."""
        return None if self.pretrained_by is None else _words(self.pretrained_by, seed)

    @property
    def rates(self) -> tuple[float, ...]:
        return self.condition.rates or (self.usual.lr,)

    def candidates(self) -> list[Config]:
        """Lists the runs among which validation chooses the rate.

        There are none where there is one rate, or where it is that of another cell.
        """
        chooses = len(self.rates) > 1 and not self.leader
        return [*_grid(self.usual, self.rates, self.choosing)] if chooses else []

    def counted(self, lr: float) -> list[Config]:
        """Lists the runs of the seeds that count, at a rate."""
        return [*_grid(self.usual, (lr,), self.seeds)]

    def known(self) -> list[Config]:
        """Lists the runs that are known before a rate is chosen."""
        return [*self.candidates(), *_grid(self.usual, self.fixed, self.seeds)]


@dataclass(frozen=True)
class Study:
    """Holds a study as its file states it."""

    name: str
    question: str
    source: str
    choosing: tuple[int, ...]
    counted: tuple[int, ...]
    conditions: tuple[Condition, ...]
    tracks: Mapping[str, Track]
    patience: int
    section: str | None = None
    fixed: tuple[float, ...] = ()
    figures: tuple[str, ...] = ()
    bodies: Mapping[str, str] = field(default_factory=dict)
    information: str | None = None  # the condition that others' predictions are measured against

    def cells(self, track: str, only: str | None = None) -> list[Cell]:
        """Lists the cells of a track, tasks in its order and conditions in the study's.

        only: the name of a task or a condition whose cells are listed; None lists all.  Raises
        UserError for a track, task or condition that the study does not have.
        """
        if track not in self.tracks:
            raise nearest(track, self.tracks, f"track of {self.name}")
        sizes = self.tracks[track]
        known = [*sizes.tasks, *(condition.name for condition in self.conditions)]
        if only is not None and only not in known:
            raise nearest(only, known, f"task or condition of {self.name}")
        asked = lambda task, name: only in (None, task, name)
        return [dataclasses.replace(self._cell(sizes, task, condition),
                                    reference=self._reference(sizes, task, condition))
                for task in sizes.tasks for condition in self.conditions
                if task in (condition.tasks or sizes.tasks) and asked(task, condition.name)]

    def _cell(self, track: Track, task: str, condition: Condition) -> Cell:
        try:
            usual, command = self._usual(track, task, condition)
        except (TypeError, AttributeError, UserError) as error:
            place = f"{STUDIES / self.name}.toml, {condition.name!r} on {task}"
            raise UserError(f"{place}: {error}") from None
        leader = None
        if name := condition.rate_of:
            named = {one.name: one for one in self.conditions}
            if name not in named or named[name].rate_of:
                raise nearest(name, [one.name for one in self.conditions if not one.rate_of],
                              f"condition of {self.name} with a rate of its own")
            leader = self._cell(track, task, named[name])
        return Cell(task, condition, usual, self.choosing, self.counted, self.fixed, leader,
                    pretrained_by=command)

    def _usual(self, track: Track, task: str, condition: Condition) -> tuple[Config, str | None]:
        """Makes the configuration of a cell's runs, and finds the command line that makes their
        body; None stands for a body that the study does not pretrain."""
        settings = {"body": "gpt2", "load": "none"}
        settings |= {**track.settings.get(task, {}), **condition.settings}
        settings["body"] = track.bodies.get(settings["body"], settings["body"])
        made, _, step = settings["body"].partition("@")
        command = None
        if step:
            if made not in self.bodies:
                raise nearest(made, self.bodies, f"body that {self.name} pretrains")
            command = self.bodies[made]
            self._check_kept(made, step)
            name = f"{made}-seed{SEED}-{step}" if SEED in command else f"{made}-{step}"
            settings["body"] = str(BODIES / name)
        return Config.preset(tasks.find(task)(), track.preset, **settings), command

    def _check_kept(self, made: str, step: str) -> None:
        """Refuses a step after which the pretraining of a body keeps nothing."""
        at = f"the pretraining of {made!r} under [bodies]"
        try:
            _, config, options = _stated(_words(self.bodies[made], self.counted[0]))
        except UserError as error:
            raise UserError(f"{at}: {error}") from None
        kept = [str(one) for one in kept_steps(config.steps, options.keep)]
        if step not in kept:
            raise UserError(f"{at} keeps the steps {', '.join(kept)}, and not {step!r}")

    def _reference(self, track: Track, task: str, condition: Condition) -> Cell | None:
        """Makes the cell that a condition's predictions on a task are measured against.

        Returns None for the reference condition itself, and where it is not made on the task.
        """
        found = next((one for one in self.conditions if one.name == self.information), None)
        if found in (None, condition) or task not in (found.tasks or track.tasks):
            return None
        return self._cell(track, task, found)


def pretraining(words: tuple[str, ...]) -> Config:
    """Makes the configuration of the run that a command line of scripts.pretrain trains."""
    return _stated(words)[1]


@cache
def _stated(words: tuple[str, ...]) -> tuple[str, Config, Any]:
    from scripts.pretrain import stated  # which most studies need not wait for

    if not words:
        raise UserError("the command line is empty")
    return stated([*words])


def _words(command: str, seed: int) -> tuple[str, ...]:
    """Splits a command line under [bodies], for a seed; the files of the project that it names are
    found from any folder."""
    words = command.replace(SEED, str(seed)).split()
    return tuple(str(PROJECT / word) if (PROJECT / word).is_file() else word for word in words)


def names() -> list[str]:
    """Lists the studies, by name."""
    return sorted(file.stem for file in STUDIES.glob("*.toml"))


def on(track: str) -> list[Study]:
    """Reads the studies that have a track, by name."""
    return [found for found in map(study, names()) if track in found.tracks]


def study(name: str) -> Study:
    """Reads a study.  Raises UserError where there is none of that name, or its file is wrong."""
    file = STUDIES / f"{name}.toml"
    if not file.is_file():
        raise nearest(name, names(), "study")
    try:
        return _study(name, tomllib.loads(file.read_text()))
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is no study: {type(error).__name__}: {error}") from None


def _study(name: str, stated: dict[str, Any]) -> Study:
    _check_types(stated)
    rates, conditions = stated.pop("rates", {}), stated.pop("conditions")
    tracks = {track: _track(track, **sizes) for track, sizes in stated.pop("tracks").items()}
    lists = {key: tuple(stated.pop(key, ())) for key in ("fixed", "figures")}
    seeds = {key: tuple(stated.pop(key)) for key in ("choosing", "counted")}
    if not seeds["counted"]:
        raise ValueError("counted is empty; state the seeds whose runs count")
    if overlap := {*seeds["choosing"]} & {*seeds["counted"]}:
        raise ValueError(f"seeds that choose a rate do not count, but {sorted(overlap)} do both")
    for key, of_key in seeds.items():
        if len({*of_key}) < len(of_key) or not all(type(seed) is int for seed in of_key):
            raise ValueError(f"{key} = {[*of_key]} must be whole numbers, each once")
    made = Study(name, conditions=tuple(_conditions(conditions, rates)), tracks=tracks, **seeds,
                 **lists, **stated)
    _check_names(made, rates)
    return made


def _check_types(stated: Mapping[str, Any]) -> None:
    """Raises TypeError for a value in a study's file, outside of its tracks, that has another type
    than is read."""
    for name, wanted in TYPES.items():
        if name in stated and not _is(stated[name], wanted):
            raise TypeError(f"{name} = {stated[name]!r} must be {KINDS[wanted]}")
    for table in ("rates", "bodies", "conditions", "tracks"):
        if not isinstance(stated.get(table, {}), dict):
            raise TypeError(f"{table} must be a table")
    for kind, tried in stated.get("rates", {}).items():
        if not _is(tried, (float,)):
            raise TypeError(f"{kind} = {tried!r} under [rates] must be {KINDS[float,]}")
    for name, command in stated.get("bodies", {}).items():
        if not isinstance(command, str):
            raise TypeError(f"{name} = {command!r} under [bodies] must be {KINDS[str]}")
    for name, settings in stated["conditions"].items():
        for key in settings.keys() & CONDITION.keys():
            if not _is(settings[key], CONDITION[key]):
                raise TypeError(f"{key} = {settings[key]!r} of {name!r} must be "
                                f"{KINDS[CONDITION[key]]}")


def _is(value: Any, wanted: type | tuple[type]) -> bool:
    """Tells whether a value is of a type or, where that is in a tuple, a list of such values; a
    whole number is a number as well."""
    if isinstance(wanted, tuple):
        return isinstance(value, list) and all(_is(one, *wanted) for one in value)
    return type(value) is wanted or (wanted is float and type(value) is int)


def _check_names(made: Study, rates: Mapping[str, Any]) -> None:
    """Refuses names in a study's file that stand for nothing in it, which would be left unheeded.

    rates: as the file states them.
    """
    at = f", in {STUDIES / made.name}.toml,"
    settings = [condition.settings for condition in made.conditions]
    refuse_unknown([made.information] if made.information else (),
                   [condition.name for condition in made.conditions],
                   f"condition that is named as `information`{at}")
    refuse_unknown(rates, {one.get("train", "fpt") for one in settings} | {"others"},
                   f"set of roles under [rates]{at}")
    for name in made.bodies:
        if (other := re.sub(r"-seed\d+$", "", name)) != name and other in made.bodies:
            raise ValueError(f"the body {name!r} would be taken for {other!r} of that seed; call "
                             "it something else")
    for track in made.tracks.values():
        refuse_unknown(track.bodies, {one.get("body", "gpt2") for one in settings},
                       f"body that a track replaces{at}")
        for task, sizes in track.settings.items():
            tasks.find(task)  # refuses one that there is not
            if found := sorted({*FOUND} & sizes.keys()):
                raise ValueError(f"{found[0]!r} under the settings of {task} is no setting of a "
                                 "study's")
    some_track = {task for track in made.tracks.values() for task in track.tasks}
    for condition in made.conditions:
        refuse_unknown(condition.tasks or (), some_track, f"task of {condition.name!r}{at}")
        if len(condition.rates) > 1 and not (made.choosing or condition.rate_of):
            raise ValueError(f"no seed chooses among the rates of {condition.name!r}; state some "
                             "as `choosing`")


def _track(track: str, tasks: list[str], settings: Mapping[str, Mapping[str, Any]] | None = None,
           like: str | None = None, **sizes: Any) -> Track:
    others = study(like).tracks[track].settings if like else {}
    return Track(tuple(tasks), settings={**others, **(settings or {})}, **sizes)


def _conditions(stated: dict[str, dict[str, Any]], rates: dict[str, list[float]]
                ) -> Iterator[Condition]:
    of_runs = {one.name for one in dataclasses.fields(Config)} - {"task", "lr", "seed", *FOUND}
    fields = of_runs | {"among", *OWN}
    for name, settings in stated.items():
        if strange := settings.keys() - fields:
            raise KeyError(f"{name!r} states {sorted(strange)[0]!r}, which no condition has")
        settings = dict(settings)
        among, (on, paper, leader) = settings.pop("among", None), (settings.pop(key, None)
                                                                     for key in OWN)
        among = among or rates.get(settings.get("train", "fpt"), rates.get("others", ()))
        if factors := settings.get("rates"):
            settings["rates"] = tuple(factors)
        yield Condition(name, settings, tuple(among), tuple(on) if on else None, paper, leader)
