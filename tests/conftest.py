"""Gives all tests four CPU devices, strict types, a cache of their own and small bodies."""

import atexit
import os
import re
import shutil
import signal
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["HF_HUB_OFFLINE"] = "1"
# A program that several tests run, in all workers and in processes of their own, is compiled once;
# under `tests.mutations` once for all mutants.  Workers inherit the variable from who starts them.
if "FPT_TEST_COMPILED" not in os.environ:
    os.environ["FPT_TEST_COMPILED"] = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, os.environ["FPT_TEST_COMPILED"], ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["FPT_TEST_COMPILED"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# A shell has what it runs in the background ignore Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import pytest

from fpt import checkpoint
from fpt.gpt2 import GPT2
from fpt.model import draw_body
from fpt.task import Preset, Task

TINY = GPT2(layers=2, width=32, heads=4, positions=64, vocabulary=11)


class Stub(Task):
    """Gives what every task must give, for tests of others that have no use for it."""

    name = "stub"
    presets = {"laptop": Preset("tiny", 1, 1, 1e-3, 1)}
    load = draw = encode = floors = token_labels = show = lambda self, *arguments: None


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Puts a folder in the place of the user's cache, which is neither read nor written."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["FPT_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Makes a checkpoint of a random two-layer body."""
    folder = tmp_path_factory.mktemp("bodies") / "tiny"
    checkpoint.write(folder, TINY, draw_body(TINY, jax.random.key(5)))
    return folder


@pytest.fixture(scope="session")
def trained_pair(tiny_folder, tmp_path_factory):
    """Trains a run of bit XOR with two kept steps, and its random twin.

    Whoever writes into their folders takes copies.
    """
    from fpt import Config, train
    from tasks.bits import BitXor

    out = tmp_path_factory.mktemp("trained")
    common = dict(steps=40, batch=8, lr=1e-2, eval_every=20)
    train(Config(BitXor(bits=3), str(tiny_folder), **common), out, quiet=True, keep=2)
    first, = out.iterdir()
    train(Config(BitXor(bits=3), str(tiny_folder), load="none", **common), out, quiet=True)
    second, = set(out.iterdir()) - {first}
    return first, second


@pytest.fixture(scope="module")
def undisturbed(tiny_folder, tmp_path_factory):
    """Trains four runs as one stack, without a break: their folder, configurations and results.

    Whoever writes into their folders takes copies.
    """
    from fpt.config import Config, grid
    from fpt.run import train
    from tasks.bits import BitXor

    common = Config(BitXor(bits=3), str(tiny_folder), steps=60, batch=8, lr=1e-2, eval_every=20)
    out, configs = tmp_path_factory.mktemp("undisturbed"), grid(common, (1e-2, 1e-3), (0, 1))
    results = train(configs, out, quiet=True)
    assert len(list(out.iterdir())) == 4
    return out, configs, results


@pytest.fixture(scope="module")
def pair(trained_pair, tmp_path_factory):
    """Copies the run with two kept steps and its random twin, for one file of tests."""
    out = tmp_path_factory.mktemp("pair")
    return tuple(shutil.copytree(folder, out / folder.name) for folder in trained_pair)


@pytest.fixture(scope="module")
def browser():
    """Starts Chromium without a window; skips the tests that need it where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")
    known = ("chromium", "chromium-browser", "google-chrome")
    if not (chromium := next(filter(None, map(shutil.which, known)), None)):
        pytest.skip("there is no chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium)
        yield opened
        opened.close()


@pytest.fixture
def opened(browser):
    """Opens a page in a browser, which must neither complain nor ask the network.

    For example: `opened(file, "#sort=-test", width=380)`.
    """
    complaints, contexts = [], []

    def call(file, address="", width=1280, **settings):
        viewport = {"viewport": {"width": width, "height": 900}}
        contexts.append(context := browser.new_context(**viewport | settings))
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: re.match("(file|data|blob):", request.url)
                or complaints.append(request.url))
        page.goto(file.as_uri() + address)
        return page

    yield call
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command in this process: `command("train", "bit-xor", ...)`.

    Returns its exit code, standard output and standard error.
    """
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
    """Checks that a command is refused with some words, and leaves nothing behind.

    For example: `refused("unknown task", "train", "bit-xro")`.
    """
    def check(said, *arguments):
        monkeypatch.chdir(tmp_path)
        before = set(tmp_path.rglob("*"))
        code, _, err = command(*arguments)
        assert code == 2 and err.startswith("error: ") and said in err, (code, err)
        assert err.count("\n") == 1, err
        assert set(tmp_path.rglob("*")) == before

    return check
