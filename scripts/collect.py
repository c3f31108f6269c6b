"""Gathers finished runs into records: `python -m scripts.collect runs --study attention`.

Studies that are files in results/studies are recorded by scripts.study instead.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fpt.arrays import digest, unpack
from fpt.errors import UserError
from fpt.files import write_whole
from scripts import pretrained, recorded, studies
from scripts.arguments import POSITIONAL, parsed
from scripts.command import run
from scripts.recorded import RECORDS


@dataclass(frozen=True)
class Options:
    """Writes results/records/STUDY.jsonl: a line for each finished run, with its configuration,
    curve and result, and what scripts.attention has found in its heads."""

    runs: tuple[Path, ...] = field(metadata=POSITIONAL)
    """Names the folders of runs, or folders that hold some, such as --out of the training
    command."""
    study: str
    """Names the study, with small letters, digits and dashes."""
    records: Path = RECORDS
    """Names the folder of the records."""


def main(arguments: list[str]) -> None:
    options = parsed(Options, arguments, "python -m scripts.collect")
    if not re.fullmatch(r"[a-z0-9-]+", options.study):
        raise UserError(f"--study takes small letters, digits and dashes, not {options.study!r}")
    if options.study in studies.names():
        raise UserError(f"the runs of {options.study} are recorded by python -m scripts.study "
                        f"{options.study}; give --study a name that results/studies does not have")
    if options.study == pretrained.STUDY:
        raise UserError(f"{pretrained.STUDY} holds the pretraining runs of all studies, which "
                        "python -m scripts.study records; give --study another name")
    found: dict[str, Path] = {}
    for folder in options.runs:
        if not folder.is_dir():
            raise UserError(f"no folder {folder}; name the folder of a run, or one that holds runs")
        for config in sorted([*folder.glob("config.json"), *folder.glob("*/config.json")]):
            if not (config.parent / "result.json").is_file():
                print(f"{config.parent} is not finished, and left out")
                continue
            other = found.setdefault(config.parent.resolve().name, config.parent)
            if other != config.parent:
                raise UserError(f"{config.parent} and {other} are the same run; name one of them")
    if not found:
        raise UserError(f"no finished run in {', '.join(map(str, options.runs))}")
    from fpt.records import summary

    runs = (summary(found[name]) | _looked_into(found[name]) for name in sorted(found))
    lines = [json.dumps(one, sort_keys=True, allow_nan=False) for one in runs]
    file = options.records / f"{options.study}.jsonl"
    write_whole(file, ("\n".join(lines) + "\n").encode())
    print(f"{file}: {len(lines)} run{'s' * (len(lines) > 1)}")


def _looked_into(folder: Path) -> dict[str, Any]:
    """Returns, as `attention`, what scripts.attention found in the heads of a run.

    Returns {} for a run that it has not measured.  Raises UserError where it has measured other
    weights than the run's.
    """
    if not (folder / recorded.ATTENTION).exists():
        return {}
    from fpt.records import TRAINABLE

    found = recorded.looked_into(folder, digest(unpack(folder / TRAINABLE)[0]))
    if found is None:
        raise UserError(f"{folder / recorded.ATTENTION} is of other weights than the run's; say "
                        f"python -m scripts.attention {folder} again")
    return {"attention": found}


if __name__ == "__main__":
    run(main)
