"""What `--log tensorboard` writes: each evaluation once, whatever happens to the training; and nothing unless asked."""

import builtins
import json
import os
import signal
import struct

import pytest

import fpt.stack
from fpt import UserError, train
from fpt.config import Config, grid
from fpt.interrupt import Interrupted
from fpt.tensorboard import Tensorboard
from tasks.bits import BitMemory
from tests.test_run import _same

proto = pytest.importorskip("tensorboardX.proto.event_pb2", reason="tensorboardX is not installed: pip install -e '.[test]'")


@pytest.fixture(scope="module")
def configs(tiny_folder):
    common = Config(BitMemory(bits=4, patch=4), str(tiny_folder), steps=60, batch=4, lr=1e-2, eval_every=20)
    return grid(common, (1e-2, 1e-3), (0,))


@pytest.fixture(scope="module")
def logged(configs, tmp_path_factory):
    out = tmp_path_factory.mktemp("logged")
    train(configs, out, quiet=True, log=Tensorboard())
    return out


def events(folder):
    """The events in the one file of a run: a record is a length, its checksum, the event and its checksum."""
    file, = (folder / "tensorboard").iterdir()
    content, found = file.read_bytes(), []
    while content:
        length, = struct.unpack("<Q", content[:8])
        found.append(proto.Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def scalars(folder):
    """Tag -> (step, value) of each scalar, in the order in which they were written."""
    found = {}
    for event in events(folder):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def expected(folder):
    """The same from the run's metrics."""
    found = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        for split in ("train", "validation"):
            for name, value in (line[split] or {}).items():
                for part, number in value.items() if name == "slices" else [("", value)]:
                    tag = f"{split}/accuracy/{part}" if part else f"{split}/{name}"
                    found.setdefault(tag, []).append((line["step"], pytest.approx(number, rel=1e-6)))
    del found["validation/n"]
    return found


def test_each_evaluation_of_each_run_is_written(logged):
    folders = list(logged.iterdir())
    assert len(folders) == 2
    for folder in folders:
        found = scalars(folder)
        assert found == expected(folder) and {"validation/accuracy/hidden", "train/loss"} <= found.keys()
        assert [step for step, _ in found["validation/loss"]] == [0, 20, 40, 60]


def test_what_is_written_later_bears_the_time_of_its_evaluation(tmp_path):
    score = {"loss": 0.5, "accuracy": 0.5}
    Tensorboard()(tmp_path, [{"step": step, "train": None, "validation": score, "seconds": 10.0 * step} for step in (0, 1, 3)])
    first, second, third = (event.wall_time for event in events(tmp_path) if event.summary.value)
    assert (second - first, third - second) == (pytest.approx(10, abs=0.5), pytest.approx(20, abs=0.5))


def test_logging_changes_no_number(logged, configs, tmp_path):
    train(configs, tmp_path, quiet=True)
    for folder in logged.iterdir():
        _same(folder, tmp_path / folder.name)
        assert not (tmp_path / folder.name / "tensorboard").exists()


def test_a_run_that_goes_on_has_no_point_twice(logged, configs, tmp_path, monkeypatch):
    evaluated, advanced = fpt.stack.Stack._evaluate, fpt.stack.Stack._advance

    def stop_at_20(stack, *arguments):
        evaluated(stack, *arguments)
        if stack.step == 20:
            os.kill(os.getpid(), signal.SIGINT)

    def crash_past_40(stack, progress):
        stack.due = float("inf")  # no state after the one that it goes on from
        if stack.step == 40:
            raise ZeroDivisionError
        advanced(stack, progress)

    monkeypatch.setattr(fpt.stack.Stack, "_evaluate", stop_at_20)
    with pytest.raises(Interrupted):
        train(configs, tmp_path, quiet=True)  # not logged yet
    monkeypatch.setattr(fpt.stack.Stack, "_evaluate", evaluated)
    monkeypatch.setattr(fpt.stack.Stack, "_advance", crash_past_40)
    with pytest.raises(ZeroDivisionError):
        train(configs, tmp_path, quiet=True, log=Tensorboard())
    for folder in tmp_path.iterdir():  # what is to come a second time
        assert [step for step, _ in scalars(folder)["validation/loss"]] == [0, 20, 40]
    monkeypatch.undo()
    train(configs, tmp_path, quiet=True, log=Tensorboard())
    for folder in logged.iterdir():
        assert scalars(tmp_path / folder.name) == scalars(folder)


def test_a_loss_that_is_no_number_is_left_out_and_probes_have_names_of_their_own(tmp_path):
    score = {"loss": None, "accuracy": 0.5, "n": 8, "slices": {"hidden": None, "visible": 1.0}}
    log = Tensorboard()
    log(tmp_path, [line := {"step": 3, "train": None, "validation": score, "seconds": 1.0, "probes": {"copying": score}}])
    log(tmp_path, [line])
    visible = {"accuracy": [(3, 0.5)], "accuracy/visible": [(3, 1.0)]}
    assert scalars(tmp_path) == {f"{split}/{name}": told for split in ("validation", "copying") for name, told in visible.items()}


def test_the_command_logs_what_is_named(command, tiny_folder, tmp_path):
    code, _, err = command("train", "bit-xor", "--bits", "2", "--body", tiny_folder, "--steps", "4", "--eval-every", "2",
                           "--log", "tensorboard", "--out", tmp_path)
    folder, = tmp_path.iterdir()
    assert code == 0 and scalars(folder) == expected(folder), err
    assert "log" not in json.loads((folder / "config.json").read_text())


def test_without_tensorboardx_the_command_says_so_before_it_trains(refused, monkeypatch):
    imported = builtins.__import__

    def lacking(name, *arguments, **settings):
        if name == "tensorboardX":
            raise ImportError(name)
        return imported(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", lacking)
    refused("pip install -e '.[tensorboard]'", "train", "bit-xor", "--log", "tensorboard")


def test_a_file_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "tensorboard").touch()
    with pytest.raises(UserError, match="File exists; free some space, or train without --log"):
        Tensorboard()(tmp_path, [])


def test_a_disk_that_is_full_ends_the_training_with_one_line(configs, tmp_path, monkeypatch):
    written = []

    def full(writer, event):
        written.append(event)
        if len(written) > 4:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tensorboardX.event_file_writer.EventsWriter.write_event", full)
    with pytest.raises(UserError, match="No space left on device; free some space, or train without --log"):
        train(configs, tmp_path, quiet=True, log=Tensorboard())
