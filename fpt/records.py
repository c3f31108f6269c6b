"""What a run leaves behind: a folder that says what it was, how it went and what it came to.

    config.json             the configuration
    metrics.jsonl           a line for each evaluation
    trainable.safetensors   the trained parameters, best on validation: a complete model with the body beside them
    result.json             written last: a folder that has it is finished
    state-<step>.safetensors  while the run goes on

Every file appears whole or not at all.  The states of a stack lie in its runs' folders; those of an older step are
removed only when all runs have the newer one, so that the newest step that all have is a state of the whole stack.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
from filelock import FileLock, Timeout

from fpt.arrays import described, pack, unpack
from fpt.config import Config
from fpt.errors import UserError
from fpt.files import write_whole

CONFIG, METRICS, RESULT, TRAINABLE, LOCK = "config.json", "metrics.jsonl", "result.json", "trainable.safetensors", ".lock"


def finite(value: float) -> float | None:
    """The number, or None where strict JSON has no word for it."""
    value = float(value)
    return value if math.isfinite(value) else None


def write_json(path: Path, content: Any) -> None:
    """Strict JSON, sorted and indented."""
    write_whole(path, (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Raises UserError where the file is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        if (path.parent / CONFIG).is_file():
            raise UserError(f"no {path.name} in {path.parent}: the run is not finished; train it to its end") from None
        raise UserError(f"no {path.name} in {path.parent}; name the folder of a run") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); delete the folder and train again") from None


def summary(folder: Path) -> dict[str, Any]:
    """A finished run as one object: its name, configuration, curve (a line for each evaluation) and result.

    Raises UserError where the run is not finished, or a file is damaged.
    """
    try:
        curve = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    except (ValueError, OSError) as error:
        raise UserError(f"{folder / METRICS} cannot be read ({error}); delete the folder and train again") from None
    return {"run": folder.resolve().name, "config": read_json(folder / CONFIG), "curve": curve,
            "result": read_json(folder / RESULT)}


class Folder:
    """One run's folder, held by one process at a time."""

    def __init__(self, out: Path, config: Config):
        self.path = out / config.name
        self.config = config
        self._lock = FileLock(self.path / LOCK)

    def open(self) -> None:
        """Makes the folder, or takes up the one that is there.

        Raises UserError where it cannot be written, another process has it, or it holds another configuration.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{self.path} is in use by another process; wait for it, or choose another --out") from None
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; choose another --out") from None
        for leftover in self.path.glob(".*"):  # temporary files of a process that was killed
            if leftover.name != LOCK:
                leftover.unlink()
        if (self.path / CONFIG).exists():
            self.check()
        else:
            write_json(self.path / CONFIG, self._stated)

    @property
    def _stated(self) -> dict[str, Any]:
        return json.loads(json.dumps(self.config.record()))

    def check(self) -> None:
        """Raises UserError where the folder's configuration is not the one that its name stands for."""
        stated, found = self._stated, read_json(self.path / CONFIG)
        keys = (stated.keys() | found.keys()) - {"body", "task_file"}  # the same ones may lie elsewhere
        if differ := sorted(key for key in keys if stated.get(key) != found.get(key)):
            raise UserError(f"{self.path / CONFIG} differs from its folder's name in {', '.join(differ)}; move the folder away")

    def close(self) -> None:
        self._lock.release()

    @property
    def finished(self) -> bool:
        return (self.path / RESULT).is_file()

    def result(self) -> dict[str, Any]:
        return read_json(self.path / RESULT)

    def write_metrics(self, history: list[dict]) -> None:
        lines = "".join(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in history)
        write_whole(self.path / METRICS, lines.encode())

    def write_result(self, result: dict[str, Any], trainable: dict[str, np.ndarray], identity: dict[str, str]) -> None:
        """The trained parameters with what identifies their body, then the result; then no state is needed any more."""
        write_whole(self.path / TRAINABLE, pack(trainable, identity))
        write_json(self.path / RESULT, result)
        self.remove_states()

    def states(self) -> dict[int, Path]:
        """Step -> file, of the states that are there."""
        found = ((re.fullmatch(r"state-(\d+)\.safetensors", file.name), file) for file in self.path.iterdir())
        return {int(match[1]): file for match, file in found if match}

    def write_state(self, step: int, leaves: dict[str, np.ndarray], notes: dict[str, Any], stack: list[str]) -> None:
        """stack: the names of the runs that are trained together, this one's among them."""
        about = {"digest": self.config.digest, "notes": notes, "stack": stack}
        write_whole(self.path / f"state-{step:08d}.safetensors", pack(leaves, about))

    def read_state(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        leaves, about = unpack(self.states()[step])
        if about.get("digest") != self.config.digest:
            raise UserError(f"{self.states()[step]} belongs to another run; delete it to start anew")
        return leaves, about["notes"]

    def begun_with(self) -> tuple[str, ...]:
        """The names of the runs that the newest state was trained with; empty where there is no state."""
        states = self.states()
        return tuple(described(states[max(states)])["stack"]) if states else ()

    def remove_states(self, but: int | None = None) -> None:
        for step, file in self.states().items():
            if step != but:
                file.unlink(missing_ok=True)


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree by their path, on the host."""
    named = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in named}


def unflatten(leaves: dict[str, np.ndarray], like: Any) -> Any:
    """A tree of the shape of `like` from its leaves by path.  Raises UserError where they do not fit it."""
    named, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in named]
    fits = set(names) == set(leaves) and all(leaves[n].shape == leaf.shape for n, (_, leaf) in zip(names, named))
    if not fits:
        raise UserError("a state does not fit its run; delete the run's state files to start anew")
    return jax.tree.unflatten(structure, [leaves[name] for name in names])
