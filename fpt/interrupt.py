"""Stops training at a point where its state can be saved."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


class Interrupted(KeyboardInterrupt):
    """Says that training was stopped from outside, and that its state is on the disk."""


class Stop(Exception):
    """Leaves the training loop because a signal asked for it; the state on the device is whole."""


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list instead of letting them cut a step in two.

    A second signal does cut.
    """
    asked: list[int] = []

    def handle(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {number: signal.signal(number, handle)
                  for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # outside the main thread, signals are the caller's
        before = {}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
