"""The image tasks: files, splits, augmentation, patches and floors; on the real files too where FPT_DATA names them."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpt.errors import UserError
from fpt.task import Split
from tasks import logistic
from tasks.images import Cifar10, Cifar10Lra, Mnist, gray
from tasks.sources import Digest, Source

ROOT = Path(__file__).parents[1]
silent = lambda line: None
digest = lambda content: Digest(len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FPT_CACHE", str(folder))
    return folder


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A data folder with 40 + 20 random images in gzipped idx files; the task takes them for the official ones."""
    pixels = np.random.RandomState(0).randint(0, 256, (60, 28, 28, 1)).astype(np.uint8)
    labels = np.random.RandomState(1).randint(0, 10, 60).astype(np.uint8)
    contents = {}
    for prefix, part in {"train": slice(0, 40), "t10k": slice(40, 60)}.items():
        contents[f"{prefix}-images-idx3-ubyte"] = b"\0\0\x08\x03" + bytes(12) + pixels[part].tobytes()
        contents[f"{prefix}-labels-idx1-ubyte"] = b"\0\0\x08\x01" + bytes(4) + labels[part].tobytes()
    packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in contents.items()}
    return _fake(tmp_path, monkeypatch, [Mnist], "mnist", contents, packed)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A data folder with six batches of 10 random images in the publisher's archive."""
    contents = {f"{name}.bin": np.random.RandomState(number).randint(0, 256, (10, 3_073)).astype(np.uint8)
                for number, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"])}
    for rows in contents.values():
        rows[:, 0] %= 10
    contents = {name: rows.tobytes() for name, rows in contents.items()}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in {**contents, "readme.html": b"not a batch"}.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    packed = {"cifar-10-binary.tar.gz": archive.getvalue()}
    return _fake(tmp_path, monkeypatch, [Cifar10, Cifar10Lra], "cifar10", contents, packed)


@dataclasses.dataclass
class Fake:
    folder: Path
    home: Path
    source: Source
    contents: dict
    packed: dict

    def serve_from(self, base: str, monkeypatch, tasks):
        source = dataclasses.replace(self.source, urls={f"{base}/{name}": digest(content)
                                                        for name, content in self.packed.items()})
        for task in tasks:
            monkeypatch.setattr(task, "source", source)
        return source

    def lay_out(self, files: dict):
        for path in self.home.iterdir():
            path.unlink()
        for name, content in files.items():
            path = self.home / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)


def _fake(tmp_path, monkeypatch, tasks, name, contents, packed) -> Fake:
    inside = "cifar-10-batches-bin" if name == "cifar10" else ""
    source = Source(name, {file: digest(content) for file, content in contents.items()}, urls={}, inside=inside)
    home = tmp_path / "data" / name
    home.mkdir(parents=True)
    fake = Fake(home.parent, home, source, contents, packed)
    fake.lay_out(packed)
    fake.serve_from("http://127.0.0.1:9", monkeypatch, tasks)  # where nobody listens
    for task in tasks:
        monkeypatch.setattr(task, "validation", 8)
    return fake


def _rows(split: Split) -> set:
    return {image.tobytes() for image in split.inputs}


def _refused(task, folder, *words):
    with pytest.raises(UserError) as caught:
        task.load(folder, silent)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert str(word) in line
    return line


# Files


def test_mnist_files_hold_what_is_loaded(mnist):
    data = Mnist().load(mnist.folder, silent)
    images = mnist.contents["t10k-images-idx3-ubyte"][16:]
    labels = mnist.contents["t10k-labels-idx1-ubyte"][8:]
    pairs = {(images[784 * i : 784 * (i + 1)], labels[i]) for i in range(20)}
    assert pairs == {(image.tobytes(), int(target)) for image, (target,) in zip(*data["test"])}
    assert data["test"].inputs.shape == (20, 28, 28, 1) and data["test"].inputs.dtype == np.uint8
    assert data["test"].targets.shape == (20, 1) and data["test"].targets.dtype == np.int32


def test_cifar_planes_become_channels(cifar):
    data = Cifar10().load(cifar.folder, silent)
    rows = np.frombuffer(cifar.contents["test_batch.bin"], np.uint8).reshape(10, 3_073)
    assert data["test"].inputs.shape == (10, 32, 32, 3)
    for image, (target,) in zip(*data["test"]):
        planes = np.concatenate([[target], *(image[:, :, channel].ravel() for channel in range(3))])
        assert (rows == planes).all(axis=1).sum() == 1


@pytest.mark.parametrize("layout", ["loose", "in the archive's folder", "gzipped", "archive beside half the files"])
def test_every_layout_gives_the_archive_s_arrays(cifar, layout, monkeypatch, tmp_path):
    expected = Cifar10().load(cifar.folder, silent)
    cifar.lay_out({
        "loose": cifar.contents,
        "in the archive's folder": {f"cifar-10-batches-bin/{name}": body for name, body in cifar.contents.items()},
        "gzipped": {f"{name}.gz": gzip.compress(body) for name, body in cifar.contents.items()},
        "archive beside half the files": {**cifar.packed, "test_batch.bin": cifar.contents["test_batch.bin"]},
    }[layout])
    monkeypatch.setenv("FPT_CACHE", str(tmp_path / "another"))
    found = Cifar10().load(cifar.folder, silent)
    for split in expected:
        np.testing.assert_array_equal(found[split].inputs, expected[split].inputs)
        np.testing.assert_array_equal(found[split].targets, expected[split].targets)


def test_mnist_files_may_be_unpacked(mnist):
    mnist.lay_out(mnist.contents)
    assert len(Mnist().load(mnist.folder, silent)["train"].inputs) == 32


def test_missing_folder_and_missing_file_are_named(mnist, cifar, tmp_path):
    _refused(Mnist(), tmp_path / "nowhere", tmp_path / "nowhere" / "mnist", "--data-dir")
    (mnist.home / "t10k-labels-idx1-ubyte.gz").unlink()
    _refused(Mnist(), mnist.folder, mnist.home, "t10k-labels-idx1-ubyte", "--data-dir")
    cifar.lay_out({"test_batch.bin": cifar.contents["test_batch.bin"]})
    _refused(Cifar10(), cifar.folder, "data_batch_3.bin", "cifar-10-binary.tar.gz")


def _cut(content: bytes) -> bytes:
    return content[:-100]


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("harm", [_cut, _flip])
@pytest.mark.parametrize("form", ["gzipped", "loose", "archive"])
def test_short_and_corrupt_files_are_refused_by_name(mnist, cifar, harm, form, cache):
    task, fake, name = {
        "gzipped": (Mnist(), mnist, "train-images-idx3-ubyte.gz"),
        "loose": (Cifar10(), cifar, "data_batch_2.bin"),
        "archive": (Cifar10(), cifar, "cifar-10-binary.tar.gz"),
    }[form]
    if form == "loose":
        fake.lay_out(fake.contents)
    path = fake.home / name
    path.write_bytes(harm(path.read_bytes()))
    _refused(task, fake.folder, path, "--data-dir")
    assert list(cache.iterdir()) == []


def test_another_dataset_s_file_of_the_same_size_is_refused(mnist):
    body = mnist.contents["train-images-idx3-ubyte"]
    (mnist.home / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(body[:16] + body[:15:-1]))
    expected = mnist.source.files["train-images-idx3-ubyte"].sha256
    _refused(Mnist(), mnist.folder, "train-images-idx3-ubyte.gz", "official", expected[:12])


def test_an_archive_that_lacks_a_file_is_refused(cifar):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz"):
        pass
    cifar.lay_out({"cifar-10-binary.tar.gz": archive.getvalue()})
    _refused(Cifar10(), cifar.folder, "cifar-10-binary.tar.gz", "test_batch.bin")


# Cache


def test_second_load_reads_the_cache_alone(mnist, cache):
    first = Mnist().load(mnist.folder, silent)
    lines = []
    second = Mnist().load(None, lines.append)
    assert lines == [] and len(list(cache.iterdir())) == 1
    for split in first:
        np.testing.assert_array_equal(first[split].inputs, second[split].inputs)


def test_gray_and_colour_share_one_cache(cifar, cache):
    Cifar10().load(cifar.folder, silent)
    assert Cifar10Lra().load(None, silent)["train"].inputs.shape == (42, 32, 32, 1)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("length", [0, 1_000, -1])
def test_a_truncated_cache_is_made_again(mnist, cache, length):
    expected = Mnist().load(mnist.folder, silent)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:length])
    lines = []
    found = Mnist().load(mnist.folder, lines.append)
    assert any(str(path) in line for line in lines)
    assert path.read_bytes() == whole
    np.testing.assert_array_equal(found["train"].inputs, expected["train"].inputs)


def test_files_that_differ_do_not_share_a_cache(mnist, cache, monkeypatch):
    Mnist().load(mnist.folder, silent)
    files = {**mnist.source.files, "t10k-labels-idx1-ubyte": Digest(28, "0" * 64)}
    monkeypatch.setattr(Mnist, "source", dataclasses.replace(mnist.source, files=files))
    _refused(Mnist(), mnist.folder, "t10k-labels-idx1-ubyte.gz")


def test_two_processes_may_load_at_once(mnist, cache):
    code = f"""
from pathlib import Path
from tasks.images import Mnist
from tasks.sources import Digest, Source
Mnist.source = Source("mnist", {{name: Digest(*value) for name, value in {
    {name: tuple(value) for name, value in mnist.source.files.items()}!r}.items()}}, {{}})
Mnist.validation = 8
print(len(Mnist().load(Path({str(mnist.folder)!r}), lambda line: None)["train"].inputs))
"""
    started = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
               for _ in range(2)]
    assert [process.communicate()[0].strip() for process in started] == ["32", "32"]
    assert len(list(cache.iterdir())) == 1
    assert len(Mnist().load(None, silent)["train"].inputs) == 32


# Download


@pytest.fixture
def server(tmp_path):
    """Address of a web server of the folder `served`."""
    (tmp_path / "served").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0),
                                         functools.partial(Quiet, directory=tmp_path / "served")) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_download_gives_the_same_arrays(request, server, name, monkeypatch, tmp_path, cache, capfd):
    task, fake = {"mnist": (Mnist, "mnist"), "cifar10": (Cifar10, "cifar")}[name]
    fake = request.getfixturevalue(fake)
    expected = task().load(fake.folder, silent)
    monkeypatch.setenv("FPT_CACHE", str(tmp_path / "another"))
    for file, content in fake.packed.items():
        (tmp_path / "served" / file).write_bytes(content)
    fake.serve_from(server, monkeypatch, [task])
    lines = []
    found = task().load(None, lines.append)
    assert len(lines) == 1 and server in lines[0]
    assert capfd.readouterr() == ("", "")
    for split in expected:
        np.testing.assert_array_equal(found[split].inputs, expected[split].inputs)
    assert len(list((tmp_path / "another").iterdir())) == 1


def test_a_download_with_another_checksum_is_refused(cifar, server, monkeypatch, tmp_path, cache, capfd):
    (tmp_path / "served" / "cifar-10-binary.tar.gz").write_bytes(_flip(cifar.packed["cifar-10-binary.tar.gz"]))
    cifar.serve_from(server, monkeypatch, [Cifar10])
    _refused(Cifar10(), None, f"{server}/cifar-10-binary.tar.gz", "sha256", "--data-dir")
    assert list(cache.iterdir()) == [] and capfd.readouterr() == ("", "")


def test_what_a_server_lacks_is_named(cifar, server, monkeypatch):
    cifar.serve_from(server, monkeypatch, [Cifar10])
    _refused(Cifar10(), None, f"{server}/cifar-10-binary.tar.gz", "404", "--data-dir")


def test_no_network_is_known_at_once(mnist, cache):
    begun = time.monotonic()
    _refused(Mnist(), None, "http://127.0.0.1:9/train-images-idx3-ubyte.gz", "--data-dir", "mnist/")
    assert time.monotonic() - begun < 5
    assert list(cache.iterdir()) == []


def test_decoding_is_quiet_and_needs_no_tensorflow(mnist, capfd):
    lines = []
    Mnist().load(mnist.folder, lines.append)
    assert len(lines) == 1 and str(mnist.folder) in lines[0]
    assert capfd.readouterr() == ("", "")
    assert "tensorflow" not in sys.modules


def test_the_tasks_import_nothing_heavy():
    code = "import sys, tasks.images; print({'jax', 'tensorflow_datasets', 'scipy', 'PIL'} & set(sys.modules) or 'light')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "light"


# Splits and batches


def test_splits_are_fixed_disjoint_and_complete(mnist):
    data = Mnist().load(mnist.folder, silent)
    assert {split: len(part.inputs) for split, part in data.items()} == {"train": 32, "validation": 8, "test": 20}
    assert len(_rows(data["train"]) | _rows(data["validation"])) == 40
    assert not _rows(data["test"]) & (_rows(data["train"]) | _rows(data["validation"]))
    official = np.frombuffer(mnist.contents["train-images-idx3-ubyte"], np.uint8, offset=16).reshape(40, 28, 28, 1)
    place = {image.tobytes(): number for number, image in enumerate(official)}
    # The end of RandomState(0).permutation(40), written out: the rule must never drift.
    assert [place[image.tobytes()] for image in data["validation"].inputs] == [6, 23, 21, 19, 9, 38, 3, 0]


def _train(task, count=50):
    pixels = np.random.RandomState(3).randint(1, 256, (count, 32, 32, 3)).astype(np.uint8)
    images = {"mnist": gray(pixels)[:, 2:-2, 2:-2], "cifar10": pixels, "cifar10-lra": gray(pixels)}[task.name]
    return Split(jnp.asarray(images), jnp.arange(count, dtype=jnp.int32)[:, None])


@pytest.mark.parametrize("task", [Mnist(), Cifar10(augment=False), Cifar10Lra(augment=False)], ids=lambda t: t.name)
def test_a_batch_without_augmentation_holds_the_images(task):
    train = _train(task)
    inputs, targets = jax.jit(lambda: task.draw(train, jax.random.key(0), 2, 16))()
    assert inputs.dtype == jnp.uint8 and targets.shape == (16, 1) and targets.dtype == jnp.int32
    np.testing.assert_array_equal(inputs, train.inputs[targets[:, 0]])


def test_an_epoch_holds_every_image_once():
    train, task = _train(Cifar10()), Cifar10()
    draw = jax.jit(lambda step: task.draw(train, jax.random.key(0), step, 10).targets)
    drawn = [draw(step) for step in range(5)]
    assert sorted(np.concatenate(drawn).ravel()) == list(range(50))


@pytest.mark.parametrize("task", [Cifar10(), Cifar10Lra()], ids=lambda task: task.name)
def test_a_batch_is_a_function_of_key_and_step(task):
    train, key = _train(task), jax.random.key(7)
    draw = jax.jit(lambda key, step: task.draw(train, key, step, 16).inputs)
    first = draw(key, 3)
    np.testing.assert_array_equal(first, draw(key, 3))
    assert (first != draw(key, 4)).any() and (first != draw(jax.random.key(8), 3)).any()


def test_batches_of_a_stack_are_those_of_its_runs():
    task, keys = Cifar10(), jax.random.split(jax.random.key(1), 3)
    train = _train(task)
    draw = lambda train, key: task.draw(train, key, 5, 8).inputs
    stacked, alone = jax.jit(jax.vmap(draw, in_axes=(None, 0)))(train, keys), jax.jit(draw)
    for run, key in enumerate(keys):
        np.testing.assert_array_equal(stacked[run], alone(train, key))


# Augmentation


def test_augmentation_is_pillow_s_pixel_for_pixel():
    from PIL import Image as image
    from PIL import ImageOps as operations

    from tasks import augment

    train = np.asarray(_train(Cifar10()).inputs)
    turns = np.arange(0, len(augment.angles()), 7)
    random = np.random.RandomState(4)
    top, left = random.randint(0, 9, (2, len(turns)))
    flip, numbers = random.rand(len(turns)) < 0.5, random.randint(0, len(train), len(turns))
    moves = augment.Moves(*map(jnp.asarray, (top, left, flip, turns)))
    found = np.asarray(jax.jit(augment.moved)(train, numbers, moves))
    for i, number in enumerate(numbers):
        expected = operations.expand(image.fromarray(train[number]), border=4, fill=0)
        expected = expected.crop((left[i], top[i], left[i] + 32, top[i] + 32))
        expected = operations.mirror(expected) if flip[i] else expected
        expected = expected.rotate(augment.angles()[turns[i]], image.Resampling.NEAREST, fillcolor=0)
        np.testing.assert_array_equal(found[i], np.asarray(expected))


def test_augmentation_draws_what_the_paper_s_code_draws():
    from tasks import augment

    moves = augment.draw(jax.random.key(0), 20_000)
    for shift in (moves.top, moves.left):
        assert set(np.unique(shift)) == set(range(9))
    assert abs(np.corrcoef(moves.top, moves.left)[0, 1]) < 0.05
    assert abs(float(moves.flip.mean()) - 0.5) < 0.02
    degrees = augment.angles()[np.asarray(moves.turn)]
    assert degrees.min() < -19.9 and degrees.max() > 19.9 and abs(degrees.std() - 40 / 12**0.5) < 0.2


def test_gray_is_pillow_s():
    from PIL import Image as image
    colours = np.random.RandomState(5).randint(0, 256, (20, 32, 32, 3)).astype(np.uint8)
    expected = np.stack([np.asarray(image.fromarray(each).convert("L")) for each in colours])
    np.testing.assert_array_equal(gray(colours)[..., 0], expected)


# Tokens


@pytest.mark.parametrize("task", [Mnist(), Mnist(patch=7), Mnist(side=32), Cifar10(), Cifar10(patch=8), Cifar10Lra(),
                                  Cifar10Lra(patch=2)], ids=lambda task: f"{task.name}-{task.patch}-{task.side}")
def test_patches_in_reading_order(task):
    images = np.asarray(_train(task, 3).inputs)
    margin = (task.side - images.shape[1]) // 2
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0))) / 255
    tokens = np.asarray(jax.jit(task.encode)(images))
    assert tokens.shape == (3, task.tokens, task.width) and tokens.dtype == np.float32
    grid, patch = task.side // task.patch, task.patch
    for token in range(task.tokens):
        row, column = token // grid * patch, token % grid * patch
        for feature in range(task.width):
            down, rest = divmod(feature, patch * task.channels)
            across, channel = divmod(rest, task.channels)
            pixel = padded[:, row + down, column + across, channel]
            expected = (pixel - task.mean[channel]) / task.deviation[channel]
            np.testing.assert_allclose(tokens[:, token, feature], expected, atol=2e-6)


@pytest.mark.parametrize("task, tokens, width, low, high", [
    (Mnist(), 49, 16, [0], [1]),
    (Mnist(side=32), 64, 16, [0], [1]),
    (Cifar10(), 64, 48, [-2.42907, -2.41825, -2.22139], [2.51409, 2.59679, 2.75373]),
    (Cifar10Lra(), 1_024, 1, [-1], [1]),
], ids=["mnist", "mnist-32", "cifar10", "cifar10-lra"])
def test_sizes_and_normalisation_are_the_published_ones(task, tokens, width, low, high):
    assert (task.tokens, task.width, task.classes, task.answers) == (tokens, width, 10, 1)
    side = 28 if task.name == "mnist" else 32
    for value, expected in ((0, low), (255, high)):
        encoded = task.encode(jnp.full((1, side, side, task.channels), value, jnp.uint8))
        middle = encoded[0, tokens // 2 + 3]
        np.testing.assert_allclose(middle[: task.channels], expected, atol=1e-4)


def test_each_token_has_a_label():
    for task in (Mnist(), Mnist(side=32), Cifar10(), Cifar10Lra()):
        example = np.asarray(_train(task, 1).inputs)[0]
        assert len(set(task.token_labels(example))) == task.tokens
    labels = Cifar10().token_labels(np.zeros((32, 32, 3), np.uint8))
    assert labels[0] == "rows 0-3, columns 0-3" and labels[8 * 3 + 5] == "rows 12-15, columns 20-23"
    assert Cifar10Lra().token_labels(np.zeros((32, 32, 1), np.uint8))[32 * 3 + 5] == "row 3, column 5"


@pytest.mark.parametrize("task", [Mnist(), Cifar10(), Cifar10Lra()], ids=lambda task: task.name)
def test_an_image_is_shown_with_its_class_within_80_columns(task):
    example = np.zeros(_train(task, 1).inputs.shape[1:], np.uint8)
    example[3, 5] = 255
    title, *rows = task.show(example, np.array([3])).split("\n")
    assert title == ("digit 3" if task.name == "mnist" else "cat")
    assert len(rows) == len(example) and rows[3] == " " * 10 + "@@" and not "".join(rows[:3] + rows[4:]).strip()
    assert max(map(len, task.show(np.full_like(example, 255), np.array([0])).split("\n"))) <= 80


@pytest.mark.parametrize("build, option", [
    (lambda: Mnist(patch=5), "--patch 5"), (lambda: Cifar10(patch=0), "--patch 0"), (lambda: Cifar10Lra(patch=3), "--patch 3"),
    (lambda: Mnist(side=30), "--patch 4"), (lambda: Mnist(side=27), "--side 27"), (lambda: Mnist(side=24), "--side 24"),
])
def test_sizes_that_do_not_fit_are_refused(build, option):
    with pytest.raises(UserError, match=option):
        build()


# Floors


@pytest.fixture
def blobs():
    """Train and test splits whose class shows, noisily, in one row of pixels."""
    random = np.random.RandomState(6)

    def split(count):
        labels = random.randint(0, 10, count)
        images = random.randint(0, 200, (count, 28, 28, 1))
        images[np.arange(count), labels] += 55
        return Split(images.astype(np.uint8), labels[:, None].astype(np.int32))

    return {"train": split(400), "test": split(100)}


def test_majority_is_train_s_commonest_class(blobs):
    def labelled(split, *targets):
        return Split(blobs[split].inputs[: len(targets)], np.array(targets)[:, None])

    data = {"train": labelled("train", 4, 2, 4, 7, 4), "test": labelled("test", 4, 2, 2, 2, 4)}
    assert Mnist().floors(data, data["test"])["majority"] == 0.4


def test_logistic_regression_reaches_the_optimum(blobs):
    weights = jnp.asarray(logistic._fitted(blobs["train"], 10))
    features = blobs["train"].inputs.reshape(400, -1).astype(np.float32) / 255
    labels = blobs["train"].targets[:, 0]

    def loss(weights):
        likelihood = jax.nn.log_softmax(features @ weights[:-1] + weights[-1])
        return -likelihood[jnp.arange(400), labels].mean() + logistic.PENALTY / 2 * (weights[:-1] ** 2).sum()

    assert float(jnp.abs(jax.grad(loss)(weights)).max()) < 1e-3 < float(jnp.abs(jax.grad(loss)(0 * weights)).max())
    assert Mnist().floors(blobs, blobs["test"])["logistic regression"] > 0.9


def test_a_fit_is_kept_under_its_data(blobs, cache, monkeypatch):
    first = Mnist().floors(blobs, blobs["test"])
    (path,) = cache.iterdir()
    other = {**blobs, "train": Split(blobs["train"].inputs, (blobs["train"].targets + 1) % 10)}
    assert Mnist().floors(other, other["test"])["logistic regression"] < 0.2
    path.write_bytes(path.read_bytes()[:-1])
    assert Mnist().floors(blobs, blobs["test"]) == first
    monkeypatch.setattr(logistic, "_fit", None)
    assert Mnist().floors(blobs, blobs["test"]) == first


# The real files

real = pytest.mark.skipif(not os.environ.get("FPT_DATA"), reason="FPT_DATA names no folder with the official files")


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    return tmp_path_factory.mktemp("decoded")


def _real(task, decoded, monkeypatch):
    folder = Path(os.environ["FPT_DATA"])
    if not (folder / task.source.name).is_dir():
        pytest.skip(f"{folder} has no {task.source.name}/")
    monkeypatch.setenv("FPT_CACHE", str(decoded))
    return task().load(folder, silent)


@real
def test_the_real_mnist(decoded, monkeypatch):
    data = _real(Mnist, decoded, monkeypatch)
    assert {split: part.inputs.shape for split, part in data.items()} == {
        "train": (55_000, 28, 28, 1), "validation": (5_000, 28, 28, 1), "test": (10_000, 28, 28, 1)}
    labels = np.concatenate([data[split].targets for split in ("train", "validation")])
    assert np.bincount(labels[:, 0]).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data["test"].targets[:, 0]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    pixels = np.concatenate([data["train"].inputs, data["validation"].inputs])
    assert pixels.mean() / 255 == pytest.approx(0.1307, abs=1e-4)  # the figure every MNIST example carries


@real
def test_the_real_cifar10(decoded, monkeypatch):
    data = _real(Cifar10, decoded, monkeypatch)
    assert {split: part.inputs.shape for split, part in data.items()} == {
        "train": (45_000, 32, 32, 3), "validation": (5_000, 32, 32, 3), "test": (10_000, 32, 32, 3)}
    assert np.bincount(np.concatenate([part.targets for part in data.values()])[:, 0]).tolist() == [6_000] * 10
    assert np.bincount(data["test"].targets[:, 0]).tolist() == [1_000] * 10
    assert not _rows(data["validation"]) & _rows(data["train"])
    pixels = np.concatenate([data["train"].inputs, data["validation"].inputs])
    np.testing.assert_allclose(pixels.mean(axis=(0, 1, 2)) / 255, Cifar10.mean, atol=1e-4)
    assert Cifar10Lra().load(None, silent)["test"].inputs.shape == (10_000, 32, 32, 1)
