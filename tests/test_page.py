"""Tests the page of a run: it holds what the model computes, it is as small as it promises, and
nothing of a task or a path becomes markup."""

import base64
import dataclasses
import html
import json
import re
import shutil
import zlib

import numpy as np
import pytest

import scripts
from fpt import Config, attention, load_run, train
from fpt.config import PRETRAINING
from scripts import page_run
from scripts.options import Options, configurations
from scripts.page_examples import some
from scripts.page_maps import SIDE, View, cells, pack, plan, pooled
from tasks.bits import BitMemory, BitXor

XOR = BitXor(bits=3)
EVIL = "</script><script>document.title = 'taken'</script><!-- & '\" \u2028"


@pytest.fixture
def run(pair, tmp_path):
    """Copies the first run."""
    return shutil.copytree(pair[0], tmp_path / pair[0].name)


@pytest.fixture(scope="module")
def page(pair):
    """Makes the page of the run with its twin beside it."""
    return page_run.page(load_run(pair[0]), [load_run(pair[1])], XOR.load(),
                         page_run.Asked(examples=(5, 9)))


def content_of(page):
    return json.loads(re.search(r'<script type="application/json" id="content">(.*?)</script>',
                                page, re.S)[1])


def unpacked(page, stored):
    script = rf'<script type="application/octet-stream" id="blob-{stored["blob"]}">(.*?)</script>'
    return unpack(re.search(script, page)[1], stored)


def unpack(blob, stored):
    """Reads packed weights as a page does: float64 [maps, cells]."""
    bits, maps, rows, first = (stored[name] for name in ("bits", "maps", "rows", "first"))
    content = zlib.decompress(base64.b64decode(blob))
    scales = np.frombuffer(content, "<f4", maps * rows).reshape(maps, rows).astype(np.float64)
    planes = np.frombuffer(content, np.uint8, offset=4 * maps * rows)
    planes = planes.astype(np.float64).reshape(bits // 8, maps, -1)
    numbers = planes[0] * 256 + planes[1] if bits == 16 else planes[0]
    return numbers / (2**bits - 1) * np.repeat(scales, np.arange(first, first + rows), axis=1)


def causal(maps):
    """Takes the cells not above the diagonal: [L, H, T, T] -> [L H, cells]."""
    tokens = maps.shape[-1]
    return np.asarray(maps, np.float64)[..., *np.tril_indices(tokens)].reshape(-1, cells(tokens))


def test_a_page_holds_the_models_own_weights_at_every_moment(page, pair):
    run, twin = map(load_run, pair)
    models = {"before the first step": run.at(0), "step 20": run.at(20), "step 40": run.at(40)}
    moments = content_of(page)["moments"]
    assert ([moment["of"] for moment in moments] == [0] * (len(moments) - 1) + [1]
            and len(moments) >= 4)
    inputs, largest = XOR.load()["test"].inputs, 0
    for moment in moments:
        model = twin if moment["of"] else models.get(moment["label"], run)
        assert ("after training" in moment["label"]) == (model in (run, twin))
        expected = [np.concatenate([np.asarray(layer)
                                    for layer in attention.maps(model, inputs[[number]])])
                    for number in (5, 9)]
        for view, maps in zip(moment["views"], [*expected, attention.measure(model, inputs).mean]):
            assert view["block"] == 1 and view["grid"]["bits"] == 16
            difference = np.abs(unpacked(page, view["grid"]) - causal(maps)).max()
            largest = max(largest, difference)
            assert difference <= 7.7e-6
    stated = float(re.search(r"difference from the model’s own numbers: (\S+)\.", page)[1])
    assert stated == pytest.approx(largest, rel=0.1)


def test_a_page_says_what_each_model_answers(page, pair):
    run, (inputs, targets) = load_run(pair[0]), XOR.load()["test"]
    content = content_of(page)
    predicted = np.asarray(run(inputs[[5, 9]])).argmax(-1)
    answers = content["moments"][content["now"]]["answers"]
    assert [one["predicted"] for one in answers] == predicted.tolist()
    assert [one["right"] for one in answers] == (predicted == targets[[5, 9]]).sum(axis=1).tolist()
    assert [one["targets"] for one in content["examples"][:2]] == targets[[5, 9]].tolist()


def test_a_page_has_its_tokens_what_is_read_and_what_holds_the_answer(page):
    example = content_of(page)["examples"][0]
    assert example["labels"][4] == "string 2, bit 1" and example["read"] == [3, 4, 5]
    assert example["values"] == [str(value) for value in XOR.load()["test"].inputs[5].ravel()]
    assert example["masks"]["bits of that position"] == [[0, 3], [1, 4], [2, 5]]


def test_without_a_word_some_examples_are_right_and_some_wrong(pair):
    run, test = load_run(pair[0]).at(0), XOR.load()["test"]
    right = (np.asarray(run(test.inputs)).argmax(-1) == test.targets).all(axis=1)
    assert 2 <= right.sum() <= 62
    chosen = some(run, test, np.arange(64), 64)
    assert len(set(chosen)) == 4 and sum(right[chosen]) == 2


def test_a_page_asks_the_network_for_nothing(page):
    assert "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!#|data:,)\w""",
                          re.sub(r"<script.*?</script>", "", page, flags=re.S))
    assert set(re.findall(r"https?://[^\s\"'`<)]+", page)) == {"http://www.w3.org/2000/svg"}


def test_nothing_of_a_task_or_a_path_becomes_markup(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(BitXor, "token_labels",
                        lambda self, example: [EVIL] * self.interface.tokens)
    monkeypatch.setattr(BitXor, "show", lambda self, example, target: EVIL)
    monkeypatch.setattr(BitXor, "slices",
                        lambda self, inputs: {EVIL: np.ones((len(inputs), 3), bool)})
    monkeypatch.setattr(BitXor, "answer_tokens",
                        lambda self, inputs: {EVIL: np.ones((len(inputs), 3, 6), bool)})
    folder = tmp_path / "runs" / f"<script>alert('path')<-script>{pair[0].name}"
    shutil.copytree(pair[0], folder, ignore=shutil.ignore_patterns("attention.*"))
    page = page_run.page(load_run(folder), [], XOR.load(), page_run.Asked(examples=(0,)))
    assert "<script>document" not in page and "<script>alert" not in page and "\u2028" not in page
    content = content_of(page)
    assert content["examples"][0]["labels"] == [EVIL] * 6 and content["examples"][0]["text"] == EVIL
    assert (html.escape(folder.name, quote=False).replace("'", "&#39;") in page
            and str(folder.parent) not in page)


def test_what_the_command_measured_is_taken_as_long_as_it_is_of_these_parameters(command, run):
    assert command("page", run)[0] == 0
    before = (run / "page.html").read_text()
    assert ("python -m scripts.attention" in before
            and "accuracy lost" not in json.dumps(content_of(before)))
    assert command("attention", run, "--count", "9")[0] == 0
    assert command("page", run)[0] == 0
    content = content_of((run / "page.html").read_text())
    found = json.loads((run / "attention.json").read_text())
    named = {one["name"]: one for one in content["quantities"]}
    now = str(content["now"])
    assert (named["accuracy lost with zeros in its place"]["tables"]
            == {now: found["ablation"]["zero"]["lost"]})
    assert (named["accuracy lost with zeros in its place"]["errors"]
            == {now: found["ablation"]["zero"]["error"]})
    assert named["entropy"]["tables"][now] == found["measures"][-1]["values"]["entropy"]["read"]
    assert (named["entropy"]["n"] == 9
            and named["entropy"]["uniform"] == found["uniform"]["entropy"]["read"])
    (run / "attention.json").write_text(json.dumps(found | {"trainable": "another run's"}))
    assert command("page", run)[0] == 0
    assert "accuracy lost" not in json.dumps(content_of((run / "page.html").read_text()))


def test_measures_that_are_damaged_are_one_line(command, run):
    (run / "attention.json").write_text('{"trainable": 3')
    code, _, err = command("page", run)
    assert (code == 2 and err.count("\n") == 1 and "attention.json is damaged" in err
            and "scripts.attention" in err)
    assert not (run / "page.html").exists()


def test_a_measure_has_its_table_for_each_moment_and_the_steps_that_no_moment_has(page, pair):
    content, run = content_of(page), load_run(pair[0])
    entropy = next(one for one in content["quantities"] if one["name"] == "entropy")
    expected = attention.measure(run.at(20), XOR.load()["test"].inputs).values["entropy"]["read"]
    labels = ("step 20", "after training (step 20, best on validation)")
    number = next(number for number, moment in enumerate(content["moments"])
                  if moment["label"] in labels)
    np.testing.assert_allclose(entropy["tables"][str(number)], expected, rtol=1e-5)
    assert entropy["steps"] == [] and len(entropy["tables"]) == len(content["moments"])


@pytest.mark.parametrize("arguments", [
    ["bit-xor"],
    ["bit-memory", "--bits", "50", "--strings", "3", "--lr", "0.003", "--dropout", "0"],
    ["mnist", "--load", "none", "--patch", "14", "--seed", "7"],
    ["cifar10", "--augment", "False", "--eval-examples", "None"],
    ["bit-xor", "--birth", "mimetic", "--redraw", "attention", "--train", "input+output"],
    ["listops", "--longest", "64", "--optimizer", "muon", "--warmup", "3", "--body-seed", "2"]])
def test_the_command_that_is_printed_makes_the_same_run(arguments):
    import shlex

    import tasks
    from fpt.parameters import resolve

    def config(words):
        (found, *_), _ = configurations(tasks.find(words[0]), None, words[1:], "train", Options)
        return resolve(found)[0]

    first = config(arguments)
    words = shlex.split(page_run.command(first))
    assert words[:3] == ["python", "-m", "scripts.train"] and config(words[3:]) == first


def test_no_command_is_printed_for_a_body_that_was_pretrained_on_a_task(pair):
    """`scripts.train` gives a run no stream of its own, and so other draws and another name."""
    config = load_run(pair[0]).config
    assert page_run.command(config) is not None
    assert page_run.command(dataclasses.replace(config, stream=PRETRAINING)) is None


def views(tokens, layers=2, heads=3, count=1, spare=False, read=1):
    """Makes up maps, and views of them."""
    shape = count, layers, heads, tokens, tokens
    drawn = np.random.default_rng(0).random(shape).astype(np.float32) ** 8
    maps = np.tril(drawn) / np.tril(drawn).sum(axis=-1, keepdims=True)
    return [View(layers * heads, tokens, range(tokens - read, tokens),
                 spare and 0 < number < count - 1, lambda one=one: iter(one))
            for number, one in enumerate(maps)], maps


def test_blocks_are_means_over_queries_of_sums_over_keys():
    maps = np.array([[1, 0, 0], [0.25, 0.75, 0], [0.5, 0.3, 0.2]], np.float32)
    np.testing.assert_allclose(pooled(maps, 2), [[1, 0], [0.8, 0.2]], rtol=1e-6)
    (_, maps) = views(131)
    np.testing.assert_allclose(pooled(maps, 4).sum(axis=-1), 1, atol=1e-6)
    assert pooled(maps, 4).shape[-1] == 33


def test_a_long_input_has_blocks_the_rows_that_are_read_and_whole_maps_of_the_heads_asked_for():
    (view,), (maps,) = views(200, read=3)
    store, ((found,),) = pack([[view]], 0, [(1, 2)], [(0, 1), (0, 0)], 60_000)
    assert found["block"] == 4 and found["grid"]["rows"] == 50 <= SIDE
    np.testing.assert_allclose(unpack(store.blobs[found["grid"]["blob"]], found["grid"]),
                               causal(pooled(maps, 4)), atol=1 / 510)
    rows = unpack(store.blobs[found["rows"]["blob"]], found["rows"])
    expected = [np.concatenate([one[place, : place + 1] for place in (197, 198, 199)])
                for one in maps.reshape(-1, 200, 200)]
    np.testing.assert_allclose(rows, expected, atol=1 / 510)
    assert "1.2" in found["whole"] and len(found["whole"]) < 3
    whole = found["whole"]["1.2"]
    difference = np.abs(unpack(store.blobs[whole["blob"]], whole) - causal(maps)[5:]).max()
    assert difference <= store.difference <= 1 / 510
    assert store.size == sum(map(len, store.blobs)) <= 60_000


@pytest.mark.parametrize("room, expected", [
    (3_000, (8, 8, True)), (8_000, (8, 16, True)), (30_000, (8, 32, True)), (50_000, (8, 64, True)),
    (100_000, (8, 64, False)), (1_000_000, (16, 64, False))])
def test_maps_fit_the_room_there_is_as_exactly_as_they_can(room, expected):
    made, maps = views(60, count=4, spare=True)
    store, ((first, *middle, last),) = pack([made], 0, [], [], room)
    assert store.size <= room and first and last
    chosen = plan(made, room)
    assert (chosen.bits, chosen.side, chosen.thin) == expected
    assert all(one is None for one in middle) == chosen.thin
    if room == 1_000_000:
        assert store.difference <= 7.7e-6
        np.testing.assert_allclose(unpack(store.blobs[0], first["grid"]), causal(maps[0]),
                                   atol=7.7e-6)


@pytest.mark.parametrize("arguments, said", [
    (["--head", "2.0"], "no head 2.0 in"), (["--head", "0.4"], "its heads 0 to 3"),
    (["--head", "5"], "as in 2.5, not '5'"),
    (["--examples", "64"], "no example 64: those of bit-xor's test split are 0 to 63"),
    (["--examples", "-1"], "no example -1"),
    (["--megabytes", "0"], "--megabytes must be above 0"),
    (["--to", "nowhere/page.html"], "there is no folder nowhere"),
    (["--beside", "no-such-run"], "no config.json in no-such-run"),
    (["--exmaples", "1"], "did you mean '--examples'?")])
def test_a_mistake_is_one_line(refused, pair, arguments, said):
    refused(said, "page", pair[0], *arguments)
    assert not (pair[0] / "page.html").exists()


def test_a_run_that_is_not_finished_or_of_another_task_is_refused(refused, run, pair, tiny_folder,
                                                                  tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    train(Config(BitMemory(bits=4, patch=2), str(tiny_folder), steps=2, batch=2, lr=1e-2,
                 eval_every=2), other, quiet=True)
    refused("--beside takes runs of the same task", "page", pair[0], "--beside",
            next(other.iterdir()))
    (run / "result.json").unlink()
    refused("the run is not finished", "page", run)
    refused("no folder nothing", "page", "nothing")


def test_a_body_that_moved_or_changed_is_one_line_and_no_page(command, tiny_folder, tmp_path):
    body = shutil.copytree(tiny_folder, tmp_path / "body")
    train(Config(XOR, str(body), steps=2, batch=2, lr=1e-2, eval_every=2), tmp_path / "runs",
          quiet=True)
    run, = (tmp_path / "runs").iterdir()
    body.rename(tmp_path / "moved")
    code, _, err = command("page", run)
    assert code == 2 and err.count("\n") == 1 and "body" in err and not (run / "page.html").exists()
    moved = "--body", tmp_path / "moved", "--to", tmp_path / "page.html"
    assert command("page", run, *moved)[0] == 0
    weights = tmp_path / "moved" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    code, _, err = command("page", run, "--body", tmp_path / "moved")
    assert code == 2 and err.count("\n") == 1 and "not those that this run was trained with" in err
    assert not (run / "page.html").exists()


def test_a_full_disk_leaves_the_old_page(command, run, monkeypatch):
    (run / "page.html").write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    code, _, err = command("page", run)
    assert code == 2 and err.count("\n") == 1 and "No space left on device" in err
    assert ((run / "page.html").read_text() == "old"
            and not [one for one in run.iterdir() if one.name.startswith(".page")])


def test_a_folder_of_runs_has_an_index_instead(command, pair, monkeypatch, tmp_path):
    class Index:
        def write(folder, target):
            target.write_text(f"index of {folder}")
            return target

    monkeypatch.setattr(scripts, "page_index", Index, raising=False)
    code, out, _ = command("page", pair[0].parent, "--to", tmp_path / "all.html")
    assert (code == 0 and "all.html" in out
            and (tmp_path / "all.html").read_text() == f"index of {pair[0].parent}")
    code, _, err = command("page", pair[0].parent, "--head", "0.0")
    assert code == 2 and "an index takes no --beside, --examples or --head" in err


def test_a_page_is_shown_on_request(command, run, monkeypatch):
    shown = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    assert command("page", run, "--examples", "3")[0] == 0 and not shown
    assert command("page", run, "--examples", "3", "--open")[0] == 0
    assert shown == [(run / "page.html").as_uri()]
