"""What all tests share: CPU, no network, no cache but the session's own, and small bodies."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import pytest

from fpt import checkpoint
from fpt.bodies import Geometry
from fpt.model import draw_body

TINY = Geometry(layers=2, width=32, heads=4, positions=64, vocabulary=11)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Nothing is read from the user's cache, and nothing is written there."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["FPT_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A checkpoint of a random two-layer body."""
    folder = tmp_path_factory.mktemp("bodies") / "tiny"
    checkpoint.write(folder, TINY, draw_body(TINY, jax.random.key(5)))
    return folder
