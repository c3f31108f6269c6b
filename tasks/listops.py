"""Defines ListOps, the evaluation of nested expressions, in two versions.

`listops` keeps the brackets, cuts nothing and reads the last real token.  `listops-original` is
what the released code of Lu et al. 2021 consumed: closing brackets lost, cut at 512 symbols, read
at position 511 whatever symbol is there; only the order of the vocabulary, which depended on
Python's hash seed, is fixed here.
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
from fpt.task import UNSCORED, WITHOUT_DROPOUT, Batch, Interface, Preset, Split, Task
from tasks import predictors
from tasks.expressions import CLOSE, FIRST, OPERATORS, WORDS, draw_distinct, read_file, write
from tasks.law import Law

VERSION = 1  # of the generator: part of the cache's name
SOURCES = ("generated", "lra")
PUBLISHED = Law(shortest=501, longest=1_999, depth=10, arguments=10)
# Split -> the Long Range Arena's file of it, and how many expressions that holds.
FILES = {"train": ("basic_train.tsv", 96_000), "validation": ("basic_val.tsv", 2_000),
         "test": ("basic_test.tsv", 2_000)}
LONGEST = 10_000  # tokens that may be asked for: each example is stored as so many bytes
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]  # of each split: symbols [N, T] and values [N]


@dataclass(frozen=True)
class _Expressions(Task):
    """Loads or draws expressions, and computes what trivial predictors reach on them, for the task
    as it was meant (`ListOps`) and as it was released (`ListOpsOriginal`)."""

    draws_stored: ClassVar[bool] = True

    held_out: int = 2_000
    """Sets the number of expressions of validation, and of test."""
    data_seed: int = 0
    """Sets the seed of the generator."""
    source: str = "generated"
    """Chooses the expressions: generated, or lra for the published files in the data folder's
    listops/."""

    def __post_init__(self):
        if self.source not in SOURCES:
            raise nearest(self.source, SOURCES, "source")
        if min(self.train_examples, self.held_out) < 1:
            raise UserError(f"{self.name}: --train-examples and --held-out must be at least 1")

    def load(self, folder=None, report=print) -> dict[str, Split]:
        lra = self.source == "lra"
        found = self._published(folder, report) if lra else self._generated(report)
        return {name: self._split(symbols, values) for name, (symbols, values) in found.items()}

    def _generated(self, report: Callable[[str], None]) -> Arrays:
        """Draws the expressions of all splits, or reads them from the cache."""
        law, wanted, told = self.law, self.train_examples + 2 * self.held_out, 0

        def tell(count: int) -> None:
            nonlocal told
            if count * 5 // wanted > told:
                told = count * 5 // wanted
                report(f"{self.name}: {count:,} of {wanted:,} expressions")

        def make() -> dict[str, np.ndarray]:
            report(f"{self.name}: drawing {wanted:,} expressions of {law.shortest} to "
                   f"{law.longest} tokens, once")
            return _arrays(draw_distinct(law, self.data_seed, wanted, tell), law.longest)

        settings = (law.shortest, law.longest, law.depth, law.arguments, self.train_examples,
                    self.held_out, self.data_seed)
        kept = cached(f"listops/v{VERSION}-{'-'.join(map(str, settings))}", make, report)
        cuts = {"validation": slice(0, self.held_out),
                "test": slice(self.held_out, 2 * self.held_out),
                "train": slice(2 * self.held_out, None)}
        return {split: (kept["symbols"][cut], kept["values"][cut]) for split, cut in cuts.items()}

    def _published(self, folder: Path | None, report: Callable[[str], None]) -> Arrays:
        """Reads the Long Range Arena's files, without what is too long for the task."""
        if folder is None:
            raise UserError("--source lra reads listops/basic_{train,val,test}.tsv from the data "
                            "folder; name it with --data-dir")
        found = {}
        for name, (base, lines) in FILES.items():
            file = folder / "listops" / base
            if not file.is_file():
                raise UserError(f"no {file}; the Long Range Arena's release has it, or use "
                                "--source generated")

            def make(file=file, lines=lines) -> dict[str, np.ndarray]:
                report(f"{self.name}: reading {file}, once")
                return _arrays(read_file(file, PUBLISHED.longest, lines), PUBLISHED.longest)

            kept = cached(f"listops/v{VERSION}-lra-{sha256(file)[:16]}", make, report)
            fits = (kept["symbols"] != 0).sum(axis=1) <= self.longest_published
            if not fits.all():
                report(f"{self.name}: {1 - fits.mean():.1%} of {base} are longer than "
                       f"{self.longest_published} tokens and dropped")
            if not fits.any():
                raise UserError(f"no expression of {file} fits {self.longest_published} tokens")
            found[name] = kept["symbols"][fits], kept["values"][fits]
        return found

    def draw(self, train, key, step, batch) -> Batch:
        from fpt.randomness import shuffled

        chosen = shuffled(key, step, batch, len(train.targets))
        return Batch(train.inputs[chosen], train.targets[chosen])

    def encode(self, inputs):
        import jax.numpy as jnp

        return inputs.astype(jnp.int32)

    def symbols(self, inputs):
        import jax.numpy as jnp

        # The symbol 0 fills up, in both tasks.
        return jnp.where(inputs == 0, UNSCORED, inputs.astype(jnp.int32))[:, :, None]

    def slices(self, inputs) -> dict[str, np.ndarray]:
        root = np.asarray(inputs)[:, :1]
        return {name: root == FIRST + number for number, name in enumerate(OPERATORS)}

    def floors(self, data, examples) -> dict[str, float]:
        train, targets = data["train"], examples.targets[:, 0]
        seen, asked = map(predictors.summarise, (train.inputs, examples.inputs))
        names = ["majority", "root operator", "root operator, leading digits"]
        names += ["root operator, direct digits"] if CLOSE in train.inputs else []
        answers = {name: predictors.predict(seen[name], train.targets[:, 0], asked[name])
                   for name in names}
        return {name: float(np.mean(found == targets)) for name, found in answers.items()}

    def answer_tokens(self, inputs) -> dict[str, np.ndarray]:
        """Marks the root's operator."""
        symbols = np.asarray(inputs)
        root = predictors.opens(symbols) & (np.arange(symbols.shape[1]) == 0)
        return {"root operator": root[:, None]}

    def token_labels(self, example) -> list[str]:
        return [WORDS[symbol] or "pad" for symbol in example]


@dataclass(frozen=True)
class ListOps(_Expressions):
    """Shows nested MIN, MAX, MED and SM of digits and asks for the value, 0 to 9."""

    name: ClassVar[str] = "listops"
    presets: ClassVar[Mapping[str, Preset]] = {
        "laptop": Preset(body="gpt2-mini", batch=32, steps=1_500, lr=3e-3, eval_every=250,
                         sizes={"shortest": 8, "longest": 24, "arguments": 3},
                         settings=WITHOUT_DROPOUT),
        "paper": Preset(body="gpt2", batch=4, steps=1_000_000, lr=1e-3, eval_every=1_000,
                        sizes={"shortest": 501, "longest": 1_024}),
    }
    levels: ClassVar[int] = 16

    shortest: int = 16
    """Sets the least number of tokens of an expression."""
    longest: int = 128
    """Sets the greatest number of tokens of an expression; longer ones are left out, never cut."""
    depth: int = 10
    """Sets the greatest depth of an expression, whose digits count as a level: at depth d, at most
    d - 1 operators lie inside one another."""
    arguments: int = 10
    """Sets the greatest number of arguments of an operator."""
    train_examples: int = 96_000
    """Sets the number of training expressions."""

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.shortest <= self.longest:
            raise UserError(f"listops: --shortest {self.shortest} must be between 1 and --longest "
                            f"{self.longest}")
        if max(self.longest, self.arguments) > LONGEST:
            raise UserError(f"listops: --longest and --arguments must be at most {LONGEST:,}")
        if self.depth < 2 or self.arguments < 2:
            raise UserError("listops: --depth and --arguments must be at least 2")
        if self.source == "generated":
            self.law.check_possible()

    @property
    def interface(self) -> Interface:
        return Interface(tokens=self.longest, vocabulary=self.levels, pad=0, classes=10)

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
        """Returns two masks: of the root's operator, and of its arguments.

        An argument is marked at its digit or, if it is an expression, at its operator and bracket.
        """
        symbols = np.asarray(inputs)
        opens, depth = predictors.opens(symbols), predictors.depth(symbols)
        single = predictors.digits(symbols) | (symbols == CLOSE)
        direct = single & (depth == 1) | opens & (depth == 2)
        return super().answer_tokens(inputs) | {"direct arguments": direct[:, None]}

    def show(self, example, target) -> str:
        symbols = [int(symbol) for symbol in example if symbol]
        return f"{write(symbols)} = {int(target[0])}   ({len(symbols)} tokens)"


@dataclass(frozen=True)
class ListOpsOriginal(_Expressions):
    """Shows expressions as the original code fed them: no closing brackets, cut at 512 symbols.

    The answer is read at position 511, and the task cannot be solved, by construction:
    `[MAX 1 [MIN 2 3 ] 4 ]` is 4 and `[MAX 1 [MIN 2 3 4 ] ]` is 2; both arrive as MAX 1 MIN 2 3 4.
    """

    name: ClassVar[str] = "listops-original"
    presets: ClassVar[Mapping[str, Preset]] = {
        "laptop": Preset(body="gpt2-mini", batch=4, steps=300, lr=2e-3, eval_every=300,
                         eval_examples=250),
        "paper": Preset(body="gpt2", batch=4, steps=1_000_000, lr=1e-3, eval_every=1_000,
                        sizes={"train_examples": 96_000}),
    }
    levels: ClassVar[int] = 15
    interface: ClassVar[Interface] = Interface(tokens=512, vocabulary=levels, classes=10)

    train_examples: int = 20_000
    """Sets the number of training expressions; the published files have 96,000."""

    law: ClassVar[Law] = PUBLISHED
    longest_published: ClassVar[int] = PUBLISHED.longest

    def _split(self, symbols: np.ndarray, values: np.ndarray) -> Split:
        tokens = self.interface.tokens
        cut = [row[(row != CLOSE) & (row != 0)][:tokens] for row in symbols]
        return Split(_padded(cut, tokens), values[:, None].astype(np.int32))

    def token_labels(self, example) -> list[str]:
        return [label.removeprefix("[") for label in super().token_labels(example)]

    def show(self, example, target) -> str:
        symbols = [int(symbol) for symbol in example if symbol]
        text, tokens = write(symbols).replace("[", ""), self.interface.tokens
        return f"{text} ... = {int(target[0])}   ({len(symbols)} of {tokens} tokens)"


def _arrays(drawn: list[tuple[bytes, int]], longest: int) -> dict[str, np.ndarray]:
    """Packs expressions and their values as `symbols` [N, longest] and `values` [N], both uint8."""
    symbols = _padded([np.frombuffer(symbols, np.uint8) for symbols, _ in drawn], longest)
    return {"symbols": symbols, "values": np.array([value for _, value in drawn], np.uint8)}


def _padded(expressions: list[np.ndarray], longest: int) -> np.ndarray:
    """Fills expressions up on the right with 0, uint8 [N, longest]; none may be longer."""
    rows = np.zeros((len(expressions), longest), np.uint8)
    for row, symbols in zip(rows, expressions):
        row[: len(symbols)] = symbols
    return rows
