"""Fits multinomial logistic regression to raw pixels, for the floor that a linear model sets."""

from __future__ import annotations

import hashlib
import sys
from functools import partial

import numpy as np

from fpt.arrays import digest
from fpt.cache import cached
from fpt.task import Split

# Times half the squared weights, added to the mean cross-entropy: the best of 1e-4, 1e-3 and 1e-2
# on CIFAR-10.
PENALTY = 1e-3
ITERATIONS = 100  # of L-BFGS: accuracies are then within half a point of the optimum's


def accuracy(train: Split, split: Split, classes: int) -> float:
    """Computes the accuracy on `split` of a regression that is fitted to all of `train`.

    Inputs are uint8 [N, ...], targets [N, 1].  The fit is a function of the data alone, and its
    weights are kept in the cache under the digest of the data and of the settings.
    """
    weights = _fitted(train, classes)
    logits = _features(split.inputs) @ weights[:-1] + weights[-1]
    return float(np.mean(logits.argmax(axis=1) == split.targets[:, 0]))


def _features(inputs) -> np.ndarray:
    pixels = np.asarray(inputs).reshape(len(inputs), -1)
    return np.multiply(pixels, 1 / 255, dtype=np.float32)


def _fitted(train: Split, classes: int) -> np.ndarray:
    """Gives the weights [pixels + 1, classes], the last row the bias, from the cache if there."""
    settings = f"jax {PENALTY} {ITERATIONS} {classes} {np.shape(train.inputs)}"
    name = hashlib.sha256(f"{settings}{digest(train._asdict())}".encode()).hexdigest()[:16]

    def make() -> dict[str, np.ndarray]:
        labels = np.asarray(train.targets)[:, 0]
        return {"weights": fit(_features(train.inputs), labels, classes)}

    report = partial(print, file=sys.stderr)  # standard output may be a command's JSON
    return cached(f"logistic-regression-{name}", make, report)["weights"]


def fit(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Fits a regression to features [N, F] and labels [N]: weights [F + 1, classes], bias last."""
    import jax
    import jax.numpy as jnp
    import optax
    from scipy.optimize import minimize

    mean = features.mean(axis=0)
    shape = features.shape[1] + 1, classes
    # The same model, better conditioned: the bias takes up the shift.
    centred, labels = jnp.asarray(features - mean), jnp.asarray(labels, jnp.int32)

    @jax.jit
    @jax.value_and_grad
    def loss(weights, centred, labels):
        logits = centred @ weights[:-1] + weights[-1:]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean() + PENALTY / 2 * jnp.square(weights[:-1]).sum()

    def flat(weights: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = loss(weights.reshape(shape).astype(np.float32), centred, labels)
        return float(value), np.asarray(gradient, np.float64).ravel()

    found = minimize(flat, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B",
                     options={"maxiter": ITERATIONS})
    weights = found.x.reshape(shape).astype(np.float32)
    weights[-1] -= mean @ weights[:-1]
    return weights
