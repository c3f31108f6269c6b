"""Reads the configurations of runs from a training command line, and trains the runs."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from fpt import contract
from fpt.config import FOUND, Config, grid
from fpt.errors import UserError, nearest
from fpt.files import cache_folder
from fpt.task import Task, about
from scripts.arguments import ahead, options_of, read
from scripts.defaults import expected

LOGS = ("tensorboard",)
SEVERAL = ("lr", "seed")  # settings of which a command takes several values


@dataclass(frozen=True)
class Options:
    """Holds what all training commands take beside the task's sizes and the fields of Config."""

    preset: str = "laptop"
    """Names the preset that the defaults come from: `laptop` has sizes for two cores, `paper` those
    that were published."""
    data_dir: Path | None = None
    """Names the folder that holds mnist/, cifar10/, listops/ or text/; None means the one that
    FPT_DATA names, and without that the data are downloaded."""
    keep: int = 0
    """Keeps the trained parameters at this many evenly spaced steps, to be looked at later."""
    log: str | None = None
    """Writes the scalars of the training to the run's folder for a dashboard: `tensorboard`."""
    out: Path = Path("runs")
    """Names the folder in which each run makes its own folder."""
    from_: Path | None = None
    """Begins where the finished run in this folder ended, with its parameters and its settings; the
    other options change what is trained, and how."""
    stages: tuple[str, ...] = ()
    """Trains in stages, one after another, each stated as what it trains (as in --train) and its
    steps: output:500 fpt:2000 all:2000 unfreezes gradually. Takes the place of --train and
    --steps."""


Chosen = TypeVar("Chosen", bound=Options)


def configurations(task_class: type[Task], file: Path | None, arguments: Sequence[str],
                   program: str, options: type[Chosen],
                   **settings: Any) -> tuple[list[Config], Chosen]:
    """Reads the configurations of the runs and the options that a command line states.

    settings: defaults that differ from those of the task's preset; of a run that begins from
    another, only what is trained, since all else follows from that one.  Raises UserError for
    invalid values.
    """
    early = ahead(arguments, program)
    if early.from_ and early.preset != Options.preset:
        raise UserError(f"--preset {early.preset} and --from exclude each other: a run takes the "
                        "settings of the one that it begins from; leave one of them out")
    if early.from_:
        settings = {name: value for name, value in settings.items() if name == "train"}
        usual = replace(_begun(early.from_, task_class, file), **settings)
    else:
        usual = Config.preset(task_class(), early.preset, **settings)
    offered = [option._replace(hint=tuple[option.hint, ...], default=(option.default,))
               if option.name in SEVERAL else option
               for option in options_of(Config, usual) if option.name not in ("task", *FOUND)]
    text = about(task_class)
    asked_help = {"-h", "--help"} & {*arguments}
    if (asked_help and not early.from_ and usual == Config.preset(task_class())
            and (known := expected(task_class.name))):
        text += (f" With the defaults, accuracy on test is {known.accuracy:.3f} after "
                 f"{known.minutes:.1f} minutes on two cores; the best trivial predictor has "
                 f"{known.floor:.3f}.")
    chosen, stated = read(options, [*options_of(task_class, usual.task), *offered], arguments,
                          program, text)
    lrs, seeds = (stated.pop(name, (getattr(usual, name),)) for name in SEVERAL)
    if chosen.stages and (both := sorted({"train", "steps"} & stated.keys())):
        raise UserError(f"--stages states the roles and the steps of each stage; leave out "
                        f"--{both[0]}")
    stated |= {"lr": lrs[0], "seed": seeds[0]}
    if chosen.from_:
        from fpt.stages import following

        config = following(chosen.from_, file, **settings | stated)
    else:
        stated["task_file"] = file and str(file.resolve())
        with contract.blamed(task_class, "its sizes"):
            config = Config.preset(task_class(), chosen.preset, **settings | stated)
    return grid(config, lrs, seeds), chosen


def _begun(folder: Path, task_class: type[Task], file: Path | None) -> Config:
    """Reads the configuration of the run that a command begins from.

    Raises UserError for a run of another task.
    """
    from fpt.load import configuration

    config = configuration(folder, {"task_file": file})
    if config.task.name != task_class.name:
        raise UserError(f"{folder} is a run of {config.task.name}, and cannot go on with "
                        f"{task_class.name}; name the same task")
    return config


def keep_compiled() -> None:
    """Has XLA keep what it compiles, in one folder for each machine, since it is machine code.

    This must be said before jax is imported: first thing in a command.
    """
    folder = cache_folder() / "xla" / platform.node()
    with contextlib.suppress(OSError):  # where nothing can be kept, all is compiled again
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def train_all(configs: list[Config], options: Options) -> list[dict[str, Any]]:
    """Trains runs as `fpt.train` does, in stages if asked.

    At Ctrl-C, raises KeyboardInterrupt with a text that says how to resume.
    """
    log = _log(options.log)
    from fpt.interrupt import Interrupted
    from fpt.run import train
    from fpt.stages import parse, train_stages

    settings = dict(out=options.out, data_dir=options.data_dir, keep=options.keep, log=log)
    try:
        if options.stages:
            return train_stages(configs, [parse(text) for text in options.stages], **settings)
        return train(configs, **settings)
    except Interrupted as stopped:
        raise KeyboardInterrupt(f"stopped by {stopped}; the state is saved, and the same command "
                                "goes on from it") from None


def _log(name: str | None) -> Callable[[Path, list[dict[str, Any]]], None] | None:
    """Makes the log that `--log` names.  Raises UserError for an unknown name, or where the log's
    package is not installed."""
    if name is None:
        return None
    if name not in LOGS:
        raise nearest(name, LOGS, "--log")
    from fpt.tensorboard import Tensorboard

    return Tensorboard()
