"""Tests what look-ups reach on ListOps that are stronger than the floors, and evaluate nothing nested."""

import numpy as np
import pytest

from tasks import predictors
from tasks.expressions import FIRST, OPERATORS
from tasks.listops import ListOps


def looked_up(seen, answers, asked, otherwise):
    """Predicts by frequency from what was seen of training expressions; `otherwise` where it was never seen."""
    both = np.unique(np.concatenate([seen, asked]), return_inverse=True)[1]
    table = np.zeros((both.max() + 1, 10), int)
    np.add.at(table, (both[: len(seen)], answers), 1)
    counts = table[both[len(seen):]]
    return np.where(counts.any(axis=1), counts.argmax(axis=1), otherwise)


def summaries(symbols):
    """Lists what three look-ups see of expressions, each more than the one before, as int [N].

    These are the recorded floor's view, the names of the nested operators, and what the root operator could use of all
    nested digits together.
    """
    direct = predictors.summarise(symbols)["root operator, direct digits"]
    level, opened = predictors.depth(symbols), predictors.opens(symbols)
    nested = predictors.use_of(symbols, predictors.digits(symbols) & (level > 1), symbols[:, 0].astype(int) - FIRST)
    count = lambda kind: np.minimum(3, (opened & (level == 2) & (symbols == FIRST + kind)).sum(axis=1))
    named = direct * 1_000 + sum(4**kind * count(kind) for kind in range(len(OPERATORS)))
    return direct, named, named * 1_000 + nested


@pytest.mark.slow
@pytest.mark.parametrize("name, accuracies", [("test", (0.4145, 0.4485, 0.5345)),
                                              ("validation", (0.4305, 0.458, 0.5135))])
def test_a_look_up_that_sees_nested_digits_is_stronger_than_the_floors(name, accuracies):
    """The accuracies are those that results/log.md states."""
    task = ListOps(**ListOps.presets["laptop"].sizes)
    data = task.load()
    train, split = data["train"], data[name]
    predicted, found = 0, []
    for seen, asked in zip(summaries(train.inputs), summaries(split.inputs)):
        predicted = looked_up(seen, train.targets[:, 0], asked, predicted)
        found.append(float(np.mean(predicted == split.targets[:, 0])))
    assert found == pytest.approx(accuracies, abs=1e-9)
    assert found[0] == task.floors(data, split)["root operator, direct digits"]
