"""Damages checkpoints, runs, states and caches, and reads them: `python -m tests.fuzz`.

Whatever is damaged must be refused in one line, made again where that is possible, or read as if it
were whole: never with a traceback, and never as other content.  `test_fuzz.py` damages a hundred.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fpt.errors import UserError


@dataclass(frozen=True)
class Target:
    """Describes something on the disk that is read."""

    name: str
    folder: Path
    files: tuple[str, ...]  # that are damaged
    read: Callable[[Path], Any]  # maps the folder to its content, comparable
    spare: tuple[str, ...] = ()  # files that may be missing


def _flip_a_bit(content: bytearray, draw: random.Random) -> bytes:
    place = draw.randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    return content


def _flip_a_bit_of_the_header(content: bytearray, draw: random.Random) -> bytes:
    place = draw.randrange(8 * min(len(content), 400))
    content[place // 8] ^= 1 << place % 8
    return content


def _noise(content: bytearray, draw: random.Random) -> bytes:
    first = draw.randrange(len(content))
    length = min(draw.randint(1, 64), len(content) - first)
    content[first : first + length] = draw.randbytes(length)
    return content


def _zeros(content: bytearray, draw: random.Random) -> bytes:
    first = draw.randrange(len(content))
    length = min(4096, len(content) - first)
    content[first : first + length] = bytes(length)
    return content


def _digit(content: bytearray, draw: random.Random) -> bytes:
    """Puts another digit in the place of one: text stays text."""
    places = [place for place, byte in enumerate(content) if 48 <= byte < 58]
    if places:
        content[draw.choice(places)] = draw.randrange(48, 58)
    return content


DAMAGES: dict[str, Callable[[bytearray, random.Random], bytes | None]] = {
    "flip": _flip_a_bit, "flip in header": _flip_a_bit_of_the_header, "noise": _noise,
    "zeros": _zeros, "digit": _digit,
    "cut": lambda content, draw: content[: draw.randrange(len(content))],
    "cut a byte": lambda content, draw: content[:-1],
    "empty": lambda content, draw: b"",
    "grown": lambda content, draw: content + draw.randbytes(draw.randint(1, 64)),
    "twice": lambda content, draw: content + content,
    "gone": lambda content, draw: None,
    "other": lambda content, draw: b'{"not": "ours"}',
}


def damaged(target: Target, draw: random.Random) -> tuple[str, str, str]:
    """Damages a copy of a target once and reads it.

    Gives the file, the damage and the outcome: refused, same, DIFFERS or CRASH.
    """
    before = target.read(target.folder)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / target.folder.name
        shutil.copytree(target.folder, folder)
        name = draw.choice(target.files)
        kind = draw.choice([kind for kind in DAMAGES if kind != "gone" or name not in target.spare])
        content = DAMAGES[kind](bytearray((folder / name).read_bytes()), draw)
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
        try:
            after = target.read(folder)
        except UserError as error:
            lines = str(error).count("\n")
            return name, kind, f"CRASH several lines: {error}" if lines else "refused"
        except Exception as error:
            return name, kind, f"CRASH {type(error).__name__}: {error}"
        return name, kind, "same" if equal(before, after) else "DIFFERS"


def equal(one: Any, other: Any) -> bool:
    """Tells whether two nested containers hold the same, arrays by their dtypes and values."""
    if isinstance(one, dict):
        return (isinstance(other, dict) and one.keys() == other.keys()
                and all(equal(one[key], other[key]) for key in one))
    if isinstance(one, (list, tuple)):
        return (isinstance(other, (list, tuple)) and len(one) == len(other)
                and all(map(equal, one, other)))
    if hasattr(one, "dtype"):
        return one.dtype == other.dtype and np.array_equal(np.asarray(one), np.asarray(other))
    return one == other


def targets(home: Path) -> list[Target]:
    """Makes one of each kind on the disk: checkpoint, finished run, run with states, and caches."""
    import jax

    from fpt import Config, checkpoint, load_body, load_run, train
    from fpt.cache import cached
    from fpt.gpt2 import GPT2
    from fpt.model import draw_body
    from fpt.records import Folder, summary
    from tasks.bits import BitXor
    from tasks.text import prepare

    quiet = lambda line: None
    geometry = GPT2(layers=1, width=16, heads=2, positions=16, vocabulary=11)
    checkpoint.write(home / "body", geometry, draw_body(geometry, jax.random.key(5)))
    checkpoint.seal(home / "body")
    config = Config(BitXor(bits=3), str(home / "body"), steps=2, batch=4, lr=1e-2, eval_every=1,
                    birth="mimetic")
    train(config, home / "runs", quiet=True)
    finished, = (home / "runs").iterdir()
    begun = Folder(home / "begun", load_run(finished).config)
    begun.open()
    arrays = {"a": np.arange(20, dtype=np.float32), "b": np.ones((2, 3), np.int32)}
    for step in (10, 20):
        notes = {"history": [{"step": step}], "data": {"test": "1"}}
        begun.write_state(step, arrays, notes, [begun.path.name])
    begun.close()

    def read_run(folder: Path):
        loaded, record = load_run(folder), summary(folder)
        record["config"].pop("body")  # a place
        return record, dict(loaded.parameters)

    def read_begun(folder: Path):
        """Reads what a training that is taken up does, under the configuration that it asks for."""
        taken = Folder(folder.parent, begun.config)
        taken.open()
        taken.close()
        return [(step, stack, taken.read_state(step)) for step, stack in taken.begun()]

    kept = home / "cache"
    made = {"symbols": np.arange(40, dtype=np.uint8).reshape(5, 8), "values": np.arange(5)}
    corpus(home / "data")

    def read_arrays(folder: Path):
        with cache_at(folder):
            return cached("made", lambda: made, quiet)

    def read_text(folder: Path):
        with cache_at(folder):
            text = prepare(home / "data", 270, None, quiet)
            streams = [np.asarray(text.stream(name)) for name in ("train", "validation", "heldout")]
            return [*streams, text.floors, text.successor, text.tokenizer.to_str()]

    read_arrays(kept)
    read_text(kept)
    texts = tuple(str(path.relative_to(kept)) for path in sorted(kept.glob("text/*/*.*"))
                  if path.name != ".lock")
    read_body = lambda folder: dict(load_body(folder).parameters)
    states = tuple(sorted(file.name for file in begun.states().values()))
    weights = ("model.safetensors", "config.json", "model.safetensors.sha256")
    files = ("config.json", "metrics.jsonl", "result.json", "trainable.safetensors",
             "frozen.safetensors")
    return [
        Target("checkpoint", home / "body", weights, read_body),
        Target("run", finished, files, read_run),
        Target("cached arrays", kept, ("made.safetensors",), read_arrays),
        Target("cached text", kept, texts, read_text),
        Target("states", begun.path, ("config.json", *states), read_begun, spare=states),
    ]


@contextlib.contextmanager
def cache_at(folder: Path) -> Iterator[None]:
    """Puts the cache into a folder for a while."""
    before = os.environ.get("FPT_CACHE")
    os.environ["FPT_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("FPT_CACHE")
        if before is not None:
            os.environ["FPT_CACHE"] = before


def corpus(folder: Path) -> None:
    """Writes some two hundred short documents as a data folder's text."""
    draw, words = random.Random(0), ["the", "frozen", "body", "copies", "what", "it", "has", "seen"]
    lines = [json.dumps({"text": " ".join(draw.choices(words, k=12))}) for _ in range(200)]
    (folder / "text").mkdir(parents=True)
    (folder / "text" / "train.jsonl").write_text("\n".join(lines))


def fuzz(count: int, seed: int, home: Path) -> Iterator[tuple[str, str, str, str]]:
    """Damages `count` things, each kind of target in turn: yields target, file, damage, outcome."""
    made, draw = targets(home), random.Random(seed)
    for number in range(count):
        target = made[number % len(made)]
        yield target.name, *damaged(target, draw)


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    found, bad = collections.Counter(), 0
    with tempfile.TemporaryDirectory() as home:
        os.environ["FPT_CACHE"] = f"{home}/cache"
        outcomes = fuzz(options.count, options.seed, Path(home))
        for number, (target, file, damage, outcome) in enumerate(outcomes):
            found[target, outcome.split()[0]] += 1
            if outcome not in ("refused", "same"):
                bad += 1
                print(f"{number}: {target}, {file}, {damage}: {outcome}", flush=True)
    for (target, outcome), times in sorted(found.items()):
        print(f"{target:<12} {outcome:<8} {times:>5}")
    raise SystemExit(bad > 0)


if __name__ == "__main__":
    main()
