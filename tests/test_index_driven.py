"""Tests the index of runs in a browser, as its reader uses it: choose, sort, filter, compare and
save, by pointer and by keyboard."""

import csv
import io
import json
import re
import time
import xml.etree.ElementTree as ElementTree

import pytest

from scripts.figure import COLOURS
from scripts.page_index import write
from tests.recording import leave, run

EVIL = ("</script><script>document.title = 'taken'</script>"
        "<img src=x onerror=\"document.title = 'taken'\">")
MANY = 500
SECONDS = 2  # that opening, sorting or filtering so many may take


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Writes the index of six runs: two bodies, two seeds, one that diverged, one that is
    unfinished, one damaged, one of another task."""
    out = tmp_path_factory.mktemp("few") / "runs"
    names = {}
    for name, made, missing in (
            ("copy", run((0.5, 0.7, 0.9), test=0.9, body="copy"), ()),
            ("tiny0", run((0.5, 0.6, 0.8), test=0.8), ()),
            ("tiny1", run((0.5, 0.7, 0.7), test=0.7, seed=1), ()),
            ("unfinished", run((0.4,), body="copy", lr=10.0, steps=20), ("result.json",)),
            ("damaged", run(lr=7.0), ()),
            ("mnist", run((0.1, 0.3, 0.2), test=0.3, task="mnist", floor=0.92), ())):
        if name == "mnist":
            made["result"] |= {"status": "diverged", "floors": {"majority": 0.1, "logistic": 0.92}}
        names[name] = leave(out, made | {"run": name}, *missing).name
    (out / "damaged" / "result.json").write_text("{")
    (out / "copy" / "page.html").write_text("<title>the page of a run</title>")
    return write(out)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    out = tmp_path_factory.mktemp("many")
    for number in range(MANY):
        accuracies = [0.5 + 0.5 * (number % 97) / 97 * (1 - 0.9 ** step) for step in range(21)]
        leave(out, run(accuracies, test=accuracies[-1],
                       task=("bit-memory", "bit-xor", "mnist")[number % 3], seed=number % 5,
                       body=f"body{number % 7}", lr=10.0 ** -(number % 4))
              | {"run": f"run{number:03}"})
    return write(out)


def names(page):
    """Lists the runs that are shown, from the top."""
    return page.eval_on_selector_all("#runs tbody tr", "rows => rows.map(row => row.title)")


def chosen(page):
    return page.eval_on_selector_all("#runs tbody tr:has(:checked)",
                                     "rows => rows.map(row => row.title)")


def curves(page):
    return page.locator("#picture svg[role=img] .curve path").count()


def choose(page, *runs):
    for name in runs:
        page.click(f"#runs tr[title={name}] td.body")


def saved(page, button):
    with page.expect_download() as download:
        page.click(button)
    return download.value.path().read_text()


def within(page, act, expected):
    """Measures the seconds from an act until the browser has painted its effect, and asserts it."""
    started = time.monotonic()
    act()
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    took = time.monotonic() - started
    assert page.evaluate(expected)
    return took


def test_five_hundred_runs_open_sort_filter_and_draw_without_a_wait(opened, many):
    page, took = opened(many), {}
    shown = lambda count: f"document.querySelectorAll('#runs tbody tr').length === {count}"
    took["open"] = within(page, page.reload, shown(MANY))
    first = "document.querySelector('#runs tbody tr').title"
    took["sort"] = within(page, lambda: page.click("button[data-sort=test]"),
                          f"{first} === 'run096'")
    took["filter"] = within(page, lambda: page.select_option("[data-field=body]", "body3"),
                            shown(71))
    took["words"] = within(page, lambda: page.fill("#words", "run01"), shown(2))
    page.click("button[type=reset]")
    took["choose"] = within(page, lambda: page.click("#choose"),
                            f"document.querySelectorAll('.curve path').length === {MANY}")
    print({name: round(seconds, 2) for name, seconds in took.items()},
          f"{many.stat().st_size / 1e6:.2f} MB")
    assert max(took.values()) < SECONDS, took


def test_a_click_on_a_column_sorts_by_it_and_another_turns_it_around(opened, few):
    page = opened(few)
    page.click("button[data-sort=test]")
    falling = names(page)
    assert (falling[:4] == ["copy", "tiny0", "tiny1", "mnist"]
            and {*falling[4:]} == {"unfinished", "damaged"})
    assert page.get_attribute("th:has([data-sort=test])", "aria-sort") == "descending"
    page.click("button[data-sort=test]")
    assert (names(page)[:4] == ["mnist", "tiny1", "tiny0", "copy"]
            and {*names(page)[4:]} == {"unfinished", "damaged"})
    page.click("button[data-sort=lr]")
    assert names(page)[-2:] == ["damaged", "unfinished"]  # 7 and 10: as numbers


@pytest.mark.parametrize("field, value, found", [
    ("task", "mnist", {"mnist"}), ("body", "copy", {"copy", "unfinished"}),
    ("lr", "7", {"damaged"}), ("seed", "1", {"tiny1"}),
    ("status", "diverged", {"mnist"}), ("status", "unfinished", {"unfinished"}),
    ("status", "damaged", {"damaged"}),
])
def test_a_field_filters(opened, few, field, value, found):
    page = opened(few)
    page.select_option(f"[data-field={field}]", value)
    assert {*names(page)} == found and f"{len(found)} of 6 runs" in page.inner_text("#count")


def test_words_filter_in_any_column_and_nothing_found_says_so(opened, few):
    page = opened(few)
    page.fill("#words", "TINY bit-memory 0.001")
    assert {*names(page)} == {"tiny0", "tiny1"}
    page.fill("#words", "nowhere")
    assert (not names(page) and page.is_visible("text=No run matches the filters")
            and page.is_disabled("#choose"))
    page.click("button[type=reset]")
    assert len(names(page)) == 6


def test_a_damaged_run_says_why_and_an_unfinished_one_how_far_it_is(opened, few):
    page = opened(few)
    assert "result.json is damaged" in page.inner_text("tr[title=damaged] td.status")
    assert "0.400 on validation at step 0" in page.inner_text("tr[title=unfinished] td.status")


def test_what_is_chosen_is_drawn_a_colour_for_each_condition(opened, few):
    page = opened(few)
    assert page.is_visible("#nothing") and page.is_hidden("#drawn")
    choose(page, "tiny0", "copy", "tiny1")
    assert curves(page) == 3 and page.locator("#picture .curve").count() == 2
    assert page.locator("#picture li").all_inner_texts() == ["tiny (2 seeds)", "copy"]
    colours = "all => [...new Set(all.map(one => getComputedStyle(one).stroke))]"
    strokes = page.eval_on_selector_all("#picture .curve path", colours)
    assert (strokes == [f"rgb({int(c[1:3], 16)}, {int(c[3:5], 16)}, {int(c[5:], 16)})"
                        for c in COLOURS[:2]])
    label = page.get_attribute("#picture svg[role=img]", "aria-label")
    assert "tiny (2 seeds): at best 0.800 at step 20" in label
    choose(page, "tiny0", "tiny1")
    assert curves(page) == 1 and chosen(page) == ["copy"]
    # The curve keeps its colour.
    assert page.eval_on_selector_all("#picture .curve path", colours) == strokes[1:]


def test_the_legend_says_what_tells_runs_apart_and_no_more(opened, tmp_path):
    out = tmp_path / "runs"
    for name, settings in {"a": {}, "b": {"birth": "mimetic"}, "c": {"load": "none"},
                           "d": {"batch": 4, "clip": 2.0}}.items():
        leave(out, run(**settings) | {"run": name})
    page = opened(write(out))
    page.click("#choose")
    assert page.locator("#picture li").all_inner_texts() == [
        "tiny, batch 2", "tiny, mimetic, batch 2", "tiny, random, batch 2", "tiny, batch 4"]
    choose(page, "d")
    assert (page.locator("#picture li").all_inner_texts()
            == ["tiny", "tiny, mimetic", "tiny, random"])


def test_a_curve_goes_through_its_accuracies(opened, few):
    page = opened(few)
    choose(page, "tiny0")
    path = page.get_attribute("#picture .curve path", "d")
    across, down = zip(*[map(float, point.split()) for point in re.findall(r"[\d.]+ [\d.]+", path)])
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.11)
    assert (down[0] - down[1]) * 2 == pytest.approx(down[1] - down[2], abs=0.31)  # 0.5, 0.6, 0.8
    page.click("#numbers summary")
    assert page.inner_text("#numbers tbody tr").split("\t") == ["tiny0", "0.500", "0.600", "0.800"]
    assert "floor: majority\t0.510" in page.inner_text("#numbers tbody")


def test_a_part_of_the_answers_has_its_own_curves_and_floors(opened, few):
    page = opened(few)
    choose(page, "tiny0")
    assert ("0.510 majority" in page.inner_text("#picture")
            and "vote" not in page.inner_text("#picture"))
    page.select_option("#part", "hidden")
    assert ("0.690 vote" in page.inner_text("#picture")
            and "majority" not in page.inner_text("#picture"))
    assert "at best 0.400 at step 20" in page.get_attribute("#picture svg[role=img]", "aria-label")


def test_of_several_tasks_the_best_floor_of_each_is_drawn(opened, few):
    page = opened(few)
    choose(page, "tiny0", "mnist")
    drawn = " ".join(page.inner_text("#picture").split())
    assert ("0.510 bit-memory, majority" in drawn and "0.920 mnist, logistic" in drawn
            and "0.100" not in drawn)
    choose(page, "tiny0")
    assert "0.920 logistic 0.100 majority" in " ".join(page.inner_text("#picture").split())


def test_a_link_keeps_the_filters_the_order_the_part_and_the_choice(opened, few):
    page = opened(few)
    page.select_option("[data-field=body]", "tiny")
    page.fill("#words", "bit-memory")
    page.click("button[data-sort=test]")
    page.click("#choose")
    page.select_option("#part", "hidden")
    page.wait_for_url("**part=hidden**")
    other = opened(few, page.evaluate("location.hash"))
    assert (names(other) == names(page) == ["tiny0", "tiny1", "damaged"]
            and chosen(other) == ["tiny0", "tiny1", "damaged"])
    assert other.input_value("#part") == "hidden" and other.input_value("#words") == "bit-memory"
    assert other.input_value("[data-field=body]") == "tiny" and curves(other) == 2


def test_a_link_to_what_is_no_longer_there_shows_what_is(opened, few):
    page = opened(few, "#body=gone&sort=-nothing&part=lost&run=away&run=copy&lr=")
    assert len(names(page)) == 6 and chosen(page) == ["copy"] and curves(page) == 1


def test_the_keyboard_alone_suffices(opened, few):
    page = opened(few)
    page.focus("button[data-sort=above]")
    page.keyboard.press("Enter")
    assert names(page)[0] == "copy"
    page.focus("button[data-sort=above]")
    page.keyboard.press("Tab")
    for key in ("ArrowDown", "Space", "End", "ArrowUp", "Home", "Space"):
        page.keyboard.press(key)
    assert chosen(page) == ["copy", "tiny0"] and curves(page) == 2
    page.keyboard.press("Escape")
    assert not chosen(page) and page.is_visible("#nothing") and page.is_disabled("#clear")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_url("**/copy/page.html")
    assert page.title() == "the page of a run"


def test_the_command_that_makes_a_page_is_told_on_request_and_esc_leaves_the_choice(opened, few):
    page = opened(few)
    choose(page, "copy")
    page.click("tr[title=tiny0] td.page button")
    assert page.input_value("#command") == "python -m scripts.page runs/tiny0"
    page.keyboard.press("Escape")
    assert page.is_hidden("#making") and chosen(page) == ["copy"]


def test_the_legend_brings_a_curve_forward(opened, few):
    page = opened(few)
    choose(page, "tiny0", "copy")
    page.click("#picture li button:has-text('copy')")
    page.mouse.move(0, 0)
    page.locator("#picture li button").first.focus()
    page.locator("#picture li button").first.blur()
    on = "all => all.map(one => one.classList.contains('on'))"
    assert page.eval_on_selector_all(".curve", on) == [False, True]


def test_what_is_saved_can_be_read_back(opened, few):
    page = opened(few)
    page.select_option("[data-field=task]", "bit-memory")
    page.click("button[data-sort=test]")
    rows = list(csv.DictReader(io.StringIO(saved(page, "#table-csv"), newline="")))
    assert ([row["run"] for row in rows] == names(page)
            and [row["test"] for row in rows[:3]] == ["0.9", "0.8", "0.7"])
    damage = next(row["damage"] for row in rows if row["run"] == "damaged")
    assert "result.json is damaged" in damage
    choose(page, "copy", "tiny0", "tiny1")
    drawn = saved(page, "#curves-svg")
    picture = ElementTree.fromstring(drawn)
    assert "var(" not in drawn and len(picture.findall(".//{*}g/{*}path")) == 3
    assert "tiny (2 seeds)" in "".join(picture.itertext())
    points = list(csv.DictReader(io.StringIO(saved(page, "#curves-csv"), newline="")))
    assert ([point["accuracy on validation"] for point in points if point["run"] == "tiny0"]
            == ["0.5", "0.6", "0.8"])


@pytest.mark.parametrize("width", [380, 900])
def test_on_a_narrow_screen_nothing_is_cut_off(opened, tmp_path, width):
    for name, settings in {"copy": {"test": 0.9, "body": "a-body-with-a-long-name"},
                           "tiny": {"train": "input+output+attention@0-5"}}.items():
        leave(tmp_path, run(**settings) | {"run": name})
    page = opened(write(tmp_path), width=width)
    page.click("#choose")
    assert curves(page) == 2 and page.evaluate("document.documentElement.scrollWidth") == width
    wide = ("all => all.filter(one => one.scrollWidth > one.clientWidth)"
            ".map(one => one.className || one.id)")
    assert not page.eval_on_selector_all("#runs, #runs td", wide)
    right = "all => Math.max(...all.map(one => one.getBoundingClientRect().right))"
    assert page.eval_on_selector_all("#runs td, #picture text, #filters *", right) <= width
    page.select_option("#sort", "-test")
    assert names(page)[0] == "copy"


def test_the_picture_is_fitted_to_a_window_that_changes(opened, few):
    page = opened(few)
    choose(page, "tiny0")
    wide = page.evaluate("document.querySelector('#picture svg').clientWidth")
    page.set_viewport_size({"width": 600, "height": 900})
    page.wait_for_timeout(300)
    now = page.evaluate("document.querySelector('#picture svg').clientWidth")
    assert page.get_attribute("#picture svg", "width") == str(now) and now < wide / 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_lines_stand_out_from_the_ground(opened, few, scheme, tmp_path):
    out = tmp_path / "runs"
    for number in range(len(COLOURS)):
        leave(out, run(lr=float(number + 1)) | {"run": f"run{number}"})
    page = opened(write(out), color_scheme=scheme)
    page.click("#choose")
    page.mouse.move(0, 0)
    ratios = page.evaluate("""() => {
        const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        const light = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).map((c) => linear(c / 255))
            .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
        const ground = light(getComputedStyle(document.getElementById("picture")).backgroundColor);
        const ratio = (one) => (Math.max(one, ground) + 0.05) / (Math.min(one, ground) + 0.05);
        const least = (found, key) => Math.min(...[...document.querySelectorAll(found)]
            .map((one) => ratio(light(getComputedStyle(one)[key]))));
        return { words: Math.min(least("#picture text", "fill"),
                                 least("#filters label, #runs button, #picture button", "color")),
                 lines: least("#picture .curve path", "stroke") };
    }""")
    assert ratios["words"] >= 4.5 and ratios["lines"] >= 2, ratios


def test_what_a_run_says_of_itself_stays_text(opened, tmp_path):
    out = tmp_path / "runs"
    made = run(task=EVIL, body=EVIL) | {"run": "evil"}
    made["result"]["floors"] = {EVIL.replace("/", "|"): 0.6}
    for line in made["curve"]:
        line["validation"]["slices"] = {EVIL: 0.5}
    leave(out, made)
    broken = leave(out, run() | {"run": "broken"})
    (broken / "config.json").write_text(json.dumps({"task": EVIL, "body": EVIL}))
    page = opened(write(out))
    page.click("#choose")
    page.select_option("#part", EVIL)
    page.click("#numbers summary")
    assert (page.title() == "Runs in runs" and page.locator("img").count() == 0
            and page.locator("script").count() == 2)
    assert EVIL in page.inner_text("tr[title=evil] td.task")
    rows = csv.DictReader(io.StringIO(saved(page, "#table-csv"), newline=""))
    assert {row["task"] for row in rows} == {EVIL}
    assert EVIL in "".join(ElementTree.fromstring(saved(page, "#curves-svg")).itertext())
