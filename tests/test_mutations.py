"""The list of mistakes that the tests must notice fits the code that there is."""

from collections import Counter
from pathlib import Path

import pytest

from tests.mutants import MUTANTS
from tests.mutations import named

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{mutant.file} {mutant.breaks}" for mutant in MUTANTS])
def test_the_text_that_a_mutant_changes_occurs_once(mutant):
    assert (ROOT / mutant.file).read_text().count(mutant.before) == 1 and mutant.before != mutant.after


def test_the_tests_of_each_mutant_exist_and_none_is_listed_twice():
    assert all(named(mutant.tests) for mutant in MUTANTS)
    assert max(Counter((mutant.file, mutant.before, mutant.after) for mutant in MUTANTS).values()) == 1
