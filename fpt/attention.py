"""Attention that one can look into: the weights of every head, what they come to, and what is lost without a head.

`maps` gives exact weights, `measure` sums them up over many examples beside what uniform attention would give, and
`Ablation` answers a task with some of the heads taken out, so that "it attends to the answer" can be held against "the
answer needs it".  A model is walked through block by block: one layer is in memory at a time, and one compiled function
serves all layers and all heads.

Layers and heads are counted from 0.  A *query* is the token that attends, a *key* the token that is attended to.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import unflatten_dict

from fpt.gpt2 import Block, Heads
from fpt.load import LoadedBody, LoadedRun
from fpt.task import UNSCORED, Split, Task

TOKENS_AT_ONCE = 2_048  # in a chunk: what a block computes then fits a CPU's cache
WEIGHTS_AT_ONCE = 2**24  # attention weights of a layer
RESAMPLES = 2_000  # of the bootstrap
BY = ("zero", "mean")  # what stands in for a head that is taken out
READ, ALL = "read", "all"  # the queries that a measure is averaged over: those that are read, or all that are no pads


def maps(model: LoadedRun | LoadedBody, inputs) -> Iterator[jax.Array]:
    """Yields the attention weights of each layer in turn, float32 [B, H, T, T] by query and key.

    They are those of the softmax, without dropout.  inputs: as the task stores them for a run, embedded tokens [B, T, D]
    for a body.  Each row sums to one, and no query attends to a later key; rows of pads mean nothing.
    """
    x = model.enter(inputs)
    for layer in range(model.geometry.layers):
        x, weights = _through(_block(model), _parameters(model, layer), x)
        yield weights


@dataclass(frozen=True)
class Measures:
    """What the heads of a model look at, averaged over `n` examples."""

    n: int
    mean: np.ndarray  # float32 [L, H, T, T]: the mean of the maps; a row is the mean over those examples that have the token
    values: dict[str, dict[str, np.ndarray]]  # name of a measure -> READ or ALL -> [L, H]
    uniform: dict[str, dict[str, float]]  # likewise, of attention that is uniform over all tokens up to the query


def units(task: Task) -> dict[str, str]:
    """The unit of each of the task's measures but for those that `answer_tokens` names, which are shares of the weights."""
    axes = {f"distance in {axis}": "patches" for axis in ("rows", "columns")} if task.grid else {}
    return {"entropy": "nats", "distance": "tokens", "first token": "share", **axes}


def measure(run: LoadedRun, inputs) -> Measures:
    """Sums up what each head looks at over examples, inputs as the task stores them [N, ...].

    For each of the task's `answer_tokens`, the share of the weights that falls on these, at the tokens that are read.  And
    at these (READ) and at all tokens (ALL): entropy in nats; mean distance from query to key in tokens, and for images in
    rows and in columns of patches; the share that falls on the first token.
    """
    task, count, tokens = run.task, len(inputs), run.task.interface.tokens
    chunks = list(_chunks(count, tokens, WEIGHTS_AT_ONCE // (run.geometry.heads * tokens**2)))
    answers = {name: np.asarray(mask) for name, mask in task.answer_tokens(inputs).items()}
    offsets, about, streams = _offsets(task), [], []
    for numbers, counted in chunks:
        real, places = _tokens(run, inputs[numbers])
        masks = {name: mask[numbers] for name, mask in answers.items()}
        about.append((real & counted[:, None], jnp.asarray(counted), places, masks))
        streams.append(run.enter(inputs[numbers]))
    rows = sum(np.asarray(real).sum(axis=0) for real, *_ in about)  # [T]: examples that have the token
    shares, order = {READ: count * task.interface.queries, ALL: rows.sum()}, [*answers, *units(task)]

    def averaged(sums: list[dict]) -> dict[str, dict[str, np.ndarray]]:
        total = jax.tree.map(lambda *parts: np.sum(np.asarray(parts, np.float64), axis=0), *sums)
        return {name: {which: value / shares[which] for which, value in total[name].items()} for name in order}

    uniform = jnp.tril(jnp.ones((tokens, tokens))) / jnp.arange(1, tokens + 1)[:, None]
    null = averaged([_sums(jnp.broadcast_to(uniform, (len(part[0]), 1, tokens, tokens)), offsets, *part) for part in about])
    values: list[dict] = []
    mean = np.empty((run.geometry.layers, run.geometry.heads, tokens, tokens), np.float32)
    for layer in range(run.geometry.layers):
        own, sums, total = _parameters(run, layer), [], 0
        for place, part in enumerate(about):
            streams[place], weights = _through(_block(run), own, streams[place])
            sums.append(_sums(weights, offsets, *part))
            total = total + jnp.einsum("bhqt,bq->hqt", weights, part[0].astype(jnp.float32))
        values.append(averaged(sums))
        np.divide(total, np.maximum(rows, 1)[:, None], out=mean[layer])
    stacked = {name: {which: np.stack([found[name][which] for found in values]) for which in null[name]} for name in order}
    return Measures(count, mean, stacked, {name: {which: float(value[0]) for which, value in null[name].items()}
                                           for name in order})


class Ablation:
    """Answers examples of a task with some heads taken out.

    A head that is taken out passes on zeros, or the mean over the examples of what it passes on at each token (`by`, see
    BY); the rest of the model computes on.  A forward pass begins at the first layer that lacks a head.
    """

    def __init__(self, run: LoadedRun, split: Split, by: str = "zero"):
        self.run, self.split = run, split
        self.chunks = [(numbers, counted, _tokens(run, split.inputs[numbers]))
                       for numbers, counted in _chunks(len(split.inputs), run.task.interface.tokens)]
        # What enters each block, [L][chunk], and then the last norm.
        self.streams = [[run.enter(split.inputs[numbers]) for numbers, _, _ in self.chunks]]
        geometry = run.geometry
        shape = (run.task.interface.tokens, geometry.heads, geometry.width // geometry.heads)
        self.instead = np.zeros((geometry.layers, *shape), np.float32)  # [L, T, H, D / H]
        for layer in range(geometry.layers):
            if by == "mean":
                total, count = np.zeros(shape), np.zeros((len(self.instead[layer]), 1, 1))
                for x, (_, counted, (real, _)) in zip(self.streams[layer], self.chunks):
                    weight = real & counted[:, None]
                    total += np.asarray(_mixed(_block(run), _parameters(run, layer), x, weight))
                    count = count + np.asarray(weight).sum(axis=0)[:, None, None]
                self.instead[layer] = total / np.maximum(count, 1)
            if layer + 1 < geometry.layers:
                self.streams.append([self._block(layer, x, place) for place, x in enumerate(self.streams[layer])])

    def answers(self, kept: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Predictions [N, A] and mean losses [N] with those heads alone that are kept, bool [L, H]; with all of them for None."""
        geometry = self.run.geometry
        kept = np.ones((geometry.layers, geometry.heads), bool) if kept is None else kept
        lacking = np.flatnonzero(~kept.all(axis=1))
        first = int(lacking[0]) if len(lacking) else geometry.layers - 1
        found = []
        for place, (numbers, _, _) in enumerate(self.chunks):
            x = self.streams[first][place]
            for layer in range(first, geometry.layers):
                x = self._block(layer, x, place, kept[layer])
            found.append(_scored(self.run.leave(x), self.split.targets[numbers]))
        predictions, losses = (np.concatenate(parts)[: len(self.split.inputs)] for parts in zip(*found))
        return predictions, losses

    def _block(self, layer: int, x, place: int, kept: np.ndarray | None = None):
        """What leaves a block; where it is the last one, of the tokens that are read."""
        last = layer == self.run.geometry.layers - 1
        places = self.chunks[place][2][1] if last else None
        instead = jnp.asarray(self.instead[layer])
        kept = np.ones(self.run.geometry.heads, bool) if kept is None else kept
        heads = Heads(jnp.asarray(kept), instead[places] if last else instead)
        return _through(_block(self.run), _parameters(self.run, layer), x, places, heads)[0]


@dataclass(frozen=True)
class Losses:
    """The accuracy that is lost with each head taken out alone."""

    n: int  # examples
    accuracy: float  # with all heads
    lost: np.ndarray  # [L, H]
    error: np.ndarray  # [L, H]: the standard error of what is lost, over examples
    nats: np.ndarray  # [L, H]: by how much the mean loss grows
    slices: dict[str, np.ndarray]  # name of a part of the answers -> [L, H]: what is lost of the accuracy on it


def ablate(ablation: Ablation, step: Callable[[], None] = lambda: None) -> Losses:
    """Takes out each head of the body alone.  step: called after each head."""
    geometry, (inputs, targets) = ablation.run.geometry, ablation.split
    predictions, losses = ablation.answers()
    whole, scored = predictions == targets, targets != UNSCORED
    parts = {name: mask & scored for name, mask in ablation.run.task.slices(inputs).items()}
    parts = {name: mask for name, mask in parts.items() if mask.any()}
    lost, error, nats = np.empty((3, geometry.layers, geometry.heads))
    slices = {name: np.empty_like(lost) for name in parts}
    for place in np.ndindex(lost.shape):
        kept = np.ones(lost.shape, bool)
        kept[place] = False
        predictions, without = ablation.answers(kept)
        differ = whole.astype(np.float64) - (predictions == targets)  # [N, A]
        lost[place] = differ.mean(where=scored)
        nats[place] = (without.astype(np.float64) - losses).mean()
        error[place] = np.sqrt(len(inputs) * (differ * scored).sum(axis=1).var()) / scored.sum()
        for name, mask in parts.items():
            slices[name][place] = differ.mean(where=mask)
        step()
    return Losses(len(inputs), float(whole.mean(where=scored)), lost, error, nats, slices)


def smallest(ablation: Ablation, losses: Losses, floor: float, share: float = 0.95,
             step: Callable[[], None] = lambda: None) -> tuple[np.ndarray, float]:
    """A set of heads that keeps `share` of the accuracy above the floor: bool [L, H], and the accuracy with it.

    Heads are taken out one after another, those that lose least alone first, each for good if what is left still keeps
    the share; and so on until none can go.  That makes it a set without a head too many, not the smallest of all sets.
    step: called after each try.
    """
    targets = ablation.split.targets
    needed = floor + share * (losses.accuracy - floor)
    kept, accuracy = np.ones(losses.lost.shape, bool), losses.accuracy
    order = np.array(np.unravel_index(np.argsort(losses.lost, axis=None, kind="stable"), kept.shape)).T.tolist()
    while True:
        before = kept.sum()
        for layer, head in order:
            if kept[layer, head]:
                kept[layer, head] = False
                found = float((ablation.answers(kept)[0] == targets).mean(where=targets != UNSCORED))
                if found < needed:
                    kept[layer, head] = True
                else:
                    accuracy = found
                step()
        if kept.sum() == before:
            return kept, accuracy


def correlation(mass: np.ndarray, lost: np.ndarray) -> dict[str, float | None]:
    """Spearman's rank correlation over heads of their mass on the answer with what is lost without them.

    rho, and its 95% interval from low to high: percentiles of 2,000 bootstrap resamples of the heads.  rho is None where
    one of the two does not vary; so is the interval where that happens in more than one resample of twenty, since then it
    hangs on a head or two.
    """
    from scipy.stats import bootstrap, rankdata

    def rho(a, b, axis=-1):
        a, b = (rankdata(values, axis=axis) for values in (a, b))
        a, b = (values - values.mean(axis=axis, keepdims=True) for values in (a, b))
        with np.errstate(invalid="ignore"):
            return (a * b).sum(axis=axis) / np.sqrt((a * a).sum(axis=axis) * (b * b).sum(axis=axis))

    mass, lost = np.ravel(mass), np.ravel(lost)
    if np.ptp(mass) == 0 or np.ptp(lost) == 0:
        return {"rho": None, "low": None, "high": None}
    with warnings.catch_warnings(action="ignore"):  # of resamples in which nothing varies
        drawn = bootstrap((mass, lost), rho, paired=True, n_resamples=RESAMPLES, method="percentile",
                          rng=np.random.default_rng(0)).bootstrap_distribution
    if np.isnan(drawn).mean() > 0.05:
        return {"rho": float(rho(mass, lost)), "low": None, "high": None}
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {"rho": float(rho(mass, lost)), "low": float(low), "high": float(high)}


@partial(jax.jit, static_argnames="block")
def _through(block: Block, parameters: Mapping, x, read=None, heads: Heads | None = None):
    """x [B, T, D] through a block: what leaves it, of the tokens that are read, and the attention weights."""
    return block.apply({"params": parameters}, x, read, heads=heads)


@partial(jax.jit, static_argnames="block")
def _mixed(block: Block, parameters: Mapping, x, weight):
    """What each head passes on at each token, summed over the examples that count: [T, H, D / H]; weight: bool [B, T]."""
    mixed, _ = block.apply({"params": parameters}, x, method="mix")
    return jnp.einsum("bthd,bt->thd", mixed, weight.astype(jnp.float32))


@jax.jit
def _scored(logits, targets) -> tuple[jax.Array, jax.Array]:
    """Logits [B, A, C] and targets [B, A] -> predictions [B, A], and the mean loss of each example [B]."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return logits.argmax(-1).astype(jnp.int32), losses.mean(-1, where=targets != UNSCORED)


def _block(model: LoadedRun | LoadedBody) -> Block:
    return Block(model.geometry, model.dtype)


def _parameters(model: LoadedRun | LoadedBody, layer: int) -> dict:
    """The parameters of one block, as its module takes them."""
    prefix = f"body/h_{layer}/"
    own = {name.removeprefix(prefix): value for name, value in model.parameters.items() if name.startswith(prefix)}
    return unflatten_dict(own, sep="/")


def _chunks(count: int, tokens: int, most: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The numbers of the examples of each chunk, and which of them count: the last chunk is filled up from the front."""
    size = max(1, min(count, TOKENS_AT_ONCE // tokens, most or count))
    for start in range(0, count, size):
        yield np.arange(start, start + size) % count, np.arange(start, start + size) < count


def _tokens(run: LoadedRun, inputs) -> tuple[jax.Array, jax.Array]:
    """Which tokens are no pads, bool [B, T], and the places of those that are read, int [B, Q]."""
    task, tokens = run.task, run.task.encode(jnp.asarray(inputs))
    read = run.model.read(tokens)
    if isinstance(read, int):
        read = jnp.broadcast_to(jnp.arange(task.interface.tokens - read, task.interface.tokens), (len(tokens), read))
    pad = task.interface.pad
    real = jnp.ones((len(tokens), task.interface.tokens), bool) if pad is None else tokens != pad
    return real, read


def _offsets(task: Task) -> dict[str, np.ndarray]:
    """How far each key lies from each query, [T, T], by the name of the distance."""
    places = np.arange(task.interface.tokens)
    coordinates = {"distance": places}
    if task.grid:
        coordinates |= zip(("distance in rows", "distance in columns"), np.divmod(places, task.grid[1]))
    return {name: np.abs(along[:, None] - along).astype(np.float32) for name, along in coordinates.items()}


@jax.jit
def _sums(weights, offsets: dict, real, counted, places, masks: dict) -> dict[str, dict]:
    """The measures of maps [B, H, T, T], summed over the queries of the examples that count: name -> READ or ALL -> [H].

    real: bool [B, T], which tokens of which examples count.  places [B, Q]: of the tokens that are read.  masks: bool
    [B, Q, T], the tokens that hold the answer.
    """
    rows = {"entropy": -jax.scipy.special.xlogy(weights, weights).sum(axis=-1), "first token": weights[..., 0]}  # [B, H, T]
    rows |= {name: jnp.einsum("bhqt,qt->bhq", weights, offset) for name, offset in offsets.items()}
    counted = counted.astype(jnp.float32)
    at_read = lambda values: jnp.take_along_axis(values, places[:, None], axis=2)  # [B, H, T] -> [B, H, Q]
    sums = {name: {READ: jnp.einsum("bhq,b->h", at_read(row), counted),
                   ALL: jnp.einsum("bhq,bq->h", row, real.astype(jnp.float32))} for name, row in rows.items()}
    read = jnp.take_along_axis(weights, places[:, None, :, None], axis=2)  # [B, H, Q, T]
    on = lambda mask: jnp.einsum("bhqt,bqt,b->h", read, mask.astype(jnp.float32), counted)
    return {name: {READ: on(mask)} for name, mask in masks.items()} | sums
