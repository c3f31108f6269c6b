"""Measures how a model's accuracy falls and its loss grows when attention heads are taken out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fpt.attention import block, chunks, real_and_read, through
from fpt.gpt2 import Block, Heads
from fpt.load import LoadedRun
from fpt.task import UNSCORED, Split
from fpt.trainer import predictions_and_losses

RESAMPLES = 2_000  # of the bootstrap
BY = ("zero", "mean")  # what replaces the output of a head that is taken out

_answers = jax.jit(predictions_and_losses)


class Ablation:
    """Computes a run's answers with the outputs of some heads replaced.

    The output of a head that is taken out is replaced by zeros or, at each token, by its mean over
    the examples (`by`, see BY).  What enters each block with all heads is stored, so that only the
    blocks from the first one that lacks a head are computed again.
    """

    def __init__(self, run: LoadedRun, split: Split, by: str = "zero"):
        self.run, self.split = run, split
        self.chunks = [(numbers, counted, real_and_read(run, split.inputs[numbers]))
                       for numbers, counted in chunks(len(split.inputs), run.task.interface.tokens)]
        # What enters each block, [L][chunk].
        self.streams = [[run.enter(split.inputs[numbers]) for numbers, _, _ in self.chunks]]
        geometry = run.geometry
        shape = (run.task.interface.tokens, geometry.heads, geometry.width // geometry.heads)
        self.instead = np.zeros((geometry.layers, *shape), np.float32)  # [L, T, H, D / H]
        for layer in range(geometry.layers):
            if by == "mean":
                total, count = np.zeros(shape), np.zeros((len(self.instead[layer]), 1, 1))
                for x, (_, counted, (real, _)) in zip(self.streams[layer], self.chunks):
                    weight = real & counted[:, None]
                    total += np.asarray(_mixed(*block(run, layer), x, weight))
                    count = count + np.asarray(weight).sum(axis=0)[:, None, None]
                self.instead[layer] = total / np.maximum(count, 1)
            if layer + 1 < geometry.layers:
                self.streams.append([self._through(layer, x, place)
                                     for place, x in enumerate(self.streams[layer])])

    def answers(self, kept: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Computes predictions [N, A] and mean losses [N] with some of the heads.

        kept: the heads that stay, bool [L, H]; None for all.
        """
        geometry = self.run.geometry
        kept = np.ones((geometry.layers, geometry.heads), bool) if kept is None else kept
        lacking = np.flatnonzero(~kept.all(axis=1))
        first = int(lacking[0]) if len(lacking) else geometry.layers - 1
        found = []
        for place, (numbers, _, _) in enumerate(self.chunks):
            x = self.streams[first][place]
            for layer in range(first, geometry.layers):
                x = self._through(layer, x, place, kept[layer])
            targets = self.split.targets[numbers]
            found.append(_answers(self.run.leave(x), targets))
        predictions, losses = (np.concatenate(parts)[: len(self.split.inputs)]
                               for parts in zip(*found))
        return predictions, losses

    def _through(self, layer: int, x, place: int, kept: np.ndarray | None = None):
        """Passes a chunk of examples through the block of a layer.  place: the chunk's index.

        The last block computes only the tokens that the output layer reads.
        """
        last = layer == self.run.geometry.layers - 1
        places = self.chunks[place][2][1] if last else None
        instead = jnp.asarray(self.instead[layer])
        kept = np.ones(self.run.geometry.heads, bool) if kept is None else kept
        heads = Heads(jnp.asarray(kept), instead[places] if last else instead)
        return through(*block(self.run, layer), x, places, heads)[0]


@dataclass(frozen=True)
class Losses:
    """Holds the accuracy lost, and the growth of the loss, with each head taken out alone."""

    n: int  # examples
    accuracy: float  # with all heads
    lost: np.ndarray  # [L, H]: accuracy
    error: np.ndarray  # [L, H]: the standard error of the lost accuracy, over examples
    nats: np.ndarray  # [L, H]: by how much the mean loss of the examples that have one grows
    slices: dict[str, np.ndarray]  # name in `Task.slices` -> [L, H]: its lost accuracy


def ablate(ablation: Ablation, step: Callable[[], None] = lambda: None) -> Losses:
    """Takes out each head alone and measures what is lost.  step: called after each head."""
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
        nats[place] = (without.astype(np.float64) - losses)[scored.any(axis=1)].mean()
        error[place] = np.sqrt(len(inputs) * (differ * scored).sum(axis=1).var()) / scored.sum()
        for name, mask in parts.items():
            slices[name][place] = differ.mean(where=mask)
        step()
    return Losses(len(inputs), float(whole.mean(where=scored)), lost, error, nats, slices)


def smallest(ablation: Ablation, losses: Losses, floor: float, share: float = 0.95,
             step: Callable[[], None] = lambda: None) -> tuple[np.ndarray, float]:
    """Searches for a small set of heads that keeps most of the accuracy.

    Returns a mask [L, H], true for them, and the accuracy with these heads alone.  They keep at
    least the given share of the accuracy above `floor`, that of a trivial predictor.  Heads are
    taken out one after another, those that lose least alone first, each for good if the rest still
    keeps that share, until none can go.  No head of the set can be spared, but another set may be
    smaller.
    step: called after each try.
    """
    targets = ablation.split.targets
    needed = floor + share * (losses.accuracy - floor)
    kept, accuracy = np.ones(losses.lost.shape, bool), losses.accuracy
    order = np.argsort(losses.lost, axis=None, kind="stable")
    order = np.array(np.unravel_index(order, kept.shape)).T.tolist()
    while True:
        before = kept.sum()
        for layer, head in order:
            if kept[layer, head]:
                kept[layer, head] = False
                right = ablation.answers(kept)[0] == targets
                found = float(right.mean(where=targets != UNSCORED))
                if found < needed:
                    kept[layer, head] = True
                else:
                    accuracy = found
                step()
        if kept.sum() == before:
            return kept, accuracy


def correlation(mass: np.ndarray, lost: np.ndarray) -> dict[str, float | None]:
    """Correlates the heads' mass on the answer with what is lost without them (Spearman's rho).

    mass: the share of each head's attention that falls on the answer's tokens.
    Returns rho, and low and high of its 95% interval: percentiles of 2,000 bootstrap resamples of
    the heads.  rho is None where mass or loss does not vary.  The interval is None where that
    happens in more than 5% of the resamples, since it then depends on one or two heads.
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
        drawn = bootstrap((mass, lost), rho, paired=True, n_resamples=RESAMPLES,
                          method="percentile", rng=np.random.default_rng(0)).bootstrap_distribution
    if np.isnan(drawn).mean() > 0.05:
        return {"rho": float(rho(mass, lost)), "low": None, "high": None}
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {"rho": float(rho(mass, lost)), "low": float(low), "high": float(high)}


@partial(jax.jit, static_argnames="block")
def _mixed(block: Block, parameters: Mapping, x, weight):
    """Sums over examples each head's output before the output projection: [T, H, D / H].

    weight: bool [B, T], true for the tokens that are summed.
    """
    mixed, _ = block.apply({"params": parameters}, x, method="mix")
    return jnp.einsum("bthd,bt->thd", mixed, weight.astype(jnp.float32))
