"""The report says of records what they say: grouped, averaged, drawn; and it spoils nothing."""

import csv as csv_module
import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from pruner.report import page as report
from pruner.report.comparisons import comparisons
from pruner.report.figure_data import charts
from pruner.report.figures import BASELINE, COLLAPSED, COLOURS, PANEL, RESOLUTION, WIDTH, Chart, covers, draw
from pruner.report.kept_map import draw_maps, kept_maps
from pruner.report.page import groups, report_grid, write_report
from pruner.report.records import Record, read_records
from pruner.report.tables import labelled, summary
from pruner.utils.errors import UserError

REPORT = "pruner.report"


def make(method="head", seed=1, accuracy=0.8, **changes) -> dict:
    """A BERT's record of version 1 and of two layers, with all that figures are drawn from."""
    pruned = method != "baseline"
    return {
        "model": "bert",
        "task": "mrpc",
        "method": method,
        "teacher": "emission" if method == "student" else None,
        "schedule": [0.0, 0.5] if pruned else [0.0, 0.0],
        "schedule_source": "hand",
        "count": "real",
        "seed": seed,
        "status": "complete",
        "metrics": {"accuracy": accuracy},
        "baseline_metrics": {"accuracy": 0.9},
        "metrics_by_length": [
            {"tokens": [3, 9], "rows": 5, "accuracy": accuracy},
            {"tokens": [10, 10], "rows": 4, "accuracy": accuracy - 0.1},
        ],
        "tokens": {"real": 100, "effective_rate": 0.25 * pruned, "kept_by_layer": [1.0, 0.5] if pruned else [1.0, 1.0]},
        "flops": {"baseline": 3.0, "pruned": 2.0, "reduction": 1.5 if pruned else 1.0},
        "latency": {"baseline_ms": 5.0, "pruned_ms": 4.0, "speedup": 1.25, "repeats": 3} if pruned else None,
        "examples": [{"sentence": "a b", "kept": "a"}],
        "loss": [{"step": 1.0, "loss": 0.7}, {"step": 2.0, "loss": 0.5}],
        "settings": {"epochs": 3.0},
        "environment": {"cpu": "a CPU", "threads": 2, "gpu": None},
    } | changes


def lstm(method, rate, seed, accuracy) -> dict:
    record = make(method, seed, accuracy, model="lstm", target_prune_rate=rate)
    record["flops"]["reduction"] = 1 + 2 * rate
    del record["schedule"], record["schedule_source"]
    return record | {"tokens": {"real": 100, "effective_rate": rate, "kept_by_layer": [1 - rate]}}


def put(root, **records):
    """Write records under ``root``, each where its name says: ``BERT__mrpc__run``."""
    for name, record in records.items():
        folder = root.joinpath(*name.split("__"))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")


@pytest.fixture
def records(tmp_path):
    """Two seeds of a method and of the baseline, another folder, another model."""
    root = tmp_path / "records"
    put(
        root,
        BERT__mrpc__base1=make("baseline", 1, 0.9),
        BERT__mrpc__base2=make("baseline", 2, 0.94, baseline_metrics={"accuracy": 0.94}),
        BERT__mrpc__head1=make("head", 1, 0.8),
        BERT__mrpc__head2=make("head", 2, 0.86, baseline_metrics={"accuracy": 0.94}),
        other__mrpc__head1=make("head", 3, 0.1),
        LSTM__mrpc__base=lstm("baseline", 0.0, 1, 0.9),
        LSTM__mrpc__tail5=lstm("tail", 0.5, 1, 0.7),
        LSTM__mrpc__tail9=lstm("tail", 0.9, 1, 0.5),
    )
    return root


def table(group) -> pd.DataFrame:
    return summary(group.frame, "label", differences=True)


def test_a_table_has_means_deviations_and_differences(records):
    bert, recurrent, other = groups(read_records(records)[0])
    assert [group.title for group in (bert, recurrent, other)] == ["BERT: mrpc", "LSTM: mrpc", "other: mrpc (bert)"]
    found = table(bert)
    assert found["method"].tolist() == ["baseline", "head"]
    assert found["schedule"].tolist() == ["unpruned", "0,0.5"]
    assert found["seeds"].tolist() == [2, 2]
    assert found["metric"].tolist() == ["accuracy 92.0 ± 2.8", "accuracy 83.0 ± 4.2"]
    assert found["difference"].tolist() == ["", "accuracy -9.0 ± 1.4"]  # -10 and -8
    assert found["tokens not computed"].tolist() == ["0.0%", "25.0%"]
    assert found["FLOPs reduction"].tolist() == ["", "1.50x"]
    assert found["speed-up"].tolist() == ["", "1.25x"]
    assert table(recurrent)["rate"].tolist() == ["unpruned", "0.5", "0.9"]
    assert table(other)["metric"].tolist() == ["accuracy 10.0"]


def test_the_pages_of_surviving_words_are_linked_from_the_tables(records):
    (records / "other/mrpc/head1").rename(records / "other/mrpc/he ad (1)")
    for run in ("BERT/mrpc/head2", "other/mrpc/he ad (1)"):
        (records / run / "survivors.html").touch()
    page = write_report(records, with_figures=False).read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|") and "](" in line]
    assert [re.findall(r"\[words\]\((.*?)\) +\|$", row) for row in rows] == [
        ["BERT/mrpc/head2/survivors.html"],
        ["other/mrpc/he%20ad%20%281%29/survivors.html"],
    ]
    assert [row.split("|")[1].strip() for row in rows] == ["head", "head"]
    assert page.count("| words") == 2  # and the LSTM's table has no such column


def test_a_difference_of_nothing_has_no_minus():
    frame = labelled([Record.from_json(make(accuracy=0.8999999))])
    assert summary(frame, differences=True)["difference"].tolist() == ["accuracy +0.0"]


def test_seeds_with_other_settings_are_not_averaged(tmp_path):
    put(
        tmp_path,
        a__mrpc__one=make(seed=1, accuracy=0.8, settings={"epochs": 3.0, "learning_rate": 1e-4}),
        a__mrpc__two=make(seed=2, accuracy=0.6, settings={"epochs": 3.0, "learning_rate": 2e-5}),
        a__mrpc__base=make("baseline", 1, 0.9, settings={"epochs": 3.0, "learning_rate": 1e-4}),
        a__mrpc__older=make("tail", 1, 0.7, settings={"epochs": 3.0}),
        a__mrpc__newer=make("tail", 2, 0.7, settings={"epochs": 3.0, "dtype": "auto"}),  # the default of old
    )
    (group,) = groups(read_records(tmp_path)[0])
    found = table(group)
    assert found["method"].tolist() == [
        "baseline, learning_rate 0.0001",
        "head, learning_rate 0.0001",
        "head, learning_rate 2e-05",
        "tail",
    ]
    assert found["metric"].tolist() == ["accuracy 90.0", "accuracy 80.0", "accuracy 60.0", "accuracy 70.0 ± 0.0"]


def test_tables_by_budget_and_by_rate_are_there(records):
    page = write_report(records, with_figures=False).read_text("utf-8")
    assert "| mrpc | tail   | accuracy | 90.0     | 70.0 | 50.0 |" in page


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "3",
        "[]",
        '{"status": "complete"}',
        json.dumps(make(status="started")),
        json.dumps(make(metrics={"accuracy": float("nan")})),
        json.dumps(make(metrics={"accuracy": 80.0})),
        json.dumps(make(task="../../mrpc")),
        json.dumps(make(method="a|b")),
        json.dumps(make(model="lstm")),
        json.dumps(make(model="gpt", schedule=None)),
        json.dumps(make(latency={"speedup": 1e300})),
        json.dumps(make(tokens={"effective_rate": 10**400})),
        json.dumps(make(tokens={"effective_rate": 0.5, "kept_by_layer": [0.5, "1"]})),
        json.dumps(make(loss=[{"step": 1, "loss": 1e200}, {"step": 2, "loss": 1}])),
        json.dumps(make(loss=[{"loss": 1}, {"loss": 2}])),
        json.dumps(make(loss=3)),
        json.dumps(make(metrics_by_length=[3, 4])),
        json.dumps(make(metrics_by_length=[{"tokens": [1]}, {"tokens": [2, 3]}])),
    ],
)
def test_what_is_no_record_is_named_and_skipped(records, run, content):
    put(records, BERT__mrpc__odd={})
    (records / "BERT" / "mrpc" / "odd" / "record.json").write_text(content, encoding="utf-8")
    code, out, err = run(REPORT, "--no-figures")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "skipped records/BERT/mrpc/odd/record.json: not a record",
        "-> records/README.md (8 records, 3 tables)",
    ]
    assert (records / "README.md").read_text("utf-8").endswith("these runs: BERT/mrpc/odd/record.json.\n")


def test_outdated_hidden_and_published_records_are_left_out_silently(records, tmp_path):
    put(
        records,
        BERT__mrpc__again=make(seed=8),
        **{"BERT__mrpc__.head3.77.tmp": make(seed=9)},
        published__BERT__mrpc__run=make(seed=7),
    )
    (records / "BERT" / "mrpc" / "again" / "outdated").touch()
    (records / "LSTM" / "circle").symlink_to(records)
    found, skipped = read_records(records)
    assert len(found) == 8
    assert skipped == []
    assert list(read_records(records / "published")[0]) == ["BERT/mrpc/run"]  # where it is asked for
    assert "published/BERT/mrpc/run" in read_records(records.rename(tmp_path / "mine"))[0]


def test_the_csv_is_what_pandas_makes_of_the_records(records):
    write_report(records, with_figures=False)
    found = pd.read_csv(records / "records.csv").set_index("folder")
    assert len(found) == 8
    row = found.loc["BERT/mrpc/head2"]
    assert row["metrics.accuracy"] == 0.86
    assert row["latency.speedup"] == 1.25
    assert row["settings.epochs"] == 3.0
    assert json.loads(row["schedule"]) == [0.0, 0.5]
    assert json.loads(row["metrics_by_length"])[1]["tokens"] == [10, 10]
    assert found.loc["LSTM/mrpc/tail9", "target_prune_rate"] == 0.9
    assert pd.isna(found.loc["LSTM/mrpc/tail9", "schedule"])
    flat = pd.json_normalize([make()]).drop(columns=["loss", "examples"])
    assert set(flat.columns) <= set(found.columns)
    assert not {"loss", "examples", "latency"} & set(found.columns)


def test_the_same_records_give_the_same_bytes(records, capsys):
    pytest.importorskip("matplotlib")

    def content():
        return {path: path.read_bytes() for path in records.rglob("*") if path.is_file()}

    page = write_report(records)
    assert page == records / "README.md"
    assert capsys.readouterr().out == f"-> {page} (8 records, 3 tables, 11 figures)\n"
    first, times = content(), {path: path.stat().st_mtime_ns for path in content()}
    write_report(records)
    assert content() == first
    assert {path: path.stat().st_mtime_ns for path in first} == times  # nothing is written again
    shown = {line.split("](")[1].split(")")[0] for line in first[page].decode().splitlines() if line.startswith("![")}
    files = {str(path.relative_to(records)) for path in first if path.parent.name == "figures"}
    assert shown == {name for name in files if name.endswith(".png")}
    assert files == shown | {name.replace(".png", ".svg") for name in shown}
    assert all(len(first[records / name]) > 3000 for name in files)


def test_figures_of_records_that_are_gone_go_and_other_files_stay(records, monkeypatch):
    monkeypatch.setattr(report, "draw", lambda chart: {"png": b"", "svg": b""})
    write_report(records)
    old = records / "figures" / "other-bert-mrpc-frontier.svg"
    mine = records / "figures" / "mine.png"
    mine.touch()
    assert old.exists()
    (records / "other" / "mrpc" / "head1" / "outdated").touch()
    page = write_report(records, with_figures=False)
    assert not old.exists()
    assert mine.exists()
    assert "figures/BERT-bert-mrpc-loss.png" in page.read_text("utf-8")  # what is there is shown


def test_a_page_that_someone_else_wrote_is_not_overwritten(records, run):
    (records / "README.md").write_text("# Mine\n", encoding="utf-8")
    code, _, err = run(REPORT)
    assert code == 2
    assert "records/README.md: not written by this report" in err
    assert (records / "README.md").read_text("utf-8") == "# Mine\n"
    assert not (records / "records.csv").exists()


def charts_of(root, number=0) -> dict[str, Chart]:
    group = groups(read_records(root)[0])[number]
    return charts(group.title, group.frame)


def panels(chart) -> dict[str, dict[str, pd.DataFrame]]:
    """The lines of each panel by the panel's title, or by what its axis shows, and by their labels."""
    by_panel = chart.lines.groupby(PANEL, sort=False)
    return {key[0] or key[1]: dict(list(lines.groupby("label", sort=False))) for key, lines in by_panel}


def test_the_frontier_has_a_line_for_each_method_and_the_baseline(records):
    chart = charts_of(records)["frontier"]
    assert (chart.title, chart.y_label) == ("BERT: mrpc", "accuracy (%)")
    flops, speed = panels(chart).values()
    assert list(flops) == list(speed) == ["baseline", "head"]
    base, line = flops["baseline"].iloc[0], flops["head"].iloc[0]
    assert (base["look"], base["x"], base["y"]) == (BASELINE, 1.0, pytest.approx(92.0))
    assert (line["x"], line["x_error"], line["y"]) == (1.5, 0.0, pytest.approx(83.0))
    assert line["y_error"] == pytest.approx(4.2426, abs=1e-4)
    assert speed["head"]["x"].tolist() == [1.25]
    rates = panels(charts_of(records, 1)["frontier"])["FLOPs reduction (times)"]["tail"]
    assert rates["x"].tolist() == pytest.approx([2.0, 2.8])
    assert rates["y"].tolist() == pytest.approx([70.0, 50.0])
    assert rates["y_error"].tolist() == [0.0, 0.0]


def test_points_of_models_that_give_one_answer_only_are_circled(tmp_path):
    only = {"dev": {"answer": "1", "share": 0.68382}}
    tails = [make("tail", seed, 0.6838, collapsed=only if seed == 2 else {}) for seed in (1, 2)]
    put(tmp_path, a__mrpc__base=make("baseline"), a__mrpc__head=make("head"))
    assert not any(COLLAPSED in svg_text(chart) for chart in charts_of(tmp_path).values())
    put(tmp_path, a__mrpc__tail1=tails[0], a__mrpc__tail2=tails[1])
    found = charts_of(tmp_path)
    for name in ("frontier", "by-length"):
        lines = found[name].lines
        assert set(lines.loc[lines["collapsed"] > 0, "label"]) == {"tail"}
    assert [name for name, chart in found.items() if COLLAPSED in svg_text(chart)] == ["frontier", "by-length"]
    page = write_report(tmp_path, with_figures=False).read_text("utf-8")
    assert 'answers only "1", 68.4 % of dev in 1 of 2 seeds |' in page
    frame = pd.read_csv(tmp_path / "records.csv")
    assert frame["collapsed.dev.answer"].dropna().astype(int).tolist() == [1]


def svg_text(chart: Chart) -> str:
    """An SVG in which text is text."""
    with pytest.importorskip("matplotlib").rc_context({"svg.fonttype": "none"}):
        return draw(chart)["svg"].decode()


def budget(method, seed, source, schedule, target, accuracy):
    return make(
        method,
        seed,
        accuracy,
        schedule=schedule,
        schedule_source=source,
        target_flops_reduction=target,
        flops={"baseline": target, "pruned": 1.0, "reduction": target},
        settings={"epochs": 3.0, "search": None},
    )


def test_ways_of_meeting_a_budget_are_lines_of_their_own(tmp_path):
    put(
        tmp_path,
        a__mrpc__1=budget("attention", 1, "learned", [0.1, 0.6], 2.0, 0.8),
        a__mrpc__2=budget("attention", 2, "learned", [0.2, 0.5], 2.0, 0.7),
        a__mrpc__3=budget("attention", 1, "learned", [0.0, 0.3], 1.5, 0.85),
        a__mrpc__4=budget("attention", 1, "hand", [0.5, 0.5], 2.0, 0.75),
        a__mrpc__5=budget("random", 1, "hand", [0.7, 0.0], 2.0, 0.5),
    )
    found = charts_of(tmp_path)
    lines = panels(found["frontier"])["FLOPs reduction (times)"]
    assert list(lines) == ["attention, learned", "attention, uniform", "random, first layer"]
    assert lines["attention, learned"]["x"].tolist() == [1.5, 2.0]
    assert lines["attention, learned"]["y"].tolist() == pytest.approx([85.0, 75.0])
    looks = [line["look"].iloc[0] for line in lines.values()]
    assert looks[0] == looks[1] != looks[2]
    assert len({line["dash"].iloc[0] for line in lines.values()}) == 3
    assert list(panels(found["tokens"])) == ["FLOPs reduction 1.5x", "FLOPs reduction 2x"]
    names = list(panels(found["by-length"]))
    assert names == ["learned for 1.5x", "learned for 2x", "uniform for 2x", "first layer for 2x"]
    assert list(panels(found["loss"])) == [
        "learned for 1.5x and 2 more settings",  # one training behind all of them
        "first layer for 2x",
    ]


def test_the_other_figures_show_what_the_records_hold(records):
    found = charts_of(records)
    ((title, _, ticks),) = found["by-length"].lines.groupby(PANEL).groups
    assert (title, ticks) == ("0,0.5", "3-9 10")
    lines = panels(found["by-length"])["0,0.5"]
    assert lines["baseline"]["y"].tolist() == pytest.approx([92.0, 82.0])
    assert lines["head"]["y"].tolist() == pytest.approx([83.0, 73.0])
    assert lines["head"]["y_error"].tolist() == pytest.approx([4.2426, 4.2426], abs=1e-4)
    ((label, line),) = panels(found["tokens"])["layer"].items()
    assert (label, line["x"].tolist(), line["y"].tolist()) == ("0,0.5", [1, 2], [100.0, 50.0])
    lines = panels(found["loss"])["training step"]
    assert list(lines) == ["baseline", "head"]
    assert lines["baseline"][["x", "y"]].to_numpy().tolist() == [[1.0, 0.7], [2.0, 0.5]]


def test_a_noisy_loss_is_smoothed(tmp_path):
    steps = [{"step": float(n), "loss": 1.0 + n % 2} for n in range(20)]
    put(tmp_path, a__mrpc__1=make(loss=steps))
    chart = charts_of(tmp_path)["loss"]
    assert chart.y_label == "training loss (mean of 5 neighbours)"
    assert chart.lines["y"].tolist()[:3] == pytest.approx([4 / 3, 6 / 4, 7 / 5])  # of 1 2 1, 1 2 1 2, 1 2 1 2 1
    assert chart.lines["x"].tolist() == list(range(20))


def test_nothing_is_drawn_of_nothing(tmp_path):
    bare = {"metrics_by_length": [], "loss": []}
    put(tmp_path, a__mrpc__base=make("baseline", **bare))
    assert charts_of(tmp_path) == {}
    flat = {"schedule": [0.5, 0.0], "tokens": {"effective_rate": 0.5, "kept_by_layer": [0.5, 0.5]}}
    put(tmp_path, a__mrpc__head=make(**bare, **flat))
    assert list(charts_of(tmp_path)) == ["frontier"]
    put(
        tmp_path, a__mrpc__old={k: v for k, v in make("tail", **flat).items() if k not in ("loss", "metrics_by_length")}
    )
    assert list(charts_of(tmp_path)) == ["frontier"]


def test_many_settings_are_divided_among_panels_and_cut(tmp_path):
    for number in range(1, 21):
        changes = {"schedule": [0.0, number / 100], "loss": [{"step": 1, "loss": 1}, {"step": 2, "loss": 1 / number}]}
        put(tmp_path, **{f"a__mrpc__{number}": make(**changes)})
    found = charts_of(tmp_path)
    assert [len(lines) for lines in panels(found["tokens"]).values()] == [9, 9, 2]
    assert len(panels(found["loss"])) == 12
    assert found["loss"].title == "a: mrpc (bert) (the first 12 of 20 settings)"


def test_a_method_that_prunes_no_tokens_is_in_tables_figures_and_csv(records, run):
    """Nor is it known here: a plug-in has made it, which need not be loaded."""
    token_keys = {"teacher", "schedule", "schedule_source", "count", "tokens", "target_flops_reduction"}
    cells = [("int", "8 bits", 0.88), ("int", "4 bits", 0.7), ("baseline", "unpruned", 0.9)]
    for number, (method, variant, accuracy) in enumerate(cells):
        record = {key: value for key, value in make(method, 1, accuracy).items() if key not in token_keys}
        more = {"version": 2, "title": method, "variant": variant, "bits": 2 * number, "latency": None}
        put(records, **{f"alone__mrpc__int{number}": record | more})
        if number == 0:
            put(records, BERT__mrpc__int=record | more)
    group = groups(read_records(records)[0])[0]
    found = table(group)
    assert found["method"].tolist() == ["baseline", "head", "int"]
    assert found["variant"].tolist() == ["unpruned", "0,0.5", "8 bits"]
    assert found["tokens not computed"].tolist() == ["0.0%", "25.0%", ""]
    assert found["speed-up"].tolist() == ["", "1.25x", ""]
    flops, speed = panels(charts_of(records)["frontier"]).values()
    assert (list(flops), list(speed)) == (["baseline", "head", "int"], ["baseline", "head"])
    assert list(panels(charts_of(records)["by-length"])) == ["0,0.5", "8 bits"]
    alone = next(group for group in groups(read_records(records)[0]) if group.place == "alone-bert-mrpc")
    assert table(alone)["variant"].tolist() == ["unpruned", "8 bits", "4 bits"]
    assert table(alone)["tokens not computed"].tolist() == ["", "", ""]
    assert list(charts(alone.title, alone.frame)) == ["frontier", "by-length", "loss"]
    assert run(REPORT, "--no-figures")[0] == 0
    rows = pd.read_csv(records / "records.csv").set_index("folder")
    assert rows.loc["alone/mrpc/int1", ["variant", "bits"]].tolist() == ["4 bits", 2]
    assert pd.isna(rows.loc["alone/mrpc/int1", "schedule"])


def ticket(kind, percent, seed, dev, held_out, weights) -> dict:
    """A record of a BERT of 2 layers and 3 heads, of which the first layer has lost some."""
    token_keys = {"teacher", "schedule", "schedule_source", "count", "tokens", "target_flops_reduction"}
    record = {key: value for key, value in make(kind, seed, dev).items() if key not in token_keys}
    kept = {"layers": [0, 1], "heads": [[seed % 3], [0, 1, 2]], "neurons": [0, 8]}
    flops = {"baseline": 3.0, "pruned": 3 * weights, "reduction": 1 / weights}
    record |= {
        "version": 2,
        "title": kind,
        "variant": f"without {percent} %",
        "held_out_metrics": {"accuracy": held_out},
    }
    return record | ({} if kind == "baseline" else {"kept": kept, "weights_remaining": weights, "flops": flops})


@pytest.fixture
def tickets(tmp_path):
    """Two levels, and two seeds with a dense model each."""
    cells = [
        ("baseline", 0, 1, 0.90, 0.80, 1),
        ("baseline", 0, 2, 0.94, 0.85, 1),
        ("won", 10, 1, 0.88, 0.90, 0.9),
        ("won", 10, 2, 0.91, 0.95, 0.9),
        ("won", 50, 1, 0.86, 0.90, 0.5),  # as good on held-out rows, and smaller
        ("won", 50, 2, 0.99, 0.10, 0.5),  # the best on dev, which must not count
    ]
    for kind, percent, seed, *numbers in cells:
        put(tmp_path, **{f"a__mrpc__{kind}{percent}-{seed}": ticket(kind, percent, seed, *numbers)})
    return tmp_path


def test_held_out_rows_choose_among_levels_and_among_as_many_dense_models(tickets):
    (chosen,) = comparisons(groups(read_records(tickets)[0])[0].frame)
    assert chosen.values.tolist() == [
        ["mrpc", "won", "without 50 % (1), without 10 % (1)", 2, 2, "70%", "accuracy 88.5 ± 3.5", "-1.5 ± 3.5"],
        ["mrpc", "dense", "", 1, 2, "", "accuracy 92.0 ± 2.8", ""],
        ["mrpc", "dense", "the best on held-out rows", 2, 1, "", "accuracy 94.0", ""],
    ]
    shutil.rmtree(tickets / "a/mrpc/baseline0-2")
    chosen = comparisons(groups(read_records(tickets)[0])[0].frame)[0]
    assert chosen["method"].tolist() == ["won", "dense"]  # there are too few to choose from


def test_the_metric_by_weights_has_the_dense_model_as_a_band(tickets):
    chart = charts_of(tickets)["weights"]
    ((panel, lines),) = panels(chart).items()
    assert panel == "weights remaining (%)"
    assert lines["won"][["x", "y"]].to_numpy().tolist() == pytest.approx(np.array([[90, 89.5], [50, 92.5]]))
    assert lines["baseline"][["x", "y"]].to_numpy().tolist() == [[100, 92]]
    band = re.search(r'<g id="patch_3">\s*<path d="([^"]+)"', draw(chart)["svg"].decode())
    heights = {round(float(y), 2) for _, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", band[1])}
    assert len(heights) == 2  # a bar across the panel
    for name in ("won50-1", "won50-2"):
        shutil.rmtree(tickets / f"a/mrpc/{name}")
    assert "weights" not in charts_of(tickets)


def test_maps_show_in_how_many_seeds_a_head_is_kept(tickets):
    (group,) = groups(read_records(tickets)[0])
    maps = kept_maps(group.frame)
    assert [one.title for one in maps] == ["won, without 10 %", "won, without 50 %"]
    for one in maps:
        assert one.heads.tolist() == [[0, 0.5, 0.5], [1, 1, 1]]
        assert one.feed_forwards.tolist() == [0, 1]
    assert draw_maps(maps, "a") == draw_maps(maps, "a")
    assert kept_maps(group.frame[group.frame["method"] == "baseline"]) == []
    page = write_report(tickets).read_text("utf-8")
    assert "![a-bert-mrpc-kept](figures/a-bert-mrpc-kept.png)" in page
    assert (tickets / "figures/a-bert-mrpc-kept.svg").is_file()


def test_records_that_name_no_hardware_are_reported(tmp_path):
    put(tmp_path, a__mrpc__1=make(environment={}), b__mrpc__1=make(environment={"gpu": "H100"}))
    page = write_report(tmp_path, with_figures=False).read_text("utf-8")
    assert page.count("Timed on ") == page.count("Timed on H100.") == 1


def test_a_schedule_found_for_no_budget_is_in_tables_and_figures(tmp_path):
    search = {"reach": None, "penalty": 1e-3}
    put(tmp_path, a__mrpc__1=make(schedule_source="learned", settings={"search": search}))
    (group,) = groups(read_records(tmp_path)[0])
    assert table(group)["schedule"].tolist() == ["lambda 0.001"]
    lines = charts_of(tmp_path)["frontier"].lines
    assert lines["label"].unique().tolist() == ["head, soft-extract"]
    assert list(panels(charts_of(tmp_path)["by-length"])) == ["lambda 0.001"]


@pytest.mark.parametrize("ticks", ["", "3-9 10-20 21-30"])
def test_lines_that_coincide_are_all_seen(ticks):
    """Of each of them there is ink in its own colour; the legend, at the right, is not counted."""
    image = pytest.importorskip("matplotlib.image")
    looks = range(6)
    points = [(look, x, 0.9) for look in looks for x in range(3)] + [(9, x, 0.1 * x) for x in range(3)]
    lines = pd.DataFrame(points, columns=["look", "x", "y"])
    lines = lines.assign(panel="", x_label="x", ticks=ticks, label="line " + lines["look"].astype(str), dash=0)
    pixels = image.imread(io.BytesIO(draw(Chart(lines, "y"))["png"]))[:, : int(WIDTH * RESOLUTION * 0.95), :3]
    for look in looks:
        colour = [int(COLOURS[look][at : at + 2], 16) / 255 for at in (1, 3, 5)]
        assert (np.abs(pixels - colour) < 0.02).all(axis=2).sum() > 60, look


def test_lines_that_only_meet_are_as_thin_as_ever():
    first, second, near, base = (
        pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": ys, "look": look})
        for look, ys in [
            (0, [1.0, 2.0, 3.0]),
            (1, [3.0, 2.0, 1.0]),
            (2, [1.0, 2.001, 3.0]),
            (BASELINE, [1.0, 2.0, 3.0]),
        ]
    )
    assert covers([first, second]) == [0, 0]
    assert covers([first, second, near]) == [1, 0, 0]
    assert covers([base, first, near]) == [0, 2, 1]  # the baseline is drawn last
    assert covers([first.head(1), first.head(1)]) == [1, 0]
    assert covers([first, first.head(1)]) == [0, 0]  # most of it is seen


def test_names_are_drawn_as_they_are():
    pytest.importorskip("matplotlib")
    line = {"panel": "$", "x_label": "x", "ticks": "", "label": "$x", "x": [1.0, 2.0], "y": [3.0, 4.0]}
    chart = Chart(pd.DataFrame(line | {"look": 0, "dash": 0}), "y $", r"$\frac{ _{ & <b> %")
    found = draw(chart)
    assert found["png"].startswith(b"\x89PNG")
    assert found["svg"].startswith(b"<?xml")
    assert draw(chart) == found


def test_a_folder_without_records_is_one_line(run, tmp_path):
    (tmp_path / "records").mkdir()
    code, _, err = run(REPORT)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "records: no records in it" in err
    assert list((tmp_path / "records").iterdir()) == []


def test_without_matplotlib_there_are_tables(records, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    code, out, err = run(REPORT)
    assert (code, err) == (0, "")
    first, last = out.splitlines()
    assert first.startswith("no figures: matplotlib: ")
    assert last == "-> records/README.md (8 records, 3 tables)"
    assert not (records / "figures").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), UserError("a\nb"), KeyError()])
def test_a_report_that_fails_is_one_line_of_a_run(records, monkeypatch, capsys, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(report, "write_whole", fail)
    report_grid(records / "BERT")
    out, err = capsys.readouterr()
    assert out.startswith("no report: ")
    assert (len(out.splitlines()), err) == (1, "")


def test_a_grid_reports_on_both_models_or_on_its_own_folder(records, tmp_path, monkeypatch, capsys):
    report_grid(records / "LSTM")
    assert capsys.readouterr().out == f"-> {records}/README.md (8 records, 3 tables)\n"
    report_grid(records / "other")
    assert capsys.readouterr().out == f"-> {records}/other/README.md (1 record, 1 table)\n"
    monkeypatch.chdir(records / "BERT")  # where the folder above is no folder of records only
    report_grid(records / "BERT")
    assert capsys.readouterr().out == f"-> {records}/BERT/README.md (4 records, 1 table)\n"


HOSTILE = "<img src=x onerror=alert(1)> # [a](javascript:b) `c` $d$ \u4e2d"


def test_no_text_of_a_record_breaks_the_page(tmp_path, capsys):
    """Neither HTML nor a heading nor a link, nor a column more in a table."""
    current = Record.from_json(make("head", 1)).to_json() | {"title": HOSTILE, "variant": "*v* ~w~"}
    other = make("head", 2, settings={"epochs": 3.0, HOSTILE: "\n# x|y"}, environment={"gpu": f"{HOSTILE}\x1b[2J"})
    only = {"dev": {"answer": "<b>|\n# 1", "share": 0.5}}
    put(tmp_path, **{"a<b>_#\n# c__mrpc__run": current | {"collapsed": only}})
    put(tmp_path, **{"x__mrpc__one": make("head", 1), "x__mrpc__two": other, "x__mrpc__<i>\x1b\n#": {}})
    text = write_report(tmp_path, with_figures=False).read_text("utf-8")
    body = text.partition("as old as their files.")[2]
    unescaped = re.sub(r"\\.", "", body)
    assert not re.search(r"[<>`$~*_]", unescaped)
    assert len(re.findall("(?m)^#", body)) == 2
    assert "](" not in unescaped
    assert "\x1b" not in text
    for table in re.findall(r"(?:^\|.*\n)+", unescaped, flags=re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert f"skipped {tmp_path}/x/mrpc/<i>\\x1b\\n#/record.json: not a record\n" in capsys.readouterr().out


def test_the_csv_holds_no_formula(tmp_path):
    record = make("head", 1, settings={"epochs": -3.0, "=1+1": "@a", "b": "\t=c"}, **{"=d": "+e", "f": "-0.5"})
    record["environment"] |= {"cpu": "=cmd|' /C calc'!A0"}
    put(tmp_path, **{"=g__mrpc__run": record})
    write_report(tmp_path, with_figures=False)
    header, cells = csv_module.reader(io.StringIO((tmp_path / "records.csv").read_text("utf-8")))
    assert not [cell for cell in (*header, *cells) if cell.startswith(("=", "+", "@", "\t", "\r"))]
    found = dict(zip(header, cells, strict=True))
    assert found["folder"] == "'=g/mrpc/run"
    assert found["environment.cpu"] == "'=cmd|' /C calc'!A0"
    assert (found["settings.=1+1"], found["settings.b"], found["'=d"]) == ("'@a", "\\t=c", "'+e")
    assert (found["settings.epochs"], found["f"]) == ("-3.0", "-0.5")


def test_names_of_folders_that_no_encoding_has(tmp_path):
    folder = os.fsdecode(b"caf\xe9 \xff")
    put(tmp_path, **{f"BERT__mrpc__{folder}": make("head", 1), f"{folder}__mrpc__run": make("head", 1)})
    (tmp_path / "BERT" / "mrpc" / folder / "survivors.html").touch()
    text = write_report(tmp_path, with_figures=False).read_text("utf-8")
    assert "[words](BERT/mrpc/caf%E9%20%FF/survivors.html)" in text
    assert r"## caf\\udce9 \\udcff: mrpc (bert)" in text


def test_a_long_name_of_a_folder_is_cut_in_those_of_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "draw", lambda chart: {"png": b"", "svg": b""})
    names = ["x" * 200, "y" * 100 + "x" * 100]
    put(tmp_path, **{f"{name}__{name}__mrpc__run": make("head", 1) for name in names})
    put(tmp_path, **{f"{name}__{name}__mrpc__base": make("baseline", 1) for name in names})
    text = write_report(tmp_path).read_text("utf-8")
    assert len(set(re.findall(r"figures/\S*-frontier.png", text))) == 2


def test_figures_need_no_backend_of_the_environment():
    pytest.importorskip("matplotlib")
    code = "from pruner.report.figures import missing_matplotlib as missing; print([missing()])"
    environment = os.environ | {"MPLBACKEND": "nonsense"}
    found = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment, capture_output=True)
    assert found.stdout == b"['']\n"


def test_a_dollar_or_a_letter_without_a_font_makes_no_formula_and_no_warning(tmp_path, recwarn):
    pytest.importorskip("matplotlib")
    record = Record.from_json(make("head", 1)).to_json() | {"title": "$\\frac$ \u4e2d <b>&"}
    put(tmp_path, a__mrpc__run=record, a__mrpc__base=make("baseline"))
    assert "$\\frac$ \u4e2d &lt;b&gt;&amp;" in svg_text(charts_of(tmp_path)["frontier"])
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_refusal_makes_no_folders(tmp_path, run, content):
    if content:
        put(tmp_path, records__BERT__mrpc__run={})
    before = set(tmp_path.rglob("*"))
    assert run(REPORT, "--records", "records/BERT")[0] == 2
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
def test_a_pipe_in_place_of_a_file_is_not_waited_for(records, run):
    (records / "BERT" / "mrpc" / "odd").mkdir()
    os.mkfifo(records / "BERT" / "mrpc" / "odd" / "record.json")
    assert read_records(records)[1] == ["BERT/mrpc/odd/record.json"]
    os.mkfifo(records / "README.md")
    code, _, err = run(REPORT, "--no-figures")
    assert (code, err.count("\n")) == (2, 1)
    assert "records/README.md: a pipe, socket or device" in err
