"""Small texts for the tests of pretraining."""

import itertools
import json

import numpy as np

from tasks.text import END

WORDS = ["the", "sea", "léd", "🙂", "ship", "wind", "and", "of", "old", "café", "captain", "ate"]


def prose(count, words=100, seed=0):
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, words)) for _ in range(count)]


def jsonl(documents):
    return "".join(json.dumps({"text": document}) + "\n" for document in documents)


def text_folder(path, **files):
    """A data folder; `a_jsonl=...` is its text/a.jsonl."""
    (path / "text").mkdir(parents=True)
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.encode()
        (path / "text" / name.replace("_", ".")).write_bytes(content)
    return path


def documents_of(text, name):
    """The documents of a stream, decoded."""
    stream, end = text.stream(name).tolist(), text.tokenizer.token_to_id(END)
    assert stream[0] == stream[-1] == end
    groups = itertools.groupby(stream, lambda token: token == end)
    return [text.tokenizer.decode(list(tokens), skip_special_tokens=False) for is_end, tokens in groups if not is_end]


def reporter():
    """What a preparation reports, and the function that it reports to."""
    lines = []
    return lines, lines.append
