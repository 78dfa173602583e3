"""Draw a sentence's surviving words for a paper. Matplotlib is loaded with the first picture."""

import warnings
from typing import Literal

from pruner.report.figures import RESOLUTION, SETTINGS, as_files
from pruner.survivors.kept import Survivors
from pruner.survivors.views import is_right_to_left, parts, predictions, shown, wrap
from pruner.utils.text import printable

SIZE = 8  # points
WIDTH = 6.75  # inches at most, as all that follows: a page of two columns
EDGE, MARGIN = 0.03, 0.6  # where the layers' names begin, and the words
SPACE, ROW, BETWEEN = 0.07, 0.145, 0.1  # of words, of rows, and more below the last layer
BLACK, PALE = 0.0, 0.42  # greys of what is kept; of names and what is dropped, at least 4.5:1 on white
STRIKE, UNDERLINE = 0.03, -0.02  # where lines are, above the foot of a row


def draw_survivors(sentence: Survivors) -> tuple[dict[str, bytes], str]:
    """Draw the picture's ``png`` and ``svg``; return also the letters that no font of this machine has."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    words = [shown(word) for word in sentence.words]
    title = printable(predictions(sentence))
    families, missing = fonts_for("".join([*words, title]))
    with rc_context(SETTINGS | {"font.size": SIZE, "font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(WIDTH, 1), dpi=RESOLUTION)
        renderer = FigureCanvasAgg(figure).get_renderer()
        trial = [figure.text(0, 0, word) for word in [*words, title]]
        *widths, long = [text.get_window_extent(renderer).width / RESOLUTION for text in trial]
        figure.clear()
        bands = []  # the name of a pair's sentence where it begins, and the words of each line
        for name, part in parts(sentence):
            lines = wrap([widths[item] for item in part], WIDTH - MARGIN - EDGE, SPACE)
            bands += [("" if n else name, [part[at] for at in line]) for n, line in enumerate(lines)]
        used = [MARGIN - SPACE + sum(widths[item] + SPACE for item in band) for _, band in bands]
        width = max([*used, EDGE + long]) + EDGE
        rows = [len(sentence.layers) + bool(name) for name, _ in bands]
        top = height = 1.6 * ROW + sum(rows) * ROW + len(bands) * BETWEEN
        figure.set_size_inches(width, height)
        backwards = is_right_to_left(sentence.words)

        def write(text: str, x: float, grey: float) -> None:
            """Write ``x`` inches from the side where reading begins."""
            place, side = (1 - x / width, "right") if backwards else (x / width, "left")
            figure.text(place, top / height, text, color=f"{grey:.3f}", va="baseline", ha=side)

        def line(x: float, length: float, above: float, style: Literal["-", ":"]) -> None:
            """Draw a line beside a word, ``above`` the foot of its row."""
            ends = [(width - end if backwards else end) / width for end in (x, x + length)]
            level = (top + above) / height
            figure.add_artist(Line2D(ends, [level, level], color=f"{PALE:.3f}", linewidth=0.7, linestyle=style))

        top -= ROW
        write(title, EDGE, BLACK)
        top -= 0.6 * ROW
        for name, band in bands:
            if name:
                top -= ROW
                write(name, EDGE, BLACK)
            for layer, kept in zip(sentence.layers, sentence.kept, strict=True):
                top -= ROW
                write(layer, EDGE, PALE)
                x = MARGIN
                for item in band:
                    write(words[item], x, BLACK if kept[item] == 1 else PALE)
                    if kept[item] < 1:
                        line(x, widths[item], *((UNDERLINE, ":") if kept[item] else (STRIKE, "-")))
                    x += widths[item] + SPACE
            top -= BETWEEN
        return as_files(figure), missing


def fonts_for(text: str) -> tuple[list[str], str]:
    """Choose installed fonts that have the letters, Matplotlib's own first; return also the letters that none has."""
    from matplotlib.font_manager import fontManager, get_font

    own = "DejaVu Sans"
    regular = [font for font in fontManager.ttflist if font.style == "normal" and font.weight in (400, "normal")]
    # "Last Resort" has a box for everything.
    others = sorted((font.name, font.fname) for font in regular if "Last Resort" not in font.name)
    families: list[str] = []
    missing = set(text) - {" "}
    for name, path in [(own, fontManager.findfont(own)), *others]:
        letters = get_font(path).get_charmap()
        left = {letter for letter in missing if ord(letter) not in letters}
        if not families or left < missing:
            families.append(name)
            missing = left
        if not missing:
            break
    return families, "".join(sorted(missing))
