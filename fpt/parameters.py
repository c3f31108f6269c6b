"""How the parameters of a run come to be: drawn from its seeds, or loaded, role by role."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

from fpt import births, roles
from fpt import checkpoint as checkpoints
from fpt.bodies import GEOMETRIES
from fpt.checkpoint import Checkpoint
from fpt.config import Config
from fpt.errors import UserError
from fpt.model import Model, build, shapes_of
from fpt.randomness import stream


def resolve(config: Config) -> tuple[Config, Checkpoint | None]:
    """The configuration with load set, geometry and checkpoint filled in, and the body that it names.

    Raises UserError where there is no such body, and for a task that is longer than the body's positions.
    """
    # Roles that need no checkpoint.
    made = set()
    if config.birth.startswith("mimetic") and ("attention", None, None) in roles.parse(config.redraw).terms:
        made = {"attention"}
    load = config.load or ("attention" if made else None)
    needless = load is not None and roles.of(load) <= made and (config.geometry or config.body in GEOMETRIES)
    found = None if needless else checkpoints.locate(config.body)
    load = load or "body"
    read = roles.of(load) - made
    if outside := roles.of(load) - roles.of("body"):
        raise UserError(f"--load takes roles of the body ({roles.NAMES['body']}), not {', '.join(sorted(outside))}")
    geometry = found.geometry if found else config.geometry or GEOMETRIES[config.body]
    rates = {name: value for name in ("embedding_dropout", "attention_dropout", "residual_dropout")
             if (value := getattr(config, name)) is not None}
    geometry = dataclasses.replace(geometry, **rates)
    if (tokens := config.task.interface.tokens) > geometry.positions:
        raise UserError(f"{config.task.name} has {tokens} tokens, but {config.body} only "
                        f"{geometry.positions} positions; make the task shorter or choose another body")
    used = found if read else None
    digest = used and used.digest
    for stated, here, what in ((config.checkpoint, digest, "weights"), (config.geometry, geometry, "config.json")):
        if stated is not None and stated != here:
            raise UserError(f"the {what} of {config.body!r} are not those that this run was trained with; put them back, or "
                            "say with --body where they lie now")
    # A folder is stated so that it is found again from anywhere.
    body = os.path.abspath(found.folder) if found and found.folder == Path(config.body) else config.body
    return dataclasses.replace(config, body=body, load=load, geometry=geometry, checkpoint=digest), used


def model_of(config: Config) -> Model:
    """The model that a resolved configuration describes."""
    return build(config.task, config.geometry, input_dropout=config.dropout, dtype=jnp.dtype(config.dtype))


class Source:
    """Where the parameters come from of runs that share a configuration but for rate and seed.

    A value depends on its name and the run's seeds alone, so that each is made where it is needed, in the dtype that it
    is held in, and never kept twice: a body fills most of the memory that a run takes.
    own_bodies: whether what is not loaded of a body differs from run to run.

    `inexact` names the frozen parameters that come of a QR or a singular value decomposition, whose last bits differ from
    one kind of CPU to another.  They are kept with a run, and taken from there when it is taken up or loaded.
    """

    def __init__(self, config: Config, model: Model, found: Checkpoint | None, own_bodies: bool):
        self.config, self.dtype, self.layers, self.own_bodies = config, model.dtype, model.geometry.layers, own_bodies
        self.shapes = shapes_of(model, config.task)
        trainable, frozen = roles.split(self.shapes, roles.parse(config.train))
        self.trainable, self.frozen = list(trainable), list(frozen)
        body = {name: shape for name, shape in self.shapes.items() if name.startswith("body/")}
        load, _ = roles.split(body, roles.parse(config.load))
        redrawn = {name for name in load if name in roles.parse(config.redraw)} if config.birth != "weights" else set()
        if config.birth.startswith("mimetic"):
            redrawn = {name for name in redrawn if roles.role_of(name) == "attention"}
            sign = -1 if config.birth == "mimetic-language" else 1
            self.instead = births.mimetic(sorted(redrawn), model.geometry.width, model.geometry.heads, sign)
        else:
            group = _layer_and_kind if config.birth == "statistics-by-layer" else str
            self.instead = births.from_statistics(checkpoints.read(found, redrawn.__contains__, body), group) if redrawn else {}
        if config.birth != "weights" and not redrawn:
            raise UserError(f"--birth {config.birth} makes nothing anew with --load {config.load} and --redraw {config.redraw}")
        self.inexact = [name for name in self.frozen if name == "input/kernel"
                        or (name in self.instead and config.birth.startswith("mimetic"))]
        kept = load.keys() - redrawn
        self.loaded = checkpoints.read(found, kept.__contains__, body, self._dtype) if found and kept else {}

    def _dtype(self, name: str):
        """A frozen matrix of the body is held in the dtype of the products, all else in float32."""
        matrix = name in self.frozen and name.startswith("body/h_") and name.endswith("/kernel")
        return self.dtype if matrix else np.float32

    def values(self, config: Config, names: list[str],
               kept: Mapping[str, np.ndarray] = MappingProxyType({})) -> dict[str, jax.Array]:
        """The parameters of these names for one run; kept: those of `inexact` that lie with it, if any do."""
        fresh = {name: self.shapes[name] for name in self.shapes if name not in self.loaded and name not in kept}
        ends = {name: shape for name, shape in fresh.items() if not name.startswith("body/")}
        body = {name: shape for name, shape in fresh.items() if name not in ends and name in names}
        body_key = stream(jax.random.key(config.seed if config.body_seed is None else config.body_seed), "body")
        dtypes = {name: self._dtype(name) for name in fresh}
        drawn = births.draw(ends, stream(jax.random.key(config.seed), "layers"), self.layers)
        drawn |= births.draw(body, body_key, self.layers, config.init == "depth-scaled", dtypes, self.instead)
        drawn |= kept
        return {name: self.loaded[name] if name in self.loaded else jax.device_put(drawn[name]) for name in names}

    def axes(self, runs: int) -> dict[str, int | None]:
        """Which axis of each frozen parameter is the runs' in a stack of so many: None where they share it."""
        shared = lambda name: name in self.loaded or (name.startswith("body/") and not self.own_bodies)
        return {name: None if runs == 1 or shared(name) else 0 for name in self.frozen}

    def describe(self, runs: int) -> tuple[dict, dict]:
        """What `stack` would give for so many runs, as shapes and dtypes: nothing is drawn."""
        array = lambda name, lead: jax.ShapeDtypeStruct((*lead, *self.shapes[name]), self._dtype(name))
        axes = self.axes(runs)
        return ({name: array(name, (runs,)) for name in self.trainable},
                {name: array(name, () if axes[name] is None else (runs,)) for name in self.frozen})

    def stack(self, configs: list[Config], kept: Sequence[Mapping[str, np.ndarray]] = ()) -> tuple[dict, dict]:
        """Trainable parameters [R, ...], and frozen ones with the runs' axis that `axes` says.

        kept: for each run, those of the `inexact` parameters that lie with it.
        """
        kept = kept or [{}] * len(configs)
        axes = self.axes(len(configs))
        shared = [name for name in self.frozen if axes[name] is None]
        own = [name for name in [*self.trainable, *self.frozen] if name not in shared]
        runs = [self.values(config, own, there) for config, there in zip(configs, kept)]
        stacked = {name: jnp.stack([run.pop(name) for run in runs]) for name in own}
        frozen = self.values(configs[0], shared, kept[0]) | {name: stacked[name] for name in self.frozen if axes[name] == 0}
        return {name: stacked[name] for name in self.trainable}, frozen


def _layer_and_kind(name: str) -> str:
    """`body/h_3/attn/c_proj/bias` -> `body/h_3/bias`: with which others its statistics are taken."""
    layer = roles.layer_of(name)
    return name if layer is None else f"body/h_{layer}/{name.rpartition('/')[2]}"
