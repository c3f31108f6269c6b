"""Rewrites the regions of documents that follow from records; the text around them stays as it is.

    <!-- made by scripts.results: NAME -->

    what is made

    <!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from fpt.errors import UserError, nearest

BEGIN, END = "<!-- made by scripts.results: {} -->", "<!-- end -->"
REGION = re.compile(BEGIN.format("(.*)") + rf"\n(?:(?!<!-- made).*\n)*?{END}")


def rewritten(file: Path, made: Mapping[str, str]) -> str:
    """Returns the text of a document with its regions made anew, by name.

    Raises UserError for a document that is missing, that does not hold each of the regions once,
    or that holds others.
    """
    if not file.is_file():
        raise UserError(f"{file} is missing, and tables are written into it; bring it back")
    try:
        text = file.read_text()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no UTF-8 text ({error}); bring it back") from None
    there = [found[1] for found in REGION.finditer(text)]
    for name in there:
        if name not in made:
            raise nearest(name, made, f"region of {file},")
    for name in made:
        if there.count(name) != 1:
            raise UserError(f"{file} holds {there.count(name)} regions {name!r}, not one; put the "
                            f"lines {BEGIN.format(name)} and {END} where its table belongs")
    return REGION.sub(lambda found: f"{BEGIN.format(found[1])}\n\n{made[found[1]]}\n\n{END}", text)
