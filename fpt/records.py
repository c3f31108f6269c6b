"""What a run leaves behind: a folder that says what it was, how it went and what it came to.

    config.json             the configuration
    metrics.jsonl           a line for each evaluation
    frozen.safetensors      frozen parameters that another kind of CPU would make with other last bits, if there are any
    trainable.safetensors   the trained parameters, best on validation: a complete model with the body beside them
    trainable-<step>.safetensors  likewise, at the steps that were to be kept
    result.json             written last: a folder that has it is finished
    state-<step>.safetensors  while the run goes on
    tensorboard/            the evaluations once more, for a dashboard, where --log asked for it

Every file appears whole or not at all.  The states of a stack lie in its runs' folders; those of an older step are
removed only when all runs have the newer one, so that the newest step that all have is a state of the whole stack.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
from filelock import FileLock, Timeout

from fpt import bodies, registry
from fpt.arrays import described, digest, pack, unpack
from fpt.config import ABSENT, NEWER, PLACES, Config
from fpt.errors import UserError
from fpt.files import remove_leftovers, sha256, write_whole

CONFIG, METRICS, RESULT, LOCK = "config.json", "metrics.jsonl", "result.json", ".lock"
TRAINABLE, FROZEN = "trainable.safetensors", "frozen.safetensors"
WRITTEN = r"config\.json|metrics\.jsonl|result\.json|(trainable|trainable-\d+|frozen|state-\d+)\.safetensors"


def finite(value: float) -> float | None:
    """The number, or None where strict JSON has no word for it."""
    value = float(value)
    return value if math.isfinite(value) else None


def write_json(path: Path, content: Any) -> None:
    """Strict JSON, sorted and indented."""
    write_whole(path, (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.  Raises UserError where the file is missing or damaged."""
    try:
        if not isinstance(found := _strict(path.read_text()), dict):
            raise ValueError(f"it holds no object, but {type(found).__name__}")
        return found
    except FileNotFoundError:
        if (path.parent / CONFIG).is_file():
            raise UserError(f"no {path.name} in {path.parent}: the run is not finished; train it to its end") from None
        raise UserError(f"no {path.name} in {path.parent}; name the folder of a run") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; make it readable") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); delete the folder and train again") from None


def _strict(text: str) -> Any:
    """Parses JSON, without the words for infinity and no number that Python adds."""
    def refuse(word: str):
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def read_curve(folder: Path) -> list[Any]:
    """The lines of a run's evaluations, so far or to its end.  Raises UserError where there are none, or the file is damaged."""
    try:
        return [_strict(line) for line in (folder / METRICS).read_text().splitlines()]
    except OSError as error:
        raise UserError(f"{folder / METRICS} cannot be read: {error.strerror}; name the folder of a finished run") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{folder / METRICS} is damaged ({error}); delete the folder and train again") from None


def summary(folder: Path) -> dict[str, Any]:
    """A finished run as one object: its name, configuration, curve (a line for each evaluation) and result.

    Raises UserError where the run is not finished, or a file is damaged.
    """
    curve = read_curve(folder)
    config, result = read_json(folder / CONFIG), read_json(folder / RESULT)
    try:
        check(config, curve, result)
    except ValueError as error:
        raise UserError(f"{folder} is damaged: {error}; delete the folder and train again") from None
    config |= {name: Path(config[name]).name for name in PLACES if config.get(name) and os.path.isabs(config[name])}
    return {"run": folder.resolve().name, "config": config, "curve": curve, "result": result}


def configuration(stated: dict[str, Any]) -> Config:
    """Makes a configuration of its JSON, as `Config.record` gives it; executes a user's task file.

    Raises UserError for JSON that is not a configuration.
    """
    try:
        stated = ABSENT | NEWER | stated
        file, geometry = stated["task_file"], stated["geometry"]
        task = registry.from_file(Path(file)) if file else registry.find(stated["task"])
        sizes = {name: tuple(value) if isinstance(value, list) else value
                 for name, value in stated.pop("sizes").items()}
        geometry = geometry and bodies.from_stated(geometry)
        return Config(**stated | {"task": task(**sizes), "geometry": geometry})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError("not the configuration of a run "
                        f"({type(error).__name__}: {error})") from error


def check(config: Any, curve: Any, result: Any) -> None:
    """Raises ValueError where these are not the configuration, the curve and the result of one run, as they were written."""
    try:
        told = [config[name] for name in ("task", "body", "seed", "lr", "steps", "batch")] + [config["sizes"].keys()]
        told += [(line["step"], line["validation"]["accuracy"]) for line in curve]
        told += [(result[split]["accuracy"], result[split].get("slices", {}).keys()) for split in ("test", "validation")]
        told += [result["floors"].keys(), curve[0]]
        changed = "checksum" in result and result["checksum"] != checksum(config, curve, result)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"it is not a run ({type(error).__name__}: {error})") from None
    if changed:
        raise ValueError("it does not hold what was written")


def checksum(config: dict[str, Any], curve: list[dict[str, Any]], result: dict[str, Any]) -> str:
    """Digests what a run states of itself, so that a number that was changed is seen; not where its body and task lie."""
    config = {name: value for name, value in config.items() if name not in PLACES}
    result = {name: value for name, value in result.items() if name != "checksum"}
    return hashlib.sha256(json.dumps([config, curve, result], sort_keys=True, allow_nan=False).encode()).hexdigest()


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
        self._there = self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"{self.path} is in use by another process; wait for it, or choose another --out") from None
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; choose another --out") from None
        remove_leftovers(self.path, WRITTEN)
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
        keys = (stated.keys() | found.keys()) - {*PLACES}
        if differ := sorted(key for key in keys if stated.get(key) != found.get(key)):
            raise UserError(f"{self.path / CONFIG} differs from its folder's name in {', '.join(differ)}; move the folder away")

    def close(self) -> None:
        """Lets others have the folder; one that was made here and in which nothing was trained is removed."""
        with contextlib.suppress(OSError):  # whoever removes it meanwhile
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
        lines = "".join(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in history)
        write_whole(self.path / METRICS, lines.encode())

    def write_frozen(self, values: dict[str, np.ndarray]) -> None:
        """The frozen parameters that this machine's linear algebra has made."""
        write_whole(self.path / FROZEN, pack(values, {"digest": self.config.digest}))

    def write_result(self, history: list[dict], result: dict[str, Any], trainable: dict[str, np.ndarray],
                     identity: dict[str, str]) -> None:
        """The trained parameters with what identifies their body, then the result; then no state is needed any more."""
        result = result | {"trainable": digest(trainable)}
        if self.config.task_file:  # a record tells the file's name, and what it held
            result["task_file"] = sha256(Path(self.config.task_file))
        write_whole(self.path / TRAINABLE, pack(trainable, identity))
        write_json(self.path / RESULT, result | {"checksum": checksum(self._stated, history, result)})
        self.remove_states()

    def write_kept(self, step: int, trainable: dict[str, np.ndarray]) -> None:
        """The trainable parameters after a step, for whoever wants to look at them later."""
        content = pack(trainable, {"digest": self.config.digest, "step": step})
        write_whole(self.path / f"trainable-{step:08d}.safetensors", content)

    def states(self) -> dict[int, Path]:
        """Step -> file, of the states that are there."""
        return _by_step(self.path, "state")

    def write_state(self, step: int, leaves: dict[str, np.ndarray], notes: dict[str, Any], stack: list[str]) -> None:
        """stack: the names of the runs that are trained together, this one's among them."""
        about = {"digest": self.config.digest, "notes": notes, "stack": stack}
        write_whole(self.path / f"state-{step:08d}.safetensors", pack(leaves, about))

    def read_state(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        leaves, about = unpack(self.states()[step])
        if about.get("digest") != self.config.digest:
            raise UserError(f"{self.states()[step]} belongs to another run; delete it to start anew")
        return leaves, about["notes"]

    def begun(self) -> list[tuple[int, tuple[str, ...]]]:
        """The step of each state and the names of the runs that it was trained with, the newest first."""
        return [(step, tuple(described(file).get("stack", ()))) for step, file in sorted(self.states().items(), reverse=True)]

    def remove_states(self, but: int | None = None) -> None:
        for step, file in self.states().items():
            if step != but:
                file.unlink(missing_ok=True)


def _by_step(folder: Path, kind: str) -> dict[int, Path]:
    """Step -> file, of the files of a kind that are there, in order of steps."""
    found = ((re.fullmatch(rf"{kind}-(\d+)\.safetensors", file.name), file) for file in folder.iterdir())
    return dict(sorted((int(match[1]), file) for match, file in found if match))


def kept(folder: Path) -> tuple[int, ...]:
    """The steps whose trainable parameters are kept with a run, in order."""
    return tuple(_by_step(folder, "trainable"))


def read_kept(folder: Path, step: int, digest: str) -> dict[str, np.ndarray]:
    """The trainable parameters after a step that is kept, of the run whose configuration has that digest.

    Raises UserError where they are damaged, or those of another run or step.
    """
    file = _by_step(folder, "trainable")[step]
    values, about = unpack(file)
    if about != {"digest": digest, "step": step}:
        raise UserError(f"{file} belongs to another run or step; delete it")
    return values


def frozen(folder: Path) -> dict[str, np.ndarray]:
    """The frozen parameters that are kept with a run; none where all can be made again."""
    return unpack(folder / FROZEN)[0] if (folder / FROZEN).exists() else {}


def ended(folder: Path) -> tuple[dict[str, np.ndarray], str]:
    """Reads the parameters that a finished run ended with, as far as no checkpoint and no seed gives
    them, and identifies all of its parameters by a digest.

    Raises UserError where the run is not finished, or damaged.
    """
    result, (trained, identity) = summary(folder)["result"], unpack(folder / TRAINABLE)
    if result.get("trainable", digest(trained)) != digest(trained):
        raise UserError(f"{folder / TRAINABLE} does not hold what the result is of; train the run again")
    values = frozen(folder) | trained
    return values, hashlib.sha256(f"{digest(values)}{identity['frozen']}".encode()).hexdigest()[:32]


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
