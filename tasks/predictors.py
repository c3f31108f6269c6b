"""Computes what trivial predictors of ListOps see of expressions, and what they answer.

Expressions are symbols [N, T], as in `expressions`, with or without their closing brackets.
"""

from __future__ import annotations

import numpy as np

from tasks.expressions import CLOSE, FIRST, OPERATORS, ZERO

AT_ONCE = 4_096  # expressions that are summarised at once, for the sake of memory
MOST_OPERATORS = 4  # operator arguments of the root that the predictors tell apart


def summarise(symbols: np.ndarray) -> dict[str, np.ndarray]:
    """Computes what each predictor sees of expressions, as one number: name -> int [N].

    Digits are reduced to what the root operator can use of them: the least for MIN, the greatest
    for MAX, the middle pair for MED, the sum modulo 10 for SM.  The predictor that sees the root's
    direct digits also sees how many of the root's arguments are operators, counted up to 4.
    """
    starts = range(0, len(symbols), AT_ONCE)
    parts = [_summarise(symbols[start : start + AT_ONCE]) for start in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _summarise(symbols: np.ndarray) -> dict[str, np.ndarray]:
    first = symbols[:, 0]
    root = np.where(first >= FIRST, first - FIRST, len(OPERATORS)).astype(int)
    operators, level = opens(symbols), depth(symbols)
    direct = digits(symbols) & (level == 1)
    leading = digits(symbols) & (np.cumsum(operators | (symbols == CLOSE), axis=1) == 1)
    nested = np.minimum((operators & (level == 2)).sum(axis=1), MOST_OPERATORS)
    combined = lambda kept: root * 101 + use_of(symbols, kept, root)
    return {
        "majority": np.zeros_like(root),
        "root operator": root,
        "root operator, leading digits": combined(leading),
        "root operator, direct digits": combined(direct) * (MOST_OPERATORS + 1) + nested,
    }


def opens(symbols: np.ndarray) -> np.ndarray:
    """Marks the symbols that are operators, each of which opens a bracket."""
    return (symbols >= FIRST) & (symbols < CLOSE)


def digits(symbols: np.ndarray) -> np.ndarray:
    """Marks the symbols that are digits."""
    return (symbols >= ZERO) & (symbols < FIRST)


def depth(symbols: np.ndarray) -> np.ndarray:
    """Counts the brackets that are open after each symbol."""
    return np.cumsum(opens(symbols), axis=1) - np.cumsum(symbols == CLOSE, axis=1)


def use_of(symbols: np.ndarray, kept: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Reduces the digits that are `kept` to what the root operator can use of them.

    The result is int [N] in 0 .. 99, or 100 where there is no such digit.
    """
    counts = np.stack([((symbols == ZERO + digit) & kept).sum(axis=1) for digit in range(10)],
                      axis=1)
    number = counts.sum(axis=1)
    ranked = np.cumsum(counts, axis=1)
    at = lambda rank: (ranked <= rank[:, None]).sum(axis=1)  # the digit of that rank, from 0
    lower, upper = at((number - 1) // 2), at(number // 2)
    uses = np.stack([at(0 * number), at(number - 1), lower * 10 + upper,
                     counts @ np.arange(10) % 10, 0 * number])
    return np.where(number > 0, np.take_along_axis(uses, root[None], axis=0)[0], 100)


def predict(seen: np.ndarray, answers: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Predicts answers by frequency from what a predictor saw in training, int [N].

    seen: one number for each training expression.  asked: the numbers to answer; for one that was
    never seen, the prediction is the most frequent answer of all.
    """
    size = max(seen.max(), asked.max()) + 1
    table = np.zeros((size, 10), int)
    np.add.at(table, (seen, answers), 1)
    known = table.any(axis=1)
    return np.where(known, table.argmax(axis=1), np.bincount(answers, minlength=10).argmax())[asked]
