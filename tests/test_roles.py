"""Every parameter has one role, role sets are read as written, and counts are those of the papers."""

import math
from pathlib import Path

import pytest

from fpt import UserError, counts, roles
from fpt.gpt2 import BODIES, GPT2
from fpt.model import Model, build, shapes_of
from fpt.task import Task
from tasks.copying import Copying

GOLDEN = Path(__file__).parent / "roles"


def shapes(body, tokens=10, width=1, vocabulary=None, per_query=1, classes=2):
    task = Task()
    for name, value in (("tokens", tokens), ("width", width), ("vocabulary", vocabulary)):
        object.__setattr__(task, name, value)
    return shapes_of(Model(BODIES[body], width, vocabulary, None, 1, per_query, classes), task)


@pytest.mark.parametrize("body", BODIES)
def test_the_role_map_is_the_golden_file(body):
    named = shapes(body)
    repeated = [name for name in named if (roles.layer_of(name) or 0) > 0]
    for name in repeated:  # every block is like the first, which the file shows in full
        first = name.replace(f"h_{roles.layer_of(name)}/", "h_0/")
        assert (roles.role_of(name), named[name]) == (roles.role_of(first), named[first])
    lines = [f"{name:<28} {role:<12} {' x '.join(map(str, named[name]))}" for name, role in roles.table(named)
             if name not in repeated]
    text = "\n".join([f"{body}: blocks h_1 to h_{BODIES[body].layers - 1} are as h_0", *lines]) + "\n"
    assert (GOLDEN / f"{body}.txt").read_text() == text


def test_a_parameter_without_a_role_is_an_error():
    with pytest.raises(ValueError, match="body/h_0/lora/kernel"):
        roles.role_of("body/h_0/lora/kernel")


@pytest.mark.parametrize("text, inside, outside", [
    ("fpt", ["input/kernel", "body/wpe", "body/ln_f/scale", "body/h_3/ln_1/bias"], ["body/h_0/attn/c_attn/kernel"]),
    ("output", ["output/bias"], ["input/kernel", "body/wpe"]),
    ("all", ["input/kernel", "body/h_5/mlp/c_fc/bias"], ["token/embedding"]),
    ("none", [], ["output/kernel"]),
    ("body", ["body/wpe", "body/h_1/mlp/c_proj/kernel"], ["input/kernel", "output/kernel"]),
    ("output+attention@1-2", ["body/h_1/attn/c_proj/bias", "body/h_2/attn/c_attn/kernel"], ["body/h_3/attn/c_attn/kernel"]),
    ("norm@3", ["body/h_3/ln_2/scale"], ["body/h_2/ln_2/scale", "body/h_4/ln_2/scale", "body/ln_f/scale"]),
])
def test_a_set_holds_what_it_says(text, inside, outside):
    found = roles.parse(text)
    assert all(name in found for name in inside) and not any(name in found for name in outside)


@pytest.mark.parametrize("text, said", [
    ("atention", "did you mean 'attention'"), ("fpt+nrm", "'norm'"), ("attention@", "attention@3"),
    ("attention@x", "attention@3"), ("norm@5-2", "lower one first"), ("body@0-1", "goes with a role"),
])
def test_a_set_that_cannot_be_read_says_why(text, said):
    with pytest.raises(UserError, match=said):
        roles.parse(text)


@pytest.mark.parametrize("text", ["attention@6-9", "attention@4-6", "output+norm@6"])
def test_a_range_beyond_the_layers_is_an_error(text):
    with pytest.raises(UserError, match="beyond the body's layers, 0 to 5"):
        roles.split(shapes("gpt2-mini"), roles.parse(text))


def test_a_role_that_no_parameter_has_is_an_error():
    with pytest.raises(UserError, match="no parameter here has the role token"):
        roles.split(shapes("gpt2-mini"), roles.parse("norm+token"))


def test_a_role_outside_the_layers_has_no_range():
    with pytest.raises(UserError, match="no parameter here has the role position in a layer"):
        roles.split(shapes("gpt2-mini"), roles.parse("position@0-2"))


# Papers.md 1.9, for gpt2: width or vocabulary, outputs, tokens -> no positions, with the used rows, with all rows.
TABLE = {
    "bit memory": (dict(width=50, per_query=50, classes=2), 120, 154_468, 246_628, 940_900),
    "bit XOR": (dict(width=1, per_query=1, classes=2), 10, 41_474, 49_154, 827_906),
    "ListOps": (dict(width=None, vocabulary=15, classes=10), 512, 57_610, 450_826, 844_042),
    "MNIST": (dict(width=16, classes=10), 49, 59_146, 96_778, 845_578),
    "CIFAR-10": (dict(width=48, classes=10), 64, 83_722, 132_874, 870_154),
    "CIFAR-10 LRA": (dict(width=1, classes=10), 1024, 47_626, 834_058, 834_058),
    "homology": (dict(width=None, vocabulary=30, classes=1200), 1024, 984_240, 1_770_672, 1_770_672),
}


@pytest.mark.parametrize("name", TABLE)
def test_counts_are_those_of_the_released_code(name):
    sizes, tokens, bare, effective, enabled = TABLE[name]
    found = counts.count(shapes("gpt2", tokens, **sizes), roles.parse("fpt"), BODIES["gpt2"], tokens)
    without = counts.count(shapes("gpt2", tokens, **sizes), roles.parse("input+output+norm"), BODIES["gpt2"], tokens)
    assert (without["trainable"], found["effective"], found["trainable"]) == (bare, effective, enabled)
    assert found["percent"] == pytest.approx(100 * enabled / found["total"])


@pytest.mark.parametrize("body, count", [
    ("gpt2", 106_752), ("gpt2-medium", 191_488), ("gpt2-large", 300_800), ("gpt2-xl", 452_800),
])
def test_the_papers_own_counting(body, count):
    assert counts.count(shapes(body, 64, width=16, classes=10), roles.parse("fpt"), BODIES[body], 64)["paper"] == count


@pytest.mark.parametrize("body, effective", [("gpt2-medium", 226_314), ("gpt2-large", 344_330), ("gpt2-xl", 507_210)])
def test_larger_bodies_by_positions_in_use(body, effective):
    found = counts.count(shapes(body, 64, width=48, classes=10), roles.parse("fpt"), BODIES[body], 64)
    assert found["effective"] == effective


@pytest.mark.parametrize("width, total", [(16, 124_460_554), (48, 124_485_130)])
def test_totals_hold_the_vocabulary_table(width, total):
    assert counts.count(shapes("gpt2", 64, width=width, classes=10), roles.parse("fpt"), BODIES["gpt2"], 64)["total"] == total


def test_a_language_models_table_counts_once():
    task = Copying(vocabulary=11, context=8)
    geometry = GPT2(layers=1, width=4, heads=2, positions=16, vocabulary=11)
    named = shapes_of(build(task, geometry), task)
    found = counts.count(named, roles.parse("body+token"), geometry, 16)
    assert found["total"] == found["trainable"] == sum(map(math.prod, named.values()))
