"""The official image files: where they are found, how they are checked, cached and split; made up, and real where FPT_DATA is."""

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

import numpy as np
import pytest

from fpt.errors import UserError
from fpt.task import Split
from tasks.images import Cifar10, Cifar10Lra, Mnist
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


# Splits


def test_splits_are_fixed_disjoint_and_complete(mnist):
    data = Mnist().load(mnist.folder, silent)
    assert {split: len(part.inputs) for split, part in data.items()} == {"train": 32, "validation": 8, "test": 20}
    assert len(_rows(data["train"]) | _rows(data["validation"])) == 40
    assert not _rows(data["test"]) & (_rows(data["train"]) | _rows(data["validation"]))
    official = np.frombuffer(mnist.contents["train-images-idx3-ubyte"], np.uint8, offset=16).reshape(40, 28, 28, 1)
    place = {image.tobytes(): number for number, image in enumerate(official)}
    # The end of RandomState(0).permutation(40), written out: the rule must never drift.
    assert [place[image.tobytes()] for image in data["validation"].inputs] == [6, 23, 21, 19, 9, 38, 3, 0]


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
