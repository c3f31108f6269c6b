"""Files and folders that appear whole or not at all, and what is cleared away after a kill."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from fpt import UserError
from fpt.arrays import described, pack, unpack
from fpt.files import PART, remove_leftovers, whole_folder, write_whole


def test_leftovers_of_a_kill_are_removed_and_a_users_hidden_things_stay(tmp_path):
    ours = [".config.json.abcd1234", ".state-00000020.safetensors.x_y_z_12"]
    theirs = [".hidden", ".config.json.bak", ".notes.abcd1234", ".config.json.abcd1234.swp", "config.json.abcd1234"]
    for name in [*ours, *theirs]:
        (tmp_path / name).write_text("")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".config.json.abcd5678").mkdir()
    remove_leftovers(tmp_path, r"config\.json|state-\d+\.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {*theirs, ".ipynb_checkpoints", ".config.json.abcd5678"}


def test_the_leftovers_that_are_removed_are_named_as_a_killed_write_names_them(tmp_path):
    """A process that is killed while it writes: what it leaves is what the next one removes."""
    script = ("import os; from pathlib import Path; from fpt import files; os.fsync = lambda descriptor: os.kill(os.getpid(), 9);"
              f"files.write_whole(Path({str(tmp_path)!r}) / 'result.json', b'half')")
    subprocess.run([sys.executable, "-c", script])
    assert len(list(tmp_path.iterdir())) == 1
    remove_leftovers(tmp_path, r"result\.json")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_whole_or_not_there(tmp_path):
    target = tmp_path / "out" / "body"
    with pytest.raises(RuntimeError), whole_folder(target) as part:
        (part / "half").write_text("")
        raise RuntimeError
    assert not target.exists() and not list(target.parent.iterdir())
    with whole_folder(target) as part:
        (part / "whole").write_text("")
    assert [path.name for path in target.iterdir()] == ["whole"]
    with pytest.raises(UserError, match="cannot write .*body: Directory not empty"), whole_folder(target) as part:
        (part / "other").write_text("")
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    mine, file = tmp_path / ".body.mine", tmp_path / ".body.notes"
    mine.mkdir()
    (mine / "precious").write_text("")
    file.write_text("")
    script = ("import sys, time; from pathlib import Path; from fpt.files import whole_folder\n"
              f"with whole_folder(Path({str(tmp_path)!r}) / 'body') as part: print(part, flush=True); time.sleep(60)")
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    killed, writing = (os.path.dirname(process.stdout.readline().strip()) for process in processes)
    processes[0].kill()
    processes[0].wait()
    with whole_folder(tmp_path / "body") as part:
        assert not os.path.exists(killed)
        assert os.path.exists(writing)
        (part / "whole").write_text("")
    assert (mine / "precious").exists() and file.exists()
    assert os.path.exists(os.path.join(writing, PART))
    for process in processes:
        process.kill()
        process.communicate()


ARRAYS = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array(7, np.int32), "c": np.zeros((0, 2), np.uint8)}


def test_arrays_and_what_they_are_are_read_back_and_bytes_repeat(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(pack(ARRAYS, {"of": "run", "list": [1, None]}))
    found, about = unpack(file)
    assert about == described(file) == {"of": "run", "list": [1, None]}
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
    assert all(pack(dict(reversed(ARRAYS.items())), {"list": [1, None], "of": "run"}) == file.read_bytes() for _ in range(10))


def test_every_flipped_bit_and_every_cut_is_seen(tmp_path):
    """All bits of a small file: each is refused in one line, or changes nothing that is read."""
    file = tmp_path / "x.safetensors"
    whole = pack(ARRAYS, {"of": "run"})
    harmless = 0
    for place in range(8 * len(whole)):
        harmed = bytearray(whole)
        harmed[place // 8] ^= 1 << place % 8
        file.write_bytes(harmed)
        try:
            found, about = unpack(file)
        except UserError as error:
            assert "\n" not in str(error) and "x.safetensors" in str(error)
            continue
        assert about == {"of": "run"} and found.keys() == ARRAYS.keys()
        assert all(np.array_equal(found[name], value) and found[name].dtype == value.dtype for name, value in ARRAYS.items())
        harmless += 1
    assert harmless < 0.02 * 8 * len(whole)  # spaces of the header
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError):
            unpack(file)


def test_a_file_from_before_there_were_digests_is_read(tmp_path):
    from safetensors.numpy import save

    file = tmp_path / "x.safetensors"
    file.write_bytes(save({"a": ARRAYS["a"]}, metadata={"fpt": '{"of": "run"}'}))
    found, about = unpack(file)
    assert about == described(file) == {"of": "run"} and np.array_equal(found["a"], ARRAYS["a"])


def test_a_second_process_waits_for_nobody(tmp_path):
    begun = time.monotonic()
    with whole_folder(tmp_path / "a") as one, whole_folder(tmp_path / "b") as other:
        assert one != other
    assert time.monotonic() - begun < 5


def test_what_is_stopped_while_it_is_written_leaves_nothing(tmp_path):
    def stopped(file):
        file.write(b"half")
        raise KeyboardInterrupt

    (tmp_path / "old").write_bytes(b"old")
    for name in ("old", "new"):
        with pytest.raises(KeyboardInterrupt):
            write_whole(tmp_path / name, stopped)
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and (tmp_path / "old").read_bytes() == b"old"
    write_whole(tmp_path / "old", lambda file: file.write(b"new"))
    assert (tmp_path / "old").read_bytes() == b"new"
