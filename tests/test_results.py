"""Tables and verdicts follow from the records alone, and say nothing where there are none."""

import json
import math
import re
import shutil

import pytest

from fpt import UserError
from scripts import claims, studies
from scripts.ledger import Ledger
from scripts.recorded import converged_at
from scripts.results import RESULTS, build, main
from tests import recording

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


@pytest.fixture
def folder(tmp_path):
    """Makes a folder of results with made-up records of the main study, and a README beside it."""
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("papers.json", "claims.toml", "README.md"):
        shutil.copy(RESULTS / name, folder)
    shutil.copy(RESULTS.parent / "README.md", tmp_path)
    write(folder, recorded())
    return folder


def write(folder, runs, study="main"):
    (folder / "records").mkdir(exist_ok=True)
    lines = [json.dumps(run, sort_keys=True) + "\n" for run in runs]
    (folder / "records" / f"{study}.jsonl").write_text("".join(lines))


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


def test_what_the_project_shows_is_what_its_records_say():
    main(["--check"])


def test_the_page_of_claims_states_what_is_compared_and_in_which_direction(folder):
    page = re.sub(" +", " ", build(folder)[folder / "claims.md"])
    for compared in (f"{FPT}; {RANDOM}", "frozen pretrained; unfrozen pretrained; both at 0.001",
                     "statistics only; the mean of pretrained, random",
                     f"{RANDOM}; the best trivial predictor", "bodies by their copying gain"):
        assert f"| {compared} |" in page


def test_building_twice_gives_the_same_bytes_and_check_sees_a_change(folder, capsys):
    main(["--results", str(folder)])
    first = {file: file.read_bytes() for file in build(folder)}
    main(["--results", str(folder)])
    assert "0 of" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in build(folder)} == first
    main(["--check", "--results", str(folder)])
    (folder / "claims.md").write_text("all is well\n")
    with pytest.raises(UserError, match=r"claims\.md: not what the records say"):
        main(["--check", "--results", str(folder)])


def test_a_cell_is_the_mean_of_the_seeds_that_count_with_its_interval(folder):
    table = build(folder)[folder / "tables" / "main.md"]
    # Seeds 1 to 5 fall short by 0.001 times 1, 4, 9, 16, 25: mean 0.011, deviation 0.00967.
    half = 2.7764 * 0.0096695 / math.sqrt(5)
    row, = [row for row in rows(table, FPT) if len(row) == 6]
    assert row[2] == f"{0.95 - 0.011:.3f} ±{half:.3f}" and row[1] == "-"
    detail, = [row for row in rows(table, FPT, "0.001") if "1.000 [notes:T1]" in row]
    assert detail[2:6] == ["5", row[2], "0.999", "10"] and "1,234" in detail and "56,789" in detail


def test_the_table_states_accuracy_on_training_batches(folder):
    table = build(folder)[folder / "tables" / "main.md"]
    head, = {tuple(row) for row in rows(table, "condition", "rate")}
    detail, = [row for row in rows(table, FPT, "0.001") if "1.000 [notes:T1]" in row]
    assert detail[head.index("training")] == "0.999"


def test_a_table_names_the_devices_and_hours_are_those_of_cpus(folder):
    runs = list(recorded())
    gpu = next(run for run in runs if run["config"]["seed"] == 1)
    gpu["result"]["device"] = "NVIDIA H200"
    write(folder, runs)
    made = build(folder)[folder / "tables" / "main.md"]
    assert made.count("Trained on 2 x x86_64 or NVIDIA H200.") == 1
    assert made.count("Trained on 2 x x86_64.") == len(TASKS) - 1
    timed = Ledger(folder / "records" / "main.jsonl").timed
    assert len(timed) == len(runs) - 1 and gpu["run"] not in {run["run"] for run in timed}


def test_a_run_that_was_still_improving_is_marked(folder):
    runs = list(recorded())
    for run in runs:
        if run["config"]["load"] == "none" and run["config"]["train"] == "fpt":
            run["result"]["best_step"] = 20  # of 25
    write(folder, runs)
    table = build(folder)[folder / "tables" / "main.md"]
    summary = next(row for row in rows(table, RANDOM) if len(row) == 6)
    assert summary[2].endswith("*")


def test_without_one_record_its_cell_loses_a_seed_and_its_claims_their_verdict(folder):
    before = build(folder)
    runs = list(recorded())
    gone = next(run for run in runs if run["config"]["task"] == "mnist"
                and run["config"]["load"] == "body" and run["config"]["train"] == "fpt"
                and run["config"]["seed"] == 3)
    write(folder, [run for run in runs if run is not gone])
    after = build(folder)
    before, after = (rows(text[folder / "tables" / "main.md"]) for text in (before, after))
    rule = lambda row: not row[0].strip("-")  # of a table: as wide as its cells
    changed = [new for old, new in zip(before, after) if old != new and not rule(new)]
    assert len(changed) == 2 and all(row[0] == FPT for row in changed)
    assert "(n 4)" in changed[0][4] and changed[1][2] == "4"
    assert verdict(folder, FPT, RANDOM) == "not tested"
    assert verdict(folder, FPT, RANDOM, task="bit-xor") == "supported"


def test_without_a_run_that_chooses_the_rate_its_cell_is_a_dash(folder):
    write(folder, [run for run in recorded() if run["config"]["load"] != "body"
                   or run["config"]["seed"] or run["config"]["task"] != "mnist"])
    row, = [row for row in rows(build(folder)[folder / "tables" / "main.md"], FPT)
            if len(row) == 6]
    assert row[2] != "-" and row[4] == "-"


def test_verdicts_follow_the_numbers_and_flip_when_records_are_swapped(folder):
    assert verdict(folder, FPT, RANDOM) == "supported"
    assert verdict(folder, FPT, "fully trained") == "supported"  # 0.005 behind, of 0.02
    assert verdict(folder, FPT, "no body") == "supported"
    assert verdict(folder, RANDOM, "floor") == "supported"
    assert verdict(folder, FPT, "LSTM") == "not tested"
    swapped = REACHED | {FPT: REACHED[RANDOM], RANDOM: REACHED[FPT]}
    write(folder, recorded(swapped))
    assert verdict(folder, FPT, RANDOM) == "contradicted"
    assert verdict(folder, FPT, "fully trained") == "contradicted"  # 0.055 behind


def test_a_difference_within_the_noise_is_undecided(folder):
    runs = list(recorded(REACHED | {FPT: REACHED[RANDOM]}))
    for run in runs:
        if run["config"]["load"] == "body":
            run["result"]["test"]["accuracy"] += 0.02 * (-1) ** run["config"]["seed"]
    write(folder, runs)
    assert verdict(folder, FPT, RANDOM) == "undecided"


def test_bodies_that_all_fail_say_nothing(folder):
    write(folder, recorded({FPT: 0.45, RANDOM: 0.40}))
    assert verdict(folder, FPT, RANDOM) == "undecided (none passes the floor)"
    assert verdict(folder, RANDOM, "floor") == "contradicted"


def test_a_number_of_the_papers_changes_its_cells_and_nothing_else(folder):
    before = build(folder)
    stated = json.loads((folder / "papers.json").read_text())
    number = next(one for one in stated["numbers"] if one["section"] == "3.1"
                  and one["task"] == "mnist" and one["condition"].startswith("FPT"))
    number["value"] = 12.3
    (folder / "papers.json").write_text(json.dumps(stated))
    after = build(folder)
    assert before.keys() == after.keys()
    figures = {file for file in before if file.suffix != ".md"}
    assert figures and all(before[file] == after[file] for file in figures)
    changed = [(old, new) for file in before.keys() - figures
               for old, new in zip(before[file].splitlines(), after[file].splitlines())
               if old != new]
    (old, new), = changed
    assert old.replace("0.980", "0.123") == new


@pytest.mark.parametrize("spoil, said", [
    (lambda lines: [*lines, lines[0]], "a second time"),
    (lambda lines: [lines[0][:100], *lines[1:]], "line 1"),
    (lambda lines: ['{"run": "x"}', *lines], "line 1"),
    (lambda lines: ["[]", *lines], "line 1")])
def test_a_record_that_is_doubled_cut_or_foreign_is_refused_by_name(folder, spoil, said):
    file = folder / "records" / "main.jsonl"
    file.write_text("\n".join(spoil(file.read_text().splitlines())) + "\n")
    with pytest.raises(UserError, match=said) as refused:
        build(folder)
    assert "main.jsonl" in str(refused.value)


@pytest.mark.parametrize("old, new, said", [
    ('one = "fine-tuned"', 'one = "fine-tunde"', "did you mean 'fine-tuned'"),
    ("[[claims]]", "[claims", "states no claims"), ("margin", "slack", "slack"),
    ("margin = 0.02", "margin = nan", "margin = nan must be an accuracy"),
    ("tasks = [", "tasks = [] # [", "names none"),
    ('source = "Tan', 'source = 2024 # "Tan', r"claim \d+ .*source = 2024 must be a text"),
    ('measure = "steps"', 'measure = "steps"\nmargin = 0.02', "a margin, which is one of accuracy"),
    ("sentence = ", "sentense = ", "claim 1 of .*'sentence'"),
    ("margin = 0.02", 'margin = "little"', "could not convert"),
    ('study = "dispute"', 'study = "dispite"', r"claim \d+ of .* 'dispite'; did you mean 'dispute'"),
    ('measure = "steps"', 'measure = "step"', "did you mean 'steps'"),
    ('tasks = ["listops"]', 'tasks = ["listop"]', "did you mean 'listops'"),
    ("rate = 1e-3", "rate = 3e-3", r"the rate 0\.003, which dispute does not fix .*0\.0001, 0\.001"),
    ('other = "floor"', 'other = "floor"\nmeasure = "steps"', "steps with the floor.s, which is not trained"),
    ('other = "frozen random"', f'other = "{FPT}"', "with itself"),
    ('other = ["pretrained", "random"]', "other = []", "with 0 conditions"),
    ('other = ["pretrained", "random"]', 'other = ["pretrained", "random", "floor"]',
     "with 3 conditions")])
def test_a_mistake_among_the_claims_is_one_line(folder, old, new, said):
    file = folder / "claims.toml"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=said) as refused:
        stated(folder)
    assert "claims.toml" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("old, new, said", [
    ('"numbers": [', '"numbers": {', "JSONDecodeError"),
    ('"value": 68.2', '"value": NaN', "needs a number as value"), ('"value": 68.2', '"value": "68"', "needs a number as value"),
    ('"task": "cifar10"', '"job": "cifar10"', "KeyError: 'task'"),
    ("Random frozen small 12L", "FPT small 12L", "is stated as 68.2 and 61.7")])
def test_a_mistake_among_the_papers_numbers_is_one_line(folder, old, new, said):
    file = folder / "papers.json"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=said) as refused:
        build(folder)
    assert "papers.json" in str(refused.value) and "\n" not in str(refused.value)


def test_a_folder_that_holds_no_results_is_refused(tmp_path):
    with pytest.raises(UserError, match="name the project's folder of results"):
        main(["--results", str(tmp_path)])


def test_a_study_without_records_has_dashes_alone(folder):
    write(folder, [])
    table = build(folder)[folder / "tables" / "main.md"]
    row, = [row for row in rows(table, FPT) if len(row) == 6]
    assert row[1:] == ["-"] * 5
    assert not Ledger(folder / "records" / "main.jsonl").recorded


def test_claims_without_records_are_not_tested_and_counted_in_one_line(folder):
    write(folder, [])
    page = build(folder)[folder / "claims.md"]
    asked = [row for row in rows(page) if row[0].partition(".")[0] in stated(folder)]
    assert len(asked) == len(stated(folder)) and {row[-1] for row in asked} == {"not tested"}
    assert re.search(r"Of (\d+) tests, \1 are not in this table", page)


def test_a_claim_at_a_rate_compares_the_runs_at_that_rate(folder):
    frozen, unfrozen = "frozen pretrained", "unfrozen pretrained"
    reached = {frozen: {1e-4: 0.80, 1e-3: 0.90, 3e-3: 0.95},
               unfrozen: {1e-5: 0.99, 1e-4: 0.85, 1e-3: 0.70}}
    write(folder, recorded(reached, study="dispute"), "dispute")
    assert details(folder, frozen, unfrozen, rate=1e-3)[0] == "+0.200"
    assert details(folder, unfrozen, frozen, rate=1e-4)[0] == "+0.050"
    assert verdict(folder, unfrozen, frozen, rate=1e-4) == "supported"
    # The best rates, 3e-3 and 1e-5, are not fixed: without a rate, their runs are asked for.
    assert details(folder, unfrozen, frozen) is None


def test_more_than_half_of_a_gain_is_judged_by_the_mean_of_each_seed(folder):
    kept, both = "statistics only", ("pretrained", "random")

    def write_runs(accuracy, pretrained=0.95):
        runs = list(recorded({kept: accuracy, "pretrained": pretrained, "random": 0.85},
                             study="statistics"))
        for run in runs:  # the conditions of a mean vary against each other, their mean does not
            sign = {"weights": 1, "statistics": 0}[run["config"]["birth"]]
            sign = -1 if run["config"]["load"] == "none" else sign
            run["result"]["test"]["accuracy"] += 0.02 * sign * (-1) ** run["config"]["seed"]
        write(folder, runs, "statistics")

    write_runs(0.91)
    assert details(folder, kept, *both)[:2] == ["+0.010", "+0.010 to +0.010"]
    assert verdict(folder, kept, *both) == "supported"
    write_runs(0.89)
    assert verdict(folder, kept, *both) == "contradicted"
    write_runs(0.91, pretrained=0.88)  # by 0.03 on average, but its interval begins below 0
    assert details(folder, kept, *both)[-1] == "undecided (no gain of pretrained)"


def test_a_claim_about_speed_compares_logarithms_of_steps(folder):
    steps = {1: 20, 2: 20, 3: 40, 4: 40, 5: 20}
    write(folder, recorded(converged=lambda name, seed: steps.get(seed, 10) if name == RANDOM
                           else 10))
    # Twice as fast for seeds 1, 2 and 5, four times for 3 and 4: base-2 logarithms 1, 1, 1, 2, 2,
    # of mean 1.4 and deviation 0.548.  Half an interval is 2.776 * 0.548 / sqrt(5) = 0.68; t is
    # 5.72, p 0.0046, and twice that by Holm, as the other task has the same; others have p = 0.
    assert details(folder, FPT, RANDOM, measure="steps") == [
        f"x{2 ** 1.4:.1f} faster", f"x{2 ** 0.72:.1f} faster to x{2 ** 2.08:.1f} faster", "5",
        "0.009", "supported"]
    table = build(folder)[folder / "tables" / "main.md"]
    assert [row[5] for row in rows(table, RANDOM, "0.001")] == ["20", "20"]  # medians
    write(folder, recorded(converged=lambda name, seed: 25 if name == FPT else 10))
    found = details(folder, FPT, RANDOM, measure="steps")
    assert found[0] == "x2.5 slower" and found[-1] == "contradicted"


def test_a_body_that_learns_nothing_is_not_called_fast(folder):
    write(folder, recorded({FPT: 0.45, RANDOM: 0.9},
                           converged=lambda name, seed: 10 if name == FPT else 40))
    found = details(folder, FPT, RANDOM, measure="steps")
    assert found[0] == "x4.0 faster" and found[-1] == "undecided (not all pass the floor)"


def test_a_claim_about_overfitting_compares_accuracy_in_training_with_that_on_test(folder):
    small = "fully trained, 2 layers"
    runs = list(recorded({FPT: 0.95, small: 0.75}, ("cifar10",), study="fit"))
    write(folder, runs, "fit")
    # All have 0.999 in training, so that what is lost on test is what is overfitted.
    asked = {"measure": "overfitting", "task": "cifar10"}
    found = details(folder, small, FPT, **asked)
    assert found[0] == "+0.200" and found[-1] == "supported"
    untrained = [run for run in runs if run["config"]["train"] == "all"]
    for run in untrained:  # whose best evaluation is the one before the first step
        run["result"]["best_step"] = 0
    write(folder, runs, "fit")
    # These overfit nothing; FPT has 0.999 in training and 0.95 - 0.011 on test, in the mean.
    assert details(folder, small, FPT, **asked)[0] == "-0.060"


@pytest.mark.parametrize("accuracies, step", [
    ((0.5, 0.7, 0.89, 0.9), 20),  # 0.89 is no more than 0.01 below the best
    ((0.5, 0.7, 0.88, 0.9), 30),
    ((0.9, 0.5, 0.4), 10)])  # evaluation before training does not count
def test_a_run_has_converged_at_the_first_evaluation_near_its_best(accuracies, step):
    assert converged_at(recording.run(accuracies)) == step


def test_tables_of_documents_are_written_between_their_comments_alone(folder):
    readme = folder.parent / "README.md"
    text = readme.read_text().replace("In 2021", "Once upon a time")
    readme.write_text(text)
    made = build(folder)[readme]
    assert "Once upon a time" in made
    row, = rows(made, "1", next(iter(stated(folder).values())).sentence)
    assert row[-1] == "supported (bit-xor, mnist)"
    without = lambda text: re.sub(r"(made by .*? -->).*?(<!-- end)", r"\1\2", text, flags=re.S)
    assert without(made) == without(text)
    guide = folder / "README.md"
    row, = rows(build(folder)[guide], "[`main`](studies/main.toml)")
    total = sum(len(dict.fromkeys([*cell.known(), *cell.counted(1e-3)]))
                for cell in studies.study("main").cells("mini"))
    assert row[3] == f"[{len(list(recorded()))} of {total}](tables/main.md)"


@pytest.mark.parametrize("name", ["README.md", "results/README.md"])
def test_a_table_of_a_document_that_was_changed_is_stale(folder, name):
    main(["--results", str(folder)])
    file = folder.parent / name
    file.write_text(file.read_text().replace("| claim", "| clam").replace("| study ", "| sturdy "))
    with pytest.raises(UserError, match=f"{name}: not what the records say"):
        main(["--check", "--results", str(folder)])
    main(["--results", str(folder)])
    main(["--check", "--results", str(folder)])


CLAIMS = "<!-- made by scripts.results: claims -->"


@pytest.mark.parametrize("spoil, said", [
    (lambda text: text.replace(CLAIMS, ""), "holds 0 regions 'claims', not one; put the lines"),
    (lambda text: text + f"{CLAIMS}\n<!-- end -->\n", "holds 2 regions 'claims'"),
    (lambda text: text.replace("<!-- end -->", "", 1), "holds 0 regions 'claims'"),
    (lambda text: text.replace("results: claims", "results: clams"), "did you mean 'claims'"),
    (None, "README.md is missing")])
def test_a_document_without_its_comments_is_refused_in_one_line(folder, spoil, said):
    readme = folder.parent / "README.md"
    if spoil:
        readme.write_text(spoil(readme.read_text()))
    else:
        readme.unlink()
    with pytest.raises(UserError, match=said) as refused:
        build(folder)
    assert str(readme) in str(refused.value) and "\n" not in str(refused.value)
