"""Computes which lengths the expressions of ListOps may have, and how probable each length is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fpt.errors import UserError

OPERATOR_SHARE = 0.25  # probability that a node below the greatest depth is an operator
SYMBOLS_PER_SECOND = 2_500_000  # that one core draws, rejected ones included; measured
MOST_HOURS = 24  # of one core: drawing that would take longer is refused


@dataclass(frozen=True)
class Law:
    """Describes the distribution that expressions are drawn from.

    The length of an expression is its number of bracketed symbols: a digit counts 1, an operator 2.
    """

    shortest: int
    longest: int
    depth: int  # nodes at this depth are digits; the root has depth 1
    arguments: int  # an operator has from 2 to so many

    def check_possible(self) -> None:
        """Raises UserError where no expression of this law has an allowed length.

        An operator with n arguments makes an expression longer by n + 1.  With m operators it is
        therefore longer than a digit by any number from 3 m to (arguments + 1) m, or, where
        operators have two arguments, by 3 m alone.
        """
        widest = self.arguments + 1
        greatest = 1  # the length of the longest expression, as far as it matters
        for _ in range(self.depth - 1):
            if greatest > self.longest:
                break
            greatest = 2 + self.arguments * greatest
        if greatest < self.shortest:
            raise UserError(f"listops: an expression of --depth {self.depth} with --arguments "
                            f"{self.arguments} has at most {greatest} tokens, fewer than "
                            f"--shortest {self.shortest}; raise --depth or lower --shortest")
        operators = -((1 - self.shortest) // widest)  # the fewest that make it long enough
        if 1 + 3 * operators > min(self.longest, greatest):
            below, above = 1 + widest * (operators - 1), 1 + 3 * operators
            raise UserError(f"listops: with --arguments {self.arguments} no expression has "
                            f"{self.shortest} to {self.longest} tokens; the nearest lengths are "
                            f"{below} and {above}")

    def lengths(self) -> np.ndarray:
        """Computes the probability of each length in a draw, [longest + 1].

        Lengths that are not allowed count too: their expressions are rejected afterwards.  The
        generating function of the lengths, the sum of P(n) z^n, can be computed at any z.  From its
        values on a circle a Fourier transform gives its coefficients, here to within 1e-11.
        """
        points = 1 << (4 * self.longest).bit_length()
        radius = 1e-12 ** (1 / points)  # damps the lengths beyond the number of points
        z = radius * np.exp(2j * np.pi * np.arange(points) / points)

        def operator(argument: np.ndarray) -> np.ndarray:
            """Computes an operator's generating function from that of one argument, by a geometric
            series of its powers."""
            series = argument**2 * (1 - argument ** (self.arguments - 1)) / (1 - argument)
            return z**2 * series / (self.arguments - 1)

        node = z  # a digit
        for _ in range(self.depth - 2):
            node, before = (1 - OPERATOR_SHARE) * z + OPERATOR_SHARE * operator(node), node
            if np.abs(node - before).max() < 1e-15:  # what is nested deeper is too long
                break
        root = operator(node)
        if self.shortest == 1:
            root = (1 - OPERATOR_SHARE) * z + OPERATOR_SHARE * root
        numbers = np.arange(self.longest + 1)
        found = np.fft.fft(root).real[numbers] / points / radius**numbers
        return np.maximum(found, 0)

    def check_time(self, count: int) -> None:
        """Raises UserError where drawing `count` expressions would take over `MOST_HOURS`."""
        self.check_possible()
        lengths = self.lengths()
        accepted = max(lengths[self.shortest :].sum(), 1e-9)  # below, it is nothing but rounding
        # What grows too long is given up at the greatest length.
        symbols = lengths @ np.arange(self.longest + 1) + max(0, 1 - lengths.sum()) * self.longest
        hours = count * symbols / accepted / SYMBOLS_PER_SECOND / 3600
        if hours > MOST_HOURS:
            raise UserError(f"listops: {count:,} expressions of {self.shortest} to {self.longest} "
                            f"tokens would take one core {hours:,.0f} hours, since at most one in "
                            f"{1 / accepted:,.0f} of those drawn has such a length; allow other "
                            "lengths, a greater --depth or more --arguments, or ask for fewer")
