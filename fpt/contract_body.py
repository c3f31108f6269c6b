"""Checks that a body of a user's own keeps the contract of bodies, `fpt.body`.

A breach is a UserError of one line that names the file and the class.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from fpt.body import Body, Parameter
from fpt.contract import raised
from fpt.errors import UserError
from fpt.roles import ROLES

TOKENS = 4  # of the input that a module is traced with
OWNED = {"input", "output", "token"}  # roles that the model's own layers have


def check_body_class(kind: type[Body], file: str) -> None:
    """Checks a class, and the body of its default sizes."""
    if inspect.isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))
        raise UserError(f"{file}, {kind.__name__}: {missing} is missing; see fpt/own_body.md")
    if "__dataclass_fields__" not in vars(kind):
        raise _breach(file, kind, "is no dataclass; write @dataclass(frozen=True) above it")
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING:
            raise _breach(file, kind, f"has no default for its field {field.name}; give it one")
    check_body(_called(file, kind, "its sizes", kind), file)


def check_body(body: Body, file: str) -> None:
    """Checks a body's sizes, its table, and what its module maps embedded tokens to."""
    kind = type(body)
    positions = _called(file, kind, "positions", lambda: body.positions)
    width = _called(file, kind, "width", lambda: body.width)
    if not (isinstance(width, int) and width > 0):
        raise _breach(file, kind, f"has the width {width!r}; a whole number above 0 is wanted")
    if not (positions is None or (isinstance(positions, int) and positions > 0)):
        raise _breach(file, kind, f"has the positions {positions!r}; a whole number or None is "
                      "wanted")
    table = _called(file, kind, "table", body.table)
    for name, one in table.items():
        if not isinstance(one, Parameter) or one.role not in {*ROLES} - OWNED:
            raise _breach(file, kind, f"describes {name} by {one!r}; a fpt.body.Parameter is "
                          f"wanted whose role is one of {', '.join(sorted({*ROLES} - OWNED))}")
    tokens = min(TOKENS, positions or TOKENS)
    embeds = jax.ShapeDtypeStruct((2, tokens, width), jnp.float32)
    module = _called(file, kind, "module", lambda: body.module(jnp.float32))
    made = _called(file, kind, "its module", lambda: jax.eval_shape(
        module.init, jax.random.key(0), embeds))
    found = flatten_dict(made.get("params", {}), sep="/")
    wanted, there = ({name: tuple(one.shape) for name, one in some.items()}
                     for some in (table, found))
    if differ := sorted(name for name in wanted.keys() | there.keys()
                        if wanted.get(name) != there.get(name)):
        name = differ[0]
        raise _breach(file, kind, f"describes {name} with shape {wanted.get(name)}, and its module "
                      f"has {there.get(name)}; the two must agree")
    for read, queries in ((None, tokens), (1, 1)):
        look = lambda made: module.apply(made, jnp.zeros(embeds.shape), None, read, 0)
        out = _called(file, kind, "its module", lambda: jax.eval_shape(look, made))
        states = out[0] if isinstance(out, tuple) and len(out) == 2 else None
        if getattr(states, "shape", None) != (2, queries, width):
            raise _breach(file, kind, f"maps [2, {tokens}, {width}] with read={read} to "
                          f"{getattr(states, 'shape', type(out).__name__)}; a pair is wanted whose "
                          f"first part is [2, {queries}, {width}]")


def _called(file: str, kind: type[Body], member: str, function) -> Any:
    """Calls a function of the user's code; what it raises becomes a UserError."""
    try:
        return function()
    except UserError:
        raise
    except Exception as error:
        said = raised(error, file)
        raise UserError(f"{file}, {kind.__name__}: {member} raised {said}") from error


def _breach(file: str, kind: type[Body], said: str) -> UserError:
    return UserError(f"{file}, {kind.__name__} {said}: see fpt/own_body.md")
