"""Trains a body that others are frozen from: `python -m scripts.pretrain language`.

    language     causal language modelling of the prose in the data folder's text/
    copy         random symbols, then the same again
    task TASK    all weights, on a task
    self TASK    the next token of a task's own inputs

It is the training of `scripts.train` with other defaults; the body is then written as a GPT-2 checkpoint.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

import tasks
from fpt.errors import UserError, nearest
from fpt.files import data_folder, whole_folder, write_whole
from fpt.task import Task
from scripts import options as training
from scripts.command import run
from tasks.text import END

TaskType = TypeVar("TaskType", bound=Task)
KINDS = ("language", "copy", "task", "self")
STORED = ("float32", "float16")
# Of a body that is trained on a task: not one that people train with, since no run may freeze a body under the seed that it
# grew under (see `fpt.run.train`).
SEED = 1_000_000
PROVENANCE = "pretraining.json"  # the run that a checkpoint comes from: configuration, curve and result


@dataclass(frozen=True)
class Options(training.Options[TaskType]):
    """Trains all weights of a body, and writes it as a checkpoint that --body takes."""

    to: Path | None = None
    """Folder of the checkpoint; None: bodies/ and the kind's name."""
    stored: str = "float32"
    """Numbers of the checkpoint: float32, or float16 for half the size."""
    sample: int = 0
    """Tokens of text that the trained language model is to write."""


def main(arguments: list[str]) -> None:
    training.keep_compiled()
    if not arguments or arguments[0].startswith("-"):
        print(__doc__.strip() + "\n\n`python -m scripts.pretrain language --help` lists the options.")
        raise SystemExit(0 if {"-h", "--help"} & set(arguments) else 2)
    kind, rest = arguments[0], arguments[1:]
    if kind not in KINDS:
        raise nearest(kind, KINDS, "pretraining")
    name, settings = kind, {}
    if kind in ("task", "self"):
        if not rest or rest[0].startswith("-"):
            raise UserError(f"python -m scripts.pretrain {kind} TASK: which task? one of {', '.join(tasks.TASKS)}")
        if rest[0] not in tasks.TASKS:
            raise nearest(rest[0], tasks.TASKS, "task")
        kind, rest, settings = f"{kind}-{rest[0]}", rest[1:], {"train": "all", "load": "none", "seed": (SEED,)}
        name = kind if kind.startswith("self-") else kind.removeprefix("task-")
    task_class = tasks.find(name)
    configs, options = training.configurations(
        task_class, None, rest, f"python -m scripts.pretrain {' '.join(arguments[: len(arguments) - len(rest)])}",
        Options, **settings)
    if len(configs) > 1:
        raise UserError("pretraining makes one body: one --lr and one --seed; compare rates with scripts.train "
                        f"{name} first")
    if options.stored not in STORED:
        raise nearest(options.stored, STORED, "--stored")
    if options.sample and kind != "language":
        raise UserError(f"--sample is for language; {kind} knows no words")
    from fpt import records, splits
    from fpt.load import load_run
    from fpt.parameters import resolve

    folder, trained = options.to or Path("bodies") / kind, options.out / resolve(configs[0])[0].name
    origin = {"run": trained.name, "stored": options.stored}
    written = (folder / PROVENANCE).is_file() and origin.items() <= records.read_json(folder / PROVENANCE).items()
    if not written and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} holds something else already; name another folder with --to")
    above = next(path for path in folder.absolute().parents if os.path.exists(path))
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UserError(f"cannot write {folder}: {above} is not a folder that can be written to; name another with --to")
    training.train_all(configs, options)
    loaded = load_run(trained)
    if kind == "language" and (options.sample or not written):
        data = loaded.task.load(data_folder(options.data_dir), print)
        splits.check(data, loaded.result["data"], str(trained))
    if not written:
        with whole_folder(folder) as part:
            loaded.export(part, whole=False, dtype=np.dtype(options.stored))
            if kind == "language":
                write_whole(part / "tokenizer.json", loaded.task.text.vocabulary_file.read_bytes())
            records.write_json(part / PROVENANCE, records.summary(trained) | origin)
    print(f"{folder}: the body, for --body {folder}")
    if options.sample:
        print(write(loaded, options.sample))


def write(loaded, tokens: int, temperature: float = 0.8) -> str:
    """So many tokens that a language model draws one after another, from the beginning of a document."""
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
