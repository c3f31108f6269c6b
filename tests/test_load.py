"""Checks runs and bodies that are loaded: from anywhere, on another kind of CPU, with code of a
user's own, together, and let go again.
"""

import gc
import json
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

import tasks
from fpt import Config, UserError, load_body, load_run, machine, train
from fpt.arrays import pack, unpack
from fpt.records import FROZEN, TRAINABLE, summary
from tasks.bits import BitXor

XOR = BitXor(bits=3)
ROOT = Path(__file__).parent.parent
TASK = """
from dataclasses import dataclass
from pathlib import Path
from tasks.bits import BitXor

Path({trace!r}).open("a").write("executed\\n")

@dataclass(frozen=True)
class Own(BitXor):
    name = "own"
    bits: int = 3
"""


def run(body, out, task=XOR, **settings):
    """A finished run of two steps."""
    config = Config(task, str(body), **dict(steps=2, batch=4, lr=1e-2, eval_every=2) | settings)
    before = set(out.iterdir()) if out.exists() else set()
    train(config, out, quiet=True)
    folder, = set(out.iterdir()) - before
    return folder


def test_a_random_body_is_the_one_of_a_run_that_loads_none(tiny_folder, tmp_path):
    loaded = load_run(run(tiny_folder, tmp_path, load="none", seed=3, steps=1, lr=1e-30))
    body = load_body(tiny_folder, random=True, seed=3)
    for name, value in body.parameters.items():
        np.testing.assert_allclose(value, loaded.parameters[name], atol=1e-20, err_msg=name)


def test_a_body_states_the_seed_that_it_grew_under_and_is_not_frozen_under_it(
        tiny_folder, tmp_path):
    load_run(run(tiny_folder, tmp_path / "runs", train="all", seed=4)).export(tmp_path / "grown")
    assert json.loads((tmp_path / "grown" / "config.json").read_text())["fpt_seeds"] == [4]
    with pytest.raises(UserError, match=r"grown was trained under seed 4; .*choose another --seed"):
        run(tmp_path / "grown", tmp_path / "again", seed=4)
    assert not (tmp_path / "again").exists()
    again = run(tmp_path / "grown", tmp_path / "again", seed=5)
    # Its norms and positions grew around the layers of seed 5.
    load_run(again).export(tmp_path / "twice")
    assert json.loads((tmp_path / "twice" / "config.json").read_text())["fpt_seeds"] == [4, 5]
    run(tmp_path / "grown", tmp_path / "random", seed=4, load="none")  # nothing of it is loaded
    same = run(tiny_folder, tmp_path / "output", train="output", seed=4)
    load_run(same).export(tmp_path / "same")
    assert "fpt_seeds" not in json.loads((tmp_path / "same" / "config.json").read_text())


def places(loaded):
    """Finds where a loaded run or body holds each parameter."""
    return {name: value.unsafe_buffer_pointer() for name, value in loaded.parameters.items()}


@pytest.mark.parametrize("by", ["body", "run", "folder"])
def test_runs_and_bodies_that_are_loaded_together_share_the_checkpoints_arrays(
        tiny_folder, tmp_path, by):
    folder = run(tiny_folder, tmp_path)
    given = {"body": load_body, "run": lambda _: load_run(folder), "folder": str}[by](tiny_folder)
    first, second = (load_run(folder, body=given) for _ in range(2))
    assert {name: places(first)[name] for name in first.frozen} == {
        name: places(second)[name] for name in first.frozen}
    read = [name for name in first.frozen if name.startswith("body/")]
    assert len(read) == 16  # kernels and biases of both blocks
    if by != "folder":
        assert all(places(given)[name] == places(first)[name] for name in read)


def test_a_body_is_not_changed_by_runs_that_train_it(tiny_folder, tmp_path):
    body, embeds = load_body(tiny_folder), np.ones((1, 3, 32), np.float32)
    before = np.asarray(body(embeds))
    run(tiny_folder, tmp_path, train="all", lr=1.0)
    assert np.array_equal(body(embeds), before)


@pytest.mark.parametrize("settings", [{"birth": "mimetic"}, {"train": "output"}],
                         ids=["SVD", "QR"])
def test_a_run_is_loaded_where_linear_algebra_rounds_otherwise(
        tiny_folder, tmp_path, monkeypatch, settings):
    """As on another kind of CPU: the last bits of a decomposition are others there."""
    folder = run(tiny_folder, tmp_path, **settings)
    before = load_run(folder)
    inputs = XOR.load()["test"].inputs
    svd, qr = np.linalg.svd, np.linalg.qr
    off = lambda matrix: matrix * (1 + 1e-6)
    monkeypatch.setattr(np.linalg, "svd", lambda matrix: [off(part) for part in svd(matrix)])
    monkeypatch.setattr(np.linalg, "qr", lambda matrix: [off(part) for part in qr(matrix)])
    np.testing.assert_array_equal(load_run(folder)(inputs), before(inputs))
    (folder / FROZEN).unlink()
    said = "frozen parameters of .* and those made here .*the kind of CPU differ"
    with pytest.raises(UserError, match=said):
        load_run(folder)


def test_only_what_cannot_be_made_again_is_kept_with_a_run(tiny_folder, tmp_path):
    assert not (run(tiny_folder, tmp_path / "a") / FROZEN).exists()
    kept, _ = unpack(run(tiny_folder, tmp_path / "b", birth="mimetic") / FROZEN)
    assert sorted(kept) == [f"body/h_{layer}/attn/{name}/kernel" for layer in (0, 1)
                            for name in ("c_attn", "c_proj")]


def test_what_differs_from_the_machine_of_a_run_is_named(tiny_folder, tmp_path, monkeypatch):
    folder = run(tiny_folder, tmp_path, birth="mimetic")
    (folder / FROZEN).unlink()
    svd = np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda matrix: [1.001 * part for part in svd(matrix)])
    monkeypatch.setattr("fpt.machine.versions", lambda: {"numpy": "9.9"})
    said = rf"this machine has .*numpy 9\.9 where it had {np.__version__}"
    with pytest.raises(UserError, match=said):
        load_run(folder)


def test_what_the_record_of_a_run_does_not_name_is_no_difference(
        tiny_folder, tmp_path, monkeypatch):
    folder = run(tiny_folder, tmp_path, birth="mimetic")
    (folder / FROZEN).unlink()
    svd, here = np.linalg.svd, machine.versions()
    monkeypatch.setattr(np.linalg, "svd", lambda matrix: [1.001 * part for part in svd(matrix)])
    monkeypatch.setattr("fpt.machine.versions", lambda: here | {"named since": "1.0"})
    with pytest.raises(UserError, match="with the same versions of everything"):
        load_run(folder)


def test_a_run_finds_its_body_from_another_folder(tiny_folder, tmp_path, monkeypatch, command):
    shutil.copytree(tiny_folder, tmp_path / "bodies" / "mine")
    monkeypatch.chdir(tmp_path)
    folder = run("bodies/mine", tmp_path / "runs")
    monkeypatch.chdir("/")
    code, _, err = command("evaluate", folder)
    assert code == 0, err


def test_a_body_that_was_moved_is_found_where_it_is_said_to_lie(tiny_folder, tmp_path, command):
    shutil.copytree(tiny_folder, tmp_path / "body")
    folder = run(tmp_path / "body", tmp_path / "runs")
    (tmp_path / "body").rename(tmp_path / "moved")
    code, _, err = command("evaluate", folder)
    assert code == 2 and err.count("\n") == 1
    assert f"no folder {tmp_path / 'body'}" in err and "--body" in err
    code, _, err = command("evaluate", folder, "--body", tmp_path / "moved")
    assert code == 0, err
    assert load_run(folder, body=tmp_path / "moved").config.digest in folder.name
    code, _, err = command("evaluate", folder, "--body", "gpt2-mini")
    assert code == 2 and "are not those that this run was trained with" in err


def test_a_random_run_needs_no_body_to_be_there(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "body")
    folder = run(tmp_path / "body", tmp_path / "runs", load="none")
    shutil.rmtree(tmp_path / "body")
    assert load_run(folder).result["status"] == "finished"


@pytest.fixture
def own(tiny_folder, tmp_path):
    """Trains a run on a task of a user's own.

    Gives its folder, the task's file, and the file that shows each time it is executed.
    """
    file, trace = tmp_path / "own.py", tmp_path / "trace"
    file.write_text(TASK.format(trace=str(trace)))
    return of_file(tiny_folder, tmp_path, file), file, trace


def of_file(body, place, file, **settings):
    task = tasks.from_file(file)()
    return run(body, place / "runs", task, task_file=str(file), **settings)


def test_a_task_file_that_was_changed_is_not_executed(own, command):
    folder, file, trace = own
    file.write_text(file.read_text() + "\n# changed\n")
    before = trace.read_text()
    code, _, err = command("evaluate", folder)
    assert code == 2 and err.count("\n") == 1 and "does not belong to the folder's name" in err
    assert trace.read_text() == before


def test_code_that_came_with_a_folder_is_executed_on_its_users_word_only(
        own, command, tmp_path, monkeypatch):
    """The same folder and file where they have never been executed: another user's cache."""
    folder, file, trace = own
    assert command("evaluate", folder)[0] == 0
    monkeypatch.setenv("FPT_CACHE", str(tmp_path / "cache"))
    before = trace.read_text()
    code, _, err = command("evaluate", folder)
    assert code == 2 and err.count("\n") == 1
    assert "has not been executed here before" in err and f"--task-file {file}" in err
    with pytest.raises(UserError, match="has not been executed here before"):
        load_run(folder)
    assert trace.read_text() == before
    code, _, err = command("evaluate", folder, "--task-file", file)
    assert code == 0, err
    assert command("evaluate", folder)[0] == 0


def test_a_task_file_that_was_moved_is_named(own, command, tmp_path):
    folder, file, _ = own
    file.rename(tmp_path / "moved.py")
    code, _, err = command("evaluate", folder)
    assert code == 2 and f"no task file at {file}, which" in err
    assert "say with --task-file where it lies now" in err
    assert command("evaluate", folder, "--task-file", tmp_path / "moved.py")[0] == 0


def test_the_record_of_a_run_names_no_place(tiny_folder, tmp_path, own):
    folder = own[0]
    record = json.dumps(summary(folder))
    assert str(tmp_path) not in record and str(tiny_folder.parent) not in record
    assert summary(folder)["config"]["body"] == tiny_folder.name
    assert summary(folder)["config"]["task_file"] == "own.py"


def test_runs_on_two_versions_of_a_task_file_are_not_seeds_of_one(own, tiny_folder, tmp_path):
    from scripts.recorded import conditions

    folder, file, _ = own
    file.write_text(file.read_text() + "\n# another version\n")
    other = of_file(tiny_folder, tmp_path, file, seed=1)
    assert len(conditions([summary(folder), summary(other)])) == 2


@pytest.mark.parametrize("kind", ["body", "run"])
def test_what_is_let_go_is_freed_with_its_weights(tiny_folder, tmp_path, kind):
    if kind == "body":
        loaded = load_body(tiny_folder)
        loaded(np.zeros((1, 3, 32), np.float32))
    else:
        loaded = load_run(run(tiny_folder, tmp_path))
        loaded(XOR.load()["test"].inputs[:2])
    gone = weakref.ref(loaded)
    weights = weakref.ref(next(iter(loaded.parameters.values())))
    del loaded
    gc.collect()
    assert gone() is None and weights() is None


def test_a_run_on_a_task_of_ones_own_is_loaded_in_another_process(own):
    script = f"from fpt import load_run; print(load_run({str(own[0])!r}).task)"
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0 and "Own(" in said.stdout, said.stderr


def test_parameters_that_are_not_those_of_the_result_are_refused(tiny_folder, tmp_path):
    """Of the right names and shapes, and whole as a file."""
    folder = run(tiny_folder, tmp_path)
    trained, about = unpack(folder / TRAINABLE)
    nothing = {name: np.zeros_like(value) for name, value in trained.items()}
    (folder / TRAINABLE).write_bytes(pack(nothing, about))
    with pytest.raises(UserError, match="does not hold what the result is of"):
        load_run(folder)


@pytest.mark.parametrize("content", ["{}", "[]", "5", "null", '{"test": 1}', "NaN", "[" * 100_000])
@pytest.mark.parametrize("file", ["result.json", "metrics.jsonl"])
def test_what_is_no_record_of_a_run_is_refused(tiny_folder, tmp_path, command, content, file):
    folder = tmp_path / "run"
    folder.mkdir()
    config = Config(XOR, str(tiny_folder), steps=1, batch=1, lr=1e-3, eval_every=1).record()
    result = {"test": {"accuracy": 1.0}, "validation": {"accuracy": 1.0}, "floors": {}}
    line = {"step": 0, "validation": {"accuracy": 1}}
    for name, whole in (("config.json", config), ("metrics.jsonl", line), ("result.json", result)):
        (folder / name).write_text(json.dumps(whole))
    collect = "collect", folder, "--study", "s", "--records"
    assert command(*collect, tmp_path / "records")[0] == 0
    (folder / file).write_text(content)
    for arguments in ((*collect, tmp_path / "other"), ("figure", folder)):
        code, _, err = command(*arguments)
        assert code == 2 and err.count("\n") == 1 and "damaged" in err
    assert not (tmp_path / "other").exists()
