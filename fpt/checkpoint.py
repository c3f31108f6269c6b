"""GPT-2 checkpoints in and out: `config.json` and safetensors, never code.

The names of GPT-2's checkpoints and of our parameters map one to one, and so do the arrays: its linear layers are
stored (in, out), as ours are.
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

from fpt.body import Table
from fpt.bodies import SHIPPED, named, names, shipped, weights_digest
from fpt.errors import UserError, nearest
from fpt.files import sha256, write_whole
from fpt.gpt2 import GPT2
from fpt.gpt2_config import read_geometry, write_geometry

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DIGEST = ".sha256"  # ends the name of the file beside a weight file that states its digest, as `sha256sum -c` reads it
SEEDS = "fpt_seeds"  # key of config.json
PREFIX = "transformer."
# Keys that a body has no place for: causal masks kept as buffers, a language model's table and the head tied to it, and
# the input and output layers of a run that was exported.
IGNORED = r"h\.\d+\.attn\.(bias|masked_bias)|lm_head\.weight|wte\.weight|(input|output)\.(kernel|bias|embedding)"
KINDS = ("F32", "F16", "BF16")  # dtypes that are read
ANSWER_SECONDS = 5  # that the hub has for an answer


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk: its geometry, its weight files and the digest of what they hold."""

    folder: Path
    geometry: GPT2
    files: tuple[Path, ...]
    digest: str  # of what the files hold, in order of name
    seeds: tuple[int, ...] = ()  # under which it was trained around fresh input and output layers


def theirs(name: str) -> str:
    """`body/h_0/attn/c_attn/kernel` -> `h.0.attn.c_attn.weight`; names of input and output layer stay, with dots."""
    if name.startswith("body/"):
        name = re.sub(r"^body/h_(\d+)/", r"h.\1/", name).removeprefix("body/")
        name = re.sub(r"/(kernel|scale)$", "/weight", name)
    return {"wpe": "wpe.weight", "token/embedding": "wte.weight"}.get(name, name).replace("/", ".")


class _NotFetched(Exception):
    """Says why the hub's weights cannot be had, as the end of a sentence."""


def locate(body: str) -> Checkpoint:
    """The checkpoint that `--body` names.

    A geometry's name means the weights shipped under it, or the hub's; other shipped bodies have names of their own.
    Raises UserError where a folder holds no checkpoint, where it is damaged, where the hub's weights cannot be had, and
    where nothing of that name is known.
    """
    if body in shipped():
        return open_folder(SHIPPED / body)
    if os.path.isdir(body):
        return open_folder(Path(body))
    if ("/" in body or os.sep in body) and not re.fullmatch(r"\w[\w.-]*/[\w.-]+", body):
        raise UserError(f"no folder {body}; --body takes a geometry's name, a checkpoint's folder or a hub id")
    try:
        return _from_hub(body)  # the hub's oldest checkpoints have names of one word
    except _NotFetched as why:
        if "/" not in body and not named(body):
            raise UserError(f"{nearest(body, names(), 'body')} (no such folder, and {why})") from None
        instead = "name a checkpoint's folder" + (", or say --load none for a random body" if named(body) else "")
        raise UserError(f"no weights of {body!r}: no such folder, and {why}; {instead}") from None


def open_folder(folder: Path) -> Checkpoint:
    """The checkpoint in a folder: one safetensors file, or several under an index."""
    geometry = read_geometry(folder / "config.json")
    files = [folder / WEIGHTS]
    if not files[0].is_file() and (folder / INDEX).is_file():
        files = [folder / name for name in _shards(folder / INDEX)]
    for file in files:
        if file.parent != folder or not file.is_file():
            raise UserError(f"no {file.name} in {folder}; weights are read from safetensors, fetch them again")
    digest = weights_digest(map(_checked_digest, files))
    return Checkpoint(folder, geometry, tuple(files), digest, _seeds(folder / "config.json"))


def _checked_digest(file: Path) -> str:
    """The sha256 of a weight file.  Raises UserError where it cannot be read, or has another digest than is stated."""
    try:
        found, stated = sha256(file), _stated_digest(file)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}; make it readable, or fetch it again") from None
    if stated and stated != found:
        raise UserError(f"{file} is damaged: its sha256 is {found[:12]}..., not {stated[:12]}... as stated; fetch it again, or "
                        f"delete {file.name}{DIGEST} if you have changed the weights yourself")
    return found


def _stated_digest(file: Path) -> str | None:
    """The sha256 that a weight file should have: as stated beside it, or by the hub's cache, which names files so."""
    beside = file.with_name(file.name + DIGEST)
    if not beside.is_file():
        return file.resolve().name if re.fullmatch("[0-9a-f]{64}", file.resolve().name) else None
    if not re.match("[0-9a-f]{64}", stated := beside.read_bytes()[:64].decode(errors="replace")):
        raise UserError(f"{beside} is damaged; fetch the checkpoint again, or delete it")
    return stated


def _seeds(config: Path) -> tuple[int, ...]:
    """The seeds of the runs that trained the body of a `config.json` around input and output layers of their own."""
    seeds = json.loads(config.read_text()).get(SEEDS, [])
    if not (isinstance(seeds, list) and all(isinstance(seed, int) for seed in seeds)):
        raise UserError(f"{config}: {SEEDS} must be a list of whole numbers, not {seeds!r}")
    return tuple(seeds)


def _shards(index: Path) -> list[str]:
    """The names of the weight files that an index lists."""
    try:
        return sorted({os.fspath(name) for name in json.loads(index.read_text())["weight_map"].values()})
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise UserError(f"{index} is damaged; fetch the checkpoint again") from None
    except OSError as error:
        raise UserError(f"{index} cannot be read: {error.strerror}; make it readable, or fetch it again") from None


def _from_hub(name: str) -> Checkpoint:
    """A checkpoint in the hub's cache, fetched if it is not there whole; no wait where there is no network.

    Raises _NotFetched where it cannot be had, for whatever reason: a random body in its place would be another experiment.
    Raises UserError where the hub has it, but it is none that can be read.
    """
    from huggingface_hub import logging, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    refused = ""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would warn of each of its tries in a line of its own
    try:
        try:
            found = open_folder(Path(snapshot_download(name, local_files_only=True)))
            if all(map(_readable, found.files)):
                return found
            refused = f" (in its cache, {found.folder} is damaged)"
        except LocalEntryNotFoundError:
            pass
        except UserError as error:
            refused = f" (in its cache: {error})"
        return open_folder(_fetch(name))
    except (UserError, _NotFetched):
        raise
    except Exception as error:  # the library passes on whatever its client, a parser or a foreign answer comes to
        raise _NotFetched(_why(error) + refused) from None
    finally:
        logging.set_verbosity(verbosity)


def _fetch(name: str) -> Path:
    """Fetches a checkpoint's configuration and weights into the hub's cache; returns their folder there."""
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url

    def fetch(file, revision=None):
        # The download would ask for the file's size several times, and wait a minute each time; first ask once, briefly.
        get_hf_file_metadata(hf_hub_url(name, file, revision=revision), timeout=ANSWER_SECONDS)
        for _ in range(2):  # first perhaps a damaged one that was in the cache
            path = Path(hf_hub_download(name, file, revision=revision, etag_timeout=ANSWER_SECONDS))
            if _readable(path):
                return path
            path.resolve().unlink()
            path.unlink(missing_ok=True)
        raise _NotFetched(f"what the hub sends as {file} is damaged, or something else")

    held = {file.rfilename for file in HfApi().model_info(name, timeout=ANSWER_SECONDS).siblings or ()}
    if "config.json" not in held or not {WEIGHTS, INDEX} & held:
        raise UserError(f"the hub's {name!r} is no checkpoint that can be read: config.json and {WEIGHTS}")
    config = fetch("config.json")
    read_geometry(config)  # another architecture is refused before gigabytes of it are fetched
    folder = config.parent  # named by the commit: all files are fetched from that one
    for file in [WEIGHTS] if WEIGHTS in held else _shards(fetch(INDEX, folder.name)):
        fetch(file, folder.name)
    return folder


def _readable(file: Path) -> bool:
    """Whether a file is what its name says, and not cut off: JSON or safetensors."""
    from safetensors import SafetensorError, safe_open

    try:
        if file.suffix == ".json":
            return isinstance(json.loads(file.read_text()), dict)
        with safe_open(file, framework="np"):
            return True
    except (ValueError, RecursionError, SafetensorError):
        return False


def _why(error: Exception) -> str:
    """What kept the hub's library from its work, in a few words."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    for cause in (error, error.__cause__):
        if isinstance(cause, HFValidationError):
            return "no checkpoint on the hub can have that name"
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            meaning = ", no such repository or one that needs a login" if status in (401, 403, 404) else ""
            return f"the hub does not give it (HTTP status {status}{meaning})"
        if isinstance(cause, OfflineModeIsEnabled):
            return "with HF_HUB_OFFLINE set the hub cannot be reached"
        if isinstance(cause, OSError) and cause.errno:
            return f"the hub's cache cannot be used ({cause.strerror}: {cause.filename})"
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return f"the hub at {constants.ENDPOINT} cannot be reached or breaks off ({said[:200]})"


# The arrays that somebody still holds, by their checkpoint's digest, name and dtype: bodies and runs
# that are loaded at the same time share them.  Nothing donates what is read.
_alive: weakref.WeakValueDictionary[tuple, jax.Array] = weakref.WeakValueDictionary()


def read(checkpoint: Checkpoint, wanted: Callable[[str], bool], table: Table,
         dtype: Callable[[str], Any] = lambda name: np.float32) -> dict[str, jax.Array]:
    """The parameters of a table (by name) for which `wanted(name)` holds, each in `dtype(name)`.

    Every key must be one of ours or a known extra, and every wanted parameter must be there, in its shape and finite;
    keys of parameters that are not wanted may be absent.  Raises UserError naming the keys otherwise.
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
                        raise UserError(f"{checkpoint.folder} holds {short} twice, with and without {PREFIX!r}; keep one of them")
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
        raise UserError(f"{checkpoint.folder} holds keys that a GPT-2 body does not have: {_some(unknown)}")
    if missing:
        raise UserError(f"{checkpoint.folder} lacks {_some(sorted(missing))}; load other roles, or another checkpoint")
    return found


def _tensor(tensors, key: str, shape: tuple[int, ...], file: Path) -> np.ndarray:
    stated = tensors.get_slice(key)
    if stated.get_dtype() not in KINDS:
        raise UserError(f"{file}: {key} is stored as {stated.get_dtype()}; {', '.join(KINDS)} are read")
    if tuple(stated.get_shape()) != shape:
        raise UserError(f"{file}: {key} has shape {tuple(stated.get_shape())}, but config.json asks for {shape}")
    value = np.asarray(tensors.get_tensor(key), np.float32)
    if not np.isfinite(value).all():
        raise UserError(f"{file}: {key} holds numbers that are not finite; fetch the checkpoint again")
    return value


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def write(folder: Path, geometry: GPT2, parameters: dict, dtype=np.float32, seeds: Sequence[int] = ()) -> None:
    """Writes parameters, by our names, as a checkpoint that transformers reads; input and output layer beside the body.

    seeds: see `Checkpoint`.
    """
    from safetensors.numpy import save

    tensors = {theirs(name): np.asarray(value, dtype, order="C") for name, value in parameters.items()}
    write_whole(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    config = write_geometry(geometry) | ({SEEDS: list(seeds)} if seeds else {})
    write_whole(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())


def seal(folder: Path) -> None:
    """Writes the sha256 of a checkpoint's weights beside them, so that damage is seen when they are loaded."""
    write_whole(folder / f"{WEIGHTS}{DIGEST}", f"{sha256(folder / WEIGHTS)}  {WEIGHTS}\n".encode())
