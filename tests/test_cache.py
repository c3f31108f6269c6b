"""What is kept in the cache is believed only as it was written: damaged anywhere, it is made again."""

import multiprocessing
import os
import random

import numpy as np
import pytest

import fpt.cache
from fpt.cache import cached
from fpt.errors import UserError
from fpt.task import Split
from tasks import builders, expressions, images, listops, logistic, text
from tests.corpus import jsonl, prose, text_folder

ARRAYS = {"a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": np.array([1.5, -2], np.float32), "none": np.zeros((0, 3))}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FPT_CACHE", str(folder))
    return folder


@pytest.fixture
def quick(monkeypatch):
    """Writes need not reach the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def _flipped(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def _copies(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def _same(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one)


def test_what_is_cached_is_made_once(cache):
    made, said = [], []

    def make():
        made.append(True)
        return _copies(ARRAYS)

    assert all(_same(cached("folder/some", make, said.append), ARRAYS) for _ in range(3))
    assert len(made) == 1 and not said and [path.name for path in cache.rglob("*.*")] == ["some.safetensors"]


def test_a_damaged_file_is_made_again_wherever_it_is_damaged(cache, quick):
    cached("some", lambda: ARRAYS, print)
    path, draw = cache / "some.safetensors", random.Random(0)
    whole = path.read_bytes()
    damaged = [_flipped(whole, place, draw.randrange(8)) for place in range(len(whole))]
    damaged += [whole[:length] for length in range(len(whole))] + [whole + b"\0", whole + whole]
    for content in damaged:
        path.write_bytes(content)
        said = []
        assert _same(cached("some", lambda: ARRAYS, said.append), ARRAYS)
        assert said == [f"{path} is damaged; making it again"] and path.read_bytes() == whole


def test_a_file_of_another_name_or_without_a_digest_is_made_again(cache):
    from safetensors.numpy import save

    cached("other", lambda: {"a": np.ones(3)}, print)
    for content in ((cache / "other.safetensors").read_bytes(), save({"a": np.ones(3)})):
        (cache / "some.safetensors").write_bytes(content)
        said = []
        assert cached("some", lambda: {"a": np.zeros(3)}, said.append)["a"].sum() == 0
        assert "damaged" in said[0]


@pytest.mark.parametrize("hindrance", ["a folder in its place", "a file in the folder's place", "no permission"])
def test_where_nothing_can_be_written_nothing_is_made(cache, hindrance, monkeypatch):
    if hindrance == "a folder in its place":
        (cache / "folder" / "some.safetensors").mkdir(parents=True)
    elif hindrance == "a file in the folder's place":
        cache.mkdir()
        (cache / "folder").touch()
    else:
        if not os.geteuid():
            pytest.skip("nothing is forbidden to root")
        cache.mkdir(mode=0o500)
    with pytest.raises(UserError, match="FPT_CACHE") as caught:
        cached("folder/some", lambda: pytest.fail("made in vain"), lambda line: None)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_that_names_the_way_out(cache, monkeypatch):
    def full(path, content):
        raise UserError(f"cannot write {path}: No space left on device; free some space or choose another folder")

    monkeypatch.setattr(fpt.cache, "write_whole", full)
    with pytest.raises(UserError, match="No space left on device.*FPT_CACHE"):
        cached("some", lambda: ARRAYS, print)


def _two_at_once(target, *arguments):
    """Exit codes of two processes that run `target` from the same moment on."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    both = [context.Process(target=target, args=(barrier, *arguments)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    return [process.exitcode for process in both]


def _fill(barrier, folder):
    os.environ["FPT_CACHE"] = str(folder)
    barrier.wait()
    for number in range(20):
        found = cached(f"some-{number}", lambda: {"a": np.full(1_000, number)}, lambda line: os._exit(3))
        assert (found["a"] == number).all()


def test_two_processes_may_fill_a_cache_at_once(cache):
    assert _two_at_once(_fill, cache) == [0, 0] and len(list(cache.iterdir())) == 20


# Each kind of what is kept


def _listops(monkeypatch, tmp_path):
    monkeypatch.setattr(listops, "draw_distinct", lambda law, seed, count, report: [
        (bytes(symbols), value) for symbols, value in (expressions.draw(drawer, law) for _ in range(count))])
    drawer = random.Random()

    def load(report):
        drawer.seed(0)
        return listops.ListOps(shortest=4, longest=20, train_examples=5, held_out=2).load(None, report)

    return load


def _images(monkeypatch, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 28, 28, 1), np.uint8)
    monkeypatch.setattr(builders, "build", lambda source, folder: {
        "train_images": pixels, "train_labels": np.arange(12, dtype=np.uint8) % 10,
        "test_images": pixels[:3], "test_labels": np.arange(3, dtype=np.uint8)})
    monkeypatch.setattr(images.Mnist, "validation", 4)
    return lambda report: images.Mnist().load(tmp_path, report)


def _logistic(monkeypatch, tmp_path):
    draw = np.random.default_rng(0)
    train = Split(draw.integers(0, 256, (20, 3, 3, 1), np.uint8), draw.integers(0, 10, (20, 1)))
    weights = logistic.fit(train.inputs.reshape(len(train.inputs), -1) / np.float32(255), train.targets[:, 0], 10)
    monkeypatch.setattr(logistic, "fit", lambda features, labels, classes: weights)
    return lambda report: {"train": Split(logistic._fitted(train, 10), np.zeros(1))}


@pytest.mark.parametrize("kind", [_listops, _images, _logistic])
def test_a_flipped_bit_of_each_kind_is_noticed(kind, cache, monkeypatch, tmp_path, quick, capsys):
    load = kind(monkeypatch, tmp_path)
    expected, draw = load(lambda line: None), random.Random(1)
    path, = cache.rglob("*.safetensors")
    whole = path.read_bytes()
    for _ in range(100):
        path.write_bytes(_flipped(whole, draw.randrange(len(whole)), draw.randrange(8)))
        said = []
        found = load(said.append)
        assert f"{path} is damaged; making it again" in [*said, *capsys.readouterr().err.splitlines()]
        assert all(np.array_equal(*parts) for name in expected for parts in zip(found[name], expected[name]))
        assert path.read_bytes() == whole


def test_a_flipped_bit_of_a_prepared_text_is_noticed(cache, monkeypatch, tmp_path, quick):
    monkeypatch.setattr(text.lzma, "compress", lambda content, preset: content)  # takes a tenth of a second
    data = text_folder(tmp_path, a_jsonl=jsonl(prose(120, words=2)))
    folder = text.prepare(data, 257, None, lambda line: None).folder
    whole = {path: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".lock"}
    assert len(whole) == 7
    draw = random.Random(2)
    damaged = [(path, _flipped(content, draw.randrange(len(content)), draw.randrange(8)))
               for path, content in whole.items() for _ in range(15)]
    damaged += [(path, content[: len(content) // 2]) for path, content in whole.items()]
    damaged += [(path, b"") for path in whole]
    for path, content in damaged:
        path.write_bytes(content)
        said = []
        text.prepare(data, 257, None, said.append)
        assert said[0] == f"{folder} is damaged; making it again"
        assert {path: path.read_bytes() for path in whole} == whole


def test_a_prepared_text_that_is_another_s_or_lacks_a_file_is_made_again(cache, tmp_path):
    def prepared(seed):
        data = text_folder(tmp_path / str(seed), a_jsonl=jsonl(prose(120, words=2, seed=seed)))
        return lambda: text.prepare(data, 257, None, said.append)

    said, one, other = [], prepared(0), prepared(1)
    folder, others = one().folder, other().folder
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    for harm in (lambda: [(folder / path.name).write_bytes(path.read_bytes()) for path in others.iterdir()],
                 lambda: (folder / "successor.npy").unlink()):
        harm()
        said.clear()
        one()
        assert "damaged" in said[0] and {path.name: path.read_bytes() for path in folder.iterdir()} == whole


@pytest.mark.parametrize("name", ["train.npy", ".lock", "manifest.json"])
def test_a_folder_in_the_place_of_a_prepared_file_is_one_line(cache, tmp_path, name):
    data = text_folder(tmp_path, a_jsonl=jsonl(prose(120, words=2)))
    path = text.prepare(data, 257, None, print).folder / name
    path.unlink(missing_ok=True)
    path.mkdir()
    with pytest.raises(UserError, match=f"{name}.*FPT_CACHE") as caught:
        text.prepare(data, 257, None, print)
    assert "\n" not in str(caught.value)


def _prepare_text(barrier, folder, data):
    os.environ["FPT_CACHE"] = str(folder)
    barrier.wait()
    assert len(text.prepare(data, 257, None, print).stream("train")) > 100


def test_two_processes_may_prepare_a_text_at_once(cache, tmp_path):
    data = text_folder(tmp_path, a_jsonl=jsonl(prose(120, words=2)))
    assert _two_at_once(_prepare_text, cache, data) == [0, 0]
