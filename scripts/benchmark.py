"""Times the training step, against torch if asked to: `python -m scripts.benchmark --against torch`.

Each side runs in a process of its own, on all cores, and takes its turn: ours, theirs, ours, ...  The figures are
medians over the turns; the ratio is the median of the turns' ratios, so that a machine whose speed drifts does not
favour one side.  Compilation and warm-up are outside.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.progress import track

import tasks
from fpt.gpt2 import BODIES, GPT2
from fpt.errors import UserError, nearest
from fpt.files import write_whole
from fpt.task import Task
from scripts.command import parsed, run

CASES = {"bit-memory": 4, "cifar10": 16, "bit-xor": 16}  # task -> batch
PRETRAINING = ("language", "copy")  # in the batches of their presets


@dataclass(frozen=True)
class Options:
    """Times training steps of a frozen body: milliseconds, share of the machine's matmul peak, peak memory."""

    tasks: tuple[str, ...] = tuple(CASES)
    """Tasks to time, in the batches 4 (bit-memory) and 16; or language and copy, the pretraining of a whole body."""
    dtype: tuple[str, ...] = ("float32", "bfloat16")
    """Of the frozen matrices and all matrix products."""
    body: str = "gpt2"
    """A geometry's name."""
    against: str | None = None
    """torch: the same step in torch, turn by turn."""
    stack: int = 1
    """Runs trained at once; against `alone`, the same runs one after another."""
    turns: int = 7
    """Turns of each side."""
    seconds: float = 4.0
    """Roughly how long a turn takes."""
    batch: int | None = None
    """Examples in a step; None: as above."""
    json: Path | None = None
    """A file for the rows."""


class Side:
    """A process that trains on demand and answers with seconds a step."""

    def __init__(self, module: str, task: str, batch: int, body: str, dtype: str, stack: int = 1):
        begun = time.time()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, task, str(batch), body, dtype, str(stack)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self._answer()
        self.first_step_seconds = self.ready["first_step_at"] - begun  # imports, weights and compilation included

    def _answer(self) -> dict[str, float]:
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"the process of {' '.join(self.process.args[2:])} ended; its own message is above")
        return json.loads(line)

    def turn(self, steps: int) -> float:
        """Seconds a step over so many steps."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> float:
        """Ends the process; returns the peak of its memory in bytes."""
        self.process.stdin.close()
        peak = self._answer()["peak_bytes"]
        self.process.wait()
        return peak


def model_flops(task: Task, geometry: GPT2, batch: int) -> float:
    """Arithmetic of one step.

    fpt: each frozen product forward and by its input; of the last block, what read tokens need.  Pretraining: each
    product forward, by its input and by its weights, those with the token table included; not the optimiser's.
    """
    width, tokens, read = geometry.width, task.interface.tokens, task.interface.queries
    attention = 4 * tokens * width  # per query: scores and mixture over all tokens
    block = tokens * (2 * (4 * width**2 + 2 * width * geometry.inner) + attention)
    if task.interface.tied:
        return 3 * batch * (geometry.layers * block + tokens * 2 * width * task.interface.classes)
    last = tokens * 4 * width**2 + read * (2 * (2 * width**2 + 2 * width * geometry.inner) + attention)
    return 2 * batch * ((geometry.layers - 1) * block + last)


def compare(options: Options, name: str, dtype: str) -> dict[str, Any]:
    """One row of the table."""
    task = tasks.find(name)()
    batch = options.batch or CASES.get(name) or task.presets["laptop"].batch
    sides = [Side("scripts.benchmark_step", name, batch, options.body, dtype, options.stack)]
    if options.against == "torch":
        sides += [Side("scripts.benchmark_torch", name, batch, options.body, kind) for kind in dict.fromkeys([dtype, "float32"])]
    elif options.against == "alone":
        sides += [Side("scripts.benchmark_step", name, batch, options.body, dtype)]
    steps = [max(1, round(options.seconds / side.turn(2))) for side in sides]
    turns = [[side.turn(count) for side, count in zip(sides, steps)]
             for _ in track(range(options.turns), f"{name} {dtype}", transient=True)]
    peaks = [side.close() for side in sides]
    ours = median(turn[0] for turn in turns)
    flops = options.stack * model_flops(task, BODIES[options.body], batch)
    row = {"task": name, "dtype": dtype, "body": options.body, "batch": batch, "stack": options.stack,
           "milliseconds": 1e3 * ours, "peak_bytes": peaks[0], "matmul_gflops": sides[0].ready["matmul"] / 1e9,
           "fraction_of_peak": flops / ours / sides[0].ready["matmul"], "first_step_seconds": sides[0].first_step_seconds,
           "tokens_per_second": options.stack * batch * task.interface.tokens / ours}
    if options.against == "torch":
        row |= {"torch_milliseconds": 1e3 * median(turn[1] for turn in turns), "torch_peak_bytes": peaks[1],
                "speedup": median(turn[1] / turn[0] for turn in turns),
                "speedup_over_float32": median(turn[-1] / turn[0] for turn in turns)}
    elif options.against == "alone":
        row |= {"alone_milliseconds": 1e3 * median(turn[1] for turn in turns),
                "speedup": median(options.stack * turn[1] / turn[0] for turn in turns)}
    return row


def main(arguments: list[str]) -> None:
    options = parsed(Options, arguments, "python -m scripts.benchmark")
    for name in options.tasks:
        if name not in (*CASES, *PRETRAINING):
            raise nearest(name, (*CASES, *PRETRAINING), "task of the benchmark")
        if name in PRETRAINING and options.against == "torch":
            raise UserError(f"--against torch times tasks on a frozen body, not the pretraining on {name}")
    for dtype in options.dtype:
        if dtype not in ("float32", "bfloat16"):
            raise nearest(dtype, ("float32", "bfloat16"), "dtype")
    if options.body not in BODIES:
        raise nearest(options.body, BODIES, "body")
    if options.against not in (None, "torch", "alone"):
        raise nearest(options.against, ("torch", "alone"), "side to compare with")
    for name in ("stack", "turns", "batch"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f"--{name} must be at least 1, not {getattr(options, name)}")
    if not options.seconds > 0:
        raise UserError(f"--seconds must be more than 0, not {options.seconds}")
    rows = []
    for name in options.tasks:
        for dtype in options.dtype:
            rows.append(row := compare(options, name, dtype))
            text = (f"{name:<10}  {dtype:<8}  {row['milliseconds']:7.1f} ms  {row['fraction_of_peak']:4.0%} of peak  "
                    f"{row['peak_bytes'] / 2**30:5.2f} GiB  first step {row['first_step_seconds']:.1f} s")
            if options.against == "torch":
                text += (f"\n{'':<10}  torch     {row['torch_milliseconds']:7.1f} ms  {'':<12}  "
                         f"{row['torch_peak_bytes'] / 2**30:5.2f} GiB  {row['speedup']:.2f}x, "
                         f"{row['speedup_over_float32']:.2f}x over float32")
            elif options.against == "alone":
                text += (f"\n{'':<10}  alone     {row['alone_milliseconds']:7.1f} ms  {'':<12}  {'':<9}  "
                         f"{row['speedup']:.2f}x the steps/s")
            if name in PRETRAINING:
                text += f"\n{'':<10}  {row['tokens_per_second']:,.0f} tokens/s"
            print(text, flush=True)
            if options.json:
                write_whole(options.json, (json.dumps({"rows": rows}, indent=2) + "\n").encode())


if __name__ == "__main__":
    run(main)
