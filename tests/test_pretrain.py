"""Pretraining: text in, tokens and floors, the steps of a language model, and the checkpoint that comes out."""

import collections
import dataclasses
import itertools
import json
import lzma
import math
import signal
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fpt import UserError, checkpoint, load_body, load_run
from fpt.bodies import Geometry
from fpt.config import Config
from fpt.evaluation import score
from fpt.model import build, draw_body, shapes_of
from fpt.optimization import rate_factor, transformation
from fpt.task import UNSCORED, Split
from fpt.trainer import Condition, Trainer, restart
from tasks.copying import Copying
from tasks.language import Language
from tasks.nexttoken import BEGIN, PROBES, SPAN, copying_gain
from tasks.text import END, Bigrams, prepare

ROOT = Path(__file__).parent.parent
SMALL = Geometry(layers=1, width=16, heads=2, positions=136, vocabulary=11)  # as many positions as the probes need, and more
VOCABULARY = 286
WORDS = ["the", "sea", "léd", "🙂", "ship", "wind", "and", "of", "old", "café", "captain", "ate"]

try:
    import torch
except ImportError:
    torch = None
live = pytest.mark.skipif(torch is None, reason="torch is not installed")


def _prose(count, words=100, seed=0):
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, words)) for _ in range(count)]


def _lines(documents):
    return "".join(json.dumps({"text": document}) + "\n" for document in documents)


def _folder(path, **files):
    """A data folder; `a_jsonl=...` is its text/a.jsonl."""
    (path / "text").mkdir(parents=True)
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.encode()
        (path / "text" / name.replace("_", ".")).write_bytes(content)
    return path


def _documents(text, name):
    """The documents of a stream, decoded."""
    stream, end = text.stream(name).tolist(), text.tokenizer.token_to_id(END)
    assert stream[0] == stream[-1] == end
    groups = itertools.groupby(stream, lambda token: token == end)
    return [text.tokenizer.decode(list(tokens), skip_special_tokens=False) for is_end, tokens in groups if not is_end]


def _said():
    """What a preparation reports, and the function that it reports to."""
    lines = []
    return lines, lines.append


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bodies") / "small"
    checkpoint.write(folder, SMALL, draw_body(SMALL, jax.random.key(5)))
    return folder


def _arguments(small, data, out, to, steps=24):
    return list(map(str, ["language", "--vocabulary", VOCABULARY, "--context", 128, "--body", small, "--data-dir", data,
                          "--steps", steps, "--batch", 2, "--lr", 2e-2, "--eval-every", 12, "--warmup", 4, "--out", out,
                          "--to", to]))


@pytest.fixture(scope="module")
def pretrained(small, tmp_path_factory):
    """A language model as the command trains and exports it: arguments, data, run, checkpoint."""
    from scripts.pretrain import main

    top = tmp_path_factory.mktemp("pretrained")
    data = _folder(top / "data", a_jsonl=_lines(_prose(120)))
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
        theirs = GPT2LMHeadModel.from_pretrained(body).eval()(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    table = np.asarray(loaded.parameters["token/embedding"])
    np.testing.assert_allclose(load_body(body)(jnp.asarray(table[tokens])) @ table.T, ours, atol=1e-4)


@live
def test_the_held_out_loss_is_torchs_and_the_bits_are_those_of_the_text(pretrained):
    from transformers import GPT2LMHeadModel

    _, data, run, body = pretrained
    task, result = load_run(run).task, json.loads((run / "result.json").read_text())
    test = task.load(data, lambda line: None)["test"]
    scored = test.targets != UNSCORED
    with torch.no_grad():
        logits = GPT2LMHeadModel.from_pretrained(body).eval()(torch.from_numpy(test.inputs.astype(np.int64))).logits
    nats = torch.nn.functional.cross_entropy(logits[scored], torch.from_numpy(test.targets[scored]).long()).item()
    assert result["test"]["loss"] == pytest.approx(nats, abs=1e-3) == result["figures"]["loss"]
    text = task.text.tokenizer.decode(test.targets[scored].tolist())
    assert "\ufffd" not in text
    bits = nats * scored.sum() / math.log(2) / len(text.encode())
    assert result["figures"]["bits per byte"] == pytest.approx(bits, rel=1e-3)


def test_the_result_states_what_simple_models_reach(pretrained):
    _, data, run, _ = pretrained
    figures = json.loads((run / "result.json").read_text())["figures"]
    text, held = prepare(data, VOCABULARY, None, print), "".join(_prose(120)[49::50]).encode()
    losses = Bigrams(text.stream("train"), VOCABULARY).losses(text.stream("heldout"))
    for name in ("unigram", "bigram"):
        bits = losses[name].sum() / math.log(2) / len(held)
        assert figures[f"bits per byte, {name}"] == pytest.approx(bits)
    assert figures["bits per byte, xz"] == 8 * len(lzma.compress(held, preset=9 | lzma.PRESET_EXTREME)) / len(held)
    assert figures["bits per byte, bigram"] < figures["bits per byte, unigram"] < 8


def test_the_checkpoint_has_gpt2s_dropout_and_the_tasks_vocabulary(pretrained):
    geometry = load_body(pretrained[-1]).geometry
    assert geometry == dataclasses.replace(SMALL, vocabulary=VOCABULARY)
    assert geometry.embedding_dropout == geometry.attention_dropout == geometry.residual_dropout == 0.1


def test_the_checkpoint_says_where_it_comes_from_and_brings_its_tokenizer(pretrained):
    _, data, run, body = pretrained
    stated = json.loads((body / "pretraining.json").read_text())
    assert stated["run"] == run.name and stated["config"] == json.loads((run / "config.json").read_text())
    assert stated["result"] == json.loads((run / "result.json").read_text())
    assert [point["step"] for point in stated["curve"]] == [0, 12, 24]
    given = prepare(data, VOCABULARY, body / "tokenizer.json", print)
    assert np.array_equal(given.stream("heldout"), prepare(data, VOCABULARY, None, print).stream("heldout"))


def test_a_finished_pretraining_says_so_and_is_left_alone(pretrained, command):
    small, data, run, body = pretrained
    before = {path: path.stat().st_mtime_ns for path in body.iterdir()}
    code, out, err = command("pretrain", *_arguments(small, data, run.parent, body))
    assert code == 0 and not err and f"{run} is finished; delete it to train again" in out and f"--body {body}" in out
    assert before == {path: path.stat().st_mtime_ns for path in body.iterdir()}


def test_another_body_is_not_overwritten_and_that_is_known_before_training(pretrained, command, tmp_path):
    small, data, _, body = pretrained
    code, _, err = command("pretrain", *_arguments(small, data, tmp_path, body, steps=25))
    assert code == 2 and f"{body} holds something else already" in err and not list(tmp_path.iterdir())


def test_a_body_does_not_go_out_with_another_texts_tokenizer(pretrained, command, tmp_path):
    small, _, run, _ = pretrained
    other = _folder(tmp_path / "data", a_jsonl=_lines(_prose(120, seed=1)))
    code, _, err = command("pretrain", *_arguments(small, other, run.parent, tmp_path / "body"))
    assert code == 2 and err.count("\n") == 1 and not (tmp_path / "body").exists()


def test_half_precision_is_the_same_body_rounded(pretrained, command, tmp_path):
    from safetensors.numpy import load_file

    small, data, run, body = pretrained
    code, _, err = command("pretrain", *_arguments(small, data, run.parent, tmp_path / "half"), "--stored", "float16")
    assert code == 0, err
    whole, half = (load_file(folder / "model.safetensors") for folder in (body, tmp_path / "half"))
    assert whole.keys() == half.keys()
    for name, value in whole.items():
        assert half[name].dtype == np.float16 and np.array_equal(half[name], value.astype(np.float16)), name


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
    killed = subprocess.run([sys.executable, "-c", DYING, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "body").exists()
    code, out, err = command("pretrain", *arguments)
    assert code == 0 and "going on at step" in out, err
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "body" / name).read_bytes() == (body / name).read_bytes()


@pytest.mark.parametrize("file", [0, 3, 4])
def test_killed_while_it_is_written_the_checkpoint_is_written_again(pretrained, command, tmp_path, monkeypatch, file):
    small, data, run, body = pretrained
    arguments, replace, count = _arguments(small, data, run.parent, tmp_path / "body"), Path.replace, itertools.count()

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
    code, _, err = command("pretrain", *_arguments(small, data, run.parent, tmp_path / "file" / "body"))
    assert code == 2 and err.count("\n") == 1 and "file/body" in err


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 kB, on which no body fits."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_checkpoint_that_does_not_fit_the_disk_is_written_when_there_is_room(pretrained, command, small_disk):
    small, data, run, body = pretrained
    arguments = _arguments(small, data, run.parent, small_disk / "body")
    code, _, err = command("pretrain", *arguments)
    assert code == 2 and err.count("\n") == 1 and "No space left on device" in err
    assert not list(small_disk.rglob("*model.safetensors*")) and not list(small_disk.rglob("config.json"))
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    assert command("pretrain", *arguments)[0] == 0
    assert (small_disk / "body" / "model.safetensors").read_bytes() == (body / "model.safetensors").read_bytes()


def test_what_a_model_has_learnt_is_evaluated_on_any_split(pretrained, command):
    _, data, run, _ = pretrained
    code, out, _ = command("evaluate", run, "--data-dir", data)
    assert code == 0 and json.loads(out)["loss"] == pytest.approx(
        json.loads((run / "result.json").read_text())["test"]["loss"], rel=1e-5)
    code, _, err = command("evaluate", run, "--data-dir", data, "--split", "train")
    assert code in (0, 2) and err.count("\n") <= 1


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


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2(command, tmp_path, arguments, said):
    code, _, err = command("pretrain", *arguments, "--out", tmp_path, "--to", tmp_path / "body")
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and said in err, err
    assert not list(tmp_path.rglob("config.json"))


ENOUGH = _lines(_prose(120, words=5))
SMALLEST = ("--vocabulary", 257)
FAULTS = {
    "no file": ({}, (), "no *.jsonl or *.txt in"),
    "another file": ({"a_md": "text"}, (), "no *.jsonl or *.txt in"),
    "not UTF-8": ({"a_txt": "café".encode("latin-1")}, (), "a.txt is not UTF-8 (byte 3)"),
    "not JSON": ({"a_jsonl": ENOUGH + "{\n"}, (), "a.jsonl: each line must be JSON with the document under \"text\""),
    "no text": ({"a_jsonl": ENOUGH + '{"txt": "a"}\n'}, (), "a.jsonl: each line must be JSON with the document under \"text\""),
    "no object": ({"a_jsonl": ENOUGH + "[1]\n"}, (), "a.jsonl: each line must be JSON with the document under \"text\""),
    "a number": ({"a_jsonl": ENOUGH + '{"text": 1}\n'}, (), "a.jsonl: \"text\" must hold text, not int"),
    "no character": ({"a_jsonl": ENOUGH + '{"text": "\\ud800"}\n'}, (), "a.jsonl"),
    "few documents": ({"a_jsonl": _lines(_prose(48))}, SMALLEST, "holds 48 documents, too few for a"),
    "no validation": ({"a_jsonl": _lines(_prose(50))}, SMALLEST, "holds 50 documents, too few for a validation split"),
    "short": ({"a_jsonl": _lines(_prose(60, words=5))}, (*SMALLEST, "--context", 1024), "to train on; --context 1024 needs"),
    "short split": ({"a_jsonl": ENOUGH}, (*SMALLEST, "--context", 512), "tokens; --context 512 needs more"),
    "few entries": ({"a_jsonl": ENOUGH}, ("--vocabulary", 100), "--vocabulary must be at least 257"),
    "many entries": ({"a_jsonl": ENOUGH}, ("--vocabulary", 5000), "entries, not 5000; say --vocabulary"),
    "tokenizer missing": ({"a_jsonl": ENOUGH}, ("--tokenizer", "/nowhere.json"), "no tokenizer at /nowhere.json"),
    "tokenizer damaged": ({"a_jsonl": ENOUGH}, ("--tokenizer", ROOT / "README.md"), "README.md is not a tokenizer"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_text_is_one_line_and_exit_code_2(command, tmp_path, fault):
    files, arguments, said = FAULTS[fault]
    data = _folder(tmp_path / "data", **files)
    code, _, err = command("pretrain", "language", "--data-dir", data, "--out", tmp_path / "runs", *arguments)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and said in err, err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("place", "said"), [
    ((), "where is the text? --data-dir or FPT_DATA"), (("--data-dir", "/nowhere"), "no folder /nowhere"),
    (("--data-dir", ROOT / "tests"), "no *.jsonl or *.txt in"),
])
def test_without_a_folder_of_text_it_is_asked_for(command, monkeypatch, tmp_path, place, said):
    monkeypatch.delenv("FPT_DATA", raising=False)
    code, _, err = command("pretrain", "language", "--out", tmp_path / "runs", *place)
    assert code == 2 and err.count("\n") == 1 and said in err, err


def test_a_folder_named_like_a_text_is_not_read_as_one(command, tmp_path):
    data = _folder(tmp_path / "data", a_jsonl=ENOUGH)
    (data / "text" / "b.txt").mkdir()
    code, _, err = command("pretrain", "language", "--data-dir", data, "--out", tmp_path / "runs", *SMALLEST)
    assert code == 2 and err.count("\n") == 1, err


def test_a_tokenizer_of_other_size_is_refused_and_one_that_fits_is_used(tmp_path):
    data = _folder(tmp_path, a_jsonl=ENOUGH)
    given = prepare(data, 270, None, print).vocabulary_file
    with pytest.raises(UserError, match=r"tokenizer.json has 270 entries, not 280; say --vocabulary 270"):
        prepare(data, 280, given, print)
    said, report = _said()
    text = prepare(data, 270, given, report)
    assert text.vocabulary_file.read_bytes() == given.read_bytes() and not any("learning" in line for line in said)


def test_a_tokenizer_that_parts_no_documents_is_refused(tmp_path):
    data = _folder(tmp_path, a_jsonl=ENOUGH)
    stated = prepare(data, 257, None, print).vocabulary_file.read_text()
    (tmp_path / "other.json").write_text(stated.replace(END, "<|end|>"))
    with pytest.raises(UserError, match=r"other.json has no <\|endoftext\|>"):
        prepare(data, 257, tmp_path / "other.json", print)


def _changed(data, **change):
    """A tokenizer of all bytes and the mark between documents, with some of its settings changed."""
    stated = json.loads(prepare(data, 257, None, print).vocabulary_file.read_text())
    (data / "other.json").write_text(json.dumps(stated | change))
    return data / "other.json"


def test_how_long_a_tokenizer_lets_texts_be_is_ignored(tmp_path):
    data = _folder(tmp_path, a_jsonl=ENOUGH)
    cut = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    text = prepare(data, 257, _changed(data, truncation=cut), print)
    assert _documents(text, "heldout") == _prose(120, words=5)[49::50]


@pytest.mark.parametrize("change", [
    {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
    {"normalizer": {"type": "Lowercase"}},
], ids=["a space more", "no capitals"])
def test_a_tokenizer_that_changes_the_text_is_refused(tmp_path, change):
    data = _folder(tmp_path, a_jsonl=_lines("Aye, " + document for document in _prose(120, words=5)))
    with pytest.raises(UserError, match="other.json changes the text"):
        prepare(data, 257, _changed(data, **change), print)


def test_files_named_heldout_are_held_out_and_never_trained_on(tmp_path):
    held, others = [f"held {number}" for number in range(60)], [f"other {number}" for number in range(170)]
    text = prepare(_folder(tmp_path, **{"heldout-a_jsonl": _lines(held), "z_jsonl": _lines(others)}), 257, None, print)
    assert _documents(text, "heldout") == held
    found = _documents(text, "train"), _documents(text, "validation")
    assert sorted(found[0] + found[1]) == sorted(others) and len(found[1]) in (1, 2)


def test_a_hundredth_is_for_validation_however_many_are_held_out(tmp_path):
    others = [f"other {number}" for number in range(60)]
    for number, count in enumerate((1, 60)):
        files = {"heldout_jsonl": _lines(["held"] * count), "z_jsonl": _lines(others)}
        text = prepare(_folder(tmp_path / str(number), **files), 257, None, print)
        assert len(_documents(text, "validation")) == 1 and len(_documents(text, "train")) == 59


def test_without_such_files_every_fiftieth_document_is_held_out(tmp_path):
    documents = [f"document {number}" for number in range(210)]
    text = prepare(_folder(tmp_path, a_jsonl=_lines(documents[:70]), b_jsonl=_lines(documents[70:])), 257, None, print)
    split = {name: _documents(text, name) for name in ("train", "validation", "heldout")}
    assert split["heldout"] == documents[49::50] and split["validation"] == documents[50::100]
    assert sorted(itertools.chain(*split.values())) == sorted(documents)


def test_a_text_file_is_a_document(tmp_path):
    held, others = ["one\nand\n\nmore\n", "two\n"], [f"line {number}\nand another\n" for number in range(60)]
    files = {f"heldout{number}_txt": document for number, document in enumerate(held)}
    files |= {f"a{number:02}_txt": document for number, document in enumerate(others)} | {"blank_txt": " \n"}
    text = prepare(_folder(tmp_path, **files), 257, None, print)
    assert _documents(text, "heldout") == held
    assert _documents(text, "validation") == others[50:51] and _documents(text, "train") == others[:50] + others[51:]


def test_text_is_cut_once_and_again_when_it_changes(tmp_path):
    data, cutting = _folder(tmp_path, a_jsonl=ENOUGH), "cutting the text into tokens"
    reports = []
    for change in ("", "", _lines(["one more"])):
        with (data / "text" / "a.jsonl").open("a") as file:
            file.write(change)
        said, report = _said()
        text = prepare(data, 260, None, report)
        reports.append((cutting in said, "one more" in _documents(text, "train")))
    assert reports == [(True, False), (False, False), (True, True)]
    said, report = _said()
    prepare(data, 261, None, report)
    assert cutting in said


ODD = ["  leading and trailing  ", "naïve café — “quoted”", "日本語のテキスト", "🙂🏽‍🚀 and e\u0301", "tabs\tand\r\nreturns\n\n",
       "\u2028\u00a0\ufeff\x00\x7f", "\n", "x", "a" * 300]


@pytest.mark.parametrize("vocabulary", [257, 300])
def test_tokens_decode_to_exactly_the_text(tmp_path, vocabulary):
    documents = [document + str(number) for number in range(20) for document in ODD]
    text = prepare(_folder(tmp_path, a_jsonl=_lines(documents)), vocabulary, None, print)
    held = documents[49::50]
    validation = documents[50::100]
    for name, wanted in (("heldout", held), ("validation", validation),
                         ("train", [document for document in documents if document not in held + validation])):
        assert _documents(text, name) == wanted
        assert text.bytes_of[text.stream(name)].sum() == sum(len(document.encode()) for document in wanted)
    assert text.bytes_of[text.tokenizer.token_to_id(END)] == 0 and len(text.bytes_of) == vocabulary


def test_the_mark_between_documents_inside_one_is_text(tmp_path):
    documents = [f"before{END}after {number}" for number in range(120)]
    text = prepare(_folder(tmp_path, a_jsonl=_lines(documents)), 257, None, print)
    held = text.stream("heldout")
    assert (held == text.tokenizer.token_to_id(END)).sum() == 3
    assert text.bytes_of[held].sum() == len("".join(documents[49::50]).encode())


def test_unigram_and_bigram_losses_are_those_of_their_counts():
    draw = np.random.default_rng(0)
    stream, held = draw.choice(5, 200, p=[0.5, 0.3, 0.1, 0.1, 0]), draw.integers(0, 6, 100)
    counts, pairs = collections.Counter(stream.tolist()), collections.Counter(itertools.pairwise(stream.tolist()))

    def single(token):
        return (counts[token] + 1) / (len(stream) + 6)

    def pair(before, token):
        seen = {after: count for (first, after), count in pairs.items() if first == before}
        if not seen:
            return single(token)
        return (seen.get(token, 0) + len(seen) * single(token)) / (sum(seen.values()) + len(seen))

    model = Bigrams(stream.astype(np.uint16), 6)
    losses, follows = model.losses(held.astype(np.uint16)), list(itertools.pairwise(held.tolist()))
    np.testing.assert_allclose(losses["unigram"], [-math.log(single(token)) for _, token in follows])
    np.testing.assert_allclose(losses["bigram"], [-math.log(pair(*both)) for both in follows])
    most = [max(range(6), key=lambda token: pairs[before, token]) for before in range(4)]
    assert model.successor().tolist() == [*most, *2 * [counts.most_common(1)[0][0]]]


@pytest.mark.parametrize("before", range(6))
def test_a_bigram_models_probabilities_sum_to_one(before):
    model = Bigrams(np.random.default_rng(0).choice(4, 60).astype(np.uint16), 6)
    follows = np.array([[before, token] for token in range(6)]).ravel()
    for losses in model.losses(follows).values():
        assert np.exp(-losses[::2]).sum() == pytest.approx(1)


CONTEXT = 4
TRAIN = 13 * CONTEXT + 1  # tokens: twelve windows, and one for the phase


@pytest.fixture(scope="module")
def draw():
    """(seed, step) -> a batch of four windows of the stream 0, 1, 2, ..."""
    train = Split(jnp.arange(TRAIN, dtype=jnp.uint16), jnp.zeros((0, CONTEXT), jnp.int32))
    drawn = jax.jit(lambda key, step: Language(context=CONTEXT).draw(train, key, step, 4))
    return lambda seed, step: Split(*map(np.asarray, drawn(jax.random.key(seed), step)))


def test_windows_are_drawn_from_the_stream_with_targets_one_further(draw):
    for step in range(60):
        inputs, targets = draw(0, step)
        assert inputs.shape == targets.shape == (4, CONTEXT)
        assert (targets == inputs + 1).all() and (inputs == inputs[:, :1] + np.arange(CONTEXT)).all() and targets.max() < TRAIN


def test_an_epoch_holds_every_window_once_wherever_they_begin(draw):
    phases, orders = set(), []
    for epoch in range(8):
        firsts = np.stack([draw(0, 3 * epoch + step).inputs[:, 0] for step in range(3)])
        assert sorted((firsts // CONTEXT).ravel()) == list(range(12))
        assert (firsts % CONTEXT == firsts[:, :1] % CONTEXT).all()
        phases |= set((firsts % CONTEXT).ravel().tolist())
        orders.append(tuple((firsts // CONTEXT).ravel()))
    assert phases == set(range(CONTEXT)) and len(set(orders)) == 8


def test_a_draw_is_a_function_of_key_and_step(draw):
    assert np.array_equal(draw(0, 5).inputs, draw(0, 5).inputs)
    others = [draw(seed, step).inputs for seed, step in ((0, 6), (1, 5))]
    assert not any(np.array_equal(draw(0, 5).inputs, other) for other in others)


def test_the_shortest_text_that_is_taken_can_be_drawn_from(monkeypatch):
    task, streams = Language(context=8), {name: np.arange(40, dtype=np.uint16) for name in ("validation", "heldout")}
    text = types.SimpleNamespace(stream=streams.__getitem__, tokenizer=types.SimpleNamespace(token_to_id=lambda entry: 0))
    monkeypatch.setattr("tasks.language.prepare", lambda *arguments: text)
    for length in (14, 15, 16):
        streams["train"] = np.arange(length, dtype=np.uint16)
        with pytest.raises(UserError, match="--context 8 needs"):
            task.load(Path("data"))
    streams["train"] = np.arange(17, dtype=np.uint16)
    inputs, targets = task.draw(task.load(Path("data"))["train"], jax.random.key(0), 0, 2)
    assert (targets == inputs + 1).all()


@pytest.mark.parametrize("length", range(9, 30))
def test_every_held_out_token_is_scored_once_with_half_a_context_before_it(length):
    inputs, targets = Language(context=8)._windows(np.arange(length), Path("data"))
    rows, columns = np.nonzero(targets != UNSCORED)
    tokens = targets[rows, columns]
    assert (inputs[rows, columns] == tokens - 1).all() and (inputs == inputs[:, :1] + np.arange(8)).all()
    assert (tokens - inputs[rows, 0]).min() > 4
    assert tokens.tolist() == list(range(5, 5 + len(tokens))) and 0 <= length - 5 - len(tokens) < 4
    assert len(set((targets != UNSCORED).sum(1))) == 1


def test_a_split_shorter_than_a_window_is_refused():
    with pytest.raises(UserError, match="holds 8 tokens; --context 8 needs more"):
        Language(context=8)._windows(np.arange(8), Path("data"))


def _period(row):
    return next(period for period in range(1, len(row)) if np.array_equal(row[period:], row[:-period]))


def test_what_is_to_be_copied_repeats_within_an_eighth_and_a_half_of_the_context():
    task = Copying(vocabulary=1000, context=32)
    inputs, targets = map(np.asarray, task.draw(None, jax.random.key(0), 3, 400))
    assert {_period(row) for row in targets} == set(range(4, 17))
    assert (inputs[:, 0] == BEGIN).all() and np.array_equal(inputs[:, 1:], targets[:, :-1])
    assert targets.min() == 1 and targets.max() == 999
    again, other = (np.asarray(task.draw(None, jax.random.key(0), step, 400).targets) for step in (3, 4))
    assert np.array_equal(again, targets) and not np.array_equal(other, targets)


def test_a_copy_tasks_splits_are_scored_everywhere_and_differ():
    data = Copying(vocabulary=50, context=32).load()
    assert not np.array_equal(data["validation"].targets, data["test"].targets)
    for name in ("validation", "test"):
        assert data[name].targets.shape == (256, 32) and (data[name].targets != UNSCORED).all()


def test_the_probes_are_scored_on_random_symbols_or_on_their_repetition():
    probes = Copying(vocabulary=50, context=2 * SPAN).repetitions()
    (inputs, random), (again, repeated) = probes["random"], probes["repeated"]
    assert np.array_equal(inputs, again) and inputs.shape == (PROBES, 2 * SPAN)
    assert (inputs[:, 0] == BEGIN).all() and inputs[:, 1:].min() == 1 and inputs.max() == 49
    assert np.array_equal(random[:, :SPAN], inputs[:, 1 : SPAN + 1]) and (random[:, SPAN:] == UNSCORED).all()
    assert np.array_equal(repeated[:, SPAN:], random[:, :SPAN]) and (repeated[:, :SPAN] == UNSCORED).all()
    assert np.array_equal(repeated[:, SPAN:-1], inputs[:, SPAN + 1 :])


@pytest.mark.parametrize("context", [2, 32, 128, 512])
def test_the_probes_fit_a_task_of_any_context(context):
    for probe in Copying(vocabulary=50, context=context).repetitions().values():
        assert probe.inputs.shape == probe.targets.shape and probe.inputs.shape[1] <= context
        assert (probe.targets != UNSCORED).any()


def test_a_perfect_copier_gains_all_that_random_symbols_cost():
    task = Copying(vocabulary=50, context=2 * SPAN)
    copied = np.full((PROBES, 2 * SPAN), BEGIN)
    losses = {"random": np.full(PROBES, math.log(49)), "repeated": np.zeros(PROBES)}
    scores = {}
    for name, probe in task.repetitions().items():
        copied[:, SPAN:] = probe.inputs[:, 1 : SPAN + 1]
        scores[name] = score(task, probe, copied, losses[name])
    assert scores["repeated"]["accuracy"] == 1 and scores["random"]["accuracy"] == 0
    assert task.figures({}, None, {"loss": 1.0}, scores) == {"loss": 1.0, "copying gain": pytest.approx(math.log(49))}
    assert math.isnan(copying_gain({"random": {"loss": 1.0}, "repeated": {"loss": None}}))


QUICK = {"xla_backend_optimization_level": 0}  # compiles in a third of the time
TINY = Geometry(layers=1, width=16, heads=2, positions=16, embedding_dropout=0, attention_dropout=0, residual_dropout=0)


def _trainer(geometry=TINY, anywhere=True, **settings):
    """A trainer on copying, with all that it trains drawn wide enough that every term of the arithmetic shows."""
    task = Copying(vocabulary=8, context=16, anywhere=anywhere)
    config = Config(task, "tiny", train="body+token", load="none",
                    **dict(steps=150, batch=16, lr=1e-2, eval_every=1, dropout=0.0) | settings)
    model, draw = build(task, geometry, input_dropout=0), np.random.default_rng(0)
    values = {name: jnp.asarray(name.endswith("/scale") + 0.2 * draw.standard_normal(shape, np.float32))
              for name, shape in shapes_of(model, task).items()}
    return Trainer(model, config, 1, {}), values


@pytest.fixture(scope="module")
def whole():
    """The gradient of a whole batch as a function of it, and the batch."""
    trainer, values = _trainer()
    compute = jax.jit(lambda batch: trainer.gradient(values, {}, batch, jax.random.key(1)), compiler_options=QUICK)
    return compute, Split(*map(np.array, trainer.task.draw(None, jax.random.key(0), 0, 16)))


def test_the_gradient_of_two_halves_is_that_of_the_whole_batch(whole):
    compute, batch = whole
    (figures, gradient), (trainer, values) = compute(batch), _trainer(accumulate=2)
    found, other = jax.jit(trainer.gradient, compiler_options=QUICK)(values, {}, batch, jax.random.key(1))
    np.testing.assert_allclose(found, figures, atol=1e-6)
    for name, value in gradient.items():
        assert np.abs(value).max() > 1e-4, name
        np.testing.assert_allclose(other[name], value, atol=1e-6, err_msg=name)


def test_what_is_not_scored_has_no_influence(whole):
    compute, (inputs, targets) = whole
    trainer, values = _trainer()
    scores = np.asarray(trainer.model.apply({"params": _nested(values)}, inputs)[0], np.float64)
    nats = np.log(np.exp(scores).sum(-1)) - np.take_along_axis(scores, targets[..., None], -1)[..., 0]
    right = scores.argmax(-1) == targets
    np.testing.assert_allclose(compute(Split(inputs, targets))[0], (nats.mean(), right.mean()), rtol=1e-5)
    scored = Split(inputs, np.where(np.arange(16) < 10, targets, UNSCORED))
    (loss, accuracy), gradient = compute(scored)
    np.testing.assert_allclose((loss, accuracy), (nats[:, :10].mean(), right[:, :10].mean()), rtol=1e-5)
    changed = np.where(np.arange(16) < 10, inputs, (inputs + 3) % 8)
    (again, _), other = compute(scored._replace(inputs=changed))
    assert again == loss
    for name, value in gradient.items():
        np.testing.assert_allclose(other[name], value, atol=1e-6, err_msg=name)


def _nested(values):
    from flax.traverse_util import unflatten_dict

    return unflatten_dict(values, sep="/")


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_weight_decay_moves_the_blocks_matrices_and_nothing_else(optimizer):
    trainer, values = _trainer(optimizer=optimizer, weight_decay=0.5)
    values |= {f"{end}/kernel": jnp.ones((3, 5)) for end in ("input", "output")}
    moved = transformation(trainer.config)
    updates = jax.jit(lambda: moved.update(jax.tree.map(jnp.zeros_like, values), moved.init(values), values)[0])()
    matrices = {f"body/h_0/{part}/kernel" for part in ("attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj")}
    for name, value in values.items():
        np.testing.assert_allclose(updates[name], 0.5 * value if name in matrices else 0 * value, atol=1e-7, err_msg=name)


def test_the_rate_rises_and_falls_as_stated():
    cosine = Config(Copying(), "gpt2-mini", steps=20, batch=1, lr=1.0, eval_every=1, warmup=4, decay="cosine")
    factors = [float(rate_factor(cosine, step)) for step in range(20)]
    np.testing.assert_allclose(factors[:5], [0.2, 0.4, 0.6, 0.8, 1], rtol=1e-6)
    np.testing.assert_allclose(factors[5:], [(1 + math.cos(math.pi * step / 16)) / 2 for step in range(1, 16)], rtol=1e-4)
    assert float(rate_factor(cosine, 20)) == pytest.approx(0, abs=1e-6)
    constant = dataclasses.replace(cosine, decay="constant")
    np.testing.assert_allclose([rate_factor(constant, step) for step in (0, 4, 19)], [0.2, 1, 1], rtol=1e-6)
    assert float(rate_factor(dataclasses.replace(constant, warmup=0), 0)) == 1


@pytest.fixture(scope="module", params=["adam", "muon"])
def trained(request):
    """Optimiser; before, after one step and at the end: parameters; and mean losses of the first ten steps and the last ten."""
    trainer, values = _trainer(dataclasses.replace(TINY, positions=19), optimizer=request.param, weight_decay=0.1, warmup=9,
                               decay="cosine")
    condition = Condition(jax.random.key(0), jnp.float32(1e-2))
    step_once = lambda number, state: trainer.step({}, None, condition, state, number)
    advance = jax.jit(lambda state, first, count: jax.lax.fori_loop(first, first + count, step_once, state),
                      compiler_options=QUICK)
    state = jax.tree.map(lambda leaf: leaf[0], trainer.begin({name: value[None] for name, value in values.items()}))
    seen, losses, step = [values], [], 0
    for count in (1, 9, 130, 10):
        state = advance(restart(state), step, count)
        step += count
        seen.append(state.trainable)
        losses.append(float(state.loss) / count)
    return request.param, seen[0], seen[1], seen[-1], losses[1], losses[-1]


def test_steps_are_finite_and_the_loss_falls(trained):
    *_, after, first, last = trained
    assert all(np.isfinite(value).all() for value in after.values())
    assert last < first - 0.2


def test_the_first_step_takes_the_share_of_the_rate_that_warmup_leaves(trained):
    """Also of Muon, whose step has a fifth of the rate in the mean; its Adam, with Nesterov's momentum, begins with more."""
    optimizer, before, after, *_ = trained
    moved = {name: after[name] - before[name] for name in before}
    for name in ("body/wpe", "token/embedding", "body/ln_f/scale"):
        assert 0.95 < np.abs(moved[name]).max() / 1e-3 < (1.05 if optimizer == "adam" else 1.5), name
    for name in ("body/h_0/attn/c_attn/kernel", "body/h_0/mlp/c_proj/kernel"):
        size = np.sqrt((moved[name] ** 2).mean()) / 1e-3
        assert 0.9 < size < 1.1 if optimizer == "adam" else 0.15 < size < 0.25, name


def test_every_row_of_the_position_table_is_trained(trained):
    _, before, _, after, *_ = trained
    assert (np.abs(after["body/wpe"] - before["body/wpe"]).max(1) > 1e-4).all() and len(after["body/wpe"]) == 19


def test_rows_of_the_position_table_are_trained_about_alike():
    trainer, values = _trainer(dataclasses.replace(TINY, positions=48))
    batch, keys = trainer.task.draw(None, jax.random.key(0), 0, 1), jax.random.split(jax.random.key(2), 600)
    wpe = {"body/wpe": values.pop("body/wpe")}
    reached = lambda key: (jax.grad(trainer.loss, has_aux=True)(wpe, values, batch, key)[0]["body/wpe"] != 0).any(1)
    share = np.asarray(jax.jit(jax.vmap(reached), compiler_options=QUICK)(keys)).mean(0)
    assert share.max() < 3 * share.min()


def test_a_task_that_begins_at_the_first_position_leaves_the_later_rows_alone():
    trainer, values = _trainer(dataclasses.replace(TINY, positions=48), anywhere=False)
    batch, wpe = trainer.task.draw(None, jax.random.key(0), 0, 1), {"body/wpe": values.pop("body/wpe")}
    gradient = jax.grad(trainer.loss, has_aux=True)(wpe, values, batch, jax.random.key(1))[0]["body/wpe"]
    assert np.array_equal(np.asarray(gradient != 0).any(1), np.arange(48) < 16)
