"""Runs that were stopped at any point end in the same numbers as runs that never were."""

import math
import os
import re
import signal

import pytest

import fpt.machine
from fpt import UserError, train
from fpt.arrays import described
from fpt.config import Config, grid
from fpt.experiment import Experiment
from fpt.interrupt import Interrupted
from fpt.planning import MEMORY_SHARE, together
from fpt.progress import Steps
from fpt.records import Folder, summary
from fpt.run import resolved
from fpt.stack import Pace
from tasks.bits import BitXor
from tests.running import assert_same, ctrl_c

XOR = BitXor(bits=3)
# Saves a state after each dispatch, which ends at the next evaluation.
ALWAYS = Pace(save_seconds=0, save_share=math.inf, dispatch_seconds=math.inf)


@pytest.fixture
def config(tiny_folder):
    return Config(XOR, str(tiny_folder), steps=60, batch=8, lr=1e-2, eval_every=20)


def test_an_interrupted_run_goes_on_where_it_was(undisturbed, tmp_path, capsys):
    out, configs, _ = undisturbed
    with pytest.raises(Interrupted):
        train(configs, tmp_path, quiet=True, log=ctrl_c(40))
    assert len(list(tmp_path.rglob("state-*"))) == 4
    assert len(list(tmp_path.rglob("state-00000040.safetensors"))) == 4
    assert not list(tmp_path.rglob("result.json"))
    steps = set()
    train(configs, tmp_path, log=lambda folder, history: steps.add(history[-1]["step"]))
    assert "going on at step 40\n" in capsys.readouterr().out and steps == {60}
    assert_same(out, tmp_path)


def test_the_pace_that_is_shown_is_todays(config, tmp_path, monkeypatch):
    hours = iter(range(0, 10**9, 3600))
    with pytest.raises(Interrupted):
        train(config, tmp_path, quiet=True, log=ctrl_c(20), pace=Pace(lambda: next(hours)))
    paces = []
    monkeypatch.setattr(Steps, "update", lambda self, step, seconds, *shown: paces.append(seconds))
    result, = train(config, tmp_path, quiet=True)
    assert paces and max(paces) < 100
    assert result["seconds"] > 3600 and result["steps_per_second"] < 1  # those of both days


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
    assert_same(out, tmp_path)


def test_killed_between_the_states_of_a_stack(undisturbed, tmp_path, monkeypatch, capsys):
    """Two runs have the state of step 40, two only that of step 20: all go on from 20."""
    out, configs, _ = undisturbed
    write, count = Folder.write_state, 0

    def write_some(folder, step, *arguments):
        nonlocal count
        count += step == 40
        if count > 2:
            raise SystemError("killed")
        write(folder, step, *arguments)

    monkeypatch.setattr(Folder, "write_state", write_some)
    with pytest.raises(SystemError):
        train(configs, tmp_path, quiet=True, pace=ALWAYS)
    assert len(list(tmp_path.rglob("state-00000040.safetensors"))) == 2
    monkeypatch.undo()
    train(configs, tmp_path)
    assert "going on at step 20\n" in capsys.readouterr().out
    assert_same(out, tmp_path)


def test_killed_between_the_last_states_of_which_some_have_a_result(
        undisturbed, tmp_path, monkeypatch):
    """Stopped in the last evaluation, the four states of step 60 have no result; then two get one.

    They are taken up in another order, in which each run must still get its own result.
    """
    out, configs, _ = undisturbed
    usual, sent = BitXor.slices, []

    def interrupt(task, inputs):
        if not sent and len(inputs) == 64:  # the test split
            sent.append(os.kill(os.getpid(), signal.SIGINT))
        return usual(task, inputs)

    monkeypatch.setattr(BitXor, "slices", interrupt)
    with pytest.raises(Interrupted):
        train(configs, tmp_path, quiet=True)
    monkeypatch.undo()
    write, count = Folder.write_state, 0

    def write_some(*arguments):
        nonlocal count
        count += 1
        if count > 2:
            raise SystemError("killed")
        write(*arguments)

    monkeypatch.setattr(Folder, "write_state", write_some)
    with pytest.raises(SystemError):
        train(configs, tmp_path, quiet=True)
    results = [described(file)["notes"]["result"] for file in tmp_path.rglob("state-00000060*")]
    assert len(results) == 4 and results.count(None) == 2
    monkeypatch.undo()
    train(configs[::-1], tmp_path, quiet=True)
    assert_same(out, tmp_path)
    for run in out.iterdir():
        of_once, of_these = (summary(folder / run.name)["result"] for folder in (out, tmp_path))
        assert of_these["test"] == of_once["test"]


def test_split_stacks_are_the_same_stacks_after_a_kill(config, tmp_path, monkeypatch):
    configs = grid(config, (1e-2, 1e-3), (0, 1, 2))
    (ready, found), *_ = resolved(configs)
    room = Experiment(ready, found, configs, None, quiet=True).compiled(4).bytes / MEMORY_SHARE
    monkeypatch.setattr(fpt.machine, "memory", lambda: 1.001 * room)
    once = train(configs, tmp_path / "once", quiet=True)
    assert [result["runs_in_stack"] for result in once] == [3, 3, 3, 3, 3, 3]
    with pytest.raises(Interrupted):  # in the second stack
        train(configs, tmp_path / "killed", quiet=True, log=ctrl_c(20, "lr0.001-seed1"))
    assert len(list(tmp_path.glob("killed/*/result.json"))) == 3
    again = train(configs, tmp_path / "killed", quiet=True)
    assert [result["runs_in_stack"] for result in again] == [3, 3, 3, 3, 3, 3]
    assert_same(tmp_path / "once", tmp_path / "killed")


def test_asking_for_more_runs_leaves_a_begun_one_where_it_was(config, tmp_path, capsys):
    train(config, tmp_path / "once", quiet=True)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "more", quiet=True, log=ctrl_c(20))
    train(grid(config, (1e-2,), (0, 1)), tmp_path / "more")
    assert "going on at step 20" in capsys.readouterr().out
    assert len(list((tmp_path / "more").glob("*/result.json"))) == 2
    assert_same(tmp_path / "once", tmp_path / "more")


@pytest.mark.parametrize("moment", ["slices", "figures"])
def test_a_stop_in_the_last_evaluation_is_not_swallowed(config, tmp_path, monkeypatch, moment):
    """While the answers on test are scored, and after the last look for a signal."""
    train(config, tmp_path / "once", quiet=True)
    usual = getattr(BitXor, moment)

    def interrupt(task, *arguments):
        if moment == "figures" or len(arguments[0]) == 64:  # the test split
            os.kill(os.getpid(), signal.SIGINT)
        return usual(task, *arguments)

    monkeypatch.setattr(BitXor, moment, interrupt)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "again", quiet=True)
    monkeypatch.undo()
    train(config, tmp_path / "again", quiet=True)
    assert_same(tmp_path / "once", tmp_path / "again")


def test_data_that_changed_under_a_run_are_refused(config, tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        train(config, tmp_path, quiet=True, log=ctrl_c(20))
    load = BitXor.load
    monkeypatch.setattr(BitXor, "load", lambda task, *arguments: {
        name: split._replace(targets=1 - split.targets)
        for name, split in load(task, *arguments).items()})
    with pytest.raises(UserError, match="the data are not those"):
        train(config, tmp_path, quiet=True)


def test_runs_are_taken_up_where_each_is_however_they_were_asked_for(config, tmp_path, capsys):
    """Three seeds are stopped, then one of them alone, later; then all three go on from there."""
    configs = grid(config, (1e-2,), (0, 1, 2))
    for chosen, step in ((configs, 20), (configs[2:], 40)):
        with pytest.raises(Interrupted):
            train(chosen, tmp_path, quiet=True, log=ctrl_c(step))
    found = {re.search(r"seed\d", str(state))[0]: state.name for state in tmp_path.rglob("state-*")}
    early, late = (f"state-000000{step}.safetensors" for step in (20, 40))
    assert found == {"seed0": early, "seed1": early, "seed2": late}
    train(configs, tmp_path)
    output = capsys.readouterr().out.splitlines()
    said = [line for line in output if line.startswith("going on")]
    assert [line.split(":")[0] for line in said] == ["going on at step 20", "going on at step 40"]
    assert "seed0" in said[0] and "seed1" in said[0] and "seed2" in said[1]


@pytest.mark.parametrize("begun, expected", [
    # A stack that was killed while it wrote: back to the step that both have.
    ({"a": [(40, "ab"), (20, "ab")], "b": [(20, "ab")]}, [(20, "ab")]),
    ({"a": [(40, "ab")], "b": [(40, "ab")], "c": []}, [(40, "ab")]),
    # One of them went on alone, and was killed while it wrote.
    ({"a": [(20, "ab")], "b": [(60, "b"), (40, "b")]}, [(20, "a"), (60, "b")]),
    ({"a": [(20, "abc")], "b": [(20, "abc")], "c": [(40, "c"), (20, "abc")]},
     [(20, "ab"), (40, "c")]),
    # Two that were begun one by one stay apart at the same step.
    ({"a": [(20, "a")], "b": [(20, "b")]}, [(20, "a"), (20, "b")]),
    # A file was removed by hand: each where it is.
    ({"a": [(40, "ab")], "b": [(20, "ab")]}, [(40, "a"), (20, "b")]),
])
def test_runs_go_on_together_from_the_newest_state_that_they_share(begun, expected):
    states = {name: [(step, tuple(stack)) for step, stack in one] for name, one in begun.items()}
    assert together(states) == [(step, list(names)) for step, names in expected]


def test_a_hidden_folder_in_a_run_is_no_hindrance_and_stays(config, tmp_path):
    with pytest.raises(Interrupted):
        train(config, tmp_path, quiet=True, log=ctrl_c(20))
    folder, = tmp_path.iterdir()
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".notes").write_text("mine")
    train(config, tmp_path, quiet=True)
    assert (folder / ".ipynb_checkpoints").is_dir() and (folder / ".notes").read_text() == "mine"
