"""A study is data: its runs are trained once, chosen on seeds that do not count, and recorded."""

import dataclasses
import json
import shutil
from itertools import chain
from pathlib import Path

import pytest
from filelock import FileLock

from fpt import UserError, bodies, parameters
from fpt.config import kept_steps
from scripts import ledger, pretrain, recorded, studies
from scripts.ledger import Ledger, key
from scripts.study import main, part, record_known
from tests.made_results import made_up, write

SMALL = """
question = "Does it need a body?"
source = "here"
choosing = [0]
counted = [1, 2]
patience = 1

[rates]
all = [1e-3, 1e-2]

[conditions."no body"]
body = "none"
train = "all"

[conditions."no body at one rate"]
body = "none"
train = "output"
among = [3e-3]

[tracks.mini]
tasks = ["bit-xor", "bit-memory"]
[tracks.mini.settings.bit-xor]
bits = 2
steps = 4
eval_every = 2
[tracks.mini.settings.bit-memory]
bits = 4
patch = 4
steps = 2
eval_every = 2
eval_examples = 4
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Writes a small study; its text can be changed."""
    monkeypatch.setattr(studies, "STUDIES", tmp_path)
    file = tmp_path / "small.toml"
    file.write_text(SMALL)
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes the small study once: the folder of its records, that of its runs, and its file."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "small.toml").write_text(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "STUDIES", folder)
        main(["small", "--out", str(folder / "runs"), "--records", str(folder / "records")])
    return folder


def lines_of(records):
    return (records / "small.jsonl").read_text().splitlines()


def lines(folder):
    return lines_of(folder / "records")


@pytest.mark.parametrize("name", studies.names())
def test_every_study_of_the_project_describes_runs_that_can_be(name):
    study = studies.study(name)
    for track in study.tracks:
        cells = study.cells(track)
        assert cells and len({(cell.task, cell.condition.name) for cell in cells}) == len(cells)
        runs = [key(config.record()) for cell in cells
                for config in [*cell.candidates(), *cell.counted(1.0)]]
        assert len(set(runs)) == len(runs)


@pytest.mark.parametrize("name", studies.names())
def test_every_study_has_both_tracks_and_keeps_the_bodies_that_it_asks_for(name):
    study = studies.study(name)
    assert {"mini", "paper"} <= study.tracks.keys()
    for cell in chain.from_iterable(map(study.cells, study.tracks)):
        if words := cell.pretraining(1):
            _, config, options = pretrain.stated([*words])
            step = int(cell.usual.body.rpartition("-")[2])
            assert step in kept_steps(config.steps, options.keep)


def test_a_body_that_is_pretrained_takes_the_hours_of_its_shape(tmp_path):
    known = Ledger(tmp_path / "none.jsonl", tflops=1.0)
    cells = studies.study("copying-gain").cells("paper", "mnist")
    assert {cell.usual.body for cell in cells} > {"gpt2"}
    each = [ledger.hours(cell, known) / known.missing(cell) for cell in cells]
    assert each == pytest.approx([each[0]] * len(each))


def test_a_time_is_that_of_runs_with_the_same_optimizer(tmp_path):
    adam = studies.study("main").cells("mini", "bit-xor")[0].candidates()[0]
    muon = dataclasses.replace(adam, optimizer="muon")
    runs = [made_up(adam, 0.9), made_up(muon, 0.9)]
    runs[1]["result"]["steps_per_second"] = 2.0
    write(tmp_path, runs)
    known = Ledger(tmp_path / "records" / "main.jsonl")
    assert ledger.seconds(adam, known) == adam.steps / 10
    assert ledger.seconds(muon, known) == muon.steps / 2


@pytest.mark.parametrize("name", studies.names())
def test_every_condition_of_a_study_is_one_that_its_body_can_have(name):
    study = studies.study(name)
    for cell in chain.from_iterable(map(study.cells, study.tracks)):
        usual = cell.usual.stackable()
        if Path(usual.body).parent == studies.BODIES:
            continue  # is made by the study
        if usual.body not in bodies.shipped():  # its weights may be on the hub
            usual = dataclasses.replace(usual, load="none", birth="weights")
        parameters.resolve(usual)


def test_a_study_trains_what_chooses_and_what_counts_and_records_all(made):
    runs = [json.loads(line) for line in lines(made)]
    assert lines(made) == [json.dumps(run, sort_keys=True) for run in
                           sorted(runs, key=lambda run: run["run"])]
    for task in ("bit-xor", "bit-memory"):
        found = [run for run in runs if run["config"]["task"] == task]
        choosing = [run for run in found if run["config"]["seed"] == 0]
        assert sorted(run["config"]["lr"] for run in choosing) == [1e-3, 1e-2]
        best = max(choosing, key=recorded.merit)["config"]["lr"]
        counted = {(run["config"]["train"], run["config"]["lr"], run["config"]["seed"])
                   for run in found if run["config"]["seed"]}
        assert counted == {("all", best, 1), ("all", best, 2),
                           ("output", 3e-3, 1), ("output", 3e-3, 2)}


def test_made_again_it_trains_nothing_and_writes_the_same(made, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(studies, "STUDIES", made)
    before = lines(made)
    for out in (made / "runs", tmp_path / "elsewhere"):  # by its runs, and by its records alone
        main(["small", "--out", str(out), "--records", str(made / "records")])
        assert "to train" not in capsys.readouterr().out and lines(made) == before
    assert not (tmp_path / "elsewhere").exists()


def test_it_ends_with_its_tables(made, monkeypatch, capsys):
    monkeypatch.setattr(studies, "STUDIES", made)
    main(["small", "--out", str(made / "runs"), "--records", str(made / "records")])
    said = capsys.readouterr().out
    assert "## bit-xor\n" in said and "## bit-memory\n" in said and "| no body at one rate |" in said
    main(["small", "--only", "bit-xor", "--out", str(made / "runs"), "--records",
          str(made / "records")])
    assert "bit-memory" not in capsys.readouterr().out


def test_records_that_are_gone_are_made_again_from_the_runs(made, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(studies, "STUDIES", made)
    main(["small", "--out", str(made / "runs"), "--records", str(tmp_path)])
    assert (tmp_path / "small.jsonl").read_text().splitlines() == lines(made)
    assert "to train" not in capsys.readouterr().out


def test_what_other_studies_have_is_recorded_before_anything_is_trained(
        made, monkeypatch, tmp_path):
    monkeypatch.setattr(studies, "STUDIES", made)
    shutil.copy(made / "records" / "small.jsonl", tmp_path / "other.jsonl")
    known = Ledger(tmp_path / "small.jsonl", tmp_path / "runs")
    record_known(studies.study("small").cells("mini", "bit-xor"), known)
    found = (tmp_path / "small.jsonl").read_text().splitlines()
    assert found == [line for line in lines(made) if '"task": "bit-xor"' in line] != []


def test_only_what_is_missing_is_trained(made, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(studies, "STUDIES", made)
    runs = shutil.copytree(made / "runs", tmp_path / "runs")
    shutil.rmtree(next(runs.glob("bit-xor-none-output-*seed2*")))
    main(["small", "--out", str(runs), "--records", str(tmp_path)])
    said = capsys.readouterr().out
    assert said.count("to train") == 1 and "no body at one rate: 1 run to train" in said
    without = lambda line: {name: value for name, value in json.loads(line)["result"].items()
                            if name in ("test", "validation", "trainable", "frozen")}
    again = (tmp_path / "small.jsonl").read_text().splitlines()
    assert list(map(without, again)) == list(map(without, lines(made)))


def test_dry_says_what_is_there_and_trains_nothing(small, made, capsys, tmp_path):
    main(["small", "--dry", "--out", str(tmp_path / "no"), "--records",
          str(made / "records")])
    assert "12 of 12 runs are there" in capsys.readouterr().out
    main(["small", "--dry", "--only", "bit-xor", "--out", str(made / "runs"),
          "--records", str(made / "records")])
    assert "6 of 6 runs are there" in capsys.readouterr().out


def test_parts_of_a_study_share_nothing_and_leave_nothing_out(small):
    cells = studies.study("small").cells("mini")
    parts = [part(cells, f"{number}/3") for number in (1, 2, 3)]
    assert sorted(map(id, [*chain(*parts)])) == sorted(map(id, cells))


def test_two_processes_that_record_at_once_keep_the_runs_of_both(small, made, tmp_path):
    file = tmp_path / "small.jsonl"
    first, second = Ledger(file, made / "runs"), Ledger(file, made / "runs")
    cells = studies.study("small").cells("mini")
    for known, cell in zip((first, second), cells):
        for config in cell.candidates() or cell.counted(3e-3):
            known.record(config)
    for known in (first, second, first):
        known.write()
    assert len(recorded.read(file)) == 4


@pytest.mark.parametrize("shard", ["0/3", "4/3", "2", "a/b", "-1/2"])
def test_a_part_that_cannot_be_is_refused(small, shard):
    with pytest.raises(UserError, match="--shard must be like 2/8"):
        part([], shard)


@pytest.mark.parametrize("old, new, said", [
    ("[rates]", "[rates", "no study"),
    ('train = "all"', 'trian = "all"', "states 'trian', which no condition has"),
    ('train = "output"', 'train = "output"\nseed = 9', "states 'seed', which no condition has"),
    ("[rates]\nall", "[rates]\nlal", "set of roles under .rates.*'lal'"),
    ("settings.bit-xor]", "settings.bit-xro]", "'bit-xro'; did you mean 'bit-xor'"),
    ("[tracks.mini]", '[tracks.mini]\nbodies = { gtp2 = "none" }', "body that a track replaces"),
    ("among = [3e-3]", 'tasks = ["bit-xro"]', "task of 'no body at one rate'"),
    ("among = [3e-3]", "load = 3", "on bit-xor"), ("patch = 4", "patch = []", "on bit-memory"),
    ("choosing = [0]", "choosing = []", "no seed chooses among the rates of 'no body'"),
    ("counted = [1, 2]", "counted = [1, 1]", "must be whole numbers, each once"),
    ("[tracks.mini]", '[tracks.mini]\nlike = "small"', "no study"),
    ("counted = [1, 2]", "counted = [0, 1]", r"\[0\] do both"),
    ('source = "here"', "", "source"), ('source = "here"', "source = 3", "source = 3 must be a text"),
    ("patience = 1", 'patience = "two"', "patience = 'two' must be a whole number"),
    ("[rates]", "figures = [[1]]\n[rates]", "figures = .* must be a list of texts"),
    ("[rates]", 'fixed = ["1e-3"]\n[rates]', "fixed = .* must be a list of numbers"),
    ("among = [3e-3]", "rate_of = 3", "rate_of = 3 of 'no body at one rate' must be a text"),
    ("counted = [1, 2]", "counted = []", "counted is empty"),
    ('train = "output"', 'train = "output"\nstart = "x"', "states 'start', which no condition has"),
    ("patch = 4", 'patch = 4\nstart = "x"', "'start' under the settings of bit-memory"),
    ("patch = 4", "size = 4", "on bit-memory"),
    ('["bit-xor",', '["bit-xr",', "did you mean 'bit-xor'"),
    ("among = [3e-3]", 'birth = "mimetc"', "did you mean 'mimetic'")])
def test_a_mistake_in_a_study_is_one_line_that_says_where(small, old, new, said):
    small.write_text(SMALL.replace(old, new, 1))
    with pytest.raises(UserError, match=said):
        studies.study("small").cells("mini")


@pytest.mark.parametrize("arguments, said", [
    (["smal"], "did you mean 'small'"), (["small", "--track", "pper"], "track of small"),
    (["small", "--cluster", "local", "--shard", "1/2"], "leave one of them out"),
    (["small", "--only", "bit-xr"], "did you mean 'bit-xor'")])
def test_what_a_study_does_not_have_is_refused(small, arguments, said, tmp_path):
    with pytest.raises(UserError, match=said):
        main([*arguments, "--records", str(tmp_path)])


def test_a_run_that_another_process_trains_is_left_for_later(small, made, tmp_path, capsys):
    runs = shutil.copytree(made / "runs", tmp_path / "runs")
    one = min(runs.glob("bit-xor-none-all-*-seed0-*"))
    (one / "result.json").unlink()
    asked = ["small", "--out", str(runs), "--records", str(tmp_path)]
    with FileLock(one / ".lock"), pytest.raises(UserError, match="another process trains"):
        main(asked)
    assert "left for later" in capsys.readouterr().out and len(lines_of(tmp_path)) == 9
    main(asked)
    assert len(lines_of(tmp_path)) == 12


def test_times_are_not_estimated_by_runs_of_a_users_own_file(tmp_path):
    run = made_up(studies.study("main").cells("mini", "bit-xor")[0].candidates()[0], 0.9)
    other = json.loads(json.dumps(run))
    other["config"]["task_file"], other["run"] = "own.py", "other"
    write(tmp_path, [run, other])
    known = Ledger(tmp_path / "records" / "main.jsonl")
    assert [one["run"] for one in known.timed] == [run["run"]] and known.rate_of_flops > 0


def test_a_run_of_other_weights_is_not_taken_for_one_of_the_shipped_body():
    cell, = studies.study("main").cells("mini", "frozen pretrained (FPT)")[:1]
    stated = cell.usual.record()
    assert key(stated) != key(stated | {"checkpoint": "0" * 32})
    assert key(stated) == key(stated | {"geometry": {"layers": 6}})


def test_a_damaged_run_is_refused_by_name(small, made, tmp_path):
    runs = shutil.copytree(made / "runs", tmp_path / "runs")
    damaged = next(runs.iterdir()) / "config.json"
    damaged.write_text(damaged.read_text()[:40])
    with pytest.raises(UserError, match=damaged.parent.name):
        Ledger(tmp_path / "small.jsonl", runs)


def test_a_run_of_a_body_in_a_file_is_known_by_the_files_name(tmp_path):
    there = {"body": "own", "load": "none", "checkpoint": None, "body_file": "/home/me/own.py"}
    assert key(there) == key(there | {"body_file": "own.py"}) != key(there | {"body_file": "no.py"})


def test_the_rate_is_that_of_the_best_mean_over_the_seeds_that_choose(small, tmp_path):
    small.write_text(SMALL.replace("choosing = [0]", "choosing = [0, 5]"))
    cell = studies.study("small").cells("mini")[0]
    accuracy = {(1e-3, 0): 0.9, (1e-3, 5): 0.5, (1e-2, 0): 0.8, (1e-2, 5): 0.7}
    known = Ledger(tmp_path / "small.jsonl", tmp_path)
    for config in cell.candidates():
        assert known.rate(cell) is None
        score = {"accuracy": accuracy[config.lr, config.seed], "loss": 1.0}
        known.recorded[key(config.record())] = {"run": config.name, "result": {"validation": score}}
    assert known.rate(cell) == 1e-2
    assert dataclasses.replace(cell.usual, lr=1e-2, seed=1) in cell.counted(1e-2)
