"""The LSTM computes what the released code's formulas say, forwards and backwards."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from fpt import bodies, roles
from fpt.errors import UserError
from fpt.gpt2 import BODIES as GPT2_BODIES
from fpt.initialisers import draw
from fpt.lstm import BODIES, LSTM

SMALL = LSTM(layers=2, width=24, positions=16)
EMBEDS = np.random.default_rng(0).standard_normal((3, 9, 24)).astype(np.float32)
KEY = jax.random.key(4)


def drawn(body):
    """Draws a body and moves its norms and positions, so that none is at 0 or 1."""
    noise, table = np.random.default_rng(1), body.table()
    return {name: value if table[name].role == "recurrent"
            else value + 0.3 * noise.standard_normal(value.shape).astype(np.float32)
            for name, value in draw(table, jax.random.key(2)).items()}


def run(body, parameters, embeds=EMBEDS, key=None, dtype="float32", **asked):
    """Applies a body's module to embedded tokens."""
    module = body.module(jnp.dtype(dtype))
    parameters = {"params": unflatten_dict(parameters, sep="/")}
    return jax.jit(partial(module.apply, **asked))(parameters, embeds, key)[0]


def first_states(body, key, batch=3):
    """Makes the states (h, c) that the layers of a body begin with."""
    return np.asarray(body.module(jnp.float32).apply({}, key, batch, method="begin"))


def reference(body, parameters, embeds, states, kept):
    """Computes the hidden states in torch, cell by cell, from the formulas of the released code.

    kept [L, T, B, D]: what dropout multiplies each h with.
    """
    torch = pytest.importorskip("torch")

    def norm(x, name):
        x = (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, keepdim=True) + 1e-6)
        return parameters[f"{name}/scale"] * x + parameters[f"{name}/bias"]

    def dense(x, name):
        return x @ parameters[f"{name}/kernel"] + parameters[f"{name}/bias"]

    if body.positions is not None:
        embeds = embeds + parameters["wpe"][: embeds.shape[1]]
    tokens, width = list(embeds.unbind(1)), body.width
    for layer in range(body.layers):
        place = f"layer_{layer}"
        h, c = states[layer]
        for number, x in enumerate(tokens):
            gates = (norm(dense(x, f"{place}/i2h"), f"{place}/ln_i2h")
                     + norm(dense(h, f"{place}/h2h"), f"{place}/ln_h2h"))
            i, f, o = gates[:, : 3 * width].sigmoid().split(width, dim=1)
            c = norm(f * c + i * gates[:, 3 * width :].tanh(), f"{place}/ln_cell")
            h = o * c.tanh() * kept[layer, number]
            tokens[number] = x + h if body.residual else h
    return torch.stack(tokens, 1)


CASES = [dataclasses.replace(SMALL, cell=cell, **sizes) for cell in ("published", "repaired")
         for sizes in ({"positions": None}, {"residual": True, "layers": 3})]


@pytest.mark.parametrize("body", CASES)
def test_states_and_gradients_are_those_of_the_formulas(body):
    torch = pytest.importorskip("torch")
    body = dataclasses.replace(body, dropout=0.0)
    parameters, weight = drawn(body), np.cos(np.arange(EMBEDS.size)).reshape(EMBEDS.shape)

    def ours(parameters, embeds):
        states = run(body, parameters, embeds, KEY)
        return jnp.sum(states * weight), states

    tensor = lambda value: torch.tensor(np.array(value)).requires_grad_()
    copies, embeds = {name: tensor(value) for name, value in parameters.items()}, tensor(EMBEDS)
    begin = torch.tensor(first_states(body, KEY))
    theirs = reference(body, copies, embeds, begin, torch.ones(body.layers, 9, 1, 1))
    (theirs * torch.tensor(weight)).sum().backward()

    gradients, states = jax.grad(ours, (0, 1), has_aux=True)(parameters, EMBEDS)
    np.testing.assert_allclose(states, theirs.detach(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(gradients[1], embeds.grad, rtol=1e-4, atol=1e-4)
    for name, value in gradients[0].items():
        np.testing.assert_allclose(value, copies[name].grad, rtol=1e-4, atol=1e-4, err_msg=name)


def test_dropout_passes_a_share_of_the_states_and_what_it_drops_does_not_recur():
    torch = pytest.importorskip("torch")
    body = LSTM(layers=1, width=24, cell="repaired", dropout=0.4)
    parameters = drawn(body)
    states = run(body, parameters, key=KEY)
    dropped = np.asarray(states == 0)
    assert abs(dropped.mean() - 0.4) < 0.08
    assert len({mask.tobytes() for mask in dropped.swapaxes(0, 1)}) == 9  # one for each token
    kept = torch.tensor(np.swapaxes(~dropped, 0, 1)[None] / 0.6, dtype=torch.float32)
    copies = {name: torch.tensor(value) for name, value in parameters.items()}
    theirs = reference(body, copies, torch.tensor(EMBEDS), torch.zeros(1, 2, 3, 24), kept)
    np.testing.assert_allclose(states, theirs, rtol=0, atol=1e-5)


def test_layers_drop_different_numbers():
    body = dataclasses.replace(SMALL, cell="repaired", residual=True, positions=None, dropout=0.5)
    parameters = {name: np.zeros(parameter.shape, np.float32) for name, parameter in
                  body.table().items()} | {"layer_0/ln_cell/bias": np.ones(24, np.float32),
                                           "layer_1/ln_cell/bias": np.ones(24, np.float32)}
    added = np.asarray(run(body, parameters, 0 * EMBEDS, KEY))  # each layer adds a constant or 0
    assert {round(float(value), 4) for value in np.unique(added)} == {
        0, round(math.tanh(1), 4), round(2 * math.tanh(1), 4)}


def test_a_published_body_begins_with_states_drawn_by_the_key():
    body = LSTM(layers=2, width=400)
    states = first_states(body, KEY)
    assert states.shape == (2, 2, 3, 400) and abs(states.std() * 20 - 1) < 0.05
    assert len({state.tobytes() for state in states.reshape(-1, 400)}) == 12
    assert np.array_equal(states, first_states(body, KEY))
    assert not np.any(states == first_states(body, jax.random.key(5)))


def test_a_published_body_begins_evaluation_with_one_state_for_all_examples():
    states = first_states(SMALL, None)
    assert np.array_equal(states, first_states(SMALL, None)) and states.std() > 0
    assert np.array_equal(states, np.broadcast_to(states[:, :, :1], states.shape))
    assert np.array_equal(states[:, :, :1], first_states(SMALL, None, batch=1))


def test_a_repaired_body_begins_with_states_of_zero():
    assert not first_states(dataclasses.replace(SMALL, cell="repaired"), KEY).any()


@pytest.mark.parametrize("cell", ["published", "repaired"])
def test_parameters_are_drawn_as_the_cell_says(cell):
    body = LSTM(layers=1, width=100, cell=cell, positions=8)
    limits = {"i2h": 0.1, "h2h": 0.1, "ln_i2h": 0.05, "ln_h2h": 0.05, "ln_cell": 0.1}
    for name, value in draw(body.table(), KEY).items():
        if name == "wpe":
            assert not value.any()
        elif cell == "published" or "ln" not in name:
            limit = limits[name.split("/")[1]]
            assert 0.85 * limit < value.max() <= limit and 0.85 * limit < -value.min() <= limit
        else:
            assert np.all(value == (1 if "scale" in name else 0))


@pytest.mark.parametrize("name", BODIES)
def test_the_table_has_the_shapes_of_the_module(name):
    body = bodies.named(name)
    module, embeds = body.module(jnp.float32), jnp.zeros((1, 2, body.width))
    made = flatten_dict(jax.eval_shape(module.init, KEY, embeds)["params"], sep="/")
    assert {name: value.shape for name, value in made.items()} == {
        name: parameter.shape for name, parameter in body.table().items()}


def count(body):
    """Counts the parameters of a body."""
    return sum(math.prod(parameter.shape) for parameter in body.table().values())


def test_layers_of_width_768_have_the_published_number_of_parameters():
    assert count(BODIES["lstm"]) == 3 * 4_738_560
    assert count(BODIES["lstm-residual"]) == 12 * 4_738_560 + 1024 * 768


def test_lstm_mini_has_the_width_whose_parameters_are_nearest_to_those_of_gpt2_mini():
    away = lambda width: abs(count(LSTM(width=width)) - count(GPT2_BODIES["gpt2-mini"]))
    assert BODIES["lstm-mini"] == LSTM(width=min(range(8, 1024, 8), key=away))


def test_roles_and_layers_of_parameters_are_known():
    table = BODIES["lstm-residual"].table()
    assert roles.parse("position").among(table) == ["wpe"]
    assert roles.parse("norm@11").among(table) == [
        f"layer_11/{norm}/{name}" for norm in ("ln_i2h", "ln_h2h", "ln_cell")
        for name in ("scale", "bias")]
    recurrent = roles.parse("recurrent@2").among(table)
    assert recurrent == [f"layer_2/{dense}/{name}" for dense in ("i2h", "h2h")
                         for name in ("kernel", "bias")]
    assert [name for name in recurrent if table[name].matrix] == recurrent[::2]
    assert {parameter.role for parameter in table.values()} == {"position", "norm", "recurrent"}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_the_same_after_json(name):
    assert bodies.from_stated(bodies.stated(BODIES[name])) == BODIES[name]


def test_a_token_depends_on_none_after_it():
    parameters, other = drawn(SMALL), EMBEDS.copy()
    other[:, 5] += 1
    same = np.asarray(run(SMALL, parameters) == run(SMALL, parameters, other)).all((0, 2))
    assert same.tolist() == 5 * [True] + 4 * [False]


@pytest.mark.parametrize("read", [1, 4, np.array([[0, 3], [8, 8], [2, 1]])])
def test_tokens_that_are_read_have_the_states_that_they_have_among_all(read):
    parameters = drawn(SMALL)
    states = np.asarray(run(SMALL, parameters))
    places = np.arange(9 - read, 9)[None] if isinstance(read, int) else read
    expected = np.take_along_axis(states, places[:, :, None], axis=1)
    assert np.array_equal(run(SMALL, parameters, read=read), expected)


def test_the_first_token_may_stand_at_any_position():
    parameters = drawn(SMALL)
    moved = parameters | {"wpe": np.roll(parameters["wpe"], -4, axis=0)}
    assert np.array_equal(run(SMALL, parameters, first=4), run(SMALL, moved))


def test_more_tokens_than_positions_are_an_error():
    body = dataclasses.replace(SMALL, positions=8)
    with pytest.raises(ValueError, match="9 tokens, but the body has 8 positions"):
        run(body, drawn(body))


def test_runs_of_a_stack_compute_what_each_computes_alone():
    body = dataclasses.replace(SMALL, layers=1)
    norms, keys = drawn(body), jax.random.split(KEY, 2)
    kernels = {name: norms.pop(name) for name in list(norms) if "ln" not in name}
    gradient = jax.grad(lambda norms, key: jnp.sum(run(body, norms | kernels, key=key) ** 2))
    both = {name: np.stack([value, 0.5 * value]) for name, value in norms.items()}
    stacked = jax.vmap(gradient)(both, keys)
    for number in range(2):
        alone = gradient({name: value[number] for name, value in both.items()}, keys[number])
        for name, value in alone.items():
            np.testing.assert_allclose(stacked[name][number], value, rtol=1e-4, atol=1e-5)


def test_bfloat16_products_give_nearly_the_states_and_gradients_of_float32():
    body = dataclasses.replace(SMALL, cell="repaired", dropout=0.0)
    parameters = drawn(body)

    def loss(parameters, dtype):
        return jnp.sum(jnp.sin(run(body, parameters, dtype=dtype)))

    wanted, found = (jax.value_and_grad(loss)(parameters, dtype)
                     for dtype in ("float32", "bfloat16"))
    assert found[0] != wanted[0] and abs(found[0] - wanted[0]) < 0.5
    for name, value in wanted[1].items():
        assert found[1][name].dtype == jnp.float32
        away = np.linalg.norm(found[1][name] - value) / np.linalg.norm(value)
        assert 0 < away < 0.05, (name, away)


@pytest.mark.parametrize(("sizes", "said"), [
    ({"layers": 0}, "layers must be a whole number from 1 to 1,000, not 0"),
    ({"width": 1}, "width must be a whole number from 2"),
    ({"heads": 4}, "--heads does not apply to this body, which has cell, dropout, layers"),
    ({"cell": "publishd"}, "did you mean 'published'"),
    ({"positions": 0}, "positions must be a whole number"),
    ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
])
def test_sizes_that_no_body_can_have_are_refused(sizes, said):
    with pytest.raises(UserError, match=said):
        BODIES["lstm"].resized(**sizes)


def test_a_rate_of_0_for_dropout_that_it_does_not_have_is_no_mistake():
    body = BODIES["lstm"]
    assert body.resized(attention_dropout=0.0) == body
    with pytest.raises(UserError, match="--attention-dropout does not apply to this body"):
        body.resized(attention_dropout=0.1)


def test_layers_and_width_can_be_chosen():
    assert BODIES["lstm"].resized(layers=1, width=40, heads=None) == LSTM(layers=1, width=40)
