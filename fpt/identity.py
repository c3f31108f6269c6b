"""Defines the body `none`, a layer norm alone: the input and output layers do all the rest.

The output layer then answers from the tokens that it reads and from no other: this is the baseline
that later criticism of the paper asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn

from fpt.body import Body, Parameter, Table
from fpt.errors import UserError
from fpt.initialisers import ones, zeros
from fpt.layers import norm, pick

EPSILON = 1e-5  # of the layer norm, as in GPT-2
WIDEST = 2**17  # beyond it a width is a mistake


@dataclass(frozen=True)
class Identity(Body):
    """Describes a body that normalises each token and passes nothing from one to another."""

    width: int = 256
    positions = None
    random = False

    def __post_init__(self):
        """Raises UserError for a width that no body can have."""
        if not (isinstance(self.width, int) and 0 < self.width <= WIDEST):
            raise UserError(f"a body's width must be a whole number from 1 to {WIDEST:,}, not "
                            f"{self.width!r}")

    def table(self, init: str = "original") -> Table:
        return {"ln_f/scale": Parameter((self.width,), "norm", ones),
                "ln_f/bias": Parameter((self.width,), "norm", zeros)}

    def module(self, dtype) -> Normed:
        return Normed()


BODIES = {"none": Identity()}


class Normed(nn.Module):
    """Normalises each token: the module of the identity."""

    def setup(self):
        self.ln_f = norm(EPSILON)

    def __call__(self, embeds, key=None, read=None, first=0):
        """Maps embedded tokens to hidden states: see `Body.module`."""
        return self.ln_f(pick(embeds, read)), None
