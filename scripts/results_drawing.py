"""Draws the figures of studies: a panel for each task, and for each condition, or kind of body, a
colour, a marker and dashes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from scripts import recorded, statistics
from scripts.figure import COLOURS, content, plotting
from scripts.statistics import Interval

Panel = Mapping[str, Any]  # of `scripts.results_figures.drawn_from`
Shown = Sequence[tuple[int, str]]  # conditions by their number in the study, and their names
# Colours, markers and dashes repeat after different numbers of conditions, so that two that share
# one of them differ in the others, in gray too.
MARKERS = "os^DvPX*<>hd"
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
FLOOR = {"color": "0.3", "linewidth": 1.2, "linestyle": (0, (4, 3))}
END = {"color": "0.3", "linewidth": 1.2, "linestyle": ":"}
CHOSEN = {"marker": "o", "markersize": 13, "markerfacecolor": "none", "markeredgewidth": 1.5,
          "linestyle": "none"}
PAPER = {"marker": "d", "markersize": 6, "markerfacecolor": "white", "markeredgecolor": "0.2",
         "linestyle": "none"}
# Bodies by what they were pretrained on: the entry in the legend, colour, marker and its size.
BORN = {"language": ("pretrained on language", COLOURS[0], "o", 7),
        "copy": ("pretrained on copying", COLOURS[1], "s", 7),
        "random": ("random", "black", "X", 9)}
OTHER = "pretrained on something else", COLOURS[2], "^", 8
WIDTH = 10.0  # inches: a README shows a picture at about half of it
SIZE, SMALL = 12.5, 10.5  # of fonts, in points
LETTERS = 128  # that a line of small type has room for
NICE = (1, 2, 2.5, 5, 10)  # what ticks are multiples of
ORIGINAL = 1e-3  # the learning rate of Lu et al. 2021
COUNTED = "seeds at the learning rate that was best on validation for other seeds"
INTERVAL = "95% interval by Student's t"
EXPLAINED = {
    "curves": f"Lines: means over {COUNTED}; bands: the {INTERVAL}. Dashed: the best trivial "
              "predictor, on test. A panel may cut off the start.",
    "rates": f"Means over all runs on record, {{runs}} at a point; bands and bars: the {INTERVAL}.",
    "bars": f"Means over {COUNTED}, with the {INTERVAL}.",
    "steps": f"The first evaluation at which accuracy on validation is within {recorded.NEAR:g} of "
             f"the run's best: median and range over {COUNTED}.",
    "gain": f"A point is a body: its mean over {COUNTED}, with the {INTERVAL}. The copying gain is "
            "by how many nats a token the body predicted random symbols better where they were "
            "repeated, when it was pretrained. rho is Spearman's rank correlation over bodies."}


def draw(data: Mapping[str, Any], form: str, digest: str) -> bytes:
    """Draws a figure of a study; returns the content of its file.

    data: what `scripts.results_figures.drawn_from` returns.  form: svg or png.  digest: of the
    data, for the file to hold.
    """
    kind, panels = data["kind"], data["panels"]
    shown = [(number, name) for number, name in enumerate(data["conditions"])
             if any(name in panel["conditions"] for panel in panels)]
    listed = kind in ("bars", "steps")  # conditions are rows, with their names on the left
    columns = min(len(panels), 5 if listed else 2 if len(panels) == 4 else 3)
    rows = -(-len(panels) // columns)
    narrow = columns > 3  # panels, of which the one in the middle has the label of all
    title, caption = textwrap.wrap(data["question"], 98), _caption(data)
    handles = _key(kind, shown, panels)
    free = not listed and rows * columns > len(panels)  # a place for the legend among the panels
    longest = max(len(one.get_label()) for one in handles)
    across = 1 if free else max(1, int(WIDTH / (0.7 + 0.1 * longest)))
    across = -(-len(handles) // -(-len(handles) // across))  # in rows as long as each other
    heights = [0.42 * len(shown) + 0.7 if listed else 2.9] * rows
    heights += [] if free else [0.27 * -(-len(handles) // across)]
    pyplot = plotting(SIZE)
    figure = pyplot.figure(layout="constrained", figsize=(
        WIDTH, sum(heights) + 0.25 * len(title) + 0.18 * len(caption) + 0.3))
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(grid[number // columns, number % columns])
        DRAWN[kind](axes, panel, shown)
        axes.set_title(panel["task"], fontsize=SIZE, fontweight="bold", loc="left",
                       pad=20 if kind == "rates" else None)
        axes.spines[["top", "right"]].set_visible(False)
        if number % columns:
            axes.set_ylabel("")
            axes.tick_params(labelleft=not listed)
        if number + columns < len(panels) or (narrow and number % columns != columns // 2):
            axes.set_xlabel("")
        if kind in ("curves", "bars", "gain"):
            # A narrow panel has room for two or three short labels; a scale needs two.
            axes.xaxis.set_major_locator(MaxNLocator(2, steps=(1, 2, 3, 4, 5, 10), min_n_ticks=2)
                                         if narrow else MaxNLocator(4, steps=NICE, min_n_ticks=1))
    legend = figure.add_subplot(grid[-1, len(panels) % columns if free else 0 :], frameon=False,
                                xticks=[], yticks=[])
    legend.legend(handles=handles, loc="center", frameon=False, borderpad=0, ncols=across,
                  handlelength=2.6, handletextpad=0.6)
    figure.suptitle("\n".join(title), x=0.01, ha="left", fontsize=SIZE + 1)
    figure.supxlabel("\n".join(caption), x=0.01, ha="left", fontsize=SMALL, color="0.25",
                     linespacing=1.25)
    return content(figure, form, digest)


def _curves(axes, panel: Panel, shown: Shown) -> None:
    ends = [panel["floor"]]
    for number, name in shown:
        if curve := panel["conditions"].get(name):
            steps, found = [int(step) for step in curve], _line(axes, curve, number)
            ends += [end for step, one in zip(steps, found) if step for end in one[:3]]
    axes.axhline(panel["floor"], **FLOOR)
    axes.set_ylim(*_limits(ends))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="training step", ylabel="accuracy on validation")


def _rates(axes, panel: Panel, shown: Shown) -> None:
    ends = [panel["floor"]]
    for number, name in shown:
        if not (one := panel["conditions"].get(name)):
            continue
        found = _line(axes, one["test"], number)
        ends += [end for mean in found for end in mean[:3]]
        places, style = [float(rate) for rate in one["test"]], _style(number)
        # A band between points of which one has no interval does not show the other's.
        axes.vlines(places, *zip(*(mean[1:3] for mean in found)), style["color"], linewidth=1.2)
        if (rate := f"{one['chosen']}") in one["test"]:
            axes.plot(float(rate), fmean(one["test"][rate]), markeredgecolor=style["color"],
                      **CHOSEN)
    axes.axhline(panel["floor"], **FLOOR)
    axes.axvline(ORIGINAL, color="0.3", linewidth=1, zorder=0)
    axes.annotate(f"Lu et al. 2021: {ORIGINAL:g}", (ORIGINAL, 1), (0, 2), ha="center", va="bottom",
                  xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=SMALL)
    axes.set_ylim(*_limits(ends))
    axes.set(xscale="log", xlabel="learning rate", ylabel="accuracy on test")


def _line(axes, values: Mapping[str, Sequence[float]], number: int) -> list[Interval]:
    """Draws a line through the means of values by step or rate, and a band of their intervals."""
    places, found = [*map(float, values)], [*map(statistics.mean, values.values())]
    style = _style(number)
    axes.plot(places, [one.mean for one in found], **style)
    axes.fill_between(places, [one.low for one in found], [one.high for one in found],
                      color=style["color"], alpha=0.15, linewidth=0)
    return found


def _bars(axes, panel: Panel, shown: Shown) -> None:
    ends = [panel["floor"], *(panel["paper"][name] for _, name in shown if name in panel["paper"])]
    for row, (number, name) in enumerate(shown):
        if one := panel["conditions"].get(name):
            found, style = statistics.mean(one["test"]), _style(number) | {"linestyle": "none"}
            axes.hlines(row, found.low, found.high, style["color"], linewidth=2)
            axes.plot(found.mean, row, **style | {"markersize": 8, "clip_on": False})
            ends += found[:3]
        if name in panel["paper"]:
            axes.plot(panel["paper"][name], row - 0.3, **PAPER)
    axes.axvline(panel["floor"], **FLOOR, zorder=0)
    axes.set_xlim(*_limits(ends))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("accuracy on test")
    _rows(axes, shown)


def _steps(axes, panel: Panel, shown: Shown) -> None:
    everything = [panel["steps"] / 10]  # a decade is shown, whatever the runs took
    for row, (number, name) in enumerate(shown):
        if one := panel["conditions"].get(name):
            steps, style = one["converged"], _style(number) | {"linestyle": "none"}
            style["markerfacecolor"] = style["color"] if _passes(one, panel) else "white"
            axes.hlines(row, min(steps), max(steps), style["color"], linewidth=2)
            axes.plot(median(steps), row, **style | {"markersize": 8})
            everything += steps
    axes.axvline(panel["steps"], **END, zorder=0)
    axes.set(xscale="log", xlim=(min(everything) / 1.3, panel["steps"] * 1.3))
    wide = panel["steps"] > 100 * min(everything)
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 3)))
    axes.xaxis.set_major_formatter(FuncFormatter(
        lambda step, _: f"{step / 1000:g}k" if step >= 1000 else f"{step:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("training step")
    _rows(axes, shown)


def _gain(axes, panel: Panel, shown: Shown) -> None:
    bodies, ends, floor = [*panel["conditions"].values()], [], panel["floor"]
    for one in bodies:
        found = statistics.mean(one["test"])
        axes.vlines(one["gain"], found.low, found.high, _born(one)["color"], linewidth=1.2)
        axes.plot(one["gain"], found.mean, **_born(one))
        ends += found[:3]
    low, high = _limits(ends)
    if low - floor > 2 * (high - low):  # the order of bodies would not be seen above it
        low -= 0.12 * (high - low)  # room for the text
        axes.annotate(f"best trivial predictor, below: {floor:.3f}", (0.01, 0.02), fontsize=SMALL,
                      xycoords="axes fraction")
    else:
        axes.axhline(floor, **FLOOR, zorder=0)
        low, high = _limits([*ends, floor])
    axes.set_ylim(low, high)
    axes.set(xlabel="copying gain of the body (nats a token)", ylabel="accuracy on test")
    if len(bodies) > 1:
        rho = statistics.rank_correlation([one["gain"] for one in bodies],
                                          [fmean(one["test"]) for one in bodies]).mean
        axes.set_title(f"rho = {rho:+.2f}, {len(bodies)} bodies", fontsize=SMALL, loc="right")


def _born(one: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how a body is drawn, by what it was pretrained on."""
    label, colour, marker, size = BORN.get(one["pretraining"], OTHER)
    return {"label": label, "color": colour, "marker": marker, "markersize": size,
            "linestyle": "none", "markeredgecolor": "white", "markeredgewidth": 0.6}


def _passes(one: Mapping[str, Any], panel: Panel) -> bool:
    """Tells whether a condition is above the best trivial predictor on test, in the mean."""
    return fmean(one["test"]) > panel["floor"]


def _rows(axes, shown: Shown) -> None:
    """Makes a row for each condition, from the top down, every other one shaded."""
    for row in range(1, len(shown), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="0.95", zorder=-1)
    axes.set_yticks(range(len(shown)), ["\n".join(textwrap.wrap(name, 30)) for _, name in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def _limits(ends: Sequence[float]) -> tuple[float, float]:
    """Finds limits for an axis of accuracies that shows these, each first cut to between 0 and
    1."""
    possible = [min(1.0, max(0.0, end)) for end in ends if not math.isnan(end)]
    room = 0.06 * max(max(possible) - min(possible), 0.02)
    return min(possible) - room, max(possible) + room


def _style(number: int) -> dict[str, Any]:
    """Returns how the condition of this number in its study is drawn."""
    colour = COLOURS[number % len(COLOURS)]
    return {"color": colour, "marker": MARKERS[number % len(MARKERS)], "markersize": 6,
            "linestyle": DASHES[number % len(DASHES)], "linewidth": 1.6,
            "markerfacecolor": colour if number < len(COLOURS) else "white"}


def _key(kind: str, shown: Shown, panels: Sequence[Panel]) -> list[Line2D]:
    """Makes the entries of a figure's legend."""
    entry = lambda label, style: Line2D([], [], label=label, **style)
    found = [entry(name, _style(number)) for number, name in shown if kind in ("curves", "rates")]
    if kind == "gain":
        bodies = [_born(one) for panel in panels for one in panel["conditions"].values()]
        found += [Line2D([], [], **one) for one in {one["label"]: one for one in bodies}.values()]
    if kind == "steps":
        found.append(entry("end of training", END))
        if not all(_passes(one, panel) for panel in panels for one in panel["conditions"].values()):
            hollow = {"color": "0.3", "marker": "o", "markersize": 8, "markerfacecolor": "white"}
            found.append(entry("hollow: not above the best trivial predictor, on test",
                               hollow | {"linestyle": "none"}))
    else:
        found.append(entry("best trivial predictor", FLOOR))
    if kind == "rates":
        found.append(entry("chosen on validation", CHOSEN | {"markeredgecolor": "black"}))
    if kind == "bars" and any(name in panel["paper"] for panel in panels for _, name in shown):
        found.append(entry("the paper's number, at its own sizes", PAPER))
    return found


def _caption(data: Mapping[str, Any]) -> list[str]:
    """Writes what a figure shows, the sizes of its tasks and what is missing, line by line."""
    counts = {len(values) for panel in data["panels"] for one in panel["conditions"].values()
              for values in one.get("test", {}).values()} if data["kind"] == "rates" else ()
    runs = " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else ""
    sizes = (f"{panel['task']}: {panel['steps']:,} steps of {panel['batch']} examples, "
             f"{panel['sizes']}." for panel in data["panels"])
    paragraphs = [f"Study {data['study']}. {EXPLAINED[data['kind']].format(runs=runs)}",
                  " ".join(sizes), *data["notes"]]
    return [line for text in paragraphs for line in textwrap.wrap(text, LETTERS)]


DRAWN = {"curves": _curves, "rates": _rates, "bars": _bars, "steps": _steps, "gain": _gain}
