"""What records state of the machine and of the installation is this process's, and this project's."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fpt import machine


def git(folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    return subprocess.run(["git", "-C", str(folder), *settings, *arguments], env=environment, check=True, text=True,
                          capture_output=True).stdout.strip()


def installed(folder):
    """The module as it is in a package that lies in `folder`."""
    (folder / "fpt").mkdir(parents=True)
    shutil.copy(machine.__file__, folder / "fpt")
    specification = importlib.util.spec_from_file_location("installed", folder / "fpt" / "machine.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def committed(folder, *files):
    """A repository at `folder` with one commit of these files; its hash."""
    folder.mkdir(exist_ok=True)
    git(folder, "init")
    git(folder, "add", *files)
    git(folder, "commit", "--allow-empty", "-m", str(folder))
    return git(folder, "rev-parse", "HEAD")


def test_a_clones_commit_is_stated_and_marked_where_files_differ(tmp_path):
    module = installed(tmp_path)
    first = committed(tmp_path, "fpt")
    assert module.commit() == first
    with (tmp_path / "fpt" / "machine.py").open("a") as file:
        file.write("# changed\n")
    assert module.commit() == f"{first}-dirty"


def test_a_linked_worktree_is_a_clone(tmp_path):
    installed(tmp_path / "clone")
    first = committed(tmp_path / "clone", "fpt")
    git(tmp_path / "clone", "worktree", "add", str(tmp_path / "other"))
    shutil.rmtree(tmp_path / "other" / "fpt")
    assert installed(tmp_path / "other").commit() == first


def test_outside_a_repository_there_is_no_commit(tmp_path):
    assert installed(tmp_path).commit() is None


@pytest.mark.parametrize("place", [".venv/lib/python3/site-packages", "vendor/project"])
@pytest.mark.parametrize("tracked", [False, True], ids=["untracked", "tracked"])
def test_an_installation_inside_another_repository_does_not_state_its_commit(tmp_path, place, tracked):
    module = installed(tmp_path / place)
    committed(tmp_path, *([place] if tracked else []))
    assert module.commit() is None


def test_a_copy_at_the_top_of_a_repository_that_does_not_track_it_has_no_commit(tmp_path):
    module = installed(tmp_path)
    committed(tmp_path)
    assert module.commit() is None


@pytest.mark.parametrize("variables", [("GIT_DIR",), ("GIT_DIR", "GIT_WORK_TREE"), ("GIT_DIR", "GIT_INDEX_FILE")])
@pytest.mark.parametrize("cloned", [True, False], ids=["clone", "no clone"])
def test_the_variables_of_a_git_hook_do_not_mislead(tmp_path, monkeypatch, variables, cloned):
    module = installed(tmp_path / "project")
    first = committed(tmp_path / "project", "fpt") if cloned else None
    other = tmp_path / "other"
    installed(other)
    assert committed(other, "fpt") != first
    git(other, "commit", "--allow-empty", "-m", "second")
    values = {"GIT_DIR": other / ".git", "GIT_WORK_TREE": tmp_path / "project", "GIT_INDEX_FILE": other / ".git" / "index"}
    for name in variables:
        monkeypatch.setenv(name, str(values[name]))
    assert module.commit() == first


GIB = 2**30
MOUNTS = {  # as /proc/self/mountinfo states them, and the file of the limit
    1: ("35 31 0:32 {top} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory", "memory.limit_in_bytes"),
    2: ("41 31 0:38 {top} /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate", "memory.max"),
}
MEMBERS = {1: "5:cpu,cpuacct:/other\n4:memory:{group}\n0::/\n", 2: "0::{group}\n"}


def system(root, version, group, limits, top="/"):
    """The files under /proc and /sys of a process in `group`; limits: folder below the mount point -> what its file holds."""
    mount, name = MOUNTS[version]
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(MEMBERS[version].format(group=group))
    (root / "proc/self/mountinfo").write_text(
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
        f"{mount.format(top=top)}\n")
    for folder, limit in limits.items():
        file = root / mount.split()[4].lstrip("/") / folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    return root


@pytest.fixture
def host(tmp_path):
    """What the machine has, as far as this process is not limited already."""
    return machine.memory(tmp_path / "nothing")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("group", "limits", "top", "least"), [
    ("/job", {"job": GIB}, "/", GIB),
    ("/slurm/uid/job/step", {"slurm/uid/job/step": "max", "slurm/uid/job": GIB, "slurm": 2 * GIB}, "/", GIB),
    ("/slurm/uid/job/step", {"slurm/uid/job/step": 2 * GIB, "slurm": GIB}, "/", GIB),
    ("/", {".": GIB}, "/", GIB),
    ("/docker/abc", {".": GIB}, "/docker/abc", GIB),
    ("/docker/abc/inner", {"inner": GIB, ".": 2 * GIB}, "/docker/abc", GIB),
    ("/docker/abc", {".": GIB}, "/another", GIB),
    ("/job", {"job": "max", "neighbour": GIB}, "/", None),
    ("/job", {"job": 9223372036854771712}, "/", None),
    ("/job", {}, "/", None),
])
def test_memory_is_the_least_of_the_machine_and_of_the_control_groups(tmp_path, host, version, group, limits, top, least):
    assert machine.memory(system(tmp_path / "root", version, group, limits, top)) == (least or host)


def test_memory_is_at_most_the_address_space_that_is_granted():
    code = ("import resource; from fpt import machine; import jax; jax.devices(); "
            f"resource.setrlimit(resource.RLIMIT_AS, ({2**36}, -1)); "
            "import os; os.sysconf = lambda name: 2**22; print(machine.memory())")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           cwd=Path(__file__).parent.parent)
    assert int(found.stdout) == 2**36


def test_the_versions_name_the_library_that_divides_text_into_tokens():
    from importlib.metadata import version

    assert machine.versions()["tokenizers"] == version("tokenizers")


def test_the_versions_name_the_library_of_linear_algebra_and_its_kernels():
    from threadpoolctl import threadpool_info

    loaded = [library for library in threadpool_info() if library["user_api"] == "blas"]
    if not loaded:
        pytest.skip("numpy's linear algebra is none that threadpoolctl knows")
    stated = machine.versions()["blas"]
    assert stated in {" ".join((one["internal_api"], one["version"], one["architecture"])) for one in loaded}


def test_versions_are_stated_whatever_the_library_of_linear_algebra_is(monkeypatch):
    def fail():
        raise OSError("no such library")

    monkeypatch.setattr("threadpoolctl.threadpool_info", fail)
    assert machine.versions()["blas"] == "unknown"
    monkeypatch.setattr("threadpoolctl.threadpool_info", list)
    assert machine.versions()["blas"] == "unknown"


def test_the_library_is_numpys_own_and_not_scipys(monkeypatch):
    import numpy as np

    site = Path(np.__file__).parent.parent
    stated = [{"user_api": "blas", "internal_api": "openblas", "version": version, "architecture": "Zen",
               "filepath": str(site / folder / "lib.so")} for folder, version in (("scipy.libs", "1"), ("numpy.libs", "2"))]
    monkeypatch.setattr("threadpoolctl.threadpool_info", lambda: stated)
    assert machine.versions()["blas"] == "openblas 2 Zen"
