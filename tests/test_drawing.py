"""The processes that draw ListOps: whatever ends the command ends them too, at once and without a word of theirs."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks.expressions import _interrupts_held_back

ROOT = Path(__file__).parents[1]
# A block of this law takes a process some ten seconds.
SLOW = ["listops", "--preset", "paper", "--depth", "6", "--train-examples", "1000", "--held-out", "100"]


def _drawing(cache, start=("-m", "scripts.data", *SLOW)):
    """A command that has just begun to draw, in a session of its own."""
    started = subprocess.Popen([sys.executable, "-u", *start], cwd=ROOT, env=os.environ | {"FPT_CACHE": str(cache)}, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    assert "drawing" in started.stdout.readline()
    return started


def _told(started):
    """Standard error of a command, once nothing is left of all its processes, each of which holds the pipe open."""
    try:
        return started.communicate(timeout=5)[1]
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        started.communicate()
        pytest.fail("five seconds later there still are processes")


# Processes are started within the first second; later they draw.
MOMENTS = [0, *(random.Random(0).uniform(0, latest) for latest in (0.3, 1, 3))]


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_ends_drawing_with_one_word(tmp_path, moment):
    started = _drawing(tmp_path)
    time.sleep(moment)
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does
    assert (_told(started), started.returncode) == ("\nstopped\n", 130)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_ctrl_c_waits_while_a_process_is_started_whichever_thread_takes_it():
    ended, reached = threading.Event(), []
    other = threading.Thread(target=ended.wait)  # as a library has, with the signal unmasked
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt), _interrupts_held_back():
            signal.pthread_kill(other.ident, signal.SIGINT)
            time.sleep(0.2)
            reached.append("the end")
    finally:
        ended.set()
    assert reached


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("moment", MOMENTS)
def test_nothing_goes_on_drawing_for_a_command_that_was_killed(tmp_path, sent, moment):
    started = _drawing(tmp_path)
    time.sleep(moment)
    started.send_signal(sent)
    _told(started)
    assert started.returncode == -sent


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    (tmp_path / "own.py").write_text("print('drawing', flush=True)\n"
                                     "from tasks.listops import ListOps\n"
                                     "ListOps(train_examples=100, held_out=10).load()\n")
    started = _drawing(tmp_path, [str(tmp_path / "own.py")])
    # Not always the last line: Python's tracker of shared memory may have something to say of the children after it.
    assert any(line.endswith("must do so under `if __name__ == '__main__':`") for line in _told(started).splitlines())
    assert started.returncode == 1
