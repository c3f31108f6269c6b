"""Tests the page of a run in a browser, as its reader uses it: heads, moments, examples, queries,
pictures, files that are saved."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from fpt import Config, attention, checkpoint, load_run, train
from fpt.files import write_whole
from fpt.model import draw_body
from scripts import page_run
from scripts.attention import main as look
from tasks.bits import BitXor
from tests.conftest import TINY

XOR = BitXor(bits=3)
EXAMPLES = (5, 9)
EVIL = ("</script><script>document.title = 'taken'</script>"
        "<img src=x onerror=\"document.title = 'taken'\">")


@pytest.fixture(scope="module")
def looked(pair):
    """Looks into the first of the run and its twin."""
    look([str(pair[0]), "--smallest"])
    return pair


@pytest.fixture(scope="module")
def file(looked, tmp_path_factory):
    """Writes the page of the run with its twin beside it."""
    target = tmp_path_factory.mktemp("page") / "page.html"
    write_whole(target, page_run.page(load_run(looked[0]), [load_run(looked[1])], XOR.load(),
                                      page_run.Asked(EXAMPLES)).encode())
    return target


@pytest.fixture(scope="module")
def pictured(looked, tmp_path_factory):
    """Writes the page of the run, as if its bits were a picture of two by three patches."""
    target = tmp_path_factory.mktemp("pictured") / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BitXor, "grid", (2, 3))
        enlarged = lambda self, example: np.kron(example, np.full((4, 4), 255))[..., None]
        patch.setattr(BitXor, "picture",
                      lambda self, example: enlarged(self, example).astype(np.uint8))
        patch.setattr(BitXor, "answer_tokens", lambda self, inputs: {})
        run = load_run(looked[0])
        run.trained = "not what was looked into"
        write_whole(target, page_run.page(run, [], XOR.load(), page_run.Asked(EXAMPLES)).encode())
    return target


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Trains a run with 80 tokens and writes its page in blocks of two, with the whole map of one
    head and the rows that are read of all."""
    folder = tmp_path_factory.mktemp("long")
    geometry = replace(TINY, positions=80)
    checkpoint.write(folder / "body", geometry, draw_body(geometry, jax.random.key(5)))
    task = BitXor(bits=40)
    config = Config(task, str(folder / "body"), steps=2, batch=2, lr=1e-2, eval_every=2,
                    eval_examples=8)
    train(config, folder / "runs", quiet=True)
    run = load_run(next((folder / "runs").iterdir()))
    page = page_run.page(run, [], task.load(), page_run.Asked(EXAMPLES, ((1, 3),), 0.27))
    write_whole(folder / "page.html", page.encode())
    return run, folder / "page.html"


@pytest.fixture
def opened(opened):
    """Opens a page and waits until it has drawn what it begins with."""
    def call(*asked, **settings):
        return settled(opened(*asked, **settings))

    return call


def settled(page):
    """Waits until a page has drawn all that was asked for, and returns the page."""
    page.wait_for_selector("body[aria-busy=false]")
    return page


def head(page, layer, number):
    cells = 5  # of a layer: four heads and their mean
    return page.locator("#heads [role=gridcell]").nth(layer * cells + number)


def told(page, part):
    return settled(page).text_content(part)


def saved(page, figure, kind):
    """Returns the file that a button saves."""
    with page.expect_download() as download:
        page.click(f'.exports[data-of="{figure}"] [data-as="{kind}"]')
    return download.value.path().read_bytes()


def rows_of(content):
    return list(csv.DictReader(io.StringIO(content.decode())))


def weights(page):
    """Reads the enlarged map as it is saved: [T, T]."""
    found = np.zeros((6, 6))
    for row in rows_of(saved(page, "maps", "csv")):
        query = LABELS.index(row["query token"].split(" =")[0])
        found[query, int(row["key"])] = float(row["weight"])
    return found


LABELS = [f"string {row}, bit {bit}" for row in (1, 2) for bit in (0, 1, 2)]


def maps_of(model, number):
    maps = attention.maps(model, XOR.load()["test"].inputs[[number]])
    return np.concatenate([np.asarray(layer) for layer in maps])


def test_a_head_is_enlarged_by_a_click_and_its_numbers_are_the_models_own(opened, file, looked):
    page = opened(file)
    head(page, 1, 2).click()
    assert told(page, "#chosen-title") == "Layer 1, head 2"
    assert head(page, 1, 2).get_attribute("aria-selected") == "true"
    np.testing.assert_allclose(weights(page), maps_of(load_run(looked[0]), 5)[1, 2], atol=1e-5)
    page.select_option("#example", "1")
    np.testing.assert_allclose(weights(page), maps_of(load_run(looked[0]), 9)[1, 2], atol=1e-5)
    assert told(page, "#tokens-title") == "Example 9 of test"


def test_means_over_heads_layers_and_examples_are_means(opened, file, looked):
    page, maps = opened(file), maps_of(load_run(looked[0]), 5)
    head(page, 0, 4).click()
    assert told(page, "#chosen-title") == "Layer 0, mean over heads"
    np.testing.assert_allclose(weights(page), maps[0].mean(axis=0), atol=1e-5)
    head(page, 2, 1).click()
    np.testing.assert_allclose(weights(page), maps[:, 1].mean(axis=0), atol=1e-5)
    head(page, 2, 4).click()
    np.testing.assert_allclose(weights(page), maps.mean(axis=(0, 1)), atol=1e-5)
    page.select_option("#example", "2")
    head(page, 0, 3).click()
    mean = attention.measure(load_run(looked[0]), XOR.load()["test"].inputs).mean
    np.testing.assert_allclose(weights(page), mean[0, 3], atol=1e-5)


def test_the_slider_goes_from_before_the_first_step_to_the_end(opened, file, looked):
    page, run = opened(file), load_run(looked[0])
    head(page, 1, 1).click()
    page.locator("#moment").fill("0")
    assert told(page, "#moment-name") == "before the first step"
    np.testing.assert_allclose(weights(page), maps_of(run.at(0), 5)[1, 1], atol=1e-5)
    page.focus("#moment")
    page.keyboard.press("ArrowRight")
    assert "step 20" in told(page, "#moment-name")
    np.testing.assert_allclose(weights(page), maps_of(run.at(20), 5)[1, 1], atol=1e-5)


def test_the_twin_is_shown_beside_it_in_the_grid_and_enlarged(opened, file, looked):
    page = opened(file)
    assert page.locator("#maps .map").count() == 1 and page.locator("#heads-beside").is_hidden()
    page.select_option("#beside", label="tiny, random, after training")
    head(page, 0, 2).click()
    assert settled(page).locator("#maps .map").count() == 2
    assert page.locator("#heads-beside [role=gridcell]").count() == 15
    rows = [row for row in rows_of(saved(page, "maps", "csv"))
            if row["moment"] == "tiny, random, after training"]
    expected = maps_of(load_run(looked[1]), 5)[0, 2][np.tril_indices(6)]
    np.testing.assert_allclose([float(row["weight"]) for row in rows], expected, atol=1e-5)


def test_the_keyboard_alone_chooses_a_head_a_query_and_a_key(opened, file, looked):
    page = opened(file)
    head(page, 0, 0).click()
    page.focus("#colours")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "gridcell":
            break
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert label.startswith("layer 0, head 0")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "End", "Home", "ArrowRight"):
        page.keyboard.press(key)
    assert told(page, "#chosen-title") == "Layer 0, head 0"  # as long as nothing says Enter
    page.keyboard.press("Enter")
    assert told(page, "#chosen-title") == "Layer 1, head 1"
    page.focus("#maps .map")
    for key in ("Home", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    weight = maps_of(load_run(looked[0]), 5)[1, 1][2, 1]
    assert f"Its weight on {name(1)} is {weight:.4f}." in told(page, "#readout")
    page.keyboard.press("Tab")  # and out of it again
    assert page.evaluate("document.activeElement.dataset.as") == "svg"


def name(token):
    """Names a token of example 5 as the page does."""
    return f"{LABELS[token]} = {XOR.load()['test'].inputs[5].ravel()[token]}"


def test_what_is_pointed_at_stays_until_esc_and_what_is_held_until_it_is_let_go(opened, file):
    page = opened(file)
    page.locator("#maps svg").scroll_into_view_if_needed()
    box = page.locator("#maps svg").bounding_box()

    def cell(row, key):
        """Finds the middle of a cell of the map."""
        cells = page.locator("#maps svg > g[shape-rendering] rect")
        found = cells.nth(row * (row + 1) // 2 + key).bounding_box()
        return found["x"] + found["width"] / 2, found["y"] + found["height"] / 2

    page.mouse.move(*cell(4, 1))
    assert told(page, "#readout").startswith(f"{name(4)}, which is read, looks most at: ")
    page.mouse.move(box["x"] - 30, box["y"])
    assert told(page, "#readout").startswith(name(4))
    page.mouse.click(*cell(3, 0))
    page.mouse.move(*cell(5, 2))
    assert told(page, "#readout").startswith(name(3))
    page.keyboard.press("Escape")
    assert told(page, "#readout").startswith("No query is chosen")
    assert settled(page).locator("#maps .chosen").count() == 0
    page.mouse.move(*cell(1, 0))
    assert told(page, "#readout").startswith(name(1))


def test_the_weights_of_a_query_are_there_as_a_table(opened, file, looked):
    page = opened(file)
    head(page, 0, 1).click()
    page.click("#weights summary")
    page.locator("#tokens button").nth(4).click()
    cells = page.locator("#weights-of tbody tr")
    assert cells.count() == 5 and cells.nth(2).locator("td").nth(1).text_content() == name(2)
    found = [float(cells.nth(row).locator("td").nth(2).text_content()) for row in range(5)]
    np.testing.assert_allclose(found, maps_of(load_run(looked[0]), 5)[0, 1][4, :5], atol=1e-5)


def test_the_cells_that_hold_the_answer_are_outlined_on_request(opened, file):
    page = opened(file)
    assert page.locator("#maps .answer:not(.halo)").count() == 0
    page.select_option("#answer", "bits of that position")
    assert settled(page).locator("#maps .answer:not(.halo)").count() == 6


def test_the_papers_figure_is_the_first_layers_mean_at_the_tokens_that_are_read(opened, file,
                                                                                looked):
    page = opened(file)
    page.click("#figure")
    assert settled(page).locator("#maps .answer:not(.halo)").count() == 6
    assert told(page, "#chosen-title") == "Layer 0, mean over heads"
    assert page.input_value("#example") == "2" and page.input_value("#rows") == "read"
    mean = attention.measure(load_run(looked[0]), XOR.load()["test"].inputs).mean[0].mean(axis=0)
    rows = rows_of(saved(page, "maps", "csv"))
    assert [row["query token"] for row in rows[:4]] == [LABELS[3]] * 4
    np.testing.assert_allclose([float(row["weight"]) for row in rows],
                               mean[3:][np.tril_indices(3, 3, 6)], atol=1e-5)


def test_heads_are_sorted_by_what_is_known_of_them(opened, file, looked):
    page = opened(file)
    page.select_option("#order", label="largest accuracy lost with zeros in its place first")
    found = json.loads((looked[0] / "attention.json").read_text())
    lost = np.array(found["ablation"]["zero"]["lost"])
    labels = [cell.get_attribute("aria-label")
              for cell in settled(page).locator("#heads [role=gridcell]").all()]
    places = [tuple(map(int, re.match(r"layer (\d), head (\d): accuracy lost", label).groups()))
              for label in labels]
    assert [lost[place] for place in places] == sorted(lost.ravel(), reverse=True)


def test_a_measure_is_a_table_a_curve_and_a_line_beside_its_nulls(opened, file, looked):
    page, run = opened(file), load_run(looked[0])
    page.select_option("#measure", label="entropy")
    head(page, 1, 0).click()
    values = attention.measure(run, XOR.load()["test"].inputs)
    page.click("#table summary")
    shown = [float(cell) for cell in page.locator("#table tbody td").all_text_contents()]
    np.testing.assert_allclose(shown, values.values["entropy"]["read"].ravel(), atol=6e-5)
    line = told(page, "#nulls")
    begun = attention.measure(run.at(0), XOR.load()["test"].inputs)
    for value in (values.values["entropy"]["read"][1, 0], values.uniform["entropy"]["read"],
                  begun.values["entropy"]["read"][1, 0]):
        assert f"{value:.3f}" in line
    steps = [row["step"] for row in rows_of(saved(page, "training", "csv"))
             if (row["layer"], row["head"]) == ("1", "0")]
    assert steps[0] == "0" and "20" in steps and steps == sorted(steps, key=int)


@pytest.mark.parametrize("figure", ["bars", "learning", "heads", "maps", "table", "training"])
def test_every_picture_can_be_saved_and_the_files_can_be_read(opened, file, figure):
    page = opened(file)
    root = ElementTree.fromstring(saved(page, figure, "svg"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and len(list(root.iter())) > 10
    # It is seen alike where the page's colours are not known.
    assert b"var(--" not in ElementTree.tostring(root)
    image = Image.open(io.BytesIO(saved(page, figure, "png")))
    assert (image.width == 2 * round(float(root.get("width")))
            and len(set(image.convert("RGB").getdata())) > 3)
    rows = rows_of(saved(page, figure, "csv"))
    assert rows and all(None not in row and None not in row.values() for row in rows)


def test_attention_is_laid_over_the_patches_of_a_picture(opened, pictured):
    page = opened(pictured)
    # The picture, the picture again, and the weights over it.
    assert page.locator("#tokens image").count() == 3
    page.locator("#tokens svg").scroll_into_view_if_needed()
    box = page.locator("#tokens image").nth(0).bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.2)
    assert told(page, "#readout").startswith(LABELS[2])
    assert "looks most at" in page.locator("#tokens svg").get_attribute("aria-label")
    assert page.locator("#maps svg > image").count() == 2  # the patches along both axes
    drawn = ElementTree.fromstring(saved(page, "tokens", "svg"))
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}image"))) == 3
    assert [row["key token"] for row in rows_of(saved(page, "tokens", "csv"))] == LABELS[:3]
    page.select_option("#example", "2")
    assert settled(page).locator("#tokens-saved").is_hidden()
    page.select_option("#measure", label="distance in columns")
    assert "Distance in columns (patches)" in told(page, "#table-title")


def test_a_long_input_is_in_blocks_but_for_the_heads_and_rows_that_the_page_holds_whole(opened,
                                                                                        long):
    run, file = long
    page = opened(file, width=380)
    settled(page).select_option("#answer", "bits of that position")
    layers = attention.maps(run, run.task.load()["test"].inputs[[5]])
    maps = np.concatenate([np.asarray(layer) for layer in layers])
    number = lambda layer, head: page.locator("#heads [role=gridcell]").nth(layer * 5 + head)
    number(1, 3).click()
    found = [float(row["weight"]) for row in rows_of(saved(page, "maps", "csv"))]
    np.testing.assert_allclose(found, maps[1, 3][np.tril_indices(80)], atol=1 / 510)
    content = json.loads(page.text_content("#content"))
    held = content["moments"][content["now"]]["views"][0]["whole"]
    layer, head = next(place for place in np.ndindex(2, 4) if "{}.{}".format(*place) not in held)
    number(layer, head).click()
    assert f"--head {layer}.{head} keeps this one" in told(page, "#chosen-numbers")
    rows = rows_of(saved(page, "maps", "csv"))
    assert len(rows) == 40 * 41 // 2 and rows[-1]["query token"] == "tokens 78 to 79"
    blocks = maps[layer, head].reshape(40, 2, 40, 2).sum(axis=3).mean(axis=1)
    np.testing.assert_allclose([float(row["weight"]) for row in rows], blocks[np.tril_indices(40)],
                               atol=1 / 510)
    page.select_option("#rows", "read")
    settled(page)
    rows = rows_of(saved(page, "maps", "csv"))
    np.testing.assert_allclose([float(row["weight"]) for row in rows],
                               maps[layer, head][40:][np.tril_indices(40, 40, 80)], atol=1 / 510)


@pytest.mark.parametrize("width", [380, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_window_in_light_and_dark(opened, file, width, scheme):
    page = opened(file, width=width, color_scheme=scheme)
    page.select_option("#beside", "0")
    assert settled(page).locator("#maps .map").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 3 * 128) == (scheme == "dark")
    drawings = page.locator("main svg")
    assert (drawings.count() >= 7
            and all(drawing.get_attribute("aria-label") for drawing in drawings.all()))


def test_markup_in_labels_is_text(opened, looked, tmp_path, monkeypatch):
    monkeypatch.setattr(BitXor, "token_labels",
                        lambda self, example: [EVIL] * self.interface.tokens)
    monkeypatch.setattr(BitXor, "show", lambda self, example, target: EVIL)
    monkeypatch.setattr(BitXor, "answer_tokens",
                        lambda self, inputs: {EVIL: np.ones((len(inputs), 3, 6), bool)})
    run = load_run(looked[0])
    run.trained = "not what was looked into"
    (tmp_path / "page.html").write_text(page_run.page(run, [], XOR.load(), page_run.Asked((0,))))
    page = opened(tmp_path / "page.html")
    page.select_option("#answer", EVIL)
    page.click("#weights summary")
    page.click("#text summary")
    assert page.title().startswith("bit-xor") and page.locator("img").count() == 0
    assert EVIL in told(page, "#weights-of") and told(page, "#text-of") == EVIL
    assert EVIL.encode() in saved(page, "maps", "csv").replace(b'""', b'"')
