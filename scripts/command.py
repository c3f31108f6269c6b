"""What the commands share: their errors, their task argument and the table of what to expect."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from statistics import fmean

import tyro

import tasks
from fpt import contract
from fpt.bodies import SHIPPED, weights_digest
from fpt.config import ABSENT, Config
from fpt.errors import UserError, nearest
from fpt.files import sha256
from fpt.task import Preset, Task

RECORDS = Path(__file__).parent.parent / "results" / "records"


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a command: a user's mistake is one line and exit code 2, Ctrl-C is exit code 130."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stopped:
        print(f"\n{stopped}" if str(stopped) else "\nstopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def option(arguments: Sequence[str], name: str) -> str | None:
    """The value of an option that must be known before the others can be parsed."""
    found = None
    for number, argument in enumerate(arguments):
        if argument == name and number + 1 < len(arguments):
            found = arguments[number + 1]
        if argument.startswith(f"{name}="):
            found = argument.partition("=")[2]
    return found  # the last one counts, as with all options


def parsed(options: type, arguments: Sequence[str], program: str, **settings):
    """Arguments as an instance of the dataclass `options`.  What is wrong with them is a UserError of one line.

    The `default` of a command on a task has that in its field `task`: its sizes are options beside the others.
    """
    said = io.StringIO()
    task = getattr(settings.get("default"), "task", None)
    if task and (clash := {field.name for field in fields(settings["default"])} & {field.name for field in fields(task)}):
        raise UserError(f"{task.name}: {', '.join(sorted(clash))} cannot be a field of the task, as {program} has an option of "
                        "that name; rename the field")
    blamed = contract.blamed(type(task), "its sizes") if task else contextlib.nullcontext()
    try:
        with contextlib.redirect_stderr(said), blamed:
            found, unknown = tyro.cli(options, args=arguments, prog=program, return_unknown_args=True,
                                      config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff), **settings)
    except SystemExit as stopped:
        if not stopped.code:
            raise
        # The first part of the box that tyro draws says what is wrong.
        box = [line.strip("│ ") for line in said.getvalue().splitlines()[1:]]
        message = " ".join(itertools.takewhile(lambda line: not line.startswith(("─", "╰")), box))
        raise UserError(f"{message}; see {program} --help") from None
    if unknown:
        known = [f"--{field.name}" for field in fields(found)]
        known += [f"--{field.name}" for value in vars(found).values() if is_dataclass(value) for field in fields(value)]
        raise nearest(unknown[0], [name.replace("_", "-") for name in known], "option")
    return found


def chosen_task(arguments: list[str], usage: str) -> tuple[type[Task], Path | None, list[str]]:
    """The task that the first argument or `--task-file` names, its file if it has one, and the other arguments.

    Without either, prints how the command is used and the table of tasks, and exits: with 0 if help was asked for.
    """
    if file := option(arguments, "--task-file"):
        return tasks.from_file(Path(file)), Path(file), arguments
    if arguments and not arguments[0].startswith("-"):
        return tasks.find(arguments[0]), None, arguments[1:]
    print(f"usage: {usage}\n\n{table()}\n\n"
          "test: accuracy to expect; random: with a random body;\n"
          "floor: the best trivial predictor's; min: minutes on two cores\n\n"
          f"`{usage.split(' TASK')[0]} TASK --help` lists the options of a task.")
    sys.exit(0 if {"-h", "--help"} & set(arguments) else 2)


def preset_of(task: type[Task], arguments: Sequence[str]) -> tuple[str, Preset, Task]:
    """The preset that `--preset` names, and the task in that preset's sizes."""
    name = option(arguments, "--preset") or "laptop"
    if name not in task.presets:
        raise nearest(name, task.presets, "preset")
    preset = task.presets[name]
    return name, preset, replace(task(), **preset.sizes or {})


@dataclass(frozen=True)
class Expected:
    """What a task's laptop preset came to, by the records of the study `defaults`: means over their seeds."""

    accuracy: float  # on test
    floor: float  # the best trivial predictor's, on the same examples
    minutes: float


def expected(task: type[Task], load: str = "body") -> Expected | None:
    """For the preset's body with its weights, or with none.  None where no run of exactly these settings is on record."""
    wanted = Config.preset(task(), load=load).record()
    weights = SHIPPED / wanted["body"] / "model.safetensors"
    wanted |= {"checkpoint": weights_digest([sha256(weights)]) if load != "none" and weights.is_file() else None}
    # What is found when the body is, and what does not matter: means are over seeds.
    compared = wanted.keys() - {"geometry", "seed"}
    try:
        lines = [json.loads(line) for line in (RECORDS / "defaults.jsonl").read_text().splitlines()]
    except FileNotFoundError:
        return None
    same = lambda config: all(config.get(name) == wanted[name] for name in compared)
    found = [line["result"] for line in lines if same(ABSENT | line["config"])]
    if not found:
        return None
    floors = [value for name, value in found[0]["floors"].items() if "/" not in name]
    return Expected(fmean(result["test"]["accuracy"] for result in found), max(floors),
                    fmean(result["seconds"] / result["runs_in_stack"] for result in found) / 60)


def table() -> str:
    """The tasks with the settings that they are trained under unless options say otherwise, as a markdown table."""
    rows = [("task", "tokens", "body", "batch", "steps", "rate", "eval", "test", "random", "floor", "min")]
    for name in tasks.TASKS:
        task = tasks.find(name)
        preset, known, twin = task.presets["laptop"], expected(task), expected(task, "none")
        either = known or twin
        figures = (known and f"{known.accuracy:.3f}", twin and f"{twin.accuracy:.3f}",
                   either and f"{either.floor:.3f}", either and f"{either.minutes:.1f}")
        rows.append((name, str(replace(task(), **preset.sizes or {}).tokens), preset.body, str(preset.batch),
                     str(preset.steps), f"{preset.lr:g}", str(preset.eval_every), *(figure or "-" for figure in figures)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["|".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "|".join("-" * width for width in widths), *lines[1:]])
