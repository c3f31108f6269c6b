"""Checks that checkpoints are read whole or by role, or are refused by name."""

import dataclasses
import gc
import json
import shutil
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fpt import UserError, checkpoint, load_body
from fpt.config import Config
from fpt.model import body_table, draw_body
from fpt.parameters import Source, resolve
from fpt.roles import parse
from tasks.bits import BitXor
from tests.conftest import TINY


@pytest.fixture
def folder(tmp_path):
    checkpoint.write(tmp_path / "body", TINY, draw_body(TINY, jax.random.key(5)))
    return tmp_path / "body"


def refused(folder, *words):
    with pytest.raises(UserError) as found:
        load_body(folder)
    said = str(found.value)
    assert "\n" not in said and all(word in said for word in words), said


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def edit_config(folder, **settings):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


EMBEDS = jax.random.normal(jax.random.key(1), (2, 6, 32))


def test_what_is_written_is_read_back(folder):
    wanted = draw_body(TINY, jax.random.key(5))
    found = load_body(folder).parameters
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_arrays_in_another_order_are_written_as_they_are(tmp_path):
    wanted = jax.tree.map(np.asfortranarray, draw_body(TINY, jax.random.key(5)))
    checkpoint.write(tmp_path / "body", TINY, wanted)
    found = load_body(tmp_path / "body").parameters
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("dtype, far", [("float16", 1e-2), ("bfloat16", 5e-2)])
def test_halves_are_read(folder, dtype, far):
    exact = load_body(folder)(EMBEDS)
    edit(folder, lambda tensors: tensors.update(
        {key: np.asarray(value, jnp.dtype(dtype)) for key, value in tensors.items()}))
    assert 0 < np.abs(load_body(folder)(EMBEDS) - exact).max() < far


def test_shards_under_an_index_are_read(folder):
    exact = load_body(folder)(EMBEDS)
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, folder / shard)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {key: shard for shard, keys in shards.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert np.array_equal(load_body(folder)(EMBEDS), exact)
    before = checkpoint.open_folder(folder).digest
    for shard, keys in shards.items():
        save_file({key: tensors[key] + (key == keys[-1]) for key in keys}, folder / shard)
        assert checkpoint.open_folder(folder).digest != before, shard
        save_file({key: tensors[key] for key in keys}, folder / shard)
    assert checkpoint.open_folder(folder).digest == before
    (folder / "model-2.safetensors").unlink()
    refused(folder, "model-2.safetensors")


def test_a_language_models_extras_are_ignored(folder):
    exact = load_body(folder)(EMBEDS)
    shapes = {"wte.weight": (11, 32), "lm_head.weight": (11, 32), "h.0.attn.bias": (1, 1, 64, 64),
              "h.1.attn.masked_bias": ()}
    extras = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    edit(folder, lambda tensors: tensors.update(extras))
    assert np.array_equal(load_body(folder)(EMBEDS), exact)


def test_missing_and_unknown_keys_are_named(folder):
    edit(folder, lambda tensors: tensors.pop("h.1.ln_2.bias"))
    refused(folder, "h.1.ln_2.bias")
    more = {"h.1.ln_2.bias": np.zeros(32, np.float32), "h.2.ln_1.bias": np.zeros(3, np.float32)}
    edit(folder, lambda tensors: tensors.update(more))
    refused(folder, "h.2.ln_1.bias")


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_a_file_cut_short_is_refused(folder, kept):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    refused(folder, "model.safetensors", "damaged")


def test_an_oversized_file_is_refused(folder):
    with open(folder / "model.safetensors", "ab") as file:
        file.write(b"more")
    refused(folder, "model.safetensors", "damaged")


def test_weights_of_another_geometry_are_refused(folder):
    edit_config(folder, n_embd=64)
    refused(folder, "shape")
    edit_config(folder, n_embd=32, n_layer=3)
    refused(folder, "h.2.")


def test_numbers_that_are_not_finite_are_refused(folder):
    edit(folder, lambda tensors: tensors["wpe.weight"].__setitem__((0, 0), np.nan))
    refused(folder, "wpe.weight", "finite")


@pytest.mark.parametrize("settings, word", [
    ({"model_type": "bert"}, "bert"), ({"add_cross_attention": True}, "add_cross_attention"),
    ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ({"activation_function": "gelu_nwe"}, "gelu_new"), ({"n_head": 5}, "heads"),
    ({"n_head": 0}, "heads"), ({"n_layer": -1}, "layers"), ({"n_embd": "32"}, "n_embd"),
    ({"attn_pdrop": 1.5}, "attention dropout"),
])
def test_what_is_not_implemented_is_refused_by_name(folder, settings, word):
    edit_config(folder, **settings)
    refused(folder, word)


def test_config_missing_or_cut(folder):
    (folder / "config.json").write_text('{"n_layer": 2')
    refused(folder, "config.json")
    (folder / "config.json").unlink()
    refused(folder, "no config.json")


def test_pickled_weights_are_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "safetensors")


def test_heads_inner_width_positions_and_epsilon_follow_the_config(tmp_path):
    other = dataclasses.replace(TINY, heads=2, inner=48, positions=20, epsilon=1e-3,
                                activation="relu")
    checkpoint.write(tmp_path, other, draw_body(other, jax.random.key(0)))
    assert load_body(tmp_path).geometry == other


def source(folder, load):
    """Makes the source of the parameters of a run that loads some roles."""
    config, found = resolve(Config(BitXor(), str(folder), steps=1, batch=1, lr=1e-3, eval_every=1,
                                   load=load, seed=3))
    return Source(config, found)


@pytest.mark.parametrize("load", ["attention", "feedforward@1", "norm+position", "body"])
def test_partial_loads_fill_the_roles_named_and_nothing_else(folder, load):
    edit(folder, lambda tensors: tensors.update({key: value + 1 for key, value in tensors.items()}))
    values, drawn = (made.values(made.config, [*made.table])
                     for made in (source(folder, load), source(folder, "none")))
    for name, parameter in source(folder, load).table.items():
        same = np.array_equal(values[name], drawn[name])
        assert same != parse(load).holds(parameter), name


def test_keys_of_roles_that_are_not_loaded_may_be_absent(folder):
    edit(folder, lambda tensors: [tensors.pop(key) for key in list(tensors) if ".mlp." in key])
    assert source(folder, "attention+norm").loaded
    with pytest.raises(UserError, match="mlp"):
        source(folder, "body")


def read(folder, wanted=lambda name: True, dtype=np.float32):
    """Reads a checkpoint's parameters by name."""
    return checkpoint.read(checkpoint.open_folder(folder), wanted, body_table(TINY),
                           lambda name: dtype)


def places(values):
    return {name: value.unsafe_buffer_pointer() for name, value in values.items()}


def test_what_is_read_again_while_it_is_held_is_the_same_array(folder):
    first = read(folder, lambda name: "/attn/" in name)
    again = read(folder)
    assert {name: place for name, place in places(again).items() if name in first} == places(first)
    assert places(load_body(folder).parameters) == places(again)
    copied = shutil.copytree(folder, folder.with_name("copy"))  # of the same digest
    assert places(read(copied)) == places(again)


def test_other_weights_and_dtypes_are_arrays_of_their_own(folder):
    held, halves = read(folder), read(folder, dtype=jnp.bfloat16)
    assert {str(value.dtype) for value in halves.values()} == {"bfloat16"}
    edit(folder, lambda tensors: tensors.update({key: value + 1 for key, value in tensors.items()}))
    for name, value in read(folder).items():
        assert np.array_equal(value, held[name] + 1), name


def test_what_nobody_holds_any_more_is_freed_and_read_from_disk_again(folder):
    held = read(folder)
    weights = [weakref.ref(value) for value in held.values()]
    del held
    gc.collect()
    assert not any(weight() is not None for weight in weights)
    wanted = draw_body(TINY, jax.random.key(5))
    assert all(np.array_equal(value, wanted[name]) for name, value in read(folder).items())


def test_what_is_held_does_not_hide_that_config_json_asks_for_another_shape(folder):
    held = read(folder)
    edit_config(folder, n_positions=TINY.positions + 1)
    refused(folder, "wpe.weight has shape (64, 32), but config.json asks for (65, 32)")
    assert held


def test_names_that_are_nothing():
    with pytest.raises(UserError, match="did you mean 'gpt2-mini'"):
        checkpoint.locate("gpt2-mni")
    with pytest.raises(UserError, match="no weights of 'nobody/nothing'"):
        checkpoint.locate("nobody/nothing")
    with pytest.raises(UserError, match="no folder ./nothing"):
        checkpoint.locate("./nothing")


def test_no_network_is_no_stall(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://127.0.0.1:9")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    begun = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached"):
        checkpoint.locate("nobody/nothing")
    assert time.monotonic() - begun < 5
