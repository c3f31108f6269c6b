"""Draws what was found in the heads of a study's runs: a shaded table of layers by heads for each
body."""

from __future__ import annotations

import textwrap

import numpy as np

from fpt.errors import UserError
from scripts import recorded
from scripts.attention_table import BY, Run, findings
from scripts.figure import content, plotting

MOST = 6  # bodies beside each other


def draw(runs: list[Run], kind: str, source: str | None = None) -> bytes:
    """Draws one task's runs: above, each head's mass (its attention weight on the tokens that hold
    the answer); below, how much the loss grows without the head.

    Each condition is shown by its first seed, at the learning rate that is best on validation for
    that seed.  Returns the content of the picture's file: the same runs and versions give the same
    bytes.  source: see `scripts.figure.content`.
    """
    shown = [run for run in runs if run.get("attention", {}).get("correlation")]
    if not shown:
        raise UserError("none of these runs has heads that were taken out, and a task that says "
                        "where the answer is: there is nothing to draw")
    if len({run["config"]["task"] for run in shown}) > 1:
        raise UserError("one picture shows one task; name it with --task")
    groups = recorded.chosen(shown)
    if len(groups) > MOST:
        raise UserError(f"{len(groups)} conditions are more than the {MOST} that a picture has "
                        "room for")
    pyplot = plotting(9)
    from matplotlib.colors import LogNorm

    inches = 2.1 * len(groups) + 1.2, 4.4
    figure, axes = pyplot.subplots(2, len(groups), figsize=inches, layout="constrained",
                                   squeeze=False)
    scales = {}
    for column, (label, (run, *_)) in enumerate(groups.items()):
        found = run["attention"]
        mass = np.array(found["measures"][-1]["values"][found["answer"]]["read"])
        nats = np.array(found["ablation"][BY]["nats"])
        scales[0] = axes[0, column].imshow(mass, cmap="cividis", vmin=0, vmax=1)
        scales[1] = axes[1, column].imshow(np.maximum(nats, 1e-4), cmap="cividis",
                                           norm=LogNorm(1e-4, 1, clip=True))
        smallest = findings(run).smallest
        count = [] if smallest is None else [f"{len(smallest)} of {mass.size} heads keep 95%"]
        axes[0, column].set_title("\n".join([*textwrap.wrap(label, 24), *count]), fontsize=9)
        for row in (0, 1):
            axes[row, column].set(xticks=range(0, mass.shape[1], 2),
                                  yticks=range(mass.shape[0]))
            axes[row, column].set_ylabel("" if column else "layer")
        axes[1, column].set_xlabel("head")
    figure.colorbar(scales[0], ax=axes[0], label=f"mass on: {shown[0]['attention']['answer']}")
    figure.colorbar(scales[1], ax=axes[1], label="loss gained without it, nats", extend="both")
    return content(figure, kind, source)
