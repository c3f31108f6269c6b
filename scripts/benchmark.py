"""Times the training step, with `--against torch` beside torch's: `python -m scripts.benchmark`.

Each side runs in a process of its own, on all cores, and takes its turn: ours, theirs, ours, ...
The figures are medians over the turns; the ratio is the median of the turns' ratios, so that a
machine whose speed drifts favours neither side.  Compilation and warm-up are not counted.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.progress import track

import tasks
from fpt.config import DTYPES
from fpt.errors import UserError, nearest
from fpt.files import write_whole
from fpt.task import Task
from scripts.arguments import parsed
from scripts.command import run

if TYPE_CHECKING:
    from fpt.gpt2 import GPT2

CASES = {"bit-memory": 4, "cifar10": 16, "bit-xor": 16}  # task -> batch
PRETRAINING = ("language", "copy")  # in the batches of their presets
AGAINST = ("torch", "torch-compile", "alone")


@dataclass(frozen=True)
class Options:
    """Times training steps of a frozen body: milliseconds, the share of the machine's peak rate of
    matrix products, and the peak memory."""

    tasks: tuple[str, ...] = tuple(CASES)
    """Names the tasks to time, in batches of 4 (bit-memory) or 16; `language` and `copy` time the
    pretraining of a whole body."""
    dtype: tuple[str, ...] = DTYPES
    """Names the number formats of the frozen matrices and of all matrix products."""
    body: str = "gpt2"
    """Names the GPT-2 whose sizes the body has (its weights are random): gpt2-mini, gpt2,
    gpt2-medium, gpt2-large or gpt2-xl."""
    against: str | None = None
    """Names what this code is compared with: `torch`, the same step in torch; `torch-compile`, that
    step through torch's compiler; or `alone`, the runs of a --stack one after another. Pretraining
    is compared with AdamW on both sides, and its step with Muon is stated beside them."""
    stack: int = 1
    """Sets the number of runs that are trained at once."""
    turns: int = 7
    """Sets how many times this code is timed, by turns with what it is compared with."""
    seconds: float = 4.0
    """Sets roughly how many seconds one timing takes."""
    batch: int | None = None
    """Sets the number of examples in a step; None means the batches named above."""
    json: Path | None = None
    """Names a file to which the measured numbers are written as JSON; those that are there already
    are kept, but for the same measurement on the same device."""


@dataclass(frozen=True)
class Work:
    """Describes what a side trains."""

    task: str
    batch: int
    body: str
    dtype: str
    runs: int = 1  # of a stack
    optimizer: str | None = None  # None: that of the task's preset
    compiled: bool = False  # whether torch's side passes its compiler
    platform: str = "cpu"  # of torch's side: that which jax computes on


class Side:
    """Represents a process that trains on demand and answers with seconds per step."""

    def __init__(self, module: str, work: Work):
        begun = time.time()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(dataclasses.asdict(work))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self._answer()
        # Imports, weights and compilation included.
        self.first_step_seconds = self.ready["first_step_at"] - begun

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"the process of {self.process.args[2]} ended; its own message is "
                            "above")
        return json.loads(line)

    def turn(self, steps: int) -> float:
        """Trains for this many steps and returns the seconds per step."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> float:
        """Ends the process and returns the peak of its memory in bytes."""
        self.process.stdin.close()
        peak = self._answer()["peak_bytes"]
        self.process.wait()
        return peak


def model_flops(task: Task, geometry: GPT2, batch: int) -> float:
    """Counts the floating-point operations of one step, the optimiser's left out.

    With a frozen body, each product counts forward and for the gradient of its input; in the last
    block, only what is needed at the tokens that the output is read from.  In pretraining, each
    product, with the token table too, counts forward and for the gradients of input and weights.
    """
    width, tokens, read = geometry.width, task.interface.tokens, task.interface.queries
    attention = 4 * tokens * width  # per query: scores and mixture over all tokens
    block = tokens * (2 * (4 * width**2 + 2 * width * geometry.inner) + attention)
    if task.interface.tied:
        return 3 * batch * (geometry.layers * block + tokens * 2 * width * task.interface.classes)
    feedforward = 2 * (2 * width**2 + 2 * width * geometry.inner)
    last = tokens * 4 * width**2 + read * (feedforward + attention)
    return 2 * batch * ((geometry.layers - 1) * block + last)


def compare(options: Options, name: str, dtype: str) -> dict[str, Any]:
    """Times one task in one number format, on each side."""
    from fpt.gpt2 import BODIES

    task = tasks.find(name)()
    batch = options.batch or CASES.get(name) or task.presets["laptop"].batch
    compiled = options.against == "torch-compile"
    torch = compiled or options.against == "torch"
    # As the task's preset has it; torch has Adam's.
    optimizer = "adam" if torch else None
    work = Work(name, batch, options.body, dtype, options.stack, optimizer, compiled)
    sides = [Side("scripts.benchmark_step", work)]
    if torch:
        work = dataclasses.replace(work, platform=sides[0].ready["platform"])
        sides += [Side("scripts.benchmark_torch", dataclasses.replace(work, dtype=kind))
                  for kind in dict.fromkeys([dtype, "float32"])]
    if torch and name in PRETRAINING:
        sides += [Side("scripts.benchmark_step", dataclasses.replace(work, optimizer="muon"))]
    elif options.against == "alone":
        sides += [Side("scripts.benchmark_step", dataclasses.replace(work, runs=1))]
    steps = [max(1, round(options.seconds / side.turn(2))) for side in sides]
    turns = [[side.turn(count) for side, count in zip(sides, steps)]
             for _ in track(range(options.turns), f"{name} {dtype}", transient=True)]
    peaks = [side.close() for side in sides]
    ours = median(turn[0] for turn in turns)
    flops = options.stack * model_flops(task, BODIES[options.body], batch)
    peak = sides[0].ready["matmul"]
    row = {"task": name, "dtype": dtype, "body": options.body, "batch": batch,
           "stack": options.stack, "device": sides[0].ready["device"],
           "software": sides[0].ready["software"],
           "milliseconds": 1e3 * ours, "peak_bytes": peaks[0],
           "matmul_gflops": peak / 1e9, "fraction_of_peak": flops / ours / peak,
           "first_step_seconds": sides[0].first_step_seconds,
           "tokens_per_second": options.stack * batch * task.interface.tokens / ours}
    if options.against:
        row |= {"against": options.against, "other_software": sides[1].ready["software"],
                "other_peak_bytes": peaks[1],
                "other_milliseconds": 1e3 * median(turn[1] for turn in turns),
                "speedup": median(turn[1] / turn[0] for turn in turns)}
    if torch:
        in_float32 = 2 if dtype != "float32" else 1
        row["speedup_over_float32"] = median(turn[in_float32] / turn[0] for turn in turns)
        if name in PRETRAINING:
            row["muon_milliseconds"] = 1e3 * median(turn[-1] for turn in turns)
    elif options.against:
        row["speedup"] *= options.stack
    return row


def check(options: Options) -> None:
    """Raises UserError for options that are invalid or exclude each other."""
    from fpt.gpt2 import BODIES

    for name in options.tasks:
        if name not in (*CASES, *PRETRAINING):
            raise nearest(name, (*CASES, *PRETRAINING), "task of the benchmark")
    for dtype in options.dtype:
        if dtype not in DTYPES:
            raise nearest(dtype, DTYPES, "dtype")
    if options.body not in BODIES:
        raise nearest(options.body, BODIES, "body")
    if options.against not in (None, *AGAINST):
        raise nearest(options.against, AGAINST, "side to compare with")
    for name in ("stack", "turns", "batch"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f"--{name} must be at least 1, not {getattr(options, name)}")
    if not options.seconds > 0:
        raise UserError(f"--seconds must be more than 0, not {options.seconds}")


def main(arguments: list[str]) -> None:
    options = parsed(Options, arguments, "python -m scripts.benchmark")
    check(options)
    if options.json:
        read(options.json)  # before anything is timed
    for name in options.tasks:
        for dtype in options.dtype:
            row = compare(options, name, dtype)
            print(text_of(row), flush=True)
            if options.json:
                add(options.json, row)


def read(file: Path) -> list[dict[str, Any]]:
    """Reads the measurements that a file holds; there are none where it is missing.

    Raises UserError for a file that is something else.
    """
    try:
        rows = json.loads(file.read_text())["rows"]
        for row in rows:
            measured(row)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} holds no measurements of a benchmark ({type(error).__name__}: "
                        f"{error}); name another file with --json") from None
    return rows


def measured(row: dict[str, Any]) -> tuple[Any, ...]:
    """Tells what a row is a measurement of: measured again, it takes the place of an older one."""
    return (*(row[name] for name in ("device", "task", "body", "dtype", "batch", "stack")),
            row.get("against"))


def add(file: Path, row: dict[str, Any]) -> None:
    """Adds a row to the measurements in a file, in the place of an older one of the same."""
    rows = {measured(one): one for one in [*read(file), row]}
    write_whole(file, (json.dumps({"rows": [*rows.values()]}, indent=2) + "\n").encode())


def text_of(row: dict[str, Any]) -> str:
    """Writes the figures of a task as lines for the terminal."""
    text = (f"{row['task']:<10}  {row['dtype']:<8}  {row['milliseconds']:7.1f} ms  "
            f"{row['fraction_of_peak']:4.0%} of peak  {row['peak_bytes'] / 2**30:5.2f} GiB  "
            f"first step {row['first_step_seconds']:.1f} s")
    if "against" in row:
        over = f", {row['speedup_over_float32']:.2f}x over float32" if "torch" in row["against"] \
            else " the steps/s"
        text += (f"\n{'':<10}  {row['against'].removeprefix('torch-'):<8}  "
                 f"{row['other_milliseconds']:7.1f} ms  {'':<12}  "
                 f"{row['other_peak_bytes'] / 2**30:5.2f} GiB  {row['speedup']:.2f}x{over}")
    if "muon_milliseconds" in row:
        text += f"\n{'':<10}  Muon      {row['muon_milliseconds']:7.1f} ms"
    if row["task"] in PRETRAINING:
        text += f"\n{'':<10}  {row['tokens_per_second']:,.0f} tokens/s"
    return text


if __name__ == "__main__":
    run(main)
