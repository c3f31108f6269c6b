"""Fills the templates of the page of a run and of the index of runs, and shortens the paths of the
folders that these name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"


def fill(template: str, **content: Any) -> str:
    """Fills a template.  All that comes from a task or a path is escaped, and JSON is strict."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template(template).render(**content)


def shareable(folder: Path) -> str:
    """Returns a folder's name on a page that others will see: of an absolute path the last part."""
    return folder.name if folder.is_absolute() else str(folder)
