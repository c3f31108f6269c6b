"""What this machine and this installation are, as records state it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import jax
import numpy as np

ROOT = Path("/")
LIMITS = {"cgroup2": "memory.max", "cgroup": "memory.limit_in_bytes"}  # file system of control groups -> file of the limit


def memory(root: Path = ROOT) -> int:
    """Bytes of the device's memory; where the device is the host, at most what this process may take of it.

    A container or a batch system kills what takes more.  root: where /proc and /sys are.
    """
    stated = jax.devices()[0].memory_stats() or {}
    if stated.get("bytes_limit"):
        return stated["bytes_limit"]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_address_space(), *_group_limits(root)])


def _address_space() -> Iterator[int]:
    """The limit that `ulimit -v` sets, where there is one."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        yield limit


def _group_limits(root: Path) -> Iterator[int]:
    """The limits of this process's control groups, versions 1 and 2, and of the groups around them."""
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:  # not Linux
        return
    groups = {}
    for line in memberships:
        _, controllers, group = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            groups["cgroup" if controllers else "cgroup2"] = PurePosixPath(group)
    for line in mounts:
        place, _, mounted = line.partition(" - ")
        (top, point), (kind, _, options) = place.split()[3:5], mounted.split()[:3]
        if kind not in groups or (kind == "cgroup" and "memory" not in options.split(",")):
            continue
        # A container often sees its own group as the top, and yet its name from outside.
        inner = groups[kind].relative_to(top) if groups[kind].is_relative_to(top) else PurePosixPath()
        for around in (inner, *inner.parents):
            try:
                yield int((root / point.lstrip("/") / around / LIMITS[kind]).read_text())
            except (OSError, ValueError):  # no such file, or "max"
                continue


def device() -> str:
    """The device that runs are trained on."""
    first = jax.devices()[0]
    return f"{os.cpu_count()} x {platform.processor() or platform.machine()}" if first.platform == "cpu" else first.device_kind


def versions() -> dict[str, str]:
    """Of Python and of what the numbers hang on."""
    names = ("fpt", "jax", "jaxlib", "flax", "optax", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names} | {"blas": _blas()}


def _blas() -> str:
    """The library of numpy's linear algebra, with the kind of CPU whose kernels it chose: its results differ between kinds."""
    from threadpoolctl import threadpool_info

    try:
        own = [Path(np.__file__).parent, Path(np.__file__).parent.with_name("numpy.libs")]  # scipy brings another one
        loaded = [library for library in threadpool_info() if library["user_api"] == "blas"]
        bundled = [one for one in loaded if any(Path(one["filepath"]).is_relative_to(folder) for folder in own)]
        found, = bundled or loaded
        return " ".join(filter(None, (found["internal_api"], found["version"], found.get("architecture"))))
    except Exception:  # whatever it meets in a foreign library, no run may end for it
        return "unknown"


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
