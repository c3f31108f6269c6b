"""Reads a command line: each field of a dataclass is an option, and the docstring below the field
is its help."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import docstring_parser

from fpt.errors import UserError, nearest

Options = TypeVar("Options")
POSITIONAL = {"positional": True}  # metadata of a field whose value is given without its name
# Type of a value -> its name in the help, and what reads it; the last two take any text.
READERS = {
    NoneType: ("None", {"None": None}.__getitem__), int: ("INT", int), float: ("FLOAT", float),
    bool: ("True|False", {"True": True, "False": False}.__getitem__),
    Path: ("PATH", Path), str: ("TEXT", str),
}


class Option(NamedTuple):
    """Describes an option of a command."""

    name: str  # of the field
    hint: Any  # the type of its value
    text: str  # its help
    default: Any
    positional: bool

    @property
    def flag(self) -> str:
        return self.name if self.positional else f"--{self.name.strip('_').replace('_', '-')}"


class _Parser(argparse.ArgumentParser):
    """Parses options that are written in full, and raises UserError for a mistake."""

    def __init__(self, program: str, **settings: Any):
        super().__init__(program, allow_abbrev=False, argument_default=argparse.SUPPRESS,
                         **settings)

    def parse_known_args(self, arguments, namespace=None):
        """Accepts underscores for hyphens in the names of options: --eval_every as --eval-every."""
        hyphened = (re.sub("^--[^=]+", lambda flag: flag[0].replace("_", "-"), argument)
                    for argument in arguments)
        return super().parse_known_args(list(hyphened), namespace)

    def print_help(self, file=None) -> None:
        print(self.format_help(), end="")  # argparse's own says nothing where the output is full

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def ahead(arguments: Sequence[str], program: str) -> argparse.Namespace:
    """Reads the options that decide what other options and defaults there are."""
    parser = _Parser(program, add_help=False)
    parser.add_argument("--task-file", type=Path, default=None)
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--from", type=Path, default=None, dest="from_")
    return parser.parse_known_args(arguments)[0]


def options_of(kind: type, usual: Any = None) -> list[Option]:
    """Lists the fields of a dataclass as options, its own before those that it inherits.

    usual: an instance that holds the defaults; None takes those of the class.
    """
    own = vars(kind).get("__annotations__", {})
    hints, texts = get_type_hints(kind), {}
    for base in reversed(kind.__mro__[:-1]):
        texts |= _texts(base)
    return [Option(field.name, hints[field.name], texts.get(field.name, ""),
                   getattr(usual, field.name, field.default), "positional" in field.metadata)
            for field in sorted(fields(kind), key=lambda field: field.name not in own)]


@cache  # parsing the source of a class takes 10 ms
def _texts(kind: type) -> dict[str, str]:
    """Reads the docstrings below the fields that a class itself declares, by the fields' names."""
    return {field.arg_name: " ".join((field.description or "").split())
            for field in docstring_parser.parse_from_object(kind).params}


def parsed(options: type[Options], arguments: Sequence[str], program: str) -> Options:
    """Reads arguments as an instance of a dataclass.  Raises UserError for what cannot be read."""
    return read(options, [], arguments, program, options.__doc__)[0]


def read(options: type[Options], others: Sequence[Option], arguments: Sequence[str], program: str,
         about: str) -> tuple[Options, dict[str, Any]]:
    """Reads arguments as an instance of a dataclass; also returns the values of further options.

    others: the further options; those that the command line states are in the dictionary, by name.
    about: the text above the help.  Raises UserError for what cannot be read.
    """
    own = options_of(options)
    known = [*others, *own]
    names = Counter(["help", *(option.name for option in known)])
    if clash := sorted(name for name, count in names.items() if count > 1):
        raise UserError(f"{', '.join(clash)} cannot be a field of the task, as {program} has an "
                        "option of that name; rename the field")
    places = "".join(f"{option.name.upper()} " for option in known if option.positional)
    parser = _Parser(program, description=about, usage=f"%(prog)s {places}[options]")
    for option in known:
        parser.add_argument(option.flag, **_argument(option))
    found, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = [option.flag for option in known if not option.positional]
        raise nearest(unknown[0], flags, "option")
    stated = {name: tuple(value) if isinstance(value, list) else value
              for name, value in vars(found).items()}
    mine = {option.name: stated.pop(option.name) for option in own if option.name in stated}
    return options(**mine), stated


def _argument(option: Option) -> dict[str, Any]:
    """Makes the keyword arguments with which argparse's `add_argument` declares an option."""
    parts, required, default = _parts(option.hint), option.default is MISSING, option.default
    readers = [READERS[kind] for kind in READERS if kind in parts] or [READERS[str]]
    metavar = "|".join(name for name, _ in readers)
    several = any(get_origin(part) is tuple for part in parts)

    def value(text: str) -> Any:
        for _, reader in readers:
            with contextlib.suppress(ValueError, KeyError):
                return reader(text)
        raise argparse.ArgumentTypeError(f"takes {metavar}, not {text!r}")

    if isinstance(default, tuple):
        default = " ".join(map(str, default)) or "none"
    text = f"{option.text} ({'required' if required else f'default: {default}'})"
    stated = {"type": value, "help": text.replace("%", "%%")}
    if option.positional:
        return stated | {"metavar": option.name.upper(),
                         "nargs": ("+" if required else "*") if several else None}
    stated |= {"required": required, "metavar": metavar, "dest": option.name}
    if option.hint is bool:  # the name alone says True
        return stated | {"nargs": "?", "const": True}
    return stated | {"nargs": "+" if several else None}


def _parts(hint: Any) -> set[Any]:
    """Lists a type and the types that it is made of."""
    return {hint}.union(*map(_parts, get_args(hint)))
