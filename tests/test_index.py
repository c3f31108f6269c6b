"""Tests the index of runs: what its page holds of each, and how it bears what is damaged or
strange.  test_index_driven.py uses the page in a browser."""

import json
import os
import re

import pytest

from fpt import UserError
from scripts.page_index import write
from tests.recording import leave, run


def held(folder, target=None):
    """Reads the runs as the page of a folder holds them, by name."""
    page = write(folder, target).read_text()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1]
    return {one["name"]: one for one in json.loads(data)["runs"]}


def test_the_page_tells_what_a_finished_run_is_and_what_it_came_to(tmp_path):
    leave(tmp_path, made := run((0.5, 0.8), test=0.75, floor=0.51, lr=3e-3, seed=4))
    one, = held(tmp_path).values()
    expected = {"task": "bit-memory", "body": "tiny", "birth": "weights", "load": "body",
                "train": "fpt", "lr": 3e-3, "seed": 4, "status": "finished", "test": 0.75}
    assert {name: one[name] for name in expected} == expected
    assert one["steps"] == [0, 10] and one["parts"] == {"": [0.5, 0.8], "hidden": [0.25, 0.4]}
    assert (one["floors"] == {"": {"majority": 0.51}, "hidden": {"vote": 0.69}}
            and one["name"] == made["run"].replace("/", "-"))


def test_a_setting_that_there_was_not_yet_is_what_runs_did_then(tmp_path):
    made = run()
    del made["config"]["birth"]
    leave(tmp_path, made)
    one, = held(tmp_path).values()
    assert one["birth"] == "weights" and one["status"] == "finished"


def test_a_run_that_diverged_and_one_that_is_unfinished_say_so(tmp_path):
    diverged = run(lr=1.0)
    diverged["result"]["status"], diverged["curve"][1]["validation"]["accuracy"] = "diverged", None
    names = [leave(tmp_path, diverged).name, leave(tmp_path, run(lr=2.0), "result.json").name]
    found = held(tmp_path)
    assert [found[name]["status"] for name in names] == ["diverged", "unfinished"]
    assert found[names[0]]["parts"][""] == [0.5, None]
    assert found[names[1]]["parts"][""] == [0.5, 0.8] and found[names[1]]["test"] is None


@pytest.mark.parametrize("file, content, said", [
    ("config.json", "{", "damaged"),
    ("config.json", "[1]", "no object"),
    ("config.json", "{}", "it is not a run"),
    ("metrics.jsonl", "{\n", "metrics.jsonl is damaged"),
    ("metrics.jsonl", "", "it is not a run"),
    ("metrics.jsonl", '{"step": 1e999, "validation": {"accuracy": 0.5}}', "it is not a run"),
    ("metrics.jsonl", '{"step": 0, "validation": {"accuracy": 1e999}}', "it is not a run"),
    ("metrics.jsonl", '{"step": 0, "validation": {"accuracy": "<b>"}}', "it is not a run"),
    ("metrics.jsonl", '{"step": 0, "validation": {"accuracy": 0.5, "slices": 3}}',
     "it is not a run"),
    ("result.json", '{"test": 3}', "it is not a run"),
    ("result.json", "\0", "result.json is damaged"),
    ("result.json", None, "result.json is damaged"),
])
def test_a_damaged_run_is_listed_with_its_reason_and_the_others_as_they_are(tmp_path, file, content,
                                                                            said):
    whole, broken = leave(tmp_path, run()), leave(tmp_path, run(lr=5.0))
    (broken / file).write_bytes(b"\xff" if content is None else content.encode())
    found = held(tmp_path)
    assert found[whole.name]["status"] == "finished" and found[broken.name]["status"] == "damaged"
    assert said in found[broken.name]["why"] and "\n" not in found[broken.name]["why"]
    assert str(tmp_path) not in found[broken.name]["why"]


def test_a_number_that_was_changed_is_damage(tmp_path):
    (made := run())["result"]["checksum"] = "0" * 64
    leave(tmp_path, made)
    one, = held(tmp_path).values()
    assert (one["status"] == "damaged" and "does not hold what was written" in one["why"]
            and one["task"] == "bit-memory")


def test_settings_are_told_where_runs_of_a_task_differ_in_them(tmp_path):
    few, many = leave(tmp_path, run(sizes={"bits": 4})), leave(tmp_path, run(sizes={"bits": 8}))
    other = leave(tmp_path, run(task="mnist", sizes={"patch": 7}, batch=16))
    found = held(tmp_path)
    assert ([found[folder.name]["also"] for folder in (few, many, other)]
            == [{"bits": 4}, {"bits": 8}, {}])


def test_runs_that_differ_by_their_seed_alone_are_a_group(tmp_path):
    folders = [leave(tmp_path, run(seed=seed, lr=lr)) for seed in (0, 1) for lr in (1e-3, 1e-2)]
    found = held(tmp_path)
    first, second, third, fourth = (found[folder.name]["group"] for folder in folders)
    assert first == third != second == fourth


def test_a_run_links_to_its_page_from_where_the_index_lies_or_names_the_command_for_it(tmp_path):
    runs, away = tmp_path / "my runs", tmp_path / "pages" / "all.html"
    linked, without = "with one", "without"
    leave(runs, run() | {"run": without})
    (leave(runs, run() | {"run": linked}) / "page.html").touch()
    found = held(runs)
    assert found[linked]["page"] == "with%20one/page.html" and "command" not in found[linked]
    assert (found[without]["command"] == "python -m scripts.page 'my runs/without'"
            and "page" not in found[without])
    assert held(runs, away)[linked]["page"] == "../my%20runs/with%20one/page.html"


def test_what_a_run_says_of_itself_is_escaped(tmp_path):
    evil = "</script><script>alert(1)</script>&\u2028"
    (tmp_path / "<b>runs").mkdir()
    folder = leave(tmp_path / "<b>runs", run(task=evil, body="x"))
    page = write(tmp_path / "<b>runs").read_text()
    assert ("<script>alert" not in page and "\u2028" not in page and "<b>" not in page
            and folder.exists())
    assert page.count("</script>") == 2  # of the data, and of the script
    assert next(iter(held(tmp_path / "<b>runs").values()))["task"] == evil


def test_a_link_is_never_a_script(tmp_path):
    (leave(tmp_path, run() | {"run": "javascript:alert(1)"}) / "page.html").touch()
    assert held(tmp_path)["javascript:alert(1)"]["page"] == "javascript%3Aalert%281%29/page.html"


def test_a_name_that_is_no_text_can_be_shown(tmp_path):
    strange = os.path.join(os.fsencode(tmp_path), b"run-\xff")
    leave(tmp_path, run()).rename(os.fsdecode(strange))
    (tmp_path / os.fsdecode(b"run-\xff") / "page.html").touch()
    one, = held(tmp_path).values()
    assert one["name"] == "run-\N{REPLACEMENT CHARACTER}" and one["page"] == "run-%FF/page.html"


def test_the_page_stands_alone_and_tells_no_path_of_the_machine(tmp_path):
    leave(tmp_path, run())
    page = write(tmp_path).read_text()
    assert (str(tmp_path) not in page
            and not re.search(r"<(link|script|img)[^>]* (src|href)=\"(?!data:)", page))
    assert "default-src 'none'" in page


@pytest.mark.parametrize("prepare, said", [
    (lambda folder: None, "no folder"),
    (lambda folder: folder.mkdir(), "no run in"),
    (lambda folder: leave(folder / "deeper", run()), "no run in"),
    (lambda folder: folder.touch(), "no folder"),
])
def test_a_folder_without_runs_is_one_line_and_nothing_is_written(tmp_path, prepare, said):
    prepare(tmp_path / "runs")
    before = {*tmp_path.rglob("*")}
    with pytest.raises(UserError, match=said) as raised:
        write(tmp_path / "runs")
    assert "\n" not in str(raised.value) and {*tmp_path.rglob("*")} == before


def test_a_page_that_cannot_be_written_is_one_line_and_leaves_the_old_one(tmp_path, monkeypatch):
    leave(tmp_path, run())
    (tmp_path / "index.html").write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write(tmp_path)
    assert (tmp_path / "index.html").read_text() == "old" and len(list(tmp_path.iterdir())) == 2
