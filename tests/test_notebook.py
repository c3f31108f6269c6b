"""The notebook runs through, and what is committed of it is what such a run says."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install -e '.[test]'")
NotebookClient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install -e '.[test]'").NotebookClient
pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install -e '.[test]'")
BOOK = Path(__file__).parent.parent / "results" / "inside-bit-xor.ipynb"
FEW = 64  # examples that heads are taken out on; the notebook's own number takes a minute


def outputs(book):
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def check(book):
    """Asserts that the notebook says what it is there to say, draws what it draws, and nothing else."""
    said = "".join(output.text for output in outputs(book) if output.output_type == "stream")
    assert {output.get("name", "a picture") for output in outputs(book)} == {"stdout", "a picture"}
    assert sum("image/png" in output.get("data", {}) for output in outputs(book)) == 3
    accuracy, floor = re.search(r"accuracy on test: ([\d.]+), best floor: ([\d.]+)", said).groups()
    assert float(accuracy) > 0.99 and float(floor) == 0.5
    before, after = re.search(r"most in layer 0, head \d: ([\d.]+) before, ([\d.]+) after", said).groups()
    assert float(before) < 0.4 and float(after) > 0.6
    suffice, accuracy = re.search(r"(\d+) of 48 heads suffice for an accuracy of ([\d.]+)", said).groups()
    assert int(suffice) < 10 and float(accuracy) > 0.97


def test_what_is_committed_was_run_from_the_top_and_tells_no_path_of_a_machine():
    book = nbformat.read(BOOK, as_version=4)
    check(book)
    counts = [cell.execution_count for cell in book.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    text = BOOK.read_text()
    assert not re.search(r'"[^"]*(/tmp/|/home/|/root/|/Users/|site-packages)', text) and len(text) < 250_000


@pytest.mark.slow
def test_the_notebook_runs_through(tmp_path, monkeypatch):
    book = nbformat.read(BOOK, as_version=4)
    parameters, = (cell for cell in book.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = re.sub(r"^examples = \d+", f"examples = {FEW}", parameters.source)
    assert parameters.source.startswith(f"examples = {FEW}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (beside := tmp_path / "beside").mkdir()
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(beside)}}).execute()
    check(book)
    assert not list(beside.iterdir())
