"""How the parameters of a run come to be: drawn from its seeds, or loaded, role by role."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fpt import births, roles
from fpt import checkpoint as checkpoints
from fpt.bodies import GEOMETRIES, Geometry
from fpt.checkpoint import Checkpoint
from fpt.config import Config
from fpt.errors import UserError
from fpt.model import Model, build, shapes_of
from fpt.randomness import stream


def resolve(config: Config) -> tuple[Config, Geometry, Checkpoint | None]:
    """The configuration with its load set and checkpoint filled in, and the body that it names.

    Raises UserError where there is no such body, where weights are asked for that are not there, and for a task that
    is longer than the body's positions.
    """
    chosen = config.load and roles.parse(config.load)
    needless = chosen is not None and not chosen.terms and config.body in GEOMETRIES
    found = None if needless else checkpoints.locate(config.body)
    load = config.load or ("body" if found else "none")
    if roles.parse(load).terms and not found:
        raise UserError(f"no weights for {config.body!r} here, so --load {load} cannot be; use --load none, or name a folder")
    if outside := {role for role, *_ in roles.parse(load).terms} - {role for role, *_ in roles.parse("body").terms}:
        raise UserError(f"--load takes roles of the body ({roles.NAMES['body']}), not {', '.join(sorted(outside))}")
    geometry = found.geometry if found else GEOMETRIES[config.body]
    rates = {name: value for name in ("embedding_dropout", "attention_dropout", "residual_dropout")
             if (value := getattr(config, name)) is not None}
    geometry = dataclasses.replace(geometry, **rates)
    if config.task.tokens > geometry.positions:
        raise UserError(f"{config.task.name} has {config.task.tokens} tokens, but {config.body} only "
                        f"{geometry.positions} positions; make the task shorter or choose another body")
    used = found if roles.parse(load).terms else None
    digest = used and used.digest
    if config.checkpoint is not None and config.checkpoint != digest:
        raise UserError(f"the weights of {config.body!r} are not those that this run was trained with; put them back")
    return dataclasses.replace(config, load=load, checkpoint=digest), geometry, used


def model_of(config: Config, geometry: Geometry) -> Model:
    """The model that a configuration describes."""
    return build(config.task, geometry, input_dropout=config.dropout, dtype=jnp.dtype(config.dtype))


class Source:
    """Draws and loads the parameters of runs that share a configuration but for rate and seed; a body is made once."""

    def __init__(self, config: Config, model: Model, found: Checkpoint | None):
        self.config, self.model = config, model
        self.shapes = shapes_of(model, config.task)
        load = roles.parse(config.load)
        self.body = {name: shape for name, shape in self.shapes.items() if name.startswith("body/")}
        self.ends = {name: shape for name, shape in self.shapes.items() if name not in self.body}
        self.loaded = checkpoints.read(found, load.__contains__, self.body) if found else {}
        self.drawn: tuple[int, dict] | None = None  # the last body drawn and its seed

    def parameters(self, config: Config) -> dict[str, Any]:
        """All parameters of one run by name, float32."""
        ends = births.draw(self.ends, stream(jax.random.key(config.seed), "layers"), self.model.geometry.layers)
        return ends | self._body(config) | self.loaded

    def _body(self, config: Config) -> dict[str, Any]:
        if self.loaded.keys() == self.body.keys():
            return {}
        seed = config.seed if config.body_seed is None else config.body_seed
        if self.drawn is None or self.drawn[0] != seed:
            key = stream(jax.random.key(seed), "body")
            self.drawn = seed, births.draw(self.body, key, self.model.geometry.layers, config.init == "depth-scaled")
        return self.drawn[1]

    def stack(self, configs: list[Config]) -> tuple[dict, dict, dict[str, int | None]]:
        """Trainable parameters [R, ...], frozen ones, and which axis of each frozen one is the runs': None if shared.

        Frozen matrices of the body are held in the configuration's dtype, all else in float32.
        """
        own_body = self.config.body_seed is None and len({config.seed for config in configs}) > 1
        chosen = roles.parse(self.config.train)
        shared = lambda name: len(configs) == 1 or name in self.loaded or (name.startswith("body/") and not own_body)
        runs = []
        for config in configs:
            values = self.parameters(config)
            trainable, frozen = roles.split(values, chosen)
            frozen = {name: _held(name, value, self.model.dtype) for name, value in frozen.items()
                      if not runs or not shared(name)}
            runs.append((trainable, frozen))
        stacked = lambda part, name: jnp.stack([run[part][name] for run in runs])
        trainable = {name: stacked(0, name) for name in runs[0][0]}
        axes = {name: None if shared(name) else 0 for name in runs[0][1]}
        frozen = {name: value if axes[name] is None else stacked(1, name) for name, value in runs[0][1].items()}
        return trainable, frozen, axes


def _held(name: str, value, dtype) -> jax.Array:
    matrix = name.startswith("body/h_") and name.endswith("/kernel")
    return jnp.asarray(value, dtype if matrix else jnp.float32)


def digest(frozen: dict[str, Any]) -> str:
    """sha256 over frozen parameters by name: what a trained part is valid with."""
    state = hashlib.sha256()
    for name in sorted(frozen):
        state.update(name.encode())
        state.update(np.ascontiguousarray(frozen[name]).tobytes())
    return state.hexdigest()
