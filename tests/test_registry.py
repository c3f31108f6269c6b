"""Tasks are found in the packages that are installed, and fpt itself names none of them."""

import ast
from pathlib import Path

import pytest

import fpt
from fpt import UserError, contract, packages, registry
from tasks.bits import BitXor

SOURCES = sorted(Path(fpt.__file__).parent.glob("*.py"))
OTHER = """
from tasks.bits import BitXor
TASKS, BIRTHS = {"or": "others:Or"}, {"other": "others:Or"}
DERIVED = {"twice-": "others:twice"}
class Or(BitXor):
    name = "or"
def twice(task):
    class Twice(task):
        name = f"twice-{task.name}"
    return Twice
"""


@pytest.fixture
def another_package(tmp_path, monkeypatch):
    """A package `others` is installed beside the project."""
    (tmp_path / "others.py").write_text(OTHER)
    about = tmp_path / "others-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[fpt.tasks]\nothers = others\n")
    monkeypatch.syspath_prepend(tmp_path)
    packages.packages.cache_clear()
    yield
    packages.packages.cache_clear()


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_no_module_of_fpt_imports_tasks(file):
    nodes = [*ast.walk(ast.parse(file.read_text()))]
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    assert "tasks" not in {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("name", ["or", "other", "twice-or", "twice-bit-xor", "self-or", "bit-xor"])
def test_a_package_offers_tasks_by_an_entry_point(another_package, name):
    task = registry.find(name)
    assert task.name == name.replace("other", "or") and not contract.own(task)


def test_an_unknown_task_is_refused_with_the_nearest_of_any_package(another_package):
    with pytest.raises(UserError, match="unknown task 'orr'; did you mean 'or'"):
        registry.find("orr")


def test_where_no_package_of_tasks_is_installed_the_remedy_is_named(monkeypatch):
    packages.packages.cache_clear()
    monkeypatch.setattr(packages, "entry_points", lambda group: ())
    with pytest.raises(UserError, match=r"run `pip install -e \.`"):
        contract.own(BitXor)
