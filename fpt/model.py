"""The frozen pretrained transformer: input layer, body, output layer, and its parameters as one flat dictionary."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fpt import births
from fpt.bodies import Geometry
from fpt.gpt2 import Body, Projection, dropout, product
from fpt.randomness import stream
from fpt.task import Task


class Model(nn.Module):
    """Tokens of a task -> logits, after Lu et al. 2021, section 2.2, and the released `fpt.py`.

    Continuous tokens pass a linear layer and dropout, symbols are embedded; one linear layer answers from the tokens
    that are read.  A `tied` task is a language model's: the body's token table embeds its symbols, and answers.
    What parameters begin with is said in `births`.
    """

    geometry: Geometry
    width: int | None
    vocabulary: int | None
    pad: int | None
    queries: int
    answers_per_query: int
    classes: int
    tied: bool = False
    input_dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        if self.vocabulary is None:
            self.input = Projection(self.geometry.width, self.dtype)
        elif self.tied:
            self.token = nn.Embed(self.vocabulary, self.geometry.width)
        else:
            self.input = nn.Embed(self.vocabulary, self.geometry.width)
        self.body = Body(self.geometry, self.dtype)
        if not self.tied:
            self.output = Projection(self.answers_per_query * self.classes, self.dtype)

    def __call__(self, tokens, key=None, hidden: bool = False, maps: bool = False, first=0):
        """Tokens [B, T, W] or [B, T] -> logits [B, A, C], and what was Seen on the way.

        key: draws the dropout; None for none.  hidden, maps: what Seen shall hold.  first: the first token's position.
        """
        body_key = input_bits = None
        if key is not None:
            body_key, input_bits = stream(key, "body"), jax.random.bits(stream(key, "input"), (2,))
        states, seen = self.body(self.embed(tokens, input_bits), body_key, self.read(tokens), hidden, maps, first)
        return self.answer(states), seen

    def embed(self, tokens, bits=None):
        """Tokens [B, T, W] or [B, T] -> embedded tokens [B, T, D]."""
        if self.tied:
            return self.token(tokens)
        embeds = self.input(tokens)
        return dropout(embeds, self.input_dropout, bits) if self.vocabulary is None else embeds

    def read(self, tokens):
        """Which tokens are read: the last `queries`, or, where pads follow the real tokens, their places [B, Q]."""
        if self.pad is None:
            return self.queries
        lengths = jnp.sum(tokens != self.pad, axis=1)
        return lengths[:, None] - self.queries + jnp.arange(self.queries)

    def answer(self, states):
        """Hidden states [B, Q, D] of the tokens that are read, after the last norm -> logits [B, A, C]."""
        if self.tied:
            # XLA's CPU would fold the transposition of the gradient into a bfloat16 product that it does not have.
            logits = product(states, jax.lax.optimization_barrier(self.token.embedding.T), self.dtype)
        else:
            logits = self.output(states)
        return logits.reshape(len(logits), -1, self.classes)

    def enter(self, tokens):
        """Tokens -> the residual stream [B, T, D] as it enters the first block, without dropout."""
        return self.body.place(self.embed(tokens))

    def leave(self, x):
        """The residual stream [B, Q, D] of the tokens that are read, as it leaves the last block -> logits [B, A, C]."""
        return self.answer(self.body.ln_f(x))


def build(task: Task, geometry: Geometry, *, input_dropout: float = 0.1, dtype=jnp.float32) -> Model:
    """The model of a task on a body of that geometry."""
    asked = task.interface
    return Model(geometry, asked.width, asked.vocabulary, asked.pad, asked.queries, asked.answers_per_query, asked.classes,
                 asked.tied, input_dropout, dtype)


def apply(model: Model, parameters: dict, *arguments, **asked):
    """The model on its parameters by name: see `Model.__call__`; another method of it where `method` names one."""
    return model.apply({"params": unflatten_dict(parameters, sep="/")}, *arguments, **asked)


def shapes_of(model: Model, task: Task) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by name; nothing is computed."""
    shape, width = (1, task.interface.tokens), task.interface.width
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32) if width is None else jax.ShapeDtypeStruct((*shape, width), jnp.float32)
    made = jax.eval_shape(model.init, jax.random.key(0), tokens)
    return {name: leaf.shape for name, leaf in flatten_dict(made["params"], sep="/").items()}


def body_shapes(geometry: Geometry) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a body by name."""
    embeds = jax.ShapeDtypeStruct((1, 1, geometry.width), jnp.float32)
    made = jax.eval_shape(Body(geometry).init, jax.random.key(0), embeds)
    return {f"body/{name}": leaf.shape for name, leaf in flatten_dict(made["params"], sep="/").items()}


def draw_body(geometry: Geometry, key, depth_scaled: bool = False) -> dict[str, np.ndarray]:
    """A fresh body, by name: see `births.draw`."""
    return births.draw(body_shapes(geometry), key, geometry.layers, depth_scaled)
