"""Builds MNIST and CIFAR-10 with tensorflow-datasets, but without TensorFlow.

The stock builders encode images with TensorFlow.  These hold them as uint8 tensors in array_record
files, in the order of the official files, and are read with `as_data_source`.  Importing this
module imports tensorflow_datasets.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from fpt.errors import UserError
from fpt.files import cache_folder
from tasks.sources import Source

PROBE_SECONDS = 10  # how long a server may take to answer before it counts as out of reach


class _Images(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds the dataset of a `source` from a data `folder`, or downloads it where that is None."""

    VERSION = tfds.core.Version("1.0.0")
    shape: ClassVar[tuple[int, int, int]]

    def __init__(self, *, source: Source, folder: Path | None = None, **arguments):
        self.source, self.folder = source, folder
        super().__init__(file_format="array_record", **arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({
            # Kept as bytes: the default, a varint per value, writes five times slower.
            "image": tfds.features.Tensor(shape=self.shape, dtype=np.uint8, encoding="bytes"),
            "label": tfds.features.ClassLabel(num_classes=10),
        })
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    @property
    def url_infos(self) -> dict[str, UrlInfo]:
        """Gives the checksums that tensorflow-datasets holds downloads to."""
        known = zip(self.source.packages.items(), self.source.urls.values())
        return {url: UrlInfo(size, sha256, name) for (name, url), (size, sha256) in known}

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        paths = self.source.find(self.folder) if self.folder else _fetch(self.source, dl_manager)
        splits = self._decode(self.source.read(paths))
        return {split: self._generate_examples(*arrays) for split, arrays in splits.items()}

    def _generate_examples(self, images, labels) -> Iterator[tuple[int, dict]]:
        for number, (image, label) in enumerate(zip(images, labels)):
            yield number, {"image": image, "label": int(label)}

    def _decode(self, contents: Mapping[str, bytes]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Decodes the files by name into splits: images [N, *shape] and labels [N], both uint8."""
        raise NotImplementedError


class MnistImages(_Images, skip_registration=True):
    """Decodes MNIST's idx files: a header of 16 bytes before the images, of 8 before the labels."""

    shape = (28, 28, 1)

    def _decode(self, contents):
        def split(prefix: str):
            images = np.frombuffer(contents[f"{prefix}-images-idx3-ubyte"], np.uint8, offset=16)
            labels = np.frombuffer(contents[f"{prefix}-labels-idx1-ubyte"], np.uint8, offset=8)
            return images.reshape(-1, *self.shape), labels

        return {"train": split("train"), "test": split("t10k")}


class Cifar10Images(_Images, skip_registration=True):
    """Decodes CIFAR-10's binary version: a label, then 1,024 bytes of red, of green, of blue."""

    shape = (32, 32, 3)

    def _decode(self, contents):
        def split(names: list[str]):
            rows = np.concatenate([np.frombuffer(contents[name], np.uint8) for name in names])
            rows = rows.reshape(-1, 3_073)
            return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0]

        return {"train": split([f"data_batch_{number}.bin" for number in range(1, 6)]),
                "test": split(["test_batch.bin"])}


BUILDERS = {"mnist": MnistImages, "cifar10": Cifar10Images}


def build(source: Source, folder: Path | None) -> dict[str, np.ndarray]:
    """Decodes a source into `train_images`, `train_labels`, `test_images` and `test_labels`.

    They are uint8, in the official order.  The record files and what was downloaded lie in a
    temporary folder, gone when this returns or raises.  Raises UserError where the data are
    missing, short, corrupt or out of reach, and where the disk is full.
    """
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=f".{source.name}.") as place, _quiet():
            builder = BUILDERS[source.name](source=source, folder=folder, data_dir=place)
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(
                try_download_gcs=False, force_checksums_validation=True))
            arrays = {}
            for split in ("train", "test"):
                records = builder.as_data_source(split)
                examples = records.__getitems__(range(len(records)))
                images, labels = zip(*((found["image"], found["label"]) for found in examples))
                arrays[f"{split}_images"] = np.stack(images)
                arrays[f"{split}_labels"] = np.array(labels, np.uint8)
            return arrays
    except OSError as error:
        raise UserError(f"cannot decode {source.name} in {cache}: {error.strerror or error}; "
                        f"free some space or name another folder with FPT_CACHE") from error


def _fetch(source: Source, dl_manager) -> dict[str, Path]:
    """Downloads the files of a source, one after the other, checked by size and SHA-256."""
    instead = f"give the folder that holds {source.name}/ with --data-dir or FPT_DATA"
    paths = {}
    for name, url in source.packages.items():
        try:
            # tensorflow-datasets retries for minutes; asking first shows at once what is missing.
            requests.head(url, timeout=PROBE_SECONDS, allow_redirects=True).raise_for_status()
            paths[name] = dl_manager.download(url)
        except NonMatchingChecksumError as error:
            raise UserError(f"{url} does not serve the official file: size or sha256 differ; "
                            f"{instead}") from error
        except requests.HTTPError as error:
            status = error.response.status_code
            raise UserError(f"cannot fetch {url}: HTTP status {status}; {instead}") from error
        except (tfds.download.DownloadError, requests.RequestException) as error:
            raise UserError(f"cannot fetch {url} ({type(error).__name__}); {instead}") from error
    return paths


@contextlib.contextmanager
def _quiet():
    """Keeps tensorflow-datasets from printing, and from showing progress bars."""
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        yield
