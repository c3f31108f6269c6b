"""Pretrains a body, which later runs load and freeze.

For example: `python -m scripts.pretrain language`.

    language     trains on the prose in the data folder's text/
    copy         trains on random symbols that are then repeated
    task TASK    trains all weights on a task
    self TASK    trains to predict the next token of a task's own inputs

This is the training of `scripts.train` with other defaults; the body is then
written as a GPT-2 checkpoint.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tasks
from fpt.config import PRETRAINING, Config
from fpt.errors import UserError, nearest
from fpt.files import data_folder, whole_folder, write_whole
from scripts import options as training
from scripts.command import run
from tasks.text import END

KINDS = ("language", "copy", "task", "self")
STORED = ("float32", "float16")
PROVENANCE = "pretraining.json"  # holds the configuration, curve and result of a checkpoint's run


@dataclass(frozen=True)
class Options(training.Options):
    """Holds the options of pretraining."""

    to: Path | None = None
    """Names the folder of the checkpoint; None means one in bodies/ that is named after the kind of
    pretraining, such as bodies/language or bodies/self-mnist."""
    stored: str = "float32"
    """Names the number format of the checkpoint: float32, or float16 for half the size."""
    sample: int = 0
    """Prints a text of this many tokens that the trained language model writes."""


def main(arguments: list[str]) -> None:
    training.keep_compiled()
    if not arguments or arguments[0].startswith("-"):
        print(__doc__.strip(), "`python -m scripts.pretrain language --help` lists the options.",
              sep="\n\n")
        raise SystemExit(0 if {"-h", "--help"} & set(arguments) else 2)
    kind, config, options = stated(arguments)
    from fpt import records, splits
    from fpt.gpt2 import GPT2
    from fpt.load import load_run
    from fpt.parameters import resolve

    resolved, _ = resolve(config)
    if not isinstance(resolved.geometry, GPT2):
        raise UserError(f"--body {config.body} fits no GPT-2 checkpoint, which pretraining writes; "
                        "train it with scripts.train --train all, and go on from its run by --from")
    if options.stages:
        raise UserError("pretraining writes the body of one run; train in stages with "
                        "scripts.train")
    folder, trained = options.to or Path("bodies") / kind, options.out / resolved.name
    origin = {"run": trained.name, "stored": options.stored}
    written = ((folder / PROVENANCE).is_file()
               and origin.items() <= records.read_json(folder / PROVENANCE).items())
    if not written and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} holds something else already; name another folder with --to")
    above = next(path for path in folder.absolute().parents if os.path.exists(path))
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UserError(f"cannot write {folder}: {above} is not a folder that can be written to; "
                        "name another with --to")
    training.train_all([config], options)
    loaded = load_run(trained)
    if kind == "language" and (options.sample or not written):
        data = loaded.task.load(data_folder(options.data_dir), print)
        splits.check(splits.digests(data), loaded.result["data"], str(trained))
    if not written:
        with whole_folder(folder) as part:
            loaded.export(part, whole=False, dtype=np.dtype(options.stored))
            if kind == "language":
                tokenizer = loaded.task.text.vocabulary_file.read_bytes()
                write_whole(part / "tokenizer.json", tokenizer)
            records.write_json(part / PROVENANCE, records.summary(trained) | origin)
    print(f"{folder}: the body, for --body {folder}")
    if options.sample:
        print(write(loaded, options.sample))


def stated(arguments: list[str]) -> tuple[str, Config, Options]:
    """Reads a command line of pretraining: its kind, such as `language` or `self-mnist`, the
    configuration of its run, and its options.

    Raises UserError for one that pretrains nothing.
    """
    kind, rest = arguments[0], arguments[1:]
    if kind not in KINDS:
        raise nearest(kind, KINDS, "pretraining")
    name, settings = kind, {}
    if kind in ("task", "self"):
        if not rest or rest[0].startswith("-"):
            raise UserError(f"python -m scripts.pretrain {kind} TASK: which task? one of "
                            f"{', '.join(tasks.TASKS)}")
        if rest[0] not in tasks.TASKS:
            raise nearest(rest[0], tasks.TASKS, "task")
        kind, rest = f"{kind}-{rest[0]}", rest[1:]
        # A stream of its own: a run under the same seed has other input layers and other batches.
        settings = {"train": "all", "load": "none", "stream": PRETRAINING}
        name = kind.removeprefix("task-")
    words = " ".join(arguments[: len(arguments) - len(rest)])
    configs, options = training.configurations(
        tasks.find(name), None, rest, f"python -m scripts.pretrain {words}", Options, **settings)
    if len(configs) > 1:
        raise UserError("pretraining makes one body: one --lr and one --seed; compare rates with "
                        f"scripts.train {name} first")
    if options.stored not in STORED:
        raise nearest(options.stored, STORED, "--stored")
    if options.sample and kind != "language":
        raise UserError(f"--sample is for language; {kind} knows no words")
    return kind, configs[0], options


def write(loaded, tokens: int, temperature: float = 0.8) -> str:
    """Draws this many tokens from a language model, one after another, from the beginning of a
    document, and returns their text."""
    text, context = loaded.task.text, loaded.task.context
    drawn, noise = [text.tokenizer.token_to_id(END)], np.random.default_rng(0)
    for _ in range(tokens):
        seen = drawn[-context:]
        window = np.zeros((1, context), np.int32)
        window[0, : len(seen)] = seen
        logits = np.asarray(loaded(window)[0, len(seen) - 1])
        drawn.append(int((logits / temperature + noise.gumbel(size=logits.shape)).argmax()))
    return text.tokenizer.decode(drawn[1:], skip_special_tokens=False)


if __name__ == "__main__":
    run(main)
