"""Checks tasks of next-token prediction on another task's inputs: sizes, ranks and floors."""

import numpy as np
import pytest

import tasks
from fpt.errors import UserError
from fpt.task import UNSCORED, Split


@pytest.mark.parametrize(("name", "sizes"), [
    ("mnist", {"patch": 28}), ("bit-xor", {"bits": 1, "strings": 1}),
    ("listops", {"shortest": 1, "longest": 1}),
])
def test_an_example_of_one_token_is_refused(name, sizes):
    assert tasks.find(name)(**sizes).interface.tokens == 1
    with pytest.raises(UserError, match=f"self-{name}: an example is one token"):
        tasks.find(f"self-{name}")(**sizes)


def test_impossible_sizes_are_refused_as_the_task_refuses_them():
    with pytest.raises(UserError, match="--patch 5 does not divide"):
        tasks.find("self-mnist")(patch=5)


def test_examples_of_which_nothing_is_scored_have_a_floor():
    task = tasks.find("self-listops")(shortest=1, longest=4)
    nothing = Split(np.array([[3, 0, 0, 0]]), np.full((1, 4), UNSCORED))
    assert task.floors({}, nothing) == {"majority": 0}


@pytest.mark.parametrize("name", ["self-bit-xor", "copy", "language"])
def test_tasks_of_next_tokens_are_ranked_by_their_loss(name):
    scores = [{"loss": None, "accuracy": 0.9}, {"loss": 2.0, "accuracy": 0.8},
              {"loss": 1.0, "accuracy": 0.1}]
    assert sorted(scores, key=tasks.find(name)().rank) == scores


def test_other_tasks_are_ranked_by_their_accuracy():
    scores = [{"loss": loss, "accuracy": accuracy}
              for loss, accuracy in ((None, 0.9), (2.0, 0.1), (1.0, 0.5), (3.0, 0.8))]
    assert sorted(scores, key=tasks.find("bit-xor")().rank) == scores


def test_no_token_holds_the_answer_to_what_comes_next():
    task = tasks.find("self-bit-xor")()
    assert task.answer_tokens(task.load()["validation"].inputs) == {}
