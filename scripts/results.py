"""Rebuilds everything that follows from records: `python -m scripts.results`.

Tables of studies and the verdicts on claims are functions of results/records, results/studies,
results/claims.toml and results/papers.json alone, to the byte.  Short ones are written into
README.md and results/README.md, between comments that name them.  Figures are functions of the same
data; a file counts as up to date if it holds the digest of what it should be drawn from and of the
code that draws, as text is laid out a little differently from one version of matplotlib to the
next.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fpt.errors import UserError
from fpt.files import write_whole
from scripts import defaults, recorded, regions, studies
from scripts.arguments import parsed
from scripts.command import run
from scripts.ledger import Ledger

if TYPE_CHECKING:
    from scripts.results_figures import Figure

RESULTS = Path(__file__).parent.parent / "results"
TRACK = "mini"  # of the verdicts


@dataclass(frozen=True)
class Options:
    """Rebuilds results/tables, results/figures, results/claims.md, and the tables in README.md and
    results/README.md, from the records."""

    check: bool = False
    """Writes nothing; says which files are stale, and fails if any is."""
    results: Path = RESULTS
    """Names the folder that holds records/, papers.json and claims.toml; the studies are those of
    the project."""


def main(arguments: list[str]) -> None:
    options = parsed(Options, arguments, "python -m scripts.results")
    if not (options.results / "papers.json").is_file():
        raise UserError(f"no papers.json in {options.results}; name the project's folder of "
                        "results with --results")
    from scripts import results_figures  # with matplotlib, which --help needs not wait for

    figures = results_figures.figures(options.results, TRACK)
    made = build(options.results, [file for file, figure in figures.items() if figure]) | figures
    made |= dict.fromkeys(_left_over(options.results, made))
    stale = [file for file, content in made.items() if not _holds(file, content)]
    count = sum(content is not None for content in made.values())
    if options.check:
        if stale:
            raise UserError(f"{', '.join(map(str, stale))}: not what the records say; rebuild with "
                            "python -m scripts.results")
        print(f"all {count} files are what the records say")
        return
    for file in stale:
        content = made[file]
        if content is None:
            file.unlink()
            print(f"{file}: removed, as no record or study asks for it")
            continue
        write_whole(file, content.encode() if isinstance(content, str) else
                    content.drawn(file.suffix[1:]))
        print(file)
    print(f"{len(stale)} of {count} files were stale")


def _left_over(folder: Path, made: Collection[Path]) -> list[Path]:
    """Lists the tables and figures that were made of a study which is no longer there, or has
    another name now; what somebody put beside them is not among these.

    made: the files that are made now.
    """
    from scripts.results_figures import FORMATS, KINDS

    parts = ["tables/*.md", *(f"figures/*-{kind}.{form}" for kind in KINDS for form in FORMATS)]
    files = (file for part in parts for file in folder.glob(part))
    return sorted(file for file in files if file not in made and _ours(file))


def _ours(file: Path) -> bool:
    """Tells whether a table or figure was made here: by a line of its text, or by the digest that
    it holds of what it was drawn from."""
    from scripts.results_tables import ABSENT

    if not file.is_file():
        return False
    content, heading = file.read_bytes(), f"# {file.stem}: "
    if file.suffix == ".md":
        return content.startswith(heading.encode()) and ABSENT.encode() in content
    return b"sha256:" in content


def _holds(file: Path, content: str | Figure | None) -> bool:
    """Tells whether a file is as it should be; None stands for one that should not be there."""
    if content is None:
        return not _ours(file)
    if isinstance(content, str):
        return file.is_file() and file.read_bytes() == content.encode()
    return content.is_in(file)


def build(folder: Path, figures: Collection[Path] = ()) -> dict[Path, str | Figure | None]:
    """Makes the text of every file that follows from the records in a folder of results, and the
    figure of all claims; None stands for one that should not be there.

    figures: the files of the figures that the pages of studies show.  The README beside that folder
    and the one in it keep what stands around their tables.
    """
    # With scipy, which --help needs not wait for.
    from scripts import (
        attention_table,
        benchmark,
        benchmark_table,
        claims,
        claims_document,
        claims_verdicts,
        results_figures,
        results_tables,
        table,
    )

    numbers = results_tables.papers(folder / "papers.json")
    asked = {study.name: study for study in studies.on(TRACK)}
    known = {name: Ledger(folder / "records" / f"{name}.jsonl") for name in asked}
    made = {folder / "tables" / f"{name}.md":
            results_tables.tables(study, TRACK, known[name], numbers,
                                  results_figures.shown(study, figures))
            for name, study in asked.items()}
    for name, of_runs in (("births", table.tables), ("attention", attention_table.tables)):
        if (file := folder / "records" / f"{name}.jsonl").is_file():
            made[folder / f"{name}.md"] = of_runs(recorded.read(file))
    if (file := folder / "records" / "gpu.json").is_file():
        made[folder / "gpu.md"] = benchmark_table.page(benchmark.read(file))
    stated = claims.read(folder / "claims.toml", asked, TRACK)
    judged = claims_verdicts.judge(stated, asked, TRACK, known)
    of_claims = results_figures.of_claims(folder, stated, judged)
    made |= of_claims
    made[folder / "claims.md"] = claims_document.document(
        stated, judged, TRACK, drawn=any(of_claims.values()))
    readme, guide = folder.parent / "README.md", folder / "README.md"
    made[readme] = regions.rewritten(readme, {
        "claims": claims_document.short(stated, judged),
        "defaults": defaults.table(defaults.read(folder / "records"))})
    made[guide] = regions.rewritten(guide, {
        "studies": results_tables.overview(asked, TRACK, known)})
    return made


if __name__ == "__main__":
    run(main)
