"""States the device, its memory, and the versions and commit of the software, for records."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import numpy as np

# The file that states the memory limit, by the file system type of control groups.
LIMITS = {"cgroup2": "memory.max", "cgroup": "memory.limit_in_bytes"}


def memory(root: Path = Path("/")) -> int:
    """Measures the device's memory in bytes; on a CPU, the most that this process may take.

    A container or a batch system kills processes that take more.  root: the folder that holds
    `proc` and `sys`.
    """
    stated = jax.devices()[0].memory_stats() or {}
    if stated.get("bytes_limit"):
        return stated["bytes_limit"]
    import resource

    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    granted, _ = resource.getrlimit(resource.RLIMIT_AS)  # what `ulimit -v` sets
    limits = host, granted, *_group_limits(root)
    return min(limit for limit in limits if limit != resource.RLIM_INFINITY)


def _group_limits(root: Path) -> Iterator[int]:
    """Yields the memory limits of this process's control groups (versions 1 and 2) and parents."""
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
        # A container often sees its own group mounted as the top, but named as on the host.
        group = groups[kind]
        inner = group.relative_to(top) if group.is_relative_to(top) else PurePosixPath()
        for around in (inner, *inner.parents):
            try:
                yield int((root / point.lstrip("/") / around / LIMITS[kind]).read_text())
            except (OSError, ValueError):  # no such file, or "max"
                continue


def by_device(cpu: int, other: int) -> int:
    """Chooses a number by the device that jax computes on: a CPU, or a GPU or TPU."""
    return cpu if jax.default_backend() == "cpu" else other


def device() -> str:
    """Names the device that runs are trained on; for a CPU also the number of its cores."""
    first = jax.devices()[0]
    if first.platform != "cpu":
        return first.device_kind
    return f"{os.cpu_count()} x {platform.processor() or platform.machine()}"


def versions() -> dict[str, str]:
    """States the versions of Python and of the packages that a run's numbers depend on."""
    names = ("fpt", "jax", "jaxlib", "flax", "optax", "numpy", "tokenizers")
    installed = {name: version(name) for name in names}
    return {"python": platform.python_version()} | installed | {"blas": _blas()}


def differences(result: dict[str, Any]) -> str:
    """Describes how this machine differs from that of a result, to explain unequal parameters."""
    here, there = versions(), result.get("versions", {})
    differ = [f"{name} {here.get(name)} where it had {there.get(name)}"
              for name in sorted(here.keys() & there.keys()) if here.get(name) != there.get(name)]
    if differ:
        return f"this machine has {', '.join(differ)}"
    return "with the same versions of everything, so the body's weights or the kind of CPU differ"


def _blas() -> str:
    """Names numpy's library of linear algebra and the kind of CPU whose kernels it chose.

    The last bits of its results differ from kind to kind.
    """
    from threadpoolctl import threadpool_info

    try:
        numpys = Path(np.__file__).parent
        own = [numpys, numpys.with_name("numpy.libs")]  # scipy brings another library
        loaded = [library for library in threadpool_info() if library["user_api"] == "blas"]
        bundled = [library for library in loaded
                   if any(Path(library["filepath"]).is_relative_to(folder) for folder in own)]
        found, = bundled or loaded
        parts = found["internal_api"], found["version"], found.get("architecture")
        return " ".join(filter(None, parts))
    except Exception:  # no run may end for what a foreign library raises here
        return "unknown"


def commit() -> str | None:
    """States the commit of the clone that this code runs from, marked where files differ from it.

    Outside a clone there is None; so there is for an installation in another project's repository,
    for example in its .venv.
    """
    package = Path(__file__).resolve().parent
    # Inside a hook, git's variables point to the repository that the hook is of.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}

    def git(*arguments):
        found = subprocess.run(
            ["git", "-C", str(package), *arguments], env=environment, capture_output=True,
            text=True, errors="replace", timeout=10, check=True)
        return found.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        # The package lies directly below the top of its own repository.
        if git("rev-parse", "--show-prefix") != f"{package.name}/":
            return None
        return git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
