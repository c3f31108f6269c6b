"""Tests the commands as a user meets them: help, mistakes, and what each prints and writes."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tasks
from fpt import Config, UserError, checkpoint
from fpt.config import FOUND, grid
from scripts import recorded
from scripts.options import configurations
from scripts.train import Options
from tasks.bits import BitXor
from tasks.listops import ListOps

ROOT = Path(__file__).parent.parent
COMMANDS = ["train", "pretrain", "evaluate", "data", "figure", "page", "table", "collect",
            "benchmark", "study", "results", "information"]


def test_help_needs_no_jax():
    code = """
import contextlib, importlib, io, sys
for name in %r:
    tasks = ([], ["bit-xor"], ["mnist"], ["listops"])
    kinds = ([], ["language"], ["copy"], ["task", "mnist"], ["self", "bit-memory"])
    for more in {"train": tasks, "data": tasks, "pretrain": kinds}.get(name, ([],)):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            importlib.import_module("scripts." + name).main([*more, "--help"])
        assert len(said.getvalue()) > 300, said.getvalue()
        heavy = {"jax", "flax", "transformers", "torch", "tensorflow_datasets", "scipy",
                 "matplotlib", "tokenizers"} & set(sys.modules)
        assert not heavy, (name, heavy)
"""
    subprocess.run([sys.executable, "-c", code % COMMANDS], cwd=ROOT, check=True)


MISTAKES = [
    (("train", "bit-xro"), "unknown task 'bit-xro'; did you mean 'bit-xor'?"),
    (("train", "bit-xor", "--bacth", "4"), "did you mean '--batch'?"),
    (("train", "bit-xor", "--bit", "4"), "did you mean '--bits'?"),
    (("train", "bit-xor", "--batch", "many"), "many"),
    (("train", "bit-xor", "--batch", "0"), "--batch must be at least 1"),
    (("train", "bit-xor", "--batch"), "--batch"),
    (("train", "bit-xor", "--body", "gpt2-mimi"),
     "unknown body 'gpt2-mimi'; did you mean 'gpt2-mini'?"),
    (("train", "bit-xor", "--body", "no/such/folder"), "no/such/folder"),
    (("train", "bit-xor", "--dtype", "bfloat61"), "did you mean 'bfloat16'?"),
    (("train", "bit-xor", "--init", "depth-scale"), "did you mean 'depth-scaled'?"),
    (("train", "bit-xor", "--preset", "papre"), "did you mean 'paper'?"),
    (("train", "bit-xor", "--train", "input+outptu"), "did you mean 'output'?"),
    (("train", "bit-xor", "--train", "none"), "trains nothing"),
    (("train", "bit-xor", "--train", "attention@4-9"), "layers"),
    (("train", "bit-xor", "--lr", "-1"), "--lr must be a positive number"),
    (("train", "bit-xor", "--lr", "nan"), "--lr must be a positive number"),
    (("train", "bit-xor", "--seed", "-1"), "--seed must be between"),
    (("train", "bit-xor", "--dropout", "1"), "--dropout must be at least 0 and below 1"),
    (("train", "bit-xor", "--steps", "0"), "--steps must be at least 1"),
    (("train", "bit-xor", "--bits", "2000"), "4000 tokens, but gpt2-mini only 1024 positions"),
    (("train", "bit-memory", "--patch", "7"), "--patch 7 does not divide --bits 50"),
    (("train", "--task-file", "nothing.py"), "no task file at nothing.py"),
    (("train", "mnist", "--data-dir", "/nowhere"), "/nowhere"),
    (("data", "cifar10", "--data-dir", "/nowhere"), "/nowhere"),
    (("train", "bit-xor", "--seed"), "--seed"),
    (("train", "bit-xor", "--lr"), "--lr"),
    (("train", "bit-xor", "--train", "token"), "no parameter here has the role token"),
    (("train", "bit-xor", "--body", "gpt2"),
     "the hub cannot be reached; name a checkpoint's folder, or say --load none"),
    (("train", "bit-xor", "--birth", "statistic"), "did you mean 'statistics'?"),
    (("train", "bit-xor", "--birth", "statistics", "--load", "none"), "makes nothing anew"),
    (("train", "bit-xor", "--birth", "mimetic", "--redraw", "norm"), "makes nothing anew"),
    (("train", "bit-xor", "--optimizer", "muno"), "did you mean 'muon'?"),
    (("train", "bit-xor", "--accumulate", "3"), "--accumulate 3 does not divide --batch 4"),
    (("train", "bit-xor", "--weight-decay", "-1"), "--weight-decay must not be negative"),
    (("train", "bit-xor", "--log", "tensorbord"),
     "unknown --log 'tensorbord'; did you mean 'tensorboard'?"),
    (("pretrain", "langauge"), "did you mean 'language'?"),
    (("pretrain", "task"), "which task?"),
    (("pretrain", "self", "mnits"), "did you mean 'mnist'?"),
    (("pretrain", "copy", "--lr", "1e-3", "1e-2"), "one --lr and one --seed"),
    (("pretrain", "copy", "--sample", "5"), "--sample is for language"),
    (("pretrain", "copy", "--stored", "float61"), "did you mean 'float16'?"),
    (("pretrain", "copy", "--context", "7"), "--context must be even"),
    (("benchmark", "--turns", "0"), "--turns must be at least 1"),
    (("data", "bit-xor", "--split", "tset"), "did you mean 'test'?"),
    (("data", "bit-xor", "--example", "5000"), "--example must be between 0 and 1023"),
    (("data", "listops", "--source", "lar"), "did you mean 'lra'?"),
    (("evaluate", "no-such-run"), "no folder no-such-run"),
    (("evaluate", "tests"), "no config.json in tests"),
    (("evaluate",), "RUN"),
    (("collect", "no-such-folder", "--study", "s"), "no folder no-such-folder"),
    (("collect", "tests", "--study", "s"), "no finished run in tests"),
    (("collect", "tests", "--study", "../s"), "--study takes small letters"),
    (("collect", "tests"), "--study"),
    (("benchmark", "--against", "pytorch"), "did you mean 'torch'?"),
    (("benchmark", "--tasks", "bit-xro"), "did you mean 'bit-xor'?"),
    (("benchmark", "--body", "gpt"), "did you mean 'gpt2'?"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES,
                         ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2(command, monkeypatch, tmp_path, arguments, said):
    monkeypatch.chdir(ROOT)
    more = ("--out", tmp_path / "runs") if arguments[0] in ("train", "pretrain") else ()
    code, _, err = command(*arguments, *more) if said != "--batch" else command(*arguments)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and said in err, err
    assert not list(tmp_path.rglob("config.json"))


def test_without_a_task_the_table_is_printed(command):
    code, out, _ = command("train")
    assert code == 2 and "usage:" in out and "\nbit-xor" in out
    assert command("train", "--help")[0] == 0


def test_the_readmes_table_is_the_commands():
    from scripts.defaults import table

    readme = (ROOT / "README.md").read_text()
    assert table() in readme, "README.md: put there what scripts.defaults.table() gives"


def test_the_readmes_tree_names_every_file():
    readme = (ROOT / "README.md").read_text()
    tree = re.search(r"## What is where\n\n```\n(.*?)```", readme, re.S)[1]
    named, folder = set(), ""
    for line in tree.splitlines():
        if not line.startswith(" "):
            folder = line.split()[0]
        named |= {folder + name for name in re.findall(r"\w+\.py", line)}
    files = {path.relative_to(ROOT).as_posix() for top in ("fpt", "tasks", "scripts")
             for path in (ROOT / top).glob("*.py")}
    assert named == {name for name in files if not name.endswith("__init__.py")}


@pytest.fixture(scope="module")
def runs(tiny_folder, tmp_path_factory):
    """Trains two runs by the command."""
    import os

    from scripts.train import main

    out = tmp_path_factory.mktemp("runs")
    main(["bit-xor", "--bits", "3", "--body", str(tiny_folder), "--steps", "30", "--batch", "8",
          "--eval-every", "15", "--seed", "0", "1", "--out", str(out)])
    assert os.listdir(out)
    return out


def test_seeds_and_rates_make_runs(runs):
    assert len(list(runs.glob("bit-xor-tiny-fpt-lr0.003-seed[01]-*/result.json"))) == 2


def test_a_run_states_its_body_its_counts_and_its_floor(command, tiny_folder, tmp_path):
    code, out, err = command("train", "bit-xor", "--body", tiny_folder, "--steps", 4,
                             "--eval-every", 4, "--out", tmp_path)
    assert code == 0 and not err
    assert f"body {tiny_folder} (loads body from {tiny_folder}), trains fpt" in out
    assert re.search(r"trains [\d,]+ of [\d,]+ parameters \([\d.]+%\)", out)
    assert re.search(r"test accuracy [\d.]+ on 1,024 examples\n  best floor    0.5000 \(majority\)",
                     out)
    again = command("train", "bit-xor", "--body", tiny_folder, "--steps", 4, "--eval-every", 4,
                    "--out", tmp_path)
    assert again[0] == 0 and "is finished; delete it to train again" in again[1]


def test_collected_records_are_whole_sorted_and_the_same_again(runs, command, tmp_path):
    asked = ("collect", runs, "--study", "two", "--records", tmp_path)
    assert command(*asked)[0] == 0
    text = (tmp_path / "two.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["config"]["seed"] for line in lines] == [0, 1]
    assert [set(line) for line in lines] == 2 * [{"run", "config", "curve", "result"}]
    for line in lines:
        assert line["result"] == json.loads((runs / line["run"] / "result.json").read_text())
        assert [point["step"] for point in line["curve"]] == [0, 15, 30]
    assert command("collect", *sorted(runs.iterdir(), reverse=True), *asked[2:])[0] == 0
    assert (tmp_path / "two.jsonl").read_text() == text


def test_what_is_not_finished_is_not_collected(runs, command, tmp_path):
    import shutil

    shutil.copytree(runs, tmp_path / "runs")
    left = max((tmp_path / "runs").iterdir())
    (left / "result.json").unlink()
    code, out, _ = command("collect", tmp_path / "runs", "--study", "one", "--records", tmp_path)
    assert (code == 0 and f"{left} is not finished, and left out" in out
            and "one.jsonl: 1 run" in out)


def configured(name, *arguments):
    """Reads the configurations and the options that a command line of training states."""
    return configurations(tasks.find(name), None, arguments, "train", Options)


@pytest.mark.parametrize("name", [*tasks.TASKS, *tasks.BIRTHS, "self-bit-xor", "self-listops"])
def test_a_task_and_a_preset_are_the_same_configuration_for_the_command_and_in_python(name):
    task = tasks.find(name)
    for preset in task.presets:
        configs, options = configured(name, "--preset", preset)
        assert configs == [Config.preset(task(), preset)] and options.preset == preset
    assert configured(name)[0] == [Config.preset(task())]


def test_a_size_that_is_stated_overrules_the_presets_for_the_command_and_in_python():
    for size in (128, 600):  # the first is the task's own default
        (config,), _ = configured("listops", "--preset", "paper", "--longest", str(size),
                                  "--shortest=3")
        assert config == Config.preset(ListOps(), "paper", longest=size, shortest=3)
        assert config.task == ListOps(longest=size, shortest=3)


def test_an_option_may_be_written_with_an_equals_sign_an_underscore_or_without():
    for words in ("--eval-every 7", "--eval-every=7", "--eval_every 7", "--eval_every=7"):
        (config,), _ = configured("bit-xor", *words.split(), "--data_dir=a_b")
        assert config.eval_every == 7
    for words in (["--lr", "1", "--preset", "paper"], ["--preset=paper", "--lr=1"]):
        assert configured("mnist", *words)[0][0].body == "gpt2"


def test_the_last_of_repeated_options_counts():
    configs, options = configured("bit-xor", "--lr", "1", "2", "--steps", "5", "--lr=3", "--out",
                                  "a", "--out", "b")
    assert [config.lr for config in configs] == [3] and options.out == Path("b")


def test_an_option_cannot_be_shortened():
    with pytest.raises(UserError, match=r"unknown option '--bit'; did you mean '--bits'\?"):
        configured("bit-xor", "--bit", "4")


def test_rates_and_seeds_are_a_grid_of_runs():
    configs, _ = configured("bit-xor", "--lr", "1e-2", "1e-3", "--seed", "3", "1")
    assert configs == grid(Config.preset(BitXor()), (1e-2, 1e-3), (3, 1))


@pytest.mark.parametrize(("words", "value"), [("None", None), ("5", 5)])
def test_none_is_a_value_where_the_field_can_have_it(words, value):
    assert configured("mnist", "--eval-examples", words)[0][0].eval_examples == value


OPTIONS = {  # of `train mnist`, and their defaults
    "--patch": "14", "--side": "28", "--body": "gpt2-mini", "--lr": "0.003", "--steps": "3000",
    "--batch": "16", "--eval-every": "500", "--eval-examples": "None", "--load": "None",
    "--birth": "weights", "--redraw": "body", "--train": "fpt", "--seed": "0",
    "--body-seed": "None", "--dtype": "float32", "--dropout": "0.0", "--embedding-dropout": "None",
    "--attention-dropout": "None", "--residual-dropout": "None", "--clip": "1.0",
    "--optimizer": "adam", "--weight-decay": "0.0", "--warmup": "0", "--decay": "constant",
    "--accumulate": "1", "--init": "original", "--preset": "laptop", "--data-dir": "None",
    "--keep": "0", "--log": "None", "--out": "runs", "--task-file": "None", "--layers": "None",
    "--width": "None", "--rates": "none", "--body-file": "None", "--from": "None",
    "--stages": "none",
}


def helps(command, *arguments):
    """Reads the options, their helps and their defaults off a `--help`."""
    text = " ".join(command(*arguments, "--help")[1].split()).partition("and exit")[2]
    found = re.findall(r" (--[a-z-]+) [A-Z|a-z]+(?: \[[A-Z]+ ...\])? (.*?) \(default: (.*?)\)",
                       text)
    return {name: (help_, default) for name, help_, default in found}


def test_the_options_of_training_and_their_defaults(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    found = helps(command, "train", "mnist")
    assert {name: default for name, (_, default) in found.items()} == OPTIONS
    more = OPTIONS | {"--to": "None", "--stored": "float32", "--sample": "0", "--train": "all",
                      "--load": "none"}
    more.pop("--task-file")
    found = helps(command, "pretrain", "task", "mnist")
    assert {name: default for name, (_, default) in found.items()} == more


def test_each_field_of_a_configuration_is_an_option_with_its_own_text_as_help(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    found = helps(command, "train", "mnist")
    for field in dataclasses.fields(Config):
        name = f"--{field.name.replace('_', '-')}"
        if field.name in {"task", *FOUND} - {"task_file"}:
            assert name not in found
        else:
            text = found[name][0]
            assert re.match(r"[A-Z][a-z]+s ", text) and text.endswith("."), (name, text)


@pytest.mark.parametrize("name", ["train", "data"])
def test_a_task_of_ones_own_has_no_field_that_is_named_as_an_option(refused, tmp_path, name):
    page = (ROOT / "tasks" / "own_task.md").read_text()
    text = re.search(r"```python\n(.*?)```", page, re.S)[1]
    (tmp_path / "own.py").write_text(text.replace("    pairs:", "    preset: int = 1\n    pairs:"))
    refused("preset cannot be a field of the task", name, "--task-file", tmp_path / "own.py")


@pytest.fixture
def on_record(monkeypatch, tmp_path):
    """Puts made-up runs of bit XOR on record: (settings, accuracy on validation, on test)."""
    from scripts import defaults

    def record(*runs):
        lines = []
        for settings, validation, test in runs:
            config = Config.preset(BitXor(), **settings).record()
            score = {"accuracy": validation, "loss": 1.0}
            result = {"floors": {"coin": 0.3, "majority": 0.5, "part/other": 0.9}, "seconds": 120,
                      "runs_in_stack": 2, "validation": score,
                      "test": {"accuracy": test, "slices": {}}}
            curve = [{"step": 0, "validation": score}]
            lines.append(json.dumps({"run": f"run-{len(lines)}", "config": config, "curve": curve,
                                     "result": result}) + "\n")
        (tmp_path / "defaults.jsonl").write_text("".join(lines))
        defaults.account.cache_clear()

    monkeypatch.setattr(recorded, "RECORDS", tmp_path)
    record()
    yield record
    monkeypatch.undo()
    defaults.account.cache_clear()


def test_what_to_expect_is_what_is_on_record(on_record):
    from scripts.defaults import Expected, expected, table

    assert expected("bit-xor") is None
    shipped = checkpoint.locate("gpt2-mini").digest
    frozen = {"load": "body", "checkpoint": shipped}
    others = [{"steps": 1}, {"load": "attention"}, {"lr": 1e-4}, {"dropout": 0.0},
              {"birth": "statistics"}, {"optimizer": "muon"}, {"checkpoint": "0" * 32},
              {"init": "depth-scaled"}, {"seed": 0}]
    on_record(*((frozen | {"seed": 1} | other, 0.5, 0.1) for other in others),
              (frozen | {"seed": 1}, 0.5, 0.75), (frozen | {"seed": 2}, 0.5, 1.0))
    assert expected("bit-xor") == Expected(0.875, 3e-3, 0.5, 1.0)
    assert expected("bit-xor", "random") is None
    row, = (line for line in table().splitlines() if line.startswith("bit-xor"))
    cells = [cell.strip() for cell in row.split("|")[-5:]]
    assert cells == ["0.500", "0.875 3e-3", "-", "-", "1.0"]
    assert max(map(len, table().splitlines())) <= 80


def test_the_help_of_a_task_holds_the_whole_of_a_sentence_of_two_lines(command):
    shown = " ".join(command("train", "bit-memory", "--help")[1].split())
    assert "asks for the whole string. With the defaults" in shown


def test_a_package_that_was_installed_without_its_results_trains(monkeypatch, tmp_path, command):
    from scripts import defaults, studies

    for module, name in ((studies, "STUDIES"), (recorded, "RECORDS")):
        monkeypatch.setattr(module, name, tmp_path / "nothing")
    defaults.account.cache_clear()
    assert defaults.expected("bit-xor") is None and "bit-xor" in defaults.table()
    assert "--steps" in command("train", "bit-xor", "--help")[1]
    monkeypatch.undo()
    defaults.account.cache_clear()
    study = studies.study(defaults.STUDY)
    assert tuple(condition.name for condition in study.conditions) == defaults.CONDITIONS


def test_a_condition_is_shown_at_the_rate_that_validation_chooses(on_record):
    from scripts.defaults import Expected, expected

    run = lambda lr, seed, validation, test: (
        {"load": "none", "train": "all", "lr": lr, "seed": seed}, validation, test)
    on_record(run(1e-4, 0, 0.5, 1.0), run(3e-4, 0, 0.6, 0.7), run(1e-3, 0, 0.5, 1.0),
              run(3e-4, 1, 0.1, 0.5), run(1e-3, 1, 1.0, 1.0))
    assert expected("bit-xor", "trained") == Expected(0.5, 3e-4, 0.5, 1.0)


def test_evaluate_repeats_the_result_and_writes_predictions(runs, command, tmp_path):
    run = min(runs.iterdir())
    file = tmp_path / "made" / "predictions.jsonl"
    code, out, _ = command("evaluate", run, "--predictions", file)
    said, result = json.loads(out), json.loads((run / "result.json").read_text())
    assert (code == 0 and said["accuracy"] == result["test"]["accuracy"]
            and said["floors"] == result["floors"])
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    right = np.mean([np.equal(line["prediction"], line["target"]).mean() for line in lines])
    assert len(lines) == said["n"] == 64 and right == pytest.approx(said["accuracy"])


def test_evaluate_on_another_split(runs, command):
    run = min(runs.iterdir())
    said = json.loads(command("evaluate", run, "--split", "validation", "--examples", 1_024)[1])
    result = json.loads((run / "result.json").read_text())
    assert said["accuracy"] == result["validation"]["accuracy"]
    assert json.loads(command("evaluate", run, "--examples", 7)[1])["n"] == 7
    code, _, err = command("evaluate", run, "--split", "train")
    assert code == 2 and "known: validation, test" in err


def test_evaluate_gives_null_for_the_floor_of_a_slice_without_examples(runs, command, monkeypatch):
    usual = BitXor.floors
    monkeypatch.setattr(BitXor, "floors", lambda *asked: usual(*asked) | {"empty/vote": math.nan})
    floors = json.loads(command("evaluate", min(runs.iterdir()))[1])["floors"]
    assert floors.pop("empty/vote") is None and all(map(math.isfinite, floors.values()))


def test_an_export_is_a_checkpoint_for_us_and_for_transformers(runs, command, tmp_path):
    from transformers import GPT2Config

    from fpt import load_body, load_run

    run = min(runs.iterdir())
    assert command("evaluate", run, "--export", tmp_path / "whole")[0] == 0
    loaded, body = load_run(run), load_body(tmp_path / "whole")
    for name, value in body.parameters.items():
        assert np.array_equal(value, loaded.parameters[name]), name
    assert GPT2Config.from_pretrained(tmp_path / "whole").n_layer == 2
    for taken in (tmp_path / "whole", run):
        code, _, err = command("evaluate", run, "--export", taken)
        assert code == 2 and f"{taken} already holds" in err
    embeds = np.random.default_rng(0).normal(size=(2, 5, 32)).astype(np.float32)
    hidden, maps = body(embeds, maps=True)
    assert hidden.shape == (2, 5, 32) and maps.shape == (2, 2, 4, 5, 5)


def test_data_shows_splits_floors_and_an_example(command):
    code, out, _ = command("data", "bit-memory", "--bits", 100, "--example", 3)
    assert code == 0
    assert "12 tokens, 50 numbers each; 100 answers of 2 classes, read from 2 tokens" in out
    assert "drawn from the key" in out and "test          2,000 examples" in out
    assert re.search(r"0\.8\d+  copy visible, vote on hidden", out) and "string 1, bits 0-49" in out


def test_the_task_of_the_page_trains(command, tiny_folder, tmp_path):
    page = (ROOT / "tasks" / "own_task.md").read_text()
    file = tmp_path / "recall.py"
    file.write_text("from __future__ import annotations\n"
                    + re.search(r"```python\n(.*?)```", page, re.S)[1])
    code, out, _ = command("data", "--task-file", file, "--pairs", 4)
    assert code == 0 and "recall: 9 tokens, symbols of 30" in out
    arguments = ("--task-file", file, "--pairs", 4, "--body", tiny_folder, "--steps", 6,
                 "--eval-every", 3, "--out", tmp_path / "runs")
    code, out, err = command("train", *arguments)
    assert code == 0 and "best floor" in out, err
    run = next((tmp_path / "runs").iterdir())
    assert json.loads(command("evaluate", run)[1])["n"] == 2_000
    file.write_text(file.read_text().replace("2_000", "2_001"))
    assert command("train", *arguments)[0] == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2  # another file is another task


def test_evaluate_says_what_is_no_run(command, tiny_folder):
    code, _, err = command("evaluate", tiny_folder)
    assert code == 2 and "not the configuration of a run" in err and err.count("\n") == 1


@pytest.mark.parametrize(("text", "said"), [
    ("x = 1", "must define one subclass"), ("class A(:", "line 1"),
    ("import nothing_of_that_name", "nothing_of_that_name"),
])
def test_a_task_file_that_defines_no_task_is_refused(command, tmp_path, text, said):
    (tmp_path / "own.py").write_text(text)
    code, _, err = command("train", "--task-file", tmp_path / "own.py")
    assert code == 2 and said in err and err.count("\n") == 1


def test_ctrl_c_is_not_lost_in_what_jax_does_while_memory_is_collected(tmp_path):
    """Python prints and ignores an exception inside a callback of the garbage collector."""
    script = """
import os, signal, time
from scripts.command import run
def _xla_gc_callback():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
    except KeyboardInterrupt:
        print("swallowed")
def main(arguments):
    _xla_gc_callback()
    time.sleep(5)
    print("went on")
run(main)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nstopped\n")
