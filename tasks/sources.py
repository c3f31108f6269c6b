"""Finds and checks the official files of MNIST and CIFAR-10, and says where they are published.

A file is known by the size and SHA-256 of its content once unpacked, so that the same file counts
whether it lies there loose, gzipped by anyone or inside the publisher's archive.
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fpt.errors import UserError

REMEDY = "put the official file there, or leave --data-dir and FPT_DATA out to download it"


class Digest(NamedTuple):
    """Identifies a file's bytes."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """Describes a published dataset: its unpacked files, and the packed ones at their addresses."""

    name: str  # also its folder inside the data folder
    files: Mapping[str, Digest]
    urls: Mapping[str, Digest]
    inside: str = ""  # folder of the publisher's archive, which may stand in the way of loose files

    @property
    def digest(self) -> str:
        """Hashes all the files into one digest, which names what was decoded from them."""
        lines = [f"{name} {size} {sha256}" for name, (size, sha256) in sorted(self.files.items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def packages(self) -> dict[str, str]:
        """Maps the file name of each packed file to its address."""
        return {url.rpartition("/")[2]: url for url in self.urls}

    def find(self, folder: Path) -> dict[str, Path]:
        """Finds the files of a data folder that hold this dataset, by name.

        They lie there loose or gzipped, else in the publisher's archive.  Raises UserError where
        there is no such folder or a file is missing.
        """
        home = folder / self.name
        if not home.is_dir():
            raise UserError(f"no folder {home}: --data-dir or FPT_DATA names the folder that holds "
                            f"{self.name}/ with the official files; leave both out to download "
                            "them")
        places = [place / f"{name}{packing}" for name in self.files
                  for place in (home, home / self.inside) for packing in ("", ".gz")]
        present = {path.name.removesuffix(".gz"): path
                   for path in reversed(places) if path.is_file()}
        missing = [name for name in self.files if name not in present]
        if not missing:
            return {path.name: path for path in present.values()}
        archives = {name: home / name for name in self.packages if name.endswith(".tar.gz")}
        if archives and all(path.is_file() for path in archives.values()):
            return archives
        also = f" (or {', '.join(archives)})" if archives else ""
        raise UserError(f"{home} lacks {', '.join(missing)}{also}; {REMEDY}")

    def read(self, paths: Mapping[str, Path]) -> dict[str, bytes]:
        """Unpacks and checks the files that `find` gives: name -> content of each file.

        Raises UserError, naming the file, where one is short, corrupt or not the official one.
        """
        contents = {}
        for packed, path in paths.items():
            for name, content in self._unpack(packed, path).items():
                _check(content, self.files[name], path if name == path.name else f"{path} ({name})")
                contents[name] = content
        if missing := [name for name in self.files if name not in contents]:
            given = ", ".join(map(str, paths.values()))
            raise UserError(f"{given} lacks {', '.join(missing)}; {REMEDY}")
        return contents

    def _unpack(self, packed: str, path: Path) -> dict[str, bytes]:
        try:
            if packed.endswith(".tar.gz"):
                with tarfile.open(path, "r:gz") as archive:
                    return {Path(member.name).name: archive.extractfile(member).read()
                            for member in archive
                            if member.isfile() and Path(member.name).name in self.files}
            content, name = path.read_bytes(), packed.removesuffix(".gz")
            return {name: content if name == packed else gzip.decompress(content)}
        except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
            raise UserError(f"{path} is cut short or corrupt ({error}); {REMEDY}") from error
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; {REMEDY}") from error


def _check(content: bytes, official: Digest, where: Path | str) -> None:
    if len(content) != official.size:
        raise UserError(f"{where} is not the official file: {len(content):,} bytes unpacked where "
                        f"{official.size:,} are expected; {REMEDY}")
    if (sha256 := hashlib.sha256(content).hexdigest()) != official.sha256:
        raise UserError(f"{where} is not the official file: sha256 {sha256[:12]}... where "
                        f"{official.sha256[:12]}... is expected; {REMEDY}")


MNIST = Source(
    name="mnist",
    files={
        "train-images-idx3-ubyte": Digest(
            47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        "train-labels-idx1-ubyte": Digest(
            60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        "t10k-images-idx3-ubyte": Digest(
            7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        "t10k-labels-idx1-ubyte": Digest(
            10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    },
    urls={
        "https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz": Digest(
            9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        "https://storage.googleapis.com/cvdf-datasets/mnist/train-labels-idx1-ubyte.gz": Digest(
            28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-images-idx3-ubyte.gz": Digest(
            1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-labels-idx1-ubyte.gz": Digest(
            4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    },
)

CIFAR10 = Source(
    name="cifar10",
    files={
        "data_batch_1.bin": Digest(
            30_730_000, "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        "data_batch_2.bin": Digest(
            30_730_000, "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        "data_batch_3.bin": Digest(
            30_730_000, "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        "data_batch_4.bin": Digest(
            30_730_000, "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        "data_batch_5.bin": Digest(
            30_730_000, "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
        "test_batch.bin": Digest(
            30_730_000, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
    },
    urls={
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz": Digest(
            170_052_171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
    },
    inside="cifar-10-batches-bin",
)
