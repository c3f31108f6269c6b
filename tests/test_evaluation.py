"""Checks the scores on a split: in chunks of any size, over what is scored, whole and by slice."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from fpt import evaluation
from fpt.evaluation import answers, evaluate, score
from fpt.task import UNSCORED, Split
from fpt.trainer import predict
from tasks.bits import BitMemory
from tests.test_optimization import logits_of, trainer_of

TASK = BitMemory(strings=1, bits=4, patch=2)


@pytest.mark.parametrize("at_once", [1, 3, 4, 10, 100])
def test_in_chunks_of_any_size_each_example_is_answered_once_and_in_its_place(monkeypatch, at_once):
    """Two runs, whose predictions are their number more than the example's."""
    chunk = at_once * TASK.interface.tokens * 2
    monkeypatch.setattr(evaluation, "TOKENS_AT_ONCE", {"cpu": chunk, "other": chunk})
    split, sizes = Split(np.arange(10), np.arange(10)), []

    def answer(frozen, trainable, inputs, targets):
        sizes.append(len(inputs))
        assert np.array_equal(inputs, targets)
        both = np.stack([inputs, inputs + 1])
        return both[:, :, None], both / 2

    trainer = types.SimpleNamespace(task=TASK, runs=2, answer=answer)
    predictions, losses = answers(trainer, {}, {}, split)
    assert predictions[..., 0].tolist() == [list(range(10)), list(range(1, 11))]
    assert np.array_equal(losses, predictions[..., 0] / 2)
    assert set(sizes) == {min(at_once, 10)}  # one size, which is compiled once


def test_a_score_is_of_all_answers_and_of_those_of_each_slice():
    inputs = np.array([[[1, -1, 1, 1], [0, -1, 0, 1]], [[1, 1, -1, 1], [1, 0, -1, 1]]], np.int8)
    targets = np.array([[1, 0, 1, 1], [1, 1, 0, 1]])
    predictions = np.array([[0, 0, 1, 1], [1, 0, 1, 1]])
    found = score(TASK, Split(inputs, targets), predictions, np.array([0.5, 1.0]))
    assert (found["accuracy"], found["loss"], found["n"]) == (5 / 8, 0.75, 2)
    assert found["slices"] == {"hidden": pytest.approx(1 / 3), "visible": pytest.approx(4 / 5)}


def test_the_loss_of_a_split_is_the_mean_over_what_is_scored():
    trainer, values = trainer_of()
    split = trainer.task.load()["validation"]
    inputs, targets = split.inputs[:6], split.targets[:6]
    part = Split(inputs, np.where(np.arange(16) < 10, targets, UNSCORED))
    stacked = {name: value[None] for name, value in values.items()}
    logits = logits_of(trainer, values, inputs)
    nats = np.log(np.exp(logits).sum(-1))
    nats -= np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    found, = evaluate(trainer, {}, stacked, part)
    assert found["loss"] == pytest.approx(nats[:, :10].mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == targets)[:, :10].mean())


def test_an_example_of_which_nothing_is_scored_has_no_part_in_the_loss():
    trainer, values = trainer_of()
    split = trainer.task.load()["validation"]
    inputs, targets = split.inputs[:6], split.targets[:6].copy()
    targets[2] = UNSCORED
    others = np.arange(6) != 2
    stacked = {name: value[None] for name, value in values.items()}
    found, = evaluate(trainer, {}, stacked, Split(inputs, targets))
    without, = evaluate(trainer, {}, stacked, Split(inputs[others], targets[others]))
    assert found["loss"] == pytest.approx(without["loss"], rel=1e-6)
    assert (found["accuracy"], found["n"]) == (without["accuracy"], 6)


def test_a_slice_is_of_what_is_scored_in_it_alone():
    inputs = np.array([[[1, -1, 1, 1], [0, -1, 0, 1]]], np.int8)
    targets = np.array([[1, 0, UNSCORED, UNSCORED]])
    predictions = np.array([[1, 1, 1, 1]])
    found = score(TASK, Split(inputs, targets), predictions, np.array([0.5]))
    assert (found["accuracy"], found["slices"]) == (1 / 2, {"hidden": 1.0, "visible": 0.0})
    hidden = Split(inputs, np.array([[1, UNSCORED, 1, UNSCORED]]))
    assert score(TASK, hidden, predictions, np.array([0.5]))["slices"] == {"hidden": 1.0}


def test_the_class_chosen_is_argmaxs_the_first_of_equal_ones_and_never_out_of_range():
    logits = np.random.default_rng(0).integers(0, 3, (5, 4, 7)).astype(np.float32)
    np.testing.assert_array_equal(predict(jnp.asarray(logits)), logits.argmax(-1))
    assert int(predict(jnp.full((1, 1, 7), jnp.nan))[0, 0]) == 6
