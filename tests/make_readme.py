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

from pruner.data.glue import TASKS as GLUE_TASKS
from pruner.measure import table
from pruner.report.figure_data import average
from pruner.report.figures import BASELINE, Line, Panel, Picture, draw
from pruner.report.tables import budgets, curve, grouped, markdown, method_name, summary, way
from pruner.survivors.picture import draw_survivors
from pruner.survivors.readers import Survivors
from pruner.utils.errors import UserError, run_script

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


def read(pattern: str) -> list[dict]:
    """The published records in the folders of that pattern."""
    return [json.loads(path.read_text("utf-8")) for path in PUBLISHED.glob(f"{pattern}/record.json")]


def published(*tasks: str, model: str = "BERT") -> list[dict]:
    """The records of these tasks, in the order in which a run prints them."""
    order = ["baseline", "student", "attention", "emission", "gradient", "gate", "random", "head", "tail", "frequency"]
    found = [record for task in tasks for record in read(f"{model}/{task}/*")]
    return sorted(found, key=lambda r: (tasks.index(r["task"]), order.index(r["method"]), r["seed"]))


def budget_records() -> list[dict]:
    """In the order of the tables: by task, method, way and budget."""
    tasks, methods = ["mrpc", "cola", "sst-2"], ["attention", "student", "random"]
    ways = ["learned", "uniform", "first layer"]

    def place(record):
        names = (tasks.index(record["task"]), methods.index(record["method"]), ways.index(way(record)))
        return *names, record["target_flops_reduction"], record["seed"]

    return sorted((record for record in read("budgets/*/*") if record["method"] != "baseline"), key=place)


def soft_extract_records() -> list[dict]:
    return sorted(read("soft-extract/*/a*"), key=lambda record: record["task"])


def speed(name: str) -> dict:
    """The committed measurement whose file ends so."""
    (path,) = (ROOT / "records" / "speed").glob(f"*_{name}.json")
    return json.loads(path.read_text("utf-8"))


def of_tasks(*tasks: str) -> pd.DataFrame:
    return summary(published(*tasks))


def learned_budgets() -> pd.DataFrame:
    learned = [r for r in budget_records() if way(r) == "learned" and r["method"] in ("attention", "student")]
    # Their times were taken while another model was training.
    return summary(learned).drop(columns="speed-up")


def at_a_glance() -> pd.DataFrame:
    """Learned schedules only, and the best and the worst way to choose."""
    return budgets([record for record in budget_records() if way(record) == "learned"]).drop(columns="schedule")


def of_speed(name: str) -> pd.DataFrame:
    return table(speed(name)["rows"])


def lstm_at(rates: Sequence[float]) -> pd.DataFrame:
    return summary([r for r in published(*LSTM_TASKS, model="LSTM") if r["target_prune_rate"] in rates])


def lstm_curve() -> pd.DataFrame:
    records = published(*LSTM_TASKS, model="LSTM")
    return curve([r for r in records if r["seed"] == 1 and r["method"] in ("student", "random")])


def task_files() -> pd.DataFrame:
    """List the official tasks, as the scripts read them."""
    return pd.DataFrame(
        {
            "`--tasks`": task.name,
            "files": f"`{task.folder}/` {', '.join(task.splits)}",
            "texts": ", ".join(task.text),
            "label": f"{task.label}: {', '.join(task.labels) or '0 to 5'}",
            "metrics": ", ".join(task.metrics),
        }
        for task in GLUE_TASKS.values()
    )


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "demo": partial(of_tasks, "demo"),
    # Their times were taken beside other work.
    "first layer": lambda: of_tasks("mrpc", "sst-2", "cola").drop(columns="speed-up"),
    "at a glance": at_a_glance,
    "budgets": lambda: budgets(budget_records()),
    "budgets learned": learned_budgets,
    "soft-extract": lambda: budgets(soft_extract_records()),
    "speed mrpc_sst-2_cola_cpu": partial(of_speed, "mrpc_sst-2_cola_cpu"),
    "speed mrpc_sst-2_cpu": partial(of_speed, "mrpc_sst-2_cpu"),
    "speed 64_128_256_512_cpu": partial(of_speed, "64_128_256_512_cpu"),
    "lstm 0.9": partial(lstm_at, (0, 0.9)),  # the baseline's rate is 0
    "lstm curve": lstm_curve,
    "tasks": task_files,
}


def frontier() -> Picture:
    """What learned schedules cost by what they save, in points of each task's first metric."""
    panels = []
    learned = [record for record in budget_records() if way(record) == "learned"]
    for task, records in grouped(learned, lambda record: record["task"]).items():
        lines = [Line("unpruned", (1.0,), (0.0,), look=BASELINE, level=True)]
        for method, cells in grouped(records, method_name).items():
            points = [(1.0, 0.0, 0.0, 0.0)]
            for same in grouped(cells, lambda record: record["target_flops_reduction"]).values():
                name = next(iter(same[0]["metrics"]))
                lost = [100 * (each["metrics"][name] - each["baseline_metrics"][name]) for each in same]
                rows = [(each["flops"]["reduction"], loss) for each, loss in zip(same, lost, strict=True)]
                mean, error = average(rows)
                points.append((*mean, *error))
            look = len(lines) - 1
            lines.append(Line(method, *zip(*points, strict=True), look, look))
        panels.append(Panel(f"{task} ({name})", "FLOPs reduction (times)", tuple(lines)))
    return Picture("frontier", "MiniLM, dev sets", "change to unpruned (points)", tuple(panels))


def survivors() -> Survivors:
    """The sentence at the top, as ``python -m pruner.survivors`` has written it."""
    data = json.loads((PUBLISHED / "survivors" / "survivors.json").read_text("utf-8"))
    return Survivors(**data["sentences"][0])


PICTURES: dict[str, Callable[[], bytes]] = {
    "records/published/frontier.svg": lambda: draw(frontier())["svg"],
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
