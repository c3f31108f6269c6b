"""Loads bodies and trained runs as functions to call."""

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

from fpt import arrays, bodies, machine, parameters, records, registry, saved
from fpt import checkpoint as checkpoints
from fpt.checkpoint import Checkpoint
from fpt.config import DTYPES, FILES, PRETRAINING, Config, digest_of
from fpt.errors import UserError, nearest
from fpt.files import sha256, whole_folder
from fpt.gpt2 import GPT2
from fpt.model import BODY, apply, body_table, draw_body, table
from fpt.randomness import stream
from fpt.trainer import Trainer


class LoadedBody:
    """Holds a GPT-2 body with its weights: `body(embeds) -> hidden`, compiled once for a shape."""

    def __init__(self, geometry: GPT2, parameters: Mapping[str, Any], dtype=jnp.float32,
                 checkpoint: Checkpoint | None = None):
        self.geometry, self.dtype, self.parameters = geometry, dtype, dict(parameters)
        self.checkpoint = checkpoint
        module = geometry.module(dtype)

        # What is compiled is a function of the module alone: it would else keep the weights alive.
        @partial(jax.jit, static_argnames=("method", "maps"))
        def compiled(parameters, *arguments, method=None, **asked):
            named = {name.removeprefix(BODY): value for name, value in parameters.items()}
            variables = {"params": unflatten_dict(named, sep="/")}
            return module.apply(variables, *arguments, method=method, **asked)

        self._apply = compiled

    def __call__(self, embeds, maps: bool = False, key=None):
        """Maps embedded tokens [B, T, D] to hidden states after the last norm, [B, T, D].

        maps: returns a pair, whose second part is the attention maps [L, B, H, T, T] by query and
        key.  key: draws the dropout; None for none.
        """
        self._check(embeds)
        hidden, seen = self._apply(self.parameters, embeds, key, maps=maps)
        return (hidden, seen.maps) if maps else hidden

    def enter(self, embeds) -> jax.Array:
        """Adds positions to embedded tokens [B, T, D], as they enter the first block."""
        self._check(embeds)
        return self._apply(self.parameters, embeds, method="place")

    def _check(self, embeds) -> None:
        if embeds.shape[1] > self.geometry.positions:
            raise UserError(f"{embeds.shape[1]} tokens, but the body has "
                            f"{self.geometry.positions} positions")


def load_body(body: str | Path, random: bool = False, seed: int = 0, dtype: str = "float32"
              ) -> LoadedBody:
    """Loads the GPT-2 body that a checkpoint's folder, a hub id or a body's name stands for.

    random: draws its weights instead, as a run with `--load none` and this seed does.  Raises
    UserError where nothing of that name is known, or its weights are damaged or out of reach.
    """
    body = str(body)
    if dtype not in DTYPES:
        raise nearest(dtype, DTYPES, "dtype")
    known = bodies.named(body)
    if known is not None and not isinstance(known, GPT2):
        raise UserError(f"{body} is no GPT-2 body: train it, and load the run with load_run")
    found, geometry = None, known if random else None
    if geometry is None:
        found = checkpoints.locate(body)
        geometry = found.geometry
    if random:
        values, found = draw_body(geometry, stream(jax.random.key(seed), "body")), None
    else:
        values = checkpoints.read(found, lambda name: True, body_table(geometry))
    values = {name: jnp.asarray(value) for name, value in values.items()}
    return LoadedBody(geometry, values, jnp.dtype(dtype), found)


class LoadedRun:
    """Holds a trained model, `run(inputs) -> logits`, with its configuration and its result."""

    def __init__(self, folder: Path, body: Path | str | LoadedBody | LoadedRun | None,
                 files: Mapping[str, Path | None]):
        """Loads a run, see `load_run`; files: the present paths of `task_file` and `body_file`."""
        self.folder = folder
        config = configuration(folder, files)
        if isinstance(body, LoadedBody | LoadedRun):
            if body.checkpoint is None:
                raise UserError(f"the body for {folder} was drawn, not loaded from a checkpoint; "
                                "leave it out")
            body = body.checkpoint.folder
        if body is not None:
            config = dataclasses.replace(config, body=str(body))
        self.config, self.checkpoint = parameters.resolve(config)
        self.task = config.task
        self.result = records.summary(folder)["result"]
        trained, identity = arrays.unpack(folder / saved.TRAINABLE)
        self.model = parameters.model_of(self.config)
        self.geometry, self.dtype = self.model.geometry, self.model.dtype
        tokens, whole = self.task.interface.tokens, table(self.task.interface, self.geometry)
        # Where the inputs reach every position, and in older runs, all rows are there.
        some = any(name in whole and whole[name].by_position and value.shape[:1] == (tokens,)
                   for name, value in trained.items())
        self._source = source = parameters.Source(
            self.config, self.checkpoint, reached=tokens if some else None)
        self.table = source.table
        self._check_shapes(trained, folder / saved.TRAINABLE)
        self.trained = arrays.digest(trained)
        if self.result.get("trainable", self.trained) != self.trained:
            raise UserError(f"{folder / saved.TRAINABLE} does not hold what the result is of; "
                            "train the run again")
        self._stored = saved.frozen(folder)
        self.frozen = source.values(self.config, source.frozen, self._stored)
        if (there := identity.get("frozen")) != (here := arrays.digest(self.frozen)):
            raise UserError(f"the frozen parameters of {folder} have the sha256 "
                            f"{str(there)[:12]}..., and those made here {here[:12]}...: "
                            f"{machine.differences(self.result)}")
        self.trainable = {name: jnp.asarray(value)[None] for name, value in trained.items()}
        self.steps = (0, *saved.kept(folder))
        self.trainer = Trainer(self.model, self.config, source.table, source.axes(1), 1)
        model, task = self.model, self.task

        @partial(jax.jit, static_argnames="look")  # as in LoadedBody, no weight is compiled in
        def compiled(parameters, inputs, key, look):
            tokens = task.encode(inputs)
            return apply(model, parameters, tokens, key, **dict.fromkeys(look, True))

        self._apply = compiled
        self._enter = jax.jit(lambda parameters, inputs: apply(
            model, parameters, task.encode(inputs), method="enter"))
        self._leave = jax.jit(lambda parameters, x: apply(model, parameters, x, method="leave"))

    @cached_property
    def parameters(self) -> dict[str, jax.Array]:
        """Holds all parameters by name; rows of positions that no input reaches are the body's."""
        values = self.frozen | {name: value[0] for name, value in self.trainable.items()}
        if short := [name for name in self.trainable if self.table[name].by_position]:
            # No earlier stage has moved the other rows: it had the same inputs.
            config = dataclasses.replace(self.config, start=None, begins=None)
            whole = parameters.Source(config, self.checkpoint).values(config, short)
            for name, value in whole.items():
                values[name] = jnp.concatenate([values[name], value[len(values[name]) :]])
        return values

    def __call__(self, inputs, hidden: bool = False, maps: bool = False, key=None):
        """Maps inputs as the task stores them [B, ...] to logits [B, A, C].

        With `hidden` or `maps` it returns a pair, whose second part has `.hidden` [L + 1, B, T, D]
        and `.maps` [L, B, H, T, T].  key: draws the dropout; None for none.
        """
        look = ("hidden",) * hidden + ("maps",) * maps
        if look:
            self.check_attention()
        logits, seen = self._apply(self.parameters, jnp.asarray(inputs), key, look)
        return (logits, seen) if look else logits

    def enter(self, inputs) -> jax.Array:
        """Maps inputs as the task stores them to the stream [B, T, D] before the first block."""
        self.check_attention()
        return self._enter(self.parameters, jnp.asarray(inputs))

    def leave(self, x) -> jax.Array:
        """Maps the last block's output [B, Q, D] for tokens that are read to logits [B, A, C]."""
        return self._leave(self.parameters, x)

    def check_attention(self) -> None:
        """Raises UserError where the run's body has no attention to look at."""
        if not isinstance(self.geometry, GPT2):
            raise UserError(f"the body of {self.folder} has no attention to look at")

    def _check_shapes(self, values: Mapping[str, np.ndarray], file: Path | str) -> None:
        wanted = {name: self.table[name].shape for name in self._source.trainable}
        if {name: value.shape for name, value in values.items()} != wanted:
            raise UserError(f"{file} does not fit the run's configuration; train the run again")

    def at(self, step: int) -> LoadedRun:
        """Gives the run with the parameters that it had after `step` steps, one of `steps`.

        Those are 0 and the steps that `--keep` kept; the parameters before the first step are made
        again from the run's seeds, to the bit.  Raises UserError for another step.
        """
        if step not in self.steps:
            raise UserError(f"{self.folder} holds no parameters of step {step}, but of "
                            f"{', '.join(map(str, self.steps))}; train it anew with --keep N to "
                            "keep those of N steps")
        other = copy.copy(self)
        other.__dict__.pop("parameters", None)
        if step:
            values = saved.read_kept(self.folder, step, self.config.digest)
        else:
            values = self._source.values(self.config, self._source.trainable, self._stored)
        self._check_shapes(values, f"what {self.folder} keeps of step {step}")
        other.trainable = {name: jnp.asarray(value)[None] for name, value in values.items()}
        return other

    def export(self, folder: Path | str, whole: bool = True, dtype=np.float32) -> None:
        """Writes the model as a GPT-2 checkpoint, with input and output layer beside the body.

        whole: False writes the body and its token table alone, with GPT-2's own dropout rates.
        Where the body was trained along with freshly drawn input and output layers, the checkpoint
        states the seed that drew them.  Raises UserError for a folder that already holds something.
        """
        folder, geometry, values = Path(folder), self.geometry, self.parameters
        if not isinstance(geometry, GPT2):
            raise UserError(f"the body of {self.folder} is no GPT-2 body and fits no checkpoint's "
                            "format; load_run reads it from the run's folder")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"cannot write {folder}: it is a file; name another folder for the "
                            "export")
        if held := sorted(path.name for path in folder.glob("*")):
            raise UserError(f"{folder} already holds {held[0]}; name another folder for the export")
        tied = self.task.interface.tied
        if tied:
            vocabulary = self.task.interface.vocabulary
            geometry = dataclasses.replace(geometry, vocabulary=vocabulary)
        if not whole:
            rates = {field.name: field.default for field in dataclasses.fields(GPT2)
                     if field.name.endswith("_dropout")}
            geometry = dataclasses.replace(geometry, **rates)
            values = {name: value for name, value in values.items()
                      if self.table[name].role not in ("input", "output")}
        seeds = list(self.checkpoint.seeds) if self.checkpoint else []
        trained = {*self.trainable} | ({*self._stored} if self.config.begins else set())
        grown = any(self.table[name].owner == "body" for name in trained)
        if grown and not tied and self.config.stream != PRETRAINING:
            # A later stage has the first one's input layer, whose seed its body keeps.
            first = self.config.body_seed if self.config.begins else self.config.seed
            seeds.append(first)
        with whole_folder(folder) as part:
            checkpoints.write(part, geometry, values, dtype, seeds)
            checkpoints.seal(part)


def load_run(folder: Path | str, body: Path | str | LoadedBody | LoadedRun | None = None,
             task_file: Path | str | None = None, body_file: Path | str | None = None) -> LoadedRun:
    """Loads the model that a finished run's folder holds.

    body: where its body lies now, if no longer where it was; or a body or run that is loaded.  Runs
    and bodies that are loaded at the same time share the weights of one checkpoint.  task_file,
    body_file: the present path of the user's file that defines the run's task, or its body.  A file
    that was never executed on this machine must be named so, which permits it to be executed.
    Raises UserError where the run is not finished, damaged or changed, and where body or files are
    not those that it was trained with.
    """
    files = {"task_file": task_file and Path(task_file), "body_file": body_file and Path(body_file)}
    return LoadedRun(Path(folder), body, files)


def configuration(folder: Path, given: Mapping[str, Path | None]) -> Config:
    """Reads a run's configuration, and checks that the name of its folder contains its digest.

    given: the present paths of the files that define its task and body, where a user names them.
    """
    file, stated = folder / records.CONFIG, records.read_json(folder / records.CONFIG)
    try:
        places = {name: given.get(name) or Path(stated[name]) for name in FILES if stated.get(name)}
        digests = {}
        for name in FILES:
            what, option = name.replace("_", " "), f"--{name.replace('_', '-')}"
            if given.get(name) and name not in places:
                raise UserError(f"{folder} has no {what} of a user's own, and takes no {option}")
            if name in places and not places[name].is_file():
                raise UserError(f"no {what} at {places[name]}, which {file} names; say with "
                                f"{option} where it lies now")
            if name in places:
                digests[name] = sha256(places[name])
        if digest_of(stated, digests) not in folder.resolve().name:
            named = "".join(f" with {place}" for place in places.values())
            remedy = "".join(f", or name its file with --{name.replace('_', '-')}"
                             for name in places)
            raise UserError(f"{file}{named} does not belong to the folder's name; put the right "
                            f"one back{remedy}")
        for name, place in places.items():
            # The folder's name shows that nothing was mixed up, not who has made it.
            if not given.get(name) and not registry.executed(digests[name]):
                raise UserError(f"the {name.partition('_')[0]} of {folder} is defined by {place}, "
                                "which has not been executed here before; look at what it does, "
                                f"then say --{name.replace('_', '-')} {place}")
        return records.configuration(
            stated | {name: str(place.resolve()) for name, place in places.items()})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is not the configuration of a run ({type(error).__name__}: "
                        f"{error})") from None
