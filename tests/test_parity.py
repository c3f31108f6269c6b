"""Checks that the body, its gradients and its steps are those of transformers under torch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from fpt import checkpoint, load_body, roles
from fpt.config import Config
from fpt.gpt2 import ACTIVATIONS, BODIES, GPT2
from fpt.load import LoadedBody
from fpt.model import Model, apply, table
from fpt.task import Batch, Interface
from fpt.trainer import Trainer
from tests import make_parity as parity
from tests.conftest import Stub

try:
    import torch
except ImportError:
    torch = None
live = pytest.mark.skipif(torch is None, reason="torch is not installed; the stored arrays are "
                          "compared all the same")


def stored(activation):
    return load_file(parity.FOLDER / f"{activation}.safetensors")


def ours(geometry, values, embeds):
    hidden, maps = LoadedBody(geometry, values)(jnp.asarray(embeds), maps=True)
    return {"hidden": np.asarray(hidden), "maps": np.asarray(maps)}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_hidden_states_and_maps_are_those_that_torch_made(activation):
    geometry = GPT2(**parity.SMALL, activation=activation)
    embeds = np.random.default_rng(3).standard_normal((2, 9, geometry.width), np.float32)
    found, wanted = ours(geometry, parity.weights(geometry), embeds), stored(activation)
    np.testing.assert_allclose(found["hidden"], wanted["hidden"], atol=1e-4)
    np.testing.assert_allclose(found["maps"], wanted["maps"], atol=1e-5)


@live
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_stored_arrays_are_what_torch_makes(activation):
    made, kept = parity.reference(activation), stored(activation)
    assert made.keys() == kept.keys()
    for name, value in made.items():
        np.testing.assert_allclose(value, kept[name], atol=1e-5, err_msg=name)


@live
@pytest.mark.parametrize("name", ["gpt2-mini", "gpt2"])
@pytest.mark.parametrize("activation, prefix", [*((kind, "") for kind in ACTIVATIONS),
                                                ("gelu_new", "transformer.")])
def test_a_checkpoint_of_torchs_gives_torchs_states(name, activation, prefix, tmp_path):
    geometry = dataclasses.replace(BODIES[name], activation=activation, vocabulary=3)
    values = parity.weights(geometry)
    embeds = np.random.default_rng(4).standard_normal((2, 12, geometry.width), np.float32)
    if prefix:
        from safetensors.torch import save_file

        checkpoint.write(tmp_path, geometry, {})
        state = parity.torch_body(geometry, values).state_dict()
        state = {prefix + key: value.contiguous() for key, value in state.items()}
        save_file(state, tmp_path / "model.safetensors")
    else:
        parity.torch_body(geometry, values).save_pretrained(tmp_path)
    hidden, maps = load_body(tmp_path)(jnp.asarray(embeds), maps=True)
    wanted = parity.looked_at(geometry, values, embeds)
    np.testing.assert_allclose(hidden, wanted["hidden"], atol=1e-4)
    np.testing.assert_allclose(maps, wanted["maps"], atol=1e-5)


STEPS = 8


@dataclasses.dataclass(frozen=True)
class Fixed(Stub):
    """Draws batches that are known beforehand, one for each step."""

    interface = Interface(tokens=parity.TOKENS, width=parity.WIDTH, classes=parity.CLASSES)

    def draw(self, train, key, step, batch):
        known = [parity.batch(parity.FIRST_BATCH + number) for number in range(STEPS)]
        return Batch(*(jnp.stack(parts)[step] for parts in zip(*known)))

    def encode(self, inputs):
        return inputs


def trained(clip=1.0):
    """Makes a trainer of the fpt set on those batches, without dropout.

    Gives also the parameters that are trained, and those that are frozen.
    """
    geometry = GPT2(**parity.SMALL, embedding_dropout=0, attention_dropout=0, residual_dropout=0)
    model, parameters = Model(Fixed.interface, geometry, 0), table(Fixed.interface, geometry)
    values = parity.weights(geometry) | parity.ends(geometry)
    trainable = {name: values.pop(name) for name in roles.parse("fpt").among(parameters)}
    config = Config(Fixed(), "small", steps=1, batch=parity.BATCH, lr=parity.RATE, eval_every=1,
                    clip=clip)
    return Trainer(model, config, parameters, dict.fromkeys(values), 1), trainable, values


def after(steps, trainer, trainable, frozen):
    state = trainer.begin({name: jnp.asarray(value)[None] for name, value in trainable.items()})
    condition = trainer.condition([trainer.config])
    state = trainer.advance(frozen, None, condition, state, np.int32(0), np.int32(steps))
    return {name: np.asarray(value[0]) for name, value in state.trainable.items()}


def near(found, expected, name):
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected), name


def test_gradients_and_a_clipped_step_are_torchs():
    trainer, trainable, frozen = trained()
    wanted = stored("gelu_new")
    gradient = jax.grad(trainer.loss, has_aux=True)(trainable, frozen, Batch(*parity.batch()))[0]
    stated = {name for name in wanted if name.startswith("gradient/")}
    assert {f"gradient/{name}" for name in gradient} == stated
    for name, value in gradient.items():
        near(value, wanted[f"gradient/{name}"], name)
    norm = np.sqrt(sum(np.sum(value**2) for value in gradient.values()))
    assert norm > 1  # so that the clip is at work
    for name, value in after(1, trainer, trainable, frozen).items():
        near(value, wanted[f"after/{name}"], name)
        moved, expected = value - trainable[name], wanted[f"after/{name}"] - trainable[name]
        assert np.abs(moved - expected).max() <= 2e-2 * parity.RATE, name


@live
def test_several_steps_of_which_some_are_clipped_are_torchs():
    """One step would not show the clip: Adam's first is the same however the gradient is scaled."""
    clip = 5.0
    trainer, trainable, frozen = trained(clip)
    values = trainable | frozen
    ends = {name: value for name, value in values.items() if not name.startswith("body/")}
    body = {name: value for name, value in values.items() if name not in ends}
    wanted, norms = parity.stepped(trainer.model.geometry, body, ends, STEPS, clip)
    assert min(norms) < 0.8 * clip and max(norms) > 1.5 * clip
    for name, value in after(STEPS, trainer, trainable, frozen).items():
        moved, expected = value - trainable[name], wanted[f"after/{name}"] - trainable[name]
        assert np.linalg.norm(moved - expected) <= 1e-4 * np.linalg.norm(expected), name


def symbols(length):
    return np.random.default_rng(5).integers(1, 6, (2, length)).astype(np.int32)


def test_pads_on_the_right_change_nothing_and_the_last_real_token_is_read():
    geometry, noise = GPT2(**parity.SMALL), np.random.default_rng(6)
    values = parity.weights(geometry) | parity.ends(geometry)
    values = {name: value for name, value in values.items() if not name.startswith("input")}
    values["input/embedding"] = np.float32(noise.standard_normal((6, geometry.width)))
    task = Interface(tokens=11, vocabulary=6, classes=parity.CLASSES)
    padded, bare = Model(dataclasses.replace(task, pad=0), geometry), Model(task, geometry)
    tokens = symbols(7)
    longer = np.pad(tokens, ((0, 0), (0, 4)))
    short = apply(bare, values, tokens)[0]
    np.testing.assert_allclose(apply(padded, values, longer)[0], short, atol=1e-5)
    assert not np.allclose(apply(bare, values, longer)[0], short, atol=1e-2)


def test_reading_early_equals_reading_everything():
    geometry = GPT2(**parity.SMALL)
    model = Model(dataclasses.replace(Fixed.interface, queries=2), geometry)
    values = parity.weights(geometry) | parity.ends(geometry)
    tokens, _ = parity.batch()
    early, nothing = apply(model, values, tokens)
    full, seen = apply(model, values, tokens, hidden=True, maps=True)
    np.testing.assert_allclose(early, full, atol=1e-5)
    assert nothing.hidden is None and nothing.maps is None
    assert seen.hidden.shape == (3, parity.BATCH, parity.TOKENS, 16)
    assert seen.maps.shape == (2, parity.BATCH, 2, parity.TOKENS, parity.TOKENS)
    np.testing.assert_allclose(seen.maps.sum(-1), 1, atol=1e-5)
    assert not np.triu(seen.maps, 1).any()


def test_bfloat16_is_near_float32():
    geometry = BODIES["gpt2-mini"]
    embeds = jax.random.normal(jax.random.key(0), (2, 16, geometry.width))
    exact, rounded = (load_body("gpt2-mini", random=True, dtype=dtype)(embeds)
                      for dtype in ("float32", "bfloat16"))
    assert 0 < np.abs(exact - rounded).max() < 0.05
