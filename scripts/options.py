"""The options of a training run, and what they make."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from fpt.config import Config, grid
from fpt.errors import nearest
from fpt.files import cache_folder
from fpt.task import Task
from scripts.command import expected, parsed, preset_of

TaskType = TypeVar("TaskType", bound=Task)
LOGS = ("tensorboard",)


@dataclass(frozen=True)
class Options(Generic[TaskType]):
    """What every training takes; `parsed` makes a command line of it."""

    task: Annotated[TaskType, tyro.conf.arg(name="")]
    body: str
    """A geometry (gpt2-mini, gpt2, gpt2-medium, gpt2-large, gpt2-xl), a checkpoint's folder or a hub id."""
    lr: tuple[float, ...]
    """Learning rates: each makes a run."""
    steps: int
    """Training steps."""
    batch: int
    """Examples in a step."""
    eval_every: int
    """Steps between evaluations on validation."""
    eval_examples: int | None
    """Examples of validation and of test that are evaluated; None: 2,000 and all."""
    load: str | None = None
    """Roles taken from the checkpoint; None: `body` where there are weights, else `none`."""
    birth: str = "weights"
    """What --load receives: weights, statistics, statistics-by-layer, mimetic or mimetic-language (attention in closed form)."""
    redraw: str = "body"
    """Roles that a birth other than weights makes anew; what else is loaded keeps its weights."""
    train: str = "fpt"
    """Roles that are trained: fpt, output, all, or a sum like input+output+norm+attention@0-5."""
    seed: tuple[int, ...] = (0,)
    """Seeds: each makes a run."""
    body_seed: int | None = None
    """Seed of a random body; None: the run's own."""
    dtype: str = "float32"
    """Of the frozen matrices and all matrix products: float32 or bfloat16."""
    dropout: float = 0.1
    """After a continuous input layer."""
    embedding_dropout: float | None = None
    """In the body; None: as its configuration says (0.1 in GPT-2), like the next two."""
    attention_dropout: float | None = None
    """On attention weights."""
    residual_dropout: float | None = None
    """On what each layer adds."""
    clip: float = 1.0
    """Largest joint norm of the gradient."""
    optimizer: str = "adam"
    """adam, or muon for the matrices of the blocks."""
    weight_decay: float = 0.0
    """Of the blocks' matrices."""
    warmup: int = 0
    """Steps in which the rate rises."""
    decay: str = "constant"
    """Of the rate after that: constant, or cosine to zero at the last step."""
    accumulate: int = 1
    """Parts that a batch is split into where it does not fit whole."""
    init: str = "original"
    """Of a random body: original, N(0, 0.02), or depth-scaled, residual projections over sqrt(2 layers) as in newer libraries."""
    preset: str = "laptop"
    """Where the defaults come from: laptop, minutes on two cores, or paper."""
    data_dir: Path | None = None
    """Folder that holds mnist/, cifar10/, listops/ or text/; None: FPT_DATA, else they are fetched."""
    keep: int = 0
    """At how many evenly spaced steps the trainable parameters are kept, for a look at them later."""
    log: str | None = None
    """Scalars for a dashboard while it trains: tensorboard, into the run's folder; None: none."""
    out: Path = Path("runs")
    """Folder of run folders."""


def configurations(task_class: type[Task], file: Path | None, arguments: Sequence[str], program: str,
                   options: type[Options], **settings: Any) -> tuple[list[Config], Options]:
    """Command line -> the configurations of its runs, and the options.  Raises UserError for values that cannot be.

    settings: defaults that differ from those of the task's preset.
    """
    name, preset, task = preset_of(task_class, arguments)
    stated = dict(task=task, body=preset.body, lr=(preset.lr,), steps=preset.steps, batch=preset.batch,
                  eval_every=preset.eval_every, eval_examples=preset.eval_examples)
    default = options(**stated | dict(preset.settings or {}) | settings)
    about, known = task_class.__doc__.splitlines()[0], name == "laptop" and not settings and expected(task_class)
    if known:
        about += (f"\n\nThe defaults come to {known.accuracy:.3f} on test in {known.minutes:.1f} minutes on two cores; the best "
                  f"trivial predictor, to {known.floor:.3f}.")
    chosen = parsed(options[task_class], arguments, program, description=about, default=default)
    names = {field.name for field in dataclasses.fields(Config)} - {"task_file", "lr", "seed"}
    config = Config(lr=chosen.lr[0], seed=chosen.seed[0], task_file=file and str(file.resolve()),
                    **{name: value for name, value in vars(chosen).items() if name in names})
    return grid(config, chosen.lr, chosen.seed), chosen


def keep_compiled() -> None:
    """What XLA compiled once it need not compile again; one folder a machine, since it is code for that machine.

    It has to be said before jax is imported: first thing in a command.
    """
    folder = cache_folder() / "xla" / platform.node()
    with contextlib.suppress(OSError):  # where nothing can be kept, all is compiled again
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def train_all(configs: list[Config], options: Options) -> list[dict[str, Any]]:
    """`fpt.train` as the commands call it: Ctrl-C says how to go on."""
    log = _log(options.log)
    from fpt.run import train
    from fpt.interrupt import Interrupted

    try:
        return train(configs, out=options.out, data_dir=options.data_dir, keep=options.keep, log=log)
    except Interrupted as stopped:
        raise KeyboardInterrupt(f"stopped by {stopped}; the state is saved, and the same command goes on from it") from None


def _log(name: str | None) -> Callable[[Path, list[dict[str, Any]]], None] | None:
    """What `--log` names.  Raises UserError where there is no such thing, or it is not installed."""
    if name is None:
        return None
    if name not in LOGS:
        raise nearest(name, LOGS, "--log")
    from fpt.tensorboard import Tensorboard

    return Tensorboard()
