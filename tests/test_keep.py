"""`--keep N`: parameters at evenly spaced steps, which change no number of a run."""

import json
import os
import signal

import numpy as np
import pytest

from fpt import UserError, load_run, saved, train
from fpt.arrays import pack, unpack
from fpt.config import Config, kept_steps
from fpt.interrupt import Interrupted
from fpt.progress import Steps
from fpt.records import Folder
from tasks.bits import BitXor
from tests.running import assert_same


@pytest.fixture
def config(tiny_folder):
    return Config(BitXor(bits=3), str(tiny_folder), steps=50, batch=8, lr=1e-2, eval_every=20)


def kept(folder):
    return {step: saved.read_kept(folder, step, folder.name[-8:])
            for step in saved.kept(folder)}


def equal(one, other):
    assert one.keys() == other.keys()
    for step, values in one.items():
        for name, value in values.items():
            np.testing.assert_array_equal(value, other[step][name], err_msg=f"{name}, step {step}")


def test_steps_are_evenly_spaced_and_the_last_is_among_them():
    assert kept_steps(50, 4) == (12, 25, 37, 50) and kept_steps(3, 3) == (1, 2, 3)
    assert kept_steps(50, 0) == ()


def test_what_is_kept_changes_no_number_and_is_part_of_no_name(config, tmp_path):
    one, = train([config], tmp_path / "one", quiet=True)
    other, = train([config], tmp_path / "other", quiet=True, keep=4)
    (plain,), (rich,) = ((tmp_path / name).iterdir() for name in ("one", "other"))
    assert plain.name == rich.name
    assert one["trainable"] == other["trainable"] and one["test"] == other["test"]
    assert saved.kept(plain) == () and saved.kept(rich) == (12, 25, 37, 50)
    assert load_run(rich).steps == (0, 12, 25, 37, 50)


def test_what_is_kept_is_the_state_after_that_step(config, tmp_path):
    """A run of 25 steps ends where one of 50 passes."""
    train([config], tmp_path / "long", quiet=True, keep=2)
    short = Config(**vars(config) | {"steps": 25, "eval_every": 25})
    train([short], tmp_path / "short", quiet=True, keep=1)
    (long,), (short,) = ((tmp_path / name).iterdir() for name in ("long", "short"))
    np.testing.assert_equal(kept(long)[25], kept(short)[25])
    run = load_run(long)
    later, table = run.at(25).parameters, kept(long)[25]["body/wpe"]
    np.testing.assert_array_equal(later["body/wpe"][: len(table)], table)
    assert np.abs(later["body/wpe"] - run.at(0).parameters["body/wpe"]).max() > 0
    assert run.at(50).result is run.result


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_that_is_stopped_where_it_keeps_ends_with_the_same_files(
        config, tmp_path, monkeypatch, moment):
    """Stopped at step 25, before or after the parameters were written, when a state was."""
    train([config], tmp_path / "once", quiet=True, keep=2)
    (once,), write = (tmp_path / "once").iterdir(), Folder.write_kept

    def stop(step):
        if step == 25:
            os.kill(os.getpid(), signal.SIGINT)

    def written(folder, step, values):
        write(folder, step, values)
        stop(step)

    with monkeypatch.context() as patch:
        if moment == "before":
            patch.setattr(Steps, "update", lambda progress, step, *shown: stop(step))
        else:
            patch.setattr(Folder, "write_kept", written)
        with pytest.raises(Interrupted):
            train([config], tmp_path / "twice", quiet=True, keep=2)
    (twice,) = (tmp_path / "twice").iterdir()
    assert saved.kept(twice) == ((25,) if moment == "after" else ())
    assert [file.name for file in twice.glob("state-*")] == ["state-00000025.safetensors"]
    train([config], tmp_path / "twice", quiet=True, keep=2)
    equal(kept(once), kept(twice))
    assert_same(once, twice)


def test_runs_of_a_stack_keep_their_own(config, tmp_path):
    other = Config(**vars(config) | {"seed": 1})
    train([config, other], tmp_path / "both", quiet=True, keep=1)
    stated = lambda folder: json.loads((folder / "config.json").read_text())
    one, two = sorted((tmp_path / "both").iterdir(), key=lambda folder: stated(folder)["seed"])
    assert saved.kept(one) == saved.kept(two) == (50,)
    assert np.abs(kept(one)[50]["input/kernel"] - kept(two)[50]["input/kernel"]).max() > 0


@pytest.mark.parametrize("keep", [-1, 51])
def test_as_many_steps_as_there_are_can_be_kept(config, tmp_path, keep):
    said = f"--keep must be from 0 to the number of steps, 50, not {keep}"
    with pytest.raises(UserError, match=said):
        train([config], tmp_path / "runs", keep=keep)
    assert not (tmp_path / "runs").exists()


def test_a_finished_run_says_that_it_kept_less(config, tmp_path, capsys):
    train([config], tmp_path, quiet=True)
    train([config], tmp_path, keep=1)
    lacking = "is finished, without all the steps that --keep asks for; delete it to train again"
    assert lacking in capsys.readouterr().out
    train([config], tmp_path)
    assert "is finished; delete it" in capsys.readouterr().out


@pytest.mark.parametrize("harm", ["step", "run", "cut", "shape"])
def test_kept_parameters_of_another_step_or_run_are_refused(config, tmp_path, harm):
    train([config], tmp_path, quiet=True, keep=1)
    folder, = tmp_path.iterdir()
    file = folder / "trainable-00000050.safetensors"
    values, about = unpack(file)
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-7])
    elif harm == "shape":
        file.write_bytes(pack(values | {"input/bias": np.zeros(3, np.float32)}, about))
    else:
        other = {"step": 49} if harm == "step" else {"digest": "00000000"}
        file.write_bytes(pack(values, about | other))
    run = load_run(folder)
    said = {"cut": "is damaged", "shape": "does not fit the run's configuration"}
    with pytest.raises(UserError, match=said.get(harm, "belongs to another run or step")):
        run.at(50)
