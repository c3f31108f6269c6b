"""`--log tensorboard` writes each evaluation once, whatever stops training, and only if asked."""

import builtins
import json
import math
import struct

import pytest

from fpt import UserError, train
from fpt.config import Config, grid
from fpt.interrupt import Interrupted
from fpt.stack import Pace
from fpt.tensorboard import Tensorboard
from tasks.bits import BitMemory
from tests.running import assert_same, ctrl_c

proto = pytest.importorskip("tensorboardX.proto.event_pb2", reason="tensorboardX is not installed: "
                            "pip install -e '.[test]'")


@pytest.fixture(scope="module")
def configs(tiny_folder):
    common = Config(BitMemory(bits=4, patch=4), str(tiny_folder), steps=60, batch=4, lr=1e-2,
                    eval_every=20)
    return grid(common, (1e-2, 1e-3), (0,))


@pytest.fixture(scope="module")
def logged(configs, tmp_path_factory):
    out = tmp_path_factory.mktemp("logged")
    train(configs, out, quiet=True, log=Tensorboard())
    return out


def events(folder):
    """Reads the events of a run from its one file.

    A record is a length, its checksum, the event and its checksum.
    """
    file, = (folder / "tensorboard").iterdir()
    content, found = file.read_bytes(), []
    while content:
        length, = struct.unpack("<Q", content[:8])
        found.append(proto.Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def scalars(folder):
    """Reads (step, value) of each scalar by its tag, in the order in which they were written."""
    found = {}
    for event in events(folder):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def expected(folder):
    """Makes what `scalars` must read from the run's metrics."""
    found = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        for split in ("train", "validation"):
            for name, value in (line[split] or {}).items():
                for part, number in value.items() if name == "slices" else [("", value)]:
                    tag = f"{split}/accuracy/{part}" if part else f"{split}/{name}"
                    scalar = line["step"], pytest.approx(number, rel=1e-6)
                    found.setdefault(tag, []).append(scalar)
    del found["validation/n"]
    return found


def test_each_evaluation_of_each_run_is_written(logged):
    folders = list(logged.iterdir())
    assert len(folders) == 2
    for folder in folders:
        found = scalars(folder)
        assert found == expected(folder)
        assert {"validation/accuracy/hidden", "train/loss"} <= found.keys()
        assert [step for step, _ in found["validation/loss"]] == [0, 20, 40, 60]


def test_what_is_written_later_bears_the_time_of_its_evaluation(tmp_path):
    score = {"loss": 0.5, "accuracy": 0.5}
    line = {"train": None, "validation": score}
    Tensorboard()(tmp_path, [line | {"step": step, "seconds": 10.0 * step} for step in (0, 1, 3)])
    times = [event.wall_time for event in events(tmp_path) if event.summary.value]
    assert times[1] - times[0] == pytest.approx(10, abs=0.5)
    assert times[2] - times[1] == pytest.approx(20, abs=0.5)


def test_logging_changes_no_number(logged, configs, tmp_path):
    train(configs, tmp_path, quiet=True)
    assert_same(logged, tmp_path)
    assert not list(tmp_path.glob("*/tensorboard"))


def test_a_run_that_goes_on_has_no_point_twice(logged, configs, tmp_path):
    board, evaluated = Tensorboard(), []

    def crash_at_40(folder, history):
        board(folder, history)
        evaluated.append(history[-1]["step"])
        if evaluated.count(40) == len(configs):
            raise ZeroDivisionError

    with pytest.raises(Interrupted):
        train(configs, tmp_path, quiet=True, log=ctrl_c(20))  # not logged yet
    with pytest.raises(ZeroDivisionError):  # without a state after the one that it goes on from
        train(configs, tmp_path, quiet=True, log=crash_at_40, pace=Pace(save_seconds=math.inf))
    for folder in tmp_path.iterdir():  # what is to come a second time
        assert [step for step, _ in scalars(folder)["validation/loss"]] == [0, 20, 40]
    train(configs, tmp_path, quiet=True, log=Tensorboard())
    for folder in logged.iterdir():
        assert scalars(tmp_path / folder.name) == scalars(folder)


def test_a_loss_that_is_no_number_is_left_out_and_probes_have_names_of_their_own(tmp_path):
    score = {"loss": None, "accuracy": 0.5, "n": 8, "slices": {"hidden": None, "visible": 1.0}}
    line = {"step": 3, "train": None, "validation": score, "seconds": 1.0,
            "probes": {"copying": score}}
    log = Tensorboard()
    log(tmp_path, [line])
    log(tmp_path, [line])
    visible = {"accuracy": [(3, 0.5)], "accuracy/visible": [(3, 1.0)]}
    assert scalars(tmp_path) == {f"{split}/{name}": values for split in ("validation", "copying")
                                 for name, values in visible.items()}


def test_the_command_logs_what_is_named(command, tiny_folder, tmp_path):
    code, _, err = command("train", "bit-xor", "--bits", "2", "--body", tiny_folder, "--steps", "4",
                           "--eval-every", "2", "--log", "tensorboard", "--out", tmp_path)
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
    said = "No space left on device; free some space, or train without --log"
    with pytest.raises(UserError, match=said):
        train(configs, tmp_path, quiet=True, log=Tensorboard())
