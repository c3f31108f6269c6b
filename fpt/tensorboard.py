"""What runs come to while they train, as event files that TensorBoard reads, and other dashboards with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fpt.errors import UserError

FOLDER = "tensorboard"  # in a run's folder


class Tensorboard:
    """A `log` of `fpt.train`: writes the scalars of each evaluation into the run's folder, as soon as there are some.

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
        """Writes what a run's history holds and its file does not.

        The file of a run that is new to this process is begun anew, from the beginning of its history: what an earlier one
        wrote after the state that the run goes on from would be there twice.
        """
        try:
            if folder not in self._files:
                self._files[folder], self._written[folder] = self._begin(folder / FOLDER), 0
            for line in history[self._written[folder]:]:
                values = [{"tag": tag, "simple_value": value} for tag, value in _scalars(line)]
                passed = history[-1]["seconds"] - line["seconds"]
                self._files[folder].write_event(self._tensorboardx.proto.event_pb2.Event(
                    wall_time=time.time() - passed, step=line["step"], summary={"value": values}))
            self._files[folder].flush()
        except OSError as error:
            raise UserError(f"cannot write {folder / FOLDER}: {error.strerror}; free some space, or train without "
                            "--log") from None
        self._written[folder] = len(history)

    def _begin(self, folder: Path) -> Any:
        """A new file in place of those that are there.

        It is written as it is told to: tensorboardX's SummaryWriter leaves that to a thread, which a full disk ends, and
        the training would wait for it forever.
        """
        folder.mkdir(exist_ok=True)
        for left in folder.glob("events.out.tfevents.*"):
            left.unlink()
        return self._tensorboardx.event_file_writer.EventsWriter(str(folder / "events"))


def _scalars(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Name and value of each number in a line of a run's history; what is no number in strict JSON is left out."""
    scores = {"train": line["train"] or {}, "validation": line["validation"], **line.get("probes", {})}
    for split, score in scores.items():
        numbers = {name: score.get(name) for name in ("loss", "accuracy")}
        numbers |= {f"accuracy/{part}": value for part, value in score.get("slices", {}).items()}
        for name, value in numbers.items():
            if value is not None:
                yield f"{split}/{name}", value
