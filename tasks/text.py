"""Turns a folder of text into streams of tokens, which are kept in the cache.

`text/` of the data folder holds `*.jsonl` (one document a line, under `text`) or `*.txt` (one a
file).  Files named `heldout*` are held out, else every fiftieth document; every hundredth of the
others is for validation.  Documents are cut into entries of a byte-level vocabulary.
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
from tasks.bigrams import Bigrams

END = "<|endoftext|>"  # before each document and after the last
HELD_OUT, VALIDATION = 50, 100  # one document in so many
DOCUMENTS_AT_ONCE = 512
VERSION = 1  # of the cache's content
FILES = ("train.npy", "validation.npy", "heldout.npy", "tokenizer.json", "successor.npy",
         "floors.json")
MANIFEST = "manifest.json"  # written last


@dataclass(frozen=True)
class Text:
    """Reads prepared text from a folder of the cache: vocabulary, token streams and floors."""

    folder: Path

    def stream(self, name: str) -> np.ndarray:
        """Maps the tokens of `train`, `validation` or `heldout` into memory: int [N]."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    @property
    def sources(self) -> dict[str, str]:
        """Identifies the raw files by name and sha256, and the given tokenizer if there is one."""
        _, vocabulary, *files = json.loads((self.folder / MANIFEST).read_text())["of"]
        given = {"tokenizer": vocabulary} if isinstance(vocabulary, str) else {}
        return dict(files) | given

    @cached_property
    def floors(self) -> dict[str, float]:
        """Gives bits per byte of the held-out text by three baselines: unigram, bigram and xz."""
        return json.loads((self.folder / "floors.json").read_text())

    @cached_property
    def successor(self) -> np.ndarray:
        """Gives the token that most often follows each token, [V]: see `Bigrams.successor`."""
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
        """Counts the bytes of text that each token stands for, [V]; 0 for the mark of an end."""
        size = self.tokenizer.get_vocab_size()
        entries = (self.tokenizer.id_to_token(number) for number in range(size))
        # One letter of an entry stands for one byte.
        return np.array([0 if entry in (END, None) else len(entry) for entry in entries])


def prepare(folder: Path | None, vocabulary: int, tokenizer: Path | None,
            report: Callable[[str], None]) -> Text:
    """Prepares the text of a data folder, or finds it in the cache.

    vocabulary: the number of entries that are learnt from the training text, unless `tokenizer`
    names a tokenizer.json that has as many.  Raises UserError where there is no text, a file is not
    UTF-8 or not JSON, or the vocabulary does not fit.
    """
    if folder is None:
        raise UserError("where is the text? --data-dir or FPT_DATA names the folder that holds "
                        "text/ with *.jsonl or *.txt")
    home = folder / "text"
    found = [*home.glob("*.jsonl"), *home.glob("*.txt")]
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise UserError(f"no *.jsonl or *.txt in {home}; put documents there, or name another "
                        "folder as --data-dir")
    try:
        stated = [VERSION, sha256(tokenizer) if tokenizer else vocabulary,
                  *([file.name, sha256(file)] for file in files)]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(json.dumps(stated).encode()).hexdigest()
    kept = cache_folder() / "text" / digest[:16]
    make_folder(kept)
    try:
        with FileLock(kept / ".lock"):
            if not _is_whole(kept, stated, report):
                _prepare(files, vocabulary, tokenizer, kept, report)
                write(kept / MANIFEST, _manifest(kept, stated))
    except OSError as error:
        raise UserError(f"{error.filename or kept} cannot be used: {error.strerror}; remove it, or "
                        "name another folder with FPT_CACHE") from None
    text = Text(kept)
    if (size := text.tokenizer.get_vocab_size()) != vocabulary:
        raise _misfit(tokenizer, size, vocabulary)
    return text


def _is_whole(kept: Path, stated: list, report: Callable[[str], None]) -> bool:
    """Tells whether a folder of the cache holds what was written; reports one that is damaged."""
    if not (kept / MANIFEST).exists():
        return False
    with contextlib.suppress(OSError):
        if (kept / MANIFEST).read_bytes() == _manifest(kept, stated):
            return True
    report(f"{kept} is damaged; making it again")
    return False


def _manifest(kept: Path, stated: list) -> bytes:
    """States what a folder of the cache was made of, and the SHA-256 of each of its files."""
    files = {name: sha256(kept / name) for name in FILES}
    return json.dumps({"of": stated, "files": files}, indent=1).encode()


def _misfit(tokenizer: Path | None, found: int, vocabulary: int) -> UserError:
    what = tokenizer or "the vocabulary of this text"
    return UserError(f"{what} has {found} entries, not {vocabulary}; say --vocabulary {found}")


def _prepare(files: list[Path], vocabulary: int, tokenizer: Path | None, kept: Path,
             report: Callable[[str], None]) -> None:
    """Writes a folder of the cache, but for its manifest."""
    documents = _split(files)
    if tokenizer:
        learnt = _given(tokenizer, vocabulary)
    else:
        size = sum(len(document.encode()) for document in documents["train"]) / 1e6
        report(f"learning a vocabulary of {vocabulary:,} entries from {size:.0f} MB of text")
        learnt = _learn(documents["train"], vocabulary)
    report("cutting the text into tokens")
    streams = {name: _encode(learnt, found) for name, found in documents.items()}
    for name, tokens in streams.items():
        _save(kept / f"{name}.npy", tokens)
    write(kept / "tokenizer.json", learnt.to_str().encode())
    counts = Bigrams(streams["train"], learnt.get_vocab_size())
    _save(kept / "successor.npy", counts.successor())
    text, held = Text(kept), "".join(documents["heldout"])
    inside = streams["heldout"][streams["heldout"] != learnt.token_to_id(END)]
    if (learnt.decode(inside.tolist(), skip_special_tokens=False) != held
            or text.bytes_of[inside].sum() != len(held.encode())):
        raise UserError(f"{tokenizer} changes the text: its tokens do not give it back; only "
                        "byte-level tokenizers that keep every byte can be used")
    held = held.encode()
    per_byte = 1 / math.log(2) / len(held)
    nats = counts.losses(streams["heldout"])
    floors = {name: losses.sum() * per_byte for name, losses in nats.items()}
    floors["xz"] = 8 * len(lzma.compress(held, preset=9 | lzma.PRESET_EXTREME)) / len(held)
    write(kept / "floors.json", json.dumps(floors).encode())


def _split(files: list[Path]) -> dict[str, list[str]]:
    """Sorts the documents of all files into the splits."""
    documents: dict[str, list[str]] = {"train": [], "validation": [], "heldout": []}
    named = any(file.name.startswith("heldout") for file in files)
    number = 0  # counts the documents of files that are not held out by their name
    for file in files:
        for document in _documents(file):
            if file.name.startswith("heldout"):
                documents["heldout"].append(document)
                continue
            split = "validation" if number % VALIDATION == VALIDATION // 2 else "train"
            if not named and number % HELD_OUT == HELD_OUT - 1:
                split = "heldout"
            documents[split].append(document)
            number += 1
    if empty := [name for name, found in documents.items() if not found]:
        count = sum(map(len, documents.values()))
        raise UserError(f"{files[0].parent} holds {count} documents, too few for a {empty[0]} "
                        "split; put more there")
    return documents


def _documents(file: Path) -> Iterator[str]:
    """Reads the documents of a file; those without a letter are left out."""
    try:
        if file.suffix == ".txt":
            found = [file.read_text(encoding="utf-8")]
        else:
            lines = file.read_text(encoding="utf-8").split("\n")
            found = [json.loads(line)["text"] for line in lines if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (byte {error.start}); convert it, or take it "
                        "away") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: each line must be JSON with the document under \"text\" "
                        f"({error})") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    for document in found:
        if not isinstance(document, str):
            raise UserError(f"{file}: \"text\" must hold text, not {type(document).__name__}")
        try:
            document.encode()
        except UnicodeEncodeError:
            raise UserError(f"{file}: \"text\" holds half of a character (a lone surrogate); mend "
                            "it") from None
        if document.strip():
            yield document


def _given(file: Path, vocabulary: int):
    """Reads a tokenizer.json.  Raises UserError where it cannot be used, or is of another size."""
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing more exact
        raise UserError(f"{file} is not a tokenizer ({error})") from None
    if found.token_to_id(END) is None:
        raise UserError(f"{file} has no {END}, which parts documents")
    if (size := found.get_vocab_size()) != vocabulary:
        raise _misfit(file, size, vocabulary)
    if (last := max(found.get_vocab().values())) >= size:
        raise UserError(f"{file} has {size} entries, the last of which is number {last}; only "
                        "numbers without gaps can be used")
    return found


def _learn(documents: list[str], vocabulary: int):
    """Learns a byte-level BPE vocabulary, as GPT-2's (Radford et al. 2019)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocabulary < 257:
        raise UserError("--vocabulary must be at least 257, all bytes and the mark between "
                        f"documents, not {vocabulary}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def _encode(tokenizer, documents: list[str]) -> np.ndarray:
    """Joins all documents to one stream of tokens, with END before each and after the last."""
    end = tokenizer.token_to_id(END)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # the mark of an end is text where a document spells it
    kind = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.int32
    parts = []
    for first in range(0, len(documents), DOCUMENTS_AT_ONCE):
        some = documents[first : first + DOCUMENTS_AT_ONCE]
        for found in tokenizer.encode_batch_fast(some, add_special_tokens=False):
            parts += [np.array([end], kind), np.array(found.ids, kind)]
    return np.concatenate([*parts, np.array([end], kind)])


def _save(path: Path, array: np.ndarray) -> None:
    packed = io.BytesIO()
    np.save(packed, array)
    write(path, packed.getvalue())
