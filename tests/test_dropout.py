"""Checks that dropout is where it should be, as often as it should, and that each place, layer,
step and run has a mask of its own.
"""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpt import parameters
from fpt.config import Config
from fpt.gpt2 import GPT2
from fpt.gpt2_config import read_geometry, write_geometry
from fpt.initialisers import draw
from fpt.layers import dropout
from fpt.model import Model, apply, table
from fpt.randomness import keep_mask, stream
from fpt.task import Batch, Interface
from fpt.trainer import Trainer
from tasks.bits import BitXor
from tests.conftest import Stub

EXAMPLES, TOKENS, WIDTH, HEADS = 24, 6, 32, 2
LAYERS = 2  # that are looked at; what leaves a last block is seen through the last norm only
# Different ones, so that no place can have another's unseen.
RATES = {"input": 0.15, "embedding": 0.25, "attention": 0.35, "residual": 0.45}
GEOMETRY = GPT2(
    layers=LAYERS + 1, width=WIDTH, heads=HEADS, positions=8, embedding_dropout=RATES["embedding"],
    attention_dropout=RATES["attention"], residual_dropout=RATES["residual"])
BRANCHES = [(layer, branch) for branch in ("attn", "mlp") for layer in range(LAYERS)]
PLACES = {"input": "input", "embedding": "embedding",
          **{f"{branch} {layer}": "residual" for layer, branch in BRANCHES},
          **{f"weights {layer}": "attention" for layer in range(LAYERS)}}


@dataclasses.dataclass(frozen=True)
class Fixed(Stub):
    """Draws one batch, the same at every step."""

    interface = Interface(tokens=TOKENS, width=WIDTH, classes=2)

    def draw(self, train, key, step, batch):
        return batch_of(batch)

    def encode(self, inputs):
        return inputs


MODEL = Model(Fixed.interface, GEOMETRY, RATES["input"])


def batch_of(size):
    noise = np.random.default_rng(0)
    inputs = noise.standard_normal((size, TOKENS, WIDTH), np.float32)
    return Batch(inputs, np.int32(noise.integers(0, 2, (size, 1))))


def weights(branch=None):
    """Draws a model whose input layer changes nothing.

    Its blocks add nothing but what the named branch puts out.
    """
    noise = np.random.default_rng(1)
    values = {name: np.float32(name.endswith("/scale") + 0.3 * noise.standard_normal(one.shape))
              for name, one in sorted(table(Fixed.interface, GEOMETRY).items())}
    values |= {"input/kernel": np.eye(WIDTH, dtype=np.float32),
               "input/bias": np.zeros(WIDTH, np.float32)}
    silent = [name for name in values
              if "/c_proj/" in name and not (branch and name.startswith(branch))]
    return values | {name: 0 * values[name] for name in silent}


@pytest.fixture(scope="module")
def look():
    """Maps (values, tokens, key or None) to hidden states [L + 1, B, T, D] and attention maps."""
    look = dict(hidden=True, maps=True)
    seen = jax.jit(lambda values, tokens, key: apply(MODEL, values, tokens, key, **look)[1])
    return lambda *given: jax.tree.map(np.asarray, seen(*given))


@pytest.fixture(scope="module")
def found(look):
    """Finds what stands at each place after dropout, and what would stand there without.

    Both are worked out from what shows outside of the model.
    """
    key, tokens = jax.random.key(3), batch_of(EXAMPLES).inputs
    positions = weights()["body/wpe"][:TOKENS]
    entering = look(weights(), tokens, key).hidden[0]
    embedded = np.where(entering == 0, np.nan, entering * (1 - RATES["embedding"]) - positions)
    pairs = {"embedding": (entering, embedded + positions), "input": (embedded, tokens)}
    for layer, branch in BRANCHES:
        # Attention then puts out its bias, whatever its weights' own dropout does.
        values = {name: 0 * value if "/c_attn/" in name else value
                  for name, value in weights(f"body/h_{layer}/{branch}").items()}
        hidden = look(values, tokens, key).hidden
        plain = look(values, hidden[0] - positions, None).hidden
        added = lambda states, layer=layer: states[layer + 1] - states[layer]
        pairs[f"{branch} {layer}"] = added(hidden), added(plain)
    for layer in range(LAYERS):
        pairs[f"weights {layer}"] = mixed_with(look, layer, key)
    return pairs


def mixed_with(look, layer, key):
    """Finds the weights [B, H, T, T] that attention mixes values with, and those before dropout.

    They are worked out of what attention adds to the residual stream, which is a mixture of as many
    values as there are tokens; NaN stands where they are not known.
    """
    block, noise = f"body/h_{layer}", np.random.default_rng(2)
    values = weights(f"{block}/attn")
    values[f"{block}/attn/c_proj/kernel"] = np.eye(WIDTH, dtype=np.float32)
    values[f"{block}/attn/c_proj/bias"] = np.zeros(WIDTH, np.float32)
    kernel = noise.standard_normal((WIDTH, 3 * WIDTH)).astype(np.float32) / 8
    values[f"{block}/attn/c_attn/kernel"] = kernel
    seen = look(values, batch_of(EXAMPLES).inputs, key)
    x = seen.hidden[layer].astype(np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + GEOMETRY.epsilon)
    x = x * values[f"{block}/ln_1/scale"] + values[f"{block}/ln_1/bias"]
    joint = x @ values[f"{block}/attn/c_attn/kernel"] + values[f"{block}/attn/c_attn/bias"]
    split = lambda t: t.reshape(EXAMPLES, TOKENS, HEADS, -1).transpose(0, 2, 1, 3)
    value = split(joint[..., 2 * WIDTH :])
    added = split(seen.hidden[layer + 1] - seen.hidden[layer])
    dropped = added == 0  # by the dropout behind the attention's projection
    used = np.full((EXAMPLES, HEADS, TOKENS, TOKENS), np.nan)
    for example, head, query in np.ndindex(EXAMPLES, HEADS, TOKENS):
        left = ~dropped[example, head, query]
        if left.sum() > query + 1:  # more equations than unknowns
            mixture = added[example, head, query, left] * (1 - RATES["residual"])
            of = value[example, head, : query + 1, left]
            used[example, head, query, : query + 1] = np.linalg.lstsq(of, mixture, rcond=None)[0]
    return np.where(np.abs(used) < 1e-3 * seen.maps[layer], 0, used), seen.maps[layer]


@pytest.mark.parametrize("place", PLACES)
def test_a_place_drops_the_share_that_its_rate_says_and_scales_up_the_rest(found, place):
    (after, before), rate = found[place], RATES[PLACES[place]]
    kept, dropped = np.abs(after) > 1e-6, np.abs(after) <= 1e-6
    np.testing.assert_allclose(after[kept], before[kept] / (1 - rate), rtol=2e-3, atol=1e-5)
    count = kept.sum() + dropped.sum()
    assert abs(dropped.sum() / count - rate) < 4 * np.sqrt(rate * (1 - rate) / count)


def test_no_two_places_nor_two_examples_share_a_mask(found):
    """A mask is a function of the place's number in its array, whatever the array's shape."""
    arrays = [after for after, _ in found.values()]
    pairs = [*itertools.combinations(arrays, 2), *((array[::2], array[1::2]) for array in arrays)]
    for one, other in pairs:
        size = min(one.size, other.size)
        one, other = one.ravel()[:size], other.ravel()[:size]
        known = ~np.isnan(one) & ~np.isnan(other)
        one, other = np.abs(one[known]) <= 1e-6, np.abs(other[known]) <= 1e-6
        both = one.mean() * other.mean()
        assert abs((one & other).mean() - both) <= 5 * np.sqrt(both / one.size)


def test_symbols_pass_no_dropout_of_the_input_layer():
    geometry = dataclasses.replace(GEOMETRY, layers=1, embedding_dropout=0.0)
    task = Interface(tokens=TOKENS, vocabulary=5, classes=2)
    values = {name: jnp.ones(one.shape) for name, one in table(task, geometry).items()}
    tokens, model = np.arange(TOKENS)[None] % 5, Model(task, geometry, 0.5)
    embedded = jax.jit(lambda key: apply(model, values, tokens, key, hidden=True)[1].hidden[0])
    np.testing.assert_array_equal(embedded(None), embedded(jax.random.key(0)))


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_a_mask_is_false_as_often_as_it_is_asked_to_be(rate):
    bits = [jax.random.bits(jax.random.key(number), (2,)) for number in range(4)]
    masks = np.stack([keep_mask(one, (200, 500), rate) for one in bits])
    variance = rate * (1 - rate)
    assert abs((~masks).mean() - rate) < 4 * np.sqrt(variance / masks.size)
    for axes, count in (((0, 1), 800), ((0, 2), 2_000)):  # no column is favoured, and no row
        assert np.abs((~masks).mean(axes) - rate).max() < 5 * np.sqrt(variance / count)
    for one, other in itertools.combinations(masks, 2):
        assert abs((~one & ~other).mean() - rate**2) < 5 * rate / np.sqrt(one.size)


def test_each_bit_of_the_key_makes_another_mask():
    bits, shape = np.array([5, 9], np.uint32), (100, 100)
    first = keep_mask(jnp.asarray(bits), shape, 0.5)
    for word, bit in itertools.product((0, 1), (0, 13, 31)):
        changed = bits.copy()
        changed[word] ^= np.uint32(1) << np.uint32(bit)
        assert abs(np.mean(first == keep_mask(jnp.asarray(changed), shape, 0.5)) - 0.5) < 0.03


def test_without_bits_or_with_a_rate_of_zero_nothing_is_dropped():
    x = jnp.ones((3, 4))
    assert dropout(x, 0.5, None) is x and dropout(x, 0, jnp.zeros(2, jnp.uint32)) is x


# From a configuration to its model


def test_each_rate_that_a_configuration_states_is_the_one_of_its_place(tiny_folder):
    stated = {"embedding_dropout": 0.2, "attention_dropout": 0.3, "residual_dropout": 0.4}
    config = Config(BitXor(), str(tiny_folder), steps=1, batch=4, lr=1e-2, eval_every=1,
                    dropout=0.5, **stated)
    model = parameters.model_of(parameters.resolve(config)[0])
    rates_of = lambda geometry: {name: getattr(geometry, name) for name in stated}
    assert model.input_dropout == 0.5 and rates_of(model.geometry) == stated
    for name in stated:  # where it states none, the checkpoint's
        for value, rate in ((None, 0.1), (0.0, 0.0)):
            ready, _ = parameters.resolve(dataclasses.replace(config, **{name: value}))
            assert rates_of(ready.geometry) == stated | {name: rate}


def test_the_rates_of_a_checkpoint_are_read_under_gpt2s_names(tmp_path):
    stated = write_geometry(GEOMETRY) | {"embd_pdrop": 0.2, "attn_pdrop": 0.3, "resid_pdrop": 0.4}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    found = read_geometry(tmp_path / "config.json")
    rates = found.embedding_dropout, found.attention_dropout, found.residual_dropout
    assert rates == (0.2, 0.3, 0.4) and write_geometry(found) == stated


# In training, and not in evaluation


def trainer_of(runs=1, rate=0.3, kind=Trainer, **settings):
    """Makes a trainer of a small model in which every place has the same rate.

    Gives also the values of its parameters, frozen and trainable.
    """
    rates = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), rate)
    usual = dict(steps=1, batch=4, lr=1.0, eval_every=1, train="output", dropout=rate)
    config = Config(Fixed(), "tiny", **usual | settings)
    geometry = dataclasses.replace(GEOMETRY, layers=1, **rates)
    model, parameters = Model(Fixed.interface, geometry, rate), table(Fixed.interface, geometry)
    values = draw(parameters, jax.random.key(0))
    trainable = {name: values.pop(name) for name in ("output/kernel", "output/bias")}
    return kind(model, config, parameters, dict.fromkeys(values), runs), values, trainable


def condition_of(trainer, *seeds):
    """Makes the condition of runs under these seeds."""
    return trainer.condition([dataclasses.replace(trainer.config, seed=seed) for seed in seeds])


def test_every_step_and_every_run_of_a_stack_drops_anew_and_the_same_step_the_same():
    """At a rate of zero and on one batch, only the masks can make a loss differ."""
    trainer, frozen, trainable = trainer_of(runs=3)
    start = {name: np.stack([value] * 3) for name, value in trainable.items()}

    def loss(step, *seeds):
        state = trainer.begin(jax.tree.map(jnp.asarray, start))
        condition = condition_of(trainer, *seeds)
        still = condition._replace(rates=jax.tree.map(jnp.zeros_like, condition.rates))
        state = trainer.advance(frozen, None, still, state, np.int32(step), np.int32(1))
        return np.asarray(state.loss)

    losses = np.stack([loss(step, 0, 1, 2) for step in range(4)])
    assert len(set(losses.ravel().tolist())) == losses.size
    np.testing.assert_array_equal(loss(2, 0, 1, 2), losses[2])
    np.testing.assert_allclose(loss(2, 2, 1, 0), losses[2][::-1], rtol=1e-6)
    plain, *_ = trainer_of(rate=0.0)
    assert np.abs(losses - plain.loss(trainable, frozen, batch_of(4))[0]).min() > 1e-5


def test_each_part_of_an_accumulated_batch_has_masks_of_its_own():
    trainer, frozen, trainable = trainer_of(accumulate=2, batch=8)
    half, key = batch_of(4), jax.random.key(5)
    twice = Batch(*(jnp.concatenate([part, part]) for part in half[:2]))
    alone = [trainer.loss(trainable, frozen, half, jax.random.fold_in(key, part))[0]
             for part in (0, 1)]
    (loss, _), _ = trainer.gradient(trainable, frozen, twice, key)
    assert abs(alone[0] - alone[1]) > 1e-4
    np.testing.assert_allclose(loss, np.mean(alone), rtol=1e-5)


def test_nothing_is_dropped_in_an_evaluation():
    (trainer, frozen, trainable), (plain, *_) = trainer_of(), trainer_of(rate=0.0)
    batch, one = batch_of(4)[:2], {name: value[None] for name, value in trainable.items()}
    found = trainer.answer(frozen, one, *batch)
    for again in (trainer.answer(frozen, one, *batch), plain.answer(frozen, one, *batch)):
        assert all(np.array_equal(value, other) for value, other in zip(found, again))


def test_the_key_of_a_steps_dropout_is_neither_that_of_its_data_nor_of_the_parameters():
    kept = []

    class Watched(Trainer):
        def gradient(self, trainable, frozen, batch, key):
            kept.append(key)
            return super().gradient(trainable, frozen, batch, key)

    trainer, frozen, trainable = trainer_of(kind=Watched)
    first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
    start = {name: jnp.asarray(value)[None] for name, value in trainable.items()}
    state, steps = first(trainer.begin(start)), [*np.ndindex(2, 2)]
    for seed, number in steps:
        trainer.step(frozen, None, first(condition_of(trainer, seed)), state, number)
    data = lambda keys: {tuple(jax.random.key_data(key).tolist()) for key in keys}
    names = ("data", "layers", "body", "augmentation")
    others = [stream(jax.random.key(seed), name) for seed in (0, 1) for name in names]
    others += [jax.random.fold_in(key, number) for key in others for number in (0, 1)]
    assert len(data(kept)) == len(steps) and not data(kept) & data(others)
