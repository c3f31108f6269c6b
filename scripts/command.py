"""Holds what the commands share: how they fail, how a task is named, and how runs are loaded."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import tasks
from fpt import registry
from fpt.errors import UserError, nearest
from fpt.files import data_folder
from fpt.task import Split, Task
from scripts.arguments import ahead
from scripts.defaults import table

if TYPE_CHECKING:
    from fpt.load import LoadedRun


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a command: a user's mistake is one line and exit code 2, Ctrl-C is exit code 130."""
    # The shell may have closed the output, and a terminal without Unicode cannot show all of it.
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stdout.reconfigure(errors="replace")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        try:
            refuse_empty(sys.argv[1:])
            main(sys.argv[1:])
        except (UserError, BrokenPipeError):
            raise
        except Exception as error:
            if said := registry.fault(error):
                raise UserError(said) from error
            raise
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
        except OSError:  # so it was the output that could not be written, and nothing else
            _drop_output()
            _fail(f"cannot write to the standard output: {error.strerror}; free some space or send "
                  "it elsewhere")
        if error.filename is None:
            raise
        _fail(f"{error.filename} cannot be used: {error.strerror}")  # forbidden, or too long a name
    except MemoryError:
        _fail("there is not enough memory for this; smaller sizes need less")
    except (RuntimeError, AssertionError):  # jax raises either where it has no device
        if _has_device():
            raise
        _fail("jax finds no device to compute on: JAX_PLATFORMS is "
              f"{os.environ.get('JAX_PLATFORMS', '')!r}; set it to cpu, or to a platform that this "
              "machine has and jax is installed for")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt.  Where the signal arrives in a callback of jax that the garbage
    collector runs, which would swallow the exception, sends it again a little later."""
    while frame:
        if frame.f_code.co_name == "_xla_gc_callback":
            threading.Timer(0.01, os.kill, [os.getpid(), number]).start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _fail(error: UserError | str) -> NoReturn:
    """Prints a mistake as one line, whatever line breaks its text has, and ends the command."""
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
    """Discards what is still to be printed; else Python complains about it as it exits."""
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


def chosen_task(arguments: list[str], program: str) -> tuple[type[Task], Path | None, list[str]]:
    """Finds the task that the first argument or `--task-file` names.

    Returns the task, its file if it has one, and the other arguments.  Where no task is named,
    prints the usage and the table of tasks, and exits: with 0 if help was asked for.
    """
    if file := ahead(arguments, program).task_file:
        return tasks.from_file(file), file, arguments
    if arguments and not arguments[0].startswith("-"):
        return tasks.find(arguments[0]), None, arguments[1:]
    print(f"usage: {program} TASK [options]\n\n{table()}\n\n"
          "floor: the accuracy of the best trivial predictor; frozen: that to expect of the\n"
          "frozen language body; random: of a frozen random one (--load none); trained: of\n"
          "a random one that is trained too (--load none --train all); each beside the\n"
          "learning rate at which it was reached; min: minutes of a frozen run\n"
          "on two cores (its share, where several were trained at once)\n\n"
          f"`{program} TASK --help` lists the options of a task.")
    sys.exit(0 if {"-h", "--help"} & set(arguments) else 2)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Holds the options of a command that loads finished runs and their data."""

    data_dir: Path | None = None
    """Names the folder of the data; None means the one that FPT_DATA names."""
    body: Path | None = None
    """Names the folder that holds the run's body now; None means the one that the run recorded."""
    task_file: Path | None = None
    """Names the file that defines the run's task, needed if it is a task of your own whose file has
    not been executed here before."""
    body_file: Path | None = None
    """Names the file that defines the run's body, likewise."""

    def load(self, folder: Path) -> LoadedRun:
        """Loads the run in a folder.  Raises UserError where there is no finished run."""
        if not folder.is_dir():
            raise UserError(f"no folder {folder}; name the folder of a run, as train prints it")
        from fpt.load import load_run

        return load_run(folder, self.body, self.task_file, self.body_file)

    def data(self, loaded: LoadedRun) -> dict[str, Split]:
        """Loads the data of a run.  Raises UserError where the run was trained with other data."""
        from fpt import splits

        data = loaded.task.load(data_folder(self.data_dir), lambda line: None)
        splits.check(splits.digests(data), loaded.result["data"], str(loaded.folder))
        return data


def scored_split(task: Task, data: Mapping[str, Split], name: str) -> Split:
    """Returns the split of that name.  Raises UserError if it is not there or has no examples."""
    if name not in data:
        raise nearest(name, data, f"split of {task.name}")
    if data[name].targets.shape[1:] != (task.interface.answers,) or not len(data[name].targets):
        raise UserError(f"the {name} split of {task.name} is what examples are cut from, and holds "
                        "none; --split test holds some")
    return data[name]
