"""Flags with their types, choices and help, from the constants at the top of a script and the comments behind them.

``seeds = [1]  # one training per task, method and seed`` makes ``--seeds``, a list of whole numbers with that help and
that default. The type is that of the value, or an annotation where the value does not tell: ``clip: float | None =
None``, ``count: Literal["real", "padded"] = "real"``. A comment above a block of constants is the title of its flags.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin

from pruner.utils.errors import SettingError, UserError, did_you_mean, flag_name, unknown
from pruner.utils.version import version_text

# Of each type: what it is called in errors and in help, and what is taken for it.
TYPES: dict[type, tuple[str, str, tuple[type, ...]]] = {
    int: ("a whole number", "N", (int, str)),
    float: ("a number", "X", (int, float, str)),
    str: ("a text", "TEXT", (str, Path)),
}


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` with ``--version`` whose errors are one line, and which knows mistyped flags."""

    def __init__(self, description: str | None, **options: Any) -> None:
        super().__init__(description=description, allow_abbrev=False, **options)
        version = version_text() if "--version" in sys.argv else ""  # git is asked only then
        self.add_argument("--version", action="version", version=version, help="show version and commit, and exit")

    def parse_args(self, args=None, namespace=None):
        for argument in sys.argv[1:] if args is None else args:
            flag = argument.partition("=")[0]
            if flag == "--":
                break
            if re.fullmatch(r"--?[a-zA-Z][\w-]*", flag) and flag not in self._option_string_actions:
                self.error(f"{flag}: no such flag{did_you_mean(flag, self._option_string_actions)}")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


@dataclass(frozen=True)
class Constant:
    """A constant of a script; ``type`` is that of the elements of a list, or of ``depth`` 2, of lists in a list."""

    name: str
    value: Any
    help: str
    group: str
    type: type
    depth: int = 0
    optional: bool = False
    choices: tuple[str, ...] = ()

    def add_to(self, group: argparse._ArgumentGroup) -> None:
        """Add the flag, without a default: the result holds what the user has given, as text."""
        flag = flag_name(self.name)
        options: dict[str, Any] = {"dest": self.name, "default": argparse.SUPPRESS}
        text = f"{self.help} (default: {as_text(self.value)})".replace("%", "%%")
        if self.type is bool:  # two flags; that of the default is not shown
            for value, name in ((True, flag), (False, f"--no-{flag[2:]}")):
                shown = argparse.SUPPRESS if value == self.value else text
                group.add_argument(name, action="store_const", const=value, help=shown, **options)
            return
        metavar = f"{{{','.join(self.choices)}}}" if self.choices else TYPES[self.type][1]
        metavar, nargs = f"{metavar},..." if self.depth else metavar, "+" if self.depth == 2 else None
        group.add_argument(flag, nargs=nargs, metavar=metavar, help=text, **options)

    def convert(self, value: Any) -> Any:
        """Return a value, as the user or the script gives it, in the constant's type.

        Raises:
            SettingError: it is of another type, or none of the choices.
        """
        if self.type is bool or (value is None and self.optional):
            return value
        if value is None:
            raise SettingError(self.name, "None is no value; give one")
        return self.convert_part(value, self.depth, value)

    def convert_part(self, value: Any, depth: int, whole: Any) -> Any:
        if not depth:
            return self.convert_element(value, "" if value is whole else f" in {as_text(whole)}")
        if depth == 1 and isinstance(value, str):
            try:
                value = comma_list(value)
            except ValueError as error:
                raise SettingError(self.name, f"{value!r} is not a list; {error}") from None
        parts = value if isinstance(value, (list, tuple)) else [value]
        return [self.convert_part(part, depth - 1, whole) for part in parts]

    def convert_element(self, value: Any, where: str) -> Any:
        called, _, accepted = TYPES[self.type]
        try:
            if not isinstance(value, accepted):
                raise ValueError
            value = self.type(value)
        except ValueError:
            raise SettingError(self.name, f"{value!r}{where} is not {called}") from None
        if self.choices and value not in self.choices:
            raise SettingError(self.name, unknown("value", value, self.choices))
        return value


def comma_list(text: str) -> list[str]:
    """``"a,b"`` -> ``["a", "b"]``, the form in which flags take lists; no text is an empty one."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(parts):
        raise ValueError("a part is empty")
    return parts


def as_text(value: Any) -> str:
    """Return a value as a flag takes it."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(as_text, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def hint_of(value: Any) -> Any:
    """Return the type of a constant without an annotation; nothing, which tells none, counts as text."""
    if isinstance(value, (list, tuple)):
        return list[hint_of(value[0] if value else None)]  # type: ignore[misc]
    return str if value is None else type(value)


def kind_of(hint: Any) -> dict[str, Any]:
    """``float | list[float] | None`` -> numbers, one or several or none: the fields of a ``Constant`` that say so."""
    if get_origin(hint) is Literal:
        return {"type": str, "choices": get_args(hint)}
    if get_origin(hint) is list:
        kind = kind_of(get_args(hint)[0])
        return kind | {"depth": kind.get("depth", 0) + 1}
    kind = {} if get_args(hint) else {"type": hint}
    for part in get_args(hint):  # of a union
        kind |= {"optional": True} if part is NoneType else kind_of(part)
    return kind


def read_constants(script: Mapping[str, Any]) -> Iterator[Constant]:
    """Yield the constants of a script, whose ``globals()`` are given: the names in lower case at its top level."""
    source = Path(script["__file__"]).read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token for token in tokens if token.type == tokenize.COMMENT}
    group = "flags"
    for node in ast.parse(source).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]):
                hint = hint_of(script[name])
            case ast.AnnAssign(target=ast.Name(id=name)):
                hint = eval(ast.unparse(node.annotation), dict(script))
            case _:
                continue
        if name.islower():
            above, behind = comments.get(node.lineno - 1), comments.get(node.end_lineno or 0)
            if above and not above.start[1]:
                group = above.string.lstrip("# ")
            text = behind.string.lstrip("# ") if behind else ""
            yield Constant(name, script[name], text, group, **kind_of(hint))


def parse_flags(script: Mapping[str, Any], demo: Mapping[str, Any] | None = None) -> argparse.Namespace:
    """Parse the command line by the constants of a script, whose ``globals()`` are given.

    The result has a value for every constant, under its name, and under ``given`` the names of those that the user gave
    as flags. With ``--demo``, the values of ``demo`` replace the constants', not the user's.

    Raises:
        UserError: an unknown flag, or a constant or flag with a value of another type.
    """
    module = script["__package__"]
    parser = Parser(script["__doc__"], prog=f"python -m {module}" if module else None, usage="%(prog)s [flags]")
    constants = {constant.name: constant for constant in read_constants(script)}
    groups = {
        title: parser.add_argument_group(*title.split(": ")) for title in {c.group: 0 for c in constants.values()}
    }
    for constant in constants.values():
        constant.add_to(groups[constant.group])
    given = vars(parser.parse_args())
    values = {name: constant.value for name, constant in constants.items()} | given
    if values.get("demo"):
        values = values | (demo or {}) | given
    converted = {name: constants[name].convert(value) if name in constants else value for name, value in values.items()}
    return argparse.Namespace(**converted, given=frozenset(given))
