"""Checks what a model answers, and that its table describes what its modules compute with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from fpt import UserError, checkpoint, parameters
from fpt.config import Config
from fpt.gpt2 import BODIES, GPT2
from fpt.model import Model, apply, table
from fpt.parameters import default_load, resolve
from fpt.task import Interface
from tasks.bits import BitMemory, BitXor
from tests.conftest import TINY

CONTINUOUS = Interface(tokens=6, width=3, classes=5, queries=2, answers_per_query=4)
SYMBOLS = Interface(tokens=6, vocabulary=7, classes=5, pad=0)
TIED = Interface(tokens=6, vocabulary=7, classes=7, queries=6, head="tied")


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("task", [CONTINUOUS, SYMBOLS, TIED], ids=["continuous", "symbols", "tied"])
def test_a_models_table_has_the_parameters_of_its_modules(body, task):
    tokens = (jax.ShapeDtypeStruct((1, 6), jnp.int32) if task.vocabulary
              else jax.ShapeDtypeStruct((1, 6, 3), jnp.float32))
    made = jax.eval_shape(Model(task, BODIES[body]).init, jax.random.key(0), tokens)["params"]
    own = {name: leaf.shape for name, leaf in flatten_dict(made, sep="/").items()}
    assert {name: one.shape for name, one in table(task, BODIES[body]).items()} == own


def test_the_output_layer_holds_the_classes_of_one_answer_after_another():
    """As the released code has them for each query, and as the weights of recorded runs mean."""
    task = BitMemory(strings=1, bits=6, patch=3).interface
    body = GPT2(layers=1, width=8, heads=2, positions=4)
    values = {name: np.zeros(one.shape, np.float32) for name, one in table(task, body).items()}
    values["output/bias"] = np.arange(6, dtype=np.float32)
    answer = jax.jit(lambda tokens: apply(Model(task, body), values, tokens)[0])
    logits = answer(np.zeros((1, task.tokens, 3), np.float32))
    assert logits.tolist() == [2 * [[0, 1], [2, 3], [4, 5]]]  # of two queries, three answers each


# Bodies that are cut to their first blocks


def cut(folder, layers, **settings):
    """Configures a run on the first blocks of a body; gives also the values of its parameters."""
    config = Config(BitXor(), str(folder), steps=1, batch=1, lr=1e-3, eval_every=1, layers=layers,
                    **settings)
    config, found = resolve(config)
    source = parameters.Source(config, found)
    return config, source.values(config, [*source.table])


@pytest.mark.parametrize("layers", [1, 2])
def test_a_cut_body_computes_the_first_blocks_and_the_last_norm(tiny_folder, layers):
    config, values = cut(tiny_folder, layers)
    whole = checkpoint.read(checkpoint.open_folder(tiny_folder), lambda name: True,
                            {name: one for name, one in table(CONTINUOUS, TINY).items()
                             if name.startswith("body/")})
    assert config.geometry == dataclasses.replace(TINY, layers=layers)
    for name in values:
        if name.startswith("body/"):
            assert np.array_equal(values[name], whole[name]), name
    assert len([name for name in values if name.endswith("c_fc/kernel")]) == layers
    tokens = np.random.default_rng(0).standard_normal((2, 10, 1), np.float32)
    ends = {name: value for name, value in values.items() if not name.startswith("body/")}
    seen = apply(Model(BitXor().interface, TINY), whole | ends, tokens, hidden=True)[1]
    x = seen.hidden[layers]  # leaves the block before, or the last norm
    if layers < TINY.layers:
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + TINY.epsilon)
        x = x * whole["body/ln_f/scale"][None, None] + whole["body/ln_f/bias"][None, None]
    logits = x[:, -5:] @ ends["output/kernel"] + ends["output/bias"][None, None]
    np.testing.assert_allclose(apply(parameters.model_of(config), values, tokens)[0], logits,
                               atol=1e-5)


@pytest.mark.parametrize("layers", [0, -1, 3])
def test_a_body_is_not_cut_to_blocks_that_it_lacks(tiny_folder, layers):
    with pytest.raises(UserError, match=f"--layers must be from 1 to 2, the body's, not {layers}"):
        cut(tiny_folder, layers)


def test_a_cut_body_has_a_name_of_its_own(tiny_folder):
    names = {cut(tiny_folder, layers)[0].name for layers in (None, 1)}
    assert len(names) == 2


def test_a_random_body_is_cut_to_the_blocks_that_the_whole_one_begins_with(tiny_folder):
    (_, short), (_, whole) = (cut(tiny_folder, layers, load="none") for layers in (1, None))
    assert short.keys() < whole.keys()
    for name, value in short.items():
        assert np.array_equal(value, whole[name]), name


# What is loaded unless a configuration says otherwise


@pytest.mark.parametrize("settings, load", [
    ({}, "body"), ({"birth": "statistics"}, "body"), ({"redraw": "attention"}, "body"),
    ({"birth": "statistics-by-layer", "redraw": "norm@0"}, "body"),
    ({"birth": "mimetic"}, "attention"), ({"birth": "mimetic-language"}, "attention"),
    ({"birth": "mimetic", "redraw": "attention@0-1"}, "attention@0-1"),
    ({"birth": "mimetic", "redraw": "norm+attention@1"}, "attention@1-1"),
    ({"birth": "mimetic", "redraw": "norm"}, "none"),
])
def test_the_default_load_is_the_body_or_what_a_birth_in_closed_form_makes(settings, load):
    config = Config(BitXor(), "gpt2-mini", steps=1, batch=1, lr=1e-3, eval_every=1, **settings)
    assert default_load(config, BODIES["gpt2-mini"]) == load


def test_a_birth_in_closed_form_leaves_what_is_not_redrawn_at_its_usual_initialiser():
    config = Config(BitXor(), "gpt2-mini", steps=1, batch=1, lr=1e-3, eval_every=1,
                    birth="mimetic", redraw="attention@1")
    config, found = resolve(config)
    source = parameters.Source(config, found)
    assert (config.load, found) == ("attention@1-1", None)
    kernels = [f"body/h_{layer}/attn/c_attn/kernel" for layer in (0, 1)]
    usual, mimetic = (np.asarray(source.values(config, kernels)[name]) for name in kernels)
    trace = lambda kernel: np.trace(kernel[:, :256] @ kernel[:, 256:512].T)
    assert trace(mimetic) > 0.25 * 0.7 * 256 and abs(trace(usual)) < 1
    assert usual.std() == pytest.approx(0.02, rel=0.02)
