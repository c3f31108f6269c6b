"""What the commands share: their errors, their task argument and the table of what to expect."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Any, NoReturn, get_type_hints

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
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")  # where the shell has closed it
    sys.stdout.reconfigure(errors="replace")  # what a terminal without Unicode cannot show
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        try:
            refuse_empty(sys.argv[1:])
            main(sys.argv[1:])
        finally:
            sys.stdout.flush()
    except UserError as error:
        _fail(error)
    except KeyboardInterrupt as stopped:
        print(f"\n{stopped}" if str(stopped) else "\nstopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        _drop_output()
        sys.exit(141)
    except OSError as error:
        try:
            print(flush=True)
        except OSError:  # so it was the output that could not be written, and nothing else that went wrong
            _drop_output()
            _fail(f"cannot write to the standard output: {error.strerror}; free some space or send it elsewhere")
        if error.filename is None:
            raise
        _fail(f"{error.filename} cannot be used: {error.strerror}")  # forbidden, or too long a name
    except MemoryError:
        _fail("there is not enough memory for this; smaller sizes need less")
    except (RuntimeError, AssertionError):  # jax raises either, wherever it is first asked for a device that is not there
        if _has_device():
            raise
        _fail(f"jax finds no device to compute on: JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS', '')!r}; set it to cpu, or "
              "to a platform that this machine has and jax is installed for")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt; a little later where jax has been called by the garbage collector, which would swallow it."""
    while frame:
        if frame.f_code.co_name == "_xla_gc_callback":
            threading.Timer(0.01, os.kill, [os.getpid(), number]).start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _fail(error: UserError | str) -> NoReturn:
    """Prints a mistake as one line, whatever a name in it holds, and ends the command."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)


def _has_device() -> bool:
    if "jax" not in sys.modules:
        return True  # whatever went wrong, it was not jax
    import jax

    try:
        return bool(jax.devices())
    except (RuntimeError, AssertionError):
        return False


def _drop_output() -> None:
    """Sends what is still to be printed nowhere, else Python complains about it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def refuse_empty(arguments: Sequence[str]) -> None:
    """Raises UserError for an empty value, which a shell makes of a variable that is not set.

    As the name of a folder it would mean the current one, and elsewhere the default.
    """
    name = None
    for argument in arguments:
        option, equals, value = argument.partition("=")
        name = option if argument.startswith("--") else name
        if not argument or (equals and not value and argument.startswith("--")):
            raise UserError(f"{name or 'an argument'} is empty; give it a value, or leave it out")


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
        # The first part of the box that tyro draws says what is wrong; without Unicode its title is underlined.
        box = [line.strip("│ ") for line in said.getvalue().splitlines()[1:]]
        ruled = lambda line: line != "" and not line.strip("─╰╯-")
        message = " ".join(itertools.takewhile(lambda line: not ruled(line), itertools.dropwhile(ruled, box)))
        raise UserError(f"{message}; see {program} --help") from None
    known = _options(found)
    if unknown:
        raise nearest(unknown[0], known, "option")
    for name, value in known.items():
        if value == () and {argument.partition("=")[0] for argument in arguments} & {name, name.replace("-", "_")}:
            raise UserError(f"{name} needs at least one value")
    return found


def _options(found) -> dict[str, Any]:
    """The options of a parsed dataclass, those of the task in it among them, and their values."""
    options, hints = {}, get_type_hints(type(found), include_extras=True)
    for field in fields(found):
        value = getattr(found, field.name)
        if is_dataclass(value):
            options |= _options(value)
        elif tyro.conf.Positional not in getattr(hints[field.name], "__metadata__", ()):
            options[f"--{field.name.replace('_', '-')}"] = value
    return options


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
        rows.append((name, str(replace(task(), **preset.sizes or {}).interface.tokens), preset.body, str(preset.batch),
                     str(preset.steps), f"{preset.lr:g}", str(preset.eval_every), *(figure or "-" for figure in figures)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["|".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "|".join("-" * width for width in widths), *lines[1:]])
