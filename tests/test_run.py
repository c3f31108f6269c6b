"""A run from configuration to record: what is written, what is kept, and how it is taken up again."""

import dataclasses
import json
import math
import os
import re
import signal

import jax
import numpy as np
import pytest

import fpt.run
import fpt.stack
from fpt import UserError, load_run, train
from fpt.config import Config, grid
from fpt.evaluation import evaluate
from fpt.interrupt import Interrupted
from fpt.records import Folder, configuration
from tasks.bits import BitXor
from tests.conftest import TINY

XOR = BitXor(bits=3)


@pytest.fixture
def config(tiny_folder):
    return Config(XOR, str(tiny_folder), steps=60, batch=8, lr=1e-2, eval_every=20)


def _lines(folder):
    """metrics.jsonl without its times.  Strict: a NaN is an error."""
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def _same(one, other):
    assert _lines(one) == _lines(other)
    assert (one / "trainable.safetensors").read_bytes() == (other / "trainable.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tiny_folder, tmp_path_factory):
    """Four runs of one stack, trained without a break."""
    common = Config(XOR, str(tiny_folder), steps=60, batch=8, lr=1e-2, eval_every=20)
    out = tmp_path_factory.mktemp("undisturbed")
    configs = grid(common, (1e-2, 1e-3), (0, 1))
    results = train(configs, out, quiet=True)
    folders = sorted(path for path in out.iterdir())
    assert len(folders) == 4
    return out, configs, results


def test_the_record_says_everything(undisturbed):
    out, _, results = undisturbed
    assert {"status", "test", "validation", "floors", "counts", "seconds", "steps_per_second", "device", "dtype", "versions",
            "commit"} <= set(results[0])
    assert results[0]["status"] == "finished" and results[0]["test"]["n"] == 64 and results[0]["validation"]["n"] == 2_000
    assert set(results[0]["test"]) >= {"accuracy", "loss", "n"}
    assert set(results[0]["counts"]) == {"trainable", "total", "percent", "effective", "paper"}
    assert results[0]["floors"] == {"majority": 0.5}
    for folder in out.iterdir():
        names = {path.name for path in folder.iterdir()} - {".lock"}
        assert names == {"config.json", "metrics.jsonl", "result.json", "trainable.safetensors"}
        assert [line["step"] for line in _lines(folder)] == [0, 20, 40, 60]


def test_folders_are_named_by_what_they_are(undisturbed, tiny_folder):
    out, *_ = undisturbed
    names = sorted(path.name for path in out.iterdir())
    assert names[0].startswith("bit-xor-tiny-fpt-lr0.001-seed0-") and names[3].startswith("bit-xor-tiny-fpt-lr0.01-seed1-")
    stated = json.loads((out / names[0] / "config.json").read_text())
    assert stated["load"] == "body" and stated["checkpoint"] and stated["sizes"] == {"strings": 2, "bits": 3, "patch": 1}


def test_the_best_on_validation_is_kept_and_tested(undisturbed):
    out, *_ = undisturbed
    for folder in out.iterdir():
        loaded, lines = load_run(folder), _lines(folder)
        accuracies = [line["validation"]["accuracy"] for line in lines]
        assert loaded.result["best_step"] == 20 * int(np.argmax(accuracies))
        assert loaded.result["validation"] == lines[int(np.argmax(accuracies))]["validation"]
        data = loaded.task.load()
        found = evaluate(loaded.trainer, loaded.frozen, loaded.trainable, data["test"])[0]
        assert found["accuracy"] == loaded.result["test"]["accuracy"]
        assert found["loss"] == pytest.approx(loaded.result["test"]["loss"], rel=1e-5)
        chosen = evaluate(loaded.trainer, loaded.frozen, loaded.trainable, data["validation"])[0]
        assert chosen["accuracy"] == loaded.result["validation"]["accuracy"]  # the weights are those of the best step


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
    for folder in out.iterdir():
        _same(folder, tmp_path / folder.name)


def test_an_interrupted_run_goes_on_where_it_was(undisturbed, tmp_path, monkeypatch):
    out, configs, _ = undisturbed
    evaluated = fpt.stack.Stack._evaluate

    def interrupt_at_40(stack, *arguments):
        evaluated(stack, *arguments)
        if stack.step == 40:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(fpt.stack.Stack, "_evaluate", interrupt_at_40)
    with pytest.raises(Interrupted):
        train(configs, tmp_path, quiet=True)
    assert len(list(tmp_path.rglob("state-00000040.safetensors"))) == 4 and not list(tmp_path.rglob("result.json"))
    monkeypatch.undo()
    steps, run = [], fpt.stack.Stack.run
    monkeypatch.setattr(fpt.stack.Stack, "run", lambda stack, progress: steps.append(stack.step) or run(stack, progress))
    train(configs, tmp_path, quiet=True)
    assert steps == [40]
    for folder in out.iterdir():
        _same(folder, tmp_path / folder.name)


def test_the_pace_that_is_shown_is_todays(config, tmp_path, monkeypatch):
    restore, paces = fpt.stack.Stack._restore, []

    def after_ten_hours(stack):
        restore(stack)
        stack.training += 36_000

    monkeypatch.setattr(fpt.stack.Stack, "_restore", after_ten_hours)
    monkeypatch.setattr(fpt.stack.Steps, "update", lambda progress, step, seconds, *figures: paces.append(seconds))
    train([config], tmp_path, quiet=True)
    assert paces and max(paces) < 100


@pytest.mark.parametrize("written", [0, 1, 3])
def test_killed_between_the_results_of_a_stack(undisturbed, tmp_path, monkeypatch, written):
    out, configs, _ = undisturbed
    write, count = Folder.write_result, 0

    def write_some(*arguments):
        nonlocal count
        if count == written:
            raise SystemError("killed")
        count += 1
        write(*arguments)

    monkeypatch.setattr(Folder, "write_result", write_some)
    with pytest.raises(SystemError):
        train(configs, tmp_path, quiet=True)
    assert len(list(tmp_path.rglob("result.json"))) == written
    monkeypatch.undo()
    train(configs, tmp_path, quiet=True)
    for folder in out.iterdir():
        _same(folder, tmp_path / folder.name)
        assert not list((tmp_path / folder.name).glob("state-*"))


def test_killed_between_the_states_of_a_stack(undisturbed, tmp_path, monkeypatch):
    """Two runs have the state of step 40, two only that of step 20: all go on from 20."""
    out, configs, _ = undisturbed
    monkeypatch.setattr(fpt.stack, "SECONDS_PER_STATE", 0)
    monkeypatch.setattr(fpt.stack, "STATE_SHARE", math.inf)
    write, count = Folder.write_state, 0

    def write_some(folder, step, *arguments):
        nonlocal count
        count += step == 40
        if count > 2:
            raise SystemError("killed")
        write(folder, step, *arguments)

    monkeypatch.setattr(Folder, "write_state", write_some)
    monkeypatch.setattr(fpt.stack, "MOST_PER_DISPATCH", 20)
    monkeypatch.setattr(fpt.stack, "SECONDS_PER_DISPATCH", 1e9)
    with pytest.raises(SystemError):
        train(configs, tmp_path, quiet=True)
    assert len(list(tmp_path.rglob("state-00000040.safetensors"))) == 2
    monkeypatch.undo()
    train(configs, tmp_path, quiet=True)
    for folder in out.iterdir():
        _same(folder, tmp_path / folder.name)


def _room_for(most, monkeypatch):
    """Makes stacks of more than `most` runs look too large; returns the sizes of those that are trained."""
    sizes, compiled, run = [], fpt.run.Stacks.compile, fpt.stack.Stack.run

    def compile(stacks, runs):
        loop, needed = compiled(stacks, runs)
        return loop, needed if runs <= most else 10**18

    monkeypatch.setattr(fpt.run.Stacks, "compile", compile)
    monkeypatch.setattr(fpt.stack.Stack, "run", lambda stack, progress: sizes.append(len(stack.folders)) or run(stack, progress))
    return sizes


def test_a_stack_that_does_not_fit_is_split(undisturbed, tmp_path, monkeypatch, capsys):
    _, configs, results = undisturbed
    sizes = _room_for(3, monkeypatch)
    split = train(configs, tmp_path)
    assert sizes == [3, 1]
    assert "4 runs at once need more memory than there is; going on with 3" in capsys.readouterr().out
    for one, other in zip(split, results):
        assert one["test"]["loss"] == pytest.approx(other["test"]["loss"], rel=0.02)


def test_a_run_that_does_not_fit_is_refused(config, tmp_path, monkeypatch):
    _room_for(0, monkeypatch)
    with pytest.raises(UserError, match="a smaller --batch needs less"):
        train(config, tmp_path, quiet=True)


def _stop_after(evaluations, monkeypatch):
    """Stops the next training, as a kill would, when so many evaluations are done and a state of each is written."""
    evaluate, count = fpt.stack.Stack._evaluate, 0

    def counted(stack, *arguments):
        nonlocal count
        evaluate(stack, *arguments)
        stack._save()
        count += 1
        if count == evaluations:
            raise SystemError("killed")

    monkeypatch.setattr(fpt.stack.Stack, "_evaluate", counted)


def test_split_stacks_are_the_same_stacks_after_a_kill(undisturbed, tmp_path, monkeypatch):
    _, configs, _ = undisturbed
    configs = grid(configs[0], (1e-2, 1e-3), (0, 1, 2))
    with monkeypatch.context() as patch:
        sizes = _room_for(4, patch)
        train(configs, tmp_path / "once", quiet=True)
        assert sizes == [4, 2]
    with monkeypatch.context() as patch:
        _room_for(4, patch)
        _stop_after(6, patch)  # in the second stack, of two
        with pytest.raises(SystemError):
            train(configs, tmp_path / "killed", quiet=True)
    with monkeypatch.context() as patch:
        sizes = _room_for(4, patch)
        train(configs, tmp_path / "killed", quiet=True)
        assert sizes == [2]
    for folder in (tmp_path / "once").iterdir():
        _same(folder, tmp_path / "killed" / folder.name)


def test_asking_for_more_runs_leaves_a_begun_one_where_it_was(config, tmp_path, monkeypatch, capsys):
    train(config, tmp_path / "once", quiet=True)
    with monkeypatch.context() as patch:
        _stop_after(2, patch)
        with pytest.raises(SystemError):
            train(config, tmp_path / "more", quiet=True)
    train(grid(config, (1e-2,), (0, 1)), tmp_path / "more")
    assert "going on at step 20" in capsys.readouterr().out
    assert len(list((tmp_path / "more").glob("*/result.json"))) == 2
    for folder in (tmp_path / "once").iterdir():
        _same(folder, tmp_path / "more" / folder.name)


def test_a_stop_in_the_last_evaluation_is_not_swallowed(config, tmp_path, monkeypatch):
    train(config, tmp_path / "once", quiet=True)
    evaluate = fpt.stack.evaluate

    def interrupt(trainer, frozen, trainable, split, between):
        if len(split.targets) == 64:  # the test split
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate(trainer, frozen, trainable, split, between)

    with monkeypatch.context() as patch:
        patch.setattr(fpt.stack, "evaluate", interrupt)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "again", quiet=True)
    train(config, tmp_path / "again", quiet=True)
    for folder in (tmp_path / "once").iterdir():
        _same(folder, tmp_path / "again" / folder.name)


def test_data_that_changed_under_a_run_are_refused(config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        _stop_after(2, patch)
        with pytest.raises(SystemError):
            train(config, tmp_path, quiet=True)
    load = BitXor.load
    monkeypatch.setattr(BitXor, "load", lambda task, *arguments: {
        name: split._replace(targets=1 - split.targets) for name, split in load(task, *arguments).items()})
    with pytest.raises(UserError, match="the data are not those"):
        train(config, tmp_path, quiet=True)


def test_a_run_that_diverges_is_recorded_and_the_others_go_on(config, tmp_path, capsys):
    wild, tame = train(grid(config, (1e38, 1e-2), (0,)), tmp_path)
    assert wild["status"] == "diverged" and 0 < wild["diverged_at"] < 20 and tame["status"] == "finished"
    said = capsys.readouterr().out
    assert f"diverged at step {wild['diverged_at']}; the others go on" in said
    train(dataclasses.replace(config, lr=1e38), tmp_path / "alone", quiet=True)
    alone = next((tmp_path / "alone").iterdir())
    assert [line["step"] for line in _lines(alone)] == [0, 20]  # strict JSON, without NaN
    assert [(line["step"], line.get("diverged_at")) for line in _lines(tmp_path / alone.name)] == [
        (0, None), (20, wild["diverged_at"])]


@pytest.mark.parametrize("at_most", [1, 7, 500])
def test_where_a_diverged_run_ends_does_not_hang_on_how_it_is_dispatched(config, tmp_path, monkeypatch, at_most):
    monkeypatch.setattr(fpt.stack, "MOST_PER_DISPATCH", at_most)
    result = train(dataclasses.replace(config, lr=1e38), tmp_path, quiet=True)[0]
    assert result["steps"] == 20 and result["best_step"] == 0 and result["test"]["loss"] is not None


def test_weights_that_are_not_numbers_are_never_the_best(config, tmp_path):
    """Overflown weights answer class 0 everywhere, which may be more often right than the start was."""
    results = train(grid(dataclasses.replace(config, steps=20), (1e38,), (0, 1, 2, 3)), tmp_path, quiet=True)
    assert all(result["best_step"] == 0 and result["test"]["loss"] is not None for result in results)
    assert all(line["validation"]["accuracy"] >= 0 for folder in tmp_path.iterdir() for line in _lines(folder))


def test_examples_bound_validation_and_test(config, tmp_path):
    result = train(dataclasses.replace(config, steps=2, eval_examples=10), tmp_path, quiet=True)[0]
    assert result["test"]["n"] == result["validation"]["n"] == 10


def test_no_roles_loaded_is_the_random_twin(config, tmp_path):
    loaded = dataclasses.replace(config, steps=1)
    random = dataclasses.replace(loaded, load="none")
    a, b = train([loaded, random], tmp_path, quiet=True)
    assert a["frozen"] != b["frozen"] and a["counts"] == b["counts"]
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*/config.json")]
    assert sorted(record["checkpoint"] is None for record in records) == [False, True]


CHANGES = {
    "steps": 61, "batch": 9, "lr": 1e-3, "eval_every": 21, "eval_examples": 5, "load": "attention", "train": "output", "seed": 1,
    "body_seed": 1, "dtype": "bfloat16", "dropout": 0.2, "embedding_dropout": 0.0, "attention_dropout": 0.0,
    "residual_dropout": 0.0, "clip": 2.0, "init": "depth-scaled", "task": BitXor(bits=4), "checkpoint": "0" * 32,
    "geometry": TINY, "birth": "statistics", "redraw": "attention", "optimizer": "muon", "weight_decay": 0.1, "warmup": 5,
    "decay": "cosine", "accumulate": 2,
}


def test_every_setting_is_part_of_the_name(config):
    changed = [dataclasses.replace(config, **{name: value}) for name, value in CHANGES.items()]
    assert len({one.digest for one in [config, *changed]}) == len(changed) + 1
    assert set(CHANGES) | {"body", "task_file"} == {field.name for field in dataclasses.fields(Config)}


def test_a_configuration_survives_its_record(config):
    for changed in [config, *(dataclasses.replace(config, **{name: value}) for name, value in CHANGES.items())]:
        assert configuration(json.loads(json.dumps(changed.record()))) == changed


def test_where_weights_lie_is_not_part_of_the_name_but_what_they_are_is(config):
    a, b = (dataclasses.replace(config, body=body, geometry=TINY, checkpoint="1" * 32) for body in ("here/tiny", "there/tiny"))
    assert a.digest == b.digest != dataclasses.replace(a, checkpoint="2" * 32).digest


def test_a_body_that_was_moved_is_the_same_body(config, tmp_path, tiny_folder, capsys):
    import shutil

    shutil.copytree(tiny_folder, tmp_path / "there" / "tiny")
    config = dataclasses.replace(config, steps=2)
    train(config, tmp_path / "runs", quiet=True)
    train(dataclasses.replace(config, body=str(tmp_path / "there" / "tiny")), tmp_path / "runs")
    assert "is finished" in capsys.readouterr().out
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_loaded_run_answers_and_shows_its_maps(undisturbed):
    out, *_ = undisturbed
    run = load_run(min(out.iterdir()))
    inputs = run.task.load()["test"].inputs[:4]
    logits, seen = run(inputs, hidden=True, maps=True)
    assert logits.shape == (4, 3, 2) and seen.hidden.shape == (3, 4, 6, 32) and seen.maps.shape == (2, 4, 4, 6, 6)
    np.testing.assert_allclose(seen.maps.sum(-1), 1, atol=1e-5)
    assert np.array_equal(np.argmax(run(inputs), -1), np.argmax(logits, -1))
    assert not np.array_equal(run(inputs, key=jax.random.key(0)), logits)


def test_runs_are_taken_up_where_each_is_however_they_were_asked_for(undisturbed, tmp_path, monkeypatch, capsys):
    """Three seeds are killed, then one of them alone, later; then all three: nobody begins anew, nothing newer is lost."""
    _, configs, _ = undisturbed
    configs = grid(configs[0], (1e-2,), (0, 1, 2))
    for chosen, evaluations in ((configs, 2), (configs[2:], 1)):
        with monkeypatch.context() as patch:
            _stop_after(evaluations, patch)
            with pytest.raises(SystemError):
                train(chosen, tmp_path, quiet=True)
    steps = {int(name[1]): sorted(found) for name, found in _states(tmp_path).items()}
    assert steps[0] == steps[1] and len(steps[2]) == 1 and steps[2] > steps[0]
    capsys.readouterr()
    train(configs, tmp_path)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("going on")]
    assert [line.split(":")[0] for line in said] == [f"going on at step {steps[0][0]}", f"going on at step {steps[2][0]}"]
    assert "seed0" in said[0] and "seed1" in said[0] and "seed2" in said[1]


def _states(out):
    """("seed", seed) -> the steps of its states."""
    found = {}
    for state in out.rglob("state-*.safetensors"):
        found.setdefault(("seed", re.search(r"seed(\d+)", str(state.parent))[1]), []).append(int(state.stem.split("-")[1]))
    return found


@pytest.mark.parametrize("begun, expected", [
    # A stack that was killed while it wrote: back to the step that both have.
    ({"a": [(40, "ab"), (20, "ab")], "b": [(20, "ab")]}, [(20, "ab")]),
    ({"a": [(40, "ab")], "b": [(40, "ab")], "c": []}, [(40, "ab")]),
    # One of them went on alone, and was killed while it wrote.
    ({"a": [(20, "ab")], "b": [(60, "b"), (40, "b")]}, [(20, "a"), (60, "b")]),
    ({"a": [(20, "abc")], "b": [(20, "abc")], "c": [(40, "c"), (20, "abc")]}, [(20, "ab"), (40, "c")]),
    # Two that were begun one by one stay apart at the same step.
    ({"a": [(20, "a")], "b": [(20, "b")]}, [(20, "a"), (20, "b")]),
    # A file was removed by hand: each where it is.
    ({"a": [(40, "ab")], "b": [(20, "ab")]}, [(40, "a"), (20, "b")]),
])
def test_runs_go_on_together_from_the_newest_state_that_they_share(begun, expected):
    told = {name: [(step, tuple(stack)) for step, stack in states] for name, states in begun.items()}
    assert fpt.run.together(told) == [(step, list(names)) for step, names in expected]


def test_a_hidden_folder_in_a_run_is_no_hindrance_and_stays(config, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        _stop_after(2, patch)
        with pytest.raises(SystemError):
            train(config, tmp_path, quiet=True)
    folder, = tmp_path.iterdir()
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".notes").write_text("mine")
    train(config, tmp_path, quiet=True)
    assert (folder / ".ipynb_checkpoints").is_dir() and (folder / ".notes").read_text() == "mine"


def test_numbers_are_those_of_their_field_whatever_kind_they_come_in(config):
    same = dataclasses.replace(config, dropout=0, seed=np.int64(3), batch=np.int32(8), lr=np.float32(0.5), weight_decay=0)
    plain = dataclasses.replace(config, dropout=0.0, seed=3, batch=8, lr=0.5, weight_decay=0.0)
    assert same.name == plain.name and same == plain
    assert json.dumps(same.record()) == json.dumps(plain.record())


@pytest.mark.parametrize("setting", [{"steps": 2.5}, {"steps": "3"}, {"lr": "fast"}, {"seed": None}, {"load": 3}, {"clip": [1]}])
def test_a_value_of_another_kind_is_refused_by_name(config, setting):
    name, = setting
    with pytest.raises(UserError, match=f"--{name} must be a"):
        dataclasses.replace(config, **setting)


def test_configurations_may_come_one_after_another_and_twice(config, tmp_path):
    short = dataclasses.replace(config, steps=2, eval_every=2)
    asked = [short, dataclasses.replace(short, seed=1), short, dataclasses.replace(short, load="body")]
    results = train((config for config in asked), tmp_path, quiet=True)
    assert len(list(tmp_path.iterdir())) == 2
    assert results[0] == results[2] == results[3] != results[1]


@pytest.mark.parametrize("configs", [None, "x", 5, [None], {"lr": 1}], ids=str)
def test_what_is_no_configuration_is_refused(tmp_path, configs):
    with pytest.raises(UserError, match="train takes a Config or several of them, not"):
        train(configs, tmp_path)


def test_a_preset_brings_its_sizes_but_for_those_that_were_given():
    from tasks.listops import ListOps

    config = Config.preset(ListOps(), "paper")
    assert (config.task.shortest, config.task.longest, config.steps) == (501, 1_024, 1_000_000)
    assert Config.preset(ListOps(longest=600), "paper").task.longest == 600
    assert Config.preset(ListOps()).task == ListOps()
