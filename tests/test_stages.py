"""Stages: runs that begin where others ended, one command after another or all in one."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import tasks
from fpt import UserError, load_run, train
from fpt.arrays import pack, unpack
from fpt.config import Config, grid
from fpt.interrupt import Interrupted
from fpt.parameters import INITIAL
from fpt.records import FROZEN, TRAINABLE
from fpt.run import resolved
from fpt.stages import Stage, following, parse, train_stages
from tasks.bits import BitXor
from tests.running import assert_same, ctrl_c, lines

STAGES = parse("all:4"), parse("output:6"), parse("fpt:4")


@pytest.fixture(scope="module")
def config(tiny_folder):
    return Config(BitXor(bits=3), str(tiny_folder), steps=4, batch=8, lr=1e-2, eval_every=2,
                  eval_examples=20)


@pytest.fixture(scope="module")
def staged(config, tmp_path_factory):
    """Two seeds at two rates through three stages, without a break."""
    out = tmp_path_factory.mktemp("staged")
    results = train_stages(grid(config, (1e-2, 1e-3), (0, 1)), STAGES, out, quiet=True, keep=1)
    assert len(list(out.iterdir())) == 12
    assert [result["runs_in_stack"] for result in results] == [4] * 4
    return out


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """The folder of a run that trained all that it has.  Who changes it takes a copy."""
    return finished(dataclasses.replace(config, train="all"), tmp_path_factory.mktemp("all"))


def finished(config, out, **settings):
    """Trains a run, and returns its folder."""
    train(config, out, quiet=True, **settings)
    (ready, _), = resolved([config])
    return out / ready.name


def stated(folder):
    return json.loads((folder / "config.json").read_text())


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_a_stage_is_read_from_roles_and_steps():
    assert parse("fpt+attention@0-1:2000") == Stage("fpt+attention@0-1", 2000)


@pytest.mark.parametrize("text", ["output", "output:", "output:0", "output:-1", "output:5.5"])
def test_what_is_no_stage_is_refused(text):
    with pytest.raises(UserError, match="--stages takes roles and a number of steps"):
        parse(text)


def test_stages_are_the_same_as_one_training_after_another(config, staged, tmp_path):
    first, *later = STAGES
    runs = [dataclasses.replace(one, train=first.train, steps=first.steps)
            for one in grid(config, (1e-2, 1e-3), (0, 1))]
    for stage in later:
        train(runs, tmp_path, quiet=True)
        ended = [tmp_path / ready.name for ready, _ in resolved(runs)]
        runs = [following(folder, train=stage.train, steps=stage.steps) for folder in ended]
    train(runs, tmp_path, quiet=True)
    assert_same(staged, tmp_path)


@pytest.mark.parametrize("stage", ["all", "output", "fpt"])
def test_stopped_in_any_stage_they_end_in_the_same_numbers(config, staged, tmp_path, stage):
    configs = grid(config, (1e-2, 1e-3), (0, 1))
    with pytest.raises(Interrupted):
        train_stages(configs, STAGES, tmp_path, quiet=True, log=ctrl_c(2, f"-{stage}-"))
    assert {path.parent.name.split("-")[3] for path in tmp_path.rglob("state-*")} == {stage}
    train_stages(configs, STAGES, tmp_path, quiet=True)
    assert_same(staged, tmp_path)


def test_each_run_of_a_stack_begins_to_the_bit_where_its_own_last_stage_ended(staged):
    later = [folder for folder in staged.iterdir() if "start" in stated(folder)]
    assert len({stated(folder)["begins"] for folder in later}) == len(later) == 8
    for folder in later:
        start = load_run(stated(folder)["start"])
        assert (start.config.seed, start.config.lr) == (
            stated(folder)["seed"], stated(folder)["lr"])
        assert_equal(load_run(folder).at(0).parameters, start.parameters)


@pytest.mark.parametrize("lr, seed", [(1e-2, 0), (1e-3, 1)])
def test_a_run_of_a_stack_equals_the_run_alone_through_all_stages(
        config, staged, tmp_path, lr, seed):
    alone = dataclasses.replace(config, lr=lr, seed=seed)
    train_stages([alone], STAGES, tmp_path, quiet=True, keep=1)
    for stage in STAGES:
        name = f"bit-xor-tiny-{stage.train}-lr{lr:g}-seed{seed}-*"
        (one,), (other,) = (list(out.glob(name)) for out in (tmp_path, staged))
        one, other = (load_run(folder).at(stage.steps).parameters for folder in (one, other))
        for name, value in one.items():
            np.testing.assert_allclose(value, other[name], atol=2e-4, err_msg=name)


def test_a_frozen_stage_does_not_move(trained, tmp_path):
    folder = finished(following(trained, train="output"), tmp_path, keep=1)
    before, run = load_run(trained).parameters, load_run(folder)
    for after in (run.parameters, run.at(4).parameters):
        output = {name for name in after if name.startswith("output/")}
        assert_equal({name: after[name] for name in after.keys() - output},
                     {name: before[name] for name in before.keys() - output})
    assert not np.array_equal(run.at(4).parameters["output/kernel"], before["output/kernel"])


@pytest.mark.parametrize("first, second, settings", [
    ("all", "output", {}), ("all", "output", {"dtype": "bfloat16"}), ("fpt", "fpt", {}),
    ("output", "norm", {"birth": "mimetic"})])
def test_a_run_is_whole_without_the_one_that_it_begins_from(
        config, tmp_path, first, second, settings):
    start = finished(dataclasses.replace(config, train=first, **settings), tmp_path / "first")
    folder = finished(following(start, train=second), tmp_path / "second")
    before = load_run(folder)
    begun, ended = before.at(0).parameters, load_run(start).parameters
    assert_equal({name: begun[name] for name in before.trainable},
                 {name: ended[name] for name in before.trainable})
    shutil.rmtree(start)
    after = load_run(folder)
    assert_equal(after.parameters, before.parameters)
    with pytest.raises(UserError, match=rf"no folder {start}, which this run begins from"):
        after.at(0)


def test_a_chain_of_stages_needs_the_last_folder_only(config, tmp_path):
    first = finished(dataclasses.replace(config, train="all"), tmp_path)
    second = finished(following(first, train="output"), tmp_path)
    wanted = load_run(second).parameters
    shutil.rmtree(first)
    third = finished(following(second, train="norm"), tmp_path)
    assert_equal(load_run(third).at(0).parameters, wanted)


def test_another_start_is_another_run_and_the_same_elsewhere_is_not(trained, staged, tmp_path):
    other = next(staged.glob("*-all-lr0.01-seed1-*"))
    moved = shutil.copytree(trained, tmp_path / trained.name)
    names = [ready.name for ready, _ in resolved([
        following(trained, seed=0), following(other, seed=0), following(moved, seed=0)])]
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize("setting", sorted(INITIAL))
def test_what_a_run_begins_with_cannot_be_changed(trained, setting):
    option = setting.replace("_", "-")
    with pytest.raises(UserError, match=f"--{option} cannot differ from that of .*begins from"):
        following(trained, **{setting: None})


@pytest.mark.parametrize("harm", ["run", FROZEN, TRAINABLE])
def test_a_start_whose_files_changed_is_refused(config, tmp_path, harm):
    start = finished(dataclasses.replace(config, train="output"), tmp_path / "first")
    second = following(start, train="norm")
    if harm == "run":
        other = finished(dataclasses.replace(config, train="output", seed=1), tmp_path / "other")
        shutil.rmtree(start)
        shutil.copytree(other, start)
    else:
        values, about = unpack(start / harm)
        values = {name: value + 1 for name, value in values.items()}
        (start / harm).write_bytes(pack(values, about))
    with pytest.raises(UserError, match="no longer holds what this run begins with|does not hold"):
        train(second, tmp_path / "second", quiet=True)
    assert not list((tmp_path / "second").glob("*/result.json"))


def test_a_run_that_is_not_finished_is_no_start(config, tmp_path):
    with pytest.raises(Interrupted):
        train(config, tmp_path, quiet=True, log=ctrl_c(2))
    with pytest.raises(UserError, match="the run is not finished; train it to its end"):
        following(next(tmp_path.iterdir()))


def test_each_seed_keeps_its_own_random_body(config, tmp_path):
    runs = grid(dataclasses.replace(config, load="none"), (1e-2,), (0, 1, 2))
    results = train_stages(runs, [parse("output:2"), parse("norm:2")], tmp_path, quiet=True)
    assert [result["runs_in_stack"] for result in results] == [3, 3, 3]
    kernels = []
    for folder in tmp_path.glob("*-norm-*"):
        run, start = load_run(folder), load_run(stated(folder)["start"])
        assert_equal(run.at(0).parameters, start.parameters)
        kernels.append(np.asarray(run.parameters["body/h_0/attn/c_attn/kernel"]))
    assert len({kernel.tobytes() for kernel in kernels}) == 3


def test_a_later_stage_has_batches_of_its_own(config, tmp_path):
    """Parameters that hardly move, without dropout: losses in training differ by the batches."""
    none = dict.fromkeys(["dropout", "embedding_dropout", "attention_dropout",
                          "residual_dropout"], 0.0)
    still = dataclasses.replace(config, lr=1e-30, train="output", **none)
    first = finished(still, tmp_path)
    one, other = (lines(folder) for folder in (first, finished(following(first), tmp_path)))
    assert one[-1]["validation"] == other[-1]["validation"]
    assert one[-1]["train"]["loss"] != other[-1]["train"]["loss"]


def test_factors_of_the_rate_apply_where_their_roles_are_trained(config, tmp_path):
    one = dataclasses.replace(config, rates=("output=0.5", "norm@0=0.1"))
    train_stages([one], [parse("output:1"), parse("fpt:1")], tmp_path, quiet=True)
    (first,), (second,) = (list(tmp_path.glob(f"*-{name}-*")) for name in ("output", "fpt"))
    assert stated(first)["rates"] == ["output=0.5"]
    assert stated(second)["rates"] == ["output=0.5", "norm@0=0.1"]
    assert following(second, train="norm").rates == ("norm@0=0.1",)
    assert following(second, train="norm", rates=()).rates == ()


@pytest.mark.parametrize("stage, said", [
    ("attention@7:4", "beyond the body's layers"), ("fpt:1", "--warmup 2 must be below --steps 1")])
def test_a_stage_that_cannot_be_is_refused_before_the_first(config, tmp_path, stage, said):
    with pytest.raises(UserError, match=said):
        train_stages([dataclasses.replace(config, warmup=2)], [parse("output:4"), parse(stage)],
                     tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("later, rates, keep, said", [
    ("fpt:2", (), 3, "--keep must be from 0 to the number of steps, 2, not 3"),
    ("norm:2", ("norm=0.1", "position=0.1"), 0, "--rates position=0.1: no stage trains such"),
    ("norm@1:2", ("norm@0=0.1",), 0, "--rates norm@0=0.1: --train norm@1 trains no such"),
])
def test_what_a_later_stage_cannot_do_is_refused_before_the_first(
        config, tmp_path, later, rates, keep, said):
    with pytest.raises(UserError, match=said):
        train_stages([dataclasses.replace(config, rates=rates)],
                     [parse("output:4"), parse(later)], tmp_path / "runs", quiet=True, keep=keep)
    assert not (tmp_path / "runs").exists()


def test_a_body_that_grew_in_an_earlier_stage_states_its_seed(config, tmp_path):
    first = finished(dataclasses.replace(config, train="all", seed=4), tmp_path / "runs")
    second = finished(following(first, train="output"), tmp_path / "runs")
    load_run(second).export(tmp_path / "grown")
    assert stated(tmp_path / "grown")["fpt_seeds"] == [4]


def test_a_task_file_that_was_never_executed_here_is_not_executed(config, tmp_path, monkeypatch):
    file = tmp_path / "own.py"
    file.write_text("from dataclasses import dataclass\nfrom tasks.bits import BitXor\n\n\n"
                    "@dataclass(frozen=True)\nclass Own(BitXor):\n    name = 'own'\n")
    own = dataclasses.replace(config, task=tasks.from_file(file)(bits=3), task_file=str(file))
    folder = finished(own, tmp_path / "runs")
    monkeypatch.setenv("FPT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="has not been executed here before"):
        following(folder)
    assert following(folder, task_file=file).task.name == "own"
