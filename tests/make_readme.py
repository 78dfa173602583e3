"""Write the READMEs' tables and pictures from the committed records: python tests/make_readme.py

A table stands between ``<!-- its marker -->`` and ``<!-- end -->``, each in a line of its own, on any of the pages.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as a script, this file does not find pruner/

from pruner import run_script
from pruner.compress.joint import families as joint
from pruner.compress.joint.untrained import NAMES
from pruner.compress.structure import choices, families
from pruner.data.task import TASKS
from pruner.measure.kept import kept_table
from pruner.measure.speed import table
from pruner.measure.training import training_table
from pruner.report.comparisons import budget_table, chosen_table, first_metric, rate_table
from pruner.report.figure_data import averaged
from pruner.report.figures import PANEL, Chart, draw
from pruner.report.kept_map import draw_maps, kept_maps
from pruner.report.records import Record
from pruner.report.tables import WAYS, average, markdown, mean_text, method_order, ordered, summary, to_frame
from pruner.survivors.kept import Survivors
from pruner.survivors.picture import draw_survivors
from pruner.utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    name: ROOT / name
    for name in (
        "README.md",
        "pruner/README.md",
        "data/README.md",
        "cache/README.md",
        "records/published/README.md",
        "records/speed/README.md",
    )
}
PUBLISHED = ROOT / "records" / "published"
LSTM_TASKS = ("agnews", "sst-2", "mrpc")
MARKED = re.compile(r"<!-- (.+) -->\n((?:\|.*\n)*)<!-- end -->")


def published(pattern: str, tasks: Sequence[str], methods: Sequence[str] = method_order()) -> pd.DataFrame:
    """Read the published records in the folders of that pattern: by task, method, way, budget, rate and seed."""
    paths = PUBLISHED.glob(f"{pattern}/record.json")
    frame = to_frame([Record.from_json(json.loads(path.read_text("utf-8"))) for path in paths])
    frame = frame[frame["task"].isin(tasks) & frame["method"].isin(methods)]
    by = ["task", "method", "way", "target_flops_reduction", "target_prune_rate", "seed"]
    return ordered(frame, by, task=tasks, method=methods, way=WAYS.values())


def budget_records() -> pd.DataFrame:
    return published("budgets/*/*", ("mrpc", "cola", "sst-2"), ("attention", "student", "random"))


def lstm_records() -> pd.DataFrame:
    return published("LSTM/*/*", LSTM_TASKS)


def speed(name: str) -> dict:
    """The committed measurement whose file ends so."""
    (path,) = (ROOT / "records" / "speed").glob(f"*_{name}.json")
    return json.loads(path.read_text("utf-8"))


def of_tasks(*tasks: str) -> pd.DataFrame:
    return summary(published("BERT/*/*", tasks))


def learned_budgets() -> pd.DataFrame:
    records = budget_records()
    # Their times were taken while another model was training.
    return summary(records[(records["way"] == "learned") & (records["method"] != "random")]).drop(columns="speed-up")


def at_a_glance() -> pd.DataFrame:
    """Learned schedules only, of what does not choose by chance."""
    records = budget_records()
    return budget_table(records[(records["way"] == "learned") & (records["method"] != "random")]).drop(
        columns="schedule"
    )


def of_speed(name: str) -> pd.DataFrame:
    return table(speed(name)["rows"])


def of_training(name: str) -> pd.DataFrame:
    return training_table(speed(name)["rows"])


def lstm_at(rates: Sequence[float]) -> pd.DataFrame:
    records = lstm_records()
    return summary(records[records["target_prune_rate"].isin(rates)])


def lstm_rates() -> pd.DataFrame:
    records = lstm_records()
    return rate_table(records[(records["seed"] == 1) & records["method"].isin(["student", "random"])])


def task_files() -> pd.DataFrame:
    """List the official tasks, as the scripts read them."""
    return pd.DataFrame(
        {
            "`--tasks`": task.name,
            "files": f"`{task.folder}/` {', '.join(map(task.file, task.splits))}",
            "texts": ", ".join(task.text),
            "label": f"{task.label}: {', '.join(task.labels) or '{:g} to {:g}'.format(*task.score_range)}",
            "metrics": ", ".join(task.metrics),
        }
        for task in TASKS.values()
        if task.files
    )


def structure_records(*methods: str) -> pd.DataFrame:
    """Read some of what has been made smaller, or the same dense models with tokens pruned, and the dense models."""
    return published("structure/*/*", ("mrpc", "cola", "sst-2"), ("baseline", *methods))


KINDS = [f"{kind}-ticket" for kind in families.KINDS]
PLACES = [*choices.PLACES, *choices.MEASURED]


def by_number(records: pd.DataFrame, heading: str) -> pd.DataFrame:
    """Make a table with a column for each number of parts that leave, which is in the variant."""
    numbers = records["variant"].str.extract(r"without ([\d.]+) ")[0].astype(float)
    return first_metric(records.assign(number=numbers), ["task", "title", "metric"], "number", heading)


def tickets_by_level() -> pd.DataFrame:
    return by_number(structure_records(*KINDS), "-{:g} % heads")


def tickets_chosen() -> pd.DataFrame:
    return chosen_table(structure_records(*KINDS))


def fewer_layers() -> pd.DataFrame:
    """Fewer layers, and fewer tokens for as many FLOPs: one, two and three of six layers are a sixth of them each."""
    records = structure_records(*PLACES, "attention")
    layers = (6 - 6 / records["target_flops_reduction"]).map("without {:.0f} layers".format)
    tokens = records["method"] == "attention"
    records["variant"] = records["variant"].mask(tokens, layers)
    return by_number(records.replace({"title": {"attention": "drop tokens, as many FLOPs"}}), "-{:g} layers")


def widths() -> pd.DataFrame:
    records = structure_records("width", "width-untrained", "width-random")
    records = records[records["task"].isin(records.loc[records["pruned"], "task"])]
    return summary(records, differences=True).drop(columns=["speed-up", "tokens not computed"])


def tickets_at_a_glance() -> pd.DataFrame:
    """What is left at about half of the FLOPs."""
    records = structure_records("winning-ticket")
    records = records[~records["pruned"] | (records["variant"] == "without 60 % of heads")]
    return by_number(records, "without {:g} % of heads (2.1x)")


def precision_records() -> pd.DataFrame:
    """Read what bits, teachers and zeros do, and tokens at 2x beside."""
    paths = sorted(PUBLISHED.glob("precision/*/*/record.json"))
    frame = to_frame([Record.from_json(json.loads(path.read_text("utf-8"))) for path in paths])
    return frame.sort_values(["flops.reduction", "bytes.pruned"], ascending=[True, False], kind="stable")


def precisions() -> pd.DataFrame:
    """Make a row for each model: what it scores on each task and loses, its work and its bytes."""
    rows = []
    for (title, variant), cells in precision_records().groupby(["title", "variant"], sort=False):
        by_task = {f"{task} ({of['metric'].iloc[0]})": of for task, of in cells.groupby("task")}
        names = [f"`{cells['method'].iloc[0]}`", variant, "embeddings too" if "embeddings too" in title else ""]
        rows.append(
            {"model": ", ".join(name for name in names if name and name != title)}
            | dict.fromkeys(("cola (mcc)", "sst-2 (accuracy)"), "")
            | {
                name: f"{mean_text(of['score'])}" + (f" ({of['lost'].mean():+.1f})" if of["pruned"].all() else "")
                for name, of in by_task.items()
            }
            | {
                "FLOPs": f"{cells['flops.reduction'].mean():.2f}x",
                "MB": f"{cells['bytes.pruned'].mean() / 1e6:.1f}",
                "zeros": average(100 * cells["sparsity"], "{:.0f}%") if "sparsity" in cells else "",
            }
        )
    return pd.DataFrame(rows).fillna("")


def joint_records(*methods: str) -> pd.DataFrame:
    """Read what one budget over tokens, width and depth has chosen, with training or without."""
    return published("joint/*/*", ("mrpc", "cola", "sst-2"), methods)


def by_budget(records: pd.DataFrame) -> pd.DataFrame:
    return first_metric(records, ["task", "title", "metric"], "target_flops_reduction", "{:g}x", differences=True)


def untrained() -> pd.DataFrame:
    """Show what is lost without training, and how often dev's answers are those of the dense model."""
    records = joint_records(*NAMES)
    agrees = records.assign(score=100 * records["choice.agreement"], lost=0.0, one_answer="", unpruned_answer="")
    agrees = first_metric(agrees, ["task", "title", "metric"], "target_flops_reduction", "{:g}x").iloc[:, 4:]
    table = by_budget(records)
    return pd.concat([table, agrees.rename(columns="the same at {}".format)], axis=1)


def speedups() -> pd.DataFrame:
    """Show what budgets of time were predicted to meet, what was then measured, and what it costs."""
    records = published("speedups/*/*", ("mrpc", "cola", "sst-2"), [*joint.NAMES, *NAMES])
    return pd.DataFrame(
        {
            "task": row["task"],
            "method": row["title"],
            "dtype": row["latency.dtype"],
            "batch": f"{row['latency.batch_size']:.0f}",
            "asked": f"{row['target_speedup']:g}x",
            "predicted": f"{row['choice.predicted_speedup']:.2f}x",
            "measured": f"{row['latency.speedup']:.2f}x",
            "FLOPs reduction": f"{row['flops.reduction']:.2f}x",
            "tokens not computed": f"{row['tokens.effective_rate']:.0%}",
            row["metric"]: f"{row['score']:.1f} ({row['lost']:+.1f})",
        }
        for _, row in records.sort_values(["latency.dtype", "latency.batch_size"], ascending=False).iterrows()
    )


def several_tasks() -> pd.DataFrame:
    records = published("multi-task/*/*", ("mrpc", "cola", "sst-2"), ("baseline", "multi-task", "multi-task-tickets"))
    return summary(records, differences=True).drop(columns=["speed-up", "tokens not computed"])


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "demo": partial(of_tasks, "demo"),
    # Their times were taken beside other work.
    "first layer": lambda: of_tasks("mrpc", "sst-2", "cola").drop(columns="speed-up"),
    "at a glance": at_a_glance,
    "budgets": lambda: budget_table(budget_records()),
    "budgets learned": learned_budgets,
    "tickets": tickets_chosen,
    "tickets at a glance": tickets_at_a_glance,
    "tickets by level": tickets_by_level,
    "layers": fewer_layers,
    "width": widths,
    "joint": lambda: by_budget(joint_records(*joint.NAMES)),
    "joint at a glance": lambda: by_budget(joint_records("joint")),
    "untrained": untrained,
    "speedups": speedups,
    "multi-task": several_tasks,
    "precision": precisions,
    "soft-extract": lambda: budget_table(published("soft-extract/*/a*", ("mrpc", "sst-2"))),
    "speed mrpc_sst-2_cola_cpu": partial(of_speed, "mrpc_sst-2_cola_cpu"),
    "speed mrpc_sst-2_cpu": partial(of_speed, "mrpc_sst-2_cpu"),
    "speed 64_128_256_512_cpu": partial(of_speed, "64_128_256_512_cpu"),
    "speed kept_sst-2_cpu": lambda: kept_table(speed("kept_sst-2_cpu")["rows"]),
    "speed int8_sst-2_cpu": partial(of_speed, "int8_sst-2_cpu"),
    "speed int8_16-112_cpu": partial(of_speed, "int8_16-112_cpu"),
    "speed training_sst-2_mrpc_cpu": partial(of_training, "training_sst-2_mrpc_cpu"),
    "lstm 0.9": partial(lstm_at, (0, 0.9)),  # the baseline's rate is 0
    "lstm curve": lstm_rates,
    "tasks": task_files,
}


def frontier(records: pd.DataFrame) -> Chart:
    """Show what budgets cost by what they save, in points of each task's first metric."""
    learned = records.assign(x_label="FLOPs reduction (times)", ticks="")
    learned = learned.assign(panel=learned["task"] + " (" + learned["metric"] + ")", x=learned["flops.reduction"])
    learned = learned.assign(y=learned["lost"], label=learned["title"])
    means = averaged(learned, [*PANEL, "label", "target_flops_reduction"], ["x", "y"])
    unpruned = means.drop_duplicates([*PANEL, "label"]).assign(x=1.0, y=0.0, x_error=0.0, y_error=0.0)
    lines = pd.concat([unpruned.drop_duplicates(PANEL).assign(label="unpruned"), unpruned, means])
    look = pd.Series(pd.factorize(lines["label"])[0] - 1, lines.index)  # that of the unpruned is the baseline's
    lines = lines.assign(look=look, dash=look)
    return Chart(lines, "change to unpruned (points)", "MiniLM, dev sets")


def phases() -> Chart:
    """Show tickets' metric against the weights that remain: a panel for each task, the dense model as a band."""
    records = structure_records(*KINDS)
    x = 100 * records["weights_remaining"].where(records["pruned"], 1.0)
    dense = records["task"].map(records[~records["pruned"]].groupby("task")["score"].mean())
    points = records.assign(
        x=x, y=records["score"] - dense, label=records["title"], ticks="", x_label="weights remaining (%)"
    )
    points["panel"] = points["task"] + " (" + points["metric"] + ")"
    points["level"] = points["variant"]
    lines = averaged(points, [*PANEL, "label", "level", "pruned"], ["x", "y"])
    order = {"baseline": -1, "winning ticket": 0, "random ticket": 1, "losing ticket": 2}
    look = lines["label"].map(order)
    lines = lines.assign(look=look, dash=look.clip(lower=0), label=lines["label"].replace("baseline", "dense"))
    return Chart(lines, "change to dense (points)", "Super Tickets with MiniLM, dev sets")


def kept_by_task() -> bytes:
    """Show which heads and feed-forwards winning tickets keep, as a share of the seeds."""
    records = structure_records("winning-ticket")
    maps = kept_maps(records[records["variant"] == "without 50 % of heads"], ["task", "variant"])
    return draw_maps(maps, "heads and feed-forwards of winning tickets (black: in all seeds)")["svg"]


def survivors() -> Survivors:
    """The sentence at the top, as ``python -m pruner.survivors`` has written it."""
    data = json.loads((PUBLISHED / "survivors" / "survivors.json").read_text("utf-8"))
    return Survivors(**data["sentences"][0])


PICTURES: dict[str, Callable[[], bytes]] = {
    "records/published/frontier.svg": lambda: draw(frontier(budget_records().query("way == 'learned'")))["svg"],
    "records/published/joint.svg": lambda: draw(frontier(joint_records(*joint.NAMES)))["svg"],
    "records/published/tickets.svg": lambda: draw(phases())["svg"],
    "records/published/kept.svg": kept_by_task,
    "records/published/survivors/survivors-1.svg": lambda: draw_survivors(survivors())[0]["svg"],
}


def tables_in(text: str) -> dict[str, str]:
    """Return what stands between each marker and its end."""
    return dict(MARKED.findall(text))


@cache
def written(name: str) -> str:
    """Make the table of that marker."""
    return markdown(TABLES[name]()) + "\n"


def rewrite(text: str) -> str:
    """Return the text of a page with all its tables as the records have them.

    Raises:
        UserError: a marker without a table here.
    """

    def replacement(match: re.Match) -> str:
        if match[1] not in TABLES:
            raise UserError(f"<!-- {match[1]} -->: no table is made for this marker; add it to tests/make_readme.py")
        return f"<!-- {match[1]} -->\n{written(match[1])}<!-- end -->"

    return MARKED.sub(replacement, text)


def main() -> None:
    changed = []
    for name, page in PAGES.items():
        before = page.read_text(encoding="utf-8")
        after = rewrite(before)
        if after != before:
            page.write_text(after, encoding="utf-8", newline="\n")
        old = tables_in(before)
        changed += [f"{name}, {marker}" for marker, table in tables_in(after).items() if table != old[marker]]
    for name, make in PICTURES.items():
        content = make()
        if not (ROOT / name).is_file() or (ROOT / name).read_bytes() != content:
            (ROOT / name).write_bytes(content)
            changed.append(name)
    print("\n".join(f"changed: {name}" for name in changed) or "nothing has changed")


if __name__ == "__main__":
    run_script(main)
