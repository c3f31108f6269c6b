"""Files that appear whole or not at all, and the folder that holds what can be made again."""

import hashlib
import os
import tempfile
from pathlib import Path

from fpt.errors import UserError


def write_whole(path: Path, content: bytes) -> None:
    """Writes `content` to a temporary file beside `path`, flushes it to the disk and renames it over `path`.

    A reader, or a crash at any instant, sees the old file or the new one.  Raises UserError where the folder
    cannot be written or the disk is full; nothing is left behind then.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}; free some space or choose another folder") from error
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flushes a folder's list of names to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256(path: Path) -> str:
    """The hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_folder(named: Path | str | None) -> Path | None:
    """The folder of the data: the one that is named, else what `FPT_DATA` names, else None.

    Raises UserError where it is no folder, also where what it should hold is in the cache already.
    """
    folder = named or os.environ.get("FPT_DATA")
    if folder and not Path(folder).expanduser().is_dir():
        raise UserError(f"no folder {folder}: --data-dir or FPT_DATA names the folder that holds mnist/, cifar10/, listops/ "
                        "or text/")
    return Path(folder).expanduser() if folder else None


def cache_folder() -> Path:
    """Where decoded and generated data are kept: `FPT_CACHE`, else `fpt` in the user's cache folder.

    Everything in it can be made again; it may be deleted at any time.
    """
    if named := os.environ.get("FPT_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fpt"
