"""Multinomial logistic regression on raw pixels: what a linear model reaches, as a floor."""

from __future__ import annotations

import hashlib
import sys

import numpy as np

from fpt.cache import cached
from fpt.task import Split

PENALTY = 1e-3  # times half the squared weights, added to the mean cross-entropy: the best of 1e-4, 1e-3, 1e-2 on CIFAR-10
ITERATIONS = 100  # of L-BFGS: accuracies are then within half a point of the optimum's


def accuracy(train: Split, split: Split, classes: int) -> float:
    """Accuracy on `split` of a regression fitted to all of `train`, uint8 inputs [N, ...] and targets [N, 1].

    The fit is a function of the data alone, and its weights are kept under the digest of the data and of the settings.
    """
    weights = _fitted(train, classes)
    return float(np.mean((_features(split.inputs) @ weights[:-1] + weights[-1]).argmax(axis=1) == split.targets[:, 0]))


def _features(inputs) -> np.ndarray:
    pixels = np.asarray(inputs).reshape(len(inputs), -1)
    return np.multiply(pixels, 1 / 255, dtype=np.float32)


def _fitted(train: Split, classes: int) -> np.ndarray:
    """Weights [pixels + 1, classes] float32, the last row the bias; from the cache where they are in it."""
    digest = hashlib.sha256(f"{PENALTY} {ITERATIONS} {classes} {np.shape(train.inputs)}".encode())
    for array in train:
        digest.update(np.ascontiguousarray(array))

    def make() -> dict[str, np.ndarray]:
        return {"weights": _fit(_features(train.inputs), np.asarray(train.targets)[:, 0], classes)}

    def report(line: str) -> None:
        print(line, file=sys.stderr)  # standard output may be a command's JSON

    return cached(f"logistic-regression-{digest.hexdigest()[:16]}", make, report)["weights"]


def _fit(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    from scipy.optimize import minimize

    count, width = features.shape
    mean = features.mean(axis=0)
    features = features - mean  # the same model, better conditioned: the bias takes up the shift
    rows = np.arange(count)

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(width + 1, classes).astype(np.float32)
        logits = features @ weights[:-1] + weights[-1]
        logits -= logits.max(axis=1, keepdims=True)
        likelihood = np.exp(logits)
        total = likelihood.sum(axis=1, keepdims=True)
        loss = np.mean(np.log(total[:, 0]) - logits[rows, labels], dtype=np.float64)
        error = likelihood / total
        error[rows, labels] -= 1
        error /= count
        gradient = np.vstack([features.T @ error + PENALTY * weights[:-1], error.sum(axis=0)])
        penalty = PENALTY / 2 * np.square(weights[:-1], dtype=np.float64).sum()
        return loss + penalty, gradient.astype(np.float64).ravel()

    start = np.zeros((width + 1) * classes)
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    weights = found.x.reshape(width + 1, classes).astype(np.float32)
    weights[-1] -= mean @ weights[:-1]
    return weights
