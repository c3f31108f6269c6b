"""The law of ListOps' lengths: what it allows, how probable it is, and what of it is refused before anything is drawn."""

import itertools
import random
import re

import numpy as np
import pytest

from fpt.errors import UserError
from tasks import expressions
from tasks.expressions import draw, draw_block, draw_distinct
from tasks.law import Law
from tasks.listops import PUBLISHED, ListOps, ListOpsOriginal


def _possible_lengths(depth, arguments, most):
    """All lengths up to `most` that expressions have, put together level by level."""
    node = {1}
    for _ in range(depth - 1):
        sums, longer = {0}, {1}
        for count in range(1, arguments + 1):
            sums = {total + length for total in sums for length in node if total + length <= most - 2}
            longer |= {2 + total for total in sums} if count > 1 else set()
        node = longer
    return node


@pytest.mark.parametrize(("depth", "arguments"), itertools.product((2, 3, 4), (2, 3, 4, 5)))
def test_a_law_is_refused_exactly_where_no_expression_keeps_it(depth, arguments):
    possible = _possible_lengths(depth, arguments, 60)
    for shortest, longest in itertools.combinations_with_replacement(range(1, 40), 2):
        law = Law(shortest, longest, depth, arguments)
        if any(shortest <= length <= longest for length in possible):
            law.check_possible()
            continue
        with pytest.raises(UserError) as caught:
            law.check_possible()
        if nearest := re.search(r"nearest lengths are (\d+) and (\d+)", str(caught.value)):
            expected = max(n for n in possible if n < shortest), min(n for n in possible if n > longest)
            assert tuple(map(int, nearest.groups())) == expected
        else:
            assert f"at most {max(possible)} tokens" in str(caught.value)


@pytest.mark.parametrize("law", [Law(1, 60, 6, 5), Law(4, 60, 6, 5), Law(16, 128, 10, 10), Law(7, 13, 4, 2)], ids=repr)
def test_lengths_are_as_probable_as_they_are_drawn(law):
    generator, count = random.Random(0), 4_000
    drawn = np.bincount([len(draw(generator, law)[0]) for _ in range(count)], minlength=law.longest + 1)
    lengths = np.where(np.arange(law.longest + 1) < law.shortest, 0, law.lengths())
    expected = count * lengths / lengths.sum()
    assert (drawn[expected < 1e-6] == 0).all()
    assert (np.abs(drawn - expected) < 5 * np.sqrt(expected) + 3).all()


def test_as_many_draws_are_accepted_as_their_lengths_say(monkeypatch):
    law, grow, attempts = Law(16, 128, 10, 10), expressions.grow, 0

    def counted(generator, law, depth, *others):
        nonlocal attempts
        attempts += depth == 1
        return grow(generator, law, depth, *others)

    monkeypatch.setattr(expressions, "grow", counted)
    generator = random.Random(0)
    for _ in range(2_000):
        draw(generator, law)
    assert 2_000 / attempts == pytest.approx(law.lengths()[law.shortest :].sum(), rel=0.1)


@pytest.mark.parametrize("task", [ListOps(), ListOps(**ListOps.presets["paper"].sizes), ListOpsOriginal()], ids=lambda task: (
    f"{task.name} of {task.law.shortest} to {task.law.longest}"))
def test_what_is_published_and_all_defaults_take_minutes(task):
    task.law.check_time(10_000_000)  # a hundred times as many
    accepted = {ListOps().law: 0.1418, PUBLISHED: 0.3310}.get(task.law, 0.1849)
    assert task.law.lengths()[task.law.shortest :].sum() == pytest.approx(accepted, abs=1e-4)


@pytest.mark.parametrize(("options", "said"), [
    (["--depth", 2], "--depth 2 with --arguments 3 has at most 5 tokens, fewer than --shortest 8"),
    (["--depth", 3, "--arguments", 2, "--shortest", 16], "--depth 3 with --arguments 2 has at most 10 tokens, fewer than --shortest 16"),
    (["--preset", "paper", "--depth", 3], "--depth 3 with --arguments 10 has at most 122 tokens, fewer than --shortest 501"),
    (["--arguments", 2, "--shortest", 5, "--longest", 6],
     "with --arguments 2 no expression has 5 to 6 tokens; the nearest lengths are 4 and 7"),
    (["--longest", 10_001], "--longest and --arguments must be at most 10,000"),
    (["--arguments", 10_001], "--longest and --arguments must be at most 10,000"),
    (["--preset", "paper", "--depth", 5], "would take one core 429 hours, since at most one in 667,8"),
    (["--train-examples", 10**12], "expressions of 8 to 24 tokens would take one core 2,686 hours"),
])
def test_what_cannot_be_drawn_is_refused_before_a_process_is_started(command, monkeypatch, options, said):
    monkeypatch.setattr(expressions, "draw_blocks", None)
    code, _, err = command("data", "listops", *options)
    assert code == 2 and err.startswith("error: listops: ") and err.count("\n") == 1 and said in err, err


def test_an_impossible_law_is_refused_with_the_options(command, tmp_path):
    code, _, err = command("train", "listops", "--depth", 2, "--out", tmp_path / "runs", "--body", "no-such-body")
    assert code == 2 and "at most 5 tokens" in err and not (tmp_path / "runs").exists(), err


def test_published_files_need_no_possible_law():
    assert ListOps(source="lra", depth=2).interface.tokens == 128


def test_the_core_hours_are_those_of_whole_blocks():
    law = Law(501, 1_024, 5, 10)  # 24 hours are enough for 5,588 of these
    law.check_time(5_500)
    with pytest.raises(UserError, match="5,700 expressions"):
        law.check_time(5_700)
    with pytest.raises(UserError, match="500 expressions"):
        draw_distinct(Law(501, 1_024, 4, 10), 0, 1, lambda count: None)


def test_expressions_may_nest_deeper_than_python_calls(monkeypatch):
    monkeypatch.setattr(expressions, "BLOCK", 10)
    law = Law(16, 10_000, 5_000, 10)  # what grows too long is by then nested some thousand deep
    assert all(law.shortest <= len(symbols) <= law.longest for symbols, _ in draw_block(law, 0, 0))


def test_a_law_of_any_depth_is_judged_at_once():
    assert np.allclose(Law(16, 128, 10**9, 10).lengths(), Law(16, 128, 128, 10).lengths())
