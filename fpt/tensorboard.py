"""Writes the evaluations of runs as event files, which TensorBoard and other dashboards read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fpt.errors import UserError

FOLDER = "tensorboard"  # in a run's folder


class Tensorboard:
    """Writes the scalars of each evaluation into the run's folder; give it to `fpt.train` as `log`.

    Raises UserError where tensorboardX is not installed.
    """

    def __init__(self):
        try:
            import tensorboardX
        except ImportError:
            raise UserError("--log tensorboard needs tensorboardX, which is not installed; "
                            "pip install -e '.[tensorboard]'") from None
        self._tensorboardx = tensorboardX
        self._files: dict[Path, Any] = {}
        self._written: dict[Path, int] = {}  # lines of a run's history

    def __call__(self, folder: Path, history: list[dict[str, Any]]) -> None:
        """Writes the lines of a run's history that its event file does not hold yet.

        The first call for a run begins a new file with the whole history: an old file may hold
        evaluations after the state that the run resumed from, which would then be there twice.
        """
        event = self._tensorboardx.proto.event_pb2.Event
        try:
            if folder not in self._files:
                self._files[folder], self._written[folder] = self._begin(folder / FOLDER), 0
            for line in history[self._written[folder]:]:
                values = [{"tag": tag, "simple_value": value} for tag, value in _scalars(line)]
                passed = history[-1]["seconds"] - line["seconds"]
                self._files[folder].write_event(event(
                    wall_time=time.time() - passed, step=line["step"], summary={"value": values}))
            self._files[folder].flush()
        except OSError as error:
            raise UserError(f"cannot write {folder / FOLDER}: {error.strerror}; free some space, "
                            "or train without --log") from None
        self._written[folder] = len(history)

    def _begin(self, folder: Path) -> Any:
        """Opens a new event file and removes the old ones.

        Not by tensorboardX's SummaryWriter, which writes in a thread: a full disk ends that thread,
        and the training would wait for it forever.
        """
        folder.mkdir(exist_ok=True)
        for left in folder.glob("events.out.tfevents.*"):
            left.unlink()
        return self._tensorboardx.event_file_writer.EventsWriter(str(folder / "events"))


def _scalars(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields the name and value of each number in a line of a run's history, without nulls."""
    scores = {"train": line["train"] or {}, "validation": line["validation"]}
    for split, score in (scores | line.get("probes", {})).items():
        numbers = {name: score.get(name) for name in ("loss", "accuracy")}
        slices = score.get("slices", {})
        numbers |= {f"accuracy/{part}": value for part, value in slices.items()}
        for name, value in numbers.items():
            if value is not None:
                yield f"{split}/{name}", value
