"""Damages a hundred checkpoints, runs, states and caches: see `fuzz`."""

from tests.fuzz import fuzz


def test_what_is_damaged_is_refused_or_read_as_it_was(tmp_path):
    outcomes = list(fuzz(100, seed=20, home=tmp_path))
    assert [outcome for outcome in outcomes if outcome[-1] not in ("refused", "same")] == []
    # A damaged cache is made again.
    lasting = [outcome for target, *_, outcome in outcomes if not target.startswith("cached")]
    assert lasting.count("refused") > 0.7 * len(lasting)
