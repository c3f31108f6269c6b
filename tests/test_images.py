"""Checks the image tasks on images in memory: batches, augmentation, patches and floors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpt.errors import UserError
from fpt.task import Split
from tasks import logistic
from tasks.images import Cifar10, Cifar10Lra, Mnist, gray


def _train(task, count=50):
    pixels = np.random.RandomState(3).randint(1, 256, (count, 32, 32, 3)).astype(np.uint8)
    images = {"mnist": gray(pixels)[:, 2:-2, 2:-2], "cifar10": pixels, "cifar10-lra": gray(pixels)}
    return Split(jnp.asarray(images[task.name]), jnp.arange(count, dtype=jnp.int32)[:, None])


@pytest.mark.parametrize("task", [Mnist(), Cifar10(augment=False), Cifar10Lra(augment=False)],
                         ids=lambda task: task.name)
def test_a_batch_without_augmentation_holds_the_images(task):
    train = _train(task)
    inputs, targets, _ = jax.jit(lambda: task.draw(train, jax.random.key(0), 2, 16))()
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


def test_an_image_is_moved_anew_at_every_step_and_its_like_in_the_same_batch_too():
    task, targets = Cifar10(), jnp.zeros((40, 1), jnp.int32)
    train = Split(jnp.repeat(_train(task, 1).inputs, 40, axis=0), targets)
    draw = jax.jit(lambda step: task.draw(train, jax.random.key(7), step, 4).inputs)
    moved = {image.tobytes() for step in range(5) for image in np.asarray(draw(step))}
    assert len(moved) == 20


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
    flip = random.rand(len(turns)) < 0.5
    numbers = random.randint(0, len(train), len(turns))
    moves = augment.Moves(*map(jnp.asarray, (top, left, flip, turns)))
    found = np.asarray(jax.jit(augment.moved)(train, numbers, moves))
    for i, number in enumerate(numbers):
        expected = operations.expand(image.fromarray(train[number]), border=4, fill=0)
        expected = expected.crop((left[i], top[i], left[i] + 32, top[i] + 32))
        expected = operations.mirror(expected) if flip[i] else expected
        degrees = augment.angles()[turns[i]]
        expected = expected.rotate(degrees, image.Resampling.NEAREST, fillcolor=0)
        np.testing.assert_array_equal(found[i], np.asarray(expected))


def test_augmentation_draws_what_the_paper_s_code_draws():
    from tasks import augment

    moves = augment.draw(jax.random.key(0), 20_000)
    for shift in (moves.top, moves.left):
        assert set(np.unique(shift)) == set(range(9))
    assert abs(np.corrcoef(moves.top, moves.left)[0, 1]) < 0.05
    assert abs(float(moves.flip.mean()) - 0.5) < 0.02
    degrees = augment.angles()[np.asarray(moves.turn)]
    assert degrees.min() < -19.9 and degrees.max() > 19.9
    assert abs(degrees.std() - 40 / 12**0.5) < 0.2


def test_gray_is_pillow_s():
    from PIL import Image as image

    colours = np.random.RandomState(5).randint(0, 256, (20, 32, 32, 3)).astype(np.uint8)
    expected = np.stack([np.asarray(image.fromarray(each).convert("L")) for each in colours])
    np.testing.assert_array_equal(gray(colours)[..., 0], expected)


# Tokens


@pytest.mark.parametrize("task", [
    Mnist(), Mnist(patch=7), Mnist(side=32), Cifar10(), Cifar10(patch=8), Cifar10Lra(),
    Cifar10Lra(patch=2)], ids=lambda task: f"{task.name}-{task.patch}-{task.side}")
def test_patches_in_reading_order(task):
    images = np.asarray(_train(task, 3).inputs)
    margin = (task.side - images.shape[1]) // 2
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0))) / 255
    tokens = np.asarray(jax.jit(task.encode)(images))
    asked = task.interface
    assert tokens.shape == (3, asked.tokens, asked.width) and tokens.dtype == np.float32
    grid, patch = task.side // task.patch, task.patch
    for token in range(asked.tokens):
        row, column = token // grid * patch, token % grid * patch
        for feature in range(asked.width):
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
    asked = task.interface
    assert (asked.tokens, asked.width, asked.classes, asked.answers) == (tokens, width, 10, 1)
    side = 28 if task.name == "mnist" else 32
    for value, expected in ((0, low), (255, high)):
        encoded = task.encode(jnp.full((1, side, side, task.channels), value, jnp.uint8))
        middle = encoded[0, tokens // 2 + 3]
        np.testing.assert_allclose(middle[: task.channels], expected, atol=1e-4)


def test_each_token_has_a_label():
    for task in (Mnist(), Mnist(side=32), Cifar10(), Cifar10Lra()):
        example = np.asarray(_train(task, 1).inputs)[0]
        assert len(set(task.token_labels(example))) == task.interface.tokens
    labels = Cifar10().token_labels(np.zeros((32, 32, 3), np.uint8))
    assert labels[0] == "rows 0-3, columns 0-3"
    assert labels[8 * 3 + 5] == "rows 12-15, columns 20-23"
    labels = Cifar10Lra().token_labels(np.zeros((32, 32, 1), np.uint8))
    assert labels[32 * 3 + 5] == "row 3, column 5"


@pytest.mark.parametrize("task", [Mnist(), Cifar10(), Cifar10Lra()], ids=lambda task: task.name)
def test_an_image_is_shown_with_its_class_within_80_columns(task):
    example = np.zeros(_train(task, 1).inputs.shape[1:], np.uint8)
    example[3, 5] = 255
    title, *rows = task.show(example, np.array([3])).split("\n")
    assert title == ("digit 3" if task.name == "mnist" else "cat")
    assert len(rows) == len(example) and rows[3] == " " * 10 + "@@"
    assert not "".join(rows[:3] + rows[4:]).strip()
    white = task.show(np.full_like(example, 255), np.array([0]))
    assert max(map(len, white.split("\n"))) <= 80


@pytest.mark.parametrize("build, option", [
    (lambda: Mnist(patch=5), "--patch 5"), (lambda: Cifar10(patch=0), "--patch 0"),
    (lambda: Cifar10Lra(patch=3), "--patch 3"), (lambda: Mnist(side=30), "--patch 4"),
    (lambda: Mnist(side=27), "--side 27"), (lambda: Mnist(side=24), "--side 24"),
])
def test_sizes_that_do_not_fit_are_refused(build, option):
    with pytest.raises(UserError, match=option):
        build()


# Floors


@pytest.fixture
def blobs():
    """Draws train and test splits whose class shows, noisily, in one row of pixels."""
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
    features = blobs["train"].inputs.reshape(400, -1).astype(np.float32) / 255
    labels = blobs["train"].targets[:, 0]
    weights = jnp.asarray(logistic.fit(features, labels, 10))

    def loss(weights):
        likelihood = jax.nn.log_softmax(features @ weights[:-1] + weights[None, -1])
        penalty = logistic.PENALTY / 2 * (weights[:-1] ** 2).sum()
        return penalty - likelihood[jnp.arange(400), labels].mean()

    steepest = lambda weights: float(jnp.abs(jax.grad(loss)(weights)).max())
    assert steepest(weights) < 5e-5 < 1e-3 < steepest(0 * weights)
    assert Mnist().floors(blobs, blobs["test"])["logistic regression"] > 0.9


def test_a_fit_is_kept_under_its_data(blobs, tmp_path, monkeypatch):
    monkeypatch.setenv("FPT_CACHE", str(tmp_path))
    first = Mnist().floors(blobs, blobs["test"])
    (path,) = tmp_path.iterdir()
    other = {**blobs, "train": Split(blobs["train"].inputs, (blobs["train"].targets + 1) % 10)}
    assert Mnist().floors(other, other["test"])["logistic regression"] < 0.2
    path.write_bytes(path.read_bytes()[:-1])
    assert Mnist().floors(blobs, blobs["test"]) == first
    monkeypatch.setattr(logistic, "fit", None)
    assert Mnist().floors(blobs, blobs["test"]) == first
