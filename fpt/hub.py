"""Fetches files from the Hugging Face hub, and says in few words why it cannot."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from fpt.errors import UserError

ANSWER_SECONDS = 5  # the time that the hub has for an answer


class Unavailable(Exception):
    """Says why the hub's weights cannot be had, as the end of a sentence."""


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Turns all exceptions of the hub's library into Unavailable while the context is open."""
    from huggingface_hub import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would warn of each of its tries in a line of its own
    try:
        yield
    except (UserError, Unavailable):
        raise
    except Exception as error:  # the library passes on the errors of its client and its parsers
        raise Unavailable(_why(error)) from None
    finally:
        logging.set_verbosity(verbosity)


def cached(name: str) -> Path | None:
    """Finds the folder of a repository in the hub's cache, or None; the hub is not asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def files(name: str) -> set[str]:
    """Asks the hub for the names of a repository's files."""
    from huggingface_hub import HfApi

    siblings = HfApi().model_info(name, timeout=ANSWER_SECONDS).siblings or ()
    return {file.rfilename for file in siblings}


def fetch(name: str, file: str, commit: str | None = None) -> Path:
    """Fetches a file of a repository into the hub's cache, from that commit or from the newest.

    Returns its path, whose folder is named by the commit.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    # The download would ask for the file's size several times, and wait a minute each time; so it
    # is asked for once before, with a short wait.
    get_hf_file_metadata(hf_hub_url(name, file, revision=commit), timeout=ANSWER_SECONDS)
    for _ in range(2):  # the first may be a damaged file that was in the cache
        path = Path(hf_hub_download(name, file, revision=commit, etag_timeout=ANSWER_SECONDS))
        if readable(path):
            return path
        path.resolve().unlink()
        path.unlink(missing_ok=True)
    raise Unavailable(f"what the hub sends as {file} is damaged, or something else")


def readable(file: Path) -> bool:
    """Says whether a file is whole JSON or safetensors, as its name says."""
    from safetensors import SafetensorError, safe_open

    try:
        if file.suffix == ".json":
            return isinstance(json.loads(file.read_text()), dict)
        with safe_open(file, framework="np"):
            return True
    except (ValueError, RecursionError, SafetensorError):
        return False


def _why(error: Exception) -> str:
    """Says in a few words why the hub's library failed."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    for cause in (error, error.__cause__):
        if isinstance(cause, HFValidationError):
            return "no checkpoint on the hub can have that name"
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            refused = status in (401, 403, 404)
            meaning = ", no such repository or one that needs a login" if refused else ""
            return f"the hub does not give it (HTTP status {status}{meaning})"
        if isinstance(cause, OfflineModeIsEnabled):
            return "with HF_HUB_OFFLINE set the hub cannot be reached"
        if isinstance(cause, OSError) and cause.errno:
            return f"the hub's cache cannot be used ({cause.strerror}: {cause.filename})"
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return f"the hub at {constants.ENDPOINT} cannot be reached or breaks off ({said[:200]})"
