"""Writes files and folders whole or not at all, and finds the folders of data and cache."""

import contextlib
import glob
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from fpt.errors import UserError

PART = ".fpt-part"  # the lock in a folder that is being filled


def write_whole(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Writes a file whole or not at all: a reader, or a crash, finds the old file or the new one.

    content: the bytes, or, where they are too many to be held at once, a function that writes them
    to an open file.  Raises UserError where the folder cannot be written or the disk is full, and
    leaves nothing behind then.
    """
    # The eight last characters are those that `remove_leftovers` expects.
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            content(file) if callable(content) else file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:  # Ctrl-C too, while a large file is being written
        with contextlib.suppress(OSError):  # where the parent is no folder, or the name too long
            temporary.unlink()
        if isinstance(error, OSError):
            raise _unwritten(path, error) from error
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder to fill, which becomes `folder` if the context ends without error.

    `folder` must be missing or empty.  Temporary folders that killed processes left are removed:
    nobody holds the lock in them.  Raises UserError where the folder cannot be written or the disk
    is full.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
            if (left / PART).is_file():
                with contextlib.suppress(Timeout), FileLock(left / PART, timeout=0):
                    shutil.rmtree(left)
        temporary = tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=f".{folder.name}.", ignore_cleanup_errors=True)
        with temporary as made, FileLock(Path(made) / PART):
            part = Path(made) / folder.name
            part.mkdir()
            yield part
            part.replace(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise _unwritten(folder, error) from error


def _unwritten(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write {path}: {error.strerror}; free some space or choose another folder")


def remove_leftovers(folder: Path, names: str) -> None:
    """Removes the temporary files that a process left which was killed in `write_whole`.

    names: a regular expression, which matches the names of the files that were being written.  All
    else in the folder, hidden or not, belongs to the user and stays.
    """
    for path in folder.iterdir():
        if re.fullmatch(rf"\.({names})\.[a-z0-9_]{{8}}", path.name) and path.is_file():
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flushes a folder's list of names to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Computes the sha256 of a file's bytes, as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_folder(named: Path | str | None) -> Path | None:
    """Finds the folder of the data: the named one, else the one that FPT_DATA names, else None.

    Raises UserError where there is no such folder, even if all data are in the cache already.
    """
    folder = named or os.environ.get("FPT_DATA")
    if not folder:
        return None
    found = _expanded(folder, "--data-dir or FPT_DATA")
    if not found.is_dir():
        raise UserError(f"no folder {folder}: --data-dir or FPT_DATA names the folder that holds "
                        "mnist/, cifar10/, listops/ or text/")
    return found


def cache_folder() -> Path:
    """Finds the folder that keeps decoded data, generated data and compiled code.

    Everything in this folder can be made again, so it may be deleted at any time.  It is FPT_CACHE,
    else `fpt` in the user's cache folder, else, for a user without a home folder, `fpt-UID` in the
    temporary folder, which this user alone must be able to write to.  Raises UserError where there
    is no such folder.
    """
    if named := os.environ.get("FPT_CACHE"):
        return _expanded(named, "FPT_CACHE")
    if named := os.environ.get("XDG_CACHE_HOME"):
        return _expanded(named, "XDG_CACHE_HOME") / "fpt"
    try:
        return Path.home() / ".cache" / "fpt"
    except RuntimeError:  # in a container, say, whose user is in no list
        return _own_temporary_folder()


def _expanded(named: Path | str, by: str) -> Path:
    try:
        return Path(named).expanduser()
    except RuntimeError:
        raise UserError(f"{by} names {named}, but there is no such home folder; name the folder "
                        "without ~") from None


def _own_temporary_folder() -> Path:
    """Makes a folder of this user in the temporary folder.

    Raises UserError where another user could put compiled code there that would be executed.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"fpt-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UserError(f"there is no home folder, nor a temporary one to write to "
                        f"({error.strerror}); name a folder for what is made once with "
                        "FPT_CACHE") from None
    others = found.st_uid != os.getuid() or found.st_mode & 0o022
    if others or not stat.S_ISDIR(found.st_mode):
        raise UserError(f"{folder} is a link, or somebody else can write to it; remove it, or name "
                        "another folder with FPT_CACHE")
    return folder
