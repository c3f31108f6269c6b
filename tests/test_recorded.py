"""Tests what tells recorded runs apart, which rate is chosen, and the tables of both."""

import json

import pytest

from scripts import attention_table
from scripts.recorded import RECORDS, best_floor, chosen, conditions, read, study
from scripts.table import steps_to, table, tables
from tests.recording import run


def test_conditions_are_told_by_what_differs_in_order():
    told = lambda *runs: list(conditions(list(runs)))
    assert told(run(lr=10.0), run(lr=2.0)) == ["lr 2.0", "lr 10.0"]
    assert told(run(), run(body="gpt2-mini", load="none")) == ["gpt2-mini, random", "tiny"]
    assert told(run(), run(seed=1)) == ["bit-memory, tiny"]
    assert told(run(), run(birth="statistics")) == ["tiny", "statistics, tiny"]
    assert (told(run(), run(birth="statistics"), run(load="none"))
            == ["tiny", "tiny, random", "statistics, tiny"])
    assert (told(run(rates=[]), run(rates=["norm=0.1", "output=2"]), run(rates=[], stream="after output:5"))
            == ["rates norm=0.1 output=2, train fpt", "train fpt", "after output:5, train fpt"])


def test_the_rate_is_chosen_on_validation_of_the_first_seed_and_never_on_test():
    runs = [run((0.5, 0.7), test=0.9, lr=1.0), run((0.5, 0.8), test=0.1, lr=2.0),
            run((0.5, 0.6), test=0.2, lr=2.0, seed=1), run((0.5, 0.99), lr=1.0, seed=1),
            run((0.5, 0.6), lr=3.0, load="none")]
    found = chosen(runs)
    assert ([(one["config"]["lr"], one["config"]["seed"]) for one in found["tiny"]]
            == [(2.0, 0), (2.0, 1)])
    assert [one["config"]["lr"] for one in found["tiny, random"]] == [3.0]


def test_of_rates_that_answer_as_much_the_one_with_the_smallest_loss_is_chosen():
    runs = [run((0.5, 1.0), lr=1.0, loss=0.2), run((0.5, 1.0), lr=2.0, loss=0.1),
            run((0.5, 1.0), lr=3.0, loss=None), run((0.5, 0.9), lr=4.0, loss=0.01)]
    assert [one["config"]["lr"] for one in chosen(runs)["bit-memory, tiny"]] == [2.0]


def test_the_best_floor_is_the_highest_of_those_for_all_answers():
    one = run()
    one["result"]["floors"] = {"coin": 0.5, "majority": 0.6, "root": 0.55, "hidden/vote": 0.9,
                               "never": None}
    assert best_floor(one) == ("majority", 0.6)


def test_a_table_holds_means_over_seeds_spread_and_steps():
    runs = [run((0.5, 0.7, 0.9), test=0.9, seed=0), run((0.5, 0.86, 0.86), test=0.7, seed=1),
            run((0.5, 0.6, 0.7), test=0.6, load="none")]
    head, *rows = [[cell.strip() for cell in line.strip("| ").split("|")]
                   for line in table(runs).splitlines() if "|" in line]
    rows = rows[1:]
    assert head[-6:] == ["rate", "seeds", "test", "sd", "steps", "hidden"]
    # Nine tenths from 0.51 to 0.9 is 0.861: one seed gets there, at its last evaluation.
    assert rows[0] == ["tiny", "0.001", "2", "0.800", "0.141", "20 (1 of 2)", "0.400"]
    assert rows[1] == ["tiny, random", "0.001", "1", "0.600", "-", "-", "0.300"]


def test_the_tables_beside_the_records_are_made_of_them():
    files = [file for file in RECORDS.parent.glob("*.md") if file.stem not in ("README", "log", "claims")]
    assert files
    for file in files:
        script, made = "table", tables
        if file.stem == "attention":
            script, made = "attention", attention_table.tables
        command = f"python -m scripts.{script} --study {file.stem} --to {file}"
        assert file.read_text() == made(study(file.stem)), command


def test_steps_are_those_of_the_first_evaluation_that_is_good_enough():
    assert ([steps_to(run((0.5, 0.7, 0.9, 0.8)), target) for target in (0.5, 0.7, 0.85, 0.95)]
            == [0, 10, 20, None])


def test_the_steps_of_several_seeds_are_their_median():
    late = [run((0.5, *[0.6] * number, 0.9), seed=number, steps=50) for number in (0, 1, 4)]
    assert "| 20 " in table(late).splitlines()[-1]


def test_where_no_run_passes_the_floor_no_steps_are_counted():
    text = table([run(floor=0.95)])
    assert "No run passes that floor (the best: 0.800)" in text and "| -     |" in text


def test_the_command_prints_a_table_for_each_task_or_writes_them(command, tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.recorded.RECORDS", tmp_path)
    lines = [json.dumps(one) + "\n" for one in (run(), run(task="mnist"))]
    (tmp_path / "s.jsonl").write_text("".join(lines))
    code, out, err = command("table", "--study", "s")
    assert code == 0 and out.count("###") == 2, err
    code, one, _ = command("table", "--study", "s", "--task", "mnist")
    assert code == 0 and one.count("###") == 1 and one.strip() in out
    code, said, _ = command("table", "--study", "s", "--to", tmp_path / "t.md")
    assert code == 0 and "2 tables" in said and (tmp_path / "t.md").read_text() == out


@pytest.mark.parametrize("arguments, said", [
    (["--study", "birhts"], "unknown study 'birhts'"),
    (["--study", "births", "--task", "mnits"], "did you mean 'mnist'?"),
    (["--study", "main"], "in results/tables/main.md")])
def test_a_mistake_is_one_line(command, arguments, said):
    code, _, err = command("table", *arguments)
    assert code == 2 and err.count("\n") == 1 and said in err


def test_bodies_of_one_name_and_other_weights_are_not_seeds_of_one():
    geometry = {"layers": 2}
    of = lambda place, weights, seed: run(body=f"{place}/body", checkpoint=weights * 32,
                                          geometry=geometry, seed=seed)
    runs = [of("a", "1", 0), of("b", "2", 1)]
    found = conditions(runs)
    assert ([len(group) for group in found.values()] == [1, 1]
            and all(label.startswith("bit-memory, body ") for label in found))
    moved = [of("a", "1", 0), of("c", "1", 1)]
    # The same weights, where they lay then.
    assert [len(group) for group in conditions(moved).values()] == [2]


def test_a_run_on_other_data_or_another_task_file_is_not_a_seed():
    for told in ({"data": {"test": "2"}}, {"task_file": "2"}):
        one, other = run(), run(seed=1)
        one["result"] |= {"data": {"test": "1"}}
        other["result"] |= {"data": {"test": "1"}} | told
        assert len(conditions([one, other])) == 2


def test_what_older_runs_do_not_state_is_read_as_it_was_then():
    older, newer = run(), run(birth="statistics", optimizer="muon", dropout=0.0, seed=1)
    del older["config"]["birth"]
    older["config"]["dropout"] = 0.1
    assert list(conditions([older, newer])) == [
        "tiny, dropout 0.1, optimizer adam", "statistics, tiny, dropout 0.0, optimizer muon"]
    same = run(seed=1, birth="weights", optimizer="adam", dropout=0.1)
    assert [len(group) for group in conditions([older, same]).values()] == [2]


def test_records_that_were_changed_cut_or_doubled_are_refused(tmp_path):
    from fpt.errors import UserError
    from fpt.records import checksum

    one = run() | {"run": "one"}
    one["result"]["checksum"] = checksum(one["config"], one["curve"], one["result"])
    line, file = json.dumps(one), tmp_path / "s.jsonl"
    file.write_text(line + "\n")
    assert read(file) == [one]
    for content, said in ((line.replace('"accuracy": 0.5', '"accuracy": 0.6'),
                           "line 1: it does not hold what was written"),
                          (line[:-9], "line 1: "), ("[1]", "line 1: "),
                          ('{"run": "x"}', "line 1: "),
                          (f"{line}\n{line}", "line 2 holds one a second time"),
                          (f"{line}\n\n", "line 2: "), (f"{line}\n\udcff", "line 2: ")):
        file.write_text(content + "\n", errors="surrogateescape")
        with pytest.raises(UserError, match=said):
            read(file)
