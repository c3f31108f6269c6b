"""Bit memory and bit XOR: what is drawn, what is asked, what is trivial."""

import itertools
from dataclasses import replace

import jax
import numpy as np
import pytest

from fpt.errors import UserError
from fpt.task import Split
from tasks.bits import BitMemory, BitXor

MEMORY = BitMemory(strings=5, bits=50, patch=10)


def _batch(task, seed=0, step=0, batch=500):
    return Split(*map(np.asarray, task.draw(None, jax.random.key(seed), step, batch)[:2]))


def test_memory_asks_for_one_of_its_strings():
    inputs, targets = _batch(MEMORY)
    assert inputs.shape == (500, 6, 50) and inputs.dtype == np.int8 and targets.shape == (500, 50)
    same = (inputs[:, :5] > 0) == (targets[:, None] == 1)
    assert same.all(axis=2).any(axis=1).all()
    assert set(np.unique(inputs[:, :5])) == {-1, 1}


def test_memory_hides_half_of_the_query_and_changes_no_other_bit():
    inputs, targets = _batch(MEMORY)
    query = inputs[:, -1]
    visible = query != 0
    assert ((query > 0) == (targets == 1))[visible].all()
    assert abs(visible.mean() - 0.5) < 0.01  # 25,000 bits: four standard errors


def test_memory_asks_for_every_string_equally_often():
    inputs, targets = _batch(MEMORY, batch=5_000)
    which = ((inputs[:, :5] > 0) == (targets[:, None] == 1)).all(axis=2).argmax(axis=1)
    shares = np.bincount(which, minlength=5) / 5_000
    assert np.abs(shares - 0.2).max() < 0.025


def test_xor_is_the_exclusive_or():
    inputs, targets = _batch(BitXor())
    assert ((inputs[:, 0] ^ inputs[:, 1]) == targets).all()


def test_xor_of_three_strings_is_their_parity():
    inputs, targets = _batch(BitXor(strings=3, bits=4))
    assert (np.bitwise_xor.reduce(inputs, axis=1) == targets).all()


@pytest.mark.parametrize("task", [MEMORY, BitXor()], ids=["bit-memory", "bit-xor"])
def test_batches_are_functions_of_key_and_step(task):
    first, again, next_step, other_seed = _batch(task), _batch(task), _batch(task, step=1), _batch(task, seed=1)
    assert (first.inputs == again.inputs).all()
    assert (first.inputs != next_step.inputs).any() and (first.inputs != other_seed.inputs).any()


def test_test_of_xor_is_every_input_once():
    test = BitXor().load()["test"]
    assert len({example.tobytes() for example in test.inputs}) == len(test.inputs) == 1_024
    assert ((test.inputs[:, 0] ^ test.inputs[:, 1]) == test.targets).all()


def test_a_long_xor_is_tested_on_a_draw():
    assert len(BitXor(bits=20).load()["test"].inputs) == 2_000


def test_fixed_splits_repeat_and_differ():
    first, again = MEMORY.load(), MEMORY.load()
    assert (first["test"].inputs == again["test"].inputs).all()
    assert (first["test"].inputs != first["validation"].inputs).any()
    assert len(first["validation"].inputs) == len(first["test"].inputs) == 2_000


def test_no_training_batch_is_the_validation_draw():
    """The keys of the fixed splits are 1 and 2; a run of seed 1 or 2 still draws other bits."""
    held_out = {example.tobytes() for split in MEMORY.load().values() for example in split.inputs}
    for seed, step in itertools.product((0, 1, 2), (0, 1)):
        assert not held_out & {example.tobytes() for example in _batch(MEMORY, seed, step).inputs}


def test_tokens_are_patches_in_reading_order():
    inputs, _ = _batch(MEMORY, batch=2)
    tokens = np.asarray(MEMORY.encode(inputs))
    assert tokens.shape == (2, 30, 10) and MEMORY.interface.tokens == 30
    assert (tokens[1, 7] == inputs[1, 1, 20:30]).all()
    assert len(MEMORY.token_labels(inputs[0])) == 30
    assert MEMORY.token_labels(inputs[0])[7] == "string 2, bits 20-29"


def test_answers_are_read_from_the_trailing_tokens():
    memory, xor = MEMORY.interface, BitXor().interface
    assert (memory.queries, memory.answers_per_query, memory.answers) == (5, 10, 50)
    assert (xor.queries, xor.answers_per_query, xor.tokens) == (5, 1, 10)


def test_sizes_default_to_the_papers():
    assert (BitMemory().strings, BitMemory().bits, BitMemory().patch) == (5, 1_000, 50)
    assert BitMemory().interface.tokens == 120
    assert (BitXor().strings, BitXor().bits) == (2, 5)


def test_floors_of_memory_are_the_expected_shares():
    """The majority of five strings agrees with one of them on 11/16 of the bits."""
    task = replace(MEMORY, bits=1_000, patch=50)
    data = task.load()
    floors = task.floors(data, data["test"])
    assert floors["majority"] == pytest.approx(0.5, abs=0.002)
    assert floors["hidden/vote"] == pytest.approx(11 / 16, abs=0.002)
    assert floors["copy visible"] == pytest.approx(0.75, abs=0.002)
    assert floors["copy visible, vote on hidden"] == pytest.approx(0.5 + 11 / 32, abs=0.002)


def test_where_no_bit_is_hidden_there_is_no_floor_of_the_hidden(recwarn):
    examples = Split(np.ones((1, 6, 1), np.int8), np.ones((1, 1), np.int32))
    assert list(BitMemory(bits=1, patch=1).floors({}, examples)) == ["majority", "copy visible", "copy visible, vote on hidden"]
    assert not recwarn


def test_hidden_slice_is_the_hidden_bits():
    inputs, _ = _batch(MEMORY)
    parts = MEMORY.slices(inputs)
    assert (parts["hidden"] == (inputs[:, -1] == 0)).all() and (parts["hidden"] != parts["visible"]).all()


def test_floor_of_xor_is_a_coin():
    data = BitXor().load()
    assert BitXor().floors(data, data["test"]) == {"majority": 0.5}


def test_a_person_can_read_an_example():
    inputs, targets = _batch(BitXor(), batch=1)
    rows = [line.split()[-1] for line in BitXor().show(inputs[0], targets[0]).splitlines()]
    assert [int(a) ^ int(b) for a, b in zip(*rows[:2])] == [int(bit) for bit in rows[2]]


@pytest.mark.parametrize(("sizes", "said"), [
    ({"patch": 7}, "--patch 7 does not divide --bits 1000"), ({"strings": 0}, "at least 1"), ({"bits": -5}, "at least 1"),
])
def test_impossible_sizes_are_refused(sizes, said):
    with pytest.raises(UserError, match=said):
        BitMemory(**sizes)
