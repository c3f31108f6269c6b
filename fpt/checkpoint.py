"""Reads and writes GPT-2 checkpoints: `config.json` and safetensors, never code.

The names of GPT-2's checkpoints and of our parameters map one to one, and so do the arrays: GPT-2's
linear layers are stored (in, out), as ours are.
"""

from __future__ import annotations

import json
import os
import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fpt import bodies, hub
from fpt.body import Table
from fpt.errors import UserError, nearest
from fpt.files import sha256, write_whole
from fpt.gpt2 import GPT2
from fpt.gpt2_config import read_geometry, write_geometry

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DIGEST = ".sha256"  # ends the name of a file with a weight file's digest, for `sha256sum -c`
SEEDS = "fpt_seeds"  # key of config.json
PREFIX = "transformer."
# Keys that a body has no place for: causal masks kept as buffers, a language model's table and the
# head tied to it, and the input and output layers of a run that was exported.
IGNORED = (r"h\.\d+\.attn\.(bias|masked_bias)|lm_head\.weight|wte\.weight|"
           r"(input|output)\.(kernel|bias|embedding)")
KINDS = ("F32", "F16", "BF16")  # dtypes that are read


@dataclass(frozen=True)
class Checkpoint:
    """Describes a checkpoint on disk."""

    folder: Path
    geometry: GPT2
    files: tuple[Path, ...]  # of the weights
    digest: str  # of the weight files, in order of name
    seeds: tuple[int, ...] = ()  # see `_seeds`


def theirs(name: str) -> str:
    """Translates the name of a parameter here into its name in a GPT-2 checkpoint.

    `body/h_0/attn/c_attn/kernel` becomes `h.0.attn.c_attn.weight`; names of the input and output
    layers stay, with dots.
    """
    if name.startswith("body/"):
        name = re.sub(r"^body/h_(\d+)/", r"h.\1/", name).removeprefix("body/")
        name = re.sub(r"/(kernel|scale)$", "/weight", name)
    return {"wpe": "wpe.weight", "token/embedding": "wte.weight"}.get(name, name).replace("/", ".")


def locate(body: str) -> Checkpoint:
    """Finds the checkpoint that `--body` names: one in the package, a folder, or one on the hub.

    The name of a geometry means the weights in the package under that name, or else the hub's.
    Raises UserError where no checkpoint has that name, or where it is damaged or out of reach.
    """
    if body in bodies.shipped():
        return open_folder(bodies.SHIPPED / body)
    if os.path.isdir(body):
        return open_folder(Path(body))
    if ("/" in body or os.sep in body) and not re.fullmatch(r"\w[\w.-]*/[\w.-]+", body):
        raise UserError(f"no folder {body}; --body takes a geometry's name, a checkpoint's folder "
                        "or a hub id")
    try:
        return _from_hub(body)  # the hub's oldest checkpoints have names of one word
    except hub.Unavailable as why:
        if "/" not in body and not bodies.named(body):
            unknown = nearest(body, bodies.names(), "body")
            raise UserError(f"{unknown} (no such folder, and {why})") from None
        random = ", or say --load none for a random body" if bodies.named(body) else ""
        raise UserError(f"no weights of {body!r}: no such folder, and {why}; name a checkpoint's "
                        f"folder{random}") from None


def open_folder(folder: Path) -> Checkpoint:
    """Opens the checkpoint in a folder: one safetensors file, or several under an index.

    Raises UserError where there is none, or it is damaged.
    """
    geometry = read_geometry(folder / "config.json")
    files = [folder / WEIGHTS]
    if not files[0].is_file() and (folder / INDEX).is_file():
        files = [folder / name for name in _shards(folder / INDEX)]
    for file in files:
        if file.parent != folder or not file.is_file():
            raise UserError(f"no {file.name} in {folder}; weights are read from safetensors, fetch "
                            "them again")
    digest = bodies.weights_digest(map(_checked_digest, files))
    return Checkpoint(folder, geometry, tuple(files), digest, _seeds(folder / "config.json"))


def _checked_digest(file: Path) -> str:
    """Computes the sha256 of a weight file.  Raises UserError where `_stated_digest` differs."""
    try:
        found, stated = sha256(file), _stated_digest(file)
    except OSError as error:
        raise _unreadable(file, error) from None
    if stated and stated != found:
        raise UserError(f"{file} is damaged: its sha256 is {found[:12]}..., not {stated[:12]}... "
                        f"as stated; fetch it again, or delete {file.name}{DIGEST} if you have "
                        "changed the weights yourself")
    return found


def _stated_digest(file: Path) -> str | None:
    """Reads the sha256 that a weight file should have, or None.

    It stands in the file that `seal` writes beside the weights, or is the name of the file itself
    in the hub's cache.  Raises UserError where the file beside them is damaged.
    """
    beside = file.with_name(file.name + DIGEST)
    if not beside.is_file():
        return file.resolve().name if re.fullmatch("[0-9a-f]{64}", file.resolve().name) else None
    if not re.match("[0-9a-f]{64}", stated := beside.read_bytes()[:64].decode(errors="replace")):
        raise UserError(f"{beside} is damaged; fetch the checkpoint again, or delete it")
    return stated


def _seeds(config: Path) -> tuple[int, ...]:
    """Reads the seeds of the runs that trained the body along with freshly drawn layers around it.

    A run of the same seed would draw the same input and output layers, to which the body is fitted.
    """
    seeds = json.loads(config.read_text()).get(SEEDS, [])
    if not (isinstance(seeds, list) and all(isinstance(seed, int) for seed in seeds)):
        raise UserError(f"{config}: {SEEDS} must be a list of whole numbers, not {seeds!r}")
    return tuple(seeds)


def _shards(index: Path) -> list[str]:
    """Reads the names of the weight files that an index lists."""
    try:
        names = json.loads(index.read_text())["weight_map"].values()
        return sorted({os.fspath(name) for name in names})
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise UserError(f"{index} is damaged; fetch the checkpoint again") from None
    except OSError as error:
        raise _unreadable(index, error) from None


def _unreadable(file: Path, error: OSError) -> UserError:
    return UserError(
        f"{file} cannot be read: {error.strerror}; make it readable, or fetch it again")


def _from_hub(name: str) -> Checkpoint:
    """Opens a checkpoint in the hub's cache, and fetches it where it is missing or damaged there.

    Raises hub.Unavailable where it cannot be had, whatever the reason: a random body in its place
    would be another experiment.  Raises UserError where what the hub has is no checkpoint.
    """
    damage = ""
    try:
        with hub.asking():
            try:
                if folder := hub.cached(name):
                    found = open_folder(folder)
                    if all(map(hub.readable, found.files)):
                        return found
                    damage = f" (in its cache, {found.folder} is damaged)"
            except UserError as error:
                damage = f" (in its cache: {error})"
            return open_folder(_fetch(name))
    except hub.Unavailable as why:
        raise hub.Unavailable(f"{why}{damage}") from None


def _fetch(name: str) -> Path:
    """Fetches a checkpoint into the hub's cache, and returns its folder there."""
    held = hub.files(name)
    if "config.json" not in held or not {WEIGHTS, INDEX} & held:
        raise UserError(f"the hub's {name!r} is no checkpoint that can be read: config.json and "
                        f"{WEIGHTS}")
    config = hub.fetch(name, "config.json")
    read_geometry(config)  # refuses another architecture before gigabytes are fetched
    commit = config.parent.name  # all files are fetched from that one
    for file in [WEIGHTS] if WEIGHTS in held else _shards(hub.fetch(name, INDEX, commit)):
        hub.fetch(name, file, commit)
    return config.parent


# The arrays that somebody still holds, by their checkpoint's digest, name and dtype: bodies and
# runs that are loaded at the same time share them.  Nothing donates what is read.
_alive: weakref.WeakValueDictionary[tuple, jax.Array] = weakref.WeakValueDictionary()


def read(checkpoint: Checkpoint, wanted: Callable[[str], bool], table: Table,
         dtype: Callable[[str], Any] = lambda name: np.float32) -> dict[str, jax.Array]:
    """Reads the parameters for which `wanted(name)` holds, each in `dtype(name)`.

    table: describes all of the model's parameters; those that are not wanted may be absent from
    the checkpoint.  Raises UserError, which names the keys, where a wanted parameter is missing or
    not finite or has another shape, or where a key is neither a parameter's nor a known extra.
    """
    from safetensors import SafetensorError, safe_open

    ours = {theirs(name): name for name in table}
    missing = {theirs(name) for name in table if wanted(name)}
    found, unknown = {}, []
    for file in checkpoint.files:
        try:
            with safe_open(file, framework="np") as tensors:
                for key in tensors.keys():
                    short = key.removeprefix(PREFIX)
                    if ours.get(short) in found:
                        raise UserError(f"{checkpoint.folder} holds {short} twice, with and "
                                        f"without {PREFIX!r}; keep one of them")
                    if short in ours and wanted(ours[short]):
                        name, shape = ours[short], table[ours[short]].shape
                        known = checkpoint.digest, name, jnp.dtype(dtype(name))
                        value = _alive.get(known)
                        if value is None or value.shape != shape:
                            value = jnp.asarray(_tensor(tensors, key, shape, file).astype(known[2]))
                            _alive[known] = value
                        found[name] = value
                        missing.discard(short)
                    elif short not in ours and not re.fullmatch(IGNORED, short):
                        unknown.append(key)
        except SafetensorError as error:
            raise UserError(f"{file} is damaged ({error}); fetch the checkpoint again") from None
    if unknown:
        raise UserError(f"{checkpoint.folder} holds keys that a GPT-2 body does not have: "
                        f"{_some(unknown)}")
    if missing:
        raise UserError(f"{checkpoint.folder} lacks {_some(sorted(missing))}; load other roles, or "
                        "another checkpoint")
    return found


def _tensor(tensors, key: str, shape: tuple[int, ...], file: Path) -> np.ndarray:
    stated = tensors.get_slice(key)
    if stated.get_dtype() not in KINDS:
        raise UserError(f"{file}: {key} is stored as {stated.get_dtype()}; {', '.join(KINDS)} are "
                        "read")
    if tuple(stated.get_shape()) != shape:
        raise UserError(f"{file}: {key} has shape {tuple(stated.get_shape())}, but config.json "
                        f"asks for {shape}")
    value = np.asarray(tensors.get_tensor(key), np.float32)
    if not np.isfinite(value).all():
        raise UserError(f"{file}: {key} holds numbers that are not finite; fetch the checkpoint "
                        "again")
    return value


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def write(folder: Path, geometry: GPT2, parameters: dict, dtype=np.float32,
          seeds: Sequence[int] = ()) -> None:
    """Writes parameters as a checkpoint that Hugging Face's transformers reads.

    Parameters of the input and output layers may be among them.  seeds: see `_seeds`.
    """
    from safetensors.numpy import save

    tensors = {theirs(name): np.asarray(value, dtype, order="C")
               for name, value in parameters.items()}
    write_whole(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    config = write_geometry(geometry) | ({SEEDS: list(seeds)} if seeds else {})
    write_whole(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())


def seal(folder: Path) -> None:
    """Writes the sha256 of a checkpoint's weights beside them, so that loading notices damage."""
    stated = f"{sha256(folder / WEIGHTS)}  {WEIGHTS}\n"
    write_whole(folder / f"{WEIGHTS}{DIGEST}", stated.encode())
