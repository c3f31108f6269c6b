"""Pictures of runs: the same bytes for the same runs, and one line where there is nothing to draw."""

import json

import pytest

from fpt import UserError
from scripts.figure import MOST, draw, labelled


def run(accuracies=(0.5, 0.8), task="bit-memory", **settings):
    config = {"task": task, "sizes": {"bits": 4}, "body": "bodies/tiny", "load": "body", "train": "fpt", "lr": 1e-3, "seed": 0,
              "birth": "weights"} | settings
    curve = [{"step": 10 * number, "validation": {"accuracy": value, "slices": {"hidden": value / 2}}}
             for number, value in enumerate(accuracies)]
    floors = {"majority": 0.51, "hidden/vote": 0.69}
    return {"run": "-".join(map(str, config.values())), "config": config, "curve": curve, "result": {"floors": floors}}


def test_the_same_runs_give_the_same_picture():
    runs = [run(), run((0.4, 0.6), lr=1e-2)]
    for kind in ("svg", "png"):
        assert draw(runs, None, kind) == draw(runs, None, kind)


def test_a_picture_holds_its_runs_and_the_floors_that_apply():
    whole = draw([run(), run(lr=1e-2)], None, "svg").decode()
    assert "lr 0.001" in whole and "lr 0.01" in whole and "majority" in whole and "vote" not in whole
    part = draw([run(), run(lr=1e-2)], "hidden", "svg").decode()
    assert "vote" in part and "majority" not in part and "validation, hidden" in part
    assert draw([run((0.5, 0.9))], None, "svg") != draw([run((0.5, 0.8))], None, "svg")


def test_a_legend_says_in_what_runs_differ():
    labels = lambda *runs: [label for label, _ in labelled(list(runs))]
    assert labels(run(seed=2), run(seed=10), run(seed=1)) == ["seed 1", "seed 2", "seed 10"]
    assert labels(run(), run(body="gpt2-mini", load="none")) == ["gpt2-mini, random", "tiny, load body"]
    assert labels(run()) == ["bit-memory, tiny"]


@pytest.mark.parametrize("arguments, said", [
    ([], "name the folders of runs"),
    (["--study", "defualts", "--to", "x.svg"], "did you mean 'defaults'?"),
    (["--study", "defaults"], "--study needs --to"),
    (["--study", "defaults", "--to", "x.jpg"], "ends in .svg or .png"),
    (["--study", "defaults", "--to", "x.svg"], "name one with --task"),
    (["--study", "defaults", "--to", "x.svg", "--task", "mnits"], "did you mean 'mnist'?"),
    (["no-such-run"], "no-such-run"),
])
def test_a_mistake_is_one_line(command, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = command("figure", *arguments)
    assert code == 2 and err.count("\n") == 1 and said in err, err
    assert not list(tmp_path.iterdir())


def test_a_part_that_there_is_not_is_named():
    with pytest.raises(UserError, match="did you mean 'hidden'"):
        draw([run()], "hiden", "svg")


def test_a_study_is_drawn_from_its_records(command, tmp_path, monkeypatch):
    import scripts.figure

    monkeypatch.setattr(scripts.figure, "RECORDS", tmp_path)
    runs = [run(seed=seed) for seed in range(MOST + 1)]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(line) + "\n" for line in runs[:3]))
    code, out, err = command("figure", "--study", "many", "--to", tmp_path / "p.svg")
    assert code == 0 and "3 runs" in out, err
    assert "seed 2" in (tmp_path / "p.svg").read_text()
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(line) + "\n" for line in runs))
    code, _, err = command("figure", "--study", "many", "--to", tmp_path / "q.svg")
    assert code == 2 and f"more than the {MOST}" in err
