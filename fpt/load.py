"""Bodies and trained runs as functions to call."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from fpt import arrays, parameters, records
from fpt import checkpoint as checkpoints
from fpt.bodies import GEOMETRIES, Geometry
from fpt.config import Config
from fpt.errors import UserError
from fpt.gpt2 import Body
from fpt.model import apply, body_shapes, draw_body
from fpt.trainer import Trainer


class LoadedBody:
    """A body with its weights: `body(embeds) -> hidden`, compiled once for each shape."""

    def __init__(self, geometry: Geometry, parameters: Mapping[str, Any], dtype=jnp.float32):
        self.geometry, self.parameters = geometry, dict(parameters)
        self._body = Body(geometry, dtype)

    @partial(jax.jit, static_argnames=("self", "maps"))
    def _apply(self, parameters, embeds, key, maps):
        named = {name.removeprefix("body/"): value for name, value in parameters.items()}
        return self._body.apply({"params": unflatten_dict(named, sep="/")}, embeds, key, maps=maps)

    def __call__(self, embeds, maps: bool = False, key=None):
        """Embedded tokens [B, T, D] -> hidden states after the last norm, [B, T, D].

        maps: also the attention maps [L, B, H, T, T] by query and key, as a pair.  key: draws dropout; None for none.
        """
        if embeds.shape[1] > self.geometry.positions:
            raise UserError(f"{embeds.shape[1]} tokens, but the body has {self.geometry.positions} positions")
        hidden, seen = self._apply(self.parameters, embeds, key, maps)
        return (hidden, seen.maps) if maps else hidden


def load_body(body: str | Path, random: bool = False, seed: int = 0, dtype: str = "float32") -> LoadedBody:
    """The body that a checkpoint's folder, a hub id or a geometry's name stands for.

    random: the geometry alone is taken, and its weights are drawn from `seed`.  Raises UserError where nothing of that
    name is known, or its weights are damaged or out of reach.
    """
    body = str(body)
    if random:
        geometry = GEOMETRIES[body] if body in GEOMETRIES else checkpoints.locate(body).geometry
        values = draw_body(geometry, jax.random.key(seed))
    else:
        found = checkpoints.locate(body)
        geometry, values = found.geometry, checkpoints.read(found, lambda name: True, body_shapes(found.geometry))
    return LoadedBody(geometry, {name: jnp.asarray(value) for name, value in values.items()}, jnp.dtype(dtype))


class LoadedRun:
    """A trained model: `run(inputs) -> logits`, with the configuration and the result that belong to it."""

    def __init__(self, folder: Path):
        self.folder = folder
        stated = records.read_json(folder / records.CONFIG)
        try:
            config = Config.from_record(stated)
        except UserError as error:
            raise UserError(f"{folder / records.CONFIG}: {error}") from error
        if config.digest not in folder.resolve().name:
            raise UserError(f"{folder / records.CONFIG} does not belong to the folder's name; put the right one back")
        self.config, found = parameters.resolve(config)
        self.task = config.task
        self.result = records.read_json(folder / records.RESULT)
        trained, identity = arrays.unpack(folder / records.TRAINABLE)
        self.model = parameters.model_of(self.config)
        source = parameters.Source(self.config, self.model, found, own_bodies=False)
        trainable, frozen = source.stack([self.config])
        if {name: value.shape[1:] for name, value in trainable.items()} != {n: v.shape for n, v in trained.items()}:
            raise UserError(f"{folder / records.TRAINABLE} does not fit its configuration; train the run again")
        if identity.get("frozen") != arrays.digest(frozen):
            raise UserError(f"the frozen parameters of {folder} cannot be made again here: the body's weights or the "
                            "versions of jax and flax differ from those in its result.json")
        self.trainable = {name: jnp.asarray(value)[None] for name, value in trained.items()}
        self.frozen = frozen
        self.trainer = Trainer(self.model, self.config, 1, source.axes(1))

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

    @partial(jax.jit, static_argnames=("self", "hidden", "maps"))
    def _apply(self, parameters, inputs, key, hidden, maps):
        return apply(self.model, parameters, self.task.encode(inputs), key, hidden=hidden, maps=maps)

    def export(self, folder: Path, whole: bool = True, dtype=np.float32) -> None:
        """Writes the model as a GPT-2 checkpoint, with input and output layer beside the body's names.

        whole: else the body alone and its token table, with GPT-2's own dropout rates, whatever it was trained with.
        Raises UserError for a folder that already holds a run or a checkpoint.
        """
        if held := sorted(path.name for pattern in ("config.json", "*.safetensors") for path in folder.glob(pattern)):
            raise UserError(f"{folder} already holds {held[0]}; name another folder for the export")
        geometry, parameters = self.model.geometry, self.parameters
        if self.model.tied:
            geometry = dataclasses.replace(geometry, vocabulary=self.model.vocabulary)
        if not whole:
            rates = {field.name: field.default for field in dataclasses.fields(Geometry) if field.name.endswith("_dropout")}
            geometry = dataclasses.replace(geometry, **rates)
            parameters = {name: value for name, value in parameters.items() if name.startswith(("body/", "token/"))}
        checkpoints.write(folder, geometry, parameters, dtype)


def load_run(folder: Path | str) -> LoadedRun:
    """The model that a finished run's folder holds.  Raises UserError where it is not finished, damaged or changed."""
    return LoadedRun(Path(folder))
