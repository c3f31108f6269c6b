"""A study made by several jobs is the one that a single process makes."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fpt import UserError
from scripts.cluster import submitted
from scripts.study import main
from tests.test_study import SMALL

ROOT = Path(__file__).parent.parent
# Runs the command with the studies of another folder, in this process and in its jobs.
ELSEWHERE = """
import os, sys
from pathlib import Path
from scripts import studies
studies.STUDIES = Path(os.environ["STUDIES"])
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Has every new process read its studies from a folder of the test's."""
    (tmp_path / "small.toml").write_text(SMALL)
    (tmp_path / "sitecustomize.py").write_text(ELSEWHERE)
    monkeypatch.setenv("STUDIES", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setattr("scripts.studies.STUDIES", tmp_path)
    return tmp_path


def numbers(folder):
    """Reads of the records what does not depend on when and where runs were trained."""
    kept = ("test", "validation", "best_step", "floors", "frozen", "trainable")
    lines = (folder / "small.jsonl").read_text().splitlines()
    return [(run["run"], run["config"], {name: run["result"][name] for name in kept})
            for run in map(json.loads, lines)]


@pytest.mark.slow
def test_two_jobs_record_what_one_process_does_and_end_with_its_tables(elsewhere):
    main(["small", "--out", str(elsewhere / "one"), "--records", str(elsewhere / "a")])
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        main(["small", "--out", str(elsewhere / "two"), "--records", str(elsewhere / "b"),
              "--cluster", "local", "--jobs", "2"])
    assert numbers(elsewhere / "a") == numbers(elsewhere / "b")
    assert shown.getvalue().count("| no body at one rate |") == 2  # a table each task
    said = "".join(file.read_text() for file in (elsewhere / "two" / "jobs").glob("*.out"))
    trained = [line for line in said.splitlines() if "took" in line]
    assert len(trained) == 12  # no run twice


@pytest.mark.slow
def test_what_a_killed_job_leaves_is_taken_up(elsewhere):
    text = SMALL.replace("steps = 4\neval_every = 2", "steps = 40000\neval_every = 4000")
    (elsewhere / "small.toml").write_text(text.replace("counted = [1, 2]", "counted = [1]"))
    command = [sys.executable, "-m", "scripts.study", "small", "--only", "bit-xor", "--cluster",
               "local", "--jobs", "2", "--out", elsewhere / "runs", "--records", elsewhere]
    started = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (states := list((elsewhere / "runs").glob("*/state-*"))):
        assert started.poll() is None and time.monotonic() < deadline, "no run was begun"
        time.sleep(0.1)
    mine = list(_jobs(elsewhere))
    for process in mine:
        os.kill(process, signal.SIGKILL)
    assert mine and started.wait(120) == 2, started.stderr.read()
    assert "the same command takes up what is left" in started.stderr.read() and states
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert len(numbers(elsewhere)) == 4


def _jobs(folder):
    """Lists the processes of submitit's jobs that work in a folder of the test's."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            said = (process / "cmdline").read_bytes()
            if b"submitit.core._submit" in said and str(folder).encode() in said:
                yield int(process.name)


@pytest.mark.parametrize("settings, said", [
    (dict(cluster="slrm"), "did you mean 'slurm'"), (dict(jobs=0), "--jobs must be at least 1"),
    (dict(settings=["timeout_min"]), "like timeout_min=600"),
    (dict(settings=["no_such_thing=1"]), "no_such_thing"), (dict(cluster="slurm"), "slurm")])
def test_a_cluster_that_cannot_be_is_refused(settings, said, tmp_path):
    usual = dict(arguments=[], cluster="local", jobs=2, settings=[], folder=tmp_path)
    with pytest.raises(UserError, match=said):
        submitted(**usual | settings)
