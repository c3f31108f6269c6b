"""ListOps: the vectors and properties of its definition, the cache, the published files, the floors."""

import os
import random
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpt.errors import UserError
from tasks import listops, predictors
from tasks.expressions import (
    CLOSE,
    FIRST,
    OPERATORS,
    WORDS,
    ZERO,
    Law,
    draw,
    draw_block,
    draw_distinct,
    evaluate,
    read,
    write,
)
from tasks.listops import ListOps, ListOpsOriginal

VECTORS = {
    "7": 7, "[MIN 4 7 2 9 ]": 2, "[MAX 4 7 2 9 ]": 9, "[MED 1 2 3 ]": 2, "[MED 7 7 7 2 ]": 7, "[MED 9 1 5 3 ]": 4,
    "[MED 1 2 ]": 1, "[MED 3 4 ]": 3, "[MED 0 1 ]": 0, "[MED 0 9 ]": 4, "[MED 8 9 ]": 8, "[MED 3 3 8 8 ]": 5, "[MED 5 5 ]": 5,
    "[SM 5 5 ]": 0, "[SM 9 9 9 ]": 7, "[SM 0 0 ]": 0, "[SM 1 2 3 4 5 6 7 8 9 0 ]": 5, "[MAX 2 9 [MIN 4 7 ] 0 ]": 9,
    "[SM 4 [MED 6 1 8 3 ] [MAX 2 5 ] ]": 3, "[MED [SM 9 4 ] [MIN 8 6 7 ] 5 2 ]": 4,
    "[MAX [MED [SM 7 8 9 ] [MIN 3 1 ] ] 2 ]": 2, "[MIN [MAX 1 [SM 9 9 ] ] [MED 9 8 7 6 ] [SM 5 6 ] ]": 1,
    "[SM [SM 6 7 ] [SM 8 9 ] [SM 1 1 ] ]": 2, "[MED 4 9 [MAX 0 3 ] 7 [SM 8 8 ] ]": 6,
    "[MAX 1 [MIN 2 3 ] 4 ]": 4, "[MAX 1 [MIN 2 3 4 ] ]": 2,
}
LRA = Law(501, 1_999, 10, 10)
SMALL = Law(4, 60, 6, 5)


def publish(symbols: list[int]) -> str:
    """The text as the published files have it: a left-nested binary tree, each application in parentheses."""
    stack: list[list[str]] = [[]]
    for symbol in symbols:
        word = WORDS[symbol]
        if symbol >= FIRST and symbol != CLOSE:
            stack.append([word])
            continue
        text = f"( {stack.pop()[0]} ] )" if symbol == CLOSE else word
        top = stack[-1]
        if len(stack) == 1:
            top.append(text)
        else:
            top[0] = f"( {top[0]} {text} )"
    return stack[0][0]


def strip(symbols: list[int]) -> list[int]:
    """The symbols that survive the original's tokeniser: all but the closing brackets."""
    return [symbol for symbol in symbols if symbol != CLOSE]


@pytest.mark.parametrize(("text", "value"), VECTORS.items())
def test_value(text, value):
    assert evaluate(read(text)) == value
    assert write(read(text)) == text


def test_published_form():
    symbols = read("[MAX 2 9 [MIN 4 7 ] 0 ]")
    text = "( ( ( ( ( [MAX 2 ) 9 ) ( ( ( [MIN 4 ) 7 ) ] ) ) 0 ) ] )"
    assert publish(symbols) == text
    assert read(text) == symbols
    assert len(symbols) == 9 and len(strip(symbols)) == 7


def test_without_brackets_two_values_look_the_same():
    one, other = read("[MAX 1 [MIN 2 3 ] 4 ]"), read("[MAX 1 [MIN 2 3 4 ] ]")
    assert strip(one) == strip(other) and evaluate(one) != evaluate(other)


@pytest.mark.parametrize("text", ["", "[MAX 1 2", "1 2", "[MAX ]", "]", "[MAX 1 ] ]", "[FIRST 1 2 ]", "12"])
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(ValueError):
        evaluate(read(text))


def _measure(symbols):
    """Greatest nesting of operators, and the number of arguments of each."""
    nesting, deepest, arguments, finished = [], 0, [], []
    for symbol in symbols:
        if symbol == CLOSE:
            finished.append(nesting.pop())
            continue
        if nesting:
            nesting[-1] += 1
        if symbol >= FIRST:
            nesting.append(0)
            deepest = max(deepest, len(nesting))
    return deepest, arguments + finished


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_drawn_expressions_keep_the_law(seed):
    symbols, value = draw(random.Random(seed), SMALL)
    operators = sum(FIRST <= symbol < CLOSE for symbol in symbols)
    digits = sum(ZERO <= symbol < FIRST for symbol in symbols)
    deepest, arguments = _measure(symbols)
    assert SMALL.shortest <= len(symbols) <= SMALL.longest
    assert len(symbols) == digits + 2 * operators and len(strip(symbols)) == digits + operators
    assert deepest <= SMALL.depth - 1 and all(2 <= count <= SMALL.arguments for count in arguments)
    assert 0 <= value <= 9 and value == evaluate(symbols)


def test_lengths_reach_both_ends_of_what_is_asked_for_and_go_no_further():
    generator = random.Random(0)
    drawn = {len(draw(generator, Law(5, 9, 6, 5))[0]) for _ in range(2_000)}
    assert (min(drawn), max(drawn)) == (5, 9)


def test_a_bare_digit_is_an_expression_where_lengths_allow_it():
    drawn = [draw(random.Random(seed), Law(1, 60, 6, 5))[0] for seed in range(200)]
    assert 0.6 < np.mean([len(symbols) == 1 for symbols in drawn]) < 0.9  # three quarters


@pytest.mark.slow
def test_published_statistics():
    """Over 20,000 expressions: majority, root floor and shares of operators of the published distribution."""
    drawn = draw_distinct(LRA, 5, 20_000, lambda count: None)
    values = np.array([value for _, value in drawn])
    roots = np.array([symbols[0] - FIRST for symbols, _ in drawn])
    lengths = np.array([len(symbols) for symbols, _ in drawn])
    assert 100 * np.mean(values == 0) == pytest.approx(17.4, abs=0.8)
    right = [(values[roots == root] == np.bincount(values[roots == root]).argmax()).sum() for root in range(4)]
    assert 100 * sum(right) / len(values) == pytest.approx(36.5, abs=1)
    assert 100 * np.bincount(roots, minlength=4) / len(roots) == pytest.approx(25, abs=1)
    assert np.median(lengths) == pytest.approx(959, rel=0.03) and lengths.mean() == pytest.approx(1_036, rel=0.02)


def test_blocks_depend_on_seed_and_number():
    assert draw_block(SMALL, 1, 0) == draw_block(SMALL, 1, 0)
    assert draw_block(SMALL, 1, 0) != draw_block(SMALL, 1, 1) != draw_block(SMALL, 2, 1)


def _digest_of_draw(cores: int, hash_seed: str) -> str:
    code = ("import os, hashlib; os.cpu_count = lambda: %d\n"
            "from tasks.expressions import *\n"
            "if __name__ == '__main__':\n"
            "    print(hashlib.sha256(repr(draw_distinct(Law(4, 40, 6, 5), 3, 1200, lambda n: None)).encode()).hexdigest())")
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", code % cores]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_neither_cores_nor_hash_seed_change_what_is_drawn():
    assert _digest_of_draw(1, "1") == _digest_of_draw(3, "2") != ""


def test_a_law_with_too_few_expressions_is_refused():
    with pytest.raises(UserError, match="hardly more than"):
        draw_distinct(Law(1, 3, 2, 2), 0, 500, lambda count: None)


@pytest.fixture(scope="module")
def small():
    return ListOps(shortest=4, longest=40, train_examples=3_000, held_out=400)


@pytest.fixture(scope="module")
def data(small):
    return small.load(None, lambda line: None)


def test_splits_are_whole_distinct_and_padded_on_the_right(small, data):
    assert {name: len(split.inputs) for name, split in data.items()} == {"train": 3_000, "validation": 400, "test": 400}
    rows = np.concatenate([split.inputs for split in data.values()])
    values = np.concatenate([split.targets for split in data.values()])
    assert rows.shape == (3_800, 40) and len({row.tobytes() for row in rows}) == 3_800
    for row, value in zip(rows[:300], values):
        length = int((row != 0).sum())
        assert (row[:length] != 0).all() and evaluate(row[:length].tolist()) == value[0]


def test_the_cache_is_read_and_a_damaged_one_is_made_again(small, data, cache):
    said = []
    again = small.load(None, said.append)
    assert not said and (again["train"].inputs == data["train"].inputs).all()
    file = next((cache / "listops").glob("*-4-40-*.safetensors"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    again = small.load(None, said.append)
    assert "damaged" in said[0] and (again["train"].inputs == data["train"].inputs).all()
    assert file.read_bytes() == whole


def test_the_caches_name_holds_the_settings(small, cache):
    other = ListOps(shortest=4, longest=40, train_examples=500, held_out=400, data_seed=1)
    assert len(other.load(None, lambda line: None)["train"].inputs) == 500
    assert len(list((cache / "listops").glob("*-4-40-*.safetensors"))) == 2


def test_the_last_real_token_is_read(small, data):
    """What stands behind an expression, and how far it is filled up, changes nothing of its answer."""
    from fpt.config import Config
    from fpt.gpt2 import GPT2
    from fpt.model import apply
    from fpt.parameters import Source, model_of

    geometry = GPT2(layers=2, width=32, heads=4, positions=64, vocabulary=11)
    inputs = data["test"].inputs[:20]
    short = inputs[(inputs != 0).sum(axis=1) < 30]
    assert len(short) > 2
    config = Config.preset(small, load="none", geometry=geometry)
    source, model = Source(config, None), model_of(config)
    parameters = source.values(config, [*source.table])
    logits, _ = apply(model, parameters, small.encode(short))
    cut, _ = apply(model, parameters, small.encode(short[:, :30]))
    assert np.abs(np.asarray(logits) - np.asarray(cut)).max() < 1e-5
    alone, _ = apply(model, parameters, small.encode(short[:1, : int((short[0] != 0).sum())]))
    assert np.abs(np.asarray(logits[:1]) - np.asarray(alone)).max() < 1e-5


def test_an_epoch_is_every_expression_once(small, data):
    train = jax.tree.map(np.asarray, data["train"])
    from fpt.task import Split

    draws = jax.jit(lambda step: small.draw(Split(*map(jax.numpy.asarray, train)), jax.random.key(0), step, 100))
    seen = np.concatenate([np.asarray(draws(step).inputs) for step in range(30)])
    assert len({row.tobytes() for row in seen}) == 3_000
    assert (np.asarray(draws(30).inputs) != np.asarray(draws(0).inputs)).any()


def test_floors_rise_with_what_they_see(small, data):
    floors = small.floors(data, data["test"])
    values, roots = data["test"].targets[:, 0], data["test"].inputs[:, 0]
    train_values, train_roots = data["train"].targets[:, 0], data["train"].inputs[:, 0]
    by_root = {root: np.bincount(train_values[train_roots == root]).argmax() for root in np.unique(train_roots)}
    assert floors["majority"] == np.mean(values == np.bincount(train_values).argmax())
    assert floors["root operator"] == np.mean(values == np.vectorize(by_root.get)(roots))
    assert floors["majority"] < floors["root operator"] < floors["root operator, direct digits"] < 1
    assert floors["root operator"] < floors["root operator, leading digits"]


def _use(root, digits):
    """What a root operator can make of some of its arguments, as long as the others are not known."""
    if not digits:
        return None
    ranked = sorted(digits)
    middle = ranked[(len(ranked) - 1) // 2], ranked[len(ranked) // 2]
    return (ranked[0], ranked[-1], middle, sum(ranked) % 10)[root]


def test_floors_tell_apart_what_the_root_operator_can_use_and_nothing_else():
    """Direct digits are those of the root's own, leading ones those before its first operator."""
    noise = random.Random(0)
    views = {"leading": [], "direct": []}
    texts = []
    for _ in range(3_000):
        root, first, last = noise.randrange(4), noise.choices(range(10), k=noise.randint(0, 4)), noise.choices(range(10), k=2)
        inner = noise.sample(["[MAX 1 2 ]", "[SM 3 [MIN 4 5 ] ]"], noise.randint(0, 2))
        texts.append(" ".join([f"[{OPERATORS[root]}", *map(str, first), *inner, *map(str, last), "]"]))
        views["leading"].append((root, _use(root, first if inner else first + last)))
        views["direct"].append((root, _use(root, first + last), len(inner)))
    symbols = [read(text) for text in texts]
    rows = np.array([row + [0] * (40 - len(row)) for row in symbols], np.uint8)
    found = predictors.summarise(rows)
    for name, view in views.items():
        pairs = set(zip(view, found[f"root operator, {name} digits"].tolist()))
        assert len(pairs) == len({one for one, _ in pairs}) == len({number for _, number in pairs}), name


def test_slices_are_the_roots(small, data):
    parts = small.slices(data["test"].inputs)
    assert list(parts) == list(OPERATORS) and sum(part.sum() for part in parts.values()) == 400


def _publish(folder, expressions_by_file):
    (folder / "listops").mkdir()
    for name, rows in expressions_by_file.items():
        lines = ["Source\tTarget", *(f"{text}\t{value}" for text, value in rows)]
        (folder / "listops" / f"basic_{name}.tsv").write_text("\n".join(lines) + "\n")


def _expect(monkeypatch, lines):
    """Makes the files that are expected as short as the test's."""
    monkeypatch.setattr(listops, "FILES", {name: (file, lines) for name, (file, _) in listops.FILES.items()})


@pytest.fixture
def published(tmp_path, monkeypatch):
    _expect(monkeypatch, 30)
    generator = random.Random(0)
    rows = [draw(generator, Law(4, 60, 6, 5)) for _ in range(90)]
    texts = [(publish(symbols), value) for symbols, value in rows]
    _publish(tmp_path, {"train": texts[:30], "val": texts[30:60], "test": texts[60:]})
    return tmp_path, rows


def test_published_files_are_read_and_what_is_dropped_is_said(published):
    folder, rows = published
    said = []
    found = ListOps(longest=40, shortest=4, source="lra").load(folder, said.append)
    kept = [(symbols, value) for symbols, value in rows[:30] if len(symbols) <= 40]
    assert 0 < len(kept) < 30
    assert f"listops: {(30 - len(kept)) / 30:.1%} of basic_train.tsv are longer than 40 tokens and dropped" in said
    assert [[s for s in row if s] for row in found["train"].inputs.tolist()] == [symbols for symbols, _ in kept]
    assert found["train"].targets[:, 0].tolist() == [value for _, value in kept]


def test_published_files_are_read_once(published, cache):
    folder, _ = published
    for file in (cache / "listops").glob("*-lra-*"):
        file.unlink()
    said = []
    first, second = (ListOps(longest=40, shortest=4, source="lra").load(folder, said.append) for _ in range(2))
    assert all(np.array_equal(first[name].inputs, second[name].inputs) for name in first)
    assert sum("once" in line for line in said) == 3


def test_a_published_file_cut_at_the_end_of_a_line_is_refused(published):
    folder, _ = published
    file = folder / "listops" / "basic_val.tsv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="basic_val.tsv holds 29 expressions where 30 are published"):
        ListOps(longest=40, shortest=4, source="lra").load(folder, lambda line: None)


@pytest.mark.parametrize(("line", "said"), [
    ("[MAX 1 2 ]\t1", "line 2: the value is not 1"), ("[MAX 1 2\t2", "line 2: .*brackets|line 2: not one expression"),
    ("[TOP 1 2 ]\t2", r"line 2: unknown symbol '\[TOP'"), ("[MAX 1 2 ]", "line 2"), ("[MAX 1 2 ]\tx", "line 2"),
])
def test_a_damaged_published_file_names_its_line(tmp_path, line, said):
    _publish(tmp_path, {"train": [], "val": [], "test": []})
    (tmp_path / "listops" / "basic_train.tsv").write_text(f"Source\tTarget\n{line}\n")
    with pytest.raises(UserError, match=said):
        ListOps(source="lra").load(tmp_path)


def test_missing_published_files_are_named(tmp_path):
    with pytest.raises(UserError, match="basic_train.tsv"):
        ListOps(source="lra").load(tmp_path)
    with pytest.raises(UserError, match="--data-dir"):
        ListOps(source="lra").load(None)


def test_the_original_loses_closing_brackets_and_the_tail(tmp_path, monkeypatch):
    _expect(monkeypatch, 7)
    generator = random.Random(1)
    rows = [draw(generator, Law(501, 1_500, 10, 10)) for _ in range(6)]
    short = (read("[MAX 1 [MIN 2 3 ] 4 ]"), 4)
    texts = [(publish(symbols), value) for symbols, value in [*rows, short]]
    _publish(tmp_path, dict.fromkeys(("train", "val", "test"), texts))
    task = ListOpsOriginal(source="lra")
    inputs, targets = task.load(tmp_path)["train"]
    for (symbols, value), row, target in zip(rows, inputs, targets):
        cut = strip(symbols)[:512]
        assert row[: len(cut)].tolist() == cut and not row[len(cut):].any() and target[0] == value
    assert inputs[-1, :8].tolist() == [*strip(short[0]), 0, 0]
    asked = task.interface
    assert asked.vocabulary == 15 and inputs.max() < 15
    assert asked.pad is None  # position 511 is read, whatever is there
    assert asked.tokens == 512 and asked.queries == 1


@pytest.mark.parametrize("sizes", [
    {"shortest": 50, "longest": 40}, {"depth": 1}, {"arguments": 1}, {"train_examples": 0}, {"held_out": 0}, {"source": "lar"},
    {"shortest": 2, "longest": 3},
])
def test_impossible_settings_are_refused(sizes):
    with pytest.raises(UserError):
        ListOps(**sizes)


def test_a_person_can_read_an_example(small, data):
    text = small.show(data["test"].inputs[0], data["test"].targets[0])
    expression, _, value = text.partition(" = ")
    assert evaluate(read(expression)) == int(value.split()[0])
    labels = small.token_labels(data["test"].inputs[0])
    assert len(labels) == 40 and labels[0].startswith("[")
