"""Helps tests to stop runs, and to compare what runs leave."""

import json
import os
import signal


def lines(folder):
    """Reads metrics.jsonl without its times, as strict JSON."""
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    text = (folder / "metrics.jsonl").read_text()
    found = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def assert_same(one, other):
    """Compares what two folders of runs hold, or two folders of run folders, to the bit."""
    runs = [one] if (one / "config.json").is_file() else sorted(one.iterdir())
    assert runs
    for run in runs:
        twin = other if run == one else other / run.name
        assert lines(run) == lines(twin)
        trained = "trainable.safetensors"
        assert (run / trained).read_bytes() == (twin / trained).read_bytes()
        assert not list(twin.glob("state-*"))


def ctrl_c(step, run=""):
    """Makes a log for `train` that sends one SIGINT at an evaluation after `step` steps.

    run: the evaluated run's folder has these words in its name.
    """
    sent = []

    def log(folder, history):
        if not sent and run in folder.name and history[-1]["step"] == step:
            sent.append(folder)
            os.kill(os.getpid(), signal.SIGINT)

    return log
