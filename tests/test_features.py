"""Runs that train the output layer alone take features: hidden states that are computed once."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fpt.machine
from fpt import UserError, features, load_run, registry, train
from fpt.arrays import unpack
from fpt.bodies import named
from fpt.config import Config, grid
from fpt.evaluation import evaluate
from fpt.identity import Identity
from fpt.interrupt import Interrupted
from fpt.parameters import Source, model_of
from fpt.progress import Steps
from fpt.records import summary
from fpt.stack import Pace
from fpt.stages import following
from fpt.task import WITHOUT_DROPOUT, Batch, Split
from tasks.bits import BitXor
from tasks.images import Cifar10, Cifar10Lra, Mnist
from tasks.listops import ListOps
from tasks.selfsupervised import on_own_inputs
from tests.conftest import TINY
from tests.running import assert_same, ctrl_c, lines
from tests.test_contract import ECHO

LISTS = ListOps(shortest=4, longest=8, arguments=3, train_examples=300, held_out=50)
# A body that drops nothing.
WHOLE = TINY.resized(embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0)
ALWAYS = Pace(save_seconds=0, save_share=float("inf"), most_steps=7)


@pytest.fixture
def config(tiny_folder):
    return Config(LISTS, str(tiny_folder), steps=60, batch=8, lr=1e-2, eval_every=20,
                  train="output", **WITHOUT_DROPOUT)


@pytest.fixture
def digits(config, monkeypatch):
    """Makes the configuration of a run on MNIST, of which there are 300 random images to train."""
    random = np.random.RandomState(0)
    images = {f"{part}_images": random.randint(0, 256, (count, 28, 28, 1)).astype(np.uint8)
              for part, count in (("train", 5_300), ("test", 40))}
    labels = {f"{part}_labels": random.randint(0, 10, count)
              for part, count in (("train", 5_300), ("test", 40))}
    monkeypatch.setattr(Mnist, "_arrays", lambda *arguments: images | labels)
    monkeypatch.setattr(Mnist, "floors", lambda *arguments: {"majority": 0.1})
    return dataclasses.replace(config, task=Mnist(patch=14), eval_examples=100)


@pytest.fixture
def computed(monkeypatch):
    """Lists the number of examples that features are computed of, for each stack on features."""
    counts, usual = [], features.Features.__init__

    def count(self, trainer, frozen, splits, *arguments):
        counts.append(sum(len(split.inputs) for split in splits))
        usual(self, trainer, frozen, splits, *arguments)

    monkeypatch.setattr(features.Features, "__init__", count)
    return counts


def ordinarily(monkeypatch, configs, out, **settings):
    """Trains runs as if there were no features."""
    with monkeypatch.context() as without:
        without.setattr(features, "apply_to", lambda *arguments: False)
        return train(configs, out, quiet=True, **settings)


def assert_close(one, other, atol=2e-5):
    """Compares what two folders of run folders hold, but for rounding."""
    assert {run.name for run in one.iterdir()} == {run.name for run in other.iterdir()}
    for run in one.iterdir():
        twin = other / run.name
        assert {path.name for path in run.iterdir()} == {path.name for path in twin.iterdir()}
        (a, about), (b, there) = (unpack(each / "trainable.safetensors") for each in (run, twin))
        assert about == there and a.keys() == b.keys() == {"output/kernel", "output/bias"}
        for name, value in a.items():
            np.testing.assert_allclose(value, b[name], atol=atol, err_msg=name)
        for line, like in zip(lines(run), lines(twin), strict=True):
            assert line.keys() == like.keys() and line["step"] == like["step"]
            close = pytest.approx(like["validation"]["loss"], rel=10 * atol)
            assert line["validation"]["loss"] == close
            if line["step"]:
                assert line["train"]["loss"] == pytest.approx(like["train"]["loss"], rel=10 * atol)
        a, b = (summary(each)["result"] for each in (run, twin))
        assert a.keys() == b.keys() and a["frozen"] == b["frozen"]
        assert a["test"]["slices"].keys() == b["test"]["slices"].keys()
        assert a["test"]["loss"] == pytest.approx(b["test"]["loss"], rel=10 * atol)


OTHERS = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"))


@pytest.mark.parametrize("changes", [
    {}, {"accumulate": 2}, {"load": "none"}, OTHERS | {"body": "none"},
    OTHERS | {"body": "lstm-mini-repaired",
              "geometry": named("lstm-mini-repaired").resized(width=16, dropout=0.0)}],
    ids=["language", "accumulated", "random", "no body", "LSTM"])
def test_features_give_the_numbers_of_the_ordinary_way(
        config, tmp_path, monkeypatch, capsys, computed, changes):
    config = dataclasses.replace(config, **changes)
    train(config, tmp_path / "features")
    said = capsys.readouterr().out
    assert said.count("computes the body's hidden states of all 400 examples once") == 1
    ordinarily(monkeypatch, config, tmp_path / "ordinary")
    assert computed == [400]
    assert_close(tmp_path / "features", tmp_path / "ordinary")


def test_features_of_continuous_tokens_give_the_numbers_of_the_ordinary_way(
        digits, tmp_path, monkeypatch, computed):
    train(digits, tmp_path / "features", quiet=True)
    ordinarily(monkeypatch, digits, tmp_path / "ordinary")
    assert computed == [440]
    assert_close(tmp_path / "features", tmp_path / "ordinary")


def test_features_are_rounded_where_the_output_layer_multiplies_in_bfloat16(
        config, tmp_path, monkeypatch, computed):
    config = dataclasses.replace(config, dtype="bfloat16")
    train(config, tmp_path / "features", quiet=True)
    ordinarily(monkeypatch, config, tmp_path / "ordinary")
    assert computed == [400]
    # A hidden state that rounds otherwise in a batch of another size moves by 2**-8 of itself.
    assert_close(tmp_path / "features", tmp_path / "ordinary", atol=5e-3)


def test_stacks_are_of_runs_that_share_features_and_equal_runs_alone(
        config, tmp_path, monkeypatch, computed):
    configs = grid(dataclasses.replace(config, load="none"), (1e-2, 1e-3), (0, 1, 2))
    results = train(configs, tmp_path / "stacked", quiet=True)
    assert [result["runs_in_stack"] for result in results] == [2] * 6
    assert computed == [400] * 3  # once for each seed
    for one in configs:
        train(one, tmp_path / "alone", quiet=True)
    ordinarily(monkeypatch, configs, tmp_path / "ordinary")
    assert_close(tmp_path / "stacked", tmp_path / "alone")
    assert_close(tmp_path / "stacked", tmp_path / "ordinary")


def test_runs_that_begin_where_others_ended_share_features_by_their_start(
        config, tmp_path, monkeypatch, computed):
    first = [dataclasses.replace(config, train="fpt", steps=5, seed=seed) for seed in (0, 1)]
    train(first, tmp_path / "first", quiet=True)
    assert not computed
    later = [following(folder, train="output", steps=60, lr=lr)
             for folder in sorted((tmp_path / "first").iterdir()) for lr in (1e-2, 1e-3)]
    results = train(later, tmp_path / "features", quiet=True)
    assert [result["runs_in_stack"] for result in results] == [2] * 4 and computed == [400] * 2
    ordinarily(monkeypatch, later, tmp_path / "ordinary")
    assert_close(tmp_path / "features", tmp_path / "ordinary")


def test_a_loaded_run_answers_as_its_result_says(config, tmp_path):
    result, = train(config, tmp_path, quiet=True)
    run = load_run(next(tmp_path.iterdir()))
    test = run.task.load()["test"]
    found, = evaluate(run.trainer, run.frozen, run.trainable, test)
    assert found["accuracy"] == result["test"]["accuracy"]
    assert found["slices"] == result["test"]["slices"]
    assert found["loss"] == pytest.approx(result["test"]["loss"], rel=1e-5)


def test_an_interrupted_run_goes_on_to_the_same_bits(config, tmp_path):
    configs = grid(config, (1e-2, 1e-3), (0, 1))
    train(configs, tmp_path / "once", quiet=True)
    with pytest.raises(Interrupted):  # in the second stack
        train(configs, tmp_path / "again", quiet=True, log=ctrl_c(40, "lr0.001-seed1"))
    assert len(list(tmp_path.glob("again/*/result.json"))) == 2
    train(configs, tmp_path / "again", quiet=True)
    assert_same(tmp_path / "once", tmp_path / "again")


def test_a_killed_run_goes_on_to_the_same_bits(config, tmp_path, monkeypatch):
    train(config, tmp_path / "once", quiet=True)

    def kill(self, step, *shown):
        if step > 20:
            raise SystemError("killed")

    with monkeypatch.context() as killing:
        killing.setattr(Steps, "update", kill)
        with pytest.raises(SystemError):
            train(config, tmp_path / "again", quiet=True, pace=ALWAYS)
    assert list(tmp_path.glob("again/*/state-*"))
    train(config, tmp_path / "again", quiet=True)
    assert_same(tmp_path / "once", tmp_path / "again")


def test_ctrl_c_stops_the_computation_of_features(config, tmp_path, monkeypatch, capsys):
    train(config, tmp_path / "once", quiet=True)
    seen = []

    def stop(self, done, total):
        seen.append((done, total))
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as stopping:
        stopping.setattr(Steps, "prepare", stop)
        stopping.setattr(features, "at_once", lambda *arguments: 32)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "again", quiet=True)
    assert seen == [(32, 400)]
    train(config, tmp_path / "again")
    assert "going on at step 0" in capsys.readouterr().out
    assert_same(tmp_path / "once", tmp_path / "again")


def test_a_stack_of_several_seeds_that_was_begun_the_ordinary_way_goes_on(
        config, tmp_path, monkeypatch, computed):
    configs = grid(config, (1e-2,), (0, 1))
    with pytest.raises(Interrupted):
        ordinarily(monkeypatch, configs, tmp_path / "features", log=ctrl_c(20))
    train(configs, tmp_path / "features", quiet=True)
    ordinarily(monkeypatch, configs, tmp_path / "ordinary")
    assert computed == [400, 400]
    assert_close(tmp_path / "features", tmp_path / "ordinary")


@pytest.mark.parametrize("size", [1, 7, 100, 300])
def test_features_are_the_same_in_chunks_of_any_size(config, monkeypatch, size):
    """Those of the last chunk too, which reaches back where it would be shorter."""
    config = dataclasses.replace(config, geometry=WHOLE, load="none")
    source = Source(config, None)
    trainer = features.OutputTrainer(model_of(config), config, source.table, source.axes(1), 1)
    frozen = source.values(config, source.frozen)
    split, told = LISTS.load()["train"], []
    monkeypatch.setattr(features, "at_once", lambda asked, examples: size)
    found = features.Features(trainer, frozen, [split], lambda: None,
                              lambda *counts: told.append(counts)).of(split)
    states = trainer.states(frozen, split.inputs)
    np.testing.assert_allclose(found.inputs, states, atol=1e-5)
    np.testing.assert_array_equal(found.targets, split.targets)
    assert told[-1] == (300, 300)


def applies(config, **changes):
    """Tells whether a configuration of 300 training examples trains on features."""
    config = dataclasses.replace(config, **{"geometry": WHOLE} | changes)
    batch = Batch(None, None, False)
    return features.apply_to(config, batch, Split(np.zeros(300), np.zeros((300, 1))), 400)


@pytest.mark.parametrize("changes, expected", [
    ({}, True), ({"steps": 37}, False), ({"steps": 38}, True),
    ({"train": "fpt"}, False), ({"train": "output+norm"}, False), ({"train": "all"}, False),
    ({"dropout": 0.1}, True),  # symbols get no dropout
    ({"dropout": 0.1, "task": Mnist(patch=14)}, False), ({"task": Mnist(patch=14)}, True),
    *(({"geometry": dataclasses.replace(WHOLE, **{name: 0.1})}, False)
      for name in ("embedding_dropout", "attention_dropout", "residual_dropout")),
    ({"task": Cifar10()}, False), ({"task": Cifar10(augment=False)}, True),
    ({"task": Cifar10Lra()}, False), ({"task": BitXor(bits=3)}, False),
    ({"task": on_own_inputs(Mnist)(patch=14)}, False),
    ({"geometry": named("lstm-mini-repaired")}, False),  # for its dropout
    ({"geometry": named("lstm-mini-repaired").resized(dropout=0.0)}, True),
    ({"geometry": named("lstm-mini").resized(dropout=0.0)}, False),  # for its first state
    ({"geometry": Identity()}, True)], ids=str)
def test_where_features_are_used(config, changes, expected):
    assert applies(config, **changes) == expected


def test_features_are_not_used_where_they_would_fill_the_memory(config, monkeypatch):
    needed = 400 * 1 * 32 * 4 / features.MEMORY_SHARE
    monkeypatch.setattr(fpt.machine, "memory", lambda: needed)
    assert applies(config)
    monkeypatch.setattr(fpt.machine, "memory", lambda: needed - 1)
    assert not applies(config)


def test_features_are_not_used_where_examples_begin_anywhere(config):
    config = dataclasses.replace(config, geometry=WHOLE)
    train = Split(np.zeros(300), np.zeros((300, 1)))
    assert not features.apply_to(config, Batch(None, None, True), train, 400)
    assert not features.apply_to(config, Batch(None, None, False), None, 400)


OWN = ECHO.replace("    def encode", "    draws_stored = STATED\n\n    def encode").replace(
    "inputs = jax.random.randint(jax.random.fold_in(key, step), (batch, self.tokens), 0, 5)\n"
    "        return Batch(inputs, inputs[:, :1])",
    "rows = jax.random.randint(jax.random.fold_in(key, step), (batch,), 0, 30)\n"
    "        return Batch(DRAWN, train.targets[rows])")


@pytest.mark.parametrize("stated, drawn, said, used", [
    ("False", "train.inputs[rows]", None, False), ("True", "train.inputs[rows]", None, True),
    ("False", "(train.inputs[rows] + 1) % 5", None, False),
    ("True", "(train.inputs[rows] + 1) % 5", "`draw` gave at step 0 what is not stored", None),
    ("True", "train.inputs[rows + 1]", "`draw` gave at step 0 what is not stored", None),
    ("True", "train.inputs[rows][:, ::-1]", "`draw` gave at step 0 what is not stored", None),
    ("1", "train.inputs[rows]", "draws_stored is 1; the contract wants True or False", None)])
def test_a_task_of_ones_own_says_what_it_draws(
        config, tmp_path, computed, stated, drawn, said, used):
    file = tmp_path / "own.py"
    file.write_text(OWN.replace("STATED", stated).replace("DRAWN", drawn))
    if said:
        with pytest.raises(UserError, match=said):
            own = dataclasses.replace(config, task=registry.from_file(file)(), task_file=str(file))
            train(own, tmp_path / "runs", quiet=True)
        return
    own = dataclasses.replace(config, task=registry.from_file(file)(), task_file=str(file))
    train(own, tmp_path / "runs", quiet=True)
    assert bool(computed) == used


@pytest.mark.parametrize("task", [
    Mnist(patch=14), Cifar10(augment=False), Cifar10Lra(augment=False), LISTS],
    ids=lambda task: task.name)
def test_a_shipped_task_draws_what_is_stored_where_it_says_so(task):
    side = 28 if task.name == "mnist" else 32
    shape = (50, 8) if task is LISTS else (50, side, side, 3 if task.name == "cifar10" else 1)
    inputs = np.random.RandomState(0).randint(0, 10, shape).astype(np.uint8)
    stored = Split(jnp.asarray(inputs), jnp.arange(50)[:, None])
    assert task.draws_stored
    for step in range(4):
        drawn = task.draw(stored, jax.random.key(1), step, 16)
        numbers = task.draw(Split(jnp.arange(50)[:, None, None], stored.targets), jax.random.key(1),
                            step, 16)
        np.testing.assert_array_equal(drawn.inputs, inputs[np.ravel(numbers.inputs)])
        np.testing.assert_array_equal(np.ravel(drawn.targets), np.ravel(numbers.inputs))


def test_progress_tells_how_many_features_are_computed(capsys):
    steps = Steps("listops", 60, 0)
    steps.last_line -= 60
    steps.prepare(1_000, 2_000)
    steps.prepare(1_500, 2_000)
    assert capsys.readouterr().out == "listops  features of 1,000/2,000 examples\n"
