"""A folder of text: what is read, what is held out, how it is cut into tokens, and what simple models reach on it."""

import collections
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from fpt import UserError
from tasks.text import END, Bigrams, prepare
from tests.corpus import documents_of, jsonl, prose, reporter, text_folder

ROOT = Path(__file__).parent.parent


ENOUGH = jsonl(prose(120, words=5))
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
    "few documents": ({"a_jsonl": jsonl(prose(48))}, SMALLEST, "holds 48 documents, too few for a"),
    "no validation": ({"a_jsonl": jsonl(prose(50))}, SMALLEST, "holds 50 documents, too few for a validation split"),
    "short": ({"a_jsonl": jsonl(prose(60, words=5))}, (*SMALLEST, "--context", 1024), "to train on; --context 1024 needs"),
    "short split": ({"a_jsonl": ENOUGH}, (*SMALLEST, "--context", 512), "tokens; --context 512 needs more"),
    "few entries": ({"a_jsonl": ENOUGH}, ("--vocabulary", 100), "--vocabulary must be at least 257"),
    "many entries": ({"a_jsonl": ENOUGH}, ("--vocabulary", 5000), "entries, not 5000; say --vocabulary"),
    "tokenizer missing": ({"a_jsonl": ENOUGH}, ("--tokenizer", "/nowhere.json"), "no tokenizer at /nowhere.json"),
    "tokenizer damaged": ({"a_jsonl": ENOUGH}, ("--tokenizer", ROOT / "README.md"), "README.md is not a tokenizer"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_text_is_one_line_and_exit_code_2(command, tmp_path, fault):
    files, arguments, said = FAULTS[fault]
    data = text_folder(tmp_path / "data", **files)
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
    data = text_folder(tmp_path / "data", a_jsonl=ENOUGH)
    (data / "text" / "b.txt").mkdir()
    code, _, err = command("pretrain", "language", "--data-dir", data, "--out", tmp_path / "runs", *SMALLEST)
    assert code == 2 and err.count("\n") == 1, err


def test_a_tokenizer_of_other_size_is_refused_and_one_that_fits_is_used(tmp_path):
    data = text_folder(tmp_path, a_jsonl=ENOUGH)
    given = prepare(data, 270, None, print).vocabulary_file
    with pytest.raises(UserError, match=r"tokenizer.json has 270 entries, not 280; say --vocabulary 270"):
        prepare(data, 280, given, print)
    said, report = reporter()
    text = prepare(data, 270, given, report)
    assert text.vocabulary_file.read_bytes() == given.read_bytes() and not any("learning" in line for line in said)


def test_a_tokenizer_that_parts_no_documents_is_refused(tmp_path):
    data = text_folder(tmp_path, a_jsonl=ENOUGH)
    stated = prepare(data, 257, None, print).vocabulary_file.read_text()
    (tmp_path / "other.json").write_text(stated.replace(END, "<|end|>"))
    with pytest.raises(UserError, match=r"other.json has no <\|endoftext\|>"):
        prepare(data, 257, tmp_path / "other.json", print)


def _changed(data, **change):
    """A tokenizer of all bytes and the mark between documents, with some of its settings changed."""
    stated = json.loads(prepare(data, 257, None, print).vocabulary_file.read_text())
    (data / "other.json").write_text(json.dumps(stated | change))
    return data / "other.json"


def test_a_tokenizer_whose_numbers_have_gaps_is_refused(tmp_path):
    data = text_folder(tmp_path, a_jsonl=ENOUGH)
    stated = json.loads(prepare(data, 257, None, print).vocabulary_file.read_text())
    stated["model"]["vocab"]["Ġ"] = 1_000
    (tmp_path / "other.json").write_text(json.dumps(stated))
    with pytest.raises(UserError, match="other.json has 257 entries, the last of which is number 1000"):
        prepare(data, 257, tmp_path / "other.json", print)


def test_how_long_a_tokenizer_lets_texts_be_is_ignored(tmp_path):
    data = text_folder(tmp_path, a_jsonl=ENOUGH)
    cut = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    text = prepare(data, 257, _changed(data, truncation=cut), print)
    assert documents_of(text, "heldout") == prose(120, words=5)[49::50]


@pytest.mark.parametrize("change", [
    {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
    {"normalizer": {"type": "Lowercase"}},
], ids=["a space more", "no capitals"])
def test_a_tokenizer_that_changes_the_text_is_refused(tmp_path, change):
    data = text_folder(tmp_path, a_jsonl=jsonl("Aye, " + document for document in prose(120, words=5)))
    with pytest.raises(UserError, match="other.json changes the text"):
        prepare(data, 257, _changed(data, **change), print)


def test_files_named_heldout_are_held_out_and_never_trained_on(tmp_path):
    held, others = [f"held {number}" for number in range(60)], [f"other {number}" for number in range(170)]
    text = prepare(text_folder(tmp_path, **{"heldout-a_jsonl": jsonl(held), "z_jsonl": jsonl(others)}), 257, None, print)
    assert documents_of(text, "heldout") == held
    found = documents_of(text, "train"), documents_of(text, "validation")
    assert sorted(found[0] + found[1]) == sorted(others) and len(found[1]) in (1, 2)


def test_a_hundredth_is_for_validation_however_many_are_held_out(tmp_path):
    others = [f"other {number}" for number in range(60)]
    for number, count in enumerate((1, 60)):
        files = {"heldout_jsonl": jsonl(["held"] * count), "z_jsonl": jsonl(others)}
        text = prepare(text_folder(tmp_path / str(number), **files), 257, None, print)
        assert len(documents_of(text, "validation")) == 1 and len(documents_of(text, "train")) == 59


def test_without_such_files_every_fiftieth_document_is_held_out(tmp_path):
    documents = [f"document {number}" for number in range(210)]
    text = prepare(text_folder(tmp_path, a_jsonl=jsonl(documents[:70]), b_jsonl=jsonl(documents[70:])), 257, None, print)
    split = {name: documents_of(text, name) for name in ("train", "validation", "heldout")}
    assert split["heldout"] == documents[49::50] and split["validation"] == documents[50::100]
    assert sorted(itertools.chain(*split.values())) == sorted(documents)


def test_a_text_file_is_a_document(tmp_path):
    held, others = ["one\nand\n\nmore\n", "two\n"], [f"line {number}\nand another\n" for number in range(60)]
    files = {f"heldout{number}_txt": document for number, document in enumerate(held)}
    files |= {f"a{number:02}_txt": document for number, document in enumerate(others)} | {"blank_txt": " \n"}
    text = prepare(text_folder(tmp_path, **files), 257, None, print)
    assert documents_of(text, "heldout") == held
    assert documents_of(text, "validation") == others[50:51] and documents_of(text, "train") == others[:50] + others[51:]


def test_text_is_cut_once_and_again_when_it_changes(tmp_path):
    data, cutting = text_folder(tmp_path, a_jsonl=ENOUGH), "cutting the text into tokens"
    reports = []
    for change in ("", "", jsonl(["one more"])):
        with (data / "text" / "a.jsonl").open("a") as file:
            file.write(change)
        said, report = reporter()
        text = prepare(data, 260, None, report)
        reports.append((cutting in said, "one more" in documents_of(text, "train")))
    assert reports == [(True, False), (False, False), (True, True)]
    said, report = reporter()
    prepare(data, 261, None, report)
    assert cutting in said


ODD = ["  leading and trailing  ", "naïve café — “quoted”", "日本語のテキスト", "🙂🏽‍🚀 and e\u0301", "tabs\tand\r\nreturns\n\n",
       "\u2028\u00a0\ufeff\x00\x7f", "\n", "x", "a" * 300]


@pytest.mark.parametrize("vocabulary", [257, 300])
def test_tokens_decode_to_exactly_the_text(tmp_path, vocabulary):
    documents = [document + str(number) for number in range(20) for document in ODD]
    text = prepare(text_folder(tmp_path, a_jsonl=jsonl(documents)), vocabulary, None, print)
    held = documents[49::50]
    validation = documents[50::100]
    for name, wanted in (("heldout", held), ("validation", validation),
                         ("train", [document for document in documents if document not in held + validation])):
        assert documents_of(text, name) == wanted
        assert text.bytes_of[text.stream(name)].sum() == sum(len(document.encode()) for document in wanted)
    assert text.bytes_of[text.tokenizer.token_to_id(END)] == 0 and len(text.bytes_of) == vocabulary


def test_the_mark_between_documents_inside_one_is_text(tmp_path):
    documents = [f"before{END}after {number}" for number in range(120)]
    text = prepare(text_folder(tmp_path, a_jsonl=jsonl(documents)), 257, None, print)
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
