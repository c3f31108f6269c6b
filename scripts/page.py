"""Writes a page to look into a run, or an index of a folder of runs: `python -m scripts.page RUN`."""

from __future__ import annotations

import re
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fpt.errors import UserError
from fpt.files import data_folder, write_whole
from scripts.command import parsed, run
from scripts.options import keep_compiled


@dataclass(frozen=True)
class Options:
    """Writes one HTML file that needs no network: the page of a finished run, or an index of the runs in a folder."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of a finished run, or a folder of such folders."""
    to: Path | None = None
    """The file; None: page.html in the folder of the run, index.html in a folder of runs."""
    open: bool = False
    """Show it in the browser."""
    beside: tuple[Path, ...] = ()
    """Folders of other runs of the same task, the random twin say, to be compared with the run."""
    examples: tuple[int, ...] = ()
    """Examples of the test split by number; none: four, two of them answered wrong if there are any."""
    head: tuple[str, ...] = ()
    """Heads as LAYER.HEAD, from 0, whose whole maps are kept first where a page has no room for all."""
    megabytes: float | None = None
    """Largest size of the page; None: 1 for tasks of bits, 8 for others."""
    data_dir: Path | None = None
    """Where data lie; None: FPT_DATA."""
    body: Path | None = None
    """Where the run's body lies now; None: where it was."""
    task_file: Path | None = None
    """The file that defines the run's task, if it is one of a user's own and has not been executed here before."""


def main(arguments: list[str]) -> None:
    keep_compiled()
    options = parsed(Options, arguments, "python -m scripts.page")
    if not options.folder.is_dir():
        raise UserError(f"no folder {options.folder}; name the folder of a run, as train prints it, or one of runs")
    single = (options.folder / "config.json").is_file()
    target = options.to or options.folder / ("page.html" if single else "index.html")
    if target.is_dir() or not target.parent.is_dir():
        raise UserError(f"cannot write {target}: " + ("it is a folder; name a file" if target.is_dir() else
                        f"there is no folder {target.parent}; make it, or name a file elsewhere") + " with --to")
    if single:
        write(options, target)
    else:
        if options.beside or options.examples or options.head:
            raise UserError(f"{options.folder} holds no run of its own, and an index takes no --beside, --examples or --head; "
                            "name the folder of one run")
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
    from fpt import splits
    from fpt.load import load_run
    from scripts import page_run

    loaded = load_run(options.folder, options.body, options.task_file)
    twins = [load_run(folder, task_file=options.task_file) for folder in options.beside]
    data = loaded.task.load(data_folder(options.data_dir), lambda line: None)
    splits.check(data, loaded.result["data"], str(options.folder))
    asked = page_run.Asked(options.examples, heads, options.megabytes)
    write_whole(target, page_run.page(loaded, twins, data, asked).encode())


def head_of(text: str) -> tuple[int, int]:
    """`2.5` -> layer 2, head 5."""
    if not (found := re.fullmatch(r"(\d+)\.(\d+)", text)):
        raise UserError(f"--head takes a layer and a head from 0, as in 2.5, not {text!r}")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    run(main)
