"""Figures drawn from plain data, as PNG and SVG. They know no record; matplotlib is loaded with the first of them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pruner.utils.errors import UserError

BASELINE = -1  # the look of what is compared with
# A line is told from the others by its marker and its dashes first, so that it can be read when printed in grey.
MARKERS = "os^vDPX<>ph8dH"
COLOURS = "#0072b2 #d55e00 #009e73 #aa3377 #56b4e9 #8c6d00 #666666 #332288 #e69f00 #117733 #882255".split()
DASHES: tuple = (
    "-",
    (0, (6, 2)),
    (0, (1, 1.5)),
    (0, (6, 2, 1, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (7, 1.5)),
    (0, (2, 3)),
)
DASHES += (0, (9, 2, 1, 2, 1, 2)), (0, (5, 5)), (0, (1, 3)), (0, (12, 2, 3, 2))  # as many as colours
DODGE = 0.045  # between the lines of a panel with named ticks, so that their bars do not lie on each other
PANEL = 4.1, 3.1  # inches
DENSE = 20  # points of a line from which not each gets a marker
RESOLUTION = 150  # dots per inch of a PNG
# Of Matplotlib, in all figures: the same bytes whenever they are drawn, and a dollar in a name begins no formula.
SETTINGS: dict = {"svg.hashsalt": "pruner", "text.parse_math": False, "text.usetex": False}


@dataclass(frozen=True)
class Line:
    """One line of a panel; errors are standard deviations, 0 where there is one seed only.

    ``look`` chooses marker and colour, ``dash`` the line's style; what is the same in several panels looks the same.
    ``level`` draws the height of its first point through the whole panel.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    x_error: tuple[float, ...] = ()
    y_error: tuple[float, ...] = ()
    look: int = 0
    dash: int = 0
    level: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes. ``ticks`` are names for 0, 1, ... on the x axis, in place of numbers."""

    title: str
    x_label: str
    lines: tuple[Line, ...]
    ticks: tuple[str, ...] = ()
    whole_numbers: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure: panels with a common y axis and one legend. ``name`` says what it shows, ``title`` of what."""

    name: str
    title: str
    y_label: str
    panels: tuple[Panel, ...]
    y_limits: tuple[float, float] | None = None


def check_matplotlib() -> None:
    """Complain where figures cannot be drawn.

    Raises:
        UserError: matplotlib cannot be imported.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UserError(f"matplotlib: {error}; pip install -r requirements.txt brings it") from None


def draw(picture: Picture) -> dict[str, bytes]:
    """The picture's ``png`` and ``svg``: the same bytes for the same picture."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS | {"font.size": 9, "axes.titlesize": 9, "figure.titlesize": 10}):
        columns = 2 if len(picture.panels) == 4 else min(3, len(picture.panels))
        rows = -(-len(picture.panels) // columns)
        lines = sorted((line for panel in picture.panels for line in panel.lines), key=lambda line: line.look)
        names = list(dict.fromkeys(line.label for line in lines))
        beside = 0.6 + 0.075 * max(map(len, names))
        figure = Figure(figsize=(columns * PANEL[0] + beside, rows * PANEL[1] + 0.4), layout="constrained")
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        handles: dict[str, Any] = {}
        for place, axes in enumerate(grid.flat):
            if place < len(picture.panels):
                handles |= draw_panel(axes, picture.panels[place]) | handles
                if place % columns == 0:
                    axes.set_ylabel(picture.y_label)
            else:
                axes.set_axis_off()
        if picture.y_limits:
            grid[0, 0].set_ylim(*picture.y_limits)
        figure.suptitle(picture.title)
        figure.legend([handles[name] for name in names], names, loc="outside right upper", handlelength=3.2)
        return as_files(figure)


def as_files(figure: Any) -> dict[str, bytes]:
    """A figure of Matplotlib's as ``png`` and ``svg``."""
    found = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        file = io.BytesIO()
        figure.savefig(file, format=kind, dpi=RESOLUTION, metadata=metadata)
        found[kind] = file.getvalue()
    return found


def draw_panel(axes, panel: Panel) -> dict[str, Any]:
    """Draw the panel's lines; a handle for the legend of each label."""
    from matplotlib.ticker import MaxNLocator

    handles: dict[str, Any] = {}
    axes.set(title=panel.title, xlabel=panel.x_label)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    if panel.ticks:
        axes.set_xticks(range(len(panel.ticks)), panel.ticks)
    elif panel.whole_numbers:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for number, line in enumerate(panel.lines):
        shift = DODGE * (number - (len(panel.lines) - 1) / 2) if panel.ticks else 0.0
        handles.setdefault(line.label, draw_line(axes, line, number, shift))
    return handles


def draw_line(axes, line: Line, number: int, shift: float) -> Any:
    """Draw the ``number``-th line of a panel, a little to the right; its handle for the legend."""
    base = line.look == BASELINE
    colour = "black" if base else COLOURS[line.look % len(COLOURS)]
    if line.level:
        axes.axhline(line.y[0], color="0.45", linewidth=0.8, linestyle=DASHES[2], zorder=1)
    drawn = axes.errorbar(
        [x + shift for x in line.x],
        line.y,
        xerr=bars(line.x_error),
        yerr=bars(line.y_error),
        color=colour,
        marker="*" if base else MARKERS[line.look % len(MARKERS)],
        markersize=9 if base else 5.5,
        # Filled and hollow in turn, where markers lie on each other.
        markerfacecolor=colour if base or line.look % 2 == 0 else "white",
        markevery=(number * 2 % 7, 7) if len(line.x) >= DENSE else None,
        linestyle=DASHES[line.dash % len(DASHES)] if len(line.x) > 1 else "none",
        linewidth=1.3,
        elinewidth=0.8,
        capsize=2,
        zorder=3 if base else 2,
    )
    return drawn.lines[0]


def bars(errors: Sequence[float]) -> Sequence[float] | None:
    return errors if any(errors) else None
