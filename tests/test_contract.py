"""A task that does not keep its contract is refused before anything is trained: one line that names what it gave."""

import dataclasses

import pytest

import tasks
from fpt import Config, UserError, contract, train
from fpt.contract_data import check_data
from fpt.task import Interface
from tests.conftest import Stub

ECHO = '''
from dataclasses import dataclass
import jax
import jax.numpy as jnp
import numpy as np
from fpt.task import Batch, Interface, Preset, Split, Task

@dataclass(frozen=True)
class Echo(Task):
    """Say the first symbol again."""

    name = "echo"
    presets = {"laptop": Preset(body="gpt2-mini", batch=2, steps=2, lr=1e-3, eval_every=2)}
    interface = property(lambda self: Interface(tokens=self.tokens, classes=5, vocabulary=5))
    tokens: int = 4

    def load(self, folder=None, report=print):
        inputs = np.arange(self.tokens * 30).reshape(30, self.tokens) % 5
        return {name: Split(inputs, inputs[:, :1]) for name in ("validation", "test", "train")}

    def draw(self, train, key, step, batch):
        inputs = jax.random.randint(jax.random.fold_in(key, step), (batch, self.tokens), 0, 5)
        return Batch(inputs, inputs[:, :1])

    def encode(self, inputs):
        return inputs

    def floors(self, data, examples):
        return {"majority": 0.2}

    def token_labels(self, example):
        return [str(symbol) for symbol in example]

    def show(self, example, target):
        return str(example)
'''
LOAD = "return {name: Split(inputs, inputs[:, :1]) for name in (\"validation\", \"test\", \"train\")}"
DRAW = "        return Batch(inputs, inputs[:, :1])\n\n    def encode"
SLICES = "    def slices(self, inputs):\n        return {'a': "
ANSWERS = "    def answer_tokens(self, inputs):\n        return "
PICTURE = "    def picture(self, example):\n        return "
CONTINUOUS = ("vocabulary=5", "width=1")
BREACHES = {  # how the task is changed, and words of the error
    "a name with a slash": (('"echo"', '"a/b"'), "name is 'a/b'"),
    "a name that leads elsewhere": (('"echo"', '"../up"'), "name is '../up'"),
    "an empty name": (('"echo"', '""'), "name is ''"),
    "a number for a name": (('"echo"', "5"), "name is 5"),
    "a name of two lines": (('"echo"', r'"a\nb"'), r"name is 'a\nb'"),
    "a name that ends in a newline": (('"echo"', r'"echo\n"'), r"name is 'echo\n'"),
    "a shipped task's name": (('"echo"', '"mnist"'), "a task of an installed package"),
    "the name of its own inputs": (('"echo"', '"self-mnist"'), "a task of an installed package"),
    "no name": (('    name = "echo"\n', ""), "name raised AttributeError"),
    "no dataclass": (("@dataclass(frozen=True)\n", ""), "is no dataclass"),
    "no presets": (("    presets =", "    other ="), "presets is None"),
    "no laptop preset": (('{"laptop"', '{"desktop"'), "presets is a dict"),
    "a preset that is a dict": (("Preset(", "dict("), "presets['laptop'] is a dict"),
    "a preset of an unknown size": (("eval_every=2", 'eval_every=2, sizes={"tokns": 3}'), "sizes named tokns"),
    "a preset of an unknown setting": (("eval_every=2", 'eval_every=2, settings={"rate": 3}'), "settings named rate"),
    "a preset of a setting that cannot be": (("eval_every=2", 'eval_every=2, settings={"clip": -1}'),
                                             "presets['laptop']: --clip must be"),
    "a preset of no number": (("steps=2", 'steps="two"'), "presets['laptop']: --steps must be a whole number"),
    "a field without a default": (("tokens: int = 4", "tokens: int"), "tokens"),
    "a field with a factory": (("tokens: int = 4", "tokens: int = __import__('dataclasses').field(default_factory=int)"),
                               "the field tokens has no default"),
    "a field that no record can hold": (("tokens: int = 4", "tokens: int = 4\n    more: object = np.float32(1)"),
                                        "the field more is"),
    "a field of an unknown kind": (("tokens: int = 4", "tokens: 'Whole' = 4"), "NameError"),
    "a field with an option's name": (("tokens: int = 4", "tokens: int = 4\n    lr: int = 4"), "lr cannot be a field"),
    "a field with a method's name": (("tokens: int = 4", "tokens: int = 4\n    slices: int = 4"), "slices is 4"),
    "no tokens": (("    tokens: int = 4\n", ""), "interface raised AttributeError"),
    "half a token": (("tokens: int = 4", "tokens: float = 4.5"), "tokens is 4.5"),
    "tokens that raise": (("tokens: int = 4", "tokens = property(lambda self: 1 // 0)"), "ZeroDivisionError"),
    "more queries than tokens": (("tokens: int = 4", "tokens: int = 4"), ("y=5", "y=5, queries=5"), "queries is 5"),
    "no classes": (("classes=5, ", ""), "interface raised TypeError"),
    "no whole classes": (("classes=5", "classes=True"), "interface.classes is True"),
    "an interface that is a dict": (("Interface(tokens", "dict(tokens"), "interface is a dict"),
    "both width and vocabulary": (("y=5", "y=5, width=1"), "width and vocabulary are 1 and 5"),
    "neither width nor vocabulary": ((", vocabulary=5", ""), "width and vocabulary are None and None"),
    "a pad that is no symbol": (("y=5", "y=5, pad=5"), "pad is 5"),
    "an unknown head": (("y=5", "y=5, head='own'"), "interface.head is 'own'; the contract wants fresh or tied"),
    "tied classes": (("classes=5, vocabulary=5", "classes=4, vocabulary=5, head='tied'"), "as many classes as symbols"),
    "an unknown probe": (("tokens: int = 4", "tokens: int = 4\n    probes = ('far',)"), "gave no split 'far'"),
    "no interface": (("    interface =", "    other ="), "interface is missing"),
    **{f"no {name}": ((f"def {name}", "def other"), f"{name} is missing")
       for name in ("load", "draw", "encode", "floors", "token_labels", "show")},
    "load that raises": ((LOAD, "raise OSError('no disk')"), "load raised OSError: no disk (line 19)"),
    "load that exits": ((LOAD, "raise SystemExit"), "load raised SystemExit (line 19)"),
    "load of other arguments": (("folder=None, report=print", ""), "load raised TypeError"),
    "load that gives nothing": ((LOAD, "pass"), "load gave None"),
    "load without a test": (('("validation", "test", "train")', '("validation", "train")'), "no split 'test'"),
    "a split that is a pair": ((LOAD, LOAD.replace("Split", "")), "for validation; the contract wants a fpt.task.Split"),
    "a split of lists": ((LOAD, LOAD.replace("inputs, inputs[:, :1]", "[1], [1]")), "two numpy arrays"),
    "an empty split": ((LOAD, LOAD.replace("inputs, inputs[:, :1]", "inputs[:0], inputs[:0, :1]")), "no examples for validation"),
    "fewer targets than inputs": ((LOAD, LOAD.replace("[:, :1]", "[1:, :1]")), "gave targets int64 [29, 1] for validation"),
    "targets of another number": ((LOAD, LOAD.replace("[:, :1]", "[:, :2]")), "gave targets int64 [30, 2] for validation"),
    "targets of another kind": ((LOAD, LOAD.replace("[:, :1]", "[:, :1] / 2")), "gave targets float64 [30, 1] for validation"),
    "a target beyond the classes": ((LOAD, LOAD.replace("[:, :1]", "[:, :1] + 1")), "load gave the target 5 for validation"),
    "a negative target": ((LOAD, LOAD.replace("[:, :1]", "[:, :1] - 2")), "load gave the target -2 for validation"),
    "no target that is scored": ((LOAD, LOAD.replace("[:, :1]", "[:, :1] * 0 - 1")), "all -1"),
    "a test of another shape": ((LOAD, LOAD.replace("Split(inputs,", "Split(inputs[:, name == 'test':],")),
                                "int64 [30, 4] for validation and int64 [30, 3] for test"),
    "draw that raises": ((DRAW, "        raise ValueError('no draw')\n\n    def encode"),
                         "draw raised ValueError: no draw (line 23)"),
    "draw of a pair": ((DRAW, DRAW.replace("Batch", "")), "draw gave a tuple; the contract wants a fpt.task.Batch"),
    "draw of a split": ((DRAW, DRAW.replace("Batch", "Split")), "the contract wants a fpt.task.Batch"),
    "draw of a number for a truth": ((DRAW, DRAW.replace("1])", "1], 1)")), "whose `anywhere` is 1"),
    "draw of other targets": ((DRAW, DRAW.replace("[:, :1]", "[:, :2]")), "draw gave targets int32 [2, 2]"),
    "draw of a target beyond the classes": ((DRAW, DRAW.replace("[:, :1]", "[:, :1] + 5")), "at step 0"),
    "draw of a symbol beyond the vocabulary": ((DRAW, DRAW.replace("(inputs,", "(inputs + 5,")),
                                               "for what `draw` gave at step 0"),
    "encode that raises": (("return inputs\n", "return inputs.nothing\n"), "encode raised AttributeError"),
    "encode of fewer tokens": (("return inputs\n", "return inputs[:, 1:]\n"), "encode gave int32 [2, 3] for validation"),
    "encode of fractions": (("return inputs\n", "return inputs / 2\n"), "encode gave float32 [2, 4] for validation"),
    "encode of a symbol beyond the vocabulary": (("return inputs\n", "return inputs + 1\n"), "encode gave the symbol 5"),
    "encode of a negative symbol": (("return inputs\n", "return inputs - 1\n"), "encode gave the symbol -1"),
    "encode of a pad between symbols": (("y=5", "y=5, pad=1"), "gave `pad`, 1, before another symbol"),
    "encode of pads alone": (("y=5", "y=5, pad=0"), ("return inputs\n", "return inputs * 0\n"), "gave 0 symbols"),
    "encode of no float": (CONTINUOUS, ("return inputs\n", "return inputs[:, :, None]\n"), "encode gave int32 [2, 4, 1]"),
    "encode of what is no number": (CONTINUOUS, ("return inputs\n", "return 0 / inputs[:, :, None]\n"), "NaN or infinite"),
    "floors that raise": (('{"majority": 0.2}', "1 / 0"), "floors raised ZeroDivisionError: division by zero (line 29)"),
    "floors that are empty": (('{"majority": 0.2}', "{}"), "floors gave {}"),
    "floors of slices alone": (('{"majority": 0.2}', '{"a/b": 0.2}'), "floors gave {'a/b': 0.2}"),
    "a floor that is NaN": (("0.2}", "np.nan}"), "floors gave nan for 'majority'"),
    "a floor that is no number": (("0.2}", '"half"}'), "floors['majority'] raised ValueError"),
    "a floor in percent": (("0.2}", "20}"), "floors gave 20.0 for 'majority'"),
    "answer tokens of another shape": (("    def show", ANSWERS + "{'a': inputs > 0}\n\n    def show"),
                                       "answer_tokens gave bool [30, 4] for 'a'; the contract wants bool [30, 1, 4]"),
    "answer tokens without names": (("    def show", ANSWERS + "inputs[:, None] > 0\n\n    def show"), "answer_tokens gave"),
    "a grid of fewer tokens": (("    tokens: int = 4", "    grid = (1, 3)\n    tokens: int = 4"),
                               "grid is (1, 3); the contract wants rows and columns of its 4 tokens"),
    "a grid without a picture": (("    tokens: int = 4", "    grid = (2, 2)\n    tokens: int = 4"), "picture gave None"),
    "a picture that the grid does not divide": (
        ("    tokens: int = 4", "    grid = (2, 2)\n    tokens: int = 4"),
        ("    def show", PICTURE + "np.zeros((2, 3, 1), np.uint8)\n\n    def show"), "picture gave uint8 [2, 3, 1]"),
    "slices of another shape": (("    def show", SLICES + "inputs > 0}\n\n    def show"),
                                "slices gave bool [30, 4] for 'a'"),
    "slices of numbers": (("    def show", SLICES + "inputs[:, :1]}\n\n    def show"),
                          "slices gave int64 [30, 1] for 'a'"),
    "too few labels": (("in example]", "in example[1:]]"), "token_labels gave 3 of them"),
    "labels that are numbers": (("str(symbol) for", "symbol for"), "token_labels gave 4 of them"),
    "show of nothing": (("return str(example)", "pass"), "show gave None"),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_task_of_ones_own_that_breaks_the_contract_is_refused(refused, tiny_folder, tmp_path, breach):
    *changes, said = BREACHES[breach]
    text = ECHO
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    (tmp_path / "own.py").write_text(text)
    refused(said, "train", "--task-file", tmp_path / "own.py", "--body", tiny_folder)


def test_a_task_of_ones_own_that_keeps_the_contract_is_trained(command, tiny_folder, tmp_path):
    (tmp_path / "own.py").write_text(ECHO)
    code, out, err = command("train", "--task-file", tmp_path / "own.py", "--body", tiny_folder, "--out", tmp_path / "runs")
    assert code == 0 and "best floor    0.2000" in out, err


@pytest.mark.parametrize("module", ["evaluate", "attention", "page"])
def test_what_a_task_of_ones_own_raises_later_is_one_line(refused, command, tiny_folder, tmp_path, module):
    missing, own, out = tmp_path / "gone", tmp_path / "own.py", tmp_path / "runs"
    later = f"        if open({str(missing)!r}).read():\n            raise KeyError('moved')\n"
    own.write_text(ECHO.replace("    def load(self, folder=None, report=print):\n",
                                "    def load(self, folder=None, report=print):\n" + later))
    missing.write_text("")
    assert command("train", "--task-file", own, "--body", tiny_folder, "--out", out)[0] == 0
    run, = out.iterdir()
    missing.write_text("yes")
    refused(f"{own} raised KeyError: 'moved' (line 19)", module, run)
    missing.unlink()
    refused(f"{own} raised FileNotFoundError: ", module, run)


def test_the_message_names_the_file_the_class_and_the_guide(refused, tiny_folder, tmp_path):
    (tmp_path / "own.py").write_text(ECHO.replace("0.2}", "2}"))
    refused(f"{tmp_path / 'own.py'}, Echo: floors gave 2.0 for 'majority'; the contract wants an accuracy between 0 and 1: "
            "see tasks/own_task.md", "data", "--task-file", tmp_path / "own.py")


OBJECTION = "    def __post_init__(self):\n        if self.tokens < 1:\n            raise ValueError('too few')\n\n    def show"


@pytest.mark.parametrize(("text", "said"), [
    (ECHO, "tokens is 0"), (ECHO.replace("    def show", OBJECTION), "its sizes raised ValueError: too few (line 36)")],
    ids=["unchecked", "checked by the task"])
def test_a_size_that_a_task_of_ones_own_cannot_have_is_refused(refused, tmp_path, text, said):
    (tmp_path / "own.py").write_text(text)
    refused(said, "data", "--task-file", tmp_path / "own.py", "--tokens", "0")


@dataclasses.dataclass(frozen=True)
class InPython(Stub):
    """A task that no file defines."""

    name = "../up"
    interface = Interface(tokens=1, width=1, classes=2)


def test_a_name_that_leads_out_of_the_folder_of_runs_is_refused_in_python_too(tiny_folder, tmp_path):
    with pytest.raises(UserError, match=r"name is '\.\./up'"):
        train(Config.preset(InPython(), body=str(tiny_folder)), tmp_path / "runs", quiet=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["bit-memory", "bit-xor", "copy", "self-bit-xor", "self-bit-memory"])
def test_a_shipped_task_keeps_the_contract(name):
    task = tasks.find(name)()
    contract.check_sizes(task)
    check_data(task, task.load())


def test_a_fault_in_a_shipped_task_is_no_mistake_of_the_users(monkeypatch):
    task = tasks.find("bit-xor")()
    monkeypatch.setattr(type(task), "load", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        contract.call(task, "load")
