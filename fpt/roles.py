"""Defines roles of parameters, and sets of roles: what a run loads and what it trains.

Every parameter has exactly one role, stated in its body's table.  A set of roles is written
`input+output+position+norm`, a role may carry a range of layers (`attention@0-5`, `norm@3`), and
some sets have names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fpt.body import Parameter, Table
from fpt.errors import UserError, nearest

ROLES = ("input", "output", "position", "norm", "attention", "feedforward", "recurrent", "token")
NAMES = {
    "none": "",
    "output": "output",
    "fpt": "input+output+position+norm",
    "body": "position+norm+attention+feedforward+recurrent",
    "all": "input+output+position+norm+attention+feedforward+recurrent",
}


@dataclass(frozen=True)
class RoleSet:
    """Holds a set of parameters, chosen by their roles and layers.

    A term (role, first layer, last layer) chooses the parameters of a role in these layers, both
    ends included; with None for the layers, in all layers and outside them.
    """

    text: str
    terms: tuple[tuple[str, int | None, int | None], ...]

    def holds(self, parameter: Parameter) -> bool:
        """Tells whether a parameter is in the set.  A range holds nothing outside the blocks."""
        layer = parameter.layer
        return any(
            parameter.role == role
            and (first is None or (layer is not None and first <= layer <= last))
            for role, first, last in self.terms)

    @property
    def roles(self) -> set[str]:
        """Names the roles of the set, in whatever layers."""
        return {role for role, *_ in self.terms}

    def among(self, table: Table) -> list[str]:
        """Chooses the parameters of a table that are in the set, by name.

        Raises UserError for a part of the set that holds none, a range of layers beyond the body's
        for example.  A set that has a name may name roles that the body lacks.
        """
        layers = [parameter.layer for parameter in table.values() if parameter.layer is not None]
        asked = {part.partition("@")[0] for part in self.text.split("+")} & {*ROLES}
        for term in self.terms:
            role, first, last = term
            if first is not None and last not in layers:
                raise UserError(f"{role}@{first}-{last} goes beyond the body's layers, 0 to "
                                f"{max(layers, default=-1)}")
            alone = RoleSet(self.text, (term,))
            if role in asked and not any(map(alone.holds, table.values())):
                raise UserError(f"no parameter here has the role {role}"
                                + (" in a layer" if first is not None else ""))
        return [name for name, parameter in table.items() if self.holds(parameter)]


def parse(text: str) -> RoleSet:
    """Reads a set such as `fpt+attention@0-5`.  Raises UserError naming a part it cannot read."""
    terms = []
    for part in filter(None, text.split("+")) if text else ():
        for term in filter(None, NAMES.get(part, part).split("+")):
            role, _, layers = term.partition("@")
            if role in NAMES and "@" in term:
                raise UserError(f"{term!r}: a range of layers goes with a role, "
                                f"{', '.join(ROLES)}, not with a set of them")
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


def factors(texts: Iterable[str]) -> list[tuple[RoleSet, float]]:
    """Reads factors of the learning rate such as `norm=1` or `attention@0-2=0.01`, in order.

    Raises UserError for a text that is none.
    """
    found = []
    for text in texts:
        name, _, number = text.partition("=")
        try:
            factor = float(number)
        except ValueError:
            factor = 0.0
        if not name or not 0 < factor < float("inf"):
            raise UserError(f"--rates takes a role and a positive factor, norm=0.1 for example, "
                            f"not {text!r}")
        found.append((parse(name), factor))
    return found
