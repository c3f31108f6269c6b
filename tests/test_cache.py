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
from tasks import builders, expressions, images, listops, logistic

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


def _fill(folder, barrier):
    os.environ["FPT_CACHE"] = str(folder)
    barrier.wait()
    for number in range(20):
        found = cached(f"some-{number}", lambda: {"a": np.full(1_000, number)}, lambda line: os._exit(3))
        assert (found["a"] == number).all()


def test_two_processes_may_fill_a_cache_at_once(cache):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    both = [context.Process(target=_fill, args=(cache, barrier)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0] and len(list(cache.iterdir())) == 20


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
    weights = logistic._fit(logistic._features(train.inputs), train.targets[:, 0], 10)
    monkeypatch.setattr(logistic, "_fit", lambda features, labels, classes: weights)
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
