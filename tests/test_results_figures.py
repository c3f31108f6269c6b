"""Figures follow from the records alone, say what is missing, and are drawn again only if a record
that they show has changed."""

import json
import shutil
import xml.etree.ElementTree as xml
from pathlib import Path
from statistics import fmean, median

import pytest
from matplotlib.colors import to_hex

from fpt import UserError
from scripts import results_drawing, results_figures, results_tables, statistics, studies
from scripts.figure import COLOURS, content
from scripts.ledger import Ledger
from scripts.recorded import converged_at
from scripts.results import build, main
from scripts.results_figures import FORMATS, KINDS, Figure, drawn_from, figures
from tests import recording
from tests.made_results import FLOOR, FPT, RANDOM, REACHED, recorded, results, write
from tests.test_figure import curves

NINE = {condition.name: 0.9 - 0.05 * number
        for number, condition in enumerate(studies.study("main").conditions)}
STATED = ("curves", "bars", "steps")  # by studies/main.toml


@pytest.fixture
def folder(tmp_path):
    return results(tmp_path)


def data(folder, kind, study="main"):
    known = Ledger(folder / "records" / f"{study}.jsonl")
    numbers = results_tables.papers(folder / "papers.json")
    return drawn_from(kind, studies.study(study), "mini", known, numbers)


def panel(folder, kind, task="mnist", study="main"):
    found, = (panel for panel in data(folder, kind, study)["panels"] if panel["task"] == task)
    return found


def words(folder, kind, study="main"):
    """Draws a figure, and lists what is written in it."""
    picture = results_drawing.draw(data(folder, kind, study), "svg", "sha256:0")
    return ["".join(one.itertext()).strip() for one in xml.fromstring(picture).iter()
            if one.tag.endswith("}text")]


@pytest.fixture
def drawn(monkeypatch):
    """Returns a function that draws a figure, and returns matplotlib's axes by task."""
    from matplotlib import pyplot

    def draw(found):
        figure = results_drawing.draw(found, "svg", "")
        pyplot.close(figure)
        return {axes.get_title(loc="left"): axes for axes in figure.axes}

    monkeypatch.setattr(results_drawing, "content", lambda figure, form, digest: figure)
    return draw


def through(axes, marker):
    """Returns the points of the one line of a panel that has this marker."""
    line, = (line for line in axes.lines if line.get_marker() == marker and len(line.get_xdata()))
    return [*map(float, line.get_xdata())], [*map(float, line.get_ydata())]


def changed(folder, change, chosen=lambda run: True, study="main"):
    """Changes those of the records that are chosen."""
    file = folder / "records" / f"{study}.jsonl"
    runs = [json.loads(line) for line in file.read_text().splitlines()]
    for run in filter(chosen, runs):
        change(run)
    write(folder, runs, study)


@pytest.mark.parametrize("kind, axes", [
    ("curves", {"training step", "accuracy on validation"}),
    ("rates", {"learning rate", "accuracy on test", "chosen on validation",
               "Lu et al. 2021: 0.001"}),
    ("bars", {"accuracy on test", "the paper's number, at its own sizes"}),
    ("steps", {"training step", "end of training"})])
def test_a_figure_names_its_question_tasks_conditions_axes_and_sizes(folder, kind, axes):
    found = words(folder, kind)
    assert {studies.study("main").question, "bit-xor", "mnist", *REACHED, *axes} <= {*found}
    assert ("best trivial predictor" in found) == (kind != "steps")
    assert "steps of 16 examples, patch 14, side 28." in " ".join(found)


def test_what_is_missing_is_named(folder):
    write(folder, [run for run in recorded() if run["config"]["task"] != "bit-xor"
                   or run["config"]["load"] == "body" or run["config"]["body"] == "none"])
    for kind in STATED:
        found = " ".join(words(folder, kind))
        assert "Missing tasks: bit-memory, listops, cifar10." in found
        assert "Missing on bit-xor: frozen random; fully trained." in found
        assert "Missing conditions: frozen random, depth-scaled; LSTM; LSTM, standard initialisation; one block" \
            in found


def test_seeds_that_are_missing_and_runs_that_diverged_are_named(folder):
    write(folder, [run for run in recorded({FPT: 0.9})
                   if run["config"]["task"] == "mnist" and run["config"]["seed"] < 4])

    def diverge(run):
        run["curve"] = run["curve"][:3]
        run["result"]["diverged_at"] = 7

    changed(folder, diverge, lambda run: run["config"]["seed"] == 2)
    found = " ".join(words(folder, "curves"))
    assert f"Fewer than 5 seeds: {FPT} (3 on mnist)." in found
    assert f"Diverged runs: {FPT} (1 of 3 on mnist)." in found
    curve = panel(folder, "curves")["conditions"][FPT]
    assert [*curve] == ["0", "5", "10"] and all(len(values) == 3 for values in curve.values())


def test_a_rate_that_is_not_chosen_yet_is_named(folder):
    write(folder, [run for run in recorded({FPT: 0.9}, ["mnist"]) if run["config"]["lr"] > 1e-3])
    assert f"Rate not chosen yet, for lack of runs: {FPT} (on mnist)." in words(folder, "rates")
    assert panel(folder, "rates")["conditions"][FPT]["chosen"] is None


def test_a_curve_goes_through_the_means_of_the_seeds_that_count_in_a_band(folder, drawn):
    changed(folder, lambda run: run["curve"][3]["validation"].update(accuracy=0.0),
            lambda run: run["config"]["seed"] == 0)
    axes = drawn(data(folder, "curves"))["mnist"]
    steps, means = through(axes, "o")
    reached = [0.95 - 0.001 * seed**2 for seed in range(1, 6)]
    assert steps == [0, 5, 10, 15, 20, 25]
    assert means == pytest.approx([share * fmean(reached) for share in (.1, .5, .995, 1, .9, .9)])
    band = statistics.mean(reached)
    heights = [y for one in axes.collections[0].get_paths() for x, y in one.vertices if x == 15]
    assert (min(heights), max(heights)) == pytest.approx((band.low, band.high))
    floor, = (line for line in axes.lines if [*line.get_xdata()] == [0, 1])
    assert [*floor.get_ydata()] == [FLOOR, FLOOR]


def test_the_start_of_curves_does_not_flatten_the_rest(folder, drawn):
    low, high = drawn(data(folder, "curves"))["mnist"].get_ylim()
    assert 0.1 < low < 0.2 < 0.97 < high  # of all curves 0.04 is least, and after training 0.19


def test_rates_show_all_runs_on_record_and_which_rate_was_chosen(folder, drawn):
    by_rate = {1e-5: 0.6, 1e-3: 0.8, 3e-3: 0.9}
    write(folder, recorded({"frozen pretrained": by_rate}, ["mnist"], "dispute"), "dispute")
    changed(folder, lambda run: run["result"]["test"].update(accuracy=0.7), study="dispute",
            chosen=lambda run: run["config"]["lr"] == 1e-4 and run["config"]["seed"] == 6)
    one = panel(folder, "rates", study="dispute")["conditions"]["frozen pretrained"]
    # Three seeds choose among all rates, and five count at 1e-4 and 1e-3 (3e-3 was not run again).
    assert {rate: len(values) for rate, values in one["test"].items()} == {
        f"{rate}": 8 if rate in (1e-4, 1e-3) else 3
        for rate in studies.study("dispute").conditions[0].rates}
    axes = drawn(data(folder, "rates", "dispute"))["mnist"]
    lines = [line for line in axes.lines if line.get_marker() == "o"]
    line, ring = sorted(lines, key=lambda line: -len(line.get_xdata()))
    height = dict(zip(line.get_xdata(), line.get_ydata()))
    assert height[1e-4] == pytest.approx(fmean(one["test"]["0.0001"]))
    assert [*ring.get_xdata()] == [3e-3] and [*ring.get_ydata()] == [height[3e-3]]
    assert axes.get_xscale() == "log"


def test_an_interval_between_single_runs_is_seen(folder, drawn):
    axes = drawn(data(folder, "rates"))["mnist"]
    ends = [one.vertices[:, 1] for lines in axes.collections if not lines.get_array()
            for one in lines.get_paths() if len(one.vertices) == 2]
    values = panel(folder, "rates")["conditions"][FPT]["test"]["0.001"]
    assert len(values) == 6 and any(
        [*end] == pytest.approx(statistics.mean(values)[1:3]) for end in ends)


def test_bars_are_rows_in_the_studys_order_with_intervals_and_the_papers_numbers(folder, drawn):
    found = data(folder, "bars")
    panels = drawn(found)
    axes, names = panels["mnist"], [one.get_text() for one in panels["bit-xor"].get_yticklabels()]
    assert names == [name for name in found["conditions"] if name in REACHED]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # from the top down
    values = panel(folder, "bars")["conditions"][RANDOM]["test"]
    assert len(values) == 5 and through(axes, "s") == ([pytest.approx(fmean(values))], [1])
    low, high = axes.collections[names.index(RANDOM)].get_paths()[0].vertices[:, 0]
    assert (low, high) == pytest.approx(statistics.mean(values)[1:3])
    papers = [(line.get_xdata()[0], round(line.get_ydata()[0])) for line in axes.lines
              if line.get_marker() == "d"]
    assert sorted(papers) == [(0.98, names.index(FPT)), (0.991, names.index("fully trained"))]


def test_steps_show_median_and_range_and_what_is_below_the_floor(folder, drawn):
    write(folder, recorded(converged=lambda condition, seed: 10 * (seed + 1) ** 2))
    runs = [run for run in Ledger(folder / "records" / "main.jsonl").recorded.values()
            if run["config"]["task"] == "mnist" and run["config"]["train"] == "fpt"
            and run["config"]["load"] == "none" and run["config"]["seed"]]
    steps = [*map(converged_at, runs)]
    panels = drawn(data(folder, "steps"))
    axes, legend = panels["mnist"], panels[""].get_legend()
    assert through(axes, "s") == ([median(steps)], [1]) and axes.get_xscale() == "log"
    assert [*axes.collections[1].get_paths()[0].vertices[:, 0]] == [min(steps), max(steps)]
    hollow = {line.get_marker() for line in axes.lines
              if to_hex(line.get_markerfacecolor()) == "#ffffff"}
    assert hollow == {"<"}  # no body reaches 0.4, of 0.5
    assert "hollow: not above the best trivial predictor, on test" in [
        one.get_text() for one in legend.get_texts()]


def test_nine_conditions_can_be_told_apart_in_gray_too(folder, drawn):
    write(folder, recorded(NINE))
    axes = drawn(data(folder, "curves"))["mnist"]
    markers = [line.get_marker() for line in axes.lines if len(line.get_xdata()) > 2]
    assert len(markers) == 9 == len({*markers})
    found = curves(content(axes.figure, "svg"))
    assert len({(colour, dashes) for colour, dashes, _ in found}) == 9
    assert {colour for colour, *_ in found} == {*COLOURS}
    assert len({dashes for _, dashes, _ in found}) == 4


def test_a_condition_keeps_its_look_when_others_are_missing(folder, drawn):
    whole = drawn(data(folder, "curves"))["mnist"]
    write(folder, recorded({"no body": REACHED["no body"]}))
    alone = drawn(data(folder, "curves"))["mnist"]
    assert through(alone, "<") == through(whole, "<")


def test_the_legend_covers_no_data(folder):
    from matplotlib import pyplot

    write(folder, recorded(NINE, [*studies.study("main").tracks["mini"].tasks]))
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results_drawing, "content", lambda figure, *_: kept.append(figure))
        for kind in KINDS:
            results_drawing.draw(data(folder, kind), "svg", "")
    for figure in kept:
        figure.canvas.draw()
        *panels, place = figure.axes
        box = place.get_legend().get_window_extent()
        assert len(panels) == 5 and not any(box.overlaps(one.get_window_extent())
                                            for one in panels)
        pyplot.close(figure)


def test_the_digest_is_of_what_is_shown(folder):
    digests = lambda: [Figure(data(folder, kind), None).digest for kind in KINDS]
    before = digests()
    assert len({*before}) == len(KINDS)
    changed(folder, lambda run: run["result"].update(seconds=1e6, steps_per_second=1e-6))
    changed(folder, lambda run: run["result"]["test"].update(loss=0.123))
    assert digests() == before
    one = lambda run: (run["config"]["seed"], run["config"]["task"]) == (3, "mnist")
    changed(folder, lambda run: run["result"]["test"].update(accuracy=0.123), one)
    assert [now != then for now, then in zip(digests(), before)] == [False, True, True, True, True]
    changed(folder, lambda run: run["curve"][-1]["validation"].update(accuracy=0.123), one)
    assert digests()[0] != before[0]


def test_both_files_hold_the_digest_and_the_same_data_give_the_same_bytes(folder):
    for kind in KINDS:
        figure = Figure(data(folder, kind), results_drawing.draw)
        for form in FORMATS:
            picture = figure.drawn(form)
            assert figure.digest.encode() in picture and picture == figure.drawn(form)


def test_only_figures_whose_records_or_drawing_code_changed_are_drawn_again(folder, monkeypatch, capsys):
    def draw(found, form, digest):
        made.append((found["kind"], form))
        return f"{digest} {len(made)}".encode()

    made = []
    monkeypatch.setattr(results_drawing, "draw", draw)
    again = lambda: made.clear() or main(["--results", str(folder)]) or sorted(made)
    files = lambda: {file: file.read_bytes() for file in folder.glob("figures/main-*")}
    assert again() == sorted((kind, form) for kind in STATED for form in FORMATS)
    first = files()
    assert len(first) == 6 and again() == [] and files() == first
    assert "0 of" in capsys.readouterr().out
    (folder / "figures" / "main-bars.png").unlink()
    assert again() == [("bars", "png")]
    changed(folder, lambda run: run["curve"][-1]["validation"].update(accuracy=0.123))
    assert again() == [("curves", "png"), ("curves", "svg")]
    monkeypatch.setattr(results_figures, "DRAWING", "another way to draw")
    assert len(again()) == 6 and again() == []


def test_the_figure_of_the_claims_shows_what_was_judged(folder):
    made = build(folder)
    assert "(figures/claims.svg)" in made[folder / "claims.md"]
    figure = made[folder / "figures" / "claims.svg"]
    row, = (row for row in figure.data["rows"]
            if row["claim"].startswith("1. ") and "frozen random" in row["claim"])
    assert row["margin"] == 0 and row["found"].keys() == {"bit-xor", "mnist"}
    assert row["found"]["mnist"] == {"effect": pytest.approx((0.05, 0.05, 0.05)),
                                     "verdict": "supported"}
    drawn = figure.drawn("svg").decode()
    for text in ("1. A frozen body that was trained on language", "undecided", ">bit-xor<"):
        assert text in drawn
    write(folder, [])
    made = build(folder)
    assert made[folder / "figures" / "claims.svg"] is None
    assert "claims.svg" not in made[folder / "claims.md"]


def test_check_looks_at_digests_and_not_at_how_text_was_laid_out(folder):
    main(["--results", str(folder)])
    file = folder / "figures" / "main-curves.svg"
    file.write_text(file.read_text().replace("DejaVu Sans", "Another Sans"))
    main(["--check", "--results", str(folder)])
    changed(folder, lambda run: run["curve"][-1]["validation"].update(accuracy=0.123))
    with pytest.raises(UserError, match="main-curves.svg, [^ ]*main-curves.png: not what"):
        main(["--check", "--results", str(folder)])


def test_a_figure_of_which_no_record_is_left_is_removed(folder, monkeypatch):
    monkeypatch.setattr(results_drawing, "draw", lambda data, form, digest: digest.encode())
    main(["--results", str(folder)])
    other = folder / "figures" / "by-hand.svg"
    other.write_text("mine")
    write(folder, [])
    assert not any(figures(folder, "mini").values())
    with pytest.raises(UserError, match="main-steps.png"):
        main(["--check", "--results", str(folder)])
    main(["--results", str(folder)])
    assert [*folder.glob("figures/*")] == [other]
    main(["--check", "--results", str(folder)])


def test_an_unknown_kind_of_figure_is_one_line(folder, tmp_path, monkeypatch):
    copied = tmp_path / "studies"
    shutil.copytree(studies.STUDIES, copied)
    monkeypatch.setattr(studies, "STUDIES", copied)
    file = copied / "main.toml"
    file.write_text(file.read_text().replace('"curves"', '"curvs"'))
    with pytest.raises(UserError, match="main.toml 'curvs'; did you mean 'curves'") as refused:
        figures(folder, "mini")
    assert "\n" not in str(refused.value)


def test_figures_of_older_records_follow_from_them_too(folder):
    assert not [name for name in results_figures.OTHERS
                if figures(folder, "mini")[folder / "figures" / f"{name}.svg"]]
    write(folder, [recording.run(seed=seed) for seed in (0, 1)], "births")
    file = folder / "figures" / "births.svg"
    figure = figures(folder, "mini")[file]
    picture = figure.drawn("svg")
    assert figure.digest.encode() in picture and b"hidden" in picture


def test_a_page_shows_the_figures_that_there_are():
    study, folder = studies.study("main"), Path("results") / "figures"
    lines = results_figures.shown(study, [folder / "main-bars.svg", folder / "main-bars.png",
                                          folder / "roles-bars.svg"])
    assert lines == [f"![main: {KINDS['bars']}](../figures/main-bars.svg)"]
