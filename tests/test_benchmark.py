"""Measurements of a benchmark are kept in a file, and those of accelerators become a page."""

import pytest

from fpt import UserError
from scripts import benchmark, benchmark_table

ROW = {"task": "cifar10", "dtype": "bfloat16", "body": "gpt2", "batch": 1024, "stack": 1,
       "device": "NVIDIA H200", "software": "jax 0.11.2", "milliseconds": 202.0,
       "peak_bytes": 31 * 2**30, "matmul_gflops": 673_046.0, "fraction_of_peak": 0.155,
       "first_step_seconds": 25.0, "tokens_per_second": 324_481.0}
TORCH = {"against": "torch", "other_software": "torch 2.11.0", "other_peak_bytes": 45 * 2**30,
         "other_milliseconds": 211.0, "speedup": 1.045, "speedup_over_float32": 3.0}


def test_a_measurement_takes_the_place_of_an_older_one_of_the_same_alone(tmp_path):
    file = tmp_path / "gpu.json"
    for row in (ROW, ROW | TORCH, ROW | {"batch": 16}, ROW | {"milliseconds": 150.0}):
        benchmark.add(file, row)
    assert benchmark.read(file) == [ROW | {"milliseconds": 150.0}, ROW | TORCH, ROW | {"batch": 16}]


@pytest.mark.parametrize("text", ["", "[]", '{"rows": [{"task": "cifar10"}]}', '{"rows": 3}'])
def test_a_file_that_holds_something_else_is_refused_before_anything_is_timed(tmp_path, text):
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(UserError, match="other.json holds no measurements of a benchmark"):
        benchmark.main(["--tasks", "bit-xor", "--json", str(file)])
    assert file.read_text() == text


def test_the_page_has_a_table_for_each_device_with_what_was_measured():
    page = benchmark_table.page([ROW | TORCH, ROW | {"stack": 8} | TORCH | {"against": "alone"},
                                 ROW | {"device": "TPU v5"}])
    assert page.count("## NVIDIA H200, jax 0.11.2") == page.count("## TPU v5, jax 0.11.2") == 1
    assert "A large matrix product runs at 673 TFLOP/s in bfloat16." in page
    cells = [[cell.strip() for cell in line.strip("|").split("|")]
             for line in page.splitlines() if line.startswith("| cifar10")]
    measured = ["cifar10", "gpt2", "bfloat16", "1 x 1024", "202.00", "16%", "324,481", "31.0"]
    assert cells == [
        [*measured, "torch 2.11.0", "211.00", "45.0", "1.04"],
        [*measured[:3], "8 x 1024", *measured[4:], "alone", "211.00", "45.0", "1.04"],
        [*measured, "-", "-", "-", "-"]]


def test_the_text_for_the_terminal_names_the_other_side():
    assert "1.04x, 3.00x over float32" in benchmark.text_of(ROW | TORCH)
