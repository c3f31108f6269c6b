"""Records say what happened: losses between evaluations, the best step, whose body, what counts."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import fpt.stack
from fpt import UserError, train
from fpt.config import Config, grid
from fpt.parameters import Source, model_of
from fpt.records import finite
from fpt.run import resolved
from fpt.saved import flatten, unflatten
from fpt.trainer import Trainer
from tasks.bits import BitXor
from tasks.copying import Copying
from tests.conftest import TINY


@pytest.fixture
def config(tiny_folder):
    return Config(BitXor(bits=3), str(tiny_folder), steps=12, batch=8, lr=1e-2, eval_every=4,
                  eval_examples=20)


def curve(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("value, kept", [
    (1.5, 1.5), (np.float32(0.5), 0.5), (np.nan, None), (np.inf, None), (-np.inf, None)])
def test_json_has_numbers_that_are_finite_and_none_for_others(value, kept):
    assert finite(value) == kept


def test_a_state_of_another_shape_or_of_other_names_does_not_fit():
    tree = {"a": np.zeros((2, 3)), "b": (np.zeros(4),)}
    leaves = flatten(tree)
    assert jax.tree.all(jax.tree.map(np.array_equal, unflatten(leaves, tree), tree))
    for change in ({"a": np.zeros((3, 2))}, {"a": np.zeros(6)}, {"c": np.zeros(1)}):
        with pytest.raises(UserError, match="does not fit"):
            unflatten(leaves | change, tree)


def test_a_training_loss_is_the_mean_since_the_last_evaluation(config, tmp_path):
    often, seldom = dataclasses.replace(config, eval_every=2), config
    for name, one in (("often", often), ("seldom", seldom)):
        train(one, tmp_path / name, quiet=True)
    often, seldom = (curve(next((tmp_path / name).iterdir())) for name in ("often", "seldom"))
    assert often[0]["train"] is seldom[0]["train"] is None
    for number, line in enumerate(seldom[1:], 1):
        for figure in ("loss", "accuracy"):
            halves = [often[2 * number - back]["train"][figure] for back in (0, 1)]
            assert line["train"][figure] == pytest.approx(np.mean(halves), rel=1e-5)


def test_a_run_is_given_the_key_of_its_seed_and_its_rate(config):
    configs = [config for config, _ in resolved(grid(config, (1e-2, 1e-3), (4, 7)))]
    source = Source(configs[0], None, configs)
    trainer = Trainer(model_of(configs[0]), configs[0], source.table, source.axes(4), 4)
    given = trainer.condition(configs)
    wanted = [jax.random.key_data(jax.random.key(seed)).tolist() for seed in (4, 7, 4, 7)]
    assert jax.random.key_data(given.key).tolist() == wanted
    assert given.rates.keys() == set(source.trainable)
    for rate in given.rates.values():
        np.testing.assert_allclose(rate, [1e-2, 1e-2, 1e-3, 1e-3])


def test_two_seeds_of_a_stack_have_random_bodies_of_their_own(config, tmp_path):
    config = dataclasses.replace(config, load="none", steps=1)
    one, other = train(grid(config, (1e-2,), (0, 1)), tmp_path, quiet=True)
    assert one["frozen"] != other["frozen"] and one["runs_in_stack"] == other["runs_in_stack"] == 2


def scripted(monkeypatch, *scores):
    """Gives evaluations these scores (accuracy, loss) in turn, and all later ones the last."""
    left = list(scores)

    def evaluate(trainer, frozen, trainable, split, between, given=None):
        accuracy, loss = left.pop(0) if len(left) > 1 else left[0]
        score = {"accuracy": accuracy, "loss": loss, "n": len(split.inputs), "slices": {}}
        return [score] * trainer.runs

    monkeypatch.setattr(fpt.stack, "evaluate", evaluate)


def kept_at(config, tmp_path, monkeypatch, *scores):
    """Finds the best step of a run whose evaluations have these scores, and the weights kept."""
    with monkeypatch.context() as patch:
        scripted(patch, *scores)
        result, = train(config, tmp_path, quiet=True)
    return result["best_step"], load_file(next(tmp_path.glob("*/trainable.safetensors")))


def test_of_evaluations_that_are_equally_good_the_earliest_is_the_best(
        config, tmp_path, monkeypatch):
    scores = (0.5, 1.0), (0.7, 0.9), (0.7, 0.1), (0.6, 0.1)
    step, weights = kept_at(config, tmp_path, monkeypatch, *scores)
    assert step == 4
    short = dataclasses.replace(config, steps=4)
    _, stopped = kept_at(short, tmp_path / "stopped", monkeypatch, *scores[:2])
    assert all(np.array_equal(value, stopped[name]) for name, value in weights.items())


def test_the_best_of_a_language_model_is_the_one_with_the_smallest_loss(
        tmp_path, monkeypatch, tiny_folder):
    config = Config(Copying(vocabulary=8, context=8), str(tiny_folder), steps=6, batch=2, lr=1e-2,
                    eval_every=2, load="none", train="body+token")
    scores = (0.1, 3.0), (0.2, 1.0), (0.9, 2.0), (0.3, 4.0)
    # Each is followed by those on the two probes.
    found = kept_at(config, tmp_path, monkeypatch, *(score for score in scores for _ in range(3)))
    assert found[0] == 2


@pytest.mark.parametrize("anywhere", [False, True])
def test_positions_in_use_are_those_of_the_task_or_all_where_batches_begin_anywhere(
        tmp_path, anywhere, tiny_folder):
    task = Copying(vocabulary=8, context=8, anywhere=anywhere)
    config = Config(task, str(tiny_folder), steps=1, batch=2, lr=1e-2, eval_every=1, load="none",
                    train="position")
    counts = train(config, tmp_path, quiet=True)[0]["counts"]
    assert counts["effective"] == TINY.width * (TINY.positions if anywhere else 8)
