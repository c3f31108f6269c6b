"""What all tests share: CPU, no network, no cache but the session's own, and small bodies."""

import atexit
import os
import shutil
import signal
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
# A program that several tests run, in processes of their own too, is compiled once; by `tests.mutations`, once for all mutants.
if compiled := os.environ.get("FPT_TEST_COMPILED"):
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
else:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# A shell has what it runs in the background ignore Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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


@pytest.fixture
def command(monkeypatch, capsys):
    """`command("train", "bit-xor", ...)` -> exit code, standard output, standard error, in this process."""
    def call(module, *arguments):
        import importlib

        from scripts.command import run

        monkeypatch.setattr("sys.argv", [module, *map(str, arguments)])
        capsys.readouterr()
        try:
            run(importlib.import_module(f"scripts.{module}").main)
            code = 0
        except SystemExit as stopped:
            code = stopped.code or 0
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def refused(command, tmp_path, monkeypatch):
    """`refused("unknown task", "train", "bit-xro")`: the command is refused with these words, and leaves nothing."""
    def check(said, *arguments):
        monkeypatch.chdir(tmp_path)
        before = set(tmp_path.rglob("*"))
        code, _, err = command(*arguments)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and said in err, (code, err)
        assert set(tmp_path.rglob("*")) == before

    return check
