"""Dropout is where it is said to be, as often as it is said, and each place, layer, step and run has a mask of its own."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpt import births, parameters
from fpt.gpt2 import GPT2
from fpt.gpt2_config import read_geometry, write_geometry
from fpt.config import Config
from fpt.gpt2 import dropout
from fpt.model import Model, apply, shapes_of
from fpt.randomness import keep_mask, stream
from fpt.task import Batch, Interface
from fpt.trainer import Condition, Trainer
from tests.conftest import Stub
from tasks.bits import BitXor
from tests.conftest import Stub

EXAMPLES, TOKENS, WIDTH, HEADS = 24, 6, 32, 2
LAYERS = 2  # that are looked at; behind the last block of all, hidden states are seen through the last norm only
RATES = {"input": 0.15, "embedding": 0.25, "attention": 0.35, "residual": 0.45}  # so that no place can have another's unseen
GEOMETRY = GPT2(layers=LAYERS + 1, width=WIDTH, heads=HEADS, positions=8, embedding_dropout=RATES["embedding"],
                    attention_dropout=RATES["attention"], residual_dropout=RATES["residual"])
MODEL = Model(GEOMETRY, WIDTH, None, None, 1, 1, 2, input_dropout=RATES["input"])
BRANCHES = [(layer, branch) for branch in ("attn", "mlp") for layer in range(LAYERS)]
PLACES = {"input": "input", "embedding": "embedding", **{f"{branch} {layer}": "residual" for layer, branch in BRANCHES},
          **{f"weights {layer}": "attention" for layer in range(LAYERS)}}


@dataclasses.dataclass(frozen=True)
class Fixed(Stub):
    """One batch, the same at every step."""

    interface = Interface(tokens=TOKENS, width=WIDTH, classes=2)

    def draw(self, train, key, step, batch):
        return batch_of(batch)

    def encode(self, inputs):
        return inputs


class Symbols(Stub):
    """A task of symbols, as far as a model must know it."""

    interface = Interface(tokens=TOKENS, vocabulary=5, classes=2)


def batch_of(size):
    noise = np.random.default_rng(0)
    return Batch(noise.standard_normal((size, TOKENS, WIDTH), np.float32), noise.integers(0, 2, (size, 1)).astype(np.int32))


def weights(branch=None):
    """A model whose input layer changes nothing and whose blocks add nothing but what the named branch puts out."""
    noise = np.random.default_rng(1)
    values = {name: (name.endswith("/scale") + 0.3 * noise.standard_normal(shape)).astype(np.float32)
              for name, shape in shapes_of(MODEL, Fixed()).items()}
    values |= {"input/kernel": np.eye(WIDTH, dtype=np.float32), "input/bias": np.zeros(WIDTH, np.float32)}
    silent = [name for name in values if "/c_proj/" in name and not (branch and name.startswith(branch))]
    values |= {name: 0 * values[name] for name in silent}
    return values


@pytest.fixture(scope="module")
def look():
    """(values, tokens, key or None) -> hidden states [L + 1, B, T, D] and attention maps."""
    seen = jax.jit(lambda values, tokens, key: apply(MODEL, values, tokens, key, hidden=True, maps=True)[1])
    return lambda *given: jax.tree.map(np.asarray, seen(*given))


@pytest.fixture(scope="module")
def found(look):
    """Place -> what stands there after dropout and what would stand there without, as they show from outside."""
    key, tokens = jax.random.key(3), batch_of(EXAMPLES).inputs
    positions = weights()["body/wpe"][:TOKENS]
    entering = look(weights(), tokens, key).hidden[0]
    embedded = np.where(entering == 0, np.nan, entering * (1 - RATES["embedding"]) - positions)
    pairs = {"embedding": (entering, embedded + positions), "input": (embedded, tokens)}
    for layer, branch in BRANCHES:
        # Attention then puts out its bias, whatever its weights' own dropout does.
        values = {name: 0 * value if "/c_attn/" in name else value for name, value in weights(f"body/h_{layer}/{branch}").items()}
        hidden = look(values, tokens, key).hidden
        plain = look(values, hidden[0] - positions, None).hidden
        pairs[f"{branch} {layer}"] = hidden[layer + 1] - hidden[layer], plain[layer + 1] - plain[layer]
    for layer in range(LAYERS):
        pairs[f"weights {layer}"] = mixed_with(look, layer, key)
    return pairs


def mixed_with(look, layer, key):
    """The attention weights [B, H, T, T] that values are mixed with, and those before their dropout; NaN where not known.

    Worked out of what attention adds to the residual stream, which is a mixture of as many values as there are tokens.
    """
    block, noise = f"body/h_{layer}", np.random.default_rng(2)
    values = weights(f"{block}/attn") | {f"{block}/attn/c_proj/kernel": np.eye(WIDTH, dtype=np.float32)}
    values[f"{block}/attn/c_proj/bias"] = np.zeros(WIDTH, np.float32)
    values[f"{block}/attn/c_attn/kernel"] = noise.standard_normal((WIDTH, 3 * WIDTH)).astype(np.float32) / 8
    seen = look(values, batch_of(EXAMPLES).inputs, key)
    x = seen.hidden[layer].astype(np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + GEOMETRY.epsilon)
    x = x * values[f"{block}/ln_1/scale"] + values[f"{block}/ln_1/bias"]
    value = (x @ values[f"{block}/attn/c_attn/kernel"] + values[f"{block}/attn/c_attn/bias"])[..., 2 * WIDTH :]
    split = lambda t: t.reshape(EXAMPLES, TOKENS, HEADS, -1).transpose(0, 2, 1, 3)
    added = split(seen.hidden[layer + 1] - seen.hidden[layer])
    dropped = added == 0  # by the dropout of what attention puts out, which is behind the weights' own
    used = np.full((EXAMPLES, HEADS, TOKENS, TOKENS), np.nan)
    for example, head, query in itertools.product(range(EXAMPLES), range(HEADS), range(TOKENS)):
        left = ~dropped[example, head, query]
        if left.sum() > query + 1:  # more equations than unknowns
            mixture = added[example, head, query, left] * (1 - RATES["residual"])
            of = split(value)[example, head, : query + 1, left]
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
    model = Model(geometry, None, 5, None, 1, 1, 2, input_dropout=0.5)
    values = {name: jnp.ones(shape) for name, shape in shapes_of(model, Symbols()).items()}
    tokens = np.arange(TOKENS)[None] % 5
    embedded = jax.jit(lambda key: apply(model, values, tokens, key, hidden=True)[1].hidden[0])
    np.testing.assert_array_equal(embedded(None), embedded(jax.random.key(0)))


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_a_mask_is_false_as_often_as_it_is_asked_to_be(rate):
    masks = np.stack([keep_mask(jax.random.bits(jax.random.key(number), (2,)), (200, 500), rate) for number in range(4)])
    assert abs((~masks).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / masks.size)
    assert np.abs((~masks).mean((0, 1)) - rate).max() < 5 * np.sqrt(rate * (1 - rate) / 800)  # no column is favoured
    assert np.abs((~masks).mean((0, 2)) - rate).max() < 5 * np.sqrt(rate * (1 - rate) / 2_000)  # and no row
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
    config = Config(BitXor(), str(tiny_folder), steps=1, batch=4, lr=1e-2, eval_every=1, dropout=0.5, **stated)
    model = parameters.model_of(parameters.resolve(config)[0])
    assert model.input_dropout == 0.5 and {name: getattr(model.geometry, name) for name in stated} == stated
    for name in stated:  # where it states none, the checkpoint's
        for value, rate in ((None, 0.1), (0.0, 0.0)):
            geometry = parameters.resolve(dataclasses.replace(config, **{name: value}))[0].geometry
            assert {other: getattr(geometry, other) for other in stated} == stated | {name: rate}


def test_the_rates_of_a_checkpoint_are_read_under_gpt2s_names(tmp_path):
    stated = write_geometry(GEOMETRY) | {"embd_pdrop": 0.2, "attn_pdrop": 0.3, "resid_pdrop": 0.4}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    found = read_geometry(tmp_path / "config.json")
    assert (found.embedding_dropout, found.attention_dropout, found.residual_dropout) == (0.2, 0.3, 0.4)
    assert write_geometry(found) == stated


# In training, and not in evaluation


def trainer_of(runs=1, rate=0.3, kind=Trainer, **settings):
    """A trainer of a small model in which every place has the same rate, and the values of all its parameters."""
    rates = dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), rate)
    config = Config(Fixed(), "tiny", **dict(steps=1, batch=4, lr=1.0, eval_every=1, train="output", dropout=rate) | settings)
    model = dataclasses.replace(MODEL, geometry=dataclasses.replace(GEOMETRY, layers=1, **rates), input_dropout=rate)
    values = births.draw(shapes_of(model, Fixed()), jax.random.key(0), 1)
    trainable = {name: values.pop(name) for name in ("output/kernel", "output/bias")}
    return kind(model, config, runs, dict.fromkeys(values)), values, trainable


def test_every_step_and_every_run_of_a_stack_drops_anew_and_the_same_step_the_same():
    """At a rate of zero and on one batch, only the masks can make a loss differ."""
    trainer, frozen, trainable = trainer_of(runs=3)
    start = {name: np.stack([value] * 3) for name, value in trainable.items()}
    keys = jnp.stack([jax.random.key(seed) for seed in (0, 1, 2)])

    def loss(step, keys):
        state = trainer.begin(jax.tree.map(jnp.asarray, start))
        return np.asarray(trainer.advance(frozen, None, Condition(keys, jnp.zeros(3)), state, np.int32(step), np.int32(1)).loss)

    losses = np.stack([loss(step, keys) for step in range(4)])
    assert len(set(losses.ravel().tolist())) == losses.size
    np.testing.assert_array_equal(loss(2, keys), losses[2])
    np.testing.assert_allclose(loss(2, keys[::-1]), losses[2][::-1], rtol=1e-6)
    plain, *_ = trainer_of(rate=0.0)
    assert np.abs(losses - plain.loss(trainable, frozen, batch_of(4))[0]).min() > 1e-5


def test_each_part_of_an_accumulated_batch_has_masks_of_its_own():
    trainer, frozen, trainable = trainer_of(accumulate=2, batch=8)
    half, key = batch_of(4), jax.random.key(5)
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), half)
    alone = [trainer.loss(trainable, frozen, half, jax.random.fold_in(key, part))[0] for part in (0, 1)]
    (loss, _), _ = trainer.gradient(trainable, frozen, twice, key)
    assert abs(alone[0] - alone[1]) > 1e-4
    np.testing.assert_allclose(loss, np.mean(alone), rtol=1e-5)


def test_nothing_is_dropped_in_an_evaluation():
    (trainer, frozen, trainable), (plain, *_) = trainer_of(), trainer_of(rate=0.0)
    batch, one = batch_of(4), {name: value[None] for name, value in trainable.items()}
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
    state = trainer.begin({name: jnp.asarray(value)[None] for name, value in trainable.items()})
    state = jax.tree.map(lambda leaf: leaf[0], state)
    steps = [(seed, number) for seed in (0, 1) for number in (0, 1)]
    for seed, number in steps:
        trainer.step(frozen, None, Condition(jax.random.key(seed), 0.0), state, number)
    data = lambda keys: {tuple(jax.random.key_data(key).tolist()) for key in keys}
    others = [stream(jax.random.key(seed), name) for seed in (0, 1) for name in ("data", "layers", "body", "augmentation")]
    others += [jax.random.fold_in(key, number) for key in others for number in (0, 1)]
    assert len(data(kept)) == len(steps) and not data(kept) & data(others)
