"""Kills, full disks, damaged files and other people's processes: one clear line, and nothing lost or half-written."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from filelock import FileLock

from fpt import Config, UserError, load_run, train
from fpt.arrays import unpack
from tasks.bits import BitXor

XOR = BitXor(bits=3)


def _arguments(body, out, *more):
    return ["bit-xor", "--bits", "3", "--body", body, "--batch", "8", "--eval-every", "500", "--out", out, *more]


def _start(*arguments, hash_seed="0"):
    """The training command in a process of its own."""
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen([sys.executable, "-m", "scripts.train", *map(str, arguments)], env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _metrics(folder):
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in (folder / "metrics.jsonl").open()]


def _newest(out):
    """The newest step of which a state lies on the disk, -1 for none."""
    return max((int(path.stem.removeprefix("state-")) for path in out.rglob("state-*.safetensors")), default=-1)


@pytest.mark.slow
def test_killed_five_times_it_ends_as_if_never_killed(tiny_folder, tmp_path):
    """Two runs in a stack, under another hash seed each time: killed once anywhere, then at random after a new state."""
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
    for folder in folders:
        other = tmp_path / "killed" / folder.name
        assert _metrics(folder) == _metrics(other)
        assert (folder / "trainable.safetensors").read_bytes() == (other / "trainable.safetensors").read_bytes()
        names = {path.name for path in other.iterdir()} - {".lock"}
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
    assert "the state is saved, and the same command goes on from it" in said and "Traceback" not in said
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
    (folder / name).write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "noise": os.urandom(len(whole))}[harm])
    with pytest.raises(UserError, match=name):
        load_run(folder)


def test_a_damaged_state_is_named(config, tmp_path, monkeypatch):
    from fpt.records import Folder

    monkeypatch.setattr(Folder, "write_result", lambda *arguments: None)
    with pytest.raises(UserError):
        train(config, tmp_path, quiet=True)
    monkeypatch.undo()
    state = next(tmp_path.rglob("state-*.safetensors"))
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(UserError, match=state.name):
        train(config, tmp_path, quiet=True)


def test_a_body_that_was_swapped_is_refused(config, tmp_path, tiny_folder):
    import jax

    from fpt import checkpoint
    from fpt.model import draw_body
    from tests.conftest import TINY

    body = tmp_path / "body"
    shutil.copytree(tiny_folder, body)
    folder = tmp_path / "runs" / _only(Config(XOR, str(body), steps=2, batch=8, lr=1e-2, eval_every=20), tmp_path / "runs")
    checkpoint.write(body, TINY, draw_body(TINY, jax.random.key(6)))
    with pytest.raises(UserError, match="not those that this run was trained with"):
        load_run(folder)


@pytest.mark.parametrize("change", [{"n_head": 2}, {"activation_function": "relu"}])
def test_a_body_whose_configuration_changed_is_refused(tmp_path, tiny_folder, change):
    body = tmp_path / "body"
    shutil.copytree(tiny_folder, body)
    config = Config(XOR, str(body), steps=2, batch=8, lr=1e-2, eval_every=20)
    folder = tmp_path / "runs" / _only(config, tmp_path / "runs")
    (body / "config.json").write_text(json.dumps(json.loads((body / "config.json").read_text()) | change))
    with pytest.raises(UserError, match=r"the config.json of .* not those that this run was trained with"):
        load_run(folder)
    train(config, tmp_path / "runs", quiet=True)
    assert len(list((tmp_path / "runs").iterdir())) == 2  # another body, another run


def test_an_unwritable_folder_is_named(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file/runs"):
        train(config, tmp_path / "file" / "runs", quiet=True)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB: the state of the tiny body fits twice, then other things fill it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_loses_nothing(config, tmp_path, small_disk, monkeypatch):
    import fpt.stack

    train(config, tmp_path / "once", quiet=True)
    once = next((tmp_path / "once").iterdir())
    evaluated = fpt.stack.Stack._evaluate

    def fill(stack, *arguments):
        evaluated(stack, *arguments)
        if stack.step == 20:
            stack._save()
            with pytest.raises(OSError), open(small_disk / "filler", "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

    monkeypatch.setattr(fpt.stack.Stack, "_evaluate", fill)
    with pytest.raises(UserError, match="No space left on device"):
        train(config, small_disk, quiet=True)
    monkeypatch.undo()
    folder = small_disk / once.name
    assert {path.name for path in folder.iterdir()} == {".lock", "config.json", "metrics.jsonl", "state-00000020.safetensors"}
    unpack(folder / "state-00000020.safetensors")
    (small_disk / "filler").unlink()
    train(config, small_disk, quiet=True)
    assert _metrics(folder) == _metrics(once)
    assert (folder / "trainable.safetensors").read_bytes() == (once / "trainable.safetensors").read_bytes()


def test_a_body_with_numbers_that_are_not_finite_is_refused(tmp_path, config):
    from safetensors.numpy import load_file, save_file

    shutil.copytree(config.body, tmp_path / "body")
    tensors = load_file(tmp_path / "body" / "model.safetensors")
    tensors["h.1.mlp.c_fc.weight"][0, 0] = np.nan
    save_file(tensors, tmp_path / "body" / "model.safetensors")
    with pytest.raises(UserError, match=r"h\.1\.mlp\.c_fc\.weight holds numbers that are not finite"):
        train(Config(XOR, str(tmp_path / "body"), steps=2, batch=8, lr=1e-2, eval_every=2), tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("result.json"))
