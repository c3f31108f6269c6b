"""Tests what `python -m scripts.attention` writes and prints of runs and of a study."""

import json
import math
import os
import shutil
import subprocess

import numpy as np
import pytest

from fpt import Config, UserError, load_run, train
from fpt.arrays import pack, unpack
from scripts import attention_figure, attention_table, recorded
from tasks.bits import BitMemory, BitXor
from tests.recording import run as record

XOR = BitXor(bits=3)


@pytest.fixture
def run(pair, tmp_path):
    """Copies the first run, which has not been looked into."""
    return shutil.copytree(pair[0], tmp_path / pair[0].name,
                           ignore=shutil.ignore_patterns("attention.*"))


def test_maps_and_measures_are_written_and_told_side_by_side(command, pair):
    code, out, err = command("attention", *pair, "--examples", "3", "9", "--smallest")
    assert code == 0 and not err
    told = out.splitlines()
    assert told[0].startswith("bit-xor: 64 examples of test, at the tokens that are read")
    assert told[1].split() == ["tiny", "tiny,", "random"]
    for words in ("mass on 'bits of that position', at most",
                  "  of that head before the first step", "entropy (nats)", "heads needed, of 8",
                  "rank correlation: mass, accuracy lost"):
        assert sum(line.startswith(words) for line in told) == 1, words
    assert str(pair[0] / "attention.json") in out and str(pair[1] / "attention.npz") in out
    loaded = load_run(pair[0])
    found = json.loads((pair[0] / "attention.json").read_text())
    assert [(one["step"], one["label"]) for one in found["measures"]] == [
        (0, "before the first step"), (20, "step 20"), (40, "step 40"),
        (loaded.result["best_step"], "trained")]
    assert (found["n"] == 64 and found["answer"] == "bits of that position"
            and found["trainable"] == loaded.result["trainable"])
    assert np.shape(found["measures"][0]["values"]["entropy"]["all"]) == (2, 4)
    assert (np.shape(found["ablation"]["mean"]["lost"])
            == np.shape(found["ablation"]["zero"]["nats"]) == (2, 4))
    with np.load(pair[0] / "attention.npz") as maps:
        assert (maps["axes"].tolist() == ["layer", "head", "query", "key"]
                and maps["examples"].tolist() == [3, 9])
        inputs = XOR.load()["test"].inputs[9:10]
        _, seen = loaded(inputs, maps=True)
        np.testing.assert_allclose(maps["example_9_trained"], seen.maps[:, 0], atol=1e-6)
        _, seen = loaded.at(20)(inputs, maps=True)
        np.testing.assert_allclose(maps["example_9_step_20"], seen.maps[:, 0], atol=1e-6)
        assert maps["mean_step_0"].shape == maps["mean_trained"].shape == (2, 4, 6, 6)


def test_the_same_run_gives_the_same_files_again(command, run):
    contents = []
    for _ in range(2):
        command("attention", run, "--ablated", "8")
        found = json.loads((run / "attention.json").read_text())
        contents.append(((run / "attention.npz").read_bytes(),
                         {name: found[name] for name in found if name != "seconds"}))
    assert contents[0] == contents[1]


def test_without_ablation_nothing_is_said_of_it(command, run):
    code, out, _ = command("attention", run, "--ablated", "0", "--count", "5")
    found = json.loads((run / "attention.json").read_text())
    assert (code == 0 and found["n"] == 5 and "ablation" not in found and "needed" not in out
            and "correlation" not in out)


def test_the_floor_of_a_slice_without_examples_is_null(command, run, monkeypatch):
    usual = BitXor.floors
    monkeypatch.setattr(BitXor, "floors", lambda *asked: usual(*asked) | {"empty/vote": math.nan})
    code, _, err = command("attention", run, "--ablated", "0", "--count", "5")
    assert code == 0, err
    floors = json.loads((run / "attention.json").read_text())["floors"]
    assert floors.pop("empty/vote") is None and all(map(math.isfinite, floors.values()))


def test_a_task_without_answer_tokens_is_told_so(command, run, monkeypatch):
    monkeypatch.setattr(BitXor, "answer_tokens", lambda self, inputs: {})
    code, out, _ = command("attention", run, "--ablated", "8")
    assert code == 0 and out.splitlines()[-2] == (
        "bit-xor names no tokens that hold the answer: there is no mass on them to tell")
    assert "mass on '" not in out and "correlation" not in out and "heads needed" in out


@pytest.mark.parametrize(("arguments", "said"), [
    ((), "name the folders of runs, or a --study"),
    (("--study", "births", "RUN"), "name the folders of runs, or a --study"),
    (("RUN", "--to", "x.md"), "--to and --task are for a --study"),
    (("--study", "births", "--to", "x.pdf"), "ends in .md, .svg or .png, not 'x.pdf'"),
    (("--study", "births", "--to", "x.svg"), "there is nothing to draw"),
    (("nowhere",), "no folder nowhere; name the folder of a run"),
    (("RUN", "--count", "0"), "--count must be at least 1, not 0"),
    (("RUN", "--ablated", "-1"), "--ablated must be at least 0, not -1"),
    (("RUN", "--examples", "3", "64"), "--examples: test has the examples 0 to 63, and no 64"),
    (("RUN", "--split", "tset"), "did you mean 'test'?"),
    (("RUN", "OTHER"), "runs of several tasks, bit-memory, bit-xor, cannot be set side by side"),
    (("--study", "births"), "none of these runs has been looked into"),
    (("--study", "brths"), "did you mean 'births'?"),
])
def test_what_cannot_be_looked_into_is_refused(refused, run, tiny_folder, tmp_path, arguments,
                                               said):
    if "OTHER" in arguments:
        task = BitMemory(strings=2, bits=2, patch=1)
        config = Config(task, str(tiny_folder), steps=1, batch=2, lr=1e-2, eval_every=1,
                        eval_examples=5)
        train(config, tmp_path / "other", quiet=True)
    other = next((tmp_path / "other").glob("*"), None)
    refused(said, "attention",
            *({"RUN": run, "OTHER": other}.get(argument, argument) for argument in arguments))


@pytest.mark.parametrize(("harm", "said"), [
    ("unfinished", "the run is not finished; train it to its end"),
    ("no run", "no config.json in"),
    ("other weights", "does not hold what the result is of; train the run again"),
    ("body moved", "tiny"),
])
def test_a_run_that_is_not_as_it_was_is_refused(refused, run, tiny_folder, harm, said):
    trained, moved = run / "trainable.safetensors", tiny_folder.with_name("moved")
    if harm == "unfinished":
        (run / "result.json").unlink()
    elif harm == "no run":
        (run / "config.json").unlink()
    elif harm == "other weights":
        values, about = unpack(trained)
        trained.write_bytes(pack({name: value + 1 for name, value in values.items()}, about))
    else:
        tiny_folder.rename(moved)
    try:
        refused(said, "attention", run)
    finally:
        if moved.exists():
            moved.rename(tiny_folder)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_one_line_and_leaves_nothing(refused, run, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk],
                      capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        folder = shutil.copytree(run, disk / run.name, ignore=shutil.ignore_patterns("trainable-*"))
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
        refused("No space left on device; free some space", "attention", folder, "--ablated", "0")
    finally:
        subprocess.run(["umount", disk])


def looked(seed=0, lost=0.2, **settings):
    """Makes a run as a study records it, looked into: two layers of two heads."""
    values = lambda number: {"answer here": {"read": [[0.1, number], [0.2, 0.3]]},
                             "entropy": {"read": [[1.0, 2.0], [3.0, 4.0]], "all": [[1, 1], [1, 1]]}}
    rho = lambda *values: dict(zip(("rho", "low", "high"), values))
    found = {
        "task": "bit-memory", "split": "test", "n": 7, "layers": 2, "heads": 2,
        "answer": "answer here", "units": {"entropy": "nats"},
        "uniform": {"answer here": {"read": 0.25}, "entropy": {"read": 1.5, "all": 1.0}},
        "measures": [{"step": 0, "label": "before", "values": values(0.15)},
                     {"step": 5, "label": "trained", "values": values(0.9)}],
        "ablation": {"mean": {"n": 6, "accuracy": 0.8, "lost": [[0.0, lost], [0.02, 0.0]],
                              "error": [[0.0, 0.05], [0.01, 0.0]], "nats": [[0, 1], [0, 0]],
                              "slices": {}}},
        "correlation": {"mean": {"lost": rho(0.5, 0.1, 0.8), "nats": rho(-0.1, -0.3, 0.2)}},
        "smallest": {"by": "mean", "heads": [[0, 1], [1, 0]], "accuracy": 0.79, "floor": 0.5},
    }
    return record(seed=seed, **settings) | {"attention": found}


def cells(text, label, measure=None):
    """Returns the row of a table that begins with this label."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]]
            for line in text.splitlines() if line.startswith("|")]
    row, = (row for row in rows if row[0] == label
            and (row[1] == measure if measure else "," not in row[1] and len(row) > 7))
    return row


def test_findings_are_read_off_the_measures():
    found = attention_table.findings(looked())
    assert (found.mass, found.head, found.before, found.uniform) == (0.9, (0, 1), 0.15, 0.25)
    # 0.02 is two standard errors.
    assert (found.needed, found.lost, found.worst) == (1, 0.2, (0, 1))
    assert found.rho["rho"] == 0.5 and found.smallest == [[0, 1], [1, 0]]


def test_a_table_has_a_row_for_each_condition_over_its_seeds():
    runs = [looked(seed=0), looked(seed=1, lost=0.4), looked(seed=0, load="none"), record(seed=3)]
    text = attention_table.tables(runs)
    assert cells(text, "tiny") == ["tiny", "0.001", "2", "0.800", "0.900", "0.150", "0.250", "1, 1",
                                   "0.300", "0.1, 0.1", "0.50 (2 of 2)", "-0.10 (0 of 2)", "2, 2"]
    assert (cells(text, "tiny, random", "entropy")
            == ["tiny, random", "entropy", "2.500", "2.500", "1.500", "4.000", "1.1"])
    assert "3 runs in all. Best floor on test: 0.510 (majority)." in text


def test_where_heads_were_not_taken_out_the_tables_have_dashes():
    """As with --ablated 0, for all seeds of a condition or for one of them."""
    runs = [looked(load="none"), looked(seed=1), looked(seed=0)]
    for run in runs[::2]:
        for name in ("ablation", "correlation", "smallest"):
            del run["attention"][name]
    text = attention_table.tables(runs)
    shown = ["0.001", "1", "0.800", "0.900", "0.150", "0.250", *["-"] * 6]
    assert cells(text, "tiny, random") == ["tiny, random", *shown]
    assert cells(text, "tiny")[7:] == ["-, 1", "0.200", "-, 0.1", "0.50 (1 of 2)", "-0.10 (0 of 2)",
                                       "-, 2"]
    assert "mean over 6 examples" in " ".join(text.split())
    assert "heads needed`: those" not in attention_table.tables(runs[:1])


def test_a_picture_shows_each_condition_of_one_task():
    runs = [looked(seed=0), looked(seed=1), looked(load="none"), record(seed=5)]
    drawn = attention_figure.draw(runs, "svg")
    assert drawn == attention_figure.draw(runs, "svg") and drawn.startswith(b"<?xml")
    for words in (b">tiny<", b">tiny, random<", b">2 of 4 heads keep 95%<",
                  b">mass on: answer here<"):
        assert words in drawn, words
    with pytest.raises(UserError, match="one picture shows one task"):
        attention_figure.draw([*runs, looked(task="bit-xor")], "svg")
    with pytest.raises(UserError, match="7 conditions are more than the 6"):
        attention_figure.draw([looked(body=f"body{number}") for number in range(7)], "svg")


def test_records_hold_what_was_found_and_the_tables_come_of_them(command, pair, tmp_path,
                                                                 monkeypatch):
    command("attention", *pair, "--ablated", "8")
    assert command("collect", *pair, "--study", "heads", "--records", tmp_path)[0] == 0
    monkeypatch.setattr(recorded, "RECORDS", tmp_path)
    code, out, _ = command("attention", "--study", "heads", "--to", tmp_path / "heads.md")
    text = (tmp_path / "heads.md").read_text()
    assert (code == 0 and out == f"{tmp_path / 'heads.md'}\n" and text.startswith("### bit-xor\n")
            and "| tiny, random |" in text)
    assert command("attention", "--study", "heads")[1] == text


def test_records_of_a_study_that_is_a_file_are_not_overwritten(command, pair, tmp_path):
    code, _, err = command("collect", *pair, "--study", "main", "--records", tmp_path / "records")
    assert (code == 2 and "by python -m scripts.study main" in err
            and not (tmp_path / "records").exists())


def test_measures_of_other_weights_are_not_collected(command, pair, tmp_path):
    folder = shutil.copytree(pair[1], tmp_path / pair[1].name)
    command("attention", folder, "--ablated", "0")
    stated = json.loads((folder / "attention.json").read_text())
    (folder / "attention.json").write_text(json.dumps(stated | {"trainable": "0" * 64}))
    code, _, err = command("collect", folder, "--study", "heads", "--records", tmp_path / "records")
    assert (code == 2 and "is of other weights than the run's" in err
            and not (tmp_path / "records").exists())
