"""What each parameter is for, and sets of roles: what a run loads and what it trains.

Every parameter has exactly one role.  A set is written `input+output+position+norm`, a role may carry a range of
layers (`attention@0-5`, `norm@3`), and some sets have names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fpt.errors import UserError, nearest

# Pattern of a parameter's name -> its role. The map is total, and no two patterns meet: both are checked.
RULES = {
    r"input/(kernel|bias|embedding)": "input",
    r"output/(kernel|bias)": "output",
    r"body/wpe": "position",
    r"body/(h_\d+/ln_[12]|ln_f)/(scale|bias)": "norm",
    r"body/h_\d+/attn/(c_attn|c_proj)/(kernel|bias)": "attention",
    r"body/h_\d+/mlp/(c_fc|c_proj)/(kernel|bias)": "feedforward",
    r"token/embedding": "token",
}
ROLES = tuple(dict.fromkeys(RULES.values()))
NAMES = {
    "none": "",
    "output": "output",
    "fpt": "input+output+position+norm",
    "body": "position+norm+attention+feedforward",
    "all": "input+output+position+norm+attention+feedforward",
}


def role_of(name: str) -> str:
    """The role of the parameter of that name.  Raises ValueError where there is none, or several: a fault of ours."""
    found = {role for pattern, role in RULES.items() if re.fullmatch(pattern, name)}
    if len(found) != 1:
        raise ValueError(f"parameter {name!r} must have one role, not {sorted(found)}")
    return found.pop()


def layer_of(name: str) -> int | None:
    """The layer of the parameter of that name; None outside the blocks, `ln_f` included."""
    found = re.match(r"body/h_(\d+)/", name)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class RoleSet:
    """A parsed set.  `terms` holds (role, first layer, last layer), the layers None where no range is given."""

    text: str
    terms: tuple[tuple[str, int | None, int | None], ...]

    def __contains__(self, name: str) -> bool:
        """Whether the parameter of that name is in the set.  A range of layers holds nothing outside the blocks."""
        role, layer = role_of(name), layer_of(name)
        return any(
            role == wanted and (first is None or (layer is not None and first <= layer <= last))
            for wanted, first, last in self.terms
        )


def parse(text: str) -> RoleSet:
    """`fpt+attention@0-5` -> its RoleSet.  Raises UserError naming the part that is not understood."""
    terms = []
    for part in filter(None, text.split("+")) if text else ():
        for term in filter(None, NAMES.get(part, part).split("+")):
            role, _, layers = term.partition("@")
            if role in NAMES and "@" in term:
                raise UserError(f"{term!r}: a range of layers goes with a role, {', '.join(ROLES)}, not with a set of them")
            if role not in ROLES:
                raise nearest(role, [*NAMES, *ROLES], "role")
            found = re.fullmatch(r"(\d+)(?:-(\d+))?", layers) if layers else None
            if (layers or term.endswith("@")) and not found:
                raise UserError(f"layers of {term!r} must be written like {role}@3 or {role}@0-5")
            first, last = (int(found[1]), int(found[2] or found[1])) if found else (None, None)
            if found and first > last:
                raise UserError(f"layers of {term!r} must be written with the lower one first")
            terms.append((role, first, last))
    return RoleSet(text, tuple(dict.fromkeys(terms)))


def of(text: str) -> set[str]:
    """The roles that a set names, in whatever layers."""
    return {role for role, *_ in parse(text).terms}


def split(parameters: dict, chosen: RoleSet) -> tuple[dict, dict]:
    """Parameters by name -> those in the set, and the others.

    Raises UserError for a part of the set that is empty: a range of layers that the body does not have, say.
    """
    layers = 1 + max((layer for layer in map(layer_of, parameters) if layer is not None), default=-1)
    for term in chosen.terms:
        role, first, last = term
        if first is not None and last >= layers:
            raise UserError(f"{role}@{first}-{last} goes beyond the body's layers, 0 to {layers - 1}")
        if not any(name in RoleSet(chosen.text, (term,)) for name in parameters):
            raise UserError(f"no parameter here has the role {role}" + (" in a layer" if first is not None else ""))
    inside = {name: value for name, value in parameters.items() if name in chosen}
    return inside, {name: value for name, value in parameters.items() if name not in chosen}


def table(names: Iterable[str]) -> list[tuple[str, str]]:
    """(parameter, role) in order of name: the map that a person can read, and its golden file."""
    return [(name, role_of(name)) for name in sorted(names)]
