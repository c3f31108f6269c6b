"""Reads and writes a run's folder, the record of its configuration, evaluations and parameters.

    config.json             the configuration
    metrics.jsonl           a line for each evaluation
    trainable.safetensors   the trained parameters at the best evaluation, without the frozen ones
    trainable-<step>.safetensors  the trained parameters after that step, where --keep kept them
    frozen.safetensors      frozen parameters that no checkpoint or seed gives again to the bit
    result.json             the result, written last: a folder that has it is finished
    state-<step>.safetensors  what a run resumes from; removed when the run is finished
    tensorboard/            the evaluations again, for a dashboard, where --log asked for them

Every file appears whole or not at all.  A stack is several runs that are trained at once.  Each
keeps its part of the stack's state; older parts are removed only when all runs have the newer one,
so that the newest step that all runs have is a state of the whole stack.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from fpt import bodies, registry
from fpt.arrays import described, digest, pack, unpack
from fpt.config import ABSENT, FILES, NEWER, PLACES, Config
from fpt.errors import InUse, UserError
from fpt.files import remove_leftovers, sha256, write_whole
from fpt.saved import FROZEN, TRAINABLE, by_step, frozen

CONFIG, METRICS, RESULT, LOCK = "config.json", "metrics.jsonl", "result.json", ".lock"
WRITTEN = r"(config|result)\.json|metrics\.jsonl|(trainable(-\d+)?|frozen|state-\d+)\.safetensors"


def finite(value: float) -> float | None:
    """Returns the number, or None where it is infinite or not a number: JSON has neither."""
    value = float(value)
    return value if math.isfinite(value) else None


def write_json(path: Path, content: Any) -> None:
    """Writes strict JSON, sorted and indented."""
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_whole(path, text.encode())


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.  Raises UserError where the file is missing or damaged."""
    try:
        if not isinstance(found := _strict(path.read_text()), dict):
            raise ValueError(f"it holds no object, but {type(found).__name__}")
        return found
    except FileNotFoundError:
        missing = f"no {path.name} in {path.parent}"
        if (path.parent / CONFIG).is_file():
            raise UserError(f"{missing}: the run is not finished; train it to its end") from None
        raise UserError(f"{missing}; name the folder of a run") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; make it readable") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); delete the folder and train again") from None


def _strict(text: str) -> Any:
    """Parses strict JSON; raises ValueError for NaN and Infinity, which Python's parser admits."""
    def refuse(word: str):
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def read_curve(folder: Path) -> list[Any]:
    """Reads a run's evaluations so far.  Raises UserError where they are missing or damaged."""
    path = folder / METRICS
    try:
        return [_strict(line) for line in path.read_text().splitlines()]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; name the folder of a finished "
                        "run") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); delete the folder and train again") from None


def summary(folder: Path) -> dict[str, Any]:
    """Reads a finished run as one object: its name, configuration, evaluations and result.

    Raises UserError where the run is not finished, or a file is damaged.
    """
    curve = read_curve(folder)
    config, result = read_json(folder / CONFIG), read_json(folder / RESULT)
    try:
        check(config, curve, result)
    except ValueError as error:
        raise UserError(f"{folder} is damaged: {error}; delete the folder and train "
                        "again") from None
    paths = {name: config[name] for name in PLACES if config.get(name)}
    config |= {name: Path(path).name for name, path in paths.items() if os.path.isabs(path)}
    return {"run": folder.resolve().name, "config": config, "curve": curve, "result": result}


def configuration(stated: dict[str, Any]) -> Config:
    """Makes a configuration of its JSON, as `Config.record` gives it; executes a user's files.

    Raises KeyError, TypeError, ValueError or AttributeError for JSON that is not a configuration.
    """
    stated = ABSENT | NEWER | stated
    file, geometry = stated["task_file"], stated["geometry"]
    task = registry.from_file(Path(file)) if file else registry.find(stated["task"])
    sizes = {name: tuple(value) if isinstance(value, list) else value
             for name, value in stated.pop("sizes").items()}
    for name, value in task.retired.items():
        if sizes.pop(name, value) != value:
            raise ValueError(f"{task.name} no longer has the size {name}")
    own = stated["body_file"] and registry.body_from_file(Path(stated["body_file"]))
    geometry = geometry and bodies.from_stated(geometry, own)
    return Config(**stated | {"task": task(**sizes), "geometry": geometry})


def check(config: Any, curve: Any, result: Any) -> None:
    """Checks the configuration, evaluations and result of a run; raises ValueError on damage."""
    try:
        needed = [config[name] for name in ("task", "body", "load", "seed", "lr", "steps", "batch")]
        needed += [config["sizes"].keys()]
        needed += [(line["step"], line["validation"]["accuracy"]) for line in curve]
        needed += [(result[split]["accuracy"], result[split].get("slices", {}).keys())
                   for split in ("test", "validation")]
        needed += [result["floors"].keys(), curve[0]]
        changed = "checksum" in result and result["checksum"] != checksum(config, curve, result)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"it is not a run ({type(error).__name__}: {error})") from None
    if changed:
        raise ValueError("it does not hold what was written")


def checksum(config: dict[str, Any], curve: list[dict[str, Any]], result: dict[str, Any]) -> str:
    """Computes the sha256 of a run's record, so that a changed number is noticed.

    Left out are the paths of the run's body and task file, which may be moved.
    """
    config = {name: value for name, value in config.items() if name not in PLACES}
    result = {name: value for name, value in result.items() if name != "checksum"}
    text = json.dumps([config, curve, result], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Folder:
    """Represents one run's folder, which one process at a time holds open."""

    def __init__(self, out: Path, config: Config):
        self.path = out / config.name
        self.config = config
        # A user may change or move the files while the run trains; it is what they were.
        self.digest = config.digest
        self._files = {name: sha256(Path(getattr(config, name))) for name in FILES
                       if getattr(config, name)}
        self._lock = FileLock(self.path / LOCK)

    def open(self) -> None:
        """Locks the folder, and makes it where it is missing.

        Raises UserError where it cannot be written or holds another configuration, InUse where
        another process trains the run.
        """
        self._there = self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InUse(f"{self.path} is in use by another process; wait for it, or choose "
                        "another --out") from None
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; choose another "
                            "--out") from None
        remove_leftovers(self.path, WRITTEN)
        if (self.path / CONFIG).exists():
            self.check()
        else:
            write_json(self.path / CONFIG, self._stated)

    @property
    def _stated(self) -> dict[str, Any]:
        return json.loads(json.dumps(self.config.record()))

    def check(self) -> None:
        """Raises UserError where `config.json` states another configuration than this object's.

        Paths may differ.
        """
        stated, found = self._stated, read_json(self.path / CONFIG)
        keys = (stated.keys() | found.keys()) - {*PLACES}
        if differ := sorted(key for key in keys if stated.get(key) != found.get(key)):
            raise UserError(f"{self.path / CONFIG} differs from its folder's name in "
                            f"{', '.join(differ)}; move the folder away")

    def close(self) -> None:
        """Unlocks the folder, and removes it where `open` made it and nothing was trained in it."""
        with contextlib.suppress(OSError):  # another process may remove the folder meanwhile
            if not self._there and {path.name for path in self.path.iterdir()} == {CONFIG, LOCK}:
                (self.path / CONFIG).unlink()
                (self.path / LOCK).unlink()
                self.path.rmdir()
        self._lock.release()

    @property
    def finished(self) -> bool:
        return (self.path / RESULT).is_file()

    def result(self) -> dict[str, Any]:
        return summary(self.path)["result"]

    def write_metrics(self, history: list[dict]) -> None:
        lines = (json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in history)
        write_whole(self.path / METRICS, "".join(lines).encode())

    def write_frozen(self, values: dict[str, np.ndarray]) -> None:
        """Writes the frozen parameters that cannot be loaded or drawn again: `Source.to_store`."""
        write_whole(self.path / FROZEN, pack(values, {"digest": self.digest}))

    def write_result(self, history: list[dict], result: dict[str, Any],
                     trainable: dict[str, np.ndarray], identity: dict[str, str]) -> None:
        """Writes the trained parameters and then the result, and removes the states.

        identity: the description that is stored with the parameters, which identifies their body.
        """
        # A record tells the name of a user's file, and the digest of its content.
        result = result | {"trainable": digest(trainable)} | self._files
        write_whole(self.path / TRAINABLE, pack(trainable, identity))
        result["checksum"] = checksum(self._stated, history, result)
        write_json(self.path / RESULT, result)
        self.remove_states()

    def write_kept(self, step: int, trainable: dict[str, np.ndarray]) -> None:
        """Writes the trainable parameters after a step, for later analysis."""
        content = pack(trainable, {"digest": self.digest, "step": step})
        write_whole(self.path / f"trainable-{step:08d}.safetensors", content)

    def states(self) -> dict[int, Path]:
        """Lists the files of the run's states by step."""
        return by_step(self.path, "state")

    def write_state(self, step: int, leaves: dict[str, np.ndarray], notes: dict[str, Any],
                    stack: list[str]) -> None:
        """Writes the run's part of its stack's state after a step.

        leaves: the arrays.  notes: what is no array.  stack: the names of all runs of the stack.
        """
        about = {"digest": self.digest, "notes": notes, "stack": stack}
        write_whole(self.path / f"state-{step:08d}.safetensors", pack(leaves, about))

    def read_state(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reads the arrays and the notes of the state after a step, as `write_state` wrote them."""
        file = self.states()[step]
        leaves, about = unpack(file)
        if about.get("digest") != self.digest:
            raise UserError(f"{file} belongs to another run; delete it to start anew")
        return leaves, about["notes"]

    def begun(self) -> list[tuple[int, tuple[str, ...]]]:
        """Lists each state's step and the names of the runs in its stack, newest first."""
        return [(step, tuple(described(file).get("stack", ())))
                for step, file in sorted(self.states().items(), reverse=True)]

    def remove_states(self, but: int | None = None) -> None:
        """Removes the run's states, except the one after step `but`."""
        for step, file in self.states().items():
            if step != but:
                file.unlink(missing_ok=True)


def ended(folder: Path) -> tuple[dict[str, np.ndarray], str]:
    """Reads the parameters that a finished run results in, those of its best evaluation.

    Returns them without the frozen ones that can be loaded or drawn again, and a digest that covers
    these too.  Raises UserError where the run is not finished, or damaged.
    """
    result, (trained, identity) = summary(folder)["result"], unpack(folder / TRAINABLE)
    if result.get("trainable", digest(trained)) != digest(trained):
        raise UserError(f"{folder / TRAINABLE} does not hold what the result is of; train the run "
                        "again")
    values = frozen(folder) | trained
    return values, hashlib.sha256(f"{digest(values)}{identity['frozen']}".encode()).hexdigest()[:32]
