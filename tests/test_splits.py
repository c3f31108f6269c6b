"""Samples of fixed splits, and data that are not those of a run."""

import itertools
import json

import numpy as np
import pytest

from fpt import Config, UserError, splits, train
from fpt.task import Split
from tasks.bits import BitXor

XOR = BitXor(bits=3)


def test_a_sample_stands_for_a_split_that_lists_its_examples_in_an_order():
    """Bit XOR's test counts through its inputs: in the first 32 the second string is 0, and copying the first is right."""
    data = BitXor().load()
    copied = lambda split: float((split.inputs[:, 0] == split.targets).mean())
    for examples in (64, 128, 256, 500):
        assert abs(copied(splits.sample(data, "test", examples)) - copied(data["test"])) < 0.06
    assert copied(Split(*(part[:32] for part in data["test"]))) > 0.9


def test_a_larger_sample_holds_every_smaller_one_and_is_ascending():
    sizes = [1, 2, 10, 999, 1_000, 5_000]
    chosen = [set(splits.sampled("test", 1_000, size).tolist()) for size in sizes]
    assert [len(found) for found in chosen] == [1, 2, 10, 999, 1_000, 1_000]
    assert all(small <= large for small, large in itertools.pairwise(chosen))
    assert (np.diff(splits.sampled("test", 1_000, 500)) > 0).all()


def test_a_sample_is_fixed_and_belongs_to_its_split():
    assert splits.sampled("test", 2_000, 5).tolist() == [194, 497, 545, 1661, 1950]
    assert splits.sampled("validation", 2_000, 5).tolist() != splits.sampled("test", 2_000, 5).tolist()


def test_training_scores_the_sample_and_its_floors(tiny_folder, tmp_path):
    config = Config(BitXor(), str(tiny_folder), steps=1, batch=2, lr=1e-3, eval_every=1, eval_examples=50)
    result, = train(config, tmp_path, quiet=True)
    targets = splits.sample(BitXor().load(), "test", 50).targets
    assert result["test"]["n"] == 50
    assert result["floors"]["majority"] == max(targets.mean(), 1 - targets.mean())
    assert result["floors"]["majority"] != 0.5  # that of all examples


@pytest.fixture(scope="module")
def finished(tiny_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    train(Config(XOR, str(tiny_folder), steps=2, batch=4, lr=1e-2, eval_every=2), out, quiet=True)
    return next(out.iterdir())


def test_predictions_name_the_examples_of_the_split(finished, command, tmp_path):
    code, out, err = command("evaluate", finished, "--examples", 10, "--predictions", tmp_path / "p.jsonl")
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    targets = XOR.load()["test"].targets
    assert [row["example"] for row in rows] == splits.sampled("test", len(targets), 10).tolist()
    assert all(row["target"] == targets[row["example"]].tolist() for row in rows)
    assert json.loads(out)["n"] == 10


def test_other_data_than_a_run_was_trained_with_are_not_scored(finished, command, monkeypatch):
    other = XOR.load() | {"test": Split(1 - XOR.load()["test"].inputs, XOR.load()["test"].targets)}
    monkeypatch.setattr(BitXor, "load", lambda self, folder=None, report=print: other)
    code, out, err = command("evaluate", finished)
    assert code == 2 and not out and err.count("\n") == 1
    assert f"the data here are not those that {finished} was trained with (test differs)" in err


def test_a_finished_run_is_not_taken_for_one_on_other_data(finished, tmp_path, tiny_folder, monkeypatch):
    """Where a data folder is named: without one there is nothing to compare."""
    config = Config(XOR, str(tiny_folder), steps=2, batch=4, lr=1e-2, eval_every=2)
    train(config, finished.parent, data_dir=tmp_path, quiet=True)
    other = XOR.load() | {"test": Split(1 - XOR.load()["test"].inputs, XOR.load()["test"].targets)}
    monkeypatch.setattr(BitXor, "load", lambda self, folder=None, report=print: other)
    with pytest.raises(UserError, match="are not those that .* was trained with"):
        train(config, finished.parent, data_dir=tmp_path, quiet=True)
