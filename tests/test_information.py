"""How far predictions are from a random body's is computed once, from the runs on record alone."""

import json
import math
import shutil

import numpy as np
import pytest

from fpt import UserError, load_run, splits
from fpt.arrays import digest, pack, unpack
from fpt.records import CONFIG, RESULT, TRAINABLE, checksum, read_curve
from fpt.task import UNSCORED
from scripts import information, studies
from scripts.ledger import Ledger
from scripts.results import RESULTS
from scripts.results_tables import papers, tables
from scripts.study import main
from tests.made_results import rows

SMALL = """
question = "What does a body give?"
source = "here"
choosing = [0]
counted = [1, 2]
patience = 1
information = "random"

[conditions."pretrained"]
load = "body"
among = [1e-2]
[conditions."output alone"]
load = "body"
train = "output"
among = [1e-2]
[conditions."random"]
load = "none"
among = [3e-3]

[tracks.mini]
tasks = ["bit-memory"]
bodies = { gpt2 = "BODY" }
[tracks.mini.settings.bit-memory]
bits = 4
patch = 4
steps = 2
batch = 4
eval_every = 2
eval_examples = 700
"""


@pytest.fixture(scope="module")
def made(tiny_folder, tmp_path_factory):
    """Makes the small study once: the folder of its file, of its runs and of a folder of results."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "small.toml").write_text(SMALL.replace("BODY", str(tiny_folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "STUDIES", folder)
        main(["small", *places(folder)])
    return folder


def places(folder):
    return ["--out", str(folder / "runs"), "--records", str(folder / "results" / "records")]


@pytest.fixture
def small(made, tmp_path, monkeypatch):
    """Copies the small study, to be changed."""
    folder = shutil.copytree(made, tmp_path / "small")
    monkeypatch.setattr(studies, "STUDIES", folder)
    return folder


def file(folder):
    return folder / "results" / "records" / "information" / "small.jsonl"


def lines(folder):
    return [json.loads(line) for line in file(folder).read_text().splitlines()]


def line_of(folder, trained):
    """Finds the line of seed 1 of the condition that trains this."""
    return next(line for line in lines(folder) if f"-{trained}-" in line["run"]
                and "seed1" in line["run"])


def table(folder):
    """Makes the document of the study, from its records and lines alone."""
    known = Ledger(folder / "results" / "records" / "small.jsonl")
    return tables(studies.study("small"), "mini", known, papers(RESULTS / "papers.json"))


def column(folder):
    """Reads off the document what the column `KL` says, by condition."""
    part = table(folder).partition("## bit-memory")[2]
    head, = rows(part, "condition")
    names = ("pretrained", "output alone", "random")
    return {name: rows(part, name)[0][head.index("KL")] for name in names}


@pytest.fixture
def computed(monkeypatch):
    """Lists the folders of the runs whose predictions are computed from here on."""
    asked, predicted = [], information.predicted

    def counting(folder, *more):
        asked.append(folder)
        return predicted(folder, *more)

    monkeypatch.setattr(information, "predicted", counting)
    return asked


@pytest.mark.parametrize("trained", ["fpt", "output"])
def test_it_is_the_divergence_of_what_two_runs_of_one_seed_predict(made, trained):
    line = line_of(made, trained)
    run, reference = (load_run(made / "runs" / line[name]) for name in ("run", "reference"))
    assert run.config.load != "none" and reference.config.load == "none"
    assert run.config.seed == reference.config.seed == 1
    data = run.task.load(None)
    inputs = splits.sample(data, "test", 700).inputs  # on which the runs were scored
    assert len(inputs) < len(data["test"].inputs)
    p, q = (np.exp(np.asarray(one(inputs), np.float64)) for one in (run, reference))
    p, q = (one / one.sum(-1, keepdims=True) for one in (p, q))
    assert line["nats"] == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-5)
    assert line["nats"] > 0
    assert line["answers"] == 700 * run.task.interface.answers
    assert (line["trainable"], line["reference_trainable"]) == (run.trained, reference.trained)


def test_every_run_that_counts_has_one_line_and_lines_are_sorted(made):
    runs = [line["run"] for line in lines(made)]
    assert len({*runs}) == len(runs) == 4  # two seeds of two conditions
    names = [(line["run"], line["reference"]) for line in lines(made)]
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines(made))
    assert names == sorted(names) and text == file(made).read_text()


def test_a_run_is_no_nats_from_itself(made):
    folder = made / "runs" / lines(made)[0]["run"]
    found, scored = information.predicted(folder, None, None)
    assert found.dtype == np.float64 and information.divergence(found, found, scored) == 0


def test_the_divergence_is_in_nats_and_from_the_second_to_the_first():
    found, other = np.log([[[0.5, 0.5]]]), np.log([[[0.9, 0.1]]])
    known = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert information.divergence(found, other, np.array([[True]])) == pytest.approx(known)


def test_answers_that_are_not_scored_do_not_count(made, monkeypatch):
    """Of all examples, the answers to one are scored."""
    def data(options, loaded):
        test = loaded.task.load(None)["test"]
        targets = np.full_like(test.targets, UNSCORED)
        targets[1] = test.targets[1]
        return {"test": test._replace(targets=targets)}

    monkeypatch.setattr(information.RunOptions, "data", data)
    line = line_of(made, "fpt")
    (p, scored), (q, _) = (information.predicted(made / "runs" / line[name], None, None)
                           for name in ("run", "reference"))
    assert scored[1].all() and scored.sum() == scored[1].sum() and len(scored) > 700
    assert information.divergence(p, q, scored) == pytest.approx(
        (np.exp(p[1]) * (p[1] - q[1])).sum(-1).mean())


def test_a_second_call_computes_nothing(small, computed, command, capsys):
    before = file(small).read_bytes()
    code, out, _ = command("information", "small", *places(small))
    assert code == 0 and "4 of 4 pairs of runs are measured, 0 of them now" in out
    main(["small", *places(small)])
    assert not computed and file(small).read_bytes() == before


def test_only_what_is_missing_is_computed_and_the_rest_stays(small, computed, command):
    before = file(small).read_text()
    gone = [line for line in before.splitlines() if "-output-" in line]
    file(small).write_text("".join(f"{line}\n" for line in before.splitlines() if line not in gone))
    code, out, _ = command("information", "small", *places(small))
    assert code == 0 and "4 of 4 pairs of runs are measured, 2 of them now" in out
    assert len(computed) == 4 and file(small).read_text() == before


def test_all_conditions_are_compared_with_the_same_predictions(small, computed, command):
    file(small).unlink()
    assert command("information", "small", *places(small))[0] == 0
    assert len(computed) == len({*computed}) == 6  # two seeds of three conditions


def test_without_folders_a_study_says_nothing_and_the_command_says_so(small, command, capsys):
    file(small).unlink()
    shutil.rmtree(small / "runs")
    main(["small", *places(small)])
    out, err = capsys.readouterr()
    assert "measured" not in out + err and not file(small).exists()
    code, out, _ = command("information", "small", *places(small))
    assert code == 0 and "0 of 4 pairs of runs are measured" in out
    assert f"of the others {small / 'runs'} lacks a run, or holds other parameters" in out


def changed(folder, name, everywhere=True):
    """Changes what a run has trained, as another machine may; everywhere: on record too."""
    run, records = folder / "runs" / name, folder / "results" / "records" / "small.jsonl"
    values, about = unpack(run / TRAINABLE)
    values = {one: value + 0.01 for one, value in values.items()}
    (run / TRAINABLE).write_bytes(pack(values, about))
    result = json.loads((run / RESULT).read_text()) | {"trainable": digest(values)}
    config = json.loads((run / CONFIG).read_text())
    result["checksum"] = checksum(config, read_curve(run), result)
    (run / RESULT).write_text(json.dumps(result))
    if everywhere:
        runs = [json.loads(line) for line in records.read_text().splitlines()]
        runs = [one | ({"result": result} if one["run"] == name else {}) for one in runs]
        records.write_text("".join(json.dumps(one) + "\n" for one in runs))


def test_the_line_of_a_changed_run_does_not_count_and_is_replaced(small, computed, command):
    line = line_of(small, "output")
    changed(small, line["run"])
    assert column(small)["output alone"].endswith("(n 1)")
    code, out, _ = command("information", "small", *places(small))
    assert code == 0 and "4 of 4 pairs of runs are measured, 1 of them now" in out
    again = line_of(small, "output")
    assert len(lines(small)) == 4 and again["nats"] != line["nats"]
    assert "(n" not in column(small)["output alone"]


def test_the_lines_of_a_changed_reference_do_not_count(small):
    changed(small, line_of(small, "output")["reference"])
    assert all(column(small)[name].endswith("(n 1)") for name in ("pretrained", "output alone"))


def test_a_folder_that_holds_another_run_than_the_one_on_record_is_not_taken_for_it(
        small, computed, command):
    line = line_of(small, "output")
    changed(small, line["run"], everywhere=False)
    file(small).write_text("".join(json.dumps(one) + "\n" for one in lines(small) if one != line))
    code, out, _ = command("information", "small", *places(small))
    assert code == 0 and "3 of 4 pairs of runs are measured, 0 of them now" in out
    assert not computed and line["run"] not in {one["run"] for one in lines(small)}


def test_the_column_has_the_mean_over_the_seeds_and_a_dash_where_there_is_none(small):
    found = [line["nats"] for line in lines(small) if "-output-" in line["run"]]
    half = 12.7062 * abs(found[0] - found[1]) / 2  # t(0.975) with one degree of freedom
    assert column(small)["output alone"] == f"{sum(found) / 2:.3f} ±{half:.3f}"
    assert column(small)["random"] == "-"
    text = table(small)
    assert text.count("KL(p || q)") == 1 and "of the runs of *random* with the same seeds" in text
    kept = [line for line in lines(small) if "-output-" not in line["run"]]
    kept += [line for line in lines(small) if "-output-" in line["run"]][:1]
    file(small).write_text("".join(json.dumps(line) + "\n" for line in kept))
    assert column(small)["output alone"] == f"{kept[-1]['nats']:.3f} (n 1)"
    file(small).unlink()
    assert column(small) == dict.fromkeys(("pretrained", "output alone", "random"), "-")


def test_a_study_without_a_reference_has_no_column_and_nothing_to_measure(small, command):
    study = small / "small.toml"
    study.write_text(study.read_text().replace('information = "random"\n', ""))
    assert "KL" not in table(small)
    code, _, err = command("information", "small", *places(small))
    assert code == 2 and err.count("\n") == 1
    assert f"{study} names no condition to measure" in err and "add a line like" in err


def test_a_condition_is_measured_on_the_tasks_of_the_reference_alone(small):
    study = small / "small.toml"
    text = study.read_text().replace('["bit-memory"]', '["bit-memory", "bit-xor"]')
    study.write_text(text.replace('load = "none"\n', 'load = "none"\ntasks = ["bit-memory"]\n'))
    measured = [(cell.task, cell.condition.name) for cell in studies.study("small").cells("mini")
                if cell.reference]
    assert measured == [("bit-memory", "pretrained"), ("bit-memory", "output alone")]


def test_a_reference_that_is_no_condition_is_refused_in_one_line(small):
    study = small / "small.toml"
    study.write_text(study.read_text().replace('information = "random"', 'information = "randm"'))
    with pytest.raises(UserError, match="'randm'; did you mean 'random'") as refused:
        studies.study("small")
    assert str(study) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("spoilt", ["{", "[]", "{}", '{"nats": 1.0}', '{"nats": "1"}'])
def test_a_damaged_line_is_refused_in_one_line(small, command, spoilt):
    file(small).write_text(file(small).read_text() + spoilt + "\n")
    code, _, err = command("information", "small", *places(small))
    assert code == 2 and err.count("\n") == 1
    assert f"{file(small)}, line 5 is damaged" in err and "delete the line" in err


def test_a_prediction_that_is_not_a_number_is_no_information(small, command, monkeypatch):
    file(small).unlink()
    nothing = np.full((1, 1, 2), math.nan), np.array([[True]])
    monkeypatch.setattr(information, "predicted", lambda *_: nothing)
    assert command("information", "small", *places(small))[0] == 0
    assert {line["nats"] for line in lines(small)} == {None}
    assert column(small)["pretrained"] == "-"
