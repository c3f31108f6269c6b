"""A run's configuration: what it is, and so what it is called."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
import os
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
INITS = ("original", "depth-scaled")
OPTIMIZERS = ("adam", "muon")
DECAYS = ("constant", "cosine")
# What runs did before a setting existed: read where a configuration does not state it.  Not today's defaults, which may change.
ABSENT = {"birth": "weights", "redraw": "body", "optimizer": "adam", "weight_decay": 0.0, "warmup": 0, "decay": "constant",
          "accumulate": 1}
# Annotation of a field -> what makes a value of it, and what such a value is called.  numpy's numbers are taken, texts are not.
TYPES = {"int": (lambda value: int(operator.index(value)), "a whole number"),
         "float": (operator.methodcaller("__float__"), "a number"), "str": (os.fspath, "a text")}
SMALLEST, LARGEST = 1.2e-38, 3.4e38  # the positive numbers of float32
MOST = 2**31 - 1  # steps, examples: what a device counts in
# Settings that a record states only where they differ from these: older runs keep their names.
NEWER = {"layers": None, "width": None, "rates": (), "start": None, "begins": None, "stream": None}
PLACES = ("body", "task_file", "start")  # of a configuration: where something lies, while what it is makes the run


@dataclass(frozen=True)
class Config:
    """One run: (task, body, load set, train set, rate, seed) and the settings it is trained under."""

    task: Task
    body: str  # a geometry's name, a checkpoint's folder or a hub id
    steps: int
    batch: int
    lr: float
    eval_every: int  # steps
    eval_examples: int | None = None  # None: 2,000 of validation, all of test
    load: str | None = None  # role set; None: `body` where the body has weights, else `none`
    train: str = "fpt"  # role set
    birth: str = "weights"  # what the load set receives: see BIRTHS
    redraw: str = "body"  # role set: what a birth of another kind makes anew; the rest of the load set keeps its weights
    seed: int = 0
    body_seed: int | None = None  # None: the run's own seed
    dtype: str = "float32"  # of the frozen matrices and of all matrix products
    dropout: float = 0.1  # after a continuous input layer
    embedding_dropout: float | None = None  # None: as the body's configuration says, 0.1 in GPT-2
    attention_dropout: float | None = None
    residual_dropout: float | None = None
    clip: float = 1.0  # joint norm of the trainables' gradient
    optimizer: str = "adam"  # or muon; what these do is said in `optimization`
    weight_decay: float = 0.0  # of the blocks' matrices, per step and unit of rate
    warmup: int = 0  # steps
    decay: str = "constant"  # of the rate, or cosine: to zero at the last step
    accumulate: int = 1  # parts that a batch is split into, one after another
    init: str = "original"  # of a random body: N(0, 0.02); depth-scaled: residual projections / sqrt(2 layers)
    geometry: Body | None = None  # of the body; filled in when it is found, as is the next
    checkpoint: str | None = None  # digest of the weights that are loaded
    task_file: str | None = None  # where a task of the user's own is defined
    layers: int | None = None
    """Cuts a GPT-2 body to its first blocks, or sets the layers of an LSTM; None for its own."""
    width: int | None = None
    """Sets the width of a body that has no weights of its own, an LSTM for example."""
    rates: tuple[str, ...] = ()
    """Multiplies the rate of some roles: norm=1 attention@0-2=0.01, for example."""
    start: str | None = None
    """Names the folder of the finished run that this run begins from."""
    begins: str | None = None
    """Identifies the parameters that this run begins with, where it begins from another run."""
    stream: str | None = None
    """Names a stream of randomness of the run's own, so that it repeats no draws of another stage."""

    def __post_init__(self):
        """Gives each number the type that its field states.  Raises UserError for a value that no run can have."""
        if not isinstance(self.task, Task):
            raise UserError(f"task must be a task such as tasks.find('bit-xor')(), not {self.task!r}")
        for field in dataclasses.fields(self):
            kind, _, optional = field.type.partition(" | ")
            value = getattr(self, field.name)
            if kind in TYPES and not (optional and value is None):
                try:
                    if isinstance(value, bool):
                        raise TypeError
                    object.__setattr__(self, field.name, TYPES[kind][0](value))
                except (TypeError, ValueError, AttributeError):
                    raise UserError(f"--{field.name.replace('_', '-')} must be {TYPES[kind][1]}, not {value!r}") from None
        for name, least in (("steps", 1), ("batch", 1), ("eval_every", 1), ("eval_examples", 1), ("accumulate", 1),
                            ("warmup", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value <= MOST:
                raise UserError(f"--{name.replace('_', '-')} must be at least {least} and at most {MOST}, not {value}")
        for name in ("seed", "body_seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 2**32:
                raise UserError(f"--{name.replace('_', '-')} must be between 0 and 2**32 - 1, not {value}")
        for name in ("dropout", "embedding_dropout", "attention_dropout", "residual_dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1 - 1e-9:
                raise UserError(f"--{name.replace('_', '-')} must be at least 0 and below 1, not {value}")
        for name in ("lr", "clip"):
            if not SMALLEST <= getattr(self, name) <= LARGEST:
                raise UserError(f"--{name} must be a positive number that float32 has, not {getattr(self, name)}")
        if not 0 <= self.weight_decay <= LARGEST:
            raise UserError(f"--weight-decay must not be negative, nor infinite: {self.weight_decay}")
        if self.warmup >= self.steps:
            raise UserError(f"--warmup {self.warmup} must be below --steps {self.steps}, or the rate never reaches --lr")
        if self.batch % self.accumulate:
            raise UserError(f"--accumulate {self.accumulate} does not divide --batch {self.batch}")
        for name, known in (("dtype", DTYPES), ("init", INITS), ("optimizer", OPTIMIZERS), ("decay", DECAYS),
                            ("birth", BIRTHS)):
            if getattr(self, name) not in known:
                raise nearest(getattr(self, name), known, name)
        if not roles.parse(self.train).terms:
            raise UserError("--train none trains nothing; the smallest useful set is output")
        roles.parse(self.load or "none")
        roles.parse(self.redraw)
        object.__setattr__(self, "rates", tuple(self.rates))
        roles.factors(self.rates)
        if self.task_file and not Path(self.task_file).is_file():
            raise UserError(f"no task file at {self.task_file}")

    @classmethod
    def preset(cls, task: Task, preset: str = "laptop", **settings: Any) -> Config:
        """The configuration that a task's preset states, with some settings changed.

        Sizes of the task that have their default values take those of the preset.
        """
        if preset not in task.presets:
            raise nearest(preset, task.presets, "preset")
        stated = task.presets[preset]
        usual = {field.name: field.default for field in dataclasses.fields(task)}
        sizes = {name: size for name, size in (stated.sizes or {}).items() if getattr(task, name) == usual[name]}
        task = dataclasses.replace(task, **sizes)
        return cls(**(dict(task=task, body=stated.body, steps=stated.steps, batch=stated.batch, lr=stated.lr,
                           eval_every=stated.eval_every, eval_examples=stated.eval_examples)
                      | dict(stated.settings or {}) | settings))

    def record(self) -> dict[str, Any]:
        """The configuration as JSON: `records.configuration` gives it back."""
        stated = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        stated = {name: value for name, value in stated.items() if name not in NEWER or value != NEWER[name]}
        geometry = self.geometry and bodies.stated(self.geometry)
        return stated | {"task": self.task.name, "sizes": self.task.settings(), "geometry": geometry}

    @property
    def digest(self) -> str:
        """A hash of all that makes the run what it is: see `digest_of`."""
        return digest_of(self.record(), self.task_file and sha256(Path(self.task_file)))

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        body = Path(self.body).name if self.body else "none"
        return f"{self.task.name}-{body}-{self.train}-lr{self.lr:g}-seed{self.seed}-{self.digest}"

    def stackable(self) -> Config:
        """What runs of one stack have in common: all but rate and seed."""
        shared = {"body_seed": None} if self.begins else {}
        return dataclasses.replace(self, lr=1.0, seed=0, rates=(), start=None, begins=None, **shared)


def digest_of(stated: dict[str, Any], task_file: str | None) -> str:
    """Hashes what makes a run what it is, of a configuration as JSON: eight hex digits, which end its folder's name.

    task_file: the sha256 of the file that defines a task of a user's own.  Nothing is executed or looked up.
    """
    stated = stated | {"task_file": task_file}
    if stated["geometry"]:
        stated.pop("body")  # where a body lies does not matter, what it is does
    if stated.get("begins"):
        stated.pop("start", None)
    text = json.dumps(stated, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def grid(config: Config, lrs: tuple[float, ...], seeds: tuple[int, ...]) -> list[Config]:
    """One configuration for each rate and seed, seeds varying fastest."""
    return [dataclasses.replace(config, lr=lr, seed=seed) for lr in dict.fromkeys(lrs) for seed in dict.fromkeys(seeds)]
