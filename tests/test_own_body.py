"""Bodies that are not GPT-2, a user's own among them, pass through the same code as GPT-2.

Each is trained in a stack, frozen, stopped and resumed, recorded and loaded again.
"""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import fpt
from fpt import UserError, load_body, load_run, train
from fpt.arrays import digest
from fpt.config import Config, grid
from fpt.files import sha256
from fpt.interrupt import Interrupted
from fpt.parameters import Source, resolve
from fpt.records import Folder
from fpt.run import resolved
from tasks.bits import BitXor
from tests.running import assert_same, ctrl_c
from tests.test_freeze import stacked

MEAN = '''
from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp

from fpt.body import Body, Parameter
from fpt.initialisers import normal, ones, zeros
from fpt.layers import Projection, pick


@dataclass(frozen=True)
class Mean(Body):
    """Describes a body of one dense layer, which sees the mean of the tokens so far."""

    width: int = 8
    positions: int | None = None

    def table(self, init="original"):
        return {"gain": Parameter((self.width,), "norm", ones, layer=0),
                "dense/kernel": Parameter((self.width, self.width), "feedforward", normal(0.3),
                                          layer=0, matrix=True),
                "dense/bias": Parameter((self.width,), "feedforward", zeros, layer=0)}

    def module(self, dtype):
        return Layer(self.width, dtype)


class Layer(nn.Module):
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, embeds, key=None, read=None, first=0):
        gain = self.param("gain", nn.initializers.ones, (self.width,))[None, None]
        counts = jnp.arange(1, embeds.shape[1] + 1, dtype=embeds.dtype)[None, :, None]
        mean = gain * jnp.cumsum(embeds, axis=1) / counts
        return pick(embeds + jnp.tanh(Projection(self.width, self.dtype, name="dense")(mean)),
                    read), None
'''
KINDS = {
    "own": {"body": "mean", "body_file": "mean.py"},
    "lstm": {"body": "lstm", "layers": 1, "width": 8},
    "lstm-residual-repaired": {"body": "lstm-residual-repaired", "layers": 2, "width": 8},
    "none": {"body": "none", "width": 8},
}
SETTINGS = {"steps": 6, "batch": 4, "lr": 1e-2, "eval_every": 3}


@pytest.fixture(scope="module", params=KINDS)
def config(request, tmp_path_factory):
    """Describes a run of each kind of body."""
    settings = SETTINGS | KINDS[request.param]
    if file := settings.get("body_file"):
        settings["body_file"] = str(tmp_path_factory.mktemp("own") / file)
        Path(settings["body_file"]).write_text(MEAN)
    return Config(BitXor(bits=3), **settings)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """Trains two seeds in one stack, and returns their folder and results."""
    out = tmp_path_factory.mktemp("finished")
    results = train(grid(config, (1e-2,), (0, 1)), out, quiet=True)
    assert [result["runs_in_stack"] for result in results] == [2, 2]
    return out, results


@pytest.mark.parametrize("roles", ["fpt", "all"])
def test_frozen_parameters_stay_to_the_bit_and_trained_ones_move(config, roles):
    trainer, frozen, condition, state = stacked(roles, geometry=resolve(config)[0].geometry)
    before, start = digest(frozen), jax.tree.map(np.asarray, state.trainable)
    state = trainer.advance(frozen, None, condition, state, np.int32(0), np.int32(5))
    assert digest(frozen) == before
    for name, value in state.trainable.items():
        assert not np.array_equal(value, start[name]), name
    trained = {trainer.table[name].role for name in start} - {"position"}
    assert trained == {"input", "output", "norm"} if roles == "fpt" else not frozen


def test_a_run_in_a_stack_is_the_run_alone(config, finished, tmp_path):
    train(grid(config, (1e-2,), (1,)), tmp_path, quiet=True)
    alone, = tmp_path.iterdir()
    stacked = load_run(finished[0] / alone.name)
    for name, value in load_run(alone).parameters.items():
        np.testing.assert_allclose(value, stacked.parameters[name], atol=1e-5, err_msg=name)


def test_runs_that_were_stopped_end_in_the_same_bits(config, finished, tmp_path):
    configs = grid(config, (1e-2,), (0, 1))
    with pytest.raises(Interrupted):
        train(configs, tmp_path, quiet=True, log=ctrl_c(3))
    assert len(list(tmp_path.rglob("state-*"))) == 2
    train(configs, tmp_path, quiet=True)
    assert_same(finished[0], tmp_path)


def test_a_loaded_run_answers_as_its_result_says(finished):
    for folder, result in zip(sorted(finished[0].iterdir()), finished[1]):
        loaded = load_run(folder)
        test = loaded.task.load()["test"]
        right = np.asarray(loaded(test.inputs)).argmax(-1) == test.targets
        assert right.mean() == result["test"]["accuracy"]


def test_a_bodys_kind_and_sizes_are_recorded(config, finished):
    stated = json.loads((next(finished[0].iterdir()) / "config.json").read_text())
    kind = {"mean": "own", "none": "none"}.get(config.body, "lstm")
    assert stated["geometry"]["kind"] == kind and stated["geometry"]["width"] == 8
    assert stated["load"] == "none" and stated["checkpoint"] is None


def test_what_only_gpt2_has_is_refused_in_one_line(config, finished, tmp_path):
    loaded = load_run(next(finished[0].iterdir()))
    with pytest.raises(UserError, match="is no GPT-2 body"):
        loaded.export(tmp_path / "exported")
    with pytest.raises(UserError, match="has no attention"):
        loaded(np.zeros((1, 6)), maps=True)
    with pytest.raises(UserError, match="no weights of .* exist; say --load none"):
        train(Config(BitXor(bits=3), **SETTINGS, body=config.body, body_file=config.body_file,
                     load="norm"), tmp_path / "runs", quiet=True)


@pytest.mark.parametrize("random", [False, True])
def test_a_body_that_is_no_gpt2_is_loaded_with_a_run_alone(random):
    with pytest.raises(UserError, match="lstm is no GPT-2 body: train it"):
        load_body("lstm", random=random)


def test_a_body_of_ones_own_has_initialisations_of_its_own(tmp_path):
    text = MEAN.replace("    width: int = 8", '    inits = ("original", "wide")\n    width: int = 8')
    text = text.replace("normal(0.3)", 'normal({"original": 0.3, "wide": 3.0}[init])')
    (tmp_path / "mean.py").write_text(text)
    usual = Config(BitXor(bits=3), body="mean", body_file=str(tmp_path / "mean.py"), **SETTINGS)
    kernels = []
    for init in ("original", "wide"):
        config, _ = resolve(dataclasses.replace(usual, init=init))
        kernels.append(np.asarray(Source(config, None).values(config, ["body/dense/kernel"])[
            "body/dense/kernel"]))
    np.testing.assert_allclose(kernels[1], 10 * kernels[0], rtol=1e-5)
    with pytest.raises(UserError, match="unknown --init of mean 'wid'; did you mean 'wide'?"):
        resolve(dataclasses.replace(usual, init="wid"))


def test_a_changed_file_is_another_run(tmp_path):
    file = tmp_path / "mean.py"
    names = []
    for text in (MEAN, MEAN.replace("normal(0.3)", "normal(0.4)")):
        file.write_text(text)
        config = Config(BitXor(bits=3), body="mean", body_file=str(file), **SETTINGS)
        names.append(resolved([config])[0][0].name)
    assert names[0] != names[1]


def test_the_body_of_the_page_trains(command, tmp_path):
    page = (Path(fpt.__file__).parent / "own_body.md").read_text()
    file = tmp_path / "mean.py"
    file.write_text(re.search(r"```python\n(.*?)```", page, re.S)[1])
    code, out, err = command("train", "bit-xor", "--body-file", file, "--layers", 2, "--width", 16,
                             "--steps", 4, "--eval-every", 2, "--out", tmp_path / "runs")
    assert code == 0 and "test accuracy" in out, err
    moved = shutil.move(file, tmp_path / "moved.py")
    run, = (tmp_path / "runs").iterdir()
    code, out, err = command("evaluate", run, "--body-file", moved)
    assert code == 0 and json.loads(out)["n"] == 1024, err


def test_a_file_that_goes_while_its_run_trains_is_recorded_as_it_was(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(MEAN)
    config = Config(BitXor(bits=3), **SETTINGS | KINDS["own"] | {"body_file": str(file)})
    folder, was = Folder(tmp_path / "runs", config), sha256(file)
    folder.open()
    file.unlink()
    folder.write_state(3, {}, {"a": 1}, [folder.path.name])
    assert folder.read_state(3) == ({}, {"a": 1})
    score = {"accuracy": 0.5, "loss": 1.0}
    history = [{"step": 0, "validation": score}]
    folder.write_metrics(history)
    folder.write_result(history, {"test": score, "validation": score, "floors": {}}, {}, {})
    folder.close()
    assert folder.result()["body_file"] == was
