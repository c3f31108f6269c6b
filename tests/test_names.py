"""A configuration, its record and the name that follows from it."""

import dataclasses
import json

import numpy as np
import pytest

from fpt import UserError
from fpt.config import Config
from fpt.records import configuration
from tasks.bits import BitXor
from tasks.listops import ListOps
from tests.conftest import TINY

CHANGES = {
    "steps": 61, "batch": 9, "lr": 1e-3, "eval_every": 21, "eval_examples": 5, "load": "attention",
    "train": "output", "seed": 1, "body_seed": 1, "dtype": "bfloat16", "dropout": 0.2,
    "embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0, "clip": 2.0,
    "init": "depth-scaled", "task": BitXor(bits=4), "checkpoint": "0" * 32, "geometry": TINY,
    "birth": "statistics", "redraw": "attention", "optimizer": "muon", "weight_decay": 0.1,
    "warmup": 5, "decay": "cosine", "accumulate": 2, "layers": 1, "width": 8,
    "rates": ("norm=0.1",), "start": "runs/first", "begins": "0" * 32, "stream": "stage 1",
}


@pytest.fixture
def config(tiny_folder):
    return Config(BitXor(bits=3), str(tiny_folder), steps=60, batch=8, lr=1e-2, eval_every=20)


def test_every_setting_is_part_of_the_name(config):
    changed = [dataclasses.replace(config, **{name: value}) for name, value in CHANGES.items()]
    assert len({one.digest for one in [config, *changed]}) == len(changed) + 1
    fields = {field.name for field in dataclasses.fields(Config)}
    assert set(CHANGES) | {"body", "task_file", "body_file"} == fields


def test_a_configuration_survives_its_record(config):
    changed = [dataclasses.replace(config, **{name: value}) for name, value in CHANGES.items()]
    for one in [config, *changed]:
        assert configuration(json.loads(json.dumps(one.record()))) == one


def test_where_weights_lie_is_not_part_of_the_name_but_what_they_are_is(config):
    a, b = (dataclasses.replace(config, body=body, geometry=TINY, checkpoint="1" * 32)
            for body in ("here/tiny", "there/tiny"))
    assert a.digest == b.digest != dataclasses.replace(a, checkpoint="2" * 32).digest


def test_where_a_start_lies_is_not_part_of_the_name_but_what_it_ended_with_is(config):
    a, b = (dataclasses.replace(config, start=start, begins="1" * 32)
            for start in ("here/run", "there/run"))
    assert a.digest == b.digest != dataclasses.replace(a, begins="2" * 32).digest


def test_numbers_are_those_of_their_field_whatever_kind_they_come_in(config):
    same = dataclasses.replace(config, dropout=0, seed=np.int64(3), batch=np.int32(8),
                               lr=np.float32(0.5), weight_decay=0)
    plain = dataclasses.replace(config, dropout=0.0, seed=3, batch=8, lr=0.5, weight_decay=0.0)
    assert same.name == plain.name and same == plain
    assert json.dumps(same.record()) == json.dumps(plain.record())


@pytest.mark.parametrize("setting", [
    {"steps": 2.5}, {"steps": "3"}, {"lr": "fast"}, {"seed": None}, {"load": 3}, {"clip": [1]}])
def test_a_value_of_another_kind_is_refused_by_name(config, setting):
    name, = setting
    with pytest.raises(UserError, match=f"--{name} must be a"):
        dataclasses.replace(config, **setting)


def test_a_preset_brings_its_sizes_but_for_those_that_were_given():
    config = Config.preset(ListOps(), "paper")
    sizes = config.task.shortest, config.task.longest
    assert (*sizes, config.steps) == (501, 1_024, 1_000_000)
    assert Config.preset(ListOps(longest=600), "paper").task.longest == 600
    assert Config.preset(ListOps()).task == ListOps(shortest=8, longest=24, arguments=3)
