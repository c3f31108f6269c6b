"""A study pretrains the bodies that it compares, and a condition may take another one's rate."""

import json
import re
import shutil
from pathlib import Path

import pytest

from fpt import UserError
from scripts import qualities, recorded, studies
from scripts.ledger import Ledger
from scripts.study import main, part

STUDY = """
question = "Does copying help?"
source = "here"
choosing = [0]
counted = [1, 2]
fixed = [5e-3]
patience = 1

[bodies]
copied = "copy --body TINY --vocabulary 11 --context 16 --steps 4 --warmup 1 OPTIONS"

[conditions."copied"]
body = "copied@4"
load = "body"
among = [1e-3, 1e-2]

[conditions."copied less"]
body = "copied@2"
load = "body"
rate_of = "copied"

[tracks.mini]
tasks = ["bit-xor"]
[tracks.mini.settings.bit-xor]
bits = 2
steps = 4
eval_every = 2
"""


@pytest.fixture(scope="module")
def file(tiny_folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("studies") / "copies.toml"
    file.write_text(STUDY.replace("TINY", str(tiny_folder))
                    .replace("OPTIONS", "--eval-every 2 --keep 2 --batch 2"))
    return file


@pytest.fixture(autouse=True)
def stated(file, monkeypatch, tmp_path):
    """Lets the study be the only one, and bodies be made in a folder of the test's own."""
    monkeypatch.setattr(studies, "STUDIES", file.parent)
    monkeypatch.chdir(tmp_path)
    return file


@pytest.fixture(scope="module")
def made(file, tmp_path_factory):
    """Makes the study once, in a folder of its own, which is returned."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "STUDIES", file.parent)
        patch.chdir(folder)
        main(["copies", "--out", "runs", "--records", "records"])
    return folder


def test_bodies_are_pretrained_once_and_their_training_is_on_record(made, monkeypatch, capsys):
    monkeypatch.chdir(made)
    run, = recorded.read(Path("records/bodies.jsonl"))
    assert run["config"]["task"] == "copy" and run["config"]["steps"] == 4
    digests = {one["config"]["body"]: one["config"]["checkpoint"]
               for one in recorded.read(Path("records/copies.jsonl"))}
    assert digests.keys() == {"copied-2", "copied-4"} and len({*digests.values()}) == 2
    before = {path: path.stat().st_mtime_ns for path in Path("bodies").rglob("*")}
    main(["copies", "--out", "runs", "--records", "records"])
    assert "to train" not in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in Path("bodies").rglob("*")} == before


def test_a_study_of_which_no_run_is_missing_pretrains_no_body(made, monkeypatch, capsys, tmp_path):
    shutil.copytree(made / "records", tmp_path / "records")
    main(["copies", "--out", "runs", "--records", "records", "--dry"])
    assert "pretrains" not in capsys.readouterr().out
    main(["copies", "--out", "runs", "--records", "records"])
    assert not Path("bodies").exists()
    (tmp_path / "records" / "copies.jsonl").unlink()
    main(["copies", "--out", "runs", "--records", "records", "--dry"])
    assert "before that, it pretrains the bodies copied" in capsys.readouterr().out


def test_a_body_at_a_step_is_that_of_its_pretraining(made, monkeypatch):
    from fpt import load_body, load_run

    monkeypatch.chdir(made)
    run, = recorded.read(Path("records/bodies.jsonl"))
    trained, body = load_run(Path("runs") / run["run"]).at(2), load_body("bodies/copied-2")
    ours, theirs = (one.parameters["body/ln_f/bias"] for one in (trained, body))
    assert abs(ours - theirs).max() < 1e-3 and abs(theirs).max() > 0


def test_a_condition_takes_the_rate_of_another_and_fixed_rates_are_trained_too(made):
    first, second = studies.study("copies").cells("mini")
    known = Ledger(made / "records" / "copies.jsonl")
    rate = known.rate(first)
    assert rate == known.rate(second) and rate in (1e-3, 1e-2) and not second.candidates()
    rates = [(run["config"]["body"], run["config"]["lr"], run["config"]["seed"])
             for run in known.recorded.values()]
    assert sorted(rates) == sorted(
        [("copied-4", 1e-3, 0), ("copied-4", 1e-2, 0)]
        + [(body, lr, seed) for body in ("copied-2", "copied-4") for lr in (5e-3, rate)
           for seed in (1, 2)])
    assert known.missing(first) == known.missing(second) == 0
    assert [run["config"]["seed"] for run in known.at(second, 5e-3)] == [1, 2]


def test_each_seed_has_a_body_that_was_pretrained_for_it_where_the_command_line_names_the_seed(
        stated, monkeypatch, tmp_path):
    text = stated.read_text().replace('"copy --body', '"copy --seed 10{seed} --body')
    monkeypatch.setattr(studies, "STUDIES", tmp_path)
    (tmp_path / "copies.toml").write_text(text)
    main(["copies", "--out", "runs", "--records", "records"])
    pretrained = {run["config"]["seed"]: run for run in recorded.read(Path("records/bodies.jsonl"))}
    assert pretrained.keys() == {100, 101, 102}
    runs = [run["config"] for run in recorded.read(Path("records/copies.jsonl"))]
    assert {(run["body"], run["seed"]) for run in runs} == {
        *((f"copied-seed{seed}-4", seed) for seed in (0, 1, 2)),
        *((f"copied-seed{seed}-2", seed) for seed in (1, 2))}
    assert len({run["checkpoint"] for run in runs}) == 5
    cells = studies.study("copies").cells("mini")
    known = Ledger(Path("records/copies.jsonl"))
    assert [known.missing(cell) for cell in cells] == [0, 0]
    gains = {seed: probes["random"]["loss"] - probes["repeated"]["loss"]
             for seed, run in pretrained.items() for probes in [run["curve"][1]["probes"]]}
    found = qualities.qualities(cells, Path("records"))["copied less"]
    assert found.gain == pytest.approx((gains[101] + gains[102]) / 2) and found.loss is None


def test_cells_that_share_a_rate_are_in_one_part():
    cells = studies.study("copies").cells("mini")
    assert part(cells, "1/2") == cells and part(cells, "2/2") == []


def test_the_quality_of_a_body_is_that_on_the_way_of_its_pretraining(made):
    study = studies.study("copies")
    run, = recorded.read(made / "records" / "bodies.jsonl")
    found = qualities.qualities(study.cells("mini"), made / "records")
    assert [line["step"] for line in run["curve"]] == [0, 2, 4]
    for name, line in zip(("copied less", "copied"), run["curve"][1:]):
        probes = line["probes"]
        assert found[name].gain == probes["random"]["loss"] - probes["repeated"]["loss"]
        assert found[name].pretraining == "copy" and found[name].loss is None


@pytest.mark.parametrize("old, new, said", [
    ("copied@2", "copid@2", "did you mean 'copied'"),
    ('rate_of = "copied"', 'rate_of = "copid"', "did you mean 'copied'"),
    ('rate_of = "copied"', 'rate_of = "copied less"', "with a rate of its own"),
    ("copied@2", "copied@3", r"copies\.toml, 'copied less' .* keeps the steps 2, 4, and not '3'"),
    ("copied@2", "copied@two", "and not 'two'"),
    ("copy --body", "copy --seed 1{Seed} --body", r"of 'copied' under \[bodies\]: --seed"),
    ('copied = "copy', 'copied = "" # "copy', "the command line is empty"),
    ("[bodies]", '[bodies]\ncopied-seed1 = "copy --seed 1"', "would be taken for 'copied' of that")])
def test_what_a_study_does_not_pretrain_or_choose_is_refused(stated, monkeypatch, tmp_path, old,
                                                             new, said):
    monkeypatch.setattr(studies, "STUDIES", tmp_path)
    (tmp_path / "copies.toml").write_text(stated.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=said):
        studies.study("copies").cells("mini")


def test_a_part_of_a_study_pretrains_what_its_missing_runs_and_those_that_choose_their_rate_need(
        stated, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(studies, "STUDIES", tmp_path)
    text = stated.read_text().replace('"copy --body', '"copy --seed 10{seed} --body')
    (tmp_path / "copies.toml").write_text(text)
    main(["copies", "--only", "copied less", "--out", "runs", "--records", "records"])
    assert {path.name for path in Path("bodies").glob("copied-*-*")} == {
        "copied-seed0-4", "copied-seed1-2", "copied-seed2-2"}
    file = Path("records/copies.jsonl")
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True)
                            if json.loads(line)["config"]["seed"] != 2))
    shutil.rmtree("bodies")
    shutil.rmtree("runs")
    main(["copies", "--only", "copied less", "--out", "runs", "--records", "records", "--dry"])
    assert "it pretrains the bodies copied-seed2 (" in capsys.readouterr().out


def test_bodies_that_another_command_line_made_are_not_taken(made, stated, monkeypatch, tmp_path):
    for name in ("records", "bodies", "runs"):
        shutil.copytree(made / name, tmp_path / name)
    monkeypatch.setattr(studies, "STUDIES", tmp_path)
    (tmp_path / "copies.toml").write_text(stated.read_text().replace("--warmup 1", "--warmup 2"))
    arguments = ["copies", "--out", "runs", "--records", "records", "--dry"]
    with pytest.raises(UserError, match="bodies/copied was made by another command line"):
        main(arguments)
    shutil.rmtree("bodies")
    with pytest.raises(UserError, match="holds runs of 'copied' on bit-xor, and bodies.jsonl"):
        main(arguments)


def test_hours_follow_from_a_stated_rate(capsys):
    main(["copies", "--dry", "--tflops", "1e-9"])
    slow = capsys.readouterr().out
    main(["copies", "--dry", "--tflops", "2e-9"])
    fast = capsys.readouterr().out
    for said in (r"train for about (\S+) hours", r"pretrains the bodies copied \((\S+) hours\)"):
        one, other = (float(re.search(said, text)[1]) for text in (slow, fast))
        assert one == pytest.approx(2 * other, rel=0.01) and other > 0
    with pytest.raises(UserError, match="--tflops must be a positive number"):
        main(["copies", "--dry", "--tflops", "-1"])


def test_a_body_on_record_needs_the_folder_of_its_pretraining_no_longer(made, tmp_path):
    for name in ("bodies", "records"):
        shutil.copytree(made / name, tmp_path / name)
    file = tmp_path / "records" / "copies.jsonl"
    kept = file.read_text().splitlines(keepends=True)
    file.write_text("".join(kept[1:]))
    main(["copies", "--out", "elsewhere", "--records", "records"])
    assert len(recorded.read(file)) == len(kept)
