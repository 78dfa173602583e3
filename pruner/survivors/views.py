"""Show a sentence's surviving words in the terminal, and as a page."""

import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from pruner.survivors.kept import Survivors
from pruner.utils.text import printable

LONGEST = 30  # characters of a word, where lines are wrapped
STRUCK, NORMAL = "\x1b[2;9m", "\x1b[0m"  # dim and crossed out
# Colours are variables, for each of the reader's schemes; all are at least 4.5:1 on the paper.
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #111; --faint: #6a6a6a; --rule: #ccc; --paper: #fff }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #f2f2f2; --faint: #9a9a9a; --rule: #444; --paper: #161616 }}
}}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere }}
h1, h2 {{ font-size: 1.1rem }}
h2 {{ margin-top: 2rem }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem }}
dd {{ margin: 0 }}
dt, th {{ color: var(--faint); font-weight: normal }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ border-top: 1px solid var(--rule); padding: .2rem 0; text-align: start; vertical-align: top }}
th {{ padding-inline-end: 1rem; white-space: nowrap }}
td {{ width: 100% }}
tbody th[scope=rowgroup] {{ color: var(--ink); font-weight: bold }}
u, del {{ color: var(--faint) }}
u {{ text-decoration: underline dotted }}
</style>
<h1>{title}</h1>
<dl>
{about}
</dl>
<p>Each line is what a layer computes of the sentence. <del>Struck through</del> is what has been dropped, and
<u>dotted</u> what some pieces are left of.</p>
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


def shown(word: str) -> str:
    """Make a word printable, and not too long to wrap."""
    clean = printable(word)
    return clean if len(clean) <= LONGEST else clean[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"


def markup(text: str) -> str:
    """Write a text as HTML shows it."""
    return escape(printable(text))


def columns(text: str) -> int:
    """Count the columns of a terminal that a text takes."""
    letters = [letter for letter in text if not unicodedata.combining(letter)]
    return len(letters) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in letters)


def parts(sentence: Survivors) -> list[tuple[str, range]]:
    """Return the places of a sentence's words, without a name; of a pair, those of its first and second sentence."""
    number, second = len(sentence.words), sentence.second
    return [("", range(number))] if second is None else [("first", range(second)), ("second", range(second, number))]


def predictions(sentence: Survivors) -> str:
    true = "" if sentence.label is None else f", label {sentence.label}"
    return f"unpruned: {sentence.before}, pruned: {sentence.after}{true}"


def terminal(sentence: Survivors, colours: bool, width: int | None = None) -> str:
    """Write a row for each layer, wrapped together. What is dropped is dim and struck through, or dots."""
    words = [shown(word) for word in sentence.words]
    dropped = [f"{STRUCK}{word}{NORMAL}" if colours else "·" * columns(word) for word in words]
    named = parts(sentence)
    margin = max(map(len, [*sentence.layers, *(name for name, _ in named)])) + 2
    limit = (width or shutil.get_terminal_size().columns) - margin
    lines = [printable(predictions(sentence))]
    for name, part in named:
        for line in wrap([columns(words[item]) for item in part], limit, 1):
            items = [part[at] for at in line]
            lines.append(f"{name:{margin}}" + " ".join(words[item] for item in items))
            for layer, kept in zip(sentence.layers, sentence.kept, strict=True):
                lines.append(f"{layer:{margin}}" + " ".join((words if kept[item] else dropped)[item] for item in items))
            lines.append("")
    return "\n".join(lines)


def page(title: str, about: Mapping[str, str], sentences: Sequence[Survivors]) -> str:
    """Write a page of its own, which loads nothing; ``about`` is what is said of the run, by name."""
    told = "\n".join(f"<dt>{markup(name)}</dt><dd>{markup(value)}</dd>" for name, value in about.items())
    return PAGE.format(title=markup(title), about=told, sentences="\n".join(map(section, sentences)))


def section(sentence: Survivors) -> str:
    """Write a table of a sentence, with a row for each layer; the sentences of a pair are its row groups."""
    direction = "rtl" if is_right_to_left(sentence.words) else "ltr"
    groups = [group(sentence, name, part) for name, part in parts(sentence)]
    return f"""<h2>{markup(predictions(sentence))}</h2>
<table dir="{direction}">
{chr(10).join(groups)}
</table>"""


def group(sentence: Survivors, name: str, part: range) -> str:
    rows = [f'<tr><th scope="rowgroup" colspan="2"><bdi>{name}</bdi></th></tr>'] if name else []
    for layer, kept in zip(sentence.layers, sentence.kept, strict=True):
        words = " ".join(marked(sentence.words[item], kept[item]) for item in part)
        rows.append(f'<tr><th scope="row"><bdi>{markup(layer)}</bdi></th><td>{words}</td></tr>')
    return "<tbody>\n" + "\n".join(rows) + "\n</tbody>"


def marked(word: str, share: float) -> str:
    """Mark a word up for the share of its pieces that is kept."""
    text = f"<bdi>{markup(word)}</bdi>"
    return text if share == 1 else f"<u>{text}</u>" if share else f"<del>{text}</del>"
