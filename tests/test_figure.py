"""Tests pictures of runs: the same bytes for the same runs, and one line where nothing is drawn."""

import json
import re

import numpy as np
import pytest

from fpt import UserError
from scripts.figure import COLOURS, MOST, draw
from scripts.recorded import conditions
from tests.made_results import recorded, write
from tests.recording import run


def test_the_same_runs_give_the_same_picture():
    runs = conditions([run(), run((0.4, 0.6), lr=1e-2)])
    for kind in ("svg", "png"):
        assert draw(runs, None, kind) == draw(runs, None, kind)


def test_a_picture_holds_its_runs_and_the_floors_that_apply():
    runs = conditions([run(), run(lr=1e-2)])
    whole = draw(runs, None, "svg").decode()
    assert ("lr 0.001" in whole and "lr 0.01" in whole and "majority" in whole
            and "vote" not in whole)
    part = draw(runs, "hidden", "svg").decode()
    assert "vote" in part and "majority" not in part and "validation, hidden" in part
    one, other = ({"one": [run((0.5, last))]} for last in (0.9, 0.8))
    assert draw(one, None, "svg") != draw(other, None, "svg")


def test_runs_that_differ_by_seed_alone_share_a_colour_and_a_name():
    runs = [run((0.5, 0.7 + seed / 10), lr=lr, seed=seed) for lr in (1e-3, 1e-2)
            for seed in (0, 1, 2)]
    picture = draw(conditions(runs), None, "svg")
    assert [picture.count(colour.encode()) > 0 for colour in COLOURS[:3]] == [True, True, False]
    assert picture.count(b">lr 0.001<") == 1 and b"seed" not in picture


def curves(picture):
    """Reads colour, dashes and the heights of the points, from the top down, of each curve."""
    found = re.findall(r'<path d="([^"]*)" clip-path[^>]*style="fill: none; ([^"]*)"',
                       picture.decode())
    styles = [dict(part.split(": ") for part in style.split("; ")) for _, style in found]
    return [(style["stroke"], style.get("stroke-dasharray", ""),
             [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", path)])
            for style, (path, _) in zip(styles, found) if style["stroke"] in COLOURS]


def test_a_curve_goes_through_the_accuracies_of_the_whole_or_of_a_part():
    one = run((0.5, 0.9, 0.6))
    for line in one["curve"]:
        line["validation"]["slices"]["hidden"] = 1 - line["validation"]["accuracy"]
    for part, shape in ((None, [0.5, 0.9, 0.6]), ("hidden", [0.5, 0.1, 0.4])):
        (_, _, heights), = curves(draw({"one": [one]}, part, "svg"))
        expected = np.interp(shape, sorted(shape), sorted(-y for y in heights))
        assert [-value for value in heights] == pytest.approx(expected)


def test_conditions_that_share_a_colour_differ_by_their_lines():
    found = curves(draw({f"condition {number}": [run()] for number in range(MOST)}, None, "svg"))
    assert len(found) == MOST == len({(colour, dashes) for colour, dashes, _ in found})


def test_a_long_legend_leaves_the_curves_their_room():
    def height(conditions):
        told = {f"a condition that fills a line by itself, number {number}": [run()]
                for number in range(conditions)}
        picture = draw(told, None, "svg").decode()
        background = re.search(r'id="patch_2">\s*<path d="([^"]*)"', picture)[1]
        down = [float(point.split()[1]) for point in re.findall(r"[ML] ([\d. ]+)", background)]
        return max(down) - min(down)

    assert min(height(16), height(MOST)) > 0.9 * height(4)


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
        draw({"one": [run()]}, "hiden", "svg")


def test_a_study_is_drawn_from_its_records(command, tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.recorded.RECORDS", tmp_path)
    runs = [run(lr=1 + number) for number in range(MOST + 1)]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(line) + "\n" for line in runs[:3]))
    code, out, err = command("figure", "--study", "many", "--to", tmp_path / "p.svg")
    assert code == 0 and "3 runs" in out, err
    assert "lr 3" in (tmp_path / "p.svg").read_text()
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(line) + "\n" for line in runs))
    code, _, err = command("figure", "--study", "many", "--to", tmp_path / "q.svg")
    assert code == 2 and f"more than the {MOST}" in err and "--chosen" in err
    code, out, err = command("figure", "--study", "many", "--to", tmp_path / "q.svg", "--chosen",
                             "True")
    assert code == 0 and "1 run\n" in out, err


def test_a_study_with_a_file_is_drawn_by_its_conditions(command, tmp_path, monkeypatch):
    reached = {"trained on language": 0.8, "trained on bit memory": 0.7}  # which has a body for each seed
    write(tmp_path, recorded(reached, ("bit-xor",), "modality"), "modality")
    monkeypatch.setattr("scripts.recorded.RECORDS", tmp_path / "records")
    asked = ["figure", "--study", "modality", "--to", tmp_path / "p.svg"]
    code, out, err = command(*asked)
    assert code == 0 and "16 runs" in out, err  # three rates for one seed, and five that count
    picture = (tmp_path / "p.svg").read_text()
    assert ">trained on language, lr 0.003<" in picture
    assert picture.count(">trained on bit memory, lr 0.001<") == 1
    code, out, err = command(*asked, "--task", "bit-xor", "--chosen", "True")
    assert code == 0 and "10 runs" in out, err
    picture = (tmp_path / "p.svg").read_text()
    assert ">trained on language<" in picture and picture.count(">trained on bit memory<") == 1
    code, out, err = command(*asked, "--task", "mnist")
    assert code == 2 and "scripts.study modality" in err and err.count("\n") == 1
