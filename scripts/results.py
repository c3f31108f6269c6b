"""Rebuilds everything that follows from records: `python -m scripts.results`.

Tables of studies and the verdicts on claims are functions of results/records, results/studies,
results/claims.toml and results/papers.json alone, to the byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fpt.errors import UserError
from fpt.files import write_whole
from scripts import studies
from scripts.arguments import parsed
from scripts.command import run
from scripts.ledger import Ledger

RESULTS = Path(__file__).parent.parent / "results"
TRACK = "mini"  # of the verdicts


@dataclass(frozen=True)
class Options:
    """Rebuilds results/tables and results/claims.md from the records."""

    check: bool = False
    """Writes nothing; says which files are stale, and fails if any is."""
    results: Path = RESULTS
    """Names the folder that holds records/ and papers.json."""


def main(arguments: list[str]) -> None:
    options = parsed(Options, arguments, "python -m scripts.results")
    if not (options.results / "papers.json").is_file():
        raise UserError(f"no papers.json in {options.results}; name the project's folder of results "
                        "with --results")
    made = build(options.results)
    stale = [file for file, text in made.items()
             if not file.is_file() or file.read_text() != text]
    if options.check:
        if stale:
            raise UserError(f"{', '.join(map(str, stale))}: not what the records say; rebuild with "
                            "python -m scripts.results")
        print(f"all {len(made)} files are what the records say")
        return
    for file in stale:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, made[file].encode())
        print(file)
    print(f"{len(stale)} of {len(made)} files were stale")


def build(folder: Path) -> dict[Path, str]:
    """Makes the text of every file that follows from the records in a folder of results."""
    from scripts import claims, results_tables  # with scipy, which --help needs not wait for

    numbers = results_tables.papers(folder / "papers.json")
    known = {name: Ledger(folder / "records" / f"{name}.jsonl") for name in studies.names()}
    asked = {name: studies.study(name) for name in known}
    made = {folder / "tables" / f"{name}.md":
            results_tables.tables(study, TRACK, known[name], numbers)
            for name, study in asked.items()}
    stated = claims.read(folder / "claims.toml")
    found = [finding for claim in stated
             for finding in claims.findings(claim, asked[claim.study], TRACK, known[claim.study])]
    return made | {folder / "claims.md": claims.document(stated, found, TRACK)}


if __name__ == "__main__":
    run(main)
