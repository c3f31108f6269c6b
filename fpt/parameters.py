"""Makes the parameters of runs before their first step.

They are drawn from seeds, loaded from a checkpoint, made by a birth (see `fpt.births`), or taken
over from the run that a run begins from.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fpt import bodies, records, registry, roles
from fpt import checkpoint as checkpoints
from fpt.births import BIRTHS
from fpt.body import Body, Parameter
from fpt.checkpoint import Checkpoint
from fpt.config import Config
from fpt.contract_body import check_body
from fpt.errors import UserError, nearest
from fpt.gpt2 import GPT2
from fpt.initialisers import draw
from fpt.model import Model, table
from fpt.randomness import stream
from fpt.task import Interface

# The settings that say what parameters a run begins with.
INITIAL = {"task", "body", "layers", "width", "load", "birth", "redraw", "init", "body_seed",
           "body_file"}


def resolve(config: Config) -> tuple[Config, Checkpoint | None]:
    """Fills in a configuration's load set, body and weights, and finds the checkpoint to load from.

    Raises UserError where there is no such body, for sets of roles that cannot be loaded, and for a
    task that is longer than the body's positions.
    """
    known, found = config.geometry or bodies.named(config.body), None
    if config.body_file:
        known = registry.body_from_file(Path(config.body_file))()
    if known is None:
        found = checkpoints.locate(config.body)
    body = _sized(found.geometry if found else known, config)
    if config.body_file:
        check_body(body, config.body_file)
    if config.init not in body.inits:
        raise nearest(config.init, body.inits, f"--init of {config.body}")
    load = config.load or default_load(config, body)
    chosen = roles.parse(load)
    known_roles = roles.NAMES["body"] + "+token" * config.task.interface.tied
    if outside := chosen.roles - roles.parse(known_roles).roles:
        raise UserError(f"--load for {config.task.name} takes roles of {known_roles}, not "
                        f"{', '.join(sorted(outside))}")
    described = _loadable(config.task.interface, body)
    birth, redraw = BIRTHS[config.birth], roles.parse(config.redraw)
    closed = birth.roles if birth and not birth.reads else ()
    read = [name for name in chosen.among(described)
            if described[name].role not in closed or not redraw.holds(described[name])]
    if read and not isinstance(body, GPT2):
        raise UserError(f"--load {load}: no weights of {config.body} exist; say --load none")
    if read and not found:
        found = checkpoints.locate(config.body)
        body = _sized(found.geometry, config)
    tokens = config.task.interface.tokens
    if body.positions is not None and tokens > body.positions:
        raise UserError(f"{config.task.name} has {tokens} tokens, but {config.body} only "
                        f"{body.positions} positions; make the task shorter or choose another body")
    # A folder is stated absolutely, so that it is found again from anywhere.
    place = config.body
    if found and found.folder == Path(place):
        place = os.path.abspath(place)
    found = found if read else None
    digest = found.digest if found else None
    # Bodies are compared by what they state: each execution of a user's file makes a class anew.
    geometry = config.geometry and bodies.stated(config.geometry)
    for stated, here, what in ((config.checkpoint, digest, "weights"),
                               (geometry, bodies.stated(body), "config.json")):
        if stated is not None and stated != here:
            raise UserError(f"the {what} of {config.body!r} are not those that this run was "
                            "trained with; put them back, or say with --body where they lie now")
    return dataclasses.replace(config, body=place, load=load, geometry=body,
                               checkpoint=digest), found


def _loadable(interface: Interface, body: Body) -> dict[str, Parameter]:
    """Describes the parameters that a checkpoint can have: the body's, and a language model's token
    table."""
    return {name: one for name, one in table(interface, body).items()
            if one.owner == "body" or one.role == "token"}


def default_load(config: Config, body: Body) -> str:
    """Names the roles that a run loads unless `--load` names others.

    They are those of the body; or, under a birth in closed form, those that it makes; or none, for
    a kind of body that has no checkpoints.
    """
    birth = BIRTHS[config.birth]
    if birth and not birth.reads:
        terms = roles.parse(config.redraw).terms
        made = [role if first is None else f"{role}@{first}-{last}"
                for role, first, last in terms if role in birth.roles]
        return "+".join(made) or "none"
    return "body" if isinstance(body, GPT2) else "none"


def _sized(body: Body, config: Config) -> Body:
    """Applies the sizes and dropout rates that a configuration states to the body that it names."""
    return body.resized(
        layers=config.layers, width=config.width, embedding_dropout=config.embedding_dropout,
        attention_dropout=config.attention_dropout, residual_dropout=config.residual_dropout)


def model_of(config: Config) -> Model:
    """Builds the model that a resolved configuration describes."""
    return Model(config.task.interface, config.geometry, config.dropout, jnp.dtype(config.dtype))


def run_key(seed: int, name: str | None):
    """Makes the key of a run from its seed and the name of its stream, if it has one of its own."""
    key = jax.random.key(seed)
    return stream(key, name) if name else key


class Source:
    """Makes the parameters of runs that differ only in learning rates, seeds and start.

    A value depends on its name and the run's seeds alone, so each is made where it is needed, in
    the dtype that it is held in, and never kept twice: a body fills most of a run's memory.
    """

    def __init__(self, config: Config, found: Checkpoint | None, runs: Sequence[Config] = (),
                 reached: int | None = None, alike: bool = False):
        """Reads the parameters that are loaded.

        runs: all that share the configuration, which tells which parameters differ between them.
        reached: how many positions the inputs reach.  Of a table of positions that is trained, a
        run holds the rows of these alone, since the others have no gradient.  None holds all.
        alike: whether stacks are made of runs that share all frozen parameters: see `shared_by`.
        """
        self.config, self.dtype = config, jnp.dtype(config.dtype)
        self.table = dict(table(config.task.interface, config.geometry, config.init))
        self.trainable = roles.parse(config.train).among(self.table)
        self.frozen = [name for name in self.table if name not in self.trainable]
        self.runs, self.alike = runs or [config], alike
        self.own_bodies = len({_body_seed(run) for run in self.runs}) > 1
        self._starts: dict[str, dict[str, np.ndarray]] = {}

        interface = config.task.interface
        known = _loadable(interface, config.geometry)
        loaded = set(roles.parse(config.load).among(known))
        whole = _loadable(interface, found.geometry) if found else {}  # a cut body has more blocks
        birth, redraw, redrawn = BIRTHS[config.birth], roles.parse(config.redraw), set()
        if birth:
            redrawn = {name for name in loaded if redraw.holds(known[name])
                       and (birth.roles is None or known[name].role in birth.roles)}
            if not redrawn:
                raise UserError(f"--birth {config.birth} makes nothing anew with --load "
                                f"{config.load} and --redraw {config.redraw}")
            values = checkpoints.read(found, redrawn.__contains__, whole) if birth.reads else {}
            part = {name: self.table[name] for name in sorted(redrawn)}
            for name, initialiser in birth.initialisers(part, values, config.geometry).items():
                self.table[name] = dataclasses.replace(
                    self.table[name], initialiser=initialiser, exact=birth.exact)
        kept = loaded - redrawn
        self.loaded = (checkpoints.read(found, kept.__contains__, whole, self._dtype)
                       if found and kept else {})
        for name in self.trainable:
            if reached and self.table[name].by_position:
                self.table[name] = _first_rows(self.table[name], reached)

    def _dtype(self, name: str):
        """Chooses a parameter's dtype: `config.dtype` for a block's frozen matrix, else float32."""
        frozen_matrix = self.table[name].matrix and name in self.frozen
        return self.dtype if frozen_matrix else np.float32

    def values(self, config: Config, names: Sequence[str],
               stored: Mapping[str, np.ndarray] | None = None) -> dict[str, jax.Array]:
        """Makes the parameters of these names for one run.

        stored: the frozen ones that lie in the run's folder (see `to_store`); None where there is
        no folder yet.
        """
        given = dict(stored or {})
        if config.begins and (stored is None or not {*names} <= {*self.frozen}):
            given = self._start(config) | given
        given = {name: value.astype(self._dtype(name), copy=False) for name, value in given.items()}
        fewer = {name: value for name, value in given.items()
                 if self.table[name].by_position and len(value) < self.table[name].shape[0]}
        given = self.loaded | {name: given[name] for name in given.keys() - fewer.keys()}
        fresh = {name: self.table[name] for name in names if name not in given}
        own = {name: one for name, one in fresh.items() if one.owner == "run"}
        body = {name: one for name, one in fresh.items() if one.owner == "body"}
        dtypes = {name: self._dtype(name) for name in fresh}
        drawn = draw(own, stream(run_key(config.seed, config.stream), "layers"), dtypes)
        drawn |= draw(body, stream(jax.random.key(_body_seed(config)), "body"), dtypes)
        found = {name: given[name] if name in given else drawn[name] for name in names}
        for name in names:
            if found[name].shape != (shape := self.table[name].shape):
                found[name] = found[name][: shape[0]]
            if name in fewer:
                found[name] = np.concatenate([fewer[name], found[name][len(fewer[name]) :]])
        return {name: jax.device_put(value) for name, value in found.items()}

    def _start(self, config: Config) -> dict[str, np.ndarray]:
        """Makes the parameters that a run takes over from the run that it begins from.

        They are those in that run's folder, and the layers that were drawn from that run's seed.
        """
        if config.begins not in self._starts:
            folder = Path(config.start)
            if not folder.is_dir():
                raise UserError(f"no folder {folder}, which this run begins from; put it back")
            values, begins = records.ended(folder)
            if begins != config.begins:
                raise UserError(f"{folder} no longer holds what this run begins with; put that "
                                "back, or choose another --out")
            stated = records.read_json(folder / records.CONFIG)
            own = {name: one for name, one in self.table.items()
                   if one.owner == "run" and name not in values}
            key = stream(run_key(stated["seed"], stated.get("stream")), "layers")
            self._starts[config.begins] = draw(own, key) | values
        return self._starts[config.begins]

    def to_store(self, config: Config) -> list[str]:
        """Names the frozen parameters that cannot be drawn or loaded again on every machine.

        They are stored in the run's folder: those taken over from an earlier run, and those made by
        a QR or SVD, which rounds differently on other kinds of CPU.
        """
        given = self._start(config) if config.begins else ()
        return [name for name in self.frozen if name in given or not self.table[name].exact]

    def axes(self, runs: int) -> dict[str, int | None]:
        """Tells which axis of each frozen parameter is the runs'; None where a stack shares it."""
        own = {name for name, one in self.table.items()
               if name not in self.loaded and (one.owner == "run" or self.own_bodies)}
        starts = {run.begins: run for run in self.runs if run.begins}
        if len(starts) == 1 or self.alike:
            return dict.fromkeys(self.frozen)  # all begin with the same parameters
        for run in starts.values() if len(starts) > 1 else ():
            own.update(self._start(run))
        return {name: 0 if runs > 1 and name in own else None for name in self.frozen}

    def shared_by(self, config: Config) -> tuple:
        """Returns what determines a run's frozen parameters: runs for which it is
        equal share them."""
        return config.begins or config.seed, _body_seed(config)

    def shares_body(self, runs: int) -> bool:
        """Tells whether the runs of a stack of so many share the matrices of their blocks."""
        axes = self.axes(runs)
        return all(axes.get(name, 0) is None for name, one in self.table.items() if one.matrix)

    def describe(self, runs: int) -> tuple[dict, dict]:
        """Describes what `stack` gives for so many runs, as shapes and dtypes; nothing is drawn."""
        axes = self.axes(runs)

        def array(name: str, own: bool) -> jax.ShapeDtypeStruct:
            shape = self.table[name].shape
            return jax.ShapeDtypeStruct((runs, *shape) if own else shape, self._dtype(name))

        return ({name: array(name, True) for name in self.trainable},
                {name: array(name, axes[name] is not None) for name in self.frozen})

    def stack(self, configs: Sequence[Config],
              stored: Sequence[Mapping[str, np.ndarray] | None] = ()) -> tuple[dict, dict]:
        """Makes the parameters of a stack: trainable ones [R, ...], and frozen ones.

        Frozen ones have the axis R only where `axes` says 0; else all runs share one array.

        stored: for each run, the frozen parameters that lie in its folder; None as in `values`.
        """
        stored = stored or [None] * len(configs)
        axes = self.axes(len(configs))
        shared = [name for name in self.frozen if axes[name] is None]
        own = [name for name in self.table if name not in shared]
        runs = [self.values(config, own, there) for config, there in zip(configs, stored)]
        stacked = {name: jnp.stack([run.pop(name) for run in runs]) for name in own}
        frozen = self.values(configs[0], shared, stored[0])
        frozen |= {name: stacked[name] for name in self.frozen if axes[name] == 0}
        return {name: stacked[name] for name in self.trainable}, frozen


def _first_rows(parameter: Parameter, count: int) -> Parameter:
    """Describes the first rows of a parameter, whose values are those of the whole one."""
    whole, initialise = parameter.shape, parameter.initialiser
    return dataclasses.replace(
        parameter, shape=(min(count, whole[0]), *whole[1:]),
        initialiser=lambda seeded, name, shape, dtype: (
            initialise(seeded, name, whole, dtype)[: shape[0]]))


def _body_seed(config: Config) -> int:
    return config.seed if config.body_seed is None else config.body_seed
