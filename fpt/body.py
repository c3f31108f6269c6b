"""Defines the contract of a body, which maps embedded tokens [B, T, D] to hidden states [B, T, D].

A body is a frozen dataclass whose fields are its sizes.  It states its width, its positions, a
table that describes each of its parameters once, and the Flax module that computes with them.
Whoever draws, loads, counts, freezes, optimises or exports parameters reads the table; nobody
infers from a parameter's name what it is.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fpt.errors import UserError

# Gives the generator that belongs to a text: its draws depend on the seed and the text alone.
Seeded = Callable[[str], np.random.Generator]
# Draws a parameter from its name, shape and dtype.
Initialiser = Callable[[Seeded, str, tuple[int, ...], Any], np.ndarray]


@dataclass(frozen=True)
class Parameter:
    """Describes one parameter: everything that is known of it before it has a value."""

    shape: tuple[int, ...]
    role: str  # one of `roles.ROLES`
    initialiser: Initialiser
    layer: int | None = None  # number of its block, from 0; None outside the blocks
    # Whose seed draws it: the body's, so that runs trained at once may share it, or each run's own.
    owner: str = "body"
    # Whether it is a matrix of a block: held in the dtype of the products where it is frozen,
    # decayed and moved by Muon where it is trained.
    matrix: bool = False
    # Whether row t belongs to position t: a run that trains it holds the rows its inputs reach.
    by_position: bool = False
    # Whether every kind of CPU draws the same bits: QR and SVD round differently between kinds.
    exact: bool = True


Table = Mapping[str, Parameter]


class Body(ABC):
    """Describes a body.  Subclasses are frozen dataclasses with numbers and texts as fields."""

    inits: ClassVar[tuple[str, ...]] = ("original",)  # the initialisations that `table` knows
    width: int  # D
    positions: int | None  # the longest input in tokens; None for a body without positions

    @property
    def random(self) -> bool:
        """Tells whether the module may draw anything by its `key`: dropout, or a first state.

        False promises that it maps equal inputs to equal hidden states in training too.  They are
        then computed once for all steps where the output layer alone is trained.
        """
        return True

    @abstractmethod
    def table(self, init: str = "original") -> Table:
        """Describes each parameter by its name, as `init`, one of `inits`, initialises it."""

    @abstractmethod
    def module(self, dtype) -> Any:
        """Makes the Flax module whose parameters the table describes; it multiplies in `dtype`.

        Its `__call__(embeds, key=None, read=None, first=0)` maps embedded tokens [B, T, D] to a
        pair: the hidden states [B, Q, D] of the tokens that the output layer reads (in short, the
        tokens that are read), and intermediate results to look at, such as `gpt2.Seen`, or None.
        `key` draws the dropout, None for none.  `read` says which tokens are read: None for all, an
        int n for the last n, or indices [B, Q].  `first` is the position of the first token.
        """

    def resized(self, **sizes: Any) -> Body:
        """Returns the body with the given sizes; a size that is None stays as it was.

        Raises UserError for a size that the body lacks.  A dropout rate of 0 that it lacks is no
        error: it drops nothing there.
        """
        known = {field.name for field in dataclasses.fields(self)}
        sizes = {name: value for name, value in sizes.items() if value is not None}
        idle = {name for name, rate in sizes.items() if name.endswith("_dropout") and rate == 0}
        sizes = {name: value for name, value in sizes.items() if name not in idle - known}
        if missing := sorted(sizes.keys() - known):
            raise UserError(f"--{missing[0].replace('_', '-')} does not apply to this body, which "
                            f"has {', '.join(sorted(known)) or 'no sizes'}")
        return dataclasses.replace(self, **sizes)
