"""Draws, evaluates, reads and writes the expressions of ListOps.

Generator and semantics: Nangia & Bowman 2018, with the settings of the Long Range Arena
(`listops.py`, Tay et al. 2021).  A node below the greatest depth is an operator with probability
1/4, else a digit; an operator has from 2 to `arguments` arguments; MED is the median with its
fraction dropped, SM the sum modulo 10.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path

from fpt.errors import UserError
from tasks.law import OPERATOR_SHARE, Law

# Symbols: 0 fills up, 1 to 10 are the digits 0 to 9, then the operators, then the closing bracket.
PAD, ZERO, FIRST, CLOSE = 0, 1, 11, 15
OPERATORS = ("MIN", "MAX", "MED", "SM")
WORDS = ("", *"0123456789", *(f"[{name}" for name in OPERATORS), "]")
NUMBERS = {word: number for number, word in enumerate(WORDS) if word}
BLOCK = 500  # accepted expressions that a process draws at a time, from a generator of their own

_no_more = threading.Event()  # set in a process that draws once nobody waits for its blocks


class _NoMore(Exception):
    """Says that nobody waits any longer for the block that is being drawn."""


class _TooLong(Exception):
    """Says that the expression that is being drawn has passed the greatest length."""


def value_of(operator: int, values: list[int]) -> int:
    """Applies an operator (0 to 3, as in OPERATORS) to its arguments' values, 0 to 9."""
    if operator == 0:
        return min(values)
    if operator == 1:
        return max(values)
    if operator == 2:
        values = sorted(values)
        return (values[(len(values) - 1) // 2] + values[len(values) // 2]) // 2
    return sum(values) % 10


def evaluate(symbols: list[int]) -> int:
    """Computes the value of an expression in bracketed symbols.

    Raises ValueError for symbols that are not one expression.
    """
    open_operators: list[tuple[int, list[int]]] = [(-1, [])]
    for symbol in symbols:
        if ZERO <= symbol < FIRST:
            open_operators[-1][1].append(symbol - ZERO)
        elif FIRST <= symbol < CLOSE:
            open_operators.append((symbol - FIRST, []))
        elif symbol == CLOSE and len(open_operators) > 1 and open_operators[-1][1]:
            operator, values = open_operators.pop()
            open_operators[-1][1].append(value_of(operator, values))
        else:
            raise ValueError("brackets do not match")
    if len(open_operators) != 1 or len(open_operators[0][1]) != 1:
        raise ValueError("not one expression")
    return open_operators[0][1][0]


def read(text: str) -> list[int]:
    """Reads the bracketed symbols of a text, with or without the published files' parentheses.

    Raises ValueError for a word that is none of ListOps'.
    """
    words = [word for word in text.split() if word not in ("(", ")")]
    if unknown := next((word for word in words if word not in NUMBERS), None):
        raise ValueError(f"unknown symbol {unknown!r}")
    return [NUMBERS[word] for word in words]


def write(symbols: list[int]) -> str:
    """Writes bracketed symbols as text, without parentheses."""
    return " ".join(WORDS[symbol] for symbol in symbols)


def read_file(file: Path, longest: int, expected: int) -> list[tuple[bytes, int]]:
    """Reads the expressions of a published file, and their values, which are checked.

    longest, expected: the most symbols that an expression may have, and how many expressions there
    are.  Raises UserError that names the file, and the line where one is wrong.
    """
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
                    if len(symbols) > longest:
                        raise ValueError(f"{len(symbols)} tokens, where none has over {longest}")
                except ValueError as error:
                    wrong = f"{file}, line {number}: {error}"
                    raise UserError(f"{wrong}; fetch the file again") from None
                found.append((bytes(symbols), int(target)))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}); fetch it again") from None
    if len(found) != expected:
        raise UserError(f"{file} holds {len(found):,} expressions where {expected:,} are "
                        "published; fetch it again")
    return found


def draw(generator: random.Random, law: Law) -> tuple[list[int], int]:
    """Draws an expression of an allowed length, in bracketed symbols, with its value.

    The root is an operator where a digit alone would be too short: this only saves draws.
    """
    while True:
        if _no_more.is_set():
            raise _NoMore
        symbols: list[int] = []
        try:
            value = grow(generator, law, 1, symbols, law.shortest > 1)
        except _TooLong:
            continue
        if len(symbols) >= law.shortest:
            return symbols, value


def grow(generator: random.Random, law: Law, depth: int, symbols: list[int],
         operator: bool = False) -> int:
    """Appends the symbols of a random node at this depth, and gives the node's value."""
    if not operator and (depth >= law.depth or generator.random() > OPERATOR_SHARE):
        digit = int(generator.random() * 10)
        symbols.append(ZERO + digit)
        return digit
    place = len(symbols)
    symbols.append(PAD)
    values = []
    for _ in range(generator.randint(2, law.arguments)):
        values.append(grow(generator, law, depth + 1, symbols))
        if len(symbols) >= law.longest:  # the closing bracket is still to come
            raise _TooLong
    chosen = int(generator.random() * 4)
    symbols[place] = FIRST + chosen
    symbols.append(CLOSE)
    return value_of(chosen, values)


def draw_block(law: Law, seed: int, number: int) -> list[tuple[bytes, int]]:
    """Draws block `number` of a seed's expressions, each as bytes of symbols with its value."""
    # Each level of nesting is a call, and has put down a symbol at least.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 1_000 + law.longest))
    generator = random.Random(f"listops {seed} {number}")
    drawn = (draw(generator, law) for _ in range(BLOCK))
    return [(bytes(symbols), value) for symbols, value in drawn]


def draw_distinct(law: Law, seed: int, count: int,
                  report: Callable[[int], None]) -> list[tuple[bytes, int]]:
    """Draws the first `count` distinct expressions of a seed, in the order of their blocks.

    Uses every core; the number of processes does not change the result.  report: is called with
    the number of expressions so far.  Raises UserError where the law has too few of them, and,
    before anything is drawn, where drawing would take too long.
    """
    law.check_time(-(-count // BLOCK) * BLOCK)
    found: dict[bytes, int] = {}
    with contextlib.closing(draw_blocks(law, seed)) as blocks:
        for block in blocks:
            before = len(found)
            for symbols, value in block:
                found.setdefault(symbols, value)
            if len(found) >= count:
                break
            if len(found) - before < BLOCK // 50:
                raise UserError(f"listops: there are hardly more than {len(found):,} expressions "
                                f"of {law.shortest} to {law.longest} tokens; ask for fewer, or for "
                                "longer ones")
            report(len(found))
    return list(found.items())[:count]


def draw_blocks(law: Law, seed: int) -> Iterator[list[tuple[bytes, int]]]:
    """Yields the blocks 0, 1, 2, ... in order, and has a few drawn ahead of the reader."""
    processes = os.cpu_count() or 1
    context = get_context("spawn")
    orders, to_give = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(processes, context, _listen, (orders,))

    def submit(number: int) -> Future:
        with _interrupts_held_back():  # it may start a process
            return pool.submit(draw_block, law, seed, number)

    try:
        ahead = [submit(number) for number in range(2 * processes)]
        number = len(ahead)
        while True:
            block = ahead.pop(0).result()
            ahead.append(submit(number))
            number += 1
            yield block
    except BrokenProcessPool:
        raise UserError("listops is drawn by processes of its own, and they end at once; a script "
                        "of your own that trains on it must do so under "
                        "`if __name__ == '__main__':`") from None
    finally:
        os.write(to_give.fileno(), bytes(processes))
        pool.shutdown(wait=True, cancel_futures=True)
        to_give.close()
        orders.close()


def _listen(orders: Connection) -> None:
    """Makes this process give up its block at an order, and end when its parent has ended.

    An order is a byte.  A process that gives up still answers: one that ended in the midst of an
    answer would leave its parent waiting for the rest.
    """
    def obey() -> None:
        if os.read(orders.fileno(), 1):  # nothing can be read where the other end has gone
            _no_more.set()
            parent_process().join()
        os._exit(1)

    threading.Thread(target=obey, daemon=True).start()


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Keeps Ctrl-C waiting; processes that are started meanwhile leave it to their parent.

    They inherit the mask, which is this thread's.  Another thread, of a library say, may take the
    signal, and Python would then raise in this one all the same: so its handler waits as well.
    """
    received, handler = [], signal.getsignal(signal.SIGINT)
    ours = handler is not None and threading.current_thread() is threading.main_thread()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    if ours:
        signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if received:
            signal.raise_signal(signal.SIGINT)
