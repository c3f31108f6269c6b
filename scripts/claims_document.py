"""Writes what the records say of claims: a page of its own, and a short table for the README."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scripts import claims_verdicts as verdicts
from scripts import recorded
from scripts.claims import FLOOR, Claim, Ordering
from scripts.claims_verdicts import Judged
from scripts.markdown import markdown

FIGURE = ("![Differences in accuracy that claims are about, on each task, with their 95% intervals "
          "and verdicts](figures/claims.svg)")


def document(claims: Sequence[Claim], judged: Sequence[Judged], track: str,
             drawn: bool = False) -> str:
    """Makes the page of all claims: the verdict on each, then the numbers task by task.

    drawn: whether there is a figure of them.
    """
    rows = [["claim", "source", "compared", "study", "verdict"]]
    rows += [[f"{number}. {claim.sentence}", claim.source, _compared(claim),
              f"[{claim.study}](tables/{claim.study}.md)", verdict(claim, judged)]
             for number, claim in enumerate(claims, 1)]
    return "\n\n".join(["# Claims", _introduction(track), markdown(rows), "## Task by task",
                        *([FIGURE] if drawn else []), _details(claims, judged)]) + "\n"


def short(claims: Sequence[Claim], judged: Sequence[Judged]) -> str:
    """Makes a table of the claims and the verdicts on them, without their sources."""
    return markdown([["", "claim", "verdict"],
                     *([str(number), claim.sentence, verdict(claim, judged)]
                       for number, claim in enumerate(claims, 1))])


def verdict(claim: Claim, judged: Sequence[Judged]) -> str:
    """Sums up the verdicts on a claim: each with the tasks on which it was reached."""
    found = [one for one in judged if one.finding.claim is claim]
    tasks = {word: ", ".join(one.finding.task for one in found if one.verdict == word)
             for word in (verdicts.SUPPORTED, verdicts.CONTRADICTED, verdicts.UNDECIDED)}
    return "; ".join(f"{word} ({on})" for word, on in tasks.items() if on) or verdicts.NOT_TESTED


def _compared(claim: Claim) -> str:
    """Names what is compared, so that a difference reads as the first less the second."""
    if isinstance(claim, Ordering):
        return f"bodies by their {claim.over}"
    named = {FLOOR: "the best trivial predictor"}
    one, *others = (named.get(name, name) for name in claim.sides)
    other = others[0] if len(others) == 1 else f"the mean of {', '.join(others)}"
    return f"{one}; {other}" + (f"; both at {claim.rate:g}" if claim.rate else "")


def _introduction(track: str) -> str:
    return f"""\
This page judges, by the runs on record, what the papers and their critics claim. The sizes are
those called `{track}`; at the papers' own a verdict may differ. Most claims compare two conditions
of a study on each of its tasks, by pairs of runs with the same seed; a difference is the first
condition's accuracy less the second's. Each condition is at the learning rate that validation chose
on other seeds, unless the claim states one rate for both. It is the best of those tried; where it
is the highest or the lowest of them, as the studies' tables say, a better one may lie beyond.

- *supported* or *contradicted*: there are {verdicts.FEWEST} pairs or more; the difference on test
  has a p-value of at most {verdicts.CERTAIN:g} by Student's t, adjusted by Holm's method for all
  tests of this page; and the better condition passes the best trivial predictor, with its whole 95%
  interval.
- *undecided*: there are as many pairs, but the difference may be chance, or no condition passes
  that predictor.
- *not tested*: there are fewer pairs, or none.

A claim that a condition is no more than a margin behind another is a test of non-inferiority: it is
supported where the difference is significantly above minus the margin, and contradicted where it is
significantly below. Its p-value is that of the distance to minus the margin, and not to zero.

Random bodies are drawn by the seed; a pretrained one is the same for all seeds unless the claim
says that each has its own, and a verdict about pretraining is then about that one body.

Where the difference is the same in all pairs, Student's t has no value: such a difference counts as
certain (p < 0.001), and none at all as chance (p = 1).

A claim that a condition keeps more than half of a gain compares it with the mean of the two
conditions whose difference is the gain, and is undecided where the 95% interval of that gain is not
above zero.

A claim about speed compares the steps that runs took to converge: to the first evaluation, after
training began, whose accuracy on validation is within {recorded.NEAR:g} of the run's best. The
base-2 logarithm of the ratio of steps is averaged and tested, and both conditions must pass the
best trivial predictor, since a run that learns nothing has converged at once. Runs are evaluated
every few hundred steps, and a ratio is known no better than that; of a run that was still improving
when it ended, the steps are fewer than it would have needed.

A claim about overfitting compares by how much the accuracy in training exceeds that on test.
Accuracy in training is that on the batches before the evaluation that was best on validation, with
dropout where the task has any; what a run overfits later is not counted. One of the two conditions
must pass the best trivial predictor.

A claim about an order compares all bodies of a study whose quality is known: by Spearman's rank
correlation (rho) of that quality, as the body's pretraining measured it, with the mean accuracy on
test over its seeds; a lower loss ranks higher, so that a positive rho supports the claim. The
copying gain is by how many nats a token a body predicts random symbols better where they are
repeated. A verdict needs {verdicts.FEWEST_BODIES} bodies, and one that passes the best trivial
predictor; p comes from permutations of the bodies, adjusted with all others, and the interval from
the percentile bootstrap over bodies. Each checkpoint counts as a body, and this limits what such a
verdict says. Checkpoints of one pretraining are not independent: the p-value overstates the
evidence about other bodies, and where a loss and a gain change together during a pretraining, its
checkpoints cannot tell which of the two matters. How large a gain can be depends on the vocabulary,
so that rho among the bodies of each pretraining alone stands beside that of all. And the
checkpoints of a pretraining take the learning rate that was best for its last: an early one that
fails at this rate may learn at another."""


def _details(claims: Sequence[Claim], judged: Sequence[Judged]) -> str:
    rows = [["claim", "task", "difference or rho", "95% interval", "seeds", "p", "verdict"]]
    for number, claim in enumerate(claims, 1):
        said = _faster if claim.measure == "steps" else "{:+z.3f}".format
        what, of = ("rho ", " bodies") if isinstance(claim, Ordering) else ("", "")
        for finding, p, reached in judged:
            effect = finding.effect
            if finding.claim is not claim or effect is None:
                continue
            why = f" ({finding.objection})" if finding.tested and finding.objection else ""
            interval = "-" if effect.n < 2 else f"{said(effect.low)} to {said(effect.high)}"
            apart = "; ".join(f"{kind} alone {said(rho)}" for kind, rho in finding.within.items())
            shown = what + said(effect.mean) + f" ({apart})" * bool(apart)
            rows.append([str(number), finding.task, shown, interval,
                         f"{effect.n}{of}", _chance(p), reached + why])
    missing = len(judged) - len(rows) + 1
    return (f"{markdown(rows)}\n\nOf {len(judged)} tests, {missing} are not in this table, since "
            "there is no pair of runs or of bodies for them yet.")


def _chance(p: float) -> str:
    return "-" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def _faster(effect: float) -> str:
    """Writes the base-2 logarithm of a ratio of speeds: 1 as x2.0 faster, -1 as x2.0 slower."""
    ratio = f"x{2 ** abs(effect):.1f}"
    return "x1.0" if ratio == "x1.0" else f"{ratio} {'faster' if effect > 0 else 'slower'}"
