"""Defines the frozen pretrained transformer: input layer, body and output layer as one model.

Its parameters are one flat dictionary, name to array; those of the body begin with `body/`.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from fpt.body import Body, Parameter, Table
from fpt.initialisers import draw, normal, orthogonal, uniform, zeros
from fpt.layers import Projection, dropout, product
from fpt.randomness import stream
from fpt.task import Interface

BODY = "body/"  # begins the names of the body's parameters
GAIN = 1.41  # of the orthogonal input layer, in the released code
DEVIATION = 0.02  # of a token table


class Model(nn.Module):
    """Maps tokens of a task to logits (Lu et al. 2021, section 2.2, and the released `fpt.py`).

    Continuous tokens pass a linear layer and dropout, symbols are embedded; one linear layer
    answers from the tokens that are read.  Where the task's head is tied, the body's token table
    embeds the symbols and answers, as in a language model.
    """

    interface: Interface
    geometry: Body
    input_dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        task, width = self.interface, self.geometry.width
        if task.tied:
            self.token = nn.Embed(task.vocabulary, width)
        elif task.vocabulary is None:
            self.input = Projection(width, self.dtype)
        else:
            self.input = nn.Embed(task.vocabulary, width)
        self.body = self.geometry.module(self.dtype)
        if not task.tied:
            self.output = Projection(task.answers_per_query * task.classes, self.dtype)

    def __call__(self, tokens, key=None, first=0, **look):
        """Maps tokens [B, T, W] or [B, T] to logits [B, A, C] and the body's second result.

        key: draws the dropout; None for none.  first: the position of the first token.  look: the
        options `hidden` and `maps` of `gpt2.Stack`, which fill the second result.
        """
        body_key = input_bits = None
        if key is not None:
            body_key = stream(key, "body")
            input_bits = jax.random.bits(stream(key, "input"), (2,))
        embeds = self.embed(tokens, input_bits)
        states, seen = self.body(embeds, body_key, self.read(tokens), first, **look)
        return self.answer(states), seen

    def states(self, tokens):
        """Maps tokens [B, T, W] or [B, T] to hidden states [B, Q, D] of those that are read.

        Nothing is dropped: they are what `answer` gets in evaluation, and in a training that drops
        nothing.
        """
        return self.body(self.embed(tokens), None, self.read(tokens))[0]

    def embed(self, tokens, bits=None):
        """Maps tokens [B, T, W] or [B, T] to embedded tokens [B, T, D]."""
        if self.interface.tied:
            return self.token(tokens)
        embeds = self.input(tokens)
        if self.interface.vocabulary is not None:
            return embeds
        return dropout(embeds, self.input_dropout, bits)

    def read(self, tokens):
        """Chooses the tokens that are read, the last but for pads: the int Q, or indices [B, Q]."""
        queries, pad = self.interface.queries, self.interface.pad
        if pad is None:
            return queries
        lengths = jnp.sum(tokens != pad, axis=1)
        return lengths[:, None] - queries + jnp.arange(queries)[None]

    def answer(self, states):
        """Maps hidden states [B, Q, D] of the tokens that are read to logits [B, A, C]."""
        if self.interface.tied:
            # XLA's CPU would fold the transposition of the gradient into a bfloat16 product that it
            # does not have.
            table = jax.lax.optimization_barrier(self.token.embedding.T)
            logits = product(states, table, self.dtype)
        else:
            logits = self.output(states)
        return logits.reshape(len(logits), -1, self.interface.classes)

    def enter(self, tokens):
        """Computes the residual stream [B, T, D] as it enters a GPT-2 body's first block."""
        return self.body.place(self.embed(tokens))

    def leave(self, x):
        """Maps the stream [B, Q, D] that leaves a GPT-2 body's last block to logits [B, A, C]."""
        return self.answer(self.body.ln_f(x))


def table(task: Interface, body: Body, init: str = "original") -> Table:
    """Describes every parameter of the model of a task on a body, by name.

    Input layer: orthogonal with gain 1.41 and zero bias; N(0, 1) for symbols.  Output layer: as
    torch draws a linear layer, uniformly within 1 / sqrt(width).
    """
    width, outputs = body.width, task.answers_per_query * task.classes
    found = body_table(body, init)
    if task.tied:
        shape = (task.vocabulary, width)
        found["token/embedding"] = Parameter(shape, "token", normal(DEVIATION), owner="run")
        return found
    if task.vocabulary is None:
        kernel = Parameter((task.width, width), "input", orthogonal(GAIN), owner="run", exact=False)
        bias = Parameter((width,), "input", zeros, owner="run")
        found |= {"input/kernel": kernel, "input/bias": bias}
    else:
        shape = (task.vocabulary, width)
        found["input/embedding"] = Parameter(shape, "input", normal(1), owner="run")
    for name, shape in (("output/kernel", (width, outputs)), ("output/bias", (outputs,))):
        found[name] = Parameter(shape, "output", uniform(width), owner="run")
    return found


def body_table(body: Body, init: str = "original") -> dict[str, Parameter]:
    """Describes every parameter of a body by the name that it has in a model."""
    return {BODY + name: parameter for name, parameter in body.table(init).items()}


def draw_body(body: Body, key) -> dict[str, np.ndarray]:
    """Draws a fresh body, by the names that its parameters have in a model."""
    return draw(body_table(body), key)


def apply(model: Model, parameters: dict, *arguments, **asked):
    """Calls a model on its parameters by name: see `Model.__call__`.

    `method` names another of its methods.
    """
    return model.apply({"params": unflatten_dict(parameters, sep="/")}, *arguments, **asked)
