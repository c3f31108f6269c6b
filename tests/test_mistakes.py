"""Tests mistakes that people make: each command answers in one line that names what is wrong,
where, or what to do, and leaves nothing behind."""

import gzip
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fpt import UserError, load_body, load_run

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    """Trains a run to its end."""
    from fpt import Config, train
    from tasks.bits import BitXor

    out = tmp_path_factory.mktemp("finished")
    train(Config(BitXor(bits=3), str(tiny_folder), steps=2, batch=2, lr=1e-3, eval_every=2), out,
          quiet=True)
    return next(out.iterdir())


# Option of training -> what it is given -> words of the error.
VALUES = {
    "--batch": {"-1": "--batch must be", "1.5": "1.5", "nan": "nan", "": "--batch", "None": "None",
                "True": "True", "1e3": "1e3", "0x10": "0x10", "4 4": "4"},
    "--steps": {"-1": "--steps must be", "2.0": "2.0", "inf": "inf", "": "--steps", "ten": "ten"},
    "--eval-every": {"0": "--eval-every must be", "-5": "--eval-every must be", "nan": "nan"},
    "--eval-examples": {"0": "--eval-examples must be", "-1": "--eval-examples must be",
                        "all": "all"},
    "--warmup": {"-1": "--warmup must be", "2": "never reaches", "99999999999999999999": "at most",
                 "0.1": "0.1"},
    "--accumulate": {"0": "--accumulate must be", "-2": "--accumulate must be",
                     "3": "does not divide"},
    "--seed": {"4294967296": "--seed must be between", "0.5": "0.5", "0,1": "0,1", "0..3": "0..3",
               "": "--seed"},
    "--body-seed": {"-1": "--body-seed must be", "4294967296": "--body-seed must be", "x": "x"},
    "--lr": {"0": "positive", "inf": "positive", "1e400": "positive", "1e-400": "positive",
             "-inf": "--lr: expected", "1,5": "1,5", "": "--lr", "None": "None"},
    "--clip": {"0": "--clip must be", "-1": "--clip must be", "nan": "--clip must be",
               "inf": "--clip must be"},
    "--weight-decay": {"nan": "--weight-decay", "inf": "--weight-decay", "1e400": "--weight-decay"},
    "--dropout": {"-0.1": "--dropout must be", "nan": "--dropout must be",
                  "1e400": "--dropout must be", "half": "half"},
    "--embedding-dropout": {"1": "--embedding-dropout must be",
                            "nan": "--embedding-dropout must be"},
    "--attention-dropout": {"2": "--attention-dropout must be",
                            "-1": "--attention-dropout must be"},
    "--residual-dropout": {"inf": "--residual-dropout must be"},
    "--bits": {"0": "at least 1", "-3": "at least 1", "x": "x", "99999999999": "positions"},
    "--strings": {"0": "at least 1", "1000": "positions"},
    "--patch": {"2": "does not divide", "0": "at least 1"},
    "--body": {"": "--body is empty", "gpt2-mni": "did you mean 'gpt2-mini'?", "GPT2": "known:",
               "/": "no config.json in /", "~/x": "no folder ~/x",
               "../x": "no folder ../x", "https://huggingface.co/gpt2": "no folder https:",
               "a b": "unknown body 'a b'", "ünï": "unknown body", "a\nb": "unknown body",
               "x" * 300: "unknown body", "None": "unknown body 'None'"},
    "--load": {"": "--load is empty", "input": "not input", "token": "not token",
               "boddy": "did you mean 'body'?", "attention@9": "beyond",
               "norm@1-0": "lower one first", "body@0": "range of layers", "a\nb": "unknown role"},
    "--train": {"": "--train is empty", "+": "trains nothing", "FPT": "unknown role",
                "attention@": "written like", "attention@x": "written like", "norm@0-99": "beyond",
                "fpt@0": "range of layers", "output, input": "unknown role"},
    "--birth": {"Weights": "did you mean 'weights'?", "": "--birth is empty",
                "None": "unknown birth"},
    "--redraw": {"norms": "did you mean 'norm'?"},
    "--dtype": {"float16": "did you mean 'bfloat16'?", "fp32": "unknown dtype",
                "": "--dtype is empty"},
    "--optimizer": {"SGD": "unknown optimizer", "": "--optimizer is empty"},
    "--decay": {"linear": "unknown decay", "cosin": "did you mean 'cosine'?"},
    "--init": {"": "--init is empty"},
    "--preset": {"": "--preset is empty", "Paper": "did you mean 'paper'?",
                 "lap top": "did you mean 'laptop'?"},
    "--data-dir": {"/nowhere": "no folder /nowhere", "/etc/passwd": "no folder /etc/passwd"},
    "--out": {"": "--out is empty", "/proc/x": "cannot write /proc/x",
              "/dev/null": "cannot write /dev/null"},
}


@pytest.mark.parametrize(("option", "value", "said"), [
    pytest.param(option, value, said, id=f"{option} {value[:20]!r}")
    for option, values in VALUES.items()
    for value, said in values.items()])
def test_a_value_that_cannot_be(refused, tiny_folder, option, value, said):
    refused(said, "train", "bit-xor", "--bits", 3, "--steps", 2, "--eval-every", 2, "--body",
            tiny_folder, option, value)


# Words of the error, and the command; {run}, {body}, {file} and {folder} exist, {folder} is empty.
COMMANDS = [
    ("an argument is empty", "data", ""),
    ("an argument is empty", "evaluate", ""),
    ("--out is empty", "train", "bit-xor", "--out="),
    ("--lr is empty", "train", "bit-xor", "--lr", "1e-3", ""),
    ("--task-file is empty", "train", "--task-file", ""),
    ("--export is empty", "evaluate", "{run}", "--export", ""),
    ("--lr: expected at least one argument", "train", "bit-xor", "--lr"),
    ("known: --strings, --bits", "train", "bit-xor", "--zzzzz"),
    ("known: --split, --examples", "evaluate", "{run}", "--zzzzz"),
    ("--tasks: expected at least one argument", "benchmark", "--tasks"),
    ("--dtype: expected at least one argument", "benchmark", "--dtype"),
    ("unknown task 'BIT-XOR'", "data", "BIT-XOR"),
    ("did you mean 'bit-xor'?", "train", "bit_xor"),
    ("unknown task", "train", "self-x"),
    ("unknown task", "train", "../tasks/bits.py"),
    ("unknown option 'extra'", "train", "bit-xor", "extra"),
    ("unknown option '-x'", "train", "bit-xor", "-x"),
    ("no task file", "train", "--task-file", "{folder}/own.py"),
    ("no task file", "data", "--task-file", "{folder}"),
    ("no task file", "data", "--task-file", "{folder}/*.py"),
    ("makes nothing anew", "train", "bit-xor", "--body", "{body}", "--bits", "3", "--birth",
     "statistics", "--redraw", "output"),
    ("makes nothing anew", "train", "bit-xor", "--body", "{body}", "--bits", "3", "--birth",
     "mimetic", "--load", "norm"),
    ("no folder {file}", "train", "bit-xor", "--body", "{file}"),
    ("no config.json in {folder}", "train", "bit-xor", "--body", "{folder}"),
    ("cannot write {file}", "train", "bit-xor", "--bits", "3", "--body", "{body}", "--out",
     "{file}"),
    ("64 positions", "train", "listops", "--longest", "128", "--body", "{body}"),
    ("64 positions", "train", "bit-memory", "--body", "{body}", "--bits", "1000"),
    ("1024 tokens", "train", "cifar10-lra", "--body", "{body}"),
    ("no folder {folder}/mnist", "train", "mnist", "--body", "{body}", "--data-dir", "{folder}"),
    ("no folder {folder}/cifar10", "data", "cifar10", "--data-dir", "{folder}"),
    ("where is the text?", "data", "language"),
    ("{folder}/text", "data", "language", "--data-dir", "{folder}"),
    ("basic_train.tsv", "data", "listops", "--source", "lra", "--data-dir", "{folder}"),
    ("name it with --data-dir", "data", "listops", "--source", "lra"),
    ("--shortest 0", "data", "listops", "--shortest", "0"),
    ("--shortest 200", "data", "listops", "--shortest", "200"),
    ("no expression has 2 to 2 tokens", "data", "listops", "--shortest", "2", "--longest", "2"),
    ("--depth and --arguments", "data", "listops", "--depth", "1"),
    ("--depth and --arguments", "data", "listops", "--arguments", "-1"),
    ("--train-examples", "data", "listops", "--train-examples", "0"),
    ("--held-out", "data", "listops", "--held-out", "-1"),
    ("--patch 5", "data", "mnist", "--patch", "5"),
    ("--patch 0", "data", "mnist", "--patch", "0"),
    ("--side 27", "data", "mnist", "--side", "27"),
    ("--example must be between", "data", "bit-xor", "--example", "-1"),
    ("--example must be between", "data", "bit-xor", "--example", "9" * 30),
    ("1e3", "data", "bit-xor", "--example", "1e3"),
    ("unknown preset", "data", "bit-xor", "--preset", "x"),
    ("known: validation, test", "data", "bit-xor", "--split", "x"),
    ("unknown option", "data", "bit-xor", "--out", "x"),
    ("no folder ~/runs", "evaluate", "~/runs"),
    ("no config.json", "evaluate", "/"),
    ("no folder {file}", "evaluate", "{file}"),
    ("no folder {run}/config.json", "evaluate", "{run}/config.json"),
    ("--split is empty", "evaluate", "{run}", "--split", ""),
    ("--examples must be", "evaluate", "{run}", "--examples", "0"),
    ("--examples must be", "evaluate", "{run}", "--examples", "-5"),
    ("nan", "evaluate", "{run}", "--examples", "nan"),
    ("unknown option", "evaluate", "{run}", "{run}"),
    ("unknown option", "evaluate", "{run}", "--no"),
    ("no folder /nowhere", "evaluate", "{run}", "--data-dir", "/nowhere"),
    ("cannot write {folder}", "evaluate", "{run}", "--predictions", "{folder}"),
    ("cannot write {file}/x", "evaluate", "{run}", "--predictions", "{file}/x"),
    ("cannot write {file}", "evaluate", "{run}", "--export", "{file}"),
    ("cannot write /proc/x", "evaluate", "{run}", "--export", "/proc/x"),
    ("name the folders of runs", "figure"),
    ("name the folders of runs", "figure", "{run}", "--study", "births"),
    ("--study needs --to", "figure", "--study", "births"),
    ("metrics.jsonl", "figure", "{folder}"),
    ("metrics.jsonl", "figure", "/nowhere"),
    ("ends in .svg or .png", "figure", "{run}", "--to", "a.pdf"),
    ("ends in .svg or .png", "figure", "{run}", "--to", "a"),
    ("--to is empty", "figure", "{run}", "--to", ""),
    ("ends in .svg or .png", "figure", "{run}", "--to", ".svg"),
    ("cannot write", "figure", "{run}", "--to", "{file}/a.svg"),
    ("unknown part", "figure", "{run}", "--part", "hidden", "--to", "a.svg"),
    ("unknown task", "figure", "{run}", "--task", "mnist"),
    ("maybe", "figure", "{run}", "--chosen", "maybe"),
    ("unknown study 'x'", "figure", "--study", "x", "--to", "a.svg"),
    ("did you mean 'births'?", "figure", "--study", "birth", "--to", "a.svg"),
    ("name one with --task", "figure", "--study", "births", "--to", "a.svg"),
    ("did you mean 'hidden'?", "figure", "--study", "births", "--task", "bit-memory", "--chosen",
     "True", "--part", "hiden", "--to", "a.svg"),
    ("--study", "table"),
    ("--study is empty", "table", "--study", ""),
    ("unknown study", "table", "--study", "births.jsonl"),
    ("unknown task", "table", "--study", "births", "--task", "x"),
    ("cannot write", "table", "--study", "births", "--to", "{file}/x"),
    ("cannot write", "table", "--study", "births", "--to", "{folder}"),
    ("--study is empty", "collect", "{run}", "--study", ""),
    ("small letters", "collect", "{run}", "--study", "A"),
    ("pretraining runs of all studies", "collect", "{run}", "--study", "bodies"),
    ("exclude each other", "train", "bit-xor", "--from", "{run}", "--preset", "paper"),
    ("small letters", "collect", "{run}", "--study", "é"),
    ("small letters", "collect", "{run}", "--study", "a b"),
    ("cannot write", "collect", "{run}", "--study", "s", "--records", "{file}"),
    ("cannot write", "collect", "{run}", "--study", "x" * 300, "--records", "{folder}"),
    ("no folder {file}", "collect", "{file}", "--study", "s", "--records", "{folder}"),
    ("no finished run", "collect", "{folder}", "--study", "s", "--records", "{folder}"),
    ("unknown task", "benchmark", "--tasks", "mnist"),
    ("unknown dtype", "benchmark", "--dtype", "float64"),
    ("--body is empty", "benchmark", "--body", ""),
    ("side to compare with", "benchmark", "--against", "jax"),
    ("--stack must be", "benchmark", "--stack", "0"),
    ("--seconds must be", "benchmark", "--seconds", "nan"),
    ("--seconds must be", "benchmark", "--seconds", "-1"),
    ("--batch must be", "benchmark", "--batch", "0"),
    ("an argument is empty", "pretrain", ""),
    ("did you mean 'language'?", "pretrain", "Language"),
    ("which task?", "pretrain", "self", "--bits"),
    ("did you mean 'mnist'?", "pretrain", "self", "self-mnist"),
    ("unknown task 'copy'", "pretrain", "task", "copy"),
    ("unknown option 'x'", "pretrain", "copy", "x"),
    ("--vocabulary must be", "pretrain", "copy", "--vocabulary", "1"),
    ("--context must be", "pretrain", "copy", "--context", "0"),
    ("64 positions", "pretrain", "copy", "--body", "{body}"),
    ("trains nothing", "pretrain", "copy", "--train", "none"),
    ("maybe", "pretrain", "copy", "--anywhere", "maybe"),
    ("--sample is for language", "pretrain", "copy", "--sample", "-1"),
    ("holds something else", "pretrain", "copy", "--to", "{body}"),
    ("holds something else", "pretrain", "copy", "--to", "{file}"),
    ("cannot write {file}/x", "pretrain", "copy", "--to", "{file}/x"),
]


@pytest.mark.parametrize(("said", "arguments"), [
    pytest.param(said, arguments, id=" ".join(arguments)[:70] + f" {number}")
    for number, (said, *arguments) in enumerate(COMMANDS)])
def test_a_command_that_cannot_be(refused, run, tiny_folder, tmp_path, monkeypatch, said,
                                  arguments):
    monkeypatch.delenv("FPT_DATA", raising=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    there = {"run": run, "body": tiny_folder, "file": tmp_path / "file",
             "folder": tmp_path / "empty"}
    refused(said.format(**there), *(argument.format(**there) for argument in arguments))


BROKEN = {  # what a file holds; None: half of what it held
    "empty": b"", "cut": None, "binary": bytes(range(256)), "zeros": bytes(50),
    "not UTF-8": "é".encode("latin-1"), "marked": b"\xef\xbb\xbf{}", "a page": b"<html></html>",
    "a long number": b'{"a": ' + b"9" * 6_000 + b"}",
}


@pytest.mark.parametrize("name",
                         ["config.json", "result.json", "metrics.jsonl", "trainable.safetensors"])
@pytest.mark.parametrize("harm", BROKEN)
def test_a_run_of_which_a_file_is_broken(refused, run, tmp_path, name, harm):
    folder = shutil.copytree(run, tmp_path / run.name)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2] if BROKEN[harm] is None else BROKEN[harm])
    if name != "metrics.jsonl":
        refused(name, "evaluate", folder)
    if name != "trainable.safetensors" and (name, harm) != ("metrics.jsonl", "empty"):
        refused(name, "figure", folder)
        refused(name, "collect", folder, "--study", "s", "--records", tmp_path)


@pytest.mark.parametrize("content", [[], {}, 5, None, "x", {"a": 1}, {"task": "bit-xor"},
                                     {"model_type": "gpt2"}], ids=str)
def test_a_run_whose_configuration_is_foreign_json(refused, run, tmp_path, content):
    folder = shutil.copytree(run, tmp_path / run.name)
    (folder / "config.json").write_text(json.dumps(content))
    refused("config.json", "evaluate", folder)


@pytest.mark.parametrize(("key", "value"), [
    ("task", 5), ("task", "bit-xro"), ("task", None), ("sizes", []), ("sizes", {"bits": -1}),
    ("sizes", {"bots": 3}), ("steps", "2"), ("steps", None), ("batch", {}), ("lr", float("nan")),
    ("lr", "fast"), ("seed", -1), ("seed", []), ("geometry", 5), ("geometry", {"layers": 2}),
    ("train", "nothing"), ("dtype", None), ("birth", 5), ("another", 1),
    ("task_file", "/nowhere.py"), ("checkpoint", "0"), ("dropout", 7),
], ids=str)
def test_a_run_whose_configuration_has_a_value_that_cannot_be(refused, run, tmp_path, key, value):
    folder = shutil.copytree(run, tmp_path / run.name)
    stated = json.loads((folder / "config.json").read_text()) | {key: value}
    (folder / "config.json").write_text(json.dumps(stated))
    refused("config.json", "evaluate", folder)


@pytest.fixture
def body(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "body")


def no_body(refused, said, folder):
    refused(said, "train", "bit-xor", "--bits", 3, "--body", folder)


@pytest.mark.parametrize("harm", BROKEN)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_body_of_which_a_file_is_broken(refused, body, name, harm):
    whole = (body / name).read_bytes()
    (body / name).write_bytes(whole[: len(whole) // 2] if BROKEN[harm] is None else BROKEN[harm])
    no_body(refused, name, body)


@pytest.mark.parametrize("settings", [
    {"model_type": "llama"}, {"model_type": None}, {"model_type": ["gpt2"]}, {"n_layer": 2.0},
    {"n_layer": True}, {"n_layer": "2"}, {"n_embd": 10**9, "n_head": 1}, {"n_positions": 0},
    {"n_positions": None}, {"vocab_size": -1}, {"n_inner": 0}, {"n_inner": "x"},
    {"activation_function": None}, {"activation_function": ["gelu"]},
    {"activation_function": "swish"}, {"layer_norm_epsilon": None}, {"layer_norm_epsilon": "1e-5"},
    {"embd_pdrop": None}, {"attn_pdrop": float("nan")}, {"resid_pdrop": 1},
    {"scale_attn_weights": "yes"}, {"add_cross_attention": None},
], ids=str)
def test_a_body_whose_configuration_has_a_value_that_cannot_be(refused, body, settings):
    stated = json.loads((body / "config.json").read_text()) | settings
    (body / "config.json").write_text(json.dumps(stated))
    no_body(refused, str(body), body)


@pytest.mark.parametrize("kind", ["int8", "int32", "int64", "uint8", "float64", "bool"])
def test_a_body_whose_weights_are_numbers_of_another_kind(refused, body, kind):
    tensors = load_file(body / "model.safetensors")
    save_file({key: value.astype(kind) for key, value in tensors.items()},
              body / "model.safetensors")
    no_body(refused, "is stored as", body)


@pytest.mark.parametrize(("change", "said"), [
    (lambda value: np.ascontiguousarray(value.T), "shape"),
    (lambda value: np.full_like(value, np.inf), "not finite"),
    (lambda value: value[:1], "shape"),
], ids=["transposed", "infinite", "cut"])
def test_a_body_whose_weights_are_others(refused, body, change, said):
    tensors = load_file(body / "model.safetensors")
    save_file({key: change(value) for key, value in tensors.items()}, body / "model.safetensors")
    no_body(refused, said, body)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["folder", "dangling link", "link to itself"])
def test_a_body_of_which_a_file_is_none(refused, body, name, kind):
    (body / name).unlink()
    if kind == "folder":
        (body / name).mkdir()
    else:
        (body / name).symlink_to("nowhere" if kind == "dangling link" else name)
    no_body(refused, name, body)


@pytest.mark.parametrize("index", [
    {}, {"weight_map": {}}, {"weight_map": {"a": "../m.safetensors"}}, {"weight_map": {"a": None}},
], ids=str)
def test_a_body_whose_index_is_wrong(refused, body, index):
    (body / "model.safetensors").rename(body.parent / "m.safetensors")
    (body / "model.safetensors.index.json").write_text(json.dumps(index))
    no_body(refused, str(body), body)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"),
                    reason="no file here that can be opened and not read")
@pytest.mark.parametrize("name",
                         ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_a_body_of_which_a_file_cannot_be_read(refused, body, name):
    (body / ("config.json" if name == "config.json" else "model.safetensors")).unlink()
    (body / name).symlink_to("/proc/self/mem")
    no_body(refused, f"{body / name} ", body)


IMAGES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
          "t10k-labels-idx1-ubyte")
PHOTOGRAPHS = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")


@pytest.mark.parametrize(("files", "said"), [
    ({}, "mnist lacks"),
    ({f"mnist/{IMAGES[0]}": b""}, "mnist lacks"),
    ({f"mnist/{name}": b"" for name in IMAGES}, "not the official file"),
    ({f"mnist/{name}.gz": b"" for name in IMAGES}, "not the official file"),
    ({f"mnist/{name}.gz": b"noise" for name in IMAGES}, "corrupt"),
    ({f"mnist/{name}.gz": gzip.compress(b"x") for name in IMAGES}, "not the official file"),
    ({f"mnist/{name}/x": b"" for name in IMAGES}, "mnist lacks"),
], ids=range(7))
def test_digits_that_are_not_the_official_files(refused, tmp_path, monkeypatch, files, said):
    monkeypatch.setenv("FPT_CACHE", str(tmp_path.parent / f"{tmp_path.name}-cache"))
    (tmp_path / "mnist").mkdir()
    _write(tmp_path, files)
    refused(said, "data", "mnist", "--data-dir", tmp_path)


@pytest.mark.parametrize(("files", "said"), [
    ({"cifar10/data_batch_1": b"x"}, "cifar10 lacks"),
    ({f"cifar10/{name}": b"x" for name in PHOTOGRAPHS}, "not the official file"),
    ({"cifar10/cifar-10-binary.tar.gz": b""}, "corrupt"),
    ({"cifar10/cifar-10-binary.tar.gz": b"noise"}, "corrupt"),
    ({"cifar10/cifar-10-binary.tar.gz": gzip.compress(bytes(10_240))}, "lacks data_batch_1.bin"),
], ids=range(5))
@pytest.mark.parametrize("task", ["cifar10", "cifar10-lra"])
def test_photographs_that_are_not_the_official_files(refused, tmp_path, monkeypatch, task, files,
                                                     said):
    monkeypatch.setenv("FPT_CACHE", str(tmp_path.parent / f"{tmp_path.name}-cache"))
    _write(tmp_path, files)
    refused(said, "data", task, "--data-dir", tmp_path)


DOCUMENTS = (json.dumps({"text": "It is a fine day. " * 9}) + "\n").encode() * 300


@pytest.mark.parametrize(("files", "more", "said"), [
    ({"a.txt": b""}, (), "0 documents"),
    ({"a.txt": b"hello"}, (), "1 documents"),
    ({"a.txt": "é".encode("latin-1")}, (), "not UTF-8"),
    ({"a.txt": "hello".encode("utf-16")}, (), "not UTF-8"),
    ({"a.txt/b": b""}, (), "no *.jsonl or *.txt"),
    ({"a.md": b"hello"}, (), "no *.jsonl or *.txt"),
    ({"a.jsonl": b"{"}, (), "must be JSON"),
    ({"a.jsonl": b"[]"}, (), "must be JSON"),
    ({"a.jsonl": b"null"}, (), "must be JSON"),
    ({"a.jsonl": b'{"x": 1}'}, (), "must be JSON"),
    ({"a.jsonl": b'{"text": 1}'}, (), "must hold text"),
    ({"a.jsonl": rb'{"text": "\ud800"}'}, (), "half of a character"),
    ({"a.jsonl": b'{"text": " "}\n' * 300}, (), "0 documents"),
    ({"a.jsonl": b"\xef\xbb\xbf" + DOCUMENTS}, (), "a.jsonl"),
    ({"a.jsonl": DOCUMENTS}, ("--vocabulary", "5"), "at least 257"),
    ({"a.jsonl": DOCUMENTS}, ("--vocabulary", "-1"), "--vocabulary must be"),
    ({"a.jsonl": DOCUMENTS}, ("--vocabulary", "8192"), "say --vocabulary"),
    ({"a.jsonl": DOCUMENTS}, ("--context", "3"), "--context must be even"),
    ({"a.jsonl": DOCUMENTS}, ("--tokenizer", "/nowhere"), "no tokenizer at /nowhere"),
    ({"a.jsonl": DOCUMENTS}, ("--tokenizer", "/"), "no tokenizer at /"),
    ({"a.jsonl": DOCUMENTS}, ("--tokenizer", str(ROOT / "pyproject.toml")), "is not a tokenizer"),
], ids=range(21))
def test_text_that_cannot_be_used(refused, tmp_path, files, more, said):
    _write(tmp_path / "text", files)
    refused(said, "data", "language", "--data-dir", tmp_path, *more)


@pytest.mark.parametrize(("line", "said"), [
    ("", "line 1"), ("[MAX 1 2 ]\t3", "line 1"), ("[MAX 1 2 ]", "line 1"),
    ("[FOO 1 2 ]\t2", "line 1"), ("[MAX 1 2\t2", "line 1"), ("[MAX ]\t2", "line 1"),
    ("1\t1.0", "line 1"),
    ("[MAX " * 5_000 + "1" + " ]" * 5_000 + "\t1", "line 1"),
    ("Source\tTarget\r\n[MAX 1 2 ]\t2\r", "holds 1"), ("1\t" + "9" * 5_000, "line 1"),
], ids=range(10))
def test_published_expressions_that_are_wrong(refused, tmp_path, line, said):
    _write(tmp_path / "listops",
           {f"basic_{part}.tsv": f"{line}\n".encode() for part in ("train", "val", "test")})
    refused(said, "data", "listops", "--source", "lra", "--data-dir", tmp_path)


def _write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


OWN = re.search(r"```python\n(.*?)```", (ROOT / "tasks" / "own_task.md").read_text(), re.S)[1]


@pytest.mark.parametrize("text", [
    "", "raise ValueError", "1 / 0", "def f(): f()\nf()", "class A:\n\tx = 1\n        y = 2",
    "x = 1\0", "import fpt.nothing", "from fpt.task import Task\nfrom tasks.bits import BitXor",
    OWN + OWN.replace("class Recall", "class Other"), "import sys\nsys.exit()",
    "raise SystemExit(3)", "class Odd(BaseException): ...\nraise Odd", "raise ValueError('a\\nb')",
], ids=range(13))
@pytest.mark.parametrize("name", ["data", "train"])
def test_a_task_file_that_defines_none(refused, tmp_path, name, text):
    (tmp_path / "own.py").write_text(text)
    refused("own.py", name, "--task-file", tmp_path / "own.py")


def test_the_line_of_a_task_file_that_raises_is_named(refused, tmp_path):
    (tmp_path / "own.py").write_text("def divide(): return 1 / 0\n\ndivide()")
    refused("ZeroDivisionError: division by zero (line 1)", "data", "--task-file",
            tmp_path / "own.py")


@pytest.mark.parametrize("name", ["own.txt", "own", "o w\nn.py", "ünï.py", "\udcff.py"])
def test_a_task_file_may_have_any_name(command, tmp_path, name):
    (tmp_path / name).write_text(OWN)
    code, out, err = command("data", "--task-file", tmp_path / name)
    assert code == 0 and out.startswith("recall: 17 tokens"), err
    assert [path.name for path in tmp_path.iterdir()] == [name]  # no compiled code beside it


@pytest.mark.parametrize("name", ["../up", "x" * 300 + ".py", "a\nb.py"])
def test_a_task_file_that_is_none(refused, tmp_path, name):
    refused("no task file at", "data", "--task-file", tmp_path / name)


def _in_a_process(*arguments, **settings):
    found = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, stderr=subprocess.PIPE,
                           text=True, env=os.environ | settings.pop("env", {}), **settings)
    return found.returncode, found.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device here that is always full")
@pytest.mark.parametrize("buffered", ["", "1"])
def test_an_output_that_is_full_is_one_line(buffered):
    with open("/dev/full", "w") as full:
        code, err = _in_a_process("scripts.train", "bit-xor", "--help", stdout=full,
                                  env={"PYTHONUNBUFFERED": buffered})
    assert (code == 2 and err.startswith("error: cannot write to the standard output")
            and err.count("\n") == 1)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_the_line_is_the_same_where_the_terminal_has_no_unicode(encoding):
    code, err = _in_a_process("scripts.train", "bit-xor", "--lr", "x",
                              env={"PYTHONIOENCODING": encoding})
    said = "error: --lr: takes FLOAT, not 'x'; see python -m scripts.train bit-xor --help\n"
    assert (code, err) == (2, said)


def test_an_example_is_shown_where_the_terminal_has_no_unicode():
    code, err = _in_a_process("scripts.data", "bit-memory", stdout=subprocess.DEVNULL,
                              env={"PYTHONIOENCODING": "ascii"})
    assert code == 0, err


@pytest.mark.parametrize("platform", ["cuda", "xyz"])
def test_a_platform_that_is_not_there_is_one_line(platform):
    if platform == "cuda" and importlib.util.find_spec("jax_cuda12_plugin"):
        pytest.skip("there may be such a platform here")
    code, err = _in_a_process("scripts.data", "bit-xor", stdout=subprocess.DEVNULL,
                              env={"JAX_PLATFORMS": platform})
    assert code == 2 and f"JAX_PLATFORMS is {platform!r}" in err and err.count("\n") == 1


@pytest.mark.parametrize("content", [bytes(range(256)), "# é".encode("latin-1"),
                                     "x = 1".encode("utf-16")], ids=range(3))
def test_a_task_file_that_is_no_text(refused, tmp_path, content):
    (tmp_path / "own.py").write_bytes(content)
    refused("own.py", "train", "--task-file", tmp_path / "own.py")


@pytest.mark.parametrize("name", ["FPT_DATA", "FPT_CACHE"])
def test_a_folder_of_the_environment_that_is_a_file(refused, tmp_path, monkeypatch, name):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(name, str(tmp_path / "file"))
    refused(str(tmp_path / "file"), "data", "listops", "--train-examples", 3, "--held-out", 1)


@pytest.mark.parametrize("folder", ["", ".", "/nowhere", "a\0b", "/etc/passwd", "x" * 300])
def test_a_run_or_a_body_in_python_that_is_none(folder):
    with pytest.raises(UserError):
        load_run(folder)
    with pytest.raises(UserError):
        load_body(folder)


def test_more_tokens_than_positions(tiny_folder):
    with pytest.raises(UserError, match="65 tokens, but the body has 64 positions"):
        load_body(tiny_folder)(np.zeros((1, 65, 32)))


@pytest.mark.parametrize("arguments", [
    ("evaluate", "{name}"), ("collect", "{name}", "--study", "s"), ("figure", "{name}"),
    ("figure", "--study", "{name}", "--to", "x.svg"), ("train", "bit-xor", "--out", "{name}"),
    ("train", "bit-xor", "--data-dir", "{name}"), ("train", "bit-xor", "--body", "{name}"),
    ("train", "--task-file", "{name}"), ("pretrain", "language", "--data-dir", "{name}")])
def test_a_name_that_is_too_long_is_one_line(command, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(*(argument.format(name="n" * 300) for argument in arguments))
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())
