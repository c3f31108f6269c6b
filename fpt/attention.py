"""Measures what attention heads look at: exact weights, and averages over examples.

A model is walked through block by block: one layer's weights are in memory at a time, and one
compiled function serves all layers.  `fpt.ablation` measures whether the answers need a head.

Layers and heads are counted from 0.  A *query* is the token that attends, a *key* the token that is
attended to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from fpt.gpt2 import Block, Heads
from fpt.load import LoadedBody, LoadedRun
from fpt.model import BODY
from fpt.task import Task

TOKENS_AT_ONCE = 2_048  # in a chunk: what a block computes then fits a CPU's cache
WEIGHTS_AT_ONCE = 2**24  # attention weights of a layer
READ, ALL = "read", "all"  # the queries of an average: see `measure`


def maps(model: LoadedRun | LoadedBody, inputs) -> Iterator[jax.Array]:
    """Yields the attention weights of each layer in turn, float32 [B, H, T, T] by query and key.

    inputs: as the task stores them for a run, embedded tokens [B, T, D] for a body.  These are the
    softmax's weights, without dropout: each row sums to one, and no query attends to a later key.
    Rows of pads mean nothing.
    """
    x = model.enter(inputs)
    for layer in range(model.geometry.layers):
        x, weights = through(*block(model, layer), x)
        yield weights


@dataclass(frozen=True)
class Measures:
    """Holds averages of what the heads of a model look at."""

    n: int  # examples
    mean: np.ndarray  # float32 [L, H, T, T]: the mean map; a row averages the examples that have it
    values: dict[str, dict[str, np.ndarray]]  # name of a measure -> READ or ALL -> [L, H]
    uniform: dict[str, dict[str, float]]  # likewise, if queries attended to all tokens so far alike


def units(task: Task) -> dict[str, str]:
    """Lists the measures and their units, except those on `answer_tokens`, which are all shares."""
    axes = {f"distance in {axis}": "patches" for axis in ("rows", "columns")} if task.grid else {}
    return {"entropy": "nats", "distance": "tokens", "first token": "share", **axes}


def measure(run: LoadedRun, inputs) -> Measures:
    """Averages over examples what each head attends to.  inputs: as the task stores them [N, ...].

    READ measures take as queries the tokens that the output layer reads, ALL measures all tokens
    but pads.  READ alone: the share of a head's attention on each of the task's `answer_tokens`,
    named sets of tokens such as those that the answer follows from.  Both: the entropy in nats, the
    mean distance from query to key in tokens, for images also in rows and in columns of patches,
    and the share of the attention on the first token.
    """
    task, count, tokens = run.task, len(inputs), run.task.interface.tokens
    parts = list(chunks(count, tokens, WEIGHTS_AT_ONCE // (run.geometry.heads * tokens**2)))
    answers = {name: np.asarray(mask) for name, mask in task.answer_tokens(inputs).items()}
    offsets, about, streams = _offsets(task), [], []
    for numbers, counted in parts:
        real, places = real_and_read(run, inputs[numbers])
        masks = {name: mask[numbers] for name, mask in answers.items()}
        about.append((real & counted[:, None], jnp.asarray(counted), places, masks))
        streams.append(run.enter(inputs[numbers]))
    rows = sum(np.asarray(real).sum(axis=0) for real, *_ in about)  # [T]: examples with that token
    shares = {READ: count * task.interface.queries, ALL: rows.sum()}
    order = [*answers, *units(task)]

    def averaged(sums: list[dict]) -> dict[str, dict[str, np.ndarray]]:
        total = jax.tree.map(lambda *parts: np.sum(np.asarray(parts, np.float64), axis=0), *sums)
        return {name: {which: value / shares[which] for which, value in total[name].items()}
                for name in order}

    visible = jnp.arange(1, tokens + 1, dtype=jnp.float32)  # [T]: tokens that each token sees
    uniform = jnp.tril(jnp.ones((tokens, tokens))) / visible[:, None]
    spread = lambda part: jnp.broadcast_to(uniform, (len(part[0]), 1, tokens, tokens))
    null = averaged([_sums(spread(part), offsets, *part) for part in about])
    values: list[dict] = []
    mean = np.empty((run.geometry.layers, run.geometry.heads, tokens, tokens), np.float32)
    for layer in range(run.geometry.layers):
        own, sums, total = block(run, layer), [], 0
        for place, part in enumerate(about):
            streams[place], weights = through(*own, streams[place])
            sums.append(_sums(weights, offsets, *part))
            total = total + jnp.einsum("bhqt,bq->hqt", weights, part[0].astype(jnp.float32))
        values.append(averaged(sums))
        np.divide(total, np.maximum(rows, 1)[:, None], out=mean[layer])
    stacked = {name: {which: np.stack([found[name][which] for found in values])
                      for which in null[name]} for name in order}
    of_uniform = {name: {which: float(value[0]) for which, value in null[name].items()}
                  for name in order}
    return Measures(count, mean, stacked, of_uniform)


def block(model: LoadedRun | LoadedBody, layer: int) -> tuple[Block, dict]:
    """Returns the module of a layer's block, and the parameters to apply it with."""
    prefix = f"{BODY}h_{layer}/"
    own = {name.removeprefix(prefix): value for name, value in model.parameters.items()
           if name.startswith(prefix)}
    return Block(model.geometry, model.dtype), unflatten_dict(own, sep="/")


@partial(jax.jit, static_argnames="block")
def through(block: Block, parameters: Mapping, x, read=None, heads: Heads | None = None):
    """Passes the residual stream x [B, T, D] through a block.

    Returns what leaves the block, for the tokens `read` (see `Body.module`), and the attention
    weights.
    """
    return block.apply({"params": parameters}, x, read, heads=heads)


def chunks(count: int, tokens: int,
           most: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the indices of examples in chunks of one size, each with a mask, false for filler.

    The last chunk is filled up with the first examples.  count: the number of examples.  tokens:
    the number of tokens in one; chunks of longer examples are smaller.  most: the largest size.
    """
    size = max(1, min(count, TOKENS_AT_ONCE // tokens, most or count))
    for start in range(0, count, size):
        yield np.arange(start, start + size) % count, np.arange(start, start + size) < count


def real_and_read(run: LoadedRun, inputs) -> tuple[jax.Array, jax.Array]:
    """Finds the tokens that are no pads, bool [B, T], and the indices of those read, int [B, Q]."""
    task, tokens = run.task, run.task.encode(jnp.asarray(inputs))
    read = run.model.read(tokens)
    if isinstance(read, int):
        places = jnp.arange(task.interface.tokens - read, task.interface.tokens)
        read = jnp.broadcast_to(places, (len(tokens), read))
    if task.interface.pad is None:
        return jnp.ones((len(tokens), task.interface.tokens), bool), read
    return tokens != task.interface.pad, read


def _offsets(task: Task) -> dict[str, np.ndarray]:
    """Measures how far each key lies from each query, [T, T], by the name of the distance."""
    places = np.arange(task.interface.tokens)
    coordinates = {"distance": places}
    if task.grid:
        names = "distance in rows", "distance in columns"
        coordinates |= zip(names, np.divmod(places, task.grid[1]))
    return {name: np.abs(along[:, None] - along).astype(np.float32)
            for name, along in coordinates.items()}


@jax.jit
def _sums(weights, offsets: dict, real, counted, places, masks: dict) -> dict[str, dict]:
    """Sums the measures of maps [B, H, T, T] over queries and examples: name -> READ or ALL -> [H].

    offsets: see `_offsets`.  real: bool [B, T], false for pads and in filler.  counted: bool [B],
    false for filler.  places: int [B, Q], the indices of the tokens that are read.  masks: by name,
    bool [B, Q, T], the task's `answer_tokens`.
    """
    rows = {"entropy": -jax.scipy.special.xlogy(weights, weights).sum(axis=-1),
            "first token": weights[..., 0]}  # [B, H, T]
    rows |= {name: jnp.einsum("bhqt,qt->bhq", weights, offset) for name, offset in offsets.items()}
    counted = counted.astype(jnp.float32)
    at_read = lambda values: jnp.take_along_axis(values, places[:, None], axis=2)  # -> [B, H, Q]
    sums = {name: {READ: jnp.einsum("bhq,b->h", at_read(row), counted),
                   ALL: jnp.einsum("bhq,bq->h", row, real.astype(jnp.float32))}
            for name, row in rows.items()}
    read = jnp.take_along_axis(weights, places[:, None, :, None], axis=2)  # [B, H, Q, T]
    on = lambda mask: jnp.einsum("bhqt,bqt,b->h", read, mask.astype(jnp.float32), counted)
    return {name: {READ: on(mask)} for name, mask in masks.items()} | sums
