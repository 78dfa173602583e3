"""What the figures of one table show, as data frames of lines: means and deviations over seeds."""

import numpy as np
import pandas as pd

from pruner.compress.method import Dense
from pruner.compress.tokens.schedule import schedule_text
from pruner.report.figures import BASELINE, PANEL, Chart
from pruner.report.tables import WAYS, method_order

MOST_PANELS = 12  # of a figure
MOST_LINES = 9  # of a panel of schedules
NOISY = 0.03  # a loss that changes by this share of its range from point to point, on average
NEIGHBOURS = 5  # that are averaged then


def charts(title: str, frame: pd.DataFrame) -> dict[str, Chart]:
    """Make the charts of a ``labelled`` frame for which there is something to show, by their names."""
    ways = list(WAYS.values())
    frame = frame.assign(
        look=frame["label"].map(looks(frame)),
        setting=[setting(row) for _, row in frame.iterrows()],
        way_dash=[ways.index(way) if way in ways else len(ways) for way in frame["way"]],
        panel="",
        ticks="",
        collapsed=(frame["one_answer"] != "").astype(float),
    )
    made = {
        "frontier": frontier(frame),
        "weights": weights(frame),
        "by-length": by_length(frame),
        "tokens": tokens(frame),
        "loss": loss(frame),
    }
    return {name: limited(chart, title) for name, chart in made.items() if chart}


def limited(chart: Chart, title: str) -> Chart:
    """Keep the first panels, as many as a figure may have, below a title that says so."""
    numbers = chart.lines.groupby(PANEL, sort=False).ngroup()
    if numbers.max() >= MOST_PANELS:
        title += f" (the first {MOST_PANELS} of {numbers.max() + 1} settings)"
    return chart._replace(title=title, lines=chart.lines[numbers < MOST_PANELS])


def setting(row: pd.Series) -> str:
    """Name what methods are compared at: a schedule, a rate, or a way of meeting a budget."""
    if not row["pruned"]:
        return ""
    if row["way"] and row["target_flops_reduction"] > 0:
        return f"{row['way']} for {row['target_flops_reduction']:g}x"
    if row["target_prune_rate"] >= 0:
        return f"rate {row['target_prune_rate']:g}"
    return schedule_text(row["schedule"]) if isinstance(row["schedule"], list) and not row["way"] else row["variant"]


def looks(frame: pd.DataFrame) -> dict[str, int]:
    """Choose a marker and a colour for each label: those of its method, the same in all figures, as far as they go."""
    order, chosen = method_order(), dict[str, int]()
    last = len(order) - 1
    for label, method in frame.drop_duplicates("label")[["label", "method"]].itertuples(index=False):
        look = order.index(method) - 1 if method in order else last
        while method != Dense.name and look in chosen.values():
            look = max(look + 1, last)
        chosen[label] = look
    return chosen


def averaged(points: pd.DataFrame, by: list[str], values: list[str]) -> pd.DataFrame:
    """Average over seeds; each value gets a column with its standard deviation, 0 of a single one."""
    groups = points.groupby(by, sort=False)[values]
    return groups.mean().join(groups.std().fillna(0).add_suffix("_error")).reset_index()


def score_label(frame: pd.DataFrame) -> str:
    metric = frame["metric"].iloc[0]
    return f"{metric} (%)" if metric.startswith(("accuracy", "f1")) else f"{metric}, times 100"


def frontier(frame: pd.DataFrame) -> Chart | None:
    """Show the metric against what is saved, with a line per method and way of making schedules."""
    if not frame["pruned"].any():
        return None
    # Dashes tell the ways of making schedules apart where there are such, else they help with the methods.
    dash = frame["way_dash"] if frame["way"].any() else frame["look"]
    label = frame["label"].where(frame["way"] == "", frame["label"] + ", " + frame["way"])
    points = frame.assign(dash=dash, label=label, y=frame["score"])
    savings = {"FLOPs reduction (times)": "flops.reduction", "measured speed-up (times)": "latency.speedup"}
    panels = [points.assign(x_label=name, x=frame[key].where(frame["pruned"], 1.0)) for name, key in savings.items()]
    by = [*PANEL, "label", "look", "dash", "setting"]
    return Chart(averaged(pd.concat(panels).dropna(subset="x"), by, ["x", "y", "collapsed"]), score_label(frame))


def weights(frame: pd.DataFrame) -> Chart | None:
    """Show the metric against the share of weights that remains, a line per method; the dense model is a level."""
    smaller = frame["weights_remaining"].notna()
    if not frame[smaller].groupby("label")["weights_remaining"].nunique().gt(1).any():
        return None
    x = 100 * frame["weights_remaining"].where(frame["pruned"], 1.0)
    points = frame.assign(x=x, y=frame["score"], dash=frame["look"], x_label="weights remaining (%)")
    points = points[smaller | ~frame["pruned"]]
    by = [*PANEL, "label", "look", "dash", "setting"]
    return Chart(averaged(points, by, ["x", "y", "collapsed"]), score_label(frame))


def compared(lines: pd.DataFrame) -> pd.DataFrame:
    """Give each setting a panel, with the baselines in all of them."""
    baselines, others = lines[lines["look"] == BASELINE], lines[lines["look"] != BASELINE]
    panels = [pd.concat([baselines, part]).assign(panel=name) for name, part in others.groupby("setting", sort=False)]
    return pd.concat(panels or [baselines]).assign(dash=lambda all_lines: all_lines["look"].clip(lower=0))


def by_length(frame: pd.DataFrame) -> Chart | None:
    """Show the metric by sentence length: a panel for each setting, a line per method, the baseline in all of them."""
    frame = frame[frame["metrics_by_length"].str.len() > 1]
    if frame.empty:
        return None
    bins = frame["metrics_by_length"]
    # A bin's first and last length, which may be one.
    ticks = [" ".join("-".join(map(str, sorted({*entry["tokens"]}))) for entry in entries) for entries in bins]
    points = frame.assign(ticks=ticks, x=[range(len(entries)) for entries in bins], x_label="sentence length (tokens)")
    points = points.explode(["metrics_by_length", "x"])
    points["y"] = [100 * entry.get(name, np.nan) for name, entry in points[["metric", "metrics_by_length"]].to_numpy()]
    lines = averaged(points, [*PANEL, "label", "look", "setting", "x"], ["y", "collapsed"])
    return Chart(pd.concat(compared(part) for _, part in lines.groupby("ticks", sort=False)), score_label(frame))


def tokens(frame: pd.DataFrame) -> Chart | None:
    """Show the share of tokens that each layer computes: by budget, where schedules were made for one, or by schedule.

    Without a difference between layers there is no chart: all tokens leave before the first one, as tables say.
    """
    layers = frame["tokens.kept_by_layer"].astype(object).str.len()
    layers = layers[frame["pruned"] & (layers > 1)]
    frame = frame.loc[layers.index[layers == layers.mode().max()]]
    shares = frame["tokens.kept_by_layer"]
    if all(len(set(kept)) == 1 for kept in shares):
        return None
    points = frame.assign(x=[range(1, len(kept) + 1) for kept in shares], y=shares, x_label="layer").explode(["x", "y"])
    points["y"] *= 100
    points = points.sort_values("target_flops_reduction", kind="stable").rename(columns={"way_dash": "dash"})
    budgets = points["target_flops_reduction"].map("FLOPs reduction {:g}x".format, na_action="ignore").astype(object)
    points["panel"] = budgets.fillna("")
    points["label"] = points["label"].where(budgets.isna(), points["label"] + ", " + points["way"])
    lines = averaged(points, [*PANEL, "label", "look", "dash", "setting", "x"], ["y"])
    given = lines[lines["panel"] == ""]
    # With a schedule that was given, all methods keep equally many, which is one line.
    shapes = given.groupby(["setting", "label"])["y"].agg(lambda y: tuple(y.astype(float).round(6)))
    differ = given["setting"].map(shapes.groupby("setting").nunique()) > 1
    given["label"] = given["setting"].where(~differ, given["label"] + ", " + given["setting"])
    given = given.drop_duplicates(["label", "x"])
    number = pd.Series(pd.factorize(given["label"])[0], index=given.index)
    first = number // MOST_LINES * MOST_LINES + 1
    if number.max() >= MOST_LINES:
        given["panel"] = "schedules from number " + first.astype(str)
    given = given.assign(look=number, dash=number)
    return Chart(pd.concat([lines[lines["panel"] != ""], given]), "real tokens computed (%)", y_limits=(0, 104))


def loss(frame: pd.DataFrame) -> Chart | None:
    """Show the training loss, the mean over seeds; a panel for all settings that share their trainings."""
    frame = frame[frame["loss"].str.len() > 1]
    if frame.empty:
        return None
    curves = [pd.DataFrame(entries).set_index("step")["loss"] for entries in frame["loss"]]
    smooth = any(
        len(curve) > 3 * NEIGHBOURS and curve.diff().abs().mean() > NOISY * (curve.max() - curve.min())
        for curve in curves
    )
    by, parts = [*PANEL, "label", "look", "setting"], []
    for key, cells in frame.assign(curve=curves, x_label="training step").groupby(by, sort=False):
        x = cells["curve"].iloc[0].index
        y = pd.Series(np.mean([np.interp(x, curve.index, curve) for curve in cells["curve"]], axis=0))
        if smooth:
            y = y.rolling(NEIGHBOURS, center=True, min_periods=1).mean()
        parts.append(pd.DataFrame({"x": x, "y": y.round(6)}).assign(**dict(zip(by, key, strict=True))))
    lines = compared(pd.concat(parts))
    same: dict[str, list[str]] = {}  # panels that show the same
    for name, panel in lines.groupby("panel", sort=False):
        same.setdefault(panel[["label", "x", "y"]].to_csv(), []).append(name)
    titles = {name: name + (f" and {len(more)} more settings" if more else "") for name, *more in same.values()}
    lines = lines[lines["panel"].isin(titles)]
    lines["panel"] = lines["panel"].map(titles) if len(titles) > 1 else ""
    return Chart(lines, "training loss" + (f" (mean of {NEIGHBOURS} neighbours)" if smooth else ""))
