"""Files that appear whole or not at all, and the folder that holds what can be made again."""

import contextlib
import glob
import hashlib
import os
import re
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
    """Writes a file beside `path`, flushes it to the disk and renames it over `path`.

    content: the file's bytes, or, where these are too many to be held at once, a function that writes them to a file.
    A reader, or a crash at any instant, sees the old file or the new one.  Raises UserError where the folder
    cannot be written or the disk is full; nothing is left behind then.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            content(file) if callable(content) else file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException as error:  # Ctrl-C too, while a large file is being written
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write {path}: {error.strerror}; free some space or choose another folder") from error
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Gives a temporary folder beside `folder` to fill, which takes its place at the end of the context; at an error it goes.

    `folder` must be missing or empty.  A temporary folder that a killed process left is removed, known by the lock that
    lies in it and that nobody holds; one that another process is filling stays.  Raises UserError where it cannot be
    written or the disk is full.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
            if (left / PART).is_file():
                with contextlib.suppress(Timeout), FileLock(left / PART, timeout=0):
                    shutil.rmtree(left)
        temporary = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.", ignore_cleanup_errors=True)
        with temporary as made, FileLock(Path(made) / PART):
            part = Path(made) / folder.name
            part.mkdir()
            yield part
            part.replace(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; free some space or choose another folder") from error


def remove_leftovers(folder: Path, names: str) -> None:
    """Removes the temporary files that a process left which was killed in `write_whole`, of files that `names` matches.

    names: a regular expression.  Whatever else lies in the folder, hidden or not, is its user's and stays.
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
    if not folder:
        return None
    found = _expanded(folder, "--data-dir or FPT_DATA")
    if not found.is_dir():
        raise UserError(f"no folder {folder}: --data-dir or FPT_DATA names the folder that holds mnist/, cifar10/, listops/ "
                        "or text/")
    return found


def cache_folder() -> Path:
    """Where decoded and generated data are kept: `FPT_CACHE`, else `fpt` in the user's cache folder, else `fpt-UID` in the
    temporary folder, which is made and must be this user's alone: code that was compiled is kept in it too.

    Everything in it can be made again; it may be deleted at any time.  Raises UserError where there is no such folder.
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
        raise UserError(f"{by} names {named}, but there is no such home folder; name the folder without ~") from None


def _own_temporary_folder() -> Path:
    try:
        folder = Path(tempfile.gettempdir()) / f"fpt-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UserError(f"there is no home folder, nor a temporary one to write to ({error.strerror}); name a folder for what is "
                        "made once with FPT_CACHE") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UserError(f"{folder} is a link, or somebody else can write to it; remove it, or name another folder with FPT_CACHE")
    return folder
