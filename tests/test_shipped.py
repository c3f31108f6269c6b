"""Checks that the bodies that come with the package are what their records say."""

import json
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from fpt import Config, bodies, checkpoint, load_body, train
from fpt.task import UNSCORED
from tasks.bits import BitMemory
from tasks.copying import Copying
from tasks.nexttoken import copying_gain

LIMITS = {"gpt2-mini": 16, "gpt2-mini-copy": 10, "gpt2-mini-repeats": 16}  # MiB, all files together


@pytest.fixture(params=bodies.shipped())
def folder(request):
    return bodies.SHIPPED / request.param


def test_a_shipped_body_is_small_and_has_a_card(folder):
    assert sum(file.stat().st_size for file in folder.iterdir()) <= LIMITS[folder.name] * 2**20
    card = (folder / "README.md").read_text()
    origin = json.loads((folder / "pretraining.json").read_text())
    assert f"{origin['result']['figures']['copying gain']:.2f}" in card
    assert "python -m scripts.pretrain" in card


def test_a_shipped_bodys_copying_gain_is_the_recorded_one(folder):
    origin = json.loads((folder / "pretraining.json").read_text())
    body = load_body(folder)
    table = load_file(folder / "model.safetensors")["wte.weight"].astype(np.float32)
    sizes = {name: origin["config"]["sizes"][name] for name in ("vocabulary", "context")}
    scores = {}
    for name, (inputs, targets) in Copying(**sizes).repetitions().items():
        logits = np.asarray(body(table[inputs])) @ table.T
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, np.maximum(targets, 0))
        scores[name] = {"loss": float(jax.numpy.mean(losses, where=targets != UNSCORED))}
    recorded = origin["result"]["figures"]["copying gain"]
    assert copying_gain(scores) == pytest.approx(recorded, abs=0.02)


def test_a_frozen_body_that_copies_recalls_hidden_bits_better_than_the_vote(tmp_path):
    config = Config(BitMemory(bits=50), "gpt2-mini-copy", steps=300, batch=16, lr=1e-2,
                    eval_every=300, eval_examples=200, dropout=0.0)
    result, = train([config], out=tmp_path)
    assert result["test"]["slices"]["hidden"] > result["floors"]["hidden/vote"] + 0.02


def test_a_shipped_body_is_read_without_a_word():
    code = ("from fpt import bodies, checkpoint\n"
            "for name in bodies.shipped(): checkpoint.locate(name)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=bodies.SHIPPED.parents[1])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_shipped_body_is_found_by_its_name(folder):
    assert checkpoint.locate(folder.name).folder == folder
