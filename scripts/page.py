"""Writes a page to look into a run, or an index of the runs in a folder:
`python -m scripts.page RUN`."""

from __future__ import annotations

import re
import webbrowser
from dataclasses import dataclass, field
from pathlib import Path

from fpt.errors import UserError
from fpt.files import write_whole
from scripts.arguments import POSITIONAL, parsed
from scripts.command import RunOptions, run
from scripts.options import keep_compiled


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Writes one HTML file that needs no network: the page of a finished run, or an index of the
    runs in a folder."""

    folder: Path = field(metadata=POSITIONAL)
    """Names the folder of a finished run, or a folder of such folders."""
    to: Path | None = None
    """Names the file; None means page.html in the folder of the run, or index.html in a folder of
    runs."""
    open: bool = False
    """Shows the page in the browser."""
    beside: tuple[Path, ...] = ()
    """Names the folders of other runs of the same task, of one with a random body say, to be
    compared with the run."""
    examples: tuple[int, ...] = ()
    """Gives the numbers, from 0, of the examples of the test split to show; without any, four are
    chosen, two of them answered wrong if there are such."""
    head: tuple[str, ...] = ()
    """Names heads as LAYER.HEAD, from 0, whose whole maps are kept first where a page has no room
    for all."""
    megabytes: float | None = None
    """Limits the size of the page; None means 1 for tasks of bits and 8 for others."""


def main(arguments: list[str]) -> None:
    keep_compiled()
    options = parsed(Options, arguments, "python -m scripts.page")
    if not options.folder.is_dir():
        raise UserError(f"no folder {options.folder}; name the folder of a run, as train prints "
                        "it, or one of runs")
    single = (options.folder / "config.json").is_file()
    target = options.to or options.folder / ("page.html" if single else "index.html")
    if target.is_dir():
        raise UserError(f"cannot write {target}: it is a folder; name a file with --to")
    if not target.parent.is_dir():
        raise UserError(f"cannot write {target}: there is no folder {target.parent}; make it, or "
                        "name a file elsewhere with --to")
    if single:
        write(options, target)
    else:
        if options.beside or options.examples or options.head:
            raise UserError(f"{options.folder} holds no run of its own, and an index takes no "
                            "--beside, --examples or --head; name the folder of one run")
        from scripts import page_index

        target = page_index.write(options.folder, target)
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB")
    if options.open:
        webbrowser.open(target.resolve().as_uri())


def write(options: Options, target: Path) -> None:
    """Writes the page of a run."""
    heads = tuple(head_of(text) for text in options.head)
    if options.megabytes is not None and not options.megabytes > 0:
        raise UserError(f"--megabytes must be above 0, not {options.megabytes:g}")
    from fpt.load import load_run
    from scripts import page_run

    loaded = options.load(options.folder)
    files = {"task_file": options.task_file, "body_file": options.body_file}
    twins = [load_run(folder, **files) for folder in options.beside]
    for one in (loaded, *twins):
        one.check_attention()
    asked = page_run.Asked(options.examples, heads, options.megabytes)
    write_whole(target, page_run.page(loaded, twins, options.data(loaded), asked).encode())


def head_of(text: str) -> tuple[int, int]:
    """Reads `2.5` as layer 2, head 5."""
    if not (found := re.fullmatch(r"(\d+)\.(\d+)", text)):
        raise UserError(f"--head takes a layer and a head from 0, as in 2.5, not {text!r}")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    run(main)
