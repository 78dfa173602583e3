"""Maps of the heads and feed-forwards of a BERT that are kept: a row per layer, a column per head, one for the rest."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from pruner.report.figures import SETTINGS, as_files

MOST_PANELS = 12
COLUMNS = 4  # of panels, at most


class KeptMap(NamedTuple):
    """The share of seeds, 0 to 1, in which each head [L, H] and each layer's neurons [L], on average, are kept."""

    title: str
    heads: np.ndarray
    feed_forwards: np.ndarray


def kept_maps(frame: pd.DataFrame, by: Sequence[str] = ("label", "variant")) -> list[KeptMap]:
    """Make a map for each group of records of which heads or neurons have been removed, in the frame's order."""
    rows = frame[frame["kept.heads"].notna()]
    if rows.empty:
        return []
    depth = 1 + max(max(layers) for layers in rows["kept.layers"])
    width = 1 + max(head for layers in rows["kept.heads"] for heads in layers for head in heads)
    most = max(max(neurons) for neurons in rows["kept.neurons"]) or 1
    maps = []
    for names, cells in rows.groupby(list(by), sort=False):
        heads, feed_forwards = np.zeros((depth, width)), np.zeros(depth)
        for layers, of_layers, neurons in cells[["kept.layers", "kept.heads", "kept.neurons"]].to_numpy():
            for layer, kept, number in zip(layers, of_layers, neurons, strict=True):
                heads[layer, kept] += 1 / len(cells)
                feed_forwards[layer] += number / most / len(cells)
        if len(np.unique(heads)) > 1 or len(np.unique(feed_forwards)) > 1:
            maps.append(KeptMap(", ".join(names), heads, feed_forwards))
    return maps[:MOST_PANELS]


def draw_maps(maps: Sequence[KeptMap], title: str) -> dict[str, bytes]:
    """Draw the maps as ``png`` and ``svg``: the same bytes for the same maps. Black is kept, white is gone."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(maps))
    rows = -(-len(maps) // columns)
    depth, width = maps[0].heads.shape
    with rc_context(SETTINGS | {"font.size": 8, "axes.titlesize": 8, "figure.titlesize": 10}):
        size = columns * (0.9 + 0.16 * (width + 2)), rows * (0.7 + 0.16 * depth) + 0.5
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, one in zip(grid.flat, maps, strict=False):
            gap = np.full((depth, 1), np.nan)
            cells = np.concatenate([one.heads, gap, one.feed_forwards[:, None]], axis=1)
            axes.imshow(np.ma.masked_invalid(cells), cmap="Greys", vmin=0, vmax=1, origin="lower")
            axes.set_title(one.title)
            heads = [0, width - 1] if width > 1 else [0]
            axes.set_xticks(
                [*heads, width + 1], [*(f"head {head + 1}" if head == 0 else f"{head + 1}" for head in heads), "FF"]
            )
            axes.set_yticks(range(depth), [str(layer + 1) for layer in range(depth)])
            axes.set_xticks(np.arange(-0.5, width + 2), minor=True)
            axes.set_yticks(np.arange(-0.5, depth), minor=True)
            axes.grid(which="minor", color="0.8", linewidth=0.5)
            axes.tick_params(which="both", length=0)
            for side in axes.spines.values():
                side.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("layer")
        for axes in grid.flat[len(maps) :]:
            axes.set_axis_off()
        figure.suptitle(title)
        return as_files(figure)
