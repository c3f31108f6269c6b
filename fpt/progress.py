"""Shows progress while something runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30


def waiting(label: str, quiet: bool = False):
    """Shows a label on a terminal for as long as the returned context is open."""
    return Console(quiet=quiet).status(label)


@contextlib.contextmanager
def counting(label: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Shows a bar on a terminal and yields the function that advances it by one, up to `total`."""
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(),
               TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True, expand=True,
                  disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)


class Steps:
    """Shows how far the training of a stack has come; a context, open while the stack trains."""

    def __init__(self, label: str, total: int, done: int, quiet: bool = False,
                 tokens: int | None = None):
        """Sets up the progress of `total` steps, of which `done` are done.

        tokens: the tokens in a step, where the pace is shown in tokens; None for steps.
        """
        self.label, self.total, self.done, self.tokens = label, total, done, tokens
        self.console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn(label), BarColumn(bar_width=None), MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"), TimeRemainingColumn(compact=True),
            console=self.console, transient=True, expand=True,
        ) if self.console.is_terminal else None
        self.last_line = time.monotonic()

    def __enter__(self) -> Steps:
        if self.bar:
            self.task = self.bar.add_task(
                self.label, total=self.total, completed=self.done, figures="")
            self.bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self.bar:
            self.bar.stop()

    def say(self, line: str) -> None:
        """Prints a line, above the bar where there is one."""
        self.console.print(line, markup=False)

    def prepare(self, done: int, total: int) -> None:
        """Shows, before the first step, how many examples have the features that the steps take."""
        figures = f"features of {done:,}/{total:,} examples"
        if self.bar:
            self.bar.update(self.task, figures=figures)
        elif self._line_due():
            self.say(f"{self.label}  {figures}")

    def update(self, step: int, seconds: float, loss: float, headline: str) -> None:
        """Shows the steps done, the pace, the loss and the headline.

        seconds: the time of one step.  loss: the mean training loss.  headline: the validation
        score of the best run, in words.
        """
        pace = f"{1 / seconds:.3g} steps/s"
        if self.tokens:
            pace = f"{self.tokens / seconds:,.0f} tokens/s"
        figures = f"{pace}  loss {loss:.3f}  {headline}"
        if self.bar:
            self.bar.update(self.task, completed=step, figures=figures)
        elif self._line_due():
            left = (self.total - step) * seconds
            self.say(f"{self.label}  step {step}/{self.total}  {figures}  {left:.0f} s left")

    def _line_due(self) -> bool:
        """Tells whether the last line is long enough ago, and counts from now on if so."""
        due = time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES
        if due:
            self.last_line = time.monotonic()
        return due
