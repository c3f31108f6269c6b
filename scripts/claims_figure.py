"""Draws what claims were judged by: for each, the difference in accuracy on each of its tasks."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.lines import Line2D

from scripts.claims import Claim, Comparison
from scripts.claims_verdicts import CONTRADICTED, SUPPORTED, UNDECIDED, Judged
from scripts.figure import COLOURS, content, plotting

STYLES = {SUPPORTED: {"color": COLOURS[0], "marker": "o", "markerfacecolor": COLOURS[0]},
          CONTRADICTED: {"color": COLOURS[1], "marker": "s", "markerfacecolor": COLOURS[1]},
          UNDECIDED: {"color": "0.45", "marker": "D", "markerfacecolor": "white"}}
MARGIN = {"color": "0.3", "marker": "|", "markersize": 11, "linestyle": "none"}
WIDTH, ROW = 10.0, 0.46  # inches: of the figure, and of a claim of up to three lines
SIZE, SMALL = 11, 8.5  # of fonts, in points
LETTERS = 60  # in a line of a claim
LINEAR = 0.02  # differences beyond it are drawn by their logarithm
TICKS = (-0.2, 0, 0.2)
CAPTION = (
    "A row is a claim, with its number on the page of claims; a mark is a difference in accuracy "
    "on test, with its 95% interval by Student's t over pairs of runs that share a seed. The claim "
    "says that the difference is above zero or, where a margin is marked, above minus that margin. "
    "Verdicts come from p-values that are adjusted for all tests of the page, so that an interval "
    "may leave out zero and the claim be undecided. Differences beyond "
    f"{LINEAR:g} are on a logarithmic scale. Claims about steps, overfitting and orders are not "
    "shown, nor are those without a verdict.")


def drawn_from(claims: Sequence[Claim], judged: Sequence[Judged]) -> dict[str, Any] | None:
    """Collects what the figure shows: of each claim about a difference in accuracy, what was found
    on the tasks where it has a verdict; None where there is no such claim."""
    rows = []
    for number, claim in enumerate(claims, 1):
        found = {one.finding.task: {"effect": one.finding.effect[:3], "verdict": one.verdict}
                 for one in judged if one.finding.claim is claim and one.verdict in STYLES}
        if found and isinstance(claim, Comparison) and claim.measure == "accuracy":
            rows.append({"claim": f"{number}. {claim.sentence}", "margin": claim.margin,
                         "found": found})
    tasks = dict.fromkeys(one.finding.task for one in judged)
    shown = [task for task in tasks if any(task in row["found"] for row in rows)]
    return {"tasks": shown, "rows": rows} if rows else None


def draw(data: Mapping[str, Any], form: str, digest: str) -> bytes:
    """Draws the figure; returns the content of its file.

    data: what `drawn_from` returns.  form: svg or png.  digest: of the data, for the file to hold.
    """
    rows, tasks = data["rows"], data["tasks"]
    sentences = ["\n".join(textwrap.wrap(row["claim"], LETTERS)) for row in rows]
    caption = textwrap.wrap(CAPTION, 158)
    pyplot = plotting(SIZE)
    figure, panels = pyplot.subplots(
        1, len(tasks), sharey=True, squeeze=False, layout="constrained",
        figsize=(WIDTH, ROW * len(rows) + 0.15 * len(caption) + 1.4))
    for axes, task in zip(panels[0], tasks):
        for place, row in enumerate(rows):
            if one := row["found"].get(task):
                style, (mean, low, high) = STYLES[one["verdict"]], one["effect"]
                axes.hlines(place, low, high, style["color"], linewidth=1.8)
                axes.plot(mean, place, markersize=5.5, **style)
                if row["margin"]:
                    axes.plot(-row["margin"], place, **MARGIN)
        for place in range(1, len(rows), 2):
            axes.axhspan(place - 0.5, place + 0.5, color="0.95", zorder=-1)
        axes.axvline(0, color="0.3", linewidth=1, zorder=0)
        axes.set_xscale("symlog", linthresh=LINEAR)
        axes.set_xlim(-1, 1)
        axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS], fontsize=SMALL)
        axes.set_xticks([-LINEAR, LINEAR], minor=True)
        axes.set_title(task, fontsize=SIZE, fontweight="bold")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    first = panels[0, 0]
    first.set_yticks(range(len(rows)), sentences, fontsize=SMALL, ha="left")
    first.set_ylim(len(rows) - 0.5, -0.5)
    longest = max(len(line) for text in sentences for line in text.splitlines())
    first.tick_params(axis="y", pad=longest * SMALL * 0.53)
    handles = [Line2D([], [], label=verdict, linewidth=1.8, **style)
               for verdict, style in STYLES.items()]
    if any(row["margin"] for row in rows):
        handles.append(Line2D([], [], label="minus the margin", **MARGIN))
    figure.legend(handles=handles, loc="outside upper right", frameon=False, ncols=len(handles),
                  fontsize=SIZE)
    figure.supxlabel("\n".join(caption), x=0.01, ha="left", fontsize=SMALL, color="0.25",
                     linespacing=1.25)
    return content(figure, form, digest)
