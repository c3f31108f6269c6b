"""ListOps: evaluate a nested expression; as it should be, and as the original experiments fed it.

`listops` keeps the brackets, cuts nothing and reads the last real token.  `listops-original` is what the released code
of Lu et al. 2021 consumed: closing brackets lost, cut at 512 symbols, read at position 511 whatever is there; only
its vocabulary's order, which hung on Python's hash seed, is fixed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fpt.cache import cached
from fpt.errors import UserError, nearest
from fpt.files import sha256
from fpt.task import UNSCORED, Preset, Split, Task
from tasks.expressions import CLOSE, FIRST, OPERATORS, WORDS, ZERO, draw_distinct, evaluate, read, write
from tasks.law import Law

VERSION = 1  # of the generator: part of the cache's name
SOURCES = ("generated", "lra")
PUBLISHED = Law(shortest=501, longest=1_999, depth=10, arguments=10)
# Split -> the Long Range Arena's file of it, and how many expressions that holds.
FILES = {"train": ("basic_train.tsv", 96_000), "validation": ("basic_val.tsv", 2_000), "test": ("basic_test.tsv", 2_000)}
LONGEST = 10_000  # tokens that may be asked for: each example is stored as so many bytes
AT_ONCE = 4_096  # expressions that are summed up at once, for the sake of memory
MOST_OPERATORS = 4  # operator arguments of the root that the floors tell apart


@dataclass(frozen=True)
class _Expressions(Task):
    """What both tasks share: where expressions come from, their labels, floors and slices."""

    classes: ClassVar[int] = 10

    def __post_init__(self):
        if self.source not in SOURCES:
            raise nearest(self.source, SOURCES, "source")
        if min(self.train_examples, self.held_out) < 1:
            raise UserError(f"{self.name}: --train-examples and --held-out must be at least 1")

    def load(self, folder=None, report=print) -> dict[str, Split]:
        found = self._published(folder, report) if self.source == "lra" else self._generated(report)
        return {name: self._split(symbols, values) for name, (symbols, values) in found.items()}

    def _generated(self, report: Callable[[str], None]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Expressions [N, longest] and values [N] of each split."""
        law, wanted, told = self.law, self.train_examples + 2 * self.held_out, 0

        def tell(count: int) -> None:
            nonlocal told
            if count * 5 // wanted > told:
                told = count * 5 // wanted
                report(f"{self.name}: {count:,} of {wanted:,} expressions")

        def make() -> dict[str, np.ndarray]:
            report(f"{self.name}: drawing {wanted:,} expressions of {law.shortest} to {law.longest} tokens, once")
            return _arrays(draw_distinct(law, self.data_seed, wanted, tell), law.longest)

        settings = (law.shortest, law.longest, law.depth, law.arguments, self.train_examples, self.held_out, self.data_seed)
        kept = cached(f"listops/v{VERSION}-{'-'.join(map(str, settings))}", make, report)
        cuts = {"validation": slice(0, self.held_out), "test": slice(self.held_out, 2 * self.held_out),
                "train": slice(2 * self.held_out, None)}
        return {split: (kept["symbols"][cut], kept["values"][cut]) for split, cut in cuts.items()}

    def _published(self, folder: Path | None, report: Callable[[str], None]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The splits of the Long Range Arena's files, without what is too long for the task."""
        if folder is None:
            raise UserError("--source lra reads listops/basic_{train,val,test}.tsv from the data folder; name it with --data-dir")
        found = {}
        for name, (base, lines) in FILES.items():
            file = folder / "listops" / base
            if not file.is_file():
                raise UserError(f"no {file}; the Long Range Arena's release has it, or use --source generated")

            def make(file=file, lines=lines) -> dict[str, np.ndarray]:
                report(f"{self.name}: reading {file}, once")
                return _arrays(_read_published(file, lines), PUBLISHED.longest)

            kept = cached(f"listops/v{VERSION}-lra-{sha256(file)[:16]}", make, report)
            fits = (kept["symbols"] != 0).sum(axis=1) <= self.longest_published
            if not fits.all():
                report(f"{self.name}: {1 - fits.mean():.1%} of {base} are longer than {self.longest_published} tokens "
                       "and dropped")
            if not fits.any():
                raise UserError(f"no expression of {file} fits {self.longest_published} tokens")
            found[name] = kept["symbols"][fits], kept["values"][fits]
        return found

    def draw(self, train, key, step, batch) -> Split:
        from fpt.randomness import shuffled

        chosen = shuffled(key, step, batch, len(train.targets))
        return Split(train.inputs[chosen], train.targets[chosen])

    def encode(self, inputs):
        import jax.numpy as jnp

        return inputs.astype(jnp.int32)

    @property
    def levels(self) -> int:
        return self.vocabulary

    def symbols(self, inputs):
        import jax.numpy as jnp

        return jnp.where(inputs == 0, UNSCORED, inputs.astype(jnp.int32))[:, :, None]  # 0 fills up, in both tasks

    def slices(self, inputs) -> dict[str, np.ndarray]:
        root = np.asarray(inputs)[:, :1]
        return {name: root == FIRST + number for number, name in enumerate(OPERATORS)}

    def floors(self, data, examples) -> dict[str, float]:
        seen, asked = summarise(data["train"].inputs), summarise(examples.inputs)
        answers, targets = data["train"].targets[:, 0], examples.targets[:, 0]
        names = ["majority", "root operator", "root operator, leading digits"]
        names += ["root operator, direct digits"] if CLOSE in data["train"].inputs else []
        return {name: float(np.mean(_fitted(seen[name], answers, asked[name]) == targets)) for name in names}

    def answer_tokens(self, inputs) -> dict[str, np.ndarray]:
        """The root's operator."""
        symbols = np.asarray(inputs)
        return {"root operator": (_opens(symbols) & (np.arange(symbols.shape[1]) == 0))[:, None]}

    def token_labels(self, example) -> list[str]:
        return [WORDS[symbol] or "pad" for symbol in example]


@dataclass(frozen=True)
class ListOps(_Expressions):
    """Nested MIN, MAX, MED and SM of digits: say the value, 0 to 9."""

    name: ClassVar[str] = "listops"
    presets: ClassVar[Mapping[str, Preset]] = {
        "laptop": Preset(body="gpt2-mini", batch=4, steps=2_000, lr=1e-2, eval_every=500),
        "paper": Preset(body="gpt2", batch=4, steps=1_000_000, lr=1e-3, eval_every=1_000,
                        sizes={"shortest": 501, "longest": 1_024}),
    }
    vocabulary: ClassVar[int] = 16
    pad: ClassVar[int] = 0

    shortest: int = 16
    """Tokens of an expression, at least."""
    longest: int = 128
    """Tokens of an expression, at most; longer ones are never drawn, or dropped whole."""
    depth: int = 10
    """Greatest depth: one more than operators nest."""
    arguments: int = 10
    """Arguments of an operator, at most."""
    train_examples: int = 96_000
    """Training expressions to draw."""
    held_out: int = 2_000
    """Expressions of validation, and of test."""
    data_seed: int = 0
    """Seed of the generator."""
    source: str = "generated"
    """generated, or lra: the published files in the data folder's listops/."""

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.shortest <= self.longest:
            raise UserError(f"listops: --shortest {self.shortest} must be between 1 and --longest {self.longest}")
        if max(self.longest, self.arguments) > LONGEST:
            raise UserError(f"listops: --longest and --arguments must be at most {LONGEST:,}")
        if self.depth < 2 or self.arguments < 2:
            raise UserError("listops: --depth and --arguments must be at least 2")
        if self.source == "generated":
            self.law.check_possible()

    @property
    def tokens(self) -> int:
        return self.longest

    @property
    def law(self) -> Law:
        return Law(self.shortest, self.longest, self.depth, self.arguments)

    @property
    def longest_published(self) -> int:
        return self.longest

    def _split(self, symbols: np.ndarray, values: np.ndarray) -> Split:
        fitted = np.zeros((len(symbols), self.longest), np.uint8)
        columns = min(self.longest, symbols.shape[1])  # what is cut off here is pads
        fitted[:, :columns] = symbols[:, :columns]
        return Split(fitted, values[:, None].astype(np.int32))

    def answer_tokens(self, inputs) -> dict[str, np.ndarray]:
        """The root's operator; and its direct arguments: digits, and the brackets of expressions."""
        symbols = np.asarray(inputs)
        opens, depth = _opens(symbols), _depth(symbols)
        direct = (_digits(symbols) | (symbols == CLOSE)) & (depth == 1) | opens & (depth == 2)
        return super().answer_tokens(inputs) | {"direct arguments": direct[:, None]}

    def show(self, example, target) -> str:
        symbols = [int(symbol) for symbol in example if symbol]
        return f"{write(symbols)} = {int(target[0])}   ({len(symbols)} tokens)"


@dataclass(frozen=True)
class ListOpsOriginal(_Expressions):
    """ListOps as the original code fed it: no closing brackets, cut at 512, read at 511; not solvable, by construction.

    `[MAX 1 [MIN 2 3 ] 4 ]` is 4 and `[MAX 1 [MIN 2 3 4 ] ]` is 2; both arrive as MAX 1 MIN 2 3 4.
    """

    name: ClassVar[str] = "listops-original"
    presets: ClassVar[Mapping[str, Preset]] = {
        "laptop": Preset(body="gpt2-mini", batch=4, steps=200, lr=2e-3, eval_every=100, eval_examples=500),
        "paper": Preset(body="gpt2", batch=4, steps=1_000_000, lr=1e-3, eval_every=1_000, sizes={"train_examples": 96_000}),
    }
    tokens: ClassVar[int] = 512
    vocabulary: ClassVar[int] = 15

    train_examples: int = 20_000
    """Training expressions to draw; the published files have 96,000."""
    held_out: int = 2_000
    """Expressions of validation, and of test."""
    data_seed: int = 0
    """Seed of the generator."""
    source: str = "generated"
    """generated, or lra: the published files in the data folder's listops/."""

    law: ClassVar[Law] = PUBLISHED
    longest_published: ClassVar[int] = PUBLISHED.longest

    def _split(self, symbols: np.ndarray, values: np.ndarray) -> Split:
        cut = [row[(row != CLOSE) & (row != 0)][: self.tokens] for row in symbols]
        return Split(_padded(cut, self.tokens), values[:, None].astype(np.int32))

    def token_labels(self, example) -> list[str]:
        return [label.removeprefix("[") for label in super().token_labels(example)]

    def show(self, example, target) -> str:
        symbols = [int(symbol) for symbol in example if symbol]
        return f"{write(symbols)} ... = {int(target[0])}   ({len(symbols)} of {self.tokens} tokens)".replace("[", "")


def _arrays(drawn: list[tuple[bytes, int]], longest: int) -> dict[str, np.ndarray]:
    """Expressions and their values as `symbols` [N, longest] uint8 and `values` [N] uint8."""
    symbols = _padded([np.frombuffer(symbols, np.uint8) for symbols, _ in drawn], longest)
    return {"symbols": symbols, "values": np.array([value for _, value in drawn], np.uint8)}


def _padded(expressions: list[np.ndarray], longest: int) -> np.ndarray:
    """Symbols of several expressions [N, longest] uint8, filled up on the right with 0.  Nothing is ever cut."""
    rows = np.zeros((len(expressions), longest), np.uint8)
    for row, symbols in zip(rows, expressions):
        row[: len(symbols)] = symbols
    return rows


def _read_published(file: Path, expected: int) -> list[tuple[bytes, int]]:
    """Expressions and their values.  Raises UserError naming the file, and the line where one is wrong."""
    found = []
    try:
        with open(file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                source, _, target = line.rstrip("\n").partition("\t")
                if number == 1 and (source, target) == ("Source", "Target"):
                    continue
                try:
                    symbols = read(source)
                    if evaluate(symbols) != int(target):
                        raise ValueError(f"the value is not {target}")
                    if len(symbols) > PUBLISHED.longest:
                        raise ValueError(f"{len(symbols)} tokens, where none has over {PUBLISHED.longest}")
                except ValueError as error:
                    raise UserError(f"{file}, line {number}: {error}; fetch the file again") from None
                found.append((bytes(symbols), int(target)))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}); fetch it again") from None
    if len(found) != expected:
        raise UserError(f"{file} holds {len(found):,} expressions where {expected:,} are published; fetch it again")
    return found


def summarise(symbols: np.ndarray) -> dict[str, np.ndarray]:
    """What each trivial predictor sees of expressions [N, T], as one number each: name -> int [N].

    Digits are summed up as far as the root operator can use them: the least for MIN, the greatest for MAX, the middle
    pair for MED, the sum modulo 10 for SM; and with direct digits goes the number of arguments that are operators.
    """
    parts = [_summarise(symbols[first : first + AT_ONCE]) for first in range(0, len(symbols), AT_ONCE)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _summarise(symbols: np.ndarray) -> dict[str, np.ndarray]:
    root = np.where(symbols[:, 0] >= FIRST, symbols[:, 0] - FIRST, len(OPERATORS)).astype(int)
    opens, digits, depth = _opens(symbols), _digits(symbols), _depth(symbols)
    direct = digits & (depth == 1)
    leading = digits & (np.cumsum(opens | (symbols == CLOSE), axis=1) == 1)
    operators = np.minimum((opens & (depth == 2)).sum(axis=1), MOST_OPERATORS)
    combined = lambda kept: root * 101 + _use_of(symbols, kept, root)
    return {
        "majority": np.zeros_like(root),
        "root operator": root,
        "root operator, leading digits": combined(leading),
        "root operator, direct digits": combined(direct) * (MOST_OPERATORS + 1) + operators,
    }


def _opens(symbols: np.ndarray) -> np.ndarray:
    """Which symbols are operators, each of which opens a bracket."""
    return (symbols >= FIRST) & (symbols < CLOSE)


def _digits(symbols: np.ndarray) -> np.ndarray:
    return (symbols >= ZERO) & (symbols < FIRST)


def _depth(symbols: np.ndarray) -> np.ndarray:
    """How many brackets are open after each symbol of expressions [N, T]."""
    return np.cumsum(_opens(symbols), axis=1) - np.cumsum(symbols == CLOSE, axis=1)


def _use_of(symbols: np.ndarray, kept: np.ndarray, root: np.ndarray) -> np.ndarray:
    """What the root operator can use of the digits that are `kept`: int [N] in 0..99, 100 where there is none."""
    counts = np.stack([((symbols == ZERO + digit) & kept).sum(axis=1) for digit in range(10)], axis=1)
    number = counts.sum(axis=1)
    ranked = np.cumsum(counts, axis=1)
    at = lambda rank: (ranked <= rank[:, None]).sum(axis=1)  # the digit of that rank, from 0
    lower, upper = at((number - 1) // 2), at(number // 2)
    uses = np.stack([at(0 * number), at(number - 1), lower * 10 + upper, counts @ np.arange(10) % 10, 0 * number])
    return np.where(number > 0, np.take_along_axis(uses, root[None], axis=0)[0], 100)


def _fitted(seen: np.ndarray, answers: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The most frequent answer of each view that was seen, the most frequent of all for one that was not."""
    size = max(seen.max(), asked.max()) + 1
    table = np.zeros((size, 10), int)
    np.add.at(table, (seen, answers), 1)
    known = table.any(axis=1)
    return np.where(known, table.argmax(axis=1), np.bincount(answers, minlength=10).argmax())[asked]
