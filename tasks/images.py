"""Defines MNIST, CIFAR-10 and CIFAR-10 LRA (gray, pixel by pixel), cut into patches.

Protocol: Lu et al. 2021, section 2.1, with the details of the released code (`mnist.py`,
`cifar10.py`, `cifar10_gray.py`).  As published there is no validation split; here it is carved out
of the training images, and the official test images are the test split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fpt.cache import cached
from fpt.errors import UserError
from fpt.task import WITHOUT_DROPOUT, Batch, Interface, Preset, Split, Task
from tasks import sources

SHADES = " .:-=+*#%@"  # from black to white


@dataclass(frozen=True)
class _Images(Task):
    """Represents square images of `side` pixels and `channels`, in tokens of `patch` x `patch`."""

    levels: ClassVar[int] = 8
    draws_stored: ClassVar[bool] = True
    validation: ClassVar[int] = 5_000  # images carved out of training
    source: ClassVar[sources.Source]
    class_names: ClassVar[tuple[str, ...]]
    channels: ClassVar[int]
    mean: ClassVar[tuple[float, ...]]  # of pixels in [0, 1], by channel
    deviation: ClassVar[tuple[float, ...]]

    def __post_init__(self):
        if self.patch < 1 or self.side % self.patch:
            raise UserError(f"{self.name}: --patch {self.patch} does not divide the image's side "
                            f"of {self.side} pixels")

    @property
    def grid(self) -> tuple[int, int]:
        return self.side // self.patch, self.side // self.patch

    @property
    def interface(self) -> Interface:
        rows, columns = self.grid
        return Interface(tokens=rows * columns, width=self.patch**2 * self.channels, classes=10)

    def load(self, folder=None, report=print) -> dict[str, Split]:
        """Loads the images, those of training and of test each in a fixed random order.

        The last `validation` training images in that order are held out.  Decoded files are kept in
        the cache folder under the digest of the official files; once they are there, `folder` is
        not read.
        """
        arrays = self._arrays(folder, report)

        def split(part: str, order: np.ndarray) -> Split:
            targets = arrays[f"{part}_labels"][order].astype(np.int32)
            return Split(self._stored(arrays[f"{part}_images"][order]), targets[:, None])

        # RandomState, because its streams are promised never to change.
        order = np.random.RandomState(0).permutation(len(arrays["train_labels"]))
        return {
            "train": split("train", order[: -self.validation]),
            "validation": split("train", order[-self.validation :]),
            "test": split("test", np.random.RandomState(1).permutation(len(arrays["test_labels"]))),
        }

    def _arrays(self, folder, report) -> dict[str, np.ndarray]:
        def make() -> dict[str, np.ndarray]:
            if folder is None:
                size = sum(digest.size for digest in self.source.urls.values()) / 1e6
                urls = ", ".join(self.source.urls)
                report(f"{self.source.name}: fetching {size:,.0f} MB from {urls}")
            else:
                report(f"{self.source.name}: decoding the files in {folder}")
            from tasks.builders import build

            return build(self.source, folder)

        return cached(f"{self.source.name}-images-{self.source.digest[:16]}", make, report)

    def _stored(self, images: np.ndarray) -> np.ndarray:
        return images

    def draw(self, train, key, step, batch) -> Batch:
        from fpt.randomness import shuffled, stream

        numbers = shuffled(stream(key, "order"), step, batch, len(train.inputs))
        return Batch(self._drawn(train.inputs, numbers, key, step), train.targets[numbers])

    def _drawn(self, images, numbers, key, step):
        return images[numbers]

    def encode(self, inputs):
        import jax.numpy as jnp

        mean, deviation = np.array([self.mean, self.deviation], np.float32)[:, None, None, None]
        return self._patches((self._padded(inputs).astype(jnp.float32) / 255 - mean) / deviation)

    def symbols(self, inputs):
        """Gives the brightness of each pixel of a patch, in eight levels."""
        import jax.numpy as jnp

        return self._patches(self._padded(inputs).astype(jnp.int32) * self.levels // 256)

    def _padded(self, inputs):
        import jax.numpy as jnp

        margin = (self.side - inputs.shape[1]) // 2
        return jnp.pad(inputs, ((0, 0), (margin, margin), (margin, margin), (0, 0)))

    def _patches(self, pixels):
        """Cuts images [B, side, side, channels] into tokens [B, T, W]."""
        rows, columns = self.grid
        pixels = pixels.reshape(-1, rows, self.patch, columns, self.patch, self.channels)
        return pixels.transpose(0, 1, 3, 2, 4, 5).reshape(len(pixels), rows * columns, -1)

    def floors(self, data, examples) -> dict[str, float]:
        from tasks.logistic import accuracy

        commonest = np.bincount(data["train"].targets[:, 0]).argmax()
        return {
            "majority": float(np.mean(examples.targets == commonest)),
            "logistic regression": accuracy(data["train"], examples, self.interface.classes),
        }

    def picture(self, example) -> np.ndarray:
        margin = (self.side - len(example)) // 2
        return np.pad(example, ((margin, margin), (margin, margin), (0, 0)))

    def token_labels(self, example) -> list[str]:
        def span(word: str, first: int) -> str:
            last = first + self.patch - 1
            return f"{word} {first}" if first == last else f"{word}s {first}-{last}"

        starts = range(0, self.side, self.patch)
        return [f"{span('row', row)}, {span('column', column)}"
                for row in starts for column in starts]

    def show(self, example, target) -> str:
        """Writes the class, then the image, two characters a pixel, the denser the brighter."""
        luma = gray(example) if self.channels == 3 else example
        rows = luma[:, :, 0].astype(int) * len(SHADES) // 256
        drawn = ["".join(2 * SHADES[shade] for shade in row).rstrip() for row in rows]
        return "\n".join([self.class_names[int(target[0])], *drawn])


def gray(images: np.ndarray) -> np.ndarray:
    """Turns colours [..., 3] uint8 into luma [..., 1] uint8.

    This is ITU-R 601-2 in Pillow's fixed point, as in torchvision's `Grayscale`.
    """
    luma = np.empty((*images.shape[:-1], 1), np.uint8)
    weights = np.array([19_595, 38_470, 7_471], np.uint32)
    # A block at a time: 32-bit sums of a whole set take 600 MB.
    for start in range(0, len(images), 1_000):
        part = slice(start, start + 1_000)
        luma[part, ..., 0] = images[part] @ weights + np.uint32(1 << 15) >> 16
    return luma


@dataclass(frozen=True)
class Mnist(_Images):
    """Shows handwritten digits in square patches and asks for the digit."""

    name: ClassVar[str] = "mnist"
    presets: ClassVar[Mapping[str, Preset]] = {
        "laptop": Preset(body="gpt2-mini", batch=16, steps=3_000, lr=3e-3, eval_every=500,
                         sizes={"patch": 14}, settings={"dropout": 0.0}),
        "paper": Preset(body="gpt2", batch=4, steps=1_000_000, lr=1e-3, eval_every=1_000),
    }
    source: ClassVar[sources.Source] = sources.MNIST
    class_names: ClassVar[tuple[str, ...]] = tuple(f"digit {digit}" for digit in range(10))
    channels: ClassVar[int] = 1
    mean: ClassVar[tuple[float, ...]] = (0.0,)
    deviation: ClassVar[tuple[float, ...]] = (1.0,)

    patch: int = 4
    """Sets the side of a patch, which is a token, in pixels; 4 in the paper."""
    side: int = 28
    """Sets the side of the image in pixels: 28 as in the released code (49 tokens), or 32, padded
    with zeros (64 tokens), as the paper says."""

    def __post_init__(self):
        if self.side < 28 or self.side % 2:
            raise UserError(f"{self.name}: --side {self.side} must be an even number of at least "
                            "28 pixels")
        super().__post_init__()


@dataclass(frozen=True)
class _Cifar(_Images):
    """Represents the images of CIFAR-10, augmented by random crop, flip and rotation."""

    source: ClassVar[sources.Source] = sources.CIFAR10
    side: ClassVar[int] = 32
    class_names: ClassVar[tuple[str, ...]] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    augment: bool = True
    """Lets training images be cropped, flipped and rotated at random."""

    @property
    def draws_stored(self) -> bool:
        return not self.augment

    def _drawn(self, images, numbers, key, step):
        if not self.augment:
            return super()._drawn(images, numbers, key, step)
        import jax

        from fpt.randomness import stream
        from tasks import augment

        key = jax.random.fold_in(stream(key, "augmentation"), step)
        return augment.moved(images, numbers, augment.draw(key, len(numbers)))


@dataclass(frozen=True)
class Cifar10(_Cifar):
    """Shows photographs in square patches and asks which of ten things they show."""

    name: ClassVar[str] = "cifar10"
    presets: ClassVar[Mapping[str, Preset]] = {
        # In runs as short as this one, dropout and augmentation only cost accuracy.
        "laptop": Preset(body="gpt2-mini", batch=32, steps=6_000, lr=3e-3, eval_every=1_000,
                         sizes={"patch": 16, "augment": False}, settings=WITHOUT_DROPOUT),
        "paper": Preset(body="gpt2", batch=4, steps=1_000_000, lr=1e-3, eval_every=1_000),
    }
    channels: ClassVar[int] = 3
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    deviation: ClassVar[tuple[float, ...]] = (0.2023, 0.1994, 0.2010)

    patch: int = 4
    """Sets the side of a patch, which is a token, in pixels; 4 in the paper."""


@dataclass(frozen=True)
class Cifar10Lra(_Cifar):
    """Shows the photographs of CIFAR-10 in gray, a pixel a token."""

    name: ClassVar[str] = "cifar10-lra"
    presets: ClassVar[Mapping[str, Preset]] = {
        "laptop": Preset(body="gpt2-mini", batch=2, steps=300, lr=2e-3, eval_every=300,
                         eval_examples=128),
        "paper": Preset(body="gpt2", batch=4, steps=1_000_000, lr=1e-3, eval_every=1_000),
    }
    channels: ClassVar[int] = 1
    mean: ClassVar[tuple[float, ...]] = (0.5,)
    deviation: ClassVar[tuple[float, ...]] = (0.5,)

    patch: int = 1
    """Sets the side of a patch, which is a token, in pixels; 1 in the Long Range Arena."""

    def _stored(self, images):
        return gray(images)
