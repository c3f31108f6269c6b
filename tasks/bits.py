"""Bit memory and bit XOR, drawn on the device.

Protocol: Lu et al. 2021, section 2.1, with the details of the released code (`bit_memory.py`, `bit_xor.py`).
Validation and test are fixed draws from keys of their own, but for a bit XOR small enough to be listed whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fpt.errors import UserError
from fpt.task import Preset, Split, Task

EXAMPLES = 2_000  # in a split that is drawn
LISTED = 16  # a bit XOR of at most this many input bits is tested on all its inputs


@dataclass(frozen=True)
class _Bits(Task):
    """What both tasks share: `strings` of `bits` each, cut into tokens of `patch` bits, two classes a bit."""

    classes: ClassVar[int] = 2
    levels: ClassVar[int] = 3  # -1, 0 and 1

    def __post_init__(self):
        if min(self.strings, self.bits, self.patch) < 1:
            raise UserError(f"{self.name}: --strings, --bits and --patch must be at least 1")
        if self.bits % self.patch:
            raise UserError(f"{self.name}: --patch {self.patch} does not divide --bits {self.bits}")

    @property
    def width(self) -> int:
        return self.patch

    @property
    def answers_per_query(self) -> int:
        return self.patch

    @property
    def queries(self) -> int:
        return self.bits // self.patch

    def load(self, folder=None, report=print) -> dict[str, Split]:
        return {"validation": self._fixed(1), "test": self._fixed(2)}

    def _fixed(self, number: int) -> Split:
        import jax

        drawn = jax.jit(self._sample, static_argnums=1)(jax.random.key(number), EXAMPLES)
        return Split(*map(np.asarray, drawn))

    def draw(self, train, key, step, batch) -> Split:
        import jax

        return self._sample(jax.random.fold_in(key, step), batch)

    def encode(self, inputs):
        import jax.numpy as jnp

        return jnp.reshape(inputs, (len(inputs), self.tokens, self.patch)).astype(jnp.float32)

    def symbols(self, inputs):
        import jax.numpy as jnp

        return jnp.reshape(inputs, (len(inputs), self.tokens, self.patch)).astype(jnp.int32) + 1

    def _place(self, row: int, query: int) -> str:
        first = query * self.patch
        bits = f"bit {first}" if self.patch == 1 else f"bits {first}-{first + self.patch - 1}"
        return f"{self._row_name(row)}, {bits}"

    def _places(self, rows: np.ndarray) -> np.ndarray:
        """The tokens at the place of each query in some rows of the inputs: bool [N, rows] -> bool [N, Q, T]."""
        rows = np.pad(rows, ((0, 0), (0, self.tokens // self.queries - rows.shape[1])))
        place = np.eye(self.queries, dtype=bool)
        return (rows[:, None, :, None] & place[:, None]).reshape(len(rows), self.queries, self.tokens)

    def token_labels(self, example) -> list[str]:
        return [self._place(row, query) for row in range(len(example)) for query in range(self.queries)]


@dataclass(frozen=True)
class BitMemory(_Bits):
    """Strings of bits, then one of them again with each bit hidden with probability 1/2: recall the whole string."""

    name: ClassVar[str] = "bit-memory"
    presets: ClassVar[Mapping[str, Preset]] = {
        "laptop": Preset(body="gpt2-mini", batch=4, steps=500, lr=1e-3, eval_every=100, eval_examples=500),
        "paper": Preset(body="gpt2", batch=4, steps=1_000_000, lr=1e-3, eval_every=1_000),
    }

    strings: int = 5
    """Strings to remember."""
    bits: int = 1_000
    """Bits of a string."""
    patch: int = 50
    """Bits of a token."""

    @property
    def tokens(self) -> int:
        return (self.strings + 1) * self.queries

    def _sample(self, key, batch: int) -> Split:
        """Inputs [batch, strings + 1, bits] in {-1, 0, 1}, 0 being hidden; targets [batch, bits] in {0, 1}."""
        import jax
        import jax.numpy as jnp

        strings, choice, hidden = jax.random.split(key, 3)
        patterns = jax.random.bernoulli(strings, shape=(batch, self.strings, self.bits))
        chosen = jax.random.randint(choice, (batch, 1, 1), 0, self.strings)
        answer = jnp.take_along_axis(patterns, chosen, axis=1)  # [batch, 1, bits]
        signs = lambda bits: jnp.where(bits, 1, -1).astype(jnp.int8)
        query = jnp.where(jax.random.bernoulli(hidden, shape=answer.shape), 0, signs(answer)).astype(jnp.int8)
        inputs = jnp.concatenate([signs(patterns), query], axis=1)
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
        floors = {
            "majority": float(max(targets.mean(), 1 - targets.mean())),
            "copy visible": float(np.where(hidden, targets == (targets.mean() > 0.5), True).mean()),
            "copy visible, vote on hidden": float(voted.mean()),
        }
        return floors | ({"hidden/vote": float(voted[hidden].mean())} if hidden.any() else {})

    def answer_tokens(self, inputs) -> dict[str, np.ndarray]:
        """The place that is asked for, in the strings that agree with all visible bits, and in the others."""
        strings, query = np.asarray(inputs)[:, :-1], np.asarray(inputs)[:, -1:]
        matches = ((strings == query) | (query == 0)).all(axis=2)  # [N, strings]
        return {"matching string": self._places(matches), "other strings": self._places(~matches)}

    def _row_name(self, row: int) -> str:
        return "query" if row == self.strings else f"string {row + 1}"

    def show(self, example, target) -> str:
        symbol = {-1: "0", 0: "·", 1: "1"}
        rows = [f"{self._row_name(i):>9}  {''.join(symbol[int(b)] for b in row)}" for i, row in enumerate(example)]
        return "\n".join([*rows, f"{'answer':>9}  {''.join(str(int(b)) for b in target)}"])


@dataclass(frozen=True)
class BitXor(_Bits):
    """Strings of bits; the answer at each position is their exclusive or."""

    name: ClassVar[str] = "bit-xor"
    presets: ClassVar[Mapping[str, Preset]] = {
        "laptop": Preset(body="gpt2-mini", batch=4, steps=2_000, lr=2e-3, eval_every=250),
        "paper": Preset(body="gpt2", batch=4, steps=1_000_000, lr=1e-3, eval_every=1_000),
    }

    strings: int = 2
    """Strings to combine."""
    bits: int = 5
    """Bits of a string."""
    patch: int = 1
    """Bits of a token."""

    @property
    def tokens(self) -> int:
        return self.strings * self.queries

    def _sample(self, key, batch: int) -> Split:
        """Inputs [batch, strings, bits] in {0, 1}; targets [batch, bits]."""
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
        """The bits of the position in all strings, and in those before the last, whose token is the one that is read."""
        earlier = np.broadcast_to(np.arange(self.strings) < self.strings - 1, (len(inputs), self.strings))
        return {"bits of that position": self._places(np.ones_like(earlier)), "those of earlier strings": self._places(earlier)}

    def _row_name(self, row: int) -> str:
        return f"string {row + 1}"

    def show(self, example, target) -> str:
        rows = [f"{self._row_name(i):>9}  {''.join(str(int(b)) for b in row)}" for i, row in enumerate(example)]
        return "\n".join([*rows, f"{'answer':>9}  {''.join(str(int(b)) for b in target)}"])
