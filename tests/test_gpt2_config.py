"""Checks that config.json means what it means to transformers, which plain ones do not import."""

import json
import subprocess
import sys

import pytest
from transformers import GPT2Config

from fpt import bodies
from fpt.gpt2_config import read_geometry, write_geometry

HUBS = {  # what the hub's gpt2 states, but for its task's settings
    "activation_function": "gelu_new", "attn_pdrop": 0.1, "embd_pdrop": 0.1, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
    "n_positions": 1024, "resid_pdrop": 0.1, "vocab_size": 50257}
THEIRS = dict(layers="n_layer", width="n_embd", heads="n_head", positions="n_positions", inner="n_inner",
              vocabulary="vocab_size", activation="activation_function", epsilon="layer_norm_epsilon",
              embedding_dropout="embd_pdrop", attention_dropout="attn_pdrop", residual_dropout="resid_pdrop")


@pytest.mark.parametrize("stated", [
    HUBS, HUBS | {"n_inner": 3000, "activation_function": "relu"}, {}, {"model_type": "gpt2", "n_embd": 96},
    {key: value for key, value in HUBS.items() if key != "resid_pdrop"}, HUBS | {"num_hidden_layers": 3},
    {"hidden_size": 36, "num_attention_heads": 3}])
def test_a_configuration_is_read_as_transformers_reads_it(tmp_path, stated):
    (tmp_path / "config.json").write_text(json.dumps(stated))
    found, theirs = read_geometry(tmp_path / "config.json"), GPT2Config.from_dict(stated)
    for name, key in THEIRS.items():
        expected = getattr(theirs, key)
        if key == "n_inner" and expected is None:
            expected = 4 * theirs.n_embd
        assert getattr(found, name) == expected, name


@pytest.mark.parametrize("body", bodies.shipped())
def test_what_is_written_is_read_back_the_same(tmp_path, body):
    geometry = read_geometry(bodies.SHIPPED / body / "config.json")
    (tmp_path / "config.json").write_text(json.dumps(write_geometry(geometry)))
    assert read_geometry(tmp_path / "config.json") == geometry


def test_plain_configurations_are_read_without_importing_transformers(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(HUBS))
    code = ("import sys; from pathlib import Path; from fpt.gpt2_config import read_geometry\n"
            f"read_geometry(Path({str(tmp_path / 'config.json')!r}))\n"
            "assert 'transformers' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)
