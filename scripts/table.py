"""Prints the results of a study's runs as tables: `python -m scripts.table --study births`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev

from fpt.errors import UserError
from fpt.files import write_whole
from scripts import recorded, studies
from scripts.arguments import parsed
from scripts.command import run
from scripts.markdown import markdown
from scripts.recorded import Run

SHARE = 0.9  # of the way from the best floor to the best run


@dataclass(frozen=True)
class Options:
    """Prints a table for each task of a study: means over the seeds of every condition, at the
    learning rate that is best on validation for the condition's first seed."""

    study: str
    """Names a study in results/records."""
    task: str | None = None
    """Names one task of the study; None means all."""
    to: Path | None = None
    """Names a markdown file that the tables are written to; None prints them."""


def main(arguments: list[str]) -> None:
    options = parsed(Options, arguments, "python -m scripts.table")
    if options.study in studies.names():
        raise UserError(f"the tables of {options.study} are in results/tables/{options.study}.md; "
                        "python -m scripts.results makes them")
    text = tables(recorded.study(options.study, options.task))
    if options.to:
        write_whole(options.to, text.encode())
        count = text.count("### ")
        print(f"{options.to}: {count} table{'s' * (count > 1)}")
    else:
        print(text, end="")


def tables(runs: list[Run]) -> str:
    """Makes a table of each task, in markdown."""
    names = sorted({run["config"]["task"] for run in runs})
    return "\n\n".join(table(recorded.of_task(runs, name)) for name in names) + "\n"


def table(runs: list[Run]) -> str:
    """Makes the table of a task: means over seeds, with the sample standard deviation where there
    are several."""
    chosen = recorded.chosen(runs)
    name, floor = recorded.best_floor(runs[0])
    best = max(run["result"]["validation"]["accuracy"] for run in runs)
    target = floor + SHARE * (best - floor)
    parts = sorted(set.union(*(set(run["result"]["test"]["slices"]) for run in runs)))
    reached = f"No run passes that floor (the best: {best:.3f})."
    if best > floor:
        reached = (f"Steps to {target:.3f} on validation, nine tenths of the way from that floor "
                   f"to the best run ({best:.3f}): the median of the seeds that get there.")
    rows = [["condition", "rate", "seeds", "test", "sd", "steps", *parts]]
    for label, alike in chosen.items():
        test = [run["result"]["test"]["accuracy"] for run in alike]
        passed = [step for run in alike
                  if best > floor and (step := steps_to(run, target)) is not None]
        steps = f"{median(passed):,.0f}" if passed else "-"
        if 0 < len(passed) < len(alike):
            steps += f" ({len(passed)} of {len(alike)})"
        rows.append([label, f"{alike[0]['config']['lr']:g}", str(len(alike)), f"{fmean(test):.3f}",
                     f"{stdev(test):.3f}" if len(test) > 1 else "-", steps,
                     *(f"{fmean(run['result']['test']['slices'][part] for run in alike):.3f}"
                       for part in parts)])
    config, count = runs[0]["config"], len(runs)
    sizes = ", ".join(f"{key} {value}" for key, value in config["sizes"].items())
    return (f"### {config['task']}\n\n{sizes}; {config['steps']:,} steps of {config['batch']}; "
            f"{count} run{'s' * (count > 1)} in all.\nBest floor on test: {floor:.3f} ({name}). "
            f"{reached} Means and sd are over seeds; a seed also draws the parameters that are not "
            "loaded.\n\n"
            f"{markdown(rows)}")


def steps_to(run: Run, accuracy: float) -> int | None:
    """Returns the step of the first evaluation at which a run has at least this accuracy on
    validation, or None."""
    return next((line["step"] for line in run["curve"]
                 if (line["validation"]["accuracy"] or 0) >= accuracy), None)


if __name__ == "__main__":
    run(main)
