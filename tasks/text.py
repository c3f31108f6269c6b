"""A folder of text as streams of tokens: read, cut into entries of a byte-level vocabulary, and kept in the cache.

`text/` of the data folder holds `*.jsonl` (one document a line, under `text`) or `*.txt` (one a file).  Files named
`heldout*` are held out, else every fiftieth document; every hundredth of the others is for validation.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import lzma
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import FileLock

from fpt.cache import make_folder, write
from fpt.errors import UserError
from fpt.files import cache_folder, sha256

END = "<|endoftext|>"  # before each document and after the last
HELD_OUT, VALIDATION = 50, 100  # one document in so many
DOCUMENTS_AT_ONCE = 512
VERSION = 1  # of what is in the cache
FILES = ("train.npy", "validation.npy", "heldout.npy", "tokenizer.json", "successor.npy", "floors.json")
MANIFEST = "manifest.json"  # written last


@dataclass(frozen=True)
class Text:
    """Prepared text: a folder of the cache with vocabulary, token streams and what simple models reach on them."""

    folder: Path

    def stream(self, name: str) -> np.ndarray:
        """The tokens of `train`, `validation` or `heldout`: int [N], memory-mapped."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    @cached_property
    def floors(self) -> dict[str, float]:
        """Bits per byte of the held-out text: a unigram and a bigram model of its tokens, and xz."""
        return json.loads((self.folder / "floors.json").read_text())

    @cached_property
    def successor(self) -> np.ndarray:
        """[V]: the token that most often follows each; the most frequent token where none was seen to."""
        return np.load(self.folder / "successor.npy")

    @property
    def vocabulary_file(self) -> Path:
        return self.folder / "tokenizer.json"

    @cached_property
    def tokenizer(self):
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.vocabulary_file))

    @cached_property
    def bytes_of(self) -> np.ndarray:
        """[V]: bytes of text that each token stands for; none for the mark between documents."""
        entries = (self.tokenizer.id_to_token(number) for number in range(self.tokenizer.get_vocab_size()))
        # One letter of an entry stands for one byte.
        return np.array([0 if entry in (END, None) else len(entry) for entry in entries])


def prepare(folder: Path | None, vocabulary: int, tokenizer: Path | None, report: Callable[[str], None]) -> Text:
    """The text of a data folder, from the cache if it is there.

    vocabulary: entries to be learnt from the training text, unless `tokenizer` names a tokenizer.json that has as many.
    Raises UserError where there is no text, a file is not UTF-8 or not JSON, or the vocabulary does not fit.
    """
    if folder is None:
        raise UserError("where is the text? --data-dir or FPT_DATA names the folder that holds text/ with *.jsonl or *.txt")
    home = folder / "text"
    files = sorted(file for file in [*home.glob("*.jsonl"), *home.glob("*.txt")] if file.is_file())
    if not files:
        raise UserError(f"no *.jsonl or *.txt in {home}; put documents there, or name another folder as --data-dir")
    if tokenizer and not tokenizer.is_file():
        raise UserError(f"no tokenizer at {tokenizer}; --tokenizer takes a tokenizer.json")
    try:
        stated = [VERSION, sha256(tokenizer) if tokenizer else vocabulary, *([file.name, sha256(file)] for file in files)]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None
    kept = cache_folder() / "text" / hashlib.sha256(json.dumps(stated).encode()).hexdigest()[:16]
    make_folder(kept)
    try:
        with FileLock(kept / ".lock"):
            if not _is_whole(kept, stated, report):
                _prepare(files, vocabulary, tokenizer, kept, report)
                write(kept / MANIFEST, _manifest(kept, stated))
    except OSError as error:
        raise UserError(f"{error.filename or kept} cannot be used: {error.strerror}; remove it, or name another folder with "
                        "FPT_CACHE") from None
    text = Text(kept)
    if (found := text.tokenizer.get_vocab_size()) != vocabulary:
        raise _misfit(tokenizer, found, vocabulary)
    return text


def _is_whole(kept: Path, stated: list, report: Callable[[str], None]) -> bool:
    """Whether a folder of the cache is as it was written; `report` is told where that is no longer so."""
    if not (kept / MANIFEST).exists():
        return False
    with contextlib.suppress(OSError):
        if (kept / MANIFEST).read_bytes() == _manifest(kept, stated):
            return True
    report(f"{kept} is damaged; making it again")
    return False


def _manifest(kept: Path, stated: list) -> bytes:
    """What a folder of the cache was made of, and the SHA-256 of each of its files."""
    return json.dumps({"of": stated, "files": {name: sha256(kept / name) for name in FILES}}, indent=1).encode()


def _misfit(tokenizer: Path | None, found: int, vocabulary: int) -> UserError:
    what = tokenizer or "the vocabulary of this text"
    return UserError(f"{what} has {found} entries, not {vocabulary}; say --vocabulary {found}")


def _prepare(files: list[Path], vocabulary: int, tokenizer: Path | None, kept: Path, report: Callable[[str], None]) -> None:
    from tokenizers import Tokenizer

    documents: dict[str, list[str]] = {"train": [], "validation": [], "heldout": []}
    named = any(file.name.startswith("heldout") for file in files)
    number = 0  # of the documents whose file does not say that it is held out
    for file in files:
        for document in _documents(file):
            if file.name.startswith("heldout"):
                documents["heldout"].append(document)
                continue
            if not named and number % HELD_OUT == HELD_OUT - 1:
                documents["heldout"].append(document)
            else:
                documents["validation" if number % VALIDATION == VALIDATION // 2 else "train"].append(document)
            number += 1
    if empty := [name for name, found in documents.items() if not found]:
        count = sum(map(len, documents.values()))
        raise UserError(f"{files[0].parent} holds {count} documents, too few for a {empty[0]} split; put more there")
    size = sum(len(document.encode()) for document in documents["train"])
    try:
        learnt = Tokenizer.from_file(str(tokenizer)) if tokenizer else None
    except Exception as error:  # tokenizers raises nothing more exact
        raise UserError(f"{tokenizer} is not a tokenizer ({error})") from None
    if learnt is None:
        report(f"learning a vocabulary of {vocabulary:,} entries from {size / 1e6:.0f} MB of text")
        learnt = _learn(documents["train"], vocabulary)
    if learnt.token_to_id(END) is None:
        raise UserError(f"{tokenizer} has no {END}, which parts documents")
    if tokenizer and learnt.get_vocab_size() != vocabulary:
        raise _misfit(tokenizer, learnt.get_vocab_size(), vocabulary)
    if (last := max(learnt.get_vocab().values())) >= learnt.get_vocab_size():
        raise UserError(f"{tokenizer} has {learnt.get_vocab_size()} entries, the last of which is number {last}; only numbers "
                        "without gaps can be used")
    report("cutting the text into tokens")
    streams = {name: _encode(learnt, found) for name, found in documents.items()}
    for name, tokens in streams.items():
        _save(kept / f"{name}.npy", tokens)
    write(kept / "tokenizer.json", learnt.to_str().encode())
    counts = Bigrams(streams["train"], learnt.get_vocab_size())
    _save(kept / "successor.npy", counts.successor())
    text, held = Text(kept), "".join(documents["heldout"])
    inside = streams["heldout"][streams["heldout"] != learnt.token_to_id(END)]
    if learnt.decode(inside.tolist(), skip_special_tokens=False) != held or text.bytes_of[inside].sum() != len(held.encode()):
        raise UserError(f"{tokenizer} changes the text: its tokens do not give it back; only byte-level tokenizers that keep "
                        "every byte can be used")
    held = held.encode()
    per_byte = 1 / math.log(2) / len(held)
    floors = {name: nats.sum() * per_byte for name, nats in counts.losses(streams["heldout"]).items()}
    floors["xz"] = 8 * len(lzma.compress(held, preset=9 | lzma.PRESET_EXTREME)) / len(held)
    write(kept / "floors.json", json.dumps(floors).encode())


def _documents(file: Path) -> Iterator[str]:
    try:
        if file.suffix == ".txt":
            found = [file.read_text(encoding="utf-8")]
        else:
            found = [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (byte {error.start}); convert it, or take it away") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: each line must be JSON with the document under \"text\" ({error})") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    for document in found:
        if not isinstance(document, str):
            raise UserError(f"{file}: \"text\" must hold text, not {type(document).__name__}")
        try:
            document.encode()
        except UnicodeEncodeError:
            raise UserError(f"{file}: \"text\" holds half of a character (a lone surrogate); mend it") from None
        if document.strip():
            yield document


def _learn(documents: list[str], vocabulary: int):
    """A byte-level BPE vocabulary, as GPT-2's (Radford et al. 2019)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocabulary < 257:
        raise UserError(f"--vocabulary must be at least 257, all bytes and the mark between documents, not {vocabulary}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def _encode(tokenizer, documents: list[str]) -> np.ndarray:
    """All documents as one stream, END before each and after the last."""
    end = tokenizer.token_to_id(END)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # the mark of an end is text where a document spells it
    kind = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.int32
    parts = []
    for first in range(0, len(documents), DOCUMENTS_AT_ONCE):
        for found in tokenizer.encode_batch_fast(documents[first : first + DOCUMENTS_AT_ONCE], add_special_tokens=False):
            parts += [np.array([end], kind), np.array(found.ids, kind)]
    return np.concatenate([*parts, np.array([end], kind)])


def _save(path: Path, array: np.ndarray) -> None:
    packed = io.BytesIO()
    np.save(packed, array)
    write(path, packed.getvalue())


class Bigrams:
    """Counts of tokens and of pairs in a stream."""

    def __init__(self, stream: np.ndarray, vocabulary: int):
        self.vocabulary = vocabulary
        self.singles = np.bincount(stream, minlength=vocabulary)
        codes = stream[:-1].astype(np.int64) * vocabulary + stream[1:]
        self.pairs, self.counts = np.unique(codes, return_counts=True)

    def successor(self) -> np.ndarray:
        best = np.full(self.vocabulary, self.singles.argmax())
        order = np.argsort(self.counts, kind="stable")  # of a token's pairs, the most frequent comes last and stays
        best[self.pairs[order] // self.vocabulary] = self.pairs[order] % self.vocabulary
        return best

    def losses(self, stream: np.ndarray) -> dict[str, np.ndarray]:
        """Nats of each token but the first, by a unigram model with one added to each count, and by a bigram model that
        falls back on it as much as a token's followers vary (Witten & Bell 1991)."""
        before, token = stream[:-1].astype(np.int64), stream[1:].astype(np.int64)
        single = (self.singles[token] + 1) / (self.singles.sum() + self.vocabulary)
        codes = before * self.vocabulary + token
        place = np.minimum(np.searchsorted(self.pairs, codes), len(self.pairs) - 1)
        seen = np.where(self.pairs[place] == codes, self.counts[place], 0)
        followers = np.bincount(self.pairs // self.vocabulary, minlength=self.vocabulary)[before]
        total = np.bincount(self.pairs // self.vocabulary, self.counts, self.vocabulary)[before]
        pair = np.where(total > 0, (seen + followers * single) / np.maximum(total + followers, 1), single)
        return {"unigram": -np.log(single), "bigram": -np.log(pair)}
