"""The body `none` normalises tokens and passes nothing from one to another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from fpt import bodies
from fpt.errors import UserError
from fpt.identity import BODIES, Identity
from fpt.initialisers import draw

EMBEDS = 0.01 * np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)


def test_hidden_states_are_the_tokens_that_are_read_normalised():
    module, parameters = Identity(8).module(jnp.float32), draw(Identity(8).table(), jax.random.key(0))
    variables = {"params": unflatten_dict(parameters, sep="/")}
    states, seen = module.apply(variables, EMBEDS, jax.random.key(1), read=2)
    tokens = EMBEDS[:, -2:].astype(np.float64)
    wanted = tokens - tokens.mean(-1, keepdims=True)
    wanted /= np.sqrt(tokens.var(-1, keepdims=True) + 1e-5)
    assert seen is None
    np.testing.assert_allclose(states, wanted, atol=1e-5)


def test_the_table_has_the_parameters_of_one_layer_norm():
    table = BODIES["none"].table()
    module, embeds = BODIES["none"].module(jnp.float32), jnp.zeros((1, 2, 256))
    made = flatten_dict(jax.eval_shape(module.init, jax.random.key(0), embeds)["params"], sep="/")
    assert {name: one.shape for name, one in table.items()} == {
        name: one.shape for name, one in made.items()} == {"ln_f/scale": (256,), "ln_f/bias": (256,)}
    assert {(one.role, one.layer) for one in table.values()} == {("norm", None)}


def test_the_identity_takes_any_number_of_tokens_and_any_width():
    assert bodies.named("none").positions is None
    wider = bodies.named("none").resized(width=40)
    assert wider == Identity(40) == bodies.from_stated(bodies.stated(wider))


@pytest.mark.parametrize("width", [0, 2.5, 2**17 + 1])
def test_a_width_that_no_body_can_have_is_refused(width):
    with pytest.raises(UserError, match="width must be a whole number from 1 to 131,072, not"):
        Identity(width)
