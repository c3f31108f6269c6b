"""Writes the measurements of scripts.benchmark on an accelerator as a page, results/gpu.md."""

from __future__ import annotations

from typing import Any

from scripts.markdown import markdown

HEAD = ["task", "body", "format", "runs x batch", "ms a step", "of peak", "tokens/s", "GiB",
        "against", "its ms", "its GiB", "faster by"]
TOP = """# Speed on accelerators

Written by `python -m scripts.results` from `results/records/gpu.json`, to which
`python -m scripts.benchmark --json results/records/gpu.json` adds. A row times the training step of
a frozen body, or of a whole one where the task is language or copying. Times are medians over the
turns in which both sides work, one after another, each in a process of its own. "Of peak" is the
share of the rate of a large matrix product in the same number format, which is measured beside
each row; operations of the optimiser, norms and dropout do not count. "Against alone" compares a
stack of runs with the same runs one after another. Peak memory is that of the device."""


def page(rows: list[dict[str, Any]]) -> str:
    """Writes one table for each device and the software that was measured on it."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["device"], row["software"]), []).append(row)
    parts = ["\n\n".join([f"## {device}, {software}", _peaks(group),
                           markdown([HEAD, *map(_cells, group)])])
             for (device, software), group in groups.items()]
    return "\n\n".join([TOP, *parts]) + "\n"


def _peaks(rows: list[dict[str, Any]]) -> str:
    """States the rate of a large matrix product in each number format: the most of all rows."""
    most: dict[str, float] = {}
    for row in rows:
        most[row["dtype"]] = max(most.get(row["dtype"], 0), row["matmul_gflops"])
    said = [f"{rate / 1e3:,.0f} TFLOP/s in {dtype}" for dtype, rate in most.items()]
    return f"A large matrix product runs at {' and '.join(said)}."


def _cells(row: dict[str, Any]) -> list[str]:
    gib = lambda name: f"{row[name] / 2**30:.1f}"
    cells = [row["task"], row["body"], row["dtype"], f"{row['stack']} x {row['batch']}",
             f"{row['milliseconds']:.2f}", f"{row['fraction_of_peak']:.0%}",
             f"{row['tokens_per_second']:,.0f}", gib("peak_bytes")]
    if "against" not in row:
        return [*cells, *["-"] * 4]
    other = row["against"]
    if other != "alone":
        other = f"{row['other_software']}{', compiled' * (other == 'torch-compile')}"
    return [*cells, other, f"{row['other_milliseconds']:.2f}", gib("other_peak_bytes"),
            f"{row['speedup']:.2f}"]
