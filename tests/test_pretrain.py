"""Tests the pretraining of a body: its checkpoint, as torch and transformers see it, and what can
go wrong on the way."""

import dataclasses
import itertools
import json
import lzma
import math
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpt import checkpoint, load_body, load_run
from fpt.gpt2 import GPT2
from fpt.model import draw_body
from fpt.task import UNSCORED
from tasks.text import Bigrams, prepare
from tests.corpus import jsonl, prose, text_folder

ROOT = Path(__file__).parent.parent
# It has as many positions as the probes need, and more.
SMALL = GPT2(layers=1, width=16, heads=2, positions=136, vocabulary=11)
VOCABULARY = 286

try:
    import torch
except ImportError:
    torch = None
live = pytest.mark.skipif(torch is None, reason="torch is not installed")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bodies") / "small"
    checkpoint.write(folder, SMALL, draw_body(SMALL, jax.random.key(5)))
    return folder


def _arguments(small, data, out, to, steps=24):
    return list(map(str, ["language", "--vocabulary", VOCABULARY, "--context", 128, "--body", small,
                          "--data-dir", data, "--steps", steps, "--batch", 2, "--lr", 2e-2,
                          "--eval-every", 12, "--warmup", 4, "--out", out, "--to", to]))


@pytest.fixture(scope="module")
def pretrained(small, tmp_path_factory):
    """Trains and exports a language model: returns its body, data, run and checkpoint."""
    from scripts.pretrain import main

    top = tmp_path_factory.mktemp("pretrained")
    data = text_folder(top / "data", a_jsonl=jsonl(prose(120)))
    main(_arguments(small, data, top / "runs", top / "body"))
    run, = (top / "runs").iterdir()
    return small, data, run, top / "body"


@live
def test_the_checkpoint_is_the_run_for_torch_and_for_us(pretrained):
    from transformers import GPT2LMHeadModel

    *_, run, body = pretrained
    loaded, tokens = load_run(run), np.random.default_rng(0).integers(0, VOCABULARY, (2, 128))
    ours = np.asarray(loaded(tokens))
    assert ours.std() > 0.1
    with torch.no_grad():
        model = GPT2LMHeadModel.from_pretrained(body).eval()
        theirs = model(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    table = np.asarray(loaded.parameters["token/embedding"])
    np.testing.assert_allclose(load_body(body)(jnp.asarray(table[tokens])) @ table.T, ours,
                               atol=1e-4)


@live
def test_the_held_out_loss_is_torchs_and_the_bits_are_those_of_the_text(pretrained):
    from transformers import GPT2LMHeadModel

    _, data, run, body = pretrained
    task, result = load_run(run).task, json.loads((run / "result.json").read_text())
    test = task.load(data, lambda line: None)["test"]
    scored = test.targets != UNSCORED
    with torch.no_grad():
        model = GPT2LMHeadModel.from_pretrained(body).eval()
        logits = model(torch.from_numpy(test.inputs.astype(np.int64))).logits
    targets = torch.from_numpy(test.targets[scored]).long()
    nats = torch.nn.functional.cross_entropy(logits[scored], targets).item()
    assert result["test"]["loss"] == pytest.approx(nats, abs=1e-3) == result["figures"]["loss"]
    text = task.text.tokenizer.decode(test.targets[scored].tolist())
    assert "\ufffd" not in text
    bits = nats * scored.sum() / math.log(2) / len(text.encode())
    assert result["figures"]["bits per byte"] == pytest.approx(bits, rel=1e-3)


def test_a_language_model_goes_on_from_a_checkpoint_with_its_token_table(pretrained, tmp_path):
    from scripts.pretrain import main

    _, data, run, body = pretrained
    again = [*_arguments(body, data, tmp_path / "runs", tmp_path / "body"),
             "--tokenizer", str(body / "tokenizer.json"), "--load", "body+token"]
    main(again)
    went_on, = (tmp_path / "runs").iterdir()
    begins, before = (json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
                      for folder in (went_on, run))
    best = json.loads((run / "result.json").read_text())["validation"]["loss"]
    assert begins["validation"]["loss"] == pytest.approx(best, rel=1e-5)
    assert begins["validation"]["loss"] < before["validation"]["loss"] - 0.1


def test_a_task_with_input_and_output_layers_loads_no_token_table(small, refused):
    refused("--load for bit-xor takes roles of position+norm+attention+feedforward+recurrent, not "
            "token", "train", "bit-xor", "--body", str(small), "--load",
            "body+token")


def test_the_result_states_what_simple_models_reach(pretrained):
    _, data, run, _ = pretrained
    figures = json.loads((run / "result.json").read_text())["figures"]
    text, held = prepare(data, VOCABULARY, None, print), "".join(prose(120)[49::50]).encode()
    losses = Bigrams(text.stream("train"), VOCABULARY).losses(text.stream("heldout"))
    for name in ("unigram", "bigram"):
        bits = losses[name].sum() / math.log(2) / len(held)
        assert figures[f"bits per byte, {name}"] == pytest.approx(bits)
    assert (figures["bits per byte, xz"]
            == 8 * len(lzma.compress(held, preset=9 | lzma.PRESET_EXTREME)) / len(held))
    assert figures["bits per byte, bigram"] < figures["bits per byte, unigram"] < 8


def test_the_checkpoint_has_gpt2s_dropout_and_the_tasks_vocabulary(pretrained):
    geometry = load_body(pretrained[-1]).geometry
    assert geometry == dataclasses.replace(SMALL, vocabulary=VOCABULARY)
    assert (geometry.embedding_dropout == geometry.attention_dropout == geometry.residual_dropout
            == 0.1)


def test_the_checkpoint_says_where_it_comes_from_and_brings_its_tokenizer(pretrained):
    _, data, run, body = pretrained
    stated = json.loads((body / "pretraining.json").read_text())
    config = json.loads((run / "config.json").read_text())
    # The checkpoint does not say where the body lay.
    assert stated["run"] == run.name
    assert stated["config"] == config | {"body": Path(config["body"]).name}
    assert stated["result"] == json.loads((run / "result.json").read_text())
    assert [point["step"] for point in stated["curve"]] == [0, 12, 24]
    given = prepare(data, VOCABULARY, body / "tokenizer.json", print)
    assert np.array_equal(given.stream("heldout"),
                          prepare(data, VOCABULARY, None, print).stream("heldout"))


def test_a_finished_pretraining_says_so_and_is_left_alone(pretrained, command):
    small, data, run, body = pretrained
    before = {path: path.stat().st_mtime_ns for path in body.iterdir()}
    code, out, err = command("pretrain", *_arguments(small, data, run.parent, body))
    assert (code == 0 and not err and f"{run} is finished; delete it to train again" in out
            and f"--body {body}" in out)
    assert before == {path: path.stat().st_mtime_ns for path in body.iterdir()}


def test_another_body_is_not_overwritten_and_that_is_known_before_training(pretrained, command,
                                                                           tmp_path):
    small, data, _, body = pretrained
    code, _, err = command("pretrain", *_arguments(small, data, tmp_path, body, steps=25))
    assert (code == 2 and f"{body} holds something else already" in err
            and not list(tmp_path.iterdir()))


def test_a_body_does_not_go_out_with_another_texts_tokenizer(pretrained, command, tmp_path):
    small, _, run, _ = pretrained
    other = text_folder(tmp_path / "data", a_jsonl=jsonl(prose(120, seed=1)))
    code, _, err = command("pretrain", *_arguments(small, other, run.parent, tmp_path / "body"))
    assert code == 2 and err.count("\n") == 1 and not (tmp_path / "body").exists()


def test_half_precision_is_the_same_body_rounded(pretrained, command, tmp_path):
    from safetensors.numpy import load_file

    small, data, run, body = pretrained
    code, _, err = command("pretrain", *_arguments(small, data, run.parent, tmp_path / "half"),
                           "--stored", "float16")
    assert code == 0, err
    whole, half = (load_file(folder / "model.safetensors") for folder in (body, tmp_path / "half"))
    assert whole.keys() == half.keys()
    for name, value in whole.items():
        assert half[name].dtype == np.float16, name
        assert np.array_equal(half[name], value.astype(np.float16)), name


def test_a_language_model_writes(pretrained, command):
    small, data, run, body = pretrained
    code, out, _ = command("pretrain", *_arguments(small, data, run.parent, body), "--sample", 30)
    assert code == 0 and len(out.partition(f"--body {body}\n")[2].encode()) > 30


DYING = """
import math, os, signal, sys
import fpt.stack
from fpt.records import Folder
from scripts.pretrain import main

fpt.stack.MOST_PER_DISPATCH, fpt.stack.SECONDS_PER_STATE, fpt.stack.STATE_SHARE = 3, 0, math.inf
write = Folder.write_state

def write_and_die(folder, step, *arguments):
    write(folder, step, *arguments)
    if step > 14:
        os.kill(os.getpid(), signal.SIGKILL)

Folder.write_state = write_and_die
main(sys.argv[1:])
"""


def test_a_pretraining_that_was_killed_ends_in_the_same_checkpoint(pretrained, command, tmp_path):
    small, data, _, body = pretrained
    arguments = _arguments(small, data, tmp_path / "runs", tmp_path / "body")
    killed = subprocess.run([sys.executable, "-c", DYING, *arguments], cwd=ROOT,
                            capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "body").exists()
    code, out, err = command("pretrain", *arguments)
    assert code == 0 and "going on at step" in out, err
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "body" / name).read_bytes() == (body / name).read_bytes()


@pytest.mark.parametrize("file", [0, 3, 4])
def test_killed_while_it_is_written_the_checkpoint_is_written_again(pretrained, command, tmp_path,
                                                                    monkeypatch, file):
    small, data, run, body = pretrained
    arguments = _arguments(small, data, run.parent, tmp_path / "body")
    replace, count = Path.replace, itertools.count()

    def replace_some(path, target):
        if Path(target).is_relative_to(tmp_path) and next(count) == file:
            raise SystemError("killed")
        return replace(path, target)

    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr(Path, "replace", replace_some)
        command("pretrain", *arguments)
    assert not (tmp_path / "body").exists()
    code, _, err = command("pretrain", *arguments)
    assert code == 0, err
    for name in ("model.safetensors", "config.json", "tokenizer.json", "pretraining.json"):
        assert (tmp_path / "body" / name).read_bytes() == (body / name).read_bytes()


def test_a_place_where_no_folder_can_be_is_named(pretrained, command, tmp_path):
    small, data, run, _ = pretrained
    (tmp_path / "file").write_text("")
    code, _, err = command("pretrain",
                           *_arguments(small, data, run.parent, tmp_path / "file" / "body"))
    assert code == 2 and err.count("\n") == 1 and "file/body" in err


def test_text_that_is_not_there_leaves_no_folder_behind(command, tmp_path):
    code, _, err = command("pretrain", "language", "--data-dir", tmp_path / "nowhere", "--out",
                           tmp_path / "runs", "--to", tmp_path / "bodies" / "language")
    assert code == 2 and err.count("\n") == 1 and "nowhere" in err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of 16 kB, on which no body fits."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder],
                      capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_checkpoint_that_does_not_fit_the_disk_is_written_when_there_is_room(pretrained, command,
                                                                               small_disk):
    small, data, run, body = pretrained
    arguments = _arguments(small, data, run.parent, small_disk / "body")
    code, _, err = command("pretrain", *arguments)
    assert code == 2 and err.count("\n") == 1 and "No space left on device" in err
    assert (not list(small_disk.rglob("*model.safetensors*"))
            and not list(small_disk.rglob("config.json")))
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    assert command("pretrain", *arguments)[0] == 0
    assert ((small_disk / "body" / "model.safetensors").read_bytes()
            == (body / "model.safetensors").read_bytes())


def test_what_a_model_has_learnt_is_evaluated_on_any_split(pretrained, command):
    _, data, run, _ = pretrained
    code, out, _ = command("evaluate", run, "--data-dir", data)
    assert code == 0 and json.loads(out)["loss"] == pytest.approx(
        json.loads((run / "result.json").read_text())["test"]["loss"], rel=1e-5)
    code, _, err = command("evaluate", run, "--data-dir", data, "--split", "train")
    assert code == 2 and err.count("\n") == 1 and "cut from" in err, err


def test_a_pretraining_that_diverges_is_a_result_like_any_other(command, small, tmp_path):
    code, out, err = command(
        "pretrain", "copy", "--body", small, "--vocabulary", 8, "--context", 16, "--steps", 6,
        "--eval-every", 3, "--warmup", 0, "--batch", 2, "--lr", 1e30, "--clip", 1e30, "--optimizer",
        "adam", "--decay", "constant", "--out", tmp_path / "runs", "--to", tmp_path / "body")
    assert code == 0 and "diverged at step" in out, err
    result, = (json.loads(file.read_text()) for file in (tmp_path / "runs").glob("*/result.json"))
    assert result["status"] == "diverged"


def test_a_pretraining_that_begins_from_a_run_trains_all_weights_too(
        command, trained_pair, tmp_path):
    run, _ = trained_pair
    assert json.loads((run / "config.json").read_text())["train"] == "fpt"
    for words, trained in (((), "all"), (("--train", "norm"), "norm")):
        code, _, err = command("pretrain", "task", "bit-xor", "--from", run, "--steps", 2,
                               "--eval-every", 2, "--out", tmp_path / trained, *words,
                               "--to", tmp_path / f"body-{trained}")
        assert code == 0, err
        file, = (tmp_path / trained).glob("*/config.json")
        assert json.loads(file.read_text())["train"] == trained


MISTAKES = [
    (("langauge",), "did you mean 'language'?"),
    (("task",), "which task?"),
    (("task", "bit-xro"), "did you mean 'bit-xor'?"),
    (("copy", "--seed", "0", "1"), "pretraining makes one body"),
    (("copy", "--context", "7"), "--context must be even"),
    (("copy", "--vocabulary", "1"), "--vocabulary must be at least 2"),
    (("copy", "--batch", "6", "--accumulate", "4"), "--accumulate 4 does not divide --batch 6"),
    (("copy", "--optimizer", "moun"), "did you mean 'muon'?"),
    (("copy", "--sample", "9"), "--sample is for language"),
    (("copy", "--stored", "float61"), "did you mean 'float16'?"),
    (("copy", "--warmup", "1000", "--steps", "1000"), "--warmup 1000 must be below --steps 1000"),
    (("self", "self-bit-xor"), "unknown task 'self-bit-xor'"),
    (("copy", "--decay", "cosin"), "did you mean 'cosine'?"),
    (("copy", "--context", "2048"), "2048 tokens, but gpt2-mini only 1024 positions"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES,
                         ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2(command, tmp_path, arguments, said):
    code, _, err = command("pretrain", *arguments, "--out", tmp_path, "--to", tmp_path / "body")
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and said in err, err
    assert not list(tmp_path.rglob("config.json"))


@pytest.mark.parametrize("said, options", [
    ("fits no GPT-2 checkpoint", ("--body", "lstm-mini")),
    ("train in stages with scripts.train", ("--stages", "all:2")),
])
def test_what_cannot_become_a_checkpoint_is_refused_before_it_is_trained(refused, said, options):
    refused(said, "pretrain", "task", "bit-xor", *options)
