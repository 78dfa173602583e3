"""Flags with their types, choices and help, from the constants at the top of a script and the comments behind them.

``seeds = [1]  # one training per task, method and seed`` makes ``--seeds``, a list of whole numbers with that help and
that default. The type is that of the value, or an annotation where the value does not tell: ``clip: float | None =
None``, ``count: Literal["real", "padded"] = "real"``. A comment above a block of constants is the title of its flags.
"""

import argparse
import ast
import io
import math
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin

from pruner import __version__
from pruner.utils.environment import git_commit
from pruner.utils.errors import SettingError, UserError, did_you_mean, flag_name, unknown

# What a type is called in errors and in help, and what is accepted for it.
TYPES: dict[type, tuple[str, str, Any]] = {
    int: ("a whole number", "N", int | str),
    float: ("a number", "X", int | float | str),
    str: ("text", "TEXT", str | Path),
}

LARGEST = 3.4e38  # of a number: that of float32, in which it is computed with


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` with ``--version``, whose errors are one line, and name what a mistyped flag may mean."""

    def __init__(self, description: str | None, **options: Any) -> None:
        super().__init__(description=description, allow_abbrev=False, **options)
        commit = git_commit() if "--version" in sys.argv else None
        version = f"Sequence Pruning {__version__} ({commit or 'no checkout'})"
        self.add_argument("--version", action="version", version=version, help="show version and commit, and exit")

    def parse_args(self, args=None, namespace=None):
        for argument in takewhile("--".__ne__, sys.argv[1:] if args is None else args):
            flag = argument.partition("=")[0]
            if re.fullmatch(r"--?[a-zA-Z][\w-]*", flag) and flag not in self._option_string_actions:
                self.error(f"{flag}: no such flag{did_you_mean(flag, self._option_string_actions)}")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


@dataclass(frozen=True)
class Kind:
    """What a constant holds; ``type`` is that of the elements of a list, or, at ``depth`` 2, of lists in a list."""

    type: type
    depth: int = 0
    optional: bool = False
    choices: tuple[str, ...] = ()

    @classmethod
    def of(cls, hint: Any) -> "Kind":
        """``float | list[float] | None`` -> numbers, one or several or none."""
        origin, parts = get_origin(hint), get_args(hint)
        if origin is Literal:
            return cls(str, choices=parts)
        kinds = [cls.of(part) for part in parts if part is not NoneType]
        if not kinds:
            return cls(hint)
        depth = max(kind.depth for kind in kinds) + (origin is list)
        return cls(kinds[0].type, depth, NoneType in parts, kinds[0].choices)

    def convert(self, value: Any, depth: int) -> Any:
        """Return a value, from a flag or a script, in this type, or raise a ``ValueError``."""
        if self.type is bool or (value is None and self.optional):
            return value
        if depth:
            parts = comma_list(value) if depth == 1 and isinstance(value, str) else value
            return [self.convert(part, depth - 1) for part in (parts if isinstance(parts, list | tuple) else [parts])]
        called, _, accepted = TYPES[self.type]
        converted = None
        with suppress(ValueError):
            converted = self.type(value) if isinstance(value, accepted) else None
        if converted is None:
            raise ValueError(f"{value!r} is not {called}")
        if isinstance(converted, float) and LARGEST < abs(converted) < math.inf:
            raise ValueError(f"{converted!r} is out of range; use a number of {LARGEST:g} at most")
        if self.choices and converted not in self.choices:
            raise ValueError(unknown("value", converted, self.choices))
        return converted

    def add_flag(self, group: argparse._ArgumentGroup, name: str, value: Any, comment: str) -> None:
        """Add the flag of a constant, without a default: the parser's result is what the user has given, as text."""
        if self.type is bool:
            options: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        else:
            metavar = f"{{{','.join(self.choices)}}}" if self.choices else TYPES[self.type][1]
            metavar += ",..." if self.depth else ""
            options = {"metavar": metavar, "nargs": "+" if self.depth == 2 else None}
        text = f"{comment} (default: {as_text(value)})".replace("%", "%%")
        group.add_argument(flag_name(name), dest=name, default=argparse.SUPPRESS, help=text, **options)


def comma_list(text: str) -> list[str]:
    """``"a,b"`` -> ``["a", "b"]``, the form in which flags take lists; no text is an empty one."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(parts):
        raise ValueError("a part is empty")
    return parts


def as_text(value: Any) -> str:
    """Return a value as a flag takes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(as_text, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def read_constants(script: Mapping[str, Any]) -> Iterator[tuple[str, Kind, str, str]]:
    """Yield name, kind, comment and title of each constant: of the names in lower case at the script's top level."""
    source = Path(script["__file__"]).read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token for token in tokens if token.type == tokenize.COMMENT}
    title = "flags"
    for node in ast.parse(source).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]):
                several = isinstance(script[name], list | tuple)
                first = next(iter(script[name]), None) if several else script[name]
                kind = Kind(type(first) if type(first) in (bool, *TYPES) else str, int(several))
            case ast.AnnAssign(target=ast.Name(id=name)):
                kind = Kind.of(eval(ast.unparse(node.annotation), dict(script)))
            case _:
                continue
        if name.islower():
            above, behind = comments.get(node.lineno - 1), comments.get(node.end_lineno or 0)
            if above and above.start[1] == 0:
                title = above.string.lstrip("# ")
            yield name, kind, behind.string.lstrip("# ") if behind else "", title


def parse_flags(script: Mapping[str, Any], demo: Mapping[str, Any] | None = None) -> argparse.Namespace:
    """Parse the command line by the constants of a script, whose ``globals()`` are given.

    The result has a value for every constant, under its name, and under ``given`` the names of those that the user gave
    as flags. With ``--demo``, the values of ``demo`` replace the constants', not the user's. An unknown flag, or a
    value of another type, is a ``UserError``.
    """
    spec = script.get("__spec__")  # of python -m
    prog = f"python -m {spec.name.removesuffix('.__main__')}" if spec else None
    parser = Parser(script["__doc__"], prog=prog, usage="%(prog)s [flags]")
    kinds, groups = {}, {}
    for name, kind, comment, title in read_constants(script):
        if title not in groups:
            groups[title] = parser.add_argument_group(*title.split(": "))
        kind.add_flag(groups[title], name, script[name], comment)
        kinds[name] = kind
    given = vars(parser.parse_args())
    values = {name: script[name] for name in kinds} | given
    if values.get("demo"):
        values = values | (demo or {}) | given
    for name, kind in kinds.items():
        try:
            values[name] = kind.convert(values[name], kind.depth)
        except ValueError as error:
            text = as_text(values[name])
            raise SettingError(name, f"{text}: {error}" if "," in text else str(error)) from None
    return argparse.Namespace(**values, given=frozenset(given))
