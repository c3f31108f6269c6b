"""Kills, full disks and damaged files: one clear line, and nothing lost or half-written."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from filelock import FileLock
from safetensors.numpy import load_file, save_file

from fpt import Config, UserError, checkpoint, load_run, train
from fpt.arrays import unpack
from fpt.model import draw_body
from fpt.records import Folder
from fpt.stack import Pace
from tasks.bits import BitXor
from tests.conftest import TINY
from tests.running import assert_same

XOR = BitXor(bits=3)


def _arguments(body, out, *more):
    return ["bit-xor", "--bits", "3", "--body", body, "--batch", "8", "--eval-every", "500",
            "--out", out, *more]


def _start(*arguments, hash_seed="0"):
    """Starts the training command in a process of its own."""
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "scripts.train", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def _newest(out):
    """Finds the newest step of which a state lies on the disk, -1 for none."""
    states = out.rglob("state-*.safetensors")
    return max((int(path.stem.removeprefix("state-")) for path in states), default=-1)


@pytest.mark.slow
def test_killed_five_times_it_ends_as_if_never_killed(tiny_folder, tmp_path):
    """Kills two runs of a stack, once anywhere, then at random after a new state.

    Each time Python hashes under another seed.
    """
    more = ("--steps", 24_000, "--seed", 0, 1)
    undisturbed = _start(*_arguments(tiny_folder, tmp_path / "once", *more))
    arguments, moments = _arguments(tiny_folder, tmp_path / "killed", *more), random.Random(0)
    for attempt in range(5):
        before = _newest(tmp_path / "killed")
        process = _start(*arguments, hash_seed=str(attempt))
        while attempt and _newest(tmp_path / "killed") <= before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    last = _start(*arguments, hash_seed="77")
    said, _ = last.communicate()
    assert last.returncode == 0 and "going on at step" in said
    undisturbed.communicate()
    folders = sorted((tmp_path / "once").iterdir())
    assert len(folders) == 2
    assert_same(tmp_path / "once", tmp_path / "killed")
    for folder in folders:
        names = {path.name for path in (tmp_path / "killed" / folder.name).iterdir()} - {".lock"}
        assert names == {"config.json", "metrics.jsonl", "result.json", "trainable.safetensors"}


def test_ctrl_c_saves_and_says_how_to_go_on(tiny_folder, tmp_path):
    process = _start(*_arguments(tiny_folder, tmp_path, "--steps", 10**7))
    while not list(tmp_path.rglob("metrics.jsonl")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the state is saved, and the same command goes on from it" in said
    assert "Traceback" not in said
    assert len(list(tmp_path.rglob("state-*.safetensors"))) == 1


@pytest.fixture
def config(tiny_folder):
    return Config(XOR, str(tiny_folder), steps=40, batch=8, lr=1e-2, eval_every=20)


def test_a_folder_in_use_is_refused(config, tmp_path):
    folder = tmp_path / _only(config, tmp_path)
    (folder / "result.json").unlink()
    with FileLock(folder / ".lock"), pytest.raises(UserError, match="in use by another process"):
        train(config, tmp_path, quiet=True)


def _only(config, out):
    train(config, out, quiet=True)
    return next(path.name for path in out.iterdir())


def test_a_configuration_that_is_not_its_folders_is_refused(config, tmp_path):
    folder = tmp_path / _only(config, tmp_path)
    (folder / "result.json").unlink()
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stated | {"lr": 0.5}))
    with pytest.raises(UserError, match="differs from its folder's name in lr"):
        train(config, tmp_path, quiet=True)


def test_a_finished_folder_with_another_configuration_is_not_skipped(config, tmp_path):
    folder = tmp_path / _only(config, tmp_path)
    stated = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(stated | {"lr": 0.5}))
    with pytest.raises(UserError, match="differs from its folder's name in lr"):
        train(config, tmp_path, quiet=True)


@pytest.mark.parametrize("harm", ["cut", "empty", "noise"])
@pytest.mark.parametrize("name", ["config.json", "result.json", "trainable.safetensors"])
def test_a_damaged_record_is_named(config, tmp_path, name, harm):
    folder = tmp_path / _only(config, tmp_path)
    whole = (folder / name).read_bytes()
    harmed = {"cut": whole[: len(whole) // 2], "empty": b"", "noise": os.urandom(len(whole))}
    (folder / name).write_bytes(harmed[harm])
    with pytest.raises(UserError, match=name):
        load_run(folder)


def test_a_damaged_state_is_named(config, tmp_path, monkeypatch):
    monkeypatch.setattr(Folder, "write_result", lambda *arguments: None)
    with pytest.raises(UserError):
        train(config, tmp_path, quiet=True)
    monkeypatch.undo()
    state = next(tmp_path.rglob("state-*.safetensors"))
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(UserError, match=state.name):
        train(config, tmp_path, quiet=True)


def test_a_body_that_was_swapped_is_refused(config, tmp_path, tiny_folder):
    body = shutil.copytree(tiny_folder, tmp_path / "body")
    config = Config(XOR, str(body), steps=2, batch=8, lr=1e-2, eval_every=20)
    folder = tmp_path / "runs" / _only(config, tmp_path / "runs")
    checkpoint.write(body, TINY, draw_body(TINY, jax.random.key(6)))
    with pytest.raises(UserError, match="not those that this run was trained with"):
        load_run(folder)


@pytest.mark.parametrize("change", [{"n_head": 2}, {"activation_function": "relu"}])
def test_a_body_whose_configuration_changed_is_refused(tmp_path, tiny_folder, change):
    body = shutil.copytree(tiny_folder, tmp_path / "body")
    config = Config(XOR, str(body), steps=2, batch=8, lr=1e-2, eval_every=20)
    folder = tmp_path / "runs" / _only(config, tmp_path / "runs")
    stated = json.loads((body / "config.json").read_text())
    (body / "config.json").write_text(json.dumps(stated | change))
    said = r"the config.json of .* not those that this run was trained with"
    with pytest.raises(UserError, match=said):
        load_run(folder)
    train(config, tmp_path / "runs", quiet=True)
    assert len(list((tmp_path / "runs").iterdir())) == 2  # another body, another run


def test_an_unwritable_folder_is_named(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file/runs"):
        train(config, tmp_path / "file" / "runs", quiet=True)


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of 300 kB, on which the state of the tiny body fits twice."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder]
    mounted = subprocess.run(command, capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_loses_nothing(config, tmp_path, small_disk):
    """The disk is full after the last evaluation; the newest state is of the one before."""
    train(config, tmp_path / "once", quiet=True)
    once = next((tmp_path / "once").iterdir())

    def fill(folder, history):
        if history[-1]["step"] == 40:
            with pytest.raises(OSError), open(small_disk / "filler", "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

    always = Pace(save_seconds=0, save_share=math.inf, dispatch_seconds=math.inf)
    with pytest.raises(UserError, match="No space left on device"):
        train(config, small_disk, quiet=True, log=fill, pace=always)
    folder = small_disk / once.name
    state = "state-00000020.safetensors"
    names = {path.name for path in folder.iterdir()}
    assert names == {".lock", "config.json", "metrics.jsonl", state}
    unpack(folder / state)
    (small_disk / "filler").unlink()
    train(config, small_disk, quiet=True)
    assert_same(once, folder)


def test_a_body_with_numbers_that_are_not_finite_is_refused(tmp_path, config):
    body = shutil.copytree(config.body, tmp_path / "body")
    tensors = load_file(body / "model.safetensors")
    tensors["h.1.mlp.c_fc.weight"][0, 0] = np.nan
    save_file(tensors, body / "model.safetensors")
    harmed = Config(XOR, str(body), steps=2, batch=8, lr=1e-2, eval_every=2)
    said = r"h\.1\.mlp\.c_fc\.weight holds numbers that are not finite"
    with pytest.raises(UserError, match=said):
        train(harmed, tmp_path / "runs", quiet=True)
    assert not list((tmp_path / "runs").rglob("result.json"))
