"""Tables that compare what methods lose at several budgets, rates or levels."""

from collections.abc import Hashable
from functools import partial
from typing import Any

import pandas as pd

from pruner.report.tables import average, mark, mean_text


def first_metric(
    frame: pd.DataFrame, keys: list[str], column: str, heading: str, differences: bool = False
) -> pd.DataFrame:
    """Make a table with a row for each of the ``keys``: the unpruned model, then a column for each number of a kind."""
    frame = frame[frame["pruned"] & frame[column].notna()]
    cells = frame.groupby([*keys, column])
    scores = cells["score"].agg(mean_text)
    if differences:
        scores += cells["lost"].mean().map(" ({:+.1f})".format)
    columns = (scores + cells["one_answer"].agg(mark)).unstack().rename(columns=heading.format)
    # The unpruned model is beside each number, and is one for each seed.
    baselines = frame.drop_duplicates([*keys, "seed"]).groupby(keys, sort=False)
    unpruned = baselines["unpruned"].agg(mean_text) + baselines["unpruned_answer"].agg(mark)
    table = unpruned.rename("unpruned").to_frame().join(columns).fillna("").reset_index()
    return table.rename(columns={"title": "method", "way": "schedule"})


# By pruning rate; and by budget, where the difference to the unpruned model stands behind, in points.
rate_table = partial(first_metric, keys=["task", "title", "metric"], column="target_prune_rate", heading="{:g}")
budget_table = partial(
    first_metric,
    keys=["task", "title", "way", "metric"],
    column="target_flops_reduction",
    heading="{:g}x",
    differences=True,
)


def chosen_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Make a table of what the held-out rows choose among the levels of each method: dev scores, means over seeds.

    Beside it stands what they choose among as many trainings of the dense model, where that has as many seeds: the
    level is one of several tries, and so is that. Of equal levels, the smaller model is chosen.
    """
    frame = frame[frame["held_out"].notna()]
    rows = []
    for task, cells in frame.groupby("task", sort=False):
        dense, others = cells[~cells["pruned"]], cells[cells["weights_remaining"].notna()]
        tries = others.groupby(["title", "seed"])["variant"].nunique()
        for title, of_method in others.groupby("title", sort=False):
            by_seed = of_method.sort_values("flops.reduction", ascending=False, kind="stable").groupby("seed")
            best = of_method.loc[by_seed["held_out"].idxmax()]
            if tries[title].max() > 1:
                levels = ", ".join(
                    f"{variant} ({n})" for variant, n in best["variant"].value_counts(sort=False).items()
                )
                rows.append(chosen_row(task, title, levels, int(tries[title].max()), best))
        if rows and rows[-1]["task"] == task:
            rows.append(chosen_row(task, "dense", "", 1, dense))
            if len(dense) >= tries.max():
                best = dense.loc[[dense.head(tries.max())["held_out"].idxmax()]]
                rows.append(chosen_row(task, "dense", "the best on held-out rows", int(tries.max()), best))
    return pd.DataFrame(rows)


def chosen_row(task: Hashable, title: Hashable, level: str, tries: int, cells: pd.DataFrame) -> dict[str, Any]:
    return {
        "task": task,
        "method": title,
        "chosen (seeds)": level,
        "of": tries,
        "seeds": len(cells),
        "weights": average(100 * cells["weights_remaining"], "{:.0f}%"),
        "metric": f"{cells['metric'].iloc[0]} {mean_text(cells['score'])}",
        "difference": mean_text(cells["lost"], "+.1f") if cells["pruned"].all() else "",
    }


def comparisons(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """Make the tables by budget and by rate, and of what held-out rows choose, where there are several to compare."""
    pruned = frame[frame["pruned"]]
    tables = [table(frame) for table in (budget_table, rate_table) if pruned[table.keywords["column"]].nunique() > 1]
    chosen = chosen_table(frame)
    return tables if chosen.empty else [*tables, chosen]
