"""A run from configuration to record: what is trained, written, refused and left alone."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import fpt.machine
from fpt import UserError, load_run, train
from fpt.config import Config, grid
from fpt.evaluation import evaluate
from fpt.experiment import Experiment
from fpt.planning import MEMORY_SHARE
from fpt.run import resolved
from fpt.stack import Pace
from tasks.bits import BitXor
from tests.running import assert_same, lines

XOR = BitXor(bits=3)


@pytest.fixture
def config(tiny_folder):
    return Config(XOR, str(tiny_folder), steps=60, batch=8, lr=1e-2, eval_every=20)


def test_the_record_says_everything(undisturbed):
    out, _, results = undisturbed
    assert {"status", "test", "validation", "floors", "counts", "seconds", "steps_per_second",
            "device", "dtype", "versions", "commit"} <= set(results[0])
    assert results[0]["status"] == "finished"
    assert results[0]["test"]["n"] == 64 and results[0]["validation"]["n"] == 2_000
    assert set(results[0]["test"]) >= {"accuracy", "loss", "n"}
    assert set(results[0]["counts"]) == {"trainable", "total", "percent", "effective", "paper"}
    assert results[0]["floors"] == {"majority": 0.5}
    for folder in out.iterdir():
        names = {path.name for path in folder.iterdir()} - {".lock"}
        assert names == {"config.json", "metrics.jsonl", "result.json", "trainable.safetensors"}
        assert [line["step"] for line in lines(folder)] == [0, 20, 40, 60]


def test_folders_are_named_by_what_they_are(undisturbed):
    out, *_ = undisturbed
    names = sorted(path.name for path in out.iterdir())
    assert names[0].startswith("bit-xor-tiny-fpt-lr0.001-seed0-")
    assert names[3].startswith("bit-xor-tiny-fpt-lr0.01-seed1-")
    stated = json.loads((out / names[0] / "config.json").read_text())
    assert stated["load"] == "body" and stated["checkpoint"]
    assert stated["sizes"] == {"strings": 2, "bits": 3, "patch": 1}


def test_the_best_on_validation_is_kept_and_tested(undisturbed):
    out, *_ = undisturbed
    for folder in out.iterdir():
        loaded, curve = load_run(folder), lines(folder)
        best = int(np.argmax([line["validation"]["accuracy"] for line in curve]))
        assert loaded.result["best_step"] == 20 * best
        assert loaded.result["validation"] == curve[best]["validation"]
        data = loaded.task.load()
        found = evaluate(loaded.trainer, loaded.frozen, loaded.trainable, data["test"])[0]
        assert found["accuracy"] == loaded.result["test"]["accuracy"]
        assert found["loss"] == pytest.approx(loaded.result["test"]["loss"], rel=1e-5)
        # The weights are those of the best step.
        chosen = evaluate(loaded.trainer, loaded.frozen, loaded.trainable, data["validation"])[0]
        assert chosen["accuracy"] == loaded.result["validation"]["accuracy"]


def test_a_run_learns(undisturbed):
    _, _, results = undisturbed
    assert max(result["test"]["accuracy"] for result in results) > 0.6


def test_a_finished_run_is_left_alone(undisturbed, capsys):
    out, configs, results = undisturbed
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json*")}
    assert train(configs, out) == results
    assert capsys.readouterr().out.count("is finished") == 4
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.json*")}


def test_the_same_again_is_the_same(undisturbed, tmp_path):
    out, configs, _ = undisturbed
    train(configs, tmp_path, quiet=True)
    assert_same(out, tmp_path)


def _room_for(runs, configs, monkeypatch):
    """Leaves the device as much memory as a stack of so many of these runs takes, and no more."""
    (ready, found), *_ = resolved(configs)
    needed = Experiment(ready, found, configs, None, quiet=True).compiled(runs).bytes
    monkeypatch.setattr(fpt.machine, "memory", lambda: needed / MEMORY_SHARE * 1.001)


def test_a_stack_that_does_not_fit_is_split(undisturbed, tmp_path, monkeypatch, capsys):
    _, configs, results = undisturbed
    _room_for(3, configs, monkeypatch)
    split = train(configs, tmp_path)
    assert [result["runs_in_stack"] for result in split] == [2, 2, 2, 2]
    said = capsys.readouterr().out
    assert "4 runs, 2 at a time: more at once need more memory than there is" in said
    for one, other in zip(split, results):
        assert one["test"]["loss"] == pytest.approx(other["test"]["loss"], rel=0.02)


def test_a_run_that_does_not_fit_is_refused(config, tmp_path, monkeypatch):
    monkeypatch.setattr(fpt.machine, "memory", lambda: 1)
    with pytest.raises(UserError, match="a smaller --batch needs less"):
        train(config, tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


def test_stacks_of_one_size_are_compiled_once(config, tmp_path, monkeypatch, caplog):
    """Both training and evaluation are; validation and test have one size here."""
    short = dataclasses.replace(config, steps=2, eval_every=1, eval_examples=10)
    configs = grid(short, (1e-2, 1e-3), (0, 1))
    _room_for(2, configs, monkeypatch)
    with jax.log_compiles():
        results = train(configs, tmp_path, quiet=True)
    assert [result["runs_in_stack"] for result in results] == [2, 2, 2, 2]
    messages = [record.getMessage() for record in caplog.records]
    for name in ("advance", "answer"):
        compiled = [line for line in messages if line.startswith(f"Compiling jit({name})")]
        assert 0 < len(compiled) == len(set(compiled))
    assert len(compiled) == 1  # no larger stack is evaluated to find out whether it fits


def test_floors_that_cannot_be_computed_are_refused_before_training(config, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Floorless(BitXor):
        name = "floorless"

        def floors(self, data, examples):
            raise ZeroDivisionError("no examples")

    evaluations = []
    with pytest.raises(UserError, match="floors raised ZeroDivisionError"):
        train(dataclasses.replace(config, task=Floorless(bits=3)), tmp_path / "runs", quiet=True,
              log=lambda *evaluation: evaluations.append(evaluation))
    assert not evaluations and not (tmp_path / "runs").exists()


def test_a_run_that_diverges_is_recorded_and_the_others_go_on(config, tmp_path, capsys):
    wild, tame = train(grid(config, (1e38, 1e-2), (0,)), tmp_path)
    assert wild["status"] == "diverged" and 0 < wild["diverged_at"] < 20
    assert tame["status"] == "finished"
    said = capsys.readouterr().out
    assert f"diverged at step {wild['diverged_at']}; the others go on" in said
    train(dataclasses.replace(config, lr=1e38), tmp_path / "alone", quiet=True)
    alone = next((tmp_path / "alone").iterdir())
    assert [line["step"] for line in lines(alone)] == [0, 20]  # strict JSON, without NaN
    stacked = [(line["step"], line.get("diverged_at")) for line in lines(tmp_path / alone.name)]
    assert stacked == [(0, None), (20, wild["diverged_at"])]


@pytest.mark.parametrize("at_most", [1, 7, 500])
def test_where_a_diverged_run_ends_is_the_same_for_dispatches_of_any_length(
        config, tmp_path, at_most):
    wild = dataclasses.replace(config, lr=1e38)
    result = train(wild, tmp_path, quiet=True, pace=Pace(most_steps=at_most))[0]
    assert result["steps"] == 20 and result["best_step"] == 0
    assert result["test"]["loss"] is not None


def test_weights_that_are_not_numbers_are_never_the_best(config, tmp_path):
    """Overflown weights answer class 0 everywhere, which may be right more often than the start."""
    wild = grid(dataclasses.replace(config, steps=20), (1e38,), (0, 1, 2, 3))
    results = train(wild, tmp_path, quiet=True)
    assert all(result["best_step"] == 0 and result["test"]["loss"] is not None
               for result in results)
    assert all(line["validation"]["accuracy"] >= 0
               for folder in tmp_path.iterdir() for line in lines(folder))


def test_examples_bound_validation_and_test(config, tmp_path):
    short = dataclasses.replace(config, steps=2, eval_examples=10)
    result = train(short, tmp_path, quiet=True)[0]
    assert result["test"]["n"] == result["validation"]["n"] == 10


def test_no_roles_loaded_is_the_random_twin(config, tmp_path):
    loaded = dataclasses.replace(config, steps=1)
    random = dataclasses.replace(loaded, load="none")
    a, b = train([loaded, random], tmp_path, quiet=True)
    assert a["frozen"] != b["frozen"] and a["counts"] == b["counts"]
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*/config.json")]
    assert sorted(record["checkpoint"] is None for record in records) == [False, True]


def test_a_body_that_was_moved_is_the_same_body(config, tmp_path, tiny_folder, capsys):
    there = shutil.copytree(tiny_folder, tmp_path / "there" / "tiny")
    config = dataclasses.replace(config, steps=2)
    train(config, tmp_path / "runs", quiet=True)
    train(dataclasses.replace(config, body=str(there)), tmp_path / "runs")
    assert "is finished" in capsys.readouterr().out
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_loaded_run_answers_and_shows_its_maps(undisturbed):
    out, *_ = undisturbed
    run = load_run(min(out.iterdir()))
    inputs = run.task.load()["test"].inputs[:4]
    logits, seen = run(inputs, hidden=True, maps=True)
    assert logits.shape == (4, 3, 2)
    assert seen.hidden.shape == (3, 4, 6, 32) and seen.maps.shape == (2, 4, 4, 6, 6)
    np.testing.assert_allclose(seen.maps.sum(-1), 1, atol=1e-5)
    assert np.array_equal(np.argmax(run(inputs), -1), np.argmax(logits, -1))
    assert not np.array_equal(run(inputs, key=jax.random.key(0)), logits)


def test_runs_with_factors_of_the_rate_of_their_own_share_a_stack(config, tmp_path):
    plain = dataclasses.replace(config, steps=1, eval_every=1)
    slow = dataclasses.replace(plain, rates=("norm=0.1",))
    results = train([plain, slow], tmp_path, quiet=True, keep=1)
    assert [result["runs_in_stack"] for result in results] == [2, 2]
    one, other = (load_run(folder).at(1).parameters for folder in tmp_path.iterdir())
    assert not np.array_equal(one["body/ln_f/scale"], other["body/ln_f/scale"])
    np.testing.assert_array_equal(one["output/kernel"], other["output/kernel"])


def test_configurations_may_come_one_after_another_and_twice(config, tmp_path):
    short = dataclasses.replace(config, steps=2, eval_every=2)
    asked = [short, dataclasses.replace(short, seed=1), short,
             dataclasses.replace(short, load="body")]
    results = train((config for config in asked), tmp_path, quiet=True)
    assert len(list(tmp_path.iterdir())) == 2
    assert results[0] == results[2] == results[3] != results[1]


@pytest.mark.parametrize("configs", [None, "x", 5, [None], {"lr": 1}], ids=str)
def test_what_is_no_configuration_is_refused(tmp_path, configs):
    with pytest.raises(UserError, match="train takes a Config or several of them, not"):
        train(configs, tmp_path)
