"""Defines bit memory and bit XOR, whose examples are drawn on the device.

Protocol: Lu et al. 2021, section 2.1, with the details of the released code (`bit_memory.py`,
`bit_xor.py`).  Validation and test are fixed draws from keys of their own; a small bit XOR is
tested on all inputs there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fpt.errors import UserError
from fpt.task import Batch, Interface, Preset, Split, Task

EXAMPLES = 2_000  # in a split that is drawn
LISTED = 16  # a bit XOR of at most this many input bits is tested on all its inputs


@dataclass(frozen=True)
class _Bits(Task):
    """Represents strings of bits in tokens of `patch` bits; each bit of the answer is a label.

    A subclass gives the sizes `strings`, `bits` and `patch`, and `_rows`: how many strings of bits
    an example has in all, any with hidden bits included.
    """

    levels: ClassVar[int] = 3  # -1, 0 and 1

    def __post_init__(self):
        if min(self.strings, self.bits, self.patch) < 1:
            raise UserError(f"{self.name}: --strings, --bits and --patch must be at least 1")
        if self.bits % self.patch:
            raise UserError(f"{self.name}: --patch {self.patch} does not divide --bits {self.bits}")

    @property
    def _queries(self) -> int:
        """Counts the tokens of a string, Q; the answer is read from the last Q of an example."""
        return self.bits // self.patch

    @property
    def interface(self) -> Interface:
        return Interface(tokens=self._rows * self._queries, width=self.patch, classes=2,
                         queries=self._queries, answers_per_query=self.patch)

    def load(self, folder=None, report=print) -> dict[str, Split]:
        import jax

        # Compiled as one: a compilation of each operation would take longer.
        @jax.jit
        def drawn():
            return [self._sample(jax.random.key(number), EXAMPLES) for number in (1, 2)]

        validation, test = (Split(*map(np.asarray, split)) for split in drawn())
        return {"validation": validation, "test": test}

    def draw(self, train, key, step, batch) -> Batch:
        import jax

        return Batch(*self._sample(jax.random.fold_in(key, step), batch))

    def encode(self, inputs):
        return self._patches(inputs).astype(np.float32)

    def symbols(self, inputs):
        return self._patches(inputs).astype(np.int32) + 1

    def _patches(self, inputs):
        import jax.numpy as jnp

        return jnp.reshape(inputs, (len(inputs), -1, self.patch))

    def _place(self, row: int, query: int) -> str:
        first = query * self.patch
        bits = f"bit {first}" if self.patch == 1 else f"bits {first}-{first + self.patch - 1}"
        return f"{self._row_name(row)}, {bits}"

    def _places(self, rows: np.ndarray) -> np.ndarray:
        """Marks, for each token that the answer is read from, those at its place in some strings.

        rows: bool [N, R], which of the first R strings of an example.  Returns bool [N, Q, T].
        """
        rows = np.pad(rows, ((0, 0), (0, self._rows - rows.shape[1])))
        place = np.eye(self._queries, dtype=bool)
        return (rows[:, None, :, None] & place[:, None]).reshape(len(rows), self._queries, -1)

    def token_labels(self, example) -> list[str]:
        places = range(self._queries)
        return [self._place(row, query) for row in range(len(example)) for query in places]

    def show(self, example, target) -> str:
        rows = {self._row_name(row): self._digits(bits) for row, bits in enumerate(example)}
        rows["answer"] = "".join(str(int(bit)) for bit in target)
        return "\n".join(f"{name:>9}  {digits}" for name, digits in rows.items())


@dataclass(frozen=True)
class BitMemory(_Bits):
    """Shows strings of bits, then one of them with half of its bits hidden, and asks for the
    whole string."""

    name: ClassVar[str] = "bit-memory"
    presets: ClassVar[Mapping[str, Preset]] = {
        "laptop": Preset(body="gpt2-mini", batch=16, steps=3_000, lr=3e-3, eval_every=250,
                         eval_examples=2_000, sizes={"bits": 50}, settings={"dropout": 0.0}),
        "paper": Preset(body="gpt2", batch=4, steps=1_000_000, lr=1e-3, eval_every=1_000),
    }

    strings: int = 5
    """Sets how many strings are to be remembered."""
    bits: int = 1_000
    """Sets the number of bits of a string."""
    patch: int = 50
    """Sets the number of bits of a token."""

    @property
    def _rows(self) -> int:
        return self.strings + 1

    def _sample(self, key, batch: int) -> Split:
        """Draws inputs [batch, strings + 1, bits] and targets [batch, bits].

        Inputs are -1, 1, or 0 where a bit is hidden, with probability 1/2; targets are 0 and 1.
        """
        import jax
        import jax.numpy as jnp

        strings, choice, hidden = jax.random.split(key, 3)
        patterns = jax.random.bernoulli(strings, shape=(batch, self.strings, self.bits))
        chosen = jax.random.randint(choice, (batch, 1, 1), 0, self.strings)
        answer = jnp.take_along_axis(patterns, chosen, axis=1)  # [batch, 1, bits]
        signs = lambda bits: jnp.where(bits, 1, -1).astype(jnp.int8)
        query = jnp.where(jax.random.bernoulli(hidden, shape=answer.shape), 0, signs(answer))
        inputs = jnp.concatenate([signs(patterns), query.astype(jnp.int8)], axis=1)
        return Split(inputs, answer[:, 0].astype(jnp.int32))

    def slices(self, inputs) -> dict[str, np.ndarray]:
        hidden = np.asarray(inputs)[:, -1] == 0
        return {"hidden": hidden, "visible": ~hidden}

    def floors(self, data, examples) -> dict[str, float]:
        inputs, targets = examples
        strings, query = inputs[:, :-1], inputs[:, -1]
        counted = (strings > 0).sum(axis=1) * 2 - self.strings  # above zero: more ones than zeros
        voted = np.where(query != 0, query > 0, counted > 0) == targets
        hidden = query == 0
        ones = targets.mean()
        floors = {
            "majority": float(max(ones, 1 - ones)),
            "copy visible": float(np.where(hidden, targets == (ones > 0.5), True).mean()),
            "copy visible, vote on hidden": float(voted.mean()),
        }
        return floors | ({"hidden/vote": float(voted[hidden].mean())} if hidden.any() else {})

    def answer_tokens(self, inputs) -> dict[str, np.ndarray]:
        """Marks, for each token that the answer is read from, those at its place in other strings.

        The first mask is of the strings that agree with all visible bits of the last one, the
        second of the rest.
        """
        strings, query = np.asarray(inputs)[:, :-1], np.asarray(inputs)[:, -1:]
        matches = ((strings == query) | (query == 0)).all(axis=2)  # [N, strings]
        return {"matching string": self._places(matches), "other strings": self._places(~matches)}

    def _row_name(self, row: int) -> str:
        return "query" if row == self.strings else f"string {row + 1}"

    def _digits(self, bits) -> str:
        return "".join({-1: "0", 0: "·", 1: "1"}[int(bit)] for bit in bits)


@dataclass(frozen=True)
class BitXor(_Bits):
    """Shows strings of bits and asks for their exclusive or at each position."""

    name: ClassVar[str] = "bit-xor"
    presets: ClassVar[Mapping[str, Preset]] = {
        # There are 1,024 inputs in all.
        "laptop": Preset(body="gpt2-mini", batch=4, steps=2_000, lr=3e-3, eval_every=500,
                         eval_examples=1_024),
        "paper": Preset(body="gpt2", batch=4, steps=1_000_000, lr=1e-3, eval_every=1_000),
    }

    strings: int = 2
    """Sets how many strings are combined."""
    bits: int = 5
    """Sets the number of bits of a string."""
    patch: int = 1
    """Sets the number of bits of a token."""

    @property
    def _rows(self) -> int:
        return self.strings

    def _sample(self, key, batch: int) -> Split:
        """Draws inputs [batch, strings, bits] in {0, 1} and targets [batch, bits]."""
        import jax
        import jax.numpy as jnp

        inputs = jax.random.bernoulli(key, shape=(batch, self.strings, self.bits))
        return Split(inputs.astype(jnp.int8), (inputs.sum(axis=1) % 2).astype(jnp.int32))

    def load(self, folder=None, report=print) -> dict[str, Split]:
        data = super().load(folder, report)
        total = self.strings * self.bits
        if total <= LISTED:
            every = np.arange(2**total)[:, None] >> np.arange(total) & 1
            inputs = every.reshape(-1, self.strings, self.bits).astype(np.int8)
            data["test"] = Split(inputs, (inputs.sum(axis=1) % 2).astype(np.int32))
        return data

    def floors(self, data, examples) -> dict[str, float]:
        ones = examples.targets.mean()
        return {"majority": float(max(ones, 1 - ones))}

    def answer_tokens(self, inputs) -> dict[str, np.ndarray]:
        """Marks, for each token that the answer is read from, those at its place in the strings.

        The first mask is of all strings, the second of all but the last, the one that is read.
        """
        earlier = np.arange(self.strings) < self.strings - 1
        earlier = np.broadcast_to(earlier, (len(inputs), self.strings))
        return {"bits of that position": self._places(np.ones_like(earlier)),
                "those of earlier strings": self._places(earlier)}

    def _row_name(self, row: int) -> str:
        return f"string {row + 1}"

    def _digits(self, bits) -> str:
        return "".join(str(int(bit)) for bit in bits)
