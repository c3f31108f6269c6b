"""Makes folders of results from made-up records, and reads the tables and verdicts that follow."""

import json
import shutil

import pytest

from fpt import UserError
from scripts import claims, studies
from scripts.results import RESULTS, build

TASKS = ("bit-xor", "mnist")
# Accuracy of the conditions; what is not listed here was not run.
REACHED = {"frozen pretrained (FPT)": 0.95, "frozen random": 0.90, "fully trained": 0.955,
           "fine-tuned": 0.97, "no body": 0.40}
FLOOR = 0.5
FPT, RANDOM = "frozen pretrained (FPT)", "frozen random"


def made_up(config, accuracy, converged=10):
    """Makes up the record of a run, and the step by which it comes close to its best accuracy."""
    score = {"accuracy": accuracy, "loss": 1 - accuracy, "n": 100, "slices": {}}
    shares = (0.1, 0.5, 0.995, 1.0, 0.9, 0.9)
    curve = [{"step": converged * place // 2, "validation": score | {"accuracy": accuracy * share},
              "train": {"accuracy": 0.999, "loss": 0.1} if place else None}
             for place, share in enumerate(shares)]
    result = {"test": score, "validation": score, "floors": {"majority": FLOOR},
              "best_step": curve[3]["step"], "counts": {"effective": 1_234, "total": 56_789},
              "steps_per_second": 10.0, "seconds": 60.0, "runs_in_stack": 1,
              "device": "2 x x86_64"}
    return {"run": config.name, "config": json.loads(json.dumps(config.record())), "curve": curve,
            "result": result}


def recorded(reached=REACHED, tasks=TASKS, study="main", converged=lambda condition, seed: 10):
    """Makes up the records of a study, a run each line.

    reached: the accuracy of each condition, or several by rate.  converged: the step by which a
    condition's run of a seed comes close to it.
    """
    for cell in studies.study(study).cells("mini"):
        name = cell.condition.name
        if name in reached and cell.task in tasks:
            for config in dict.fromkeys([*cell.known(), *cell.counted(1e-3)]):
                # The rate of 1e-3 is best unless others are stated; seeds differ a little.
                by_rate = reached[name]
                if not isinstance(by_rate, dict):
                    by_rate = {config.lr: by_rate - 0.05 * (config.lr != 1e-3)}
                accuracy = by_rate.get(config.lr, 0.6) - 0.001 * config.seed**2
                yield made_up(config, accuracy, converged(name, config.seed))


def results(outer):
    """Makes a folder of results in another, with made-up records of the main study, and a README
    beside it."""
    folder = outer / "results"
    folder.mkdir()
    for name in ("papers.json", "claims.toml", "README.md"):
        shutil.copy(RESULTS / name, folder)
    shutil.copy(RESULTS.parent / "README.md", outer)
    write(folder, recorded())
    return folder


def write(folder, runs, study="main"):
    (folder / "records").mkdir(exist_ok=True)
    lines = [json.dumps(run, sort_keys=True) + "\n" for run in runs]
    (folder / "records" / f"{study}.jsonl").write_text("".join(lines))


def refused(file, old, new, said, read):
    """Checks that a file in which `old` is replaced by `new` is refused by one line that names it.

    read: the function that reads the file.
    """
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=said) as error:
        read()
    assert file.name in str(error.value) and "\n" not in str(error.value)


def rows(text, *beginning):
    """Lists the cells of the lines of markdown tables whose first cells are these."""
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    return [row for row in cells if row[: len(beginning)] == list(beginning)]


def stated(folder):
    """Lists the claims by number, as the table of details calls them."""
    asked = {name: studies.study(name) for name in studies.names()}
    return {str(number): claim for number, claim in
            enumerate(claims.read(folder / "claims.toml", asked, "mini"), 1)}


def details(folder, one, *other, task="mnist", **more):
    """Finds what the page of claims says of one claim on a task, in the table of details."""
    asked = {"measure": "accuracy", "rate": None, "one": one, "other": other} | more
    number, = (number for number, claim in stated(folder).items()
               if all(getattr(claim, name, None) == value for name, value in asked.items()))
    found = rows(build(folder)[folder / "claims.md"], number, task)
    return found[0][2:] if found else None


def verdict(folder, *conditions, **asked):
    """Returns the verdict on the claim that compares conditions, on a task."""
    found = details(folder, *conditions, **asked)
    return found[-1] if found else "not tested"
