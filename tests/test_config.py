"""Tests the defaults of a configuration, what overrules them, and which runs are trained side by
side."""

import dataclasses

import tasks
from fpt.config import Config, grid
from tasks.bits import BitXor
from tasks.copying import Copying


def test_what_is_not_said_is_as_in_the_released_code():
    """Recorded runs state all settings, but the README's commands rely on these."""
    stated = {field.name: field.default
              for field in dataclasses.fields(Config) if field.default is not dataclasses.MISSING}
    assert stated == {
        "eval_examples": None, "load": None, "train": "fpt", "birth": "weights", "redraw": "body",
        "seed": 0, "body_seed": None, "dtype": "float32", "dropout": 0.1, "embedding_dropout": None,
        "attention_dropout": None, "residual_dropout": None, "clip": 1.0, "optimizer": "adam",
        "weight_decay": 0.0, "warmup": 0, "decay": "constant", "accumulate": 1, "init": "original",
        "geometry": None, "checkpoint": None, "task_file": None, "layers": None, "width": None,
        "rates": (), "start": None, "begins": None, "body_file": None, "stream": None,
    }


def test_the_papers_preset_is_the_papers():
    for name in tasks.TASKS:
        preset = tasks.find(name).presets["paper"]
        stated = preset.body, preset.batch, preset.steps, preset.lr
        assert stated == ("gpt2", 4, 1_000_000, 1e-3), name


def test_what_the_caller_says_overrules_the_preset_and_the_preset_the_defaults():
    usual = Config.preset(Copying())
    assert (usual.optimizer, usual.warmup, usual.batch, usual.clip) == ("muon", 100, 8, 1.0)
    said = Config.preset(Copying(), optimizer="adam", batch=3, clip=0.5)
    assert said == dataclasses.replace(usual, optimizer="adam", batch=3, clip=0.5)


def test_a_grid_has_a_run_for_each_rate_and_seed_seeds_varying_fastest():
    runs = grid(Config.preset(BitXor()), (1e-2, 1e-3, 1e-2), (3, 1))
    assert [(run.lr, run.seed) for run in runs] == [(1e-2, 3), (1e-2, 1), (1e-3, 3), (1e-3, 1)]


def test_runs_that_differ_by_rate_and_seed_alone_are_trained_side_by_side():
    config = Config.preset(BitXor())
    alike = [run.stackable() for run in grid(config, (1e-2, 1e-3), (0, 1))]
    assert len(set(alike)) == 1
    others = [dataclasses.replace(config, **change)
              for change in ({"steps": 7}, {"dropout": 0.5}, {"body_seed": 1})]
    assert not set(alike) & {other.stackable() for other in others}
