"""Checks how tasks of next-token prediction are drawn and scored, and the probe for copying."""

import math
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpt import UserError
from fpt.evaluation import score
from fpt.gpt2 import GPT2
from fpt.model import Model
from fpt.records import finite
from fpt.task import UNSCORED, Split
from tasks.copying import Copying
from tasks.language import Language
from tasks.nexttoken import BEGIN, PROBES, SPAN, copying_gain

CONTEXT = 4
TRAIN = 13 * CONTEXT + 1  # tokens: twelve windows, and one for the phase


@pytest.fixture(scope="module")
def draw():
    """Maps (seed, step) to a batch of four windows of the stream 0, 1, 2, ..."""
    train = Split(jnp.arange(TRAIN, dtype=jnp.uint16), jnp.zeros((0, CONTEXT), jnp.int32))
    drawn = jax.jit(lambda key, step: Language(context=CONTEXT).draw(train, key, step, 4)[:2])
    return lambda seed, step: Split(*map(np.asarray, drawn(jax.random.key(seed), step)))


def test_windows_are_drawn_from_the_stream_with_targets_one_further(draw):
    for step in range(60):
        inputs, targets = draw(0, step)
        assert inputs.shape == targets.shape == (4, CONTEXT)
        assert (targets == inputs + 1).all() and targets.max() < TRAIN
        assert (inputs == inputs[:, :1] + np.arange(CONTEXT)).all()


def test_an_epoch_holds_every_window_once_wherever_they_begin(draw):
    phases, orders = set(), []
    for epoch in range(8):
        firsts = np.stack([draw(0, 3 * epoch + step).inputs[:, 0] for step in range(3)])
        assert sorted((firsts // CONTEXT).ravel()) == list(range(12))
        assert (firsts % CONTEXT == firsts[:, :1] % CONTEXT).all()
        phases |= set((firsts % CONTEXT).ravel().tolist())
        orders.append(tuple((firsts // CONTEXT).ravel()))
    assert phases == set(range(CONTEXT)) and len(set(orders)) == 8


def test_a_draw_is_a_function_of_key_and_step(draw):
    assert np.array_equal(draw(0, 5).inputs, draw(0, 5).inputs)
    others = [draw(seed, step).inputs for seed, step in ((0, 6), (1, 5))]
    assert not any(np.array_equal(draw(0, 5).inputs, other) for other in others)


def test_a_share_of_the_windows_says_its_first_tokens_again_and_again():
    context, batch = 64, 32
    train = Split(jnp.arange(50 * context, dtype=jnp.uint16), jnp.zeros((0, context), jnp.int32))
    task, periods = Language(context=context, repeats=0.5), []
    for step in range(20):
        inputs, targets, _ = task.draw(train, jax.random.key(0), step, batch)
        whole = np.concatenate([inputs, targets[:, -1:]], axis=1)
        assert (whole[:, 1:] == targets).all()
        for window in whole - whole[:, :1]:
            falls = np.flatnonzero(np.diff(window) < 0)
            period = falls[0] + 1 if len(falls) else None
            assert (window == np.arange(context + 1) % (period or context + 1)).all()
            periods.append(period)
    found = [period for period in periods if period]
    assert 0.4 < len(found) / len(periods) < 0.6
    assert (min(found), max(found)) == (8, 32)


@pytest.mark.parametrize("sizes", [{"repeats": -0.1}, {"repeats": 1.5},
                                   {"repeats": 0.1, "context": 14}], ids=str)
def test_a_share_of_repeats_that_cannot_be_is_refused(sizes):
    with pytest.raises(UserError, match="--repeats"):
        Language(**sizes)


def test_a_language_run_without_repeats_is_named_as_before_there_were_any():
    assert "repeats" not in Language().settings()
    assert Language(repeats=0.1).settings()["repeats"] == 0.1


def test_the_shortest_text_that_is_taken_can_be_drawn_from(monkeypatch):
    task = Language(context=8)
    streams = {name: np.arange(40, dtype=np.uint16) for name in ("validation", "heldout")}
    tokenizer = types.SimpleNamespace(token_to_id=lambda entry: 0)
    text = types.SimpleNamespace(stream=streams.__getitem__, tokenizer=tokenizer)
    monkeypatch.setattr("tasks.language.prepare", lambda *arguments: text)
    for length in (14, 15, 16):
        streams["train"] = np.arange(length, dtype=np.uint16)
        with pytest.raises(UserError, match="--context 8 needs"):
            task.load(Path("data"))
    streams["train"] = np.arange(17, dtype=np.uint16)
    inputs, targets, _ = task.draw(task.load(Path("data"))["train"], jax.random.key(0), 0, 2)
    assert (targets == inputs + 1).all()


@pytest.mark.parametrize("length", range(9, 30))
def test_every_held_out_token_is_scored_once_with_half_a_context_before_it(length):
    inputs, targets = Language(context=8)._windows(np.arange(length), Path("data"))
    rows, columns = np.nonzero(targets != UNSCORED)
    tokens = targets[rows, columns]
    assert (inputs[rows, columns] == tokens - 1).all()
    assert (inputs == inputs[:, :1] + np.arange(8)).all()
    assert (tokens - inputs[rows, 0]).min() > 4
    assert tokens.tolist() == list(range(5, 5 + len(tokens))) and 0 <= length - 5 - len(tokens) < 4
    assert len(set((targets != UNSCORED).sum(1))) == 1


def test_a_split_shorter_than_a_window_is_refused():
    with pytest.raises(UserError, match="holds 8 tokens; --context 8 needs more"):
        Language(context=8)._windows(np.arange(8), Path("data"))


def _period(row):
    return next(period for period in range(1, len(row))
                if np.array_equal(row[period:], row[:-period]))


def test_what_is_to_be_copied_repeats_after_half_the_context():
    task, periods = Copying(vocabulary=1000, context=32), {16}
    inputs, targets = map(np.asarray, task.draw(None, jax.random.key(0), 3, 400)[:2])
    assert {_period(row) for row in targets} == periods
    assert (inputs[:, 0] == BEGIN).all() and np.array_equal(inputs[:, 1:], targets[:, :-1])
    assert targets.min() == 1 and targets.max() == 999
    again, other = (np.asarray(task.draw(None, jax.random.key(0), step, 400).targets)
                    for step in (3, 4))
    assert np.array_equal(again, targets) and not np.array_equal(other, targets)


def test_a_copy_tasks_splits_are_scored_everywhere_and_differ():
    data = Copying(vocabulary=50, context=32).load()
    assert not np.array_equal(data["validation"].targets, data["test"].targets)
    for name in ("validation", "test"):
        assert data[name].targets.shape == (256, 32) and (data[name].targets != UNSCORED).all()


def test_the_probes_are_scored_on_random_symbols_or_on_their_repetition():
    probes = Copying(vocabulary=50, context=2 * SPAN).repetitions()
    (inputs, random), (again, repeated) = probes["random"], probes["repeated"]
    assert np.array_equal(inputs, again) and inputs.shape == (PROBES, 2 * SPAN)
    assert (inputs[:, 0] == BEGIN).all() and inputs[:, 1:].min() == 1 and inputs.max() == 49
    assert np.array_equal(random[:, :SPAN], inputs[:, 1 : SPAN + 1])
    assert np.array_equal(repeated[:, SPAN:], random[:, :SPAN])
    assert (random[:, SPAN:] == UNSCORED).all() and (repeated[:, :SPAN] == UNSCORED).all()
    assert np.array_equal(repeated[:, SPAN:-1], inputs[:, SPAN + 1 :])


@pytest.mark.parametrize("context", [2, 32, 128, 512])
def test_the_probes_fit_a_task_of_any_context(context):
    for probe in Copying(vocabulary=50, context=context).repetitions().values():
        assert probe.inputs.shape == probe.targets.shape and probe.inputs.shape[1] <= context
        assert (probe.targets != UNSCORED).any()


def test_a_perfect_copier_gains_all_that_random_symbols_cost():
    task = Copying(vocabulary=50, context=2 * SPAN)
    copied = np.full((PROBES, 2 * SPAN), BEGIN)
    losses = {"random": np.full(PROBES, math.log(49)), "repeated": np.zeros(PROBES)}
    scores = {}
    for name, probe in task.repetitions().items():
        copied[:, SPAN:] = probe.inputs[:, 1 : SPAN + 1]
        scores[name] = score(task, probe, copied, losses[name])
    assert scores["repeated"]["accuracy"] == 1 and scores["random"]["accuracy"] == 0
    gain = pytest.approx(math.log(49))
    assert task.figures({}, None, {"loss": 1.0}, scores) == {"loss": 1.0, "copying gain": gain}
    assert math.isnan(copying_gain({"random": {"loss": 1.0}, "repeated": {"loss": None}}))


def test_a_run_without_a_finite_loss_has_figures():
    lost = {"loss": None, "accuracy": 0.1}
    task, probes = Copying(), dict.fromkeys(Copying.probes, lost)
    figures = task.figures({}, None, lost, probes)
    assert {name: finite(value) for name, value in figures.items()} == {
        "loss": None, "copying gain": None}
    assert task.headline(lost, probes) == "val loss nan  copying gain nan"


def test_the_gradient_of_a_tied_table_is_there_in_bfloat16_too():
    task, gradients = Copying(vocabulary=64, context=32), {}
    tokens = jax.random.randint(jax.random.key(0), (8, 32), 0, 64)
    for dtype in (jnp.float32, jnp.bfloat16):
        body = GPT2(layers=1, width=32, heads=2, positions=32, vocabulary=64)
        model = Model(task.interface, body, dtype=dtype)
        parameters = model.init(jax.random.key(1), tokens)
        loss = lambda parameters: jnp.square(model.apply(parameters, tokens)[0]).sum()
        gradients[dtype] = jax.jit(jax.grad(loss))(parameters)["params"]["token"]["embedding"]
    exact, norm = gradients[jnp.float32], jnp.linalg.norm
    assert 0 < norm(gradients[jnp.bfloat16] - exact) / norm(exact) < 0.01
