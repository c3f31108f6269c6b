"""The law that expressions of ListOps are drawn by: which lengths it allows, and how probable each of them is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fpt.errors import UserError

OPERATOR_SHARE = 0.25  # probability that a node below the greatest depth is an operator
SYMBOLS_PER_SECOND = 2_500_000  # that one core draws, those of rejected expressions included; measured
MOST_HOURS = 24  # of one core: what would take longer is not begun


@dataclass(frozen=True)
class Law:
    """What is drawn: lengths count 1 for a digit and 2 for an operator, which is the number of bracketed symbols."""

    shortest: int
    longest: int
    depth: int  # nodes at this depth are digits; the root has depth 1
    arguments: int  # an operator has from 2 to so many

    def check_possible(self) -> None:
        """Raises UserError where no expression of this law has an allowed length.

        An operator with n arguments makes an expression longer by n + 1.  With m operators it is therefore longer than a
        digit by any number from 3 m to (arguments + 1) m, or, where operators have two arguments, by 3 m alone.
        """
        widest = self.arguments + 1
        greatest = 1  # the length of the longest expression, as far as it matters
        for _ in range(self.depth - 1):
            if greatest > self.longest:
                break
            greatest = 2 + self.arguments * greatest
        if greatest < self.shortest:
            raise UserError(f"listops: an expression of --depth {self.depth} with --arguments {self.arguments} has at most "
                            f"{greatest} tokens, fewer than --shortest {self.shortest}; raise --depth or lower --shortest")
        operators = -((1 - self.shortest) // widest)  # the fewest that make it long enough
        if 1 + 3 * operators > min(self.longest, greatest):
            raise UserError(f"listops: with --arguments {self.arguments} no expression has {self.shortest} to {self.longest} "
                            f"tokens; the nearest lengths are {1 + widest * (operators - 1)} and {1 + 3 * operators}")

    def lengths(self) -> np.ndarray:
        """[longest + 1]: the probability of each length in a draw, before those that are not allowed are rejected.

        The generating function of the lengths, sum of P(n) z^n, follows from the law at any one z.  Taken at points of a
        circle, a Fourier transform gives its coefficients, here to within 1e-11.
        """
        points = 1 << (4 * self.longest).bit_length()
        radius = 1e-12 ** (1 / points)  # by so much do lengths fade that are beyond the points
        z = radius * np.exp(2j * np.pi * np.arange(points) / points)

        def operator(argument: np.ndarray) -> np.ndarray:
            """Of an operator, from that of its arguments: the sum of argument^n over their numbers n, as a geometric series."""
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
        found = np.fft.fft(root).real[: self.longest + 1] / points / radius ** np.arange(self.longest + 1)
        return np.maximum(found, 0)

    def check_time(self, count: int) -> None:
        """Raises UserError where drawing `count` expressions would take one core more than `MOST_HOURS`."""
        self.check_possible()
        lengths = self.lengths()
        accepted = max(lengths[self.shortest :].sum(), 1e-9)  # below, it is nothing but rounding
        # What grows too long is given up at the greatest length.
        symbols = lengths @ np.arange(self.longest + 1) + max(0, 1 - lengths.sum()) * self.longest
        hours = count * symbols / accepted / SYMBOLS_PER_SECOND / 3600
        if hours > MOST_HOURS:
            raise UserError(f"listops: {count:,} expressions of {self.shortest} to {self.longest} tokens would take one core "
                            f"{hours:,.0f} hours, since at most one in {1 / accepted:,.0f} of those drawn has such a length; "
                            "allow other lengths, a greater --depth or more --arguments, or ask for fewer")
