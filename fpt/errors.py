"""Mistakes a user can make: one line that says what is wrong, where, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake of the user's.  Commands print its one line and exit with code 2; anything else is ours and a traceback."""


def nearest(name: str, known: Iterable[str], what: str) -> UserError:
    """The error for an unknown `name`: it names the nearest of the `known` ones, or lists them all."""
    known = list(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    return UserError(f"unknown {what} {name!r}; {hint}")
