"""What a person sees while something runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30


def waiting(label: str, quiet: bool = False):
    """Says on a terminal, for as long as the context is open, what is waited for."""
    return Console(quiet=quiet).status(label)


@contextlib.contextmanager
def counting(label: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Shows on a terminal how often the function that it gives has been called, of `total` times where that is known."""
    console = Console()
    columns = TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn(compact=True)
    with Progress(*columns, console=console, transient=True, expand=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)


class Steps:
    """Progress through the steps of a stack.  Used as a context; `say` prints a line above the bar."""

    def __init__(self, label: str, total: int, done: int, quiet: bool = False, tokens: int | None = None):
        """tokens: in a step, where the pace is told in tokens."""
        self.label, self.total, self.done, self.tokens = label, total, done, tokens
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn(label), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True), console=self.console, transient=True, expand=True,
        ) if self.console.is_terminal else None
        self.last_line = time.monotonic()

    def __enter__(self) -> Steps:
        if self.bar:
            self.task = self.bar.add_task(self.label, total=self.total, completed=self.done, figures="")
            self.bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self.bar:
            self.bar.stop()

    def say(self, line: str) -> None:
        self.console.print(line, markup=False)

    def update(self, step: int, seconds: float, loss: float, headline: str) -> None:
        """steps done, seconds a step, mean training loss, and what the best run came to on validation."""
        pace = f"{self.tokens / seconds:,.0f} tokens/s" if self.tokens else f"{1 / seconds:.3g} steps/s"
        figures = f"{pace}  loss {loss:.3f}  {headline}"
        if self.bar:
            self.bar.update(self.task, completed=step, figures=figures)
        elif time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            left = (self.total - step) * seconds
            self.say(f"{self.label}  step {step}/{self.total}  {figures}  {left:.0f} s left")
