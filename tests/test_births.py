"""Checks what loaded roles receive: weights, draws of their statistics, or mimetic attention."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasks
from fpt import UserError, checkpoint, parameters, roles
from fpt.births import BIRTHS
from fpt.config import Config
from fpt.gpt2 import GPT2
from fpt.initialisers import draw
from fpt.load import load_run
from fpt.model import body_table, draw_body
from fpt.task import UNSCORED
from tasks.bits import BitXor
from tests.conftest import TINY, Stub

WIDE = GPT2(layers=2, width=64, heads=4, positions=32, vocabulary=11)
TABLE = body_table(WIDE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Makes a checkpoint, and gives its values too.

    No tensor in it has the mean and deviation of a fresh one, nor of another layer's.
    """
    folder, values = tmp_path_factory.mktemp("bodies") / "trained", {}
    noise = np.random.default_rng(1)
    for name, value in draw_body(WIDE, jax.random.key(5)).items():
        values[name] = value * noise.uniform(2, 5) + noise.uniform(-1, 1)
        values[name] += noise.normal(0, 0.1, value.shape)
    checkpoint.write(folder, WIDE, values)
    return folder, values


def configured(body, birth, **settings):
    return Config(BitXor(), str(body), birth=birth,
                  **dict(steps=1, batch=4, lr=1e-2, eval_every=1) | settings)


def made(body, birth, **settings):
    """Makes all parameters of a run, by name, and its Source."""
    config, found = parameters.resolve(configured(body, birth, **settings))
    source = parameters.Source(config, found)
    trainable, frozen = source.stack([config])
    values = {name: np.asarray(value[0]) for name, value in trainable.items()}
    return values | jax.tree.map(np.asarray, frozen), source


def test_statistics_of_each_tensor_are_kept_and_nothing_else(trained):
    folder, weights = trained
    found, _ = made(folder, "statistics")
    for name, value in weights.items():
        mean, deviation, count = value.mean(), value.std(), value.size
        assert abs(found[name].mean() - mean) <= 5 * deviation / np.sqrt(count), name
        assert abs(found[name].std() - deviation) <= 5 * deviation / np.sqrt(2 * count), name
        if count > 1_000:
            assert abs(np.corrcoef(found[name].ravel(), value.ravel())[0, 1]) < 0.15, name


def test_statistics_by_layer_are_those_of_all_tensors_of_a_kind(trained):
    folder, weights = trained
    found, _ = made(folder, "statistics-by-layer")
    for layer in (0, 1):
        names = [name for name, one in TABLE.items() if one.layer == layer and one.matrix]
        pooled = np.concatenate([weights[name].ravel() for name in names])
        for name in names:
            error = pooled.std() / np.sqrt(found[name].size)
            assert abs(found[name].mean() - pooled.mean()) <= 5 * error, name
            assert abs(found[name].std() - pooled.std()) <= 0.1 * pooled.std(), name
        for one, other in itertools.combinations(names, 2):  # each is drawn for itself
            same = np.corrcoef(found[one].ravel()[:4_000], found[other].ravel()[:4_000])
            assert abs(same[0, 1]) < 0.1, (one, other)


def test_what_is_not_to_be_drawn_anew_keeps_its_weights(trained):
    folder, weights = trained
    found, _ = made(folder, "statistics", redraw="attention+feedforward")
    for name, value in weights.items():
        kept = np.array_equal(found[name], value.astype(np.float32))
        assert kept == (TABLE[name].role in ("position", "norm")), name


def test_a_partial_load_fills_the_roles_named_and_no_other(trained):
    folder, weights = trained
    fresh, _ = made(folder, "weights", load="none")
    for load in ("attention", "feedforward", "attention@0+norm@0", "body"):
        found, source = made(folder, "weights", load=load)
        chosen = roles.parse(load)
        assert set(source.loaded) == {*chosen.among(TABLE)}
        for name, one in TABLE.items():
            wanted = weights[name].astype(np.float32) if chosen.holds(one) else fresh[name]
            assert np.array_equal(found[name], wanted), (load, name)


def test_draws_differ_by_seed_and_are_shared_where_the_body_has_one(trained):
    folder, _ = trained
    name = "body/h_0/mlp/c_fc/kernel"
    one, two = (made(folder, "statistics", seed=seed)[0][name] for seed in (1, 2))
    assert not np.array_equal(one, two)
    one, two = (made(folder, "statistics", seed=seed, body_seed=7)[0][name] for seed in (1, 2))
    assert np.array_equal(one, two)


def test_runs_of_a_stack_have_draws_of_their_own(trained):
    config, found = parameters.resolve(configured(trained[0], "statistics"))
    runs, name = [config, dataclasses.replace(config, seed=1)], "body/h_1/attn/c_attn/kernel"
    frozen = parameters.Source(config, found, runs).stack(runs)[1][name]
    assert frozen.shape[0] == 2 and not np.array_equal(frozen[0], frozen[1])
    alone, _ = made(trained[0], "statistics", seed=1)
    assert np.array_equal(frozen[1], alone[name])


@pytest.mark.parametrize("birth, sign", [("mimetic", 1), ("mimetic-language", -1)])
def test_mimetic_products_are_near_the_identity(birth, sign):
    body = GPT2(layers=1, width=256, heads=4)
    names = [f"body/h_0/attn/{part}/kernel" for part in ("c_attn", "c_proj")]
    table = {name: body_table(body)[name] for name in names}
    for name, initialiser in BIRTHS[birth].initialisers(table, {}, body).items():
        table[name] = dataclasses.replace(table[name], initialiser=initialiser)
    drawn = draw(table, jax.random.key(0))
    query, key, value = np.split(drawn[names[0]], 3, axis=1)
    product = value @ drawn[names[1]]
    assert np.diag(product).mean() == pytest.approx(-0.4 * sign, abs=0.02)
    assert (product - np.diag(np.diag(product))).std() == pytest.approx(0.4 / 16, rel=0.05)
    for head in range(4):
        columns = slice(64 * head, 64 * head + 64)
        product = query[:, columns] @ key[:, columns].T
        values = np.linalg.svd(product)[1]
        assert values[63] > 0.3 and values[64] < 1e-4  # as near as a matrix of this rank can be
        assert sign * np.trace(product) > 0.25 * 0.7 * 256
    for part in (query, key):
        alike = [abs(np.corrcoef(one.ravel(), other.ravel())[0, 1])
                 for one, other in itertools.combinations(np.split(part, 4, axis=1), 2)]
        assert max(alike) < 0.2  # each head has draws of its own
    assert drawn[names[0]].dtype == np.float32


@pytest.mark.parametrize("birth, sign", [("mimetic", 1), ("mimetic-language", -1)])
def test_a_run_has_the_signs_that_its_birth_names(trained, birth, sign):
    found, _ = made(trained[0], birth, load="attention")
    query, key, value = np.split(found["body/h_1/attn/c_attn/kernel"], 3, axis=1)
    out = found["body/h_1/attn/c_proj/kernel"]
    assert sign * np.trace(query @ key.T) > 0 > sign * np.trace(value @ out)


def test_mimetic_attention_needs_no_checkpoint_and_leaves_the_rest_as_it_is(trained):
    found, source = made("gpt2-mini", "mimetic")
    plain, _ = made("gpt2-mini", "weights", load="none")
    assert (source.loaded, source.config.load, source.config.checkpoint) == ({}, "attention", None)
    matrices = lambda source: {name for name, one in source.table.items()
                               if one.role == "attention" and one.matrix}
    for name in plain:
        assert np.array_equal(found[name], plain[name]) == (name not in matrices(source)), name
    found, source = made(trained[0], "mimetic", load="body")
    assert {name for name in TABLE if name not in source.loaded} > matrices(source)
    for name in source.loaded:
        assert np.array_equal(found[name], trained[1][name].astype(np.float32)), name
    assert {name for name in TABLE if not source.table[name].exact} == matrices(source)


def test_a_birth_needs_something_to_give(tiny_folder):
    with pytest.raises(UserError, match="makes nothing anew"):
        made(tiny_folder, "statistics", load="none")
    with pytest.raises(UserError, match="did you mean 'statistics'"):
        made(tiny_folder, "statistic")


def test_a_birth_is_part_of_what_a_run_is(tiny_folder):
    configs = [configured(tiny_folder, birth, redraw=redraw)
               for birth in ("weights", "statistics") for redraw in ("body", "attention")]
    assert len({config.digest for config in configs}) == 4


@pytest.mark.parametrize("name, sizes", [
    ("bit-memory", {"bits": 6, "patch": 2}), ("bit-xor", {}), ("mnist", {}),
    ("listops", {"longest": 24, "shortest": 8})])
def test_a_task_on_its_own_inputs_asks_for_the_next_token(name, sizes):
    plain, task = tasks.find(name)(**sizes), tasks.find(f"self-{name}")(**sizes)
    tokens, asked = plain.interface.tokens, task.interface
    assert (asked.tokens, asked.queries, task.settings()) == (tokens, tokens, plain.settings())
    noise = np.random.default_rng(0)
    if name == "mnist":
        inputs = noise.integers(0, 256, (3, 28, 28, 1), np.uint8)
    elif name == "listops":
        inputs = noise.integers(1, 16, (3, 24)).astype(np.int8)
        inputs[1, 10:] = 0
    else:
        inputs = plain.load()["validation"].inputs[:3]
    targets = np.asarray(task._following(jnp.asarray(inputs))).reshape(3, tokens, -1)
    symbols = np.asarray(plain.symbols(jnp.asarray(inputs)))
    assert (targets[:, -1] == UNSCORED).all()
    assert np.array_equal(targets[:, :-1], symbols[:, 1:])
    assert symbols.max() < asked.classes and targets.shape[2] == asked.answers_per_query
    if name == "listops":
        assert (targets[1, 9:] == UNSCORED).all() and (targets[1, :9, 0] == inputs[1, 1:10]).all()


def test_pretraining_on_own_inputs_trains_and_exports(command, tmp_path):
    tiny = tmp_path / "tiny"
    checkpoint.write(tiny, TINY, draw_body(TINY, jax.random.key(0)))
    common = ["--body", tiny, "--bits", 4, "--patch", 2, "--steps", 20, "--eval-every", 10,
              "--batch", 8, "--eval-examples", 200, "--lr", 1e-3, "--out", tmp_path / "runs"]
    for kind in ("self", "task"):
        code, _, wrong = command("pretrain", kind, "bit-memory", *common, "--to", tmp_path / kind)
        assert code == 0, wrong
        written = checkpoint.open_folder(tmp_path / kind)
        assert (written.geometry.layers, written.geometry.width) == (TINY.layers, TINY.width)
        values = checkpoint.read(written, lambda name: True, body_table(TINY))
        origin = json.loads((tmp_path / kind / "pretraining.json").read_text())
        run = load_run(tmp_path / "runs" / origin["run"])
        began = lambda **other: parameters.Source(run.config, None).values(
            dataclasses.replace(run.config, **other), [*values, "input/kernel"])
        first = began()
        assert not any(np.array_equal(values[name], first[name]) for name in values
                       if name.endswith("kernel"))
        # The input layer that it has grown around is not the one that a run of seed 0 begins with.
        alike = lambda other: np.corrcoef(run.parameters["input/kernel"].ravel(),
                                          other["input/kernel"].ravel())[0, 1]
        assert alike(first) > 0.9 and abs(alike(began(stream=None))) < 0.5


def test_a_task_that_does_not_say_its_symbols_cannot_be_pretrained_on():
    from tasks.selfsupervised import on_own_inputs

    with pytest.raises(UserError, match="lacks `symbols`"):
        on_own_inputs(Stub)
