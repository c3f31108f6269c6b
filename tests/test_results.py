"""Tables follow from the records alone, and say nothing where there are none."""

import json
import math
import re
import shutil

import pytest

from fpt import UserError
from scripts import studies
from scripts.ledger import Ledger
from scripts.recorded import converged_at
from scripts.results import build, main
from tests import recording
from tests.made_results import (
    FPT,
    RANDOM,
    TASKS,
    recorded,
    refused,
    results,
    rows,
    stated,
    verdict,
    write,
)


@pytest.fixture
def folder(tmp_path):
    return results(tmp_path)


def test_what_the_project_shows_is_what_its_records_say():
    main(["--check"])


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


def test_what_no_study_asks_for_any_longer_is_stale_and_removed(folder, capsys):
    main(["--results", str(folder)])
    left = [folder / "tables" / "gone.md", folder / "figures" / "gone-bars.png"]
    for file, of in zip(left, ("tables/main.md", "figures/main-bars.png")):
        file.write_bytes((folder / of).read_bytes().replace(b"# main:", b"# gone:"))
    mine = [folder / "tables" / "mine.md", folder / "tables" / "notes.md",
            folder / "figures" / "main-bars-before.svg", folder / "figures" / "depth-curves.svg"]
    for file in mine:
        file.write_text(f"# {file.stem}: what I think\n")
    shutil.copy(folder / "figures" / "main-bars.svg", mine[2])
    (folder / "tables" / "v1.md").mkdir()
    with pytest.raises(UserError, match=r"gone-bars\.png, .*gone\.md: not what the records say"):
        main(["--check", "--results", str(folder)])
    main(["--results", str(folder)])
    assert not any(file.exists() for file in left) and all(file.exists() for file in mine)
    assert "2 of" in capsys.readouterr().out
    main(["--check", "--results", str(folder)])


def test_a_cell_is_the_mean_of_the_seeds_that_count_with_its_interval(folder):
    table = build(folder)[folder / "tables" / "main.md"]
    # Seeds 1 to 5 fall short by 0.001 times 1, 4, 9, 16, 25: mean 0.011, deviation 0.00967.
    half = 2.7764 * 0.0096695 / math.sqrt(5)
    row, = [row for row in rows(table, FPT) if len(row) == 6]
    assert row[2] == f"{0.95 - 0.011:.3f} ±{half:.3f}" and row[1] == "-"
    detail, = [row for row in rows(table, FPT, "0.001 (lowest)") if "1.000 [notes:T1]" in row]
    assert detail[2:6] == ["5", row[2], "0.999", "10"] and "1,234" in detail and "56,789" in detail


def test_the_table_states_accuracy_on_training_batches(folder):
    table = build(folder)[folder / "tables" / "main.md"]
    head, = {tuple(row) for row in rows(table, "condition", "rate")}
    detail, = [row for row in rows(table, FPT, "0.001 (lowest)") if "1.000 [notes:T1]" in row]
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
    assert summary[2].endswith("*") and "†" not in table


def test_a_run_that_diverged_is_not_taken_for_one_that_was_still_improving(folder):
    runs = list(recorded())
    wild = next(run for run in runs if run["config"]["load"] == "none"
                and run["config"]["train"] == "fpt" and run["config"]["seed"] == 1)
    wild["result"] |= {"diverged_at": 22, "best_step": 20}  # of 25
    write(folder, runs)
    table = build(folder)[folder / "tables" / "main.md"]
    row = next(row for row in rows(table, RANDOM) if len(row) == 6)
    marked, = [cell for cell in row if cell.endswith(("†", "*"))]
    assert not marked.endswith("*†") and "`†` marks a cell" in table


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
    ('"numbers": [', '"numbers": {', "JSONDecodeError"),
    ('"value": 68.2', '"value": NaN', "needs a number as value"), ('"value": 68.2', '"value": "68"', "needs a number as value"),
    ('"task": "cifar10"', '"job": "cifar10"', "KeyError: 'task'"),
    ("Random frozen small 12L", "FPT small 12L", "is stated as 68.2 and 61.7")])
def test_a_mistake_among_the_papers_numbers_is_one_line(folder, old, new, said):
    refused(folder / "papers.json", old, new, said, lambda: build(folder))


def test_a_study_of_another_track_alone_is_left_out(folder, tmp_path, monkeypatch):
    shutil.copytree(studies.STUDIES, tmp_path / "studies")
    monkeypatch.setattr(studies, "STUDIES", tmp_path / "studies")
    before = {*build(folder)}
    text = (tmp_path / "studies" / "fit.toml").read_text().replace("[tracks.mini]", "[tracks.other]")
    (tmp_path / "studies" / "large.toml").write_text(text)
    assert {*build(folder)} == before


def test_a_folder_that_holds_no_results_is_refused(tmp_path):
    with pytest.raises(UserError, match="name the project's folder of results"):
        main(["--results", str(tmp_path)])


def test_a_study_without_records_has_dashes_alone(folder):
    write(folder, [])
    table = build(folder)[folder / "tables" / "main.md"]
    row, = [row for row in rows(table, FPT) if len(row) == 6]
    assert row[1:] == ["-"] * 5
    assert not Ledger(folder / "records" / "main.jsonl").recorded


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
