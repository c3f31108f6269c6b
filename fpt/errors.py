"""Defines UserError, the error of one line that a user's mistake raises."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Reports a user's mistake in one line: what is wrong, where, and what to do.

    Commands print the line and exit with code 2.  Every other exception is a mistake of the code,
    and shows a traceback.
    """


class InUse(UserError):
    """Reports that another process is training a run, which may soon be there."""


def nearest(name: str, known: Iterable[str], what: str) -> UserError:
    """Makes the error for an unknown name, with the nearest known name or a list of them all."""
    known = list(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    return UserError(f"unknown {what} {name!r}; {hint}")


def refuse_unknown(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises the error of `nearest` for the first of some names that is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            raise nearest(str(name), known, what)
