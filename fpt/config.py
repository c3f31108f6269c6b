"""Describes a run by all settings that its result depends on, and makes its name from them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpt import bodies, roles
from fpt.births import BIRTHS
from fpt.body import Body
from fpt.errors import UserError, nearest
from fpt.files import sha256
from fpt.task import Task

DTYPES = ("float32", "bfloat16")
# Says what runs did before a setting existed, for configurations that do not state it: not today's
# defaults, which may change.
ABSENT = {"birth": "weights", "redraw": "body", "optimizer": "adam", "weight_decay": 0.0,
          "warmup": 0, "decay": "constant", "accumulate": 1}
# Annotation of a field -> what converts a value to it, and the name of such a value in an error.
TYPES = {"int": (lambda value: int(operator.index(value)), "a whole number"),
         "float": (operator.methodcaller("__float__"), "a number"), "str": (os.fspath, "a text")}
SMALLEST, LARGEST = 1.2e-38, 3.4e38  # the positive numbers of float32
MOST = 2**31 - 1  # steps and examples: devices count them in int32
# Fields with a least value, and fields that take one of several words; `init` takes the body's own.
LEAST = {"steps": 1, "batch": 1, "eval_every": 1, "eval_examples": 1, "accumulate": 1, "warmup": 0}
WORDS = {"dtype": DTYPES, "optimizer": ("adam", "muon"), "decay": ("constant", "cosine"),
         "birth": tuple(BIRTHS)}
PRETRAINING = "pretraining"  # the stream of randomness of runs that pretrain a body
# Settings that a record states only where they differ from these: older runs keep their names.
NEWER = {"layers": None, "width": None, "rates": (), "start": None, "begins": None, "stream": None,
         "body_file": None}
# Fields that are filled in, not set by an option of their own.
FOUND = ("geometry", "checkpoint", "task_file", "start", "begins", "stream")
FILES = ("task_file", "body_file")  # of a user's own: identified by their content
PLACES = ("body", *FILES, "start")  # say where something lies, while what it is makes the run


@dataclass(frozen=True)
class Config:
    """Describes one run: its task, its body, its seed and all settings under which it is trained.

    Each field becomes an option of the training commands, with the text below it as its help,
    except `task` and the fields in FOUND, which other options or the program fill in.
    """

    task: Task
    """Holds the task, with its sizes."""
    body: str
    """Names the body: gpt2-mini, gpt2-mini-copy, gpt2-mini-repeats, gpt2, gpt2-medium, gpt2-large,
    gpt2-xl; gpt2-nano or gpt2-micro, small ones without weights, for --load none and for
    pretraining; lstm, lstm-residual, lstm-mini, or one of these three followed by -repaired, whose
    norms begin with gain 1 and offset 0 and whose initial state is zero; none, a layer norm in
    place of a body; the folder of a GPT-2 checkpoint; or a model on the Hugging Face hub."""
    steps: int
    """Sets the number of training steps."""
    batch: int
    """Sets the number of examples in a training batch."""
    lr: float
    """Sets the learning rate. The commands take several values and train a run with each."""
    eval_every: int
    """Sets the number of steps between two evaluations on the validation split."""
    eval_examples: int | None = None
    """Limits how many examples of the validation split and of the test split are evaluated; None
    means 2,000 of validation and all of test."""
    load: str | None = None
    """Names the roles (kinds of parameters) of the body that are loaded from its checkpoint, or
    made as --birth says; its other parameters are drawn at random. `none` makes a random body. The
    roles of bodies are position, norm, attention, feedforward and recurrent. The default is all of
    them, attention with a mimetic --birth, and none for a body that has no checkpoints. A language
    model goes on from a checkpoint with body+token, its token table."""
    train: str = "fpt"
    """Names the roles that are trained: fpt (input, output, positions and norms), output, all, or a
    sum such as input+output+norm+attention@0-5, where 0-5 are layers."""
    birth: str = "weights"
    """Says how the roles in --load are initialised: `weights` takes the checkpoint's values;
    `statistics` draws from a normal distribution with the mean and standard deviation of each
    tensor, `statistics-by-layer` with one mean and standard deviation for all kernels of a layer,
    one for its biases and one for its gains; `mimetic` and `mimetic-language` set the weights of
    attention by a formula after vision transformers and after GPT-2, without a checkpoint."""
    redraw: str = "body"
    """Names the roles that a --birth other than `weights` makes anew; the other roles in --load
    take the checkpoint's weights."""
    seed: int = 0
    """Sets the seed that fresh parameters, batches and dropout are drawn from. The commands take
    several values and train a run with each."""
    body_seed: int | None = None
    """Sets the seed that the random parameters of the body are drawn from; None means --seed."""
    dtype: str = "float32"
    """Names the number format of the frozen matrices and of all matrix products: float32 or
    bfloat16."""
    dropout: float = 0.1
    """Sets the dropout rate after a linear input layer; tokens that are looked up in an embedding
    table get no dropout there."""
    embedding_dropout: float | None = None
    """Sets the dropout rate on what enters the body's first layer; None means the rate that the
    body's configuration states, 0.1 in GPT-2."""
    attention_dropout: float | None = None
    """Sets the dropout rate on attention weights; None means the rate that the body's configuration
    states."""
    residual_dropout: float | None = None
    """Sets the dropout rate on what each attention and feed-forward layer adds to the residual
    stream; None means the rate that the body's configuration states."""
    clip: float = 1.0
    """Limits the norm of the gradient of all trained parameters together; a larger gradient is
    scaled down."""
    optimizer: str = "adam"
    """Names the optimiser: adam, or muon, which moves the matrices of the blocks by Muon and all
    else by Adam."""
    weight_decay: float = 0.0
    """Sets the weight decay of the blocks' matrices: a step subtracts this times the learning rate
    times the weight."""
    warmup: int = 0
    """Sets the number of steps over which the learning rate rises to --lr."""
    decay: str = "constant"
    """Names the course of the learning rate after the warmup: constant, or cosine, which falls to
    zero at the last step."""
    accumulate: int = 1
    """Splits each batch into this many parts, computed one after another, where memory does not
    hold it whole."""
    init: str = "original"
    """Names the initialiser of a random body: for GPT-2, `original` draws all matrices from
    N(0, 0.02^2); `depth-scaled` divides the standard deviation by sqrt(2 layers) for
    projections onto the residual stream, as newer libraries do."""
    geometry: Body | None = None
    """Describes the shape of the body; filled in when the body is found."""
    checkpoint: str | None = None
    """Holds the digest of the weights that are loaded; filled in when the body is found."""
    task_file: str | None = None
    """Names the Python file that defines a task of the user's own."""
    layers: int | None = None
    """Cuts a GPT-2 body to its first blocks, or sets the layers of an LSTM; None for its own."""
    width: int | None = None
    """Sets the width of a body that has no weights of its own, an LSTM for example."""
    rates: tuple[str, ...] = ()
    """Multiplies the learning rate of some roles by factors, norm=1 attention@0-2=0.01 for example.
    If several factors apply to a parameter, the last one counts."""
    start: str | None = None
    """Names the folder of the finished run that this run begins from."""
    begins: str | None = None
    """Identifies the parameters that this run begins with, where it begins from another run."""
    body_file: str | None = None
    """Names a Python file that defines a body of your own, in place of --body."""
    stream: str | None = None
    """Names a stream of randomness of the run's own, so that it repeats no other run's draws."""

    def __post_init__(self):
        """Gives each number its field's type; raises UserError for a value no run can have."""
        if not isinstance(self.task, Task):
            raise UserError("task must be a task such as tasks.find('bit-xor')(), not "
                            f"{self.task!r}")
        for field in dataclasses.fields(self):
            kind, _, optional = field.type.partition(" | ")
            value = getattr(self, field.name)
            if kind in TYPES and not (optional and value is None):
                try:
                    if isinstance(value, bool):
                        raise TypeError
                    object.__setattr__(self, field.name, TYPES[kind][0](value))
                except (TypeError, ValueError, AttributeError):
                    raise UserError(f"{_option(field.name)} must be {TYPES[kind][1]}, not "
                                    f"{value!r}") from None
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= MOST:
                raise UserError(f"{_option(name)} must be at least {least} and at most {MOST}, not "
                                f"{value}")
        for name in ("seed", "body_seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 2**32:
                raise UserError(f"{_option(name)} must be between 0 and 2**32 - 1, not {value}")
        for name in ("dropout", "embedding_dropout", "attention_dropout", "residual_dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1 - 1e-9:
                raise UserError(f"{_option(name)} must be at least 0 and below 1, not {value}")
        for name in ("lr", "clip"):
            if not SMALLEST <= getattr(self, name) <= LARGEST:
                raise UserError(f"--{name} must be a positive number that float32 has, not "
                                f"{getattr(self, name)}")
        if not 0 <= self.weight_decay <= LARGEST:
            raise UserError("--weight-decay must not be negative, nor infinite: "
                            f"{self.weight_decay}")
        if self.warmup >= self.steps:
            raise UserError(f"--warmup {self.warmup} must be below --steps {self.steps}, or the "
                            "rate never reaches --lr")
        if self.batch % self.accumulate:
            raise UserError(f"--accumulate {self.accumulate} does not divide --batch {self.batch}")
        for name, known in WORDS.items():
            if getattr(self, name) not in known:
                raise nearest(getattr(self, name), known, name)
        if not roles.parse(self.train).terms:
            raise UserError("--train none trains nothing; the smallest useful set is output")
        roles.parse(self.load or "none")
        roles.parse(self.redraw)
        object.__setattr__(self, "rates", tuple(self.rates))
        roles.factors(self.rates)
        for name in FILES:
            file = getattr(self, name)
            if file and not Path(file).is_file():
                raise UserError(f"no {name.replace('_', ' ')} at {file}")
        if self.body_file:
            object.__setattr__(self, "body", Path(self.body_file).stem)

    @classmethod
    def preset(cls, task: Task, preset: str = "laptop", **settings: Any) -> Config:
        """Makes the configuration that a preset of the task states, with some settings changed.

        settings: values of the configuration's fields, or of the task's sizes.  Sizes of `task`
        that differ from their defaults are kept too; one that is to have its default against the
        preset is stated here: `patch=4`.  Raises UserError for an unknown preset.
        """
        if preset not in task.presets:
            raise nearest(preset, task.presets, "preset")
        stated = dict(vars(task.presets[preset]))
        sizes, changed = stated.pop("sizes") or {}, stated.pop("settings") or {}
        usual = {field.name: field.default for field in dataclasses.fields(task)}
        sizes = {name: size for name, size in sizes.items() if getattr(task, name) == usual[name]}
        own = usual.keys() - {field.name for field in dataclasses.fields(cls)}
        sizes |= {name: settings.pop(name) for name in own & settings.keys()}
        return cls(dataclasses.replace(task, **sizes), **stated | changed | settings)

    def record(self) -> dict[str, Any]:
        """Describes the configuration as JSON; `records.configuration` reads it back."""
        stated = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        stated = {name: value for name, value in stated.items()
                  if name not in NEWER or value != NEWER[name]}
        geometry = self.geometry and bodies.stated(self.geometry)
        return stated | {"task": self.task.name, "sizes": self.task.settings(),
                         "geometry": geometry}

    @property
    def digest(self) -> str:
        """Hashes the settings that the run's result depends on: see `digest_of`."""
        files = {name: sha256(Path(getattr(self, name))) for name in FILES if getattr(self, name)}
        return digest_of(self.record(), files)

    @property
    def name(self) -> str:
        """Names the run's folder."""
        body = Path(self.body).name if self.body else "none"
        return f"{self.task.name}-{body}-{self.train}-lr{self.lr:g}-seed{self.seed}-{self.digest}"

    def stackable(self) -> Config:
        """Returns the configuration with its learning rates, seed and start set to fixed values.

        Runs for which it returns the same can be trained at once, as one stack.
        """
        seed = None if self.begins else self.body_seed
        return dataclasses.replace(self, lr=1.0, seed=0, rates=(), start=None, begins=None,
                                   body_seed=seed)


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def digest_of(stated: dict[str, Any], files: Mapping[str, str]) -> str:
    """Hashes the settings that a run's result depends on into eight hex digits.

    The name of the run's folder ends with them.  stated: the configuration as JSON.  files: for
    each of the fields FILES that names a file, its sha256.  Nothing is executed or looked up.
    """
    stated = stated | files
    if stated["geometry"]:
        stated.pop("body")  # where a body lies does not matter, what it is does
    if stated.get("begins"):
        stated.pop("start", None)  # likewise
    text = json.dumps(stated, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def grid(config: Config, lrs: tuple[float, ...], seeds: tuple[int, ...]) -> list[Config]:
    """Makes a configuration for each learning rate and seed, seeds varying fastest."""
    return [dataclasses.replace(config, lr=lr, seed=seed)
            for lr in dict.fromkeys(lrs) for seed in dict.fromkeys(seeds)]


def kept_steps(steps: int, keep: int) -> tuple[int, ...]:
    """Chooses the steps after which parameters are kept: `keep`, evenly spaced, up to the last."""
    return tuple(steps * number // keep for number in range(1, keep + 1))
