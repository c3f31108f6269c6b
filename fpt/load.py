"""Bodies and trained runs as functions to call."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

import tasks
from fpt import arrays, machine, parameters, records
from fpt import checkpoint as checkpoints
from fpt.bodies import GEOMETRIES, Geometry
from fpt.config import DTYPES, Config, digest_of
from fpt.errors import UserError, nearest
from fpt.files import sha256, whole_folder
from fpt.gpt2 import Body
from fpt.model import apply, body_shapes, draw_body
from fpt.randomness import stream
from fpt.trainer import Trainer


class LoadedBody:
    """A body with its weights: `body(embeds) -> hidden`, compiled once for each shape."""

    def __init__(self, geometry: Geometry, parameters: Mapping[str, Any], dtype=jnp.float32):
        self.geometry, self.dtype, self.parameters = geometry, dtype, dict(parameters)
        module = Body(geometry, dtype)

        # A function of the module alone: what is compiled would else hold this body's weights for as long as the process.
        @partial(jax.jit, static_argnames=("method", "maps"))
        def compiled(parameters, *arguments, method=None, **asked):
            named = {name.removeprefix("body/"): value for name, value in parameters.items()}
            return module.apply({"params": unflatten_dict(named, sep="/")}, *arguments, method=method, **asked)

        self._apply = compiled

    def __call__(self, embeds, maps: bool = False, key=None):
        """Embedded tokens [B, T, D] -> hidden states after the last norm, [B, T, D].

        maps: also the attention maps [L, B, H, T, T] by query and key, as a pair.  key: draws dropout; None for none.
        """
        self._check(embeds)
        hidden, seen = self._apply(self.parameters, embeds, key, maps=maps)
        return (hidden, seen.maps) if maps else hidden

    def enter(self, embeds) -> jax.Array:
        """Embedded tokens [B, T, D] with their positions added, as they enter the first block."""
        self._check(embeds)
        return self._apply(self.parameters, embeds, method="place")

    def _check(self, embeds) -> None:
        if embeds.shape[1] > self.geometry.positions:
            raise UserError(f"{embeds.shape[1]} tokens, but the body has {self.geometry.positions} positions")


def load_body(body: str | Path, random: bool = False, seed: int = 0, dtype: str = "float32") -> LoadedBody:
    """The body that a checkpoint's folder, a hub id or a geometry's name stands for.

    random: the geometry alone is taken, and its weights are drawn as a run with `--load none` and this seed draws them.
    Raises UserError where nothing of that name is known, or its weights are damaged or out of reach.
    """
    body = str(body)
    if dtype not in DTYPES:
        raise nearest(dtype, DTYPES, "dtype")
    if random:
        geometry = GEOMETRIES[body] if body in GEOMETRIES else checkpoints.locate(body).geometry
        values = draw_body(geometry, stream(jax.random.key(seed), "body"))
    else:
        found = checkpoints.locate(body)
        geometry, values = found.geometry, checkpoints.read(found, lambda name: True, body_shapes(found.geometry))
    return LoadedBody(geometry, {name: jnp.asarray(value) for name, value in values.items()}, jnp.dtype(dtype))


class LoadedRun:
    """A trained model: `run(inputs) -> logits`, with the configuration and the result that belong to it."""

    def __init__(self, folder: Path, body: Path | str | None = None, task_file: Path | None = None):
        self.folder = folder
        config = _configuration(folder, task_file)
        if body is not None:
            config = dataclasses.replace(config, body=str(body))
        self.config, found = parameters.resolve(config)
        self.task, self.seeds = config.task, found.seeds if found else ()
        self.result = records.summary(folder)["result"]
        trained, identity = arrays.unpack(folder / records.TRAINABLE)
        self.model = parameters.model_of(self.config)
        self.geometry, self.dtype = self.model.geometry, self.model.dtype
        self._source = source = parameters.Source(self.config, self.model, found, own_bodies=False)
        trainable, frozen = source.stack([self.config], [records.frozen(folder)])
        if {name: value.shape[1:] for name, value in trainable.items()} != {n: v.shape for n, v in trained.items()}:
            raise UserError(f"{folder / records.TRAINABLE} does not fit its configuration; train the run again")
        self.trained = arrays.digest(trained)
        if self.result.get("trainable", self.trained) != self.trained:
            raise UserError(f"{folder / records.TRAINABLE} does not hold what the result is of; train the run again")
        if (there := identity.get("frozen")) != (here := arrays.digest(frozen)):
            raise UserError(f"the frozen parameters of {folder} have the sha256 {str(there)[:12]}..., and those made here "
                            f"{here[:12]}...: {_differences(self.result)}")
        self.trainable = {name: jnp.asarray(value)[None] for name, value in trained.items()}
        self.frozen = frozen
        self.steps = (0, *records.kept(folder))
        self.trainer = Trainer(self.model, self.config, 1, source.axes(1))
        model, task = self.model, self.task

        @partial(jax.jit, static_argnames=("hidden", "maps"))  # as in LoadedBody, a function of what is no weight
        def compiled(parameters, inputs, key, hidden, maps):
            return apply(model, parameters, task.encode(inputs), key, hidden=hidden, maps=maps)

        self._apply = compiled
        self._enter = jax.jit(lambda parameters, inputs: apply(model, parameters, task.encode(inputs), method="enter"))
        self._leave = jax.jit(lambda parameters, x: apply(model, parameters, x, method="leave"))

    @cached_property
    def parameters(self) -> dict[str, jax.Array]:
        """All parameters by name."""
        return self.frozen | {name: value[0] for name, value in self.trainable.items()}

    def __call__(self, inputs, hidden: bool = False, maps: bool = False, key=None):
        """Inputs as the task stores them [B, ...] -> logits [B, A, C].

        With `hidden` or `maps` a pair, the second having `.hidden` [L + 1, B, T, D] and `.maps` [L, B, H, T, T].
        key: draws dropout; None for none.
        """
        logits, seen = self._apply(self.parameters, jnp.asarray(inputs), key, hidden, maps)
        return (logits, seen) if hidden or maps else logits

    def enter(self, inputs) -> jax.Array:
        """Inputs as the task stores them [B, ...] -> the residual stream [B, T, D] as it enters the first block."""
        return self._enter(self.parameters, jnp.asarray(inputs))

    def leave(self, x) -> jax.Array:
        """The residual stream [B, Q, D] of the tokens that are read, as it leaves the last block -> logits [B, A, C]."""
        return self._leave(self.parameters, x)

    def at(self, step: int) -> LoadedRun:
        """The run with the parameters that it had after `step` steps: one of `steps`, those that `--keep` kept and 0.

        Those before the first step are made again from the run's seeds, to the bit.  Raises UserError for another step.
        """
        if step not in self.steps:
            raise UserError(f"{self.folder} holds no parameters of step {step}, but of {', '.join(map(str, self.steps))}; "
                            "train it anew with --keep N to keep those of N steps")
        other = copy.copy(self)
        other.__dict__.pop("parameters", None)
        if step:
            values = records.read_kept(self.folder, step, self.config.digest)
        else:
            values = self._source.values(self.config, self._source.trainable, records.frozen(self.folder))
        if {name: value.shape for name, value in values.items()} != {name: v.shape[1:] for name, v in self.trainable.items()}:
            raise UserError(f"the parameters of step {step} in {self.folder} are another run's; train the run again")
        other.trainable = {name: jnp.asarray(value)[None] for name, value in values.items()}
        return other

    def export(self, folder: Path | str, whole: bool = True, dtype=np.float32) -> None:
        """Writes the model as a GPT-2 checkpoint, with input and output layer beside the body's names.

        whole: else the body alone and its token table, with GPT-2's own dropout rates, whatever it was trained with.
        Where the body was trained around fresh input and output layers, the checkpoint states the seed that drew these.
        Raises UserError for a folder that already holds something.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"cannot write {folder}: it is a file; name another folder for the export")
        if held := sorted(path.name for path in folder.glob("*")):
            raise UserError(f"{folder} already holds {held[0]}; name another folder for the export")
        geometry, parameters = self.model.geometry, self.parameters
        if self.model.tied:
            geometry = dataclasses.replace(geometry, vocabulary=self.model.vocabulary)
        if not whole:
            rates = {field.name: field.default for field in dataclasses.fields(Geometry) if field.name.endswith("_dropout")}
            geometry = dataclasses.replace(geometry, **rates)
            parameters = {name: value for name, value in parameters.items() if name.startswith(("body/", "token/"))}
        grown = not self.model.tied and any(name.startswith("body/") for name in self.trainable)
        seeds = [*self.seeds, self.config.seed] if grown else self.seeds
        with whole_folder(folder) as part:
            checkpoints.write(part, geometry, parameters, dtype, seeds)
            checkpoints.seal(part)


def load_run(folder: Path | str, body: Path | str | None = None, task_file: Path | str | None = None) -> LoadedRun:
    """The model that a finished run's folder holds.

    body: where its body lies now, if no longer where it was.  task_file: likewise, the file that defines its task; to name
    it also says that it may be executed, which is asked for where it has never been executed here.  Raises UserError
    where the run is not finished, damaged or changed, and where body or task file are not those that it was trained with.
    """
    return LoadedRun(Path(folder), body, task_file and Path(task_file))


def _configuration(folder: Path, task_file: Path | None) -> Config:
    """The configuration that a run's folder states, once it is known to be the one that the folder's name stands for."""
    file, stated = folder / records.CONFIG, records.read_json(folder / records.CONFIG)
    if task_file and not stated.get("task_file"):
        raise UserError(f"{folder} is of a task that ships with the project, and takes no --task-file")
    try:
        code = task_file or (stated["task_file"] and Path(stated["task_file"]))
        if code and not code.is_file():
            raise UserError(f"no task file at {code}, which {file} names; say with --task-file where it lies now")
        content = code and sha256(code)
        if digest_of(stated, content) not in folder.resolve().name:
            raise UserError(f"{file}{f' with {code}' if code else ''} does not belong to the folder's name; put the right "
                            "one back" + (", or name the task's file with --task-file" if code else ""))
        # The folder's name shows that nothing was mixed up, not who has made it: code that came with it is not just run.
        if code and not task_file and not tasks.executed(content):
            raise UserError(f"the task of {folder} is defined by {code}, which has not been executed here before; look at what "
                            f"it does, then say --task-file {code}")
        return Config.from_record(stated | {"task_file": code and str(code.resolve())})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is not the configuration of a run ({type(error).__name__}: {error})") from None


def _differences(result: dict[str, Any]) -> str:
    """What differs between this machine and the one of a result, where frozen parameters do."""
    here, there = machine.versions(), result.get("versions", {})
    differ = [f"{name} {here.get(name)} where it had {there.get(name)}"
              for name in sorted(here.keys() & there.keys()) if here.get(name) != there.get(name)]
    return (f"this machine has {', '.join(differ)}" if differ else
            "with the same versions of everything, so the body's weights or the kind of CPU differ")
