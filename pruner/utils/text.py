"""Text from outside on its way out: what steers terminals, Markdown and spreadsheets is made harmless here alone."""

import getpass
import os
import re
import socket
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

# Controls (C0, C1), line and paragraph separators, what turns the direction of what follows, invisible characters that
# join no letters, and surrogates, which no encoding has. What ordinary text of a script needs, as joiners, is not among
# them.
HOSTILE = "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~$&]|:(?=//)|(?<=www)\.)")  # what Markdown would read as more than text
FORMULA = re.compile("[=+\uff1d\uff0b@\uff20\uff0d\t\r-]")  # as the first letter of a cell
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
# Of an absolute path, or one that leads out of the folder: the rest of its line.
OUTSIDE = re.compile(r"(?<![\w.~-])(?:[A-Za-z]:[/\\]|(?:\.\.)?/|\.\.\\)(?=\S).*")


def printable(text: str, kept: Sequence[str] = ()) -> str:
    r"""Write characters that are invisible or steer the terminal as Python does: ``\x1b``. What is ``kept`` stays."""
    return pattern(tuple(kept)).sub(lambda match: match[1] or escaped(match[0]), text)


@cache
def pattern(kept: tuple[str, ...]) -> re.Pattern:
    """Compile what ``printable`` looks for, once: where memory has run out, there would be none for it."""
    return re.compile(f"({'|'.join(map(re.escape, kept)) or '(?!)'})|{HOSTILE}")


def escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def shorten(text: str, longest: int, tail: int = 0) -> str:
    """Cut a text that is too long, but for so many characters at its end."""
    return text if len(text) <= longest else f"{text[: longest - 3 - tail]}...{text[len(text) - tail :]}"


def escape_markdown(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, in one line."""
    return MARKUP.sub(r"\\\1", printable(" ".join(text.split())))


def escape_csv(text: str) -> str:
    """Put a quote before a text that a spreadsheet would take for a formula; numbers are none."""
    text = printable(text)
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def impersonal(text: str) -> str:
    """Take out of paths whose machine they are of: write those in the current folder relative to it, homes as ``~``.

    What is left of the names of user and machine in other paths is ``~`` and ``HOST``.
    """
    if "/" not in text and "\\" not in text:
        return text
    here = {os.getcwd(), os.environ.get("PWD", "/")}
    home = os.path.expanduser("~")
    places = [(folder, "") for folder in here if os.path.realpath(folder) == os.getcwd()]
    for folder, name in [*places, *((folder, "~") for folder in (home, os.path.realpath(home)))]:
        parts = [part for part in re.split(r"[/\\]+", folder) if part]
        if parts and os.path.isabs(folder):
            path = r"[/\\]+".join(map(re.escape, parts))
            path = rf"(?<![\w.~-]){'/' * folder.startswith('/')}{path}"
            text = re.sub(rf"{path}[/\\]+", f"{name}/" if name else "", text)
            text = re.sub(rf"{path}(?![\w.-])", name or ".", text)
    names = {socket.gethostname(): "HOST", user(): "~"}
    return OUTSIDE.sub(partial(_without, {name: other for name, other in names.items() if name}), text)


def _without(names: dict[str, str], path: re.Match) -> str:
    found = path[0]
    for name, other in names.items():
        found = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", other, found)
    return found


def user() -> str:
    try:
        return getpass.getuser()
    except (OSError, LookupError, ImportError):  # a user without a name, as in some containers
        return ""


def recorded_path(text: str) -> str:
    """Return a path as this user finds it that was recorded as ``impersonal`` writes it."""
    path = os.path.expanduser(text)
    return path if os.path.exists(path) else path.replace("~", user())


def clean(value: Any) -> Any:
    """Return a value of JSON with all its texts ``printable`` and ``impersonal``."""
    if isinstance(value, str):
        return printable(impersonal(value))
    if isinstance(value, dict):
        return {clean(key): clean(element) for key, element in value.items()}
    return [clean(element) for element in value] if isinstance(value, list | tuple) else value
