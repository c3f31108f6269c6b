"""Checks how many runs are trained at once: those that a device is quick with, and has room for."""

import types

import pytest

import fpt.machine
from fpt import UserError, planning
from fpt.config import Config, grid
from fpt.parameters import Source
from fpt.planning import MEMORY_SHARE, planned
from fpt.run import resolved
from tests.test_load import XOR


@pytest.fixture
def machine(monkeypatch):
    """Has room for ten runs, each of a byte, and is kept busy by 60 tokens."""
    monkeypatch.setattr(planning, "ENOUGH_TOKENS", {"cpu": 60, "other": 60})
    monkeypatch.setattr(planning, "ENOUGH_BODIES", {"cpu": 3, "other": 3})
    monkeypatch.setattr(fpt.machine, "memory", lambda: 10 / MEMORY_SHARE)


def experiment(runs, batch, accumulate=1, bytes_of_a_run=1, shared=True):
    config = types.SimpleNamespace(task=XOR, batch=batch, accumulate=accumulate)
    compiled = lambda runs: types.SimpleNamespace(bytes=runs * bytes_of_a_run)
    source = types.SimpleNamespace(shares_body=lambda runs: shared)
    return types.SimpleNamespace(config=config, compiled=compiled, source=source, runs=range(runs))


@pytest.mark.parametrize("batch, accumulate, runs, size", [
    (1, 1, 1, 1), (1, 1, 10, 10), (2, 1, 5, 5), (2, 1, 6, 3), (2, 1, 11, 4), (5, 1, 4, 2),
    (10, 1, 3, 1), (100, 1, 3, 1), (100, 50, 5, 5)])
def test_as_many_run_at_once_as_make_a_step_of_tokens_enough(machine, batch, accumulate, runs, size):
    assert XOR.interface.tokens == 6
    assert planned(experiment(runs, batch, accumulate), runs)[0] == size


@pytest.mark.parametrize("runs, size", [(3, 3), (4, 2), (7, 3)])
def test_fewer_run_at_once_where_each_has_a_body_of_its_own(machine, runs, size):
    assert planned(experiment(runs, 1, shared=False), runs)[0] == size


@pytest.mark.parametrize("settings, shared", [
    ({}, True), ({"load": "none"}, False), ({"load": "none", "body_seed": 1}, True),
    ({"train": "fpt+feedforward@1"}, False), ({"birth": "statistics"}, False)])
def test_runs_share_a_body_where_none_trains_or_draws_its_own(tiny_folder, settings, shared):
    config = Config(XOR, str(tiny_folder), steps=1, batch=1, lr=1e-2, eval_every=1, **settings)
    runs, found = zip(*resolved(grid(config, (1e-2, 1e-3), (0, 1))))
    assert Source(runs[0].stackable(), found[0], runs).shares_body(2) == shared


@pytest.mark.parametrize("bytes_of_a_run, runs, size", [(1, 10, 10), (2, 10, 5), (4, 5, 2), (9, 2, 1)])
def test_no_more_run_at_once_than_there_is_memory_for(machine, bytes_of_a_run, runs, size):
    found, why = planned(experiment(runs, 1, bytes_of_a_run=bytes_of_a_run), runs)
    assert found == size
    assert "memory" in why if size < runs else "memory" not in why


def test_a_run_that_does_not_fit_alone_is_refused(machine):
    with pytest.raises(UserError, match="a smaller --batch needs less"):
        planned(experiment(3, 1, bytes_of_a_run=11), 3)


@pytest.mark.parametrize("shared, bytes_of_a_run", [(True, 1), (False, 1), (True, 3)])
def test_stacks_are_the_same_ones_where_the_first_are_finished(machine, shared, bytes_of_a_run):
    """And nothing is compiled for more runs than are left."""
    left, most = 13, None
    while left:
        found = experiment(13, 1, bytes_of_a_run=bytes_of_a_run, shared=shared)
        sizes, compiled = [], found.compiled
        found.compiled = lambda runs: sizes.append(runs) or compiled(runs)
        size = planned(found, left)[0]
        most = most or size
        assert size == min(most, left) and max(sizes) <= left
        left -= size
