"""Draw charts as PNG and SVG. They know no record; Matplotlib is loaded with the first of them."""

import io
import os
import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

BASELINE = -1  # the look of what is compared with
# A line is told from the others by its marker and its dashes first, so that it can be read when printed in grey.
MARKERS = "os^vDPX<>ph8dH"
COLOURS = "#0072b2 #d55e00 #009e73 #aa3377 #56b4e9 #8c6d00 #666666 #332288 #e69f00 #117733 #882255".split()
# As many as colours: a whole line, and lengths of ink and of gaps in turn.
INK_AND_GAPS = "6,2 1,1.5 6,2,1,2 3,1,1,1,1,1 7,1.5 2,3 9,2,1,2,1,2 5,5 1,3 12,2,3,2".split()
DASHES: list[Any] = ["-", *((0, [float(length) for length in dash.split(",")]) for dash in INK_AND_GAPS)]
DODGE = 0.045  # between the lines of a panel with named ticks, so that their bars do not lie on each other
WIDTH, HEIGHT = 4.1, 3.1  # of a panel, in inches
CLOSE = 0.01  # of an axis: points that are no further apart lie on each other
# By how much markers and lines grow that others lie on, at most and in all, so that an edge of each is seen.
GROWTH = {"markersize": (3.0, 9.0), "linewidth": (1.8, 5.4)}
COLLAPSED = "gives one answer only"  # what the legend says of circled points
DENSE = 20  # points of a line from which not each gets a marker
RESOLUTION = 150  # dots per inch of a PNG
# Of Matplotlib, in all figures: the same bytes whenever they are drawn, and a dollar in a name begins no formula.
SETTINGS: dict = {"svg.hashsalt": "pruner", "text.parse_math": False, "text.usetex": False}
PANEL = ["panel", "x_label", "ticks"]  # what lines that share axes have in common


class Chart(NamedTuple):
    """A figure's content.

    ``lines`` has a row per point. Those of a line share its ``label``; those of a panel its title, ``panel``, the
    ``x_label`` of its axis and ``ticks``, names for 0, 1, ... in place of numbers ("" for none). ``x`` and ``y`` have
    standard deviations, ``x_error`` and ``y_error``, or none. ``look`` chooses marker and colour, ``dash`` the line's
    style: what is the same in several panels looks the same. A baseline of a single point is level, a band where it has
    a deviation. Points whose
    ``collapsed`` is above 0, the share of seeds in which the model gives one answer only, are circled.
    """

    lines: pd.DataFrame
    y_label: str
    title: str = ""
    y_limits: tuple[float, float] | None = None


def missing_matplotlib() -> str:
    """Say why figures cannot be drawn; nothing where they can."""
    backend = os.environ.pop("MPLBACKEND", None)  # which is for windows, and may be one that is not there
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        return f"matplotlib: {error}; pip install -r requirements.txt brings it"
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    return ""


def draw(chart: Chart) -> dict[str, bytes]:
    """Draw the chart's ``png`` and ``svg``: the same bytes for the same chart."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = list(chart.lines.groupby(PANEL, sort=False))
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    names = chart.lines.sort_values("look", kind="stable")["label"].unique()
    legend = 0.6 + 0.075 * max(map(len, names))
    looks = SETTINGS | {"font.size": 9, "axes.titlesize": 9, "figure.titlesize": 10}
    with rc_context(looks), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(columns * WIDTH + legend, rows * HEIGHT + 0.4), layout="constrained")
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        handles: dict[str, Any] = {}
        for axes, panel in zip(grid.flat, panels, strict=False):
            handles = draw_panel(axes, *panel) | handles
        if COLLAPSED in handles:
            names = [*names, COLLAPSED]
        for axes in grid[:, 0]:
            axes.set_ylabel(chart.y_label)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        if chart.y_limits:
            grid[0, 0].set_ylim(*chart.y_limits)
        figure.suptitle(chart.title)
        figure.legend([handles[name] for name in names], names, loc="outside right upper", handlelength=3.2)
        return as_files(figure)


def as_files(figure: Any) -> dict[str, bytes]:
    """Save a figure of Matplotlib's as ``png`` and ``svg``."""
    files = {}
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        file = io.BytesIO()
        figure.savefig(file, format=kind, dpi=RESOLUTION, metadata=metadata)
        files[kind] = file.getvalue()
    return files


def draw_panel(axes: Any, key: Any, lines: pd.DataFrame) -> dict[Any, Any]:
    """Draw a panel's lines, which have the ``PANEL`` of that key; return a handle for the legend of each label."""
    title, x_label, ticks = key
    axes.set(title=title, xlabel=x_label)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    if ticks:
        axes.set_xticks(range(len(ticks.split())), ticks.split())
    elif (lines["x"] % 1 == 0).all():
        axes.locator_params(axis="x", integer=True)
    groups = lines.groupby("label", sort=False)
    shifts = DODGE * (np.arange(len(groups)) - (len(groups) - 1) / 2) * bool(ticks)
    above = covers([line for _, line in groups])
    sizes = [
        {key: rank * min(step, most / max(above)) if rank else 0.0 for key, (step, most) in GROWTH.items()}
        for rank in above
    ]
    handles = {label: draw_line(axes, line, n, shifts[n], sizes[n]) for n, (label, line) in enumerate(groups)}
    if "collapsed" in lines and lines["collapsed"].gt(0).any():
        number = groups.ngroup()[lines["collapsed"] > 0]
        circled = lines.loc[lines["collapsed"] > 0, ["x", "y"]].astype(float)
        look = {"marker": "o", "markersize": 13, "markerfacecolor": "none", "markeredgecolor": "0.25"}
        (handles[COLLAPSED],) = axes.plot(circled["x"] + shifts[number], circled["y"], linestyle="none", **look)
    return handles


def covers(lines: list[pd.DataFrame]) -> list[int]:
    """Count for each line how many lie on each other above it, where most of its points are on theirs.

    Lines are drawn in their order, but for the baseline, which comes last.
    """
    points = [line[["x", "y"]].to_numpy(float) for line in lines]
    everything = np.concatenate(points)
    spans = np.nanmax(everything, axis=0) - np.nanmin(everything, axis=0)
    tolerance = CLOSE * spans + 1e-9
    order = sorted(range(len(lines)), key=lambda n: lines[n]["look"].iloc[0] == BASELINE)
    above = [0] * len(lines)
    for place in reversed(range(len(order))):
        under, a = order[place], points[order[place]]
        for over in order[place + 1 :]:
            near = (np.abs(a[:, None] - points[over][None]) <= tolerance).all(axis=2)
            if near.any(axis=1).mean() > 0.5:
                above[under] = max(above[under], above[over] + 1)
    return above


def draw_line(axes: Any, line: pd.DataFrame, number: int, shift: float, more: dict[str, float]) -> Any:
    """Draw the ``number``-th line of a panel, a little to the right and so much larger; return its legend's handle."""
    line = line.sort_values("x", kind="stable")
    look, dash = line[["look", "dash"]].iloc[0].astype(int)
    base = look == BASELINE
    colour = "black" if base else COLOURS[look % len(COLOURS)]
    bars = line.filter(like="_error").loc[:, lambda errors: errors.gt(0).any()]
    if base and len(line) == 1:
        level, error = line["y"].iloc[0], bars["y_error"].iloc[0] if "y_error" in bars else 0.0
        axes.axhline(level, color="0.45", linewidth=0.8, linestyle=DASHES[2], zorder=1)
        if error:
            axes.axhspan(level - error, level + error, color="0.9", zorder=0)
    drawn = axes.errorbar(
        (line["x"] + shift).to_numpy(float),
        line["y"].to_numpy(float),
        xerr=bars.get("x_error"),
        yerr=bars.get("y_error"),
        color=colour,
        marker="*" if base else MARKERS[look % len(MARKERS)],
        markersize=(9 if base else 5.5) + more["markersize"],
        # Filled and hollow in turn, where markers lie on each other.
        markerfacecolor=colour if base or look % 2 == 0 else "white",
        markevery=(number * 2 % 7, 7) if len(line) >= DENSE else None,
        linestyle=DASHES[dash % len(DASHES)] if len(line) > 1 else "none",
        linewidth=1.3 + more["linewidth"],
        elinewidth=0.8,
        capsize=2,
        zorder=3 if base else 2,
    )
    return drawn.lines[0]
