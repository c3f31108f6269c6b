"""Checks that parameters have the roles that they should, that sets of roles hold what they say,
and that counts are those of the papers.
"""

import math
import re
from pathlib import Path

import pytest

from fpt import UserError, counts, roles
from fpt.body import Parameter
from fpt.gpt2 import BODIES, GPT2
from fpt.initialisers import zeros
from fpt.model import table
from fpt.task import Interface
from tasks.copying import Copying

GOLDEN = Path(__file__).parent / "roles"


def described(body, tokens=10, width=1, vocabulary=None, per_query=1, classes=2):
    """Describes the parameters of a model on a named body."""
    task = Interface(tokens=tokens, width=width, vocabulary=vocabulary, classes=classes,
                     answers_per_query=per_query)
    return table(task, BODIES[body])


@pytest.mark.parametrize("body", BODIES)
def test_the_role_map_is_the_golden_file(body):
    parameters = described(body)
    repeated = [name for name, one in parameters.items() if (one.layer or 0) > 0]
    for name in repeated:  # every block is like the first, which the file shows in full
        one = parameters[name]
        first = parameters[name.replace(f"h_{one.layer}/", "h_0/")]
        assert (one.role, one.shape, first.layer) == (first.role, first.shape, 0), name
    lines = [f"{name:<28} {one.role:<12} {' x '.join(map(str, one.shape))}"
             for name, one in sorted(parameters.items()) if name not in repeated]
    lines = [f"{body}: blocks h_1 to h_{BODIES[body].layers - 1} are as h_0", *lines]
    assert (GOLDEN / f"{body}.txt").read_text().splitlines() == lines


def test_a_parameter_is_of_the_block_that_its_name_states():
    for name, one in described("gpt2-mini").items():
        block = re.match(r"body/h_(\d+)/", name)
        assert one.layer == (int(block[1]) if block else None), name


def test_the_matrices_of_the_blocks_are_its_kernels():
    for name, one in described("gpt2-mini").items():
        assert one.matrix == bool(re.fullmatch(r"body/h_\d+/.*/kernel", name)), name


def test_the_body_owns_its_parameters_and_the_run_the_layers_around_it():
    tied = table(Copying().interface, BODIES["gpt2-mini"])
    for name, one in {**described("gpt2-mini"), **tied}.items():
        assert one.owner == ("body" if name.startswith("body/") else "run"), name


@pytest.mark.parametrize("text, inside, outside", [
    ("fpt", ["input/kernel", "body/wpe", "body/ln_f/scale", "body/h_3/ln_1/bias"],
     ["body/h_0/attn/c_attn/kernel"]),
    ("output", ["output/bias"], ["input/kernel", "body/wpe"]),
    ("all", ["input/kernel", "body/h_5/mlp/c_fc/bias"], ["token/embedding"]),
    ("none", [], ["output/kernel"]),
    ("body", ["body/wpe", "body/h_1/mlp/c_proj/kernel"], ["input/kernel", "output/kernel"]),
    ("output+attention@1-2", ["body/h_1/attn/c_proj/bias", "body/h_2/attn/c_attn/kernel"],
     ["body/h_3/attn/c_attn/kernel"]),
    ("norm@3", ["body/h_3/ln_2/scale"],
     ["body/h_2/ln_2/scale", "body/h_4/ln_2/scale", "body/ln_f/scale"]),
])
def test_a_set_holds_what_it_says(text, inside, outside):
    chosen = roles.parse(text)
    parameters = described("gpt2-mini") | {"token/embedding": Parameter((3, 2), "token", zeros)}
    held = [name for name, one in parameters.items() if chosen.holds(one)]
    assert {*inside} <= {*held} and not {*outside} & {*held}
    assert chosen.among(parameters) == held


@pytest.mark.parametrize("text, said", [
    ("atention", "did you mean 'attention'"), ("fpt+nrm", "'norm'"), ("attention@", "attention@3"),
    ("attention@x", "attention@3"), ("norm@5-2", "lower one first"),
    ("body@0-1", "goes with a role"),
])
def test_a_set_that_cannot_be_read_says_why(text, said):
    with pytest.raises(UserError, match=said):
        roles.parse(text)


@pytest.mark.parametrize("text", ["attention@6-9", "attention@4-6", "output+norm@6"])
def test_a_range_beyond_the_layers_is_an_error(text):
    with pytest.raises(UserError, match="beyond the body's layers, 0 to 5"):
        roles.parse(text).among(described("gpt2-mini"))


@pytest.mark.parametrize("text, role", [("norm+token", "token"), ("recurrent", "recurrent")])
def test_a_role_that_no_parameter_has_is_an_error(text, role):
    with pytest.raises(UserError, match=f"no parameter here has the role {role}$"):
        roles.parse(text).among(described("gpt2-mini"))


def test_a_tied_model_has_no_output_layer_to_train():
    with pytest.raises(UserError, match="no parameter here has the role output$"):
        roles.parse("output").among(table(Copying().interface, BODIES["gpt2-mini"]))


def test_a_set_that_has_a_name_may_hold_roles_that_the_model_lacks():
    parameters = table(Copying().interface, BODIES["gpt2-mini"])  # has no input and output layer
    found = {parameters[name].role for name in roles.parse("all").among(parameters)}
    assert found == {"position", "norm", "attention", "feedforward"}


def test_a_role_outside_the_layers_has_no_range():
    with pytest.raises(UserError, match="no parameter here has the role position in a layer"):
        roles.parse("position@0-2").among(described("gpt2-mini"))


# Papers.md 1.9, for gpt2: width or vocabulary, outputs, tokens -> no positions, with the used rows,
# with all rows.
TABLE = {
    "bit memory": (dict(width=50, per_query=50, classes=2), 120, 154_468, 246_628, 940_900),
    "bit XOR": (dict(width=1, per_query=1, classes=2), 10, 41_474, 49_154, 827_906),
    "ListOps": (dict(width=None, vocabulary=15, classes=10), 512, 57_610, 450_826, 844_042),
    "MNIST": (dict(width=16, classes=10), 49, 59_146, 96_778, 845_578),
    "CIFAR-10": (dict(width=48, classes=10), 64, 83_722, 132_874, 870_154),
    "CIFAR-10 LRA": (dict(width=1, classes=10), 1024, 47_626, 834_058, 834_058),
    "homology": (dict(width=None, vocabulary=30, classes=1200), 1024, 984_240, 1_770_672,
                 1_770_672),
}


def count(body, train, tokens, **sizes):
    return counts.count(described(body, tokens, **sizes), roles.parse(train), BODIES[body], tokens)


@pytest.mark.parametrize("name", TABLE)
def test_counts_are_those_of_the_released_code(name):
    sizes, tokens, bare, effective, enabled = TABLE[name]
    found = count("gpt2", "fpt", tokens, **sizes)
    without = count("gpt2", "input+output+norm", tokens, **sizes)["trainable"]
    assert (without, found["effective"], found["trainable"]) == (bare, effective, enabled)
    assert found["percent"] == pytest.approx(100 * enabled / found["total"])


@pytest.mark.parametrize("body, number", [
    ("gpt2", 106_752), ("gpt2-medium", 191_488), ("gpt2-large", 300_800), ("gpt2-xl", 452_800),
])
def test_the_papers_own_counting(body, number):
    assert count(body, "fpt", 64, width=16, classes=10)["paper"] == number


@pytest.mark.parametrize("body, effective", [("gpt2-medium", 226_314), ("gpt2-large", 344_330),
                                             ("gpt2-xl", 507_210)])
def test_larger_bodies_by_positions_in_use(body, effective):
    assert count(body, "fpt", 64, width=48, classes=10)["effective"] == effective


@pytest.mark.parametrize("width, total", [(16, 124_460_554), (48, 124_485_130)])
def test_totals_hold_the_vocabulary_table(width, total):
    assert count("gpt2", "fpt", 64, width=width, classes=10)["total"] == total


def test_a_language_models_table_counts_once():
    task = Copying(vocabulary=11, context=8)
    body = GPT2(layers=1, width=4, heads=2, positions=16, vocabulary=11)
    parameters = table(task.interface, body)
    found = counts.count(parameters, roles.parse("body+token"), body, 16)
    numbers = sum(math.prod(one.shape) for one in parameters.values())
    assert found["total"] == found["trainable"] == numbers
