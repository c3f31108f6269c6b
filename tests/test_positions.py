"""Checks that a run which trains positions holds the rows that its inputs reach, and loses none."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from fpt import load_body, load_run, records, saved
from fpt.arrays import pack, unpack
from fpt.parameters import Source, model_of, resolve
from fpt.trainer import Trainer
from tests.conftest import TINY
from tests.test_load import XOR, run

WPE, TOKENS = "body/wpe", XOR.interface.tokens


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    folder = run(tiny_folder, tmp_path_factory.mktemp("runs"), steps=50, eval_every=10, batch=32)
    assert load_run(folder).result["best_step"] > 0  # else nothing of it has moved
    return folder


def after(config, found, reached, steps=10):
    """Trains for some steps, holding the rows that are reached or, with None, all of them."""
    source = Source(config, found, reached=reached)
    trainable, frozen = source.stack([config])
    trainer = Trainer(model_of(config), config, source.table, source.axes(1), 1)
    state = trainer.advance(frozen, None, trainer.condition([config]), trainer.begin(trainable),
                            np.int32(0), np.int32(steps))
    return {name: np.asarray(value[0]) for name, value in state.trainable.items()}


@pytest.mark.parametrize("settings", [
    {}, {"load": "none"}, {"birth": "statistics"}, {"train": "all", "optimizer": "muon"},
    {"body_seed": 7, "load": "none", "train": "position"}])
def test_the_rows_in_use_move_as_they_do_beside_all_others(folder, settings):
    config, found = resolve(dataclasses.replace(
        load_run(folder).config, checkpoint=None, geometry=None,
        **{"load": None, "steps": 10} | settings))
    few, all_rows = after(config, found, TOKENS), after(config, found, None)
    assert few[WPE].shape == (TOKENS, TINY.width) and all_rows[WPE].shape[0] == TINY.positions
    all_rows[WPE] = all_rows[WPE][:TOKENS]
    # The norm of the gradient is summed in another order: 4.4e-8 was measured.
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-7), few, all_rows)


def test_the_other_rows_of_a_run_and_of_its_export_are_the_bodys(folder, tiny_folder, tmp_path):
    trained, loaded = unpack(folder / saved.TRAINABLE)[0][WPE], load_body(tiny_folder)
    assert len(trained) == TOKENS
    whole = np.concatenate([trained, loaded.parameters[WPE][TOKENS:]])
    np.testing.assert_array_equal(load_run(folder).parameters[WPE], whole)
    load_run(folder).export(tmp_path / "export")
    np.testing.assert_array_equal(load_body(tmp_path / "export").parameters[WPE], whole)


@pytest.fixture
def older(folder, tmp_path):
    """A run as older versions left it, with all rows of its table of positions."""
    older = shutil.copytree(folder, tmp_path / folder.name)
    trained, identity = unpack(older / saved.TRAINABLE)
    trained[WPE] = np.asarray(load_run(folder).parameters[WPE])
    (older / saved.TRAINABLE).write_bytes(pack(trained, identity))
    result = records.read_json(older / records.RESULT)
    result = {name: result[name] for name in result.keys() - {"trainable", "checksum"}}
    (older / records.RESULT).write_text(json.dumps(result))
    return older


def test_a_run_of_an_older_version_with_all_rows_gives_the_same_answers(folder, older):
    new, old = load_run(folder), load_run(older)
    inputs = XOR.load(None, print)["test"].inputs[:16]
    np.testing.assert_array_equal(new(inputs), old(inputs))
    np.testing.assert_array_equal(new.parameters[WPE], old.parameters[WPE])


@pytest.mark.parametrize("train", ["fpt", "output"])
def test_a_stage_begins_where_a_run_of_either_version_ended(folder, older, tmp_path, train):
    for start in (folder, older):
        stage = run(load_run(start).config.body, tmp_path / start.parent.name, train=train,
                    start=str(start), begins=records.ended(start)[1])
        np.testing.assert_array_equal(load_run(stage).at(0).parameters[WPE],
                                      load_run(start).parameters[WPE])
