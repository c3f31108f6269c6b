"""What this machine and this installation are, as records state it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import jax


def memory() -> int:
    """Bytes of the device's memory."""
    stated = jax.devices()[0].memory_stats() or {}
    return stated.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device() -> str:
    """The device that runs are trained on."""
    first = jax.devices()[0]
    return f"{os.cpu_count()} x {platform.processor() or platform.machine()}" if first.platform == "cpu" else first.device_kind


def versions() -> dict[str, str]:
    """Of Python and of what the numbers hang on."""
    names = ("fpt", "jax", "jaxlib", "flax", "optax", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def commit() -> str | None:
    """The commit of the clone that this code runs from, marked where files differ from it; None outside a clone.

    An installation inside another project's repository, in its .venv say, is outside a clone.
    """
    package = Path(__file__).resolve().parent
    # Inside a hook, git's variables point to the repository that the hook is of.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments):
        found = subprocess.run(["git", "-C", str(package), *arguments], env=environment, capture_output=True, text=True,
                               errors="replace", timeout=10, check=True)
        return found.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        if git("rev-parse", "--show-prefix") != f"{package.name}/":  # the package's place below the top of the repository
            return None
        return git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
