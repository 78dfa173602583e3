"""Show a sentence's surviving words in the terminal, and as a page to scroll."""

import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from pruner.survivors.kept import Survivors

LONGEST = 30  # characters of a word, where lines are wrapped
DIM, NORMAL = "\x1b[2m", "\x1b[0m"
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem; color: #111; background: #fff }}
h1, h2 {{ font-size: 1.1rem }}
.scroll {{ overflow-x: auto; border: 1px solid #ccc }}
table {{ border-collapse: collapse; white-space: nowrap }}
th, td {{ padding: .1rem .35rem; text-align: center; font-weight: normal }}
thead th {{ border-bottom: 1px solid #ccc; font-weight: bold }}
th:first-child {{ position: sticky; inset-inline-start: 0; background: #fff; color: #555; text-align: start }}
td.part {{ color: #777 }}
td.dropped {{ color: #ccc }}
p {{ margin: .3rem 0 }}
</style>
<h1>{title}</h1>
<p>Each row is what a layer computes of the sentence: black words whole, grey ones some of their pieces; pale ones
have been dropped.</p>
{sentences}
</html>
"""


def is_right_to_left(words: Iterable[str]) -> bool:
    """Tell whether most letters are of a script that is read from right to left."""
    kinds = [unicodedata.bidirectional(letter) for word in words if not word.startswith("[") for letter in word]
    return sum(kind in ("R", "AL") for kind in kinds) > kinds.count("L")


def wrap(widths: Sequence[float], limit: float, space: float) -> Iterator[range]:
    """Yield the items of each line, as many as go into ``limit`` with a ``space`` between them."""
    first, used = 0, -space
    for item, width in enumerate(widths):
        used += space + width
        if item > first and used > limit:
            yield range(first, item)
            first, used = item, width
    if widths:
        yield range(first, len(widths))


def shown_line(text: str) -> str:
    """Replace what is invisible or would steer the terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def shown(word: str) -> str:
    """Make a word printable, and not too long to wrap."""
    clean = shown_line(word)
    return clean if len(clean) <= LONGEST else clean[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"


def columns(text: str) -> int:
    """Count the columns of a terminal that a text takes."""
    letters = [letter for letter in text if not unicodedata.combining(letter)]
    return len(letters) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in letters)


def predictions(sentence: Survivors) -> str:
    true = "" if sentence.label is None else f", label {sentence.label}"
    return f"unpruned: {sentence.before}, pruned: {sentence.after}{true}"


def terminal(sentence: Survivors, colours: bool, width: int | None = None) -> str:
    """Write a row for each layer, wrapped together. What is dropped is dim, or dots."""
    words = [shown(word) for word in sentence.words]
    dropped = [f"{DIM}{word}{NORMAL}" if colours else "·" * columns(word) for word in words]
    margin = max(map(len, sentence.layers)) + 2
    limit = (width or shutil.get_terminal_size().columns) - margin
    lines = [shown_line(predictions(sentence))]
    for part in wrap([columns(word) for word in words], limit, 1):
        lines.append(" " * margin + " ".join(words[item] for item in part))
        for layer, kept in zip(sentence.layers, sentence.kept, strict=True):
            lines.append(f"{layer:{margin}}" + " ".join((words if kept[item] else dropped)[item] for item in part))
        lines.append("")
    return "\n".join(lines)


def page(title: str, sentences: Sequence[Survivors]) -> str:
    """Write a page of its own, which loads nothing."""
    return PAGE.format(title=escape(title), sentences="\n".join(map(section, sentences)))


def section(sentence: Survivors) -> str:
    direction = "rtl" if is_right_to_left(sentence.words) else "ltr"
    words = [f"<bdi>{escape(word)}</bdi>" for word in sentence.words]
    head = "".join(f'<th scope="col">{word}</th>' for word in words)
    rows = []
    for layer, kept in zip(sentence.layers, sentence.kept, strict=True):
        kinds = ["" if share == 1 else ' class="part"' if share else ' class="dropped"' for share in kept]
        cells = "".join(f"<td{kind}>{word}</td>" for kind, word in zip(kinds, words, strict=True))
        rows.append(f'<tr><th scope="row"><bdi>{escape(layer)}</bdi></th>{cells}</tr>')
    return f"""<h2>{escape(predictions(sentence))}</h2>
<div class="scroll" tabindex="0"><table dir="{direction}">
<thead><tr><th><bdi>sentence</bdi></th>{head}</tr></thead>
<tbody>
{chr(10).join(rows)}
</tbody>
</table></div>"""
