"""The frozen pretrained transformer: input layer, body, output layer, and its parameters as one flat dictionary."""

from __future__ import annotations

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from fpt.bodies import Geometry
from fpt.gpt2 import Body, Projection, dropout
from fpt.randomness import stream
from fpt.task import Task


class Model(nn.Module):
    """Tokens of a task -> logits, after Lu et al. 2021, section 2.2, and the released `fpt.py`.

    Continuous tokens pass a linear layer, orthogonal with gain 1.41 and zero bias, and dropout; symbols are embedded
    with draws from N(0, 1).  One linear layer, drawn as torch draws it, answers from the tokens that are read.
    """

    geometry: Geometry
    width: int | None
    vocabulary: int | None
    pad: int | None
    queries: int
    answers_per_query: int
    classes: int
    input_dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32
    depth_scaled: bool = False

    @nn.compact
    def __call__(self, tokens, key=None, hidden: bool = False, maps: bool = False):
        """Tokens [B, T, W] or [B, T] -> logits [B, A, C], and what was Seen on the way.

        key: draws the dropout; None for none.  hidden, maps: what Seen shall hold.
        """
        body_key = input_bits = None
        if key is not None:
            body_key, input_bits = stream(key, "body"), jax.random.bits(stream(key, "input"), (2,))
        if self.vocabulary is None:
            embeds = Projection(self.geometry.width, self.dtype, nn.initializers.orthogonal(1.41), name="input")(tokens)
            embeds = dropout(embeds, self.input_dropout, input_bits)
        else:
            embeds = nn.Embed(self.vocabulary, self.geometry.width, embedding_init=nn.initializers.normal(1),
                              name="input")(tokens)
        read = self.queries
        if self.pad is not None:
            lengths = jnp.sum(tokens != self.pad, axis=1)
            read = lengths[:, None] - self.queries + jnp.arange(self.queries)
        body = Body(self.geometry, self.dtype, self.depth_scaled, name="body")
        states, seen = body(embeds, body_key, read, hidden, maps)
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        bound = 1 / math.sqrt(self.geometry.width)
        bias = lambda key, shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)
        logits = Projection(self.answers_per_query * self.classes, self.dtype, uniform, bias, name="output")(states)
        return logits.reshape(len(logits), -1, self.classes), seen


def build(task: Task, geometry: Geometry, *, input_dropout: float = 0.1, dtype=jnp.float32, depth_scaled: bool = False) -> Model:
    """The model of a task on a body of that geometry."""
    return Model(geometry, task.width, task.vocabulary, task.pad, task.queries, task.answers_per_query, task.classes,
                 input_dropout, dtype, depth_scaled)


def apply(model: Model, parameters: dict, tokens, key=None, **asked):
    """The model on its parameters by name: see `Model.__call__`."""
    return model.apply({"params": unflatten_dict(parameters, sep="/")}, tokens, key, **asked)


def draw_ends(model: Model, task: Task, key) -> dict:
    """A fresh input and output layer, by name."""
    ends = model.clone(geometry=dataclasses.replace(model.geometry, layers=0, positions=task.tokens))
    shape = (1, task.tokens) if task.width is None else (1, task.tokens, task.width)
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32 if task.width is None else jnp.float32)
    drawn = flatten_dict(ends.lazy_init(key, tokens)["params"], sep="/")
    return {name: value for name, value in drawn.items() if not name.startswith("body/")}


def draw_body(geometry: Geometry, key, depth_scaled: bool = False) -> dict:
    """A fresh body, by name: GPT-2's own initialisation, see `Body`."""
    embeds = jax.ShapeDtypeStruct((1, 1, geometry.width), jnp.float32)
    drawn = Body(geometry, depth_scaled=depth_scaled).lazy_init(key, embeds)["params"]
    return {f"body/{name}": value for name, value in flatten_dict(drawn, sep="/").items()}
