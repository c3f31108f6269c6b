"""Stops training at a point where its state can be saved."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator


class Interrupted(KeyboardInterrupt):
    """Says that training was stopped from outside, and that its state is on the disk."""


class Stop(Exception):
    """Leaves the training loop because a signal asked for it; the state on the device is whole."""


@contextlib.contextmanager
def interruptible(save: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Keeps SIGINT and SIGTERM from cutting a training step in two; a second signal does cut.

    Yields a function to be called between steps: once a signal has come, it leaves the context by
    raising Stop, `save` writes the state, and Interrupted is raised.
    """
    asked: list[int] = []

    def handle(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    def check():
        if asked:
            raise Stop

    try:
        before = {number: signal.signal(number, handle)
                  for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # outside the main thread, signals are the caller's
        before = {}
    try:
        yield check
    except Stop:
        save()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise Interrupted(signal.Signals(asked[0]).name)
