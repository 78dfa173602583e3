"""The READMEs' promises: tables and numbers are those of the committed records, what they name exists and runs."""

import json
import math
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import make_readme
import numpy as np
import pytest
import torch
from conftest import ROOT, small_bert, small_config, write_mrpc
from make_readme import (
    KINDS,
    LSTM_TASKS,
    NAMES,
    PAGES,
    PICTURES,
    PLACES,
    PUBLISHED,
    TABLES,
    budget_records,
    joint,
    joint_records,
    lstm_records,
    precision_records,
    published,
    rewrite,
    speed,
    structure_records,
    survivors,
    tables_in,
    tickets_chosen,
)
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.method import FAMILIES
from pruner.compress.structure.importance import winning_heads
from pruner.compress.structure.masks import masked
from pruner.compress.tokens.scores import SCORERS
from pruner.compress.tokens.select import keep_counts
from pruner.data.cache import Cache, Split, write_cache
from pruner.report.page import write_report
from pruner.report.records import COMMON
from pruner.utils.errors import UserError

TEXTS = {name: page.read_text(encoding="utf-8") for name, page in PAGES.items()}
FRONT, PRUNER = TEXTS["README.md"], TEXTS["pruner/README.md"]
RESULTS, SPEED = TEXTS["records/published/README.md"], TEXTS["records/speed/README.md"]
LARGEST_FRONT = 15_000  # bytes of the front page: a newcomer reads all of it


def flat(text: str) -> str:
    """Join lines, so that a sentence is found wherever it is broken."""
    return " ".join(text.split())


def check_says(page: str, sentence: str) -> None:
    assert sentence in flat(page)


def test_the_front_page_is_short():
    assert len(FRONT.encode()) < LARGEST_FRONT


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_made_from_the_committed_records(name):
    """After other records, ``python tests/make_readme.py`` writes them anew."""
    assert rewrite(TEXTS[name]) == TEXTS[name]
    assert all(table.count("\n") >= 4 for table in tables_in(TEXTS[name]).values())  # a head and two rows


def test_every_marker_has_a_table_and_every_table_a_marker():
    used = set()
    for text in TEXTS.values():
        markers = re.findall(r"<!-- (.*?) -->", text)
        tables = tables_in(text)
        assert sorted(markers) == sorted([*tables, *["end"] * len(tables)])
        used |= tables.keys()
    assert used == TABLES.keys()


def test_only_what_has_changed_is_written_and_named(tmp_path, monkeypatch, capsys):
    page = tmp_path / "README.md"
    page.write_text(FRONT.replace("| demo | tail ", "| demo | head "), encoding="utf-8")
    monkeypatch.setattr(make_readme, "PAGES", {"README.md": page})
    monkeypatch.setattr(make_readme, "PICTURES", {})
    make_readme.main()
    assert capsys.readouterr().out == "changed: README.md, demo\n"
    assert page.read_text(encoding="utf-8") == FRONT
    written = page.stat().st_mtime_ns
    make_readme.main()
    assert capsys.readouterr().out == "nothing has changed\n"
    assert page.stat().st_mtime_ns == written
    with pytest.raises(UserError, match="<!-- new -->: no table is made"):
        rewrite("<!-- new -->\n<!-- end -->\n")


def test_the_tables_script_finds_the_code():
    as_script = f"import sys; sys.path[0] = {str(ROOT / 'tests')!r}; import make_readme"  # but it writes nothing
    subprocess.run([sys.executable, "-c", as_script], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", [name for name in TABLES if name.startswith("speed ")])
def test_the_hardware_of_the_speed_tables_is_named(name):
    environment = speed(name.removeprefix("speed "))["environment"]
    check_says(SPEED, f"{environment['cpu']} with {environment['threads']} threads")
    assert environment["gpu"] is None  # as the page says


def test_the_clock_is_what_the_text_says():
    learned, others = (speed(name)["rows"] for name in ("mrpc_sst-2_cola_cpu", "mrpc_sst-2_cpu"))
    first, last = (f"{bound(row['speedup'] for row in learned):.2f}" for bound in (min, max))
    low, high = (f"{bound(row['efficiency'] for row in learned):.2f}" for bound in (min, max))
    check_says(FRONT, f"runs {first} to {last} times as fast as stock")
    check_says(FRONT, f"{low} to {high} of what its FLOPs promise")
    found = defaultdict(list)
    for row in (*learned, *others):
        if row["method"] != "none":
            for key in (row["data"], (row["data"], row["dtype"])):
                found[key].append(f"{row['efficiency']:.2f}")
    check_says(SPEED, f"at least {min(found['mrpc'])} of what is possible arrives")
    low, high = min(found["sst-2", "float32"]), max(found["sst-2", "float32"])
    half = found["sst-2", "bfloat16"]
    check_says(SPEED, f"{low} to {high} in float32 and {min(half)} to {max(half)} in bfloat16")
    check_says(SPEED, f"CoLA's have 12, and it is {min(found['cola'])} to {max(found['cola'])}")


def test_eight_bits_are_as_fast_as_the_text_says():
    small, large = (speed(name)["rows"] for name in ("int8_sst-2_cpu", "int8_16-112_cpu"))
    rows = {(len(row["schedule"]), row["dtype"], row["batch_size"], row["method"]): row for row in (*small, *large)}
    at = [f"{rows[layers, 'float32', size, 'int8']['speedup']:.2f}" for layers, size in ((6, 1), (6, 32), (12, 32))]
    text = f"{at[0]} times as fast in 8 bits at batch 1 and {at[1]} at batch 32, at BERT-Base's sizes {at[2]}"
    check_says(SPEED, text)
    own = [key for key in rows if key[-1] == "int8"]
    longer = [rows[*key[:-1], "torchao-int8"]["pruned_ms"] / rows[key]["pruned_ms"] for key in own]
    check_says(SPEED, f"layers take {min(longer):.2f} to {max(longer):.2f} times as long as ours")
    for layers, size in ((6, 32), (12, 32)):
        whole, half = (rows[layers, dtype, size, "int8"]["pruned_ms"] for dtype in ("float32", "bfloat16"))
        assert whole < half


def test_trainings_are_as_fast_as_the_text_says():
    rows = speed("training_sst-2_mrpc_cpu")["rows"]
    ours = {(row["data"], row["dtype"]): row["speedup"] for row in rows if row["training"] == "packed"}
    check_says(FRONT, f"Fine-tuning skips padding too: {ours['sst-2', 'bfloat16']:.2f}x stock `Trainer` on SST-2.")
    grouped = {(row["data"], row["dtype"]): row["speedup"] for row in rows if "grouped" in row["training"]}
    assert all(ours[key] > grouped[key] > 1 for key in ours)


def test_budgets_are_met():
    records = budget_records()
    assert records["flops.reduction"].tolist() == pytest.approx(records["target_flops_reduction"].tolist(), rel=0.03)


def test_the_text_compares_power_berts_search_with_the_learned_schedules():
    records = budget_records().set_index(["task", "method", "way", "target_flops_reduction", "seed"])["score"]
    learned = [f"{records[task, 'attention', 'learned', 2.0, 1]:.1f}" for task in ("mrpc", "sst-2")]
    check_says(RESULTS, f"the learned schedules have {' and '.join(learned)}")


def test_the_budgets_are_what_the_text_says():
    """Up to 2x: whoever chooses is above chance, late above the first layer, and on SST-2 above one rate for all."""
    loss = -budget_records().groupby(["task", "method", "way", "target_flops_reduction"])["lost"].mean()
    tasks, choosers = ["mrpc", "sst-2", "cola"], ["attention", "student"]
    for task in tasks:
        for method in choosers:
            for budget in (1.5, 2.0):
                learned = loss[task, method, "learned", budget]
                assert learned < loss[task, method, "first layer", budget]
                assert learned < loss[task, "random", "learned", budget]
                assert task != "sst-2" or learned < loss[task, method, "uniform", budget]
    best = {
        budget: [f"{min(loss[task, method, 'learned', budget] for method in choosers):.1f}" for task in tasks]
        for budget in (1.5, 2.0, 3.0)
    }
    at_2x = "the best learned schedule loses {} points on MRPC, {} on SST-2 and {} on CoLA".format(*best[2.0])
    check_says(FRONT, at_2x)
    check_says(RESULTS, at_2x)
    check_says(RESULTS, "at 1.5x it is {}, {} and {}, at 3x {}, {} and {}".format(*best[1.5], *best[3.0]))
    chance, chosen, first = lost_at_2x("learned", "random"), lost_at_2x("learned"), lost_at_2x("first layer")
    check_says(RESULTS, f"At 2x, chance loses {chance} points where `attention` and the student lose {chosen}.")
    check_says(RESULTS, f"All of them before the first layer costs {first} points at 2x")


def lost_at_2x(schedule: str, *methods: str) -> str:
    """Return the smallest and the largest loss in that column of the table, so that text and table round alike."""
    head, _, *rows = ([cell.strip() for cell in row.split("|")] for row in tables_in(RESULTS)["budgets"].splitlines())
    cells = [dict(zip(head, row, strict=True)) for row in rows]
    methods = methods or ("attention", "student of emission")
    shown = [cell["2x"] for cell in cells if cell["schedule"] == schedule and cell["method"] in methods]
    lost = sorted(-float(text.partition("(")[2].rstrip(")")) for text in shown)
    return f"{lost[0]} to {lost[-1]}"


def test_the_limits_are_those_of_the_records():
    """One model, no GPU, so many rows and seeds."""
    records = budget_records()
    assert set(records["settings.bert"]) == {"sentence-transformers/all-MiniLM-L6-v2"}
    assert records["environment.gpu"].isna().all()
    assert set(records["settings.epochs"]) == {3}
    assert records.groupby("task")["seed"].nunique().to_dict() == {"mrpc": 1, "cola": 1, "sst-2": 2}
    rows = records.groupby("task")[["settings.train_rows", "settings.train_rows_available"]].max()
    assert all(rows.loc[task].nunique() == 1 for task in ("mrpc", "cola"))
    trained, available = (f"{number:,}".replace(",", " ") for number in rows.loc["sst-2"])
    check_says(FRONT, f"SST-2 was trained on {trained} of its {available} rows with two seeds")


def test_tickets_and_layers_are_what_the_text_says():
    """Of three seeds and fewer, as it says."""
    records = structure_records(*KINDS, *PLACES)
    tickets = records[records["method"].isin(KINDS)]
    seeds = tickets.groupby(["task", "method"])["seed"].nunique().to_dict()
    assert set(seeds.values()) == {3}
    means = tickets.groupby(["task", "method", "variant"])[["score", "lost", "flops.reduction"]].mean()
    small = "without 60 % of heads"
    score = {key: f"{row['score']:.1f}" for key, row in means.iterrows()}
    won, chance, worst = ([score[task, kind, small] for task in ("mrpc", "cola", "sst-2")] for kind in KINDS)
    check_says(RESULTS, "ticket has {} on MRPC, {} on CoLA and {} on SST-2".format(*won))
    check_says(RESULTS, "of equal size have {}, {} and {}, and losing ones {}, {} and {}.".format(*chance, *worst))
    assert {round(row["flops.reduction"], 1) for key, row in means.iterrows() if key[2] == small} == {2.1}
    table = tickets_chosen()
    chosen = table[table["method"] == "winning ticket"].set_index("task")["difference"]
    check_says(RESULTS, f"choose gain {chosen['sst-2']} points over three seeds")
    check_says(RESULTS, f"On CoLA it is {chosen['cola']}")
    check_says(RESULTS, f"MRPC's three seeds are at {chosen['mrpc']}.")
    (best,) = table.loc[(table["task"] == "sst-2") & (table["of"] == 8) & (table["method"] == "dense"), "metric"]
    check_says(RESULTS, f"the best of eight dense trainings by the same rows has {best.split()[-1]}")
    for task in ("mrpc", "cola", "sst-2"):
        assert means.loc[(task, "winning-ticket", "without 80 % of heads"), "lost"] < -2
    layers = records[records["method"].isin(PLACES)]
    assert set(layers["seed"]) == {1}
    assert set(layers.groupby("task")["variant"].count()) == {3 * 7}
    single = layers[layers["variant"] == "without 1 layer"].set_index("task")
    first, order = single["kept.layers"].map(lambda kept: kept[0] > 0), ["mrpc", "cola", "sst-2"]
    lost, others = -single.loc[first, "lost"][order], single.loc[~first, "lost"]
    check_says(RESULTS, "MRPC loses {:.1f} points, CoLA {:.1f} and SST-2 {:.1f};".format(*lost))
    check_says(RESULTS, f"they are at {others.min():+.1f} to {others.max():+.1f}.")
    tokens = structure_records("attention").query("pruned").set_index(["target_flops_reduction", "task"])["lost"]
    best = layers.groupby(["variant", "task"])["lost"].max()
    one, three = best["without 1 layer"][order], best["without 3 layers"][order]
    check_says(RESULTS, "at {:+.1f} on MRPC, {:+.1f} on CoLA and {:+.1f} on SST-2".format(*one))
    check_says(RESULTS, "tokens are at {:+.1f}, {:+.1f} and {:+.1f};".format(*tokens[1.2][order]))
    check_says(RESULTS, "it is at {:+.1f}, {:+.1f} and {:+.1f}, tokens".format(*three))
    check_says(RESULTS, "tokens at {:+.1f}, {:+.1f} and {:+.1f}.".format(*tokens[2.0][order]))
    assert (three < tokens[2.0]).all()
    widths = structure_records("width", "width-random", "width-untrained").query("variant == '2x FLOPs'")
    lost = widths.set_index(["method", "task"])["lost"].unstack()[["cola", "sst-2"]]
    check_says(RESULTS, "they are at {:+.1f} on CoLA and {:+.1f} on SST-2, random".format(*lost.loc["width"]))
    check_says(RESULTS, "of equal cost at {:+.1f} and {:+.1f};".format(*lost.loc["width-random"]))
    check_says(RESULTS, "not trained again they are at {:+.1f} and {:+.1f}.".format(*lost.loc["width-untrained"]))


def test_budgets_of_time_are_met_as_the_text_says():
    records = published("speedups/*/*", ("sst-2",), NAMES)
    assert len(records) == 3
    assert set(records["target_speedup"]) == {2}
    off = (records["latency.speedup"] / records["choice.predicted_speedup"] - 1).abs()
    check_says(RESULTS, f"Predictions are within {math.ceil(100 * off.max())} % of what is measured")
    assert off.max() < 0.1


def test_bits_teachers_and_zeros_do_what_the_text_says():
    records = precision_records()
    assert set(records["seed"]) == {1}
    score = records.assign(cell=records["method"] + " " + records["variant"] + " " + records["title"])
    lost = {(row["task"], row["cell"]): row["lost"] for _, row in score.iterrows()}

    def of(start: str) -> list[str]:
        found = {task: value for (task, cell), value in lost.items() if cell.startswith(start)}
        return [f"{found[task]:+.1f}" for task in ("sst-2", "cola")]

    whole = of("int8 int8, embeddings too")
    check_says(RESULTS, f"a quarter of the bytes and {whole[0]} on SST-2 and {whole[1]} on CoLA")
    check_says(FRONT, f"with a quarter of the bytes, change SST-2 by {whole[0]} and CoLA by {whole[1]}")
    check_says(RESULTS, "no better ({}, {}).".format(*of("int8-training")))
    check_says(RESULTS, "loses {} and {}. Q8BERT".format(*(x[1:] for x in of("q8bert"))))
    check_says(RESULTS, f"lose {of('attention learned')[0][1:]} points on SST-2 without it")
    check_says(RESULTS, f"and gain {of('attention.distil-hidden')[0][1:]} with it")
    for name, text in (
        ("layers-odd ", "lose {} and {} alone"),
        ("layers-odd.distil ", "{} and {} taught by the logits"),
        ("layers-odd.distil-hidden", "{} and {} by hidden states too"),
    ):
        check_says(RESULTS, text.format(*(x[1:] for x in of(name))))
    zeros = records[(records["task"] == "sst-2") & (records["method"] == "sparse")].set_index("encoder_sparsity")
    text = f"{100 * zeros.loc[0.95, 'sparsity']:.0f} % of the model is zero, for {-zeros.loc[0.95, 'lost']:.1f} points"
    check_says(RESULTS, text)
    fast = zeros["csr.speedup"]
    check_says(RESULTS, f"layers {fast[0.95]:.2f} times as fast, at 90 % {fast[0.9]:.2f} times")


def test_one_budget_does_what_the_text_says():
    records = joint_records(*joint.NAMES, *NAMES)
    assert set(records["seed"]) == {1}
    assert set(records["task"]) == {"cola", "sst-2"}
    lost = records.set_index(["method", "target_flops_reduction", "task"])["lost"].unstack()[["sst-2", "cola"]]

    def points(method: str, target: float) -> list[str]:
        return [f"{value:+.1f}" for value in lost.loc[(method, target)]]

    check_says(RESULTS, "At 4x `joint` is at {} on SST-2 and {} on CoLA".format(*points("joint", 4)))
    check_says(RESULTS, "where width alone is at {} and {}".format(*points("joint-width", 4)))
    check_says(RESULTS, "tokens alone at {} and {}".format(*points("joint-tokens", 4)))
    axes = lost.loc[[f"joint-{axis}" for axis in joint.AXES]]
    for target in 1.5, 2.0, 3.0, 4.0:
        best = axes.xs(target, level=1).max()
        assert (lost.loc[("joint", target)] >= best - (0.3 if target < 4 else -0.5)).all()
    together = records[records["method"] == "joint"].set_index(["target_flops_reduction", "task"])
    shares = 100 * together.loc[3.0, "tokens.effective_rate"]
    check_says(RESULTS, f"at 3x {shares['sst-2']:.0f} and {shares['cola']:.0f} % of the tokens")
    assert (together.loc[4.0, "kept.layers"].map(len) == 5).all()
    assert (together.loc[2.0, "tokens.effective_rate"] == 0).all()
    check_says(RESULTS, "calibrated` is at {} on SST-2 and {} on CoLA at 2x".format(*points("calibrated", 2)))
    check_says(FRONT, "at 2x, `calibrated` is at {} on SST-2 and {} on CoLA.".format(*points("calibrated", 2)))
    check_says(RESULTS, "one rate for all layers is at {} and {}".format(*points("calibrated-uniform", 2)))
    check_says(RESULTS, "tokens alone are at {} and {};".format(*points("calibrated-tokens", 2)))
    check_says(RESULTS, ", and {} at 3x".format(" and ".join(points("calibrated", 3))))
    seconds = records.loc[records["method"] == "calibrated", "choice.seconds"]
    check_says(RESULTS, f"took {seconds.min():.0f} to {seconds.max():.0f} s")


def test_several_tasks_do_what_the_text_says():
    records = published("multi-task/*/*", ("mrpc", "cola", "sst-2"))
    score = records.set_index(["task", "method"])["score"]
    for task in ("cola", "sst-2"):
        assert score[task, "multi-task-tickets"] > max(score[task, "multi-task"], score[task, "baseline"])
    assert score["mrpc", "multi-task-tickets"] >= score["mrpc", "baseline"]
    assert records["settings.train_rows"].max() == 4000
    (union,) = set(records["multi_task.union.heads"].dropna()) - {72}
    (feed_forwards,) = set(records["multi_task.union.feed_forwards"].dropna()) - {6}
    check_says(RESULTS, f"keep {union:.0f} of the 72 heads and {feed_forwards:.0f} of the 6 feed-forwards")


def test_the_published_schedule_does_what_the_text_says():
    found = published("BERT/*/*", ("mrpc", "sst-2", "cola")).groupby(["task", "method"])["score"].mean()
    for task in ("mrpc", "sst-2", "cola"):
        controls = [found[task, name] for name in ("random", "head", "tail") if (task, name) in found]
        assert found[task, "student"] > max(controls)
    assert found["mrpc", "student"] < min(found["mrpc", name] for name in ("emission", "gradient", "frequency"))
    assert found["cola", "student"] < 0.5 * found["cola", "baseline"]


def test_the_lstms_results_are_what_the_text_says():
    """At 0.9 the student is above random and head, and on AG News' test set in batches of 256 four times as fast."""
    records = lstm_records()
    loss = -records.groupby(["task", "method", "target_prune_rate"])["lost"].mean()
    for task in LSTM_TASKS:
        assert loss[task, "student", 0.9] < min(loss[task, "random", 0.9], loss[task, "head", 0.9]), task
    student = records[(records[["task", "method", "target_prune_rate"]] == ("agnews", "student", 0.9)).all(axis=1)]
    assert (student["latency.speedup"] > 4).all()
    assert (student["latency.batch_size"] == 256).all()
    check_says(FRONT, f"loses {loss['agnews', 'student', 0.7]:.1f} points on AG News without 70 % of the words")
    faster = student["latency.speedup"].mean()
    check_says(FRONT, f"without 90 % it loses {loss['agnews', 'student', 0.9]:.1f} and is {faster:.1f} times as fast")


def test_the_hardware_of_the_lstms_times_is_named():
    for cpu, threads in lstm_records().groupby(["environment.cpu", "environment.threads"]).groups:
        check_says(RESULTS, f"{cpu} with {threads} thread,")


def test_committed_records_name_no_place_of_the_machine_they_were_made_on():
    for path in PUBLISHED.rglob("*"):
        if path.is_file() and "figures" not in path.parts:
            assert not re.search(r"/(work|home|root|tmp|Users)/", path.read_text(encoding="utf-8")), path


def test_two_commands_come_first():
    code = re.findall(r"```\n(.*?)```", FRONT, flags=re.DOTALL)
    assert code[0] == "pip install -r requirements.txt && python RunBert4Glue.py --demo\n"
    assert code[1] == "pip install -r requirements.txt && python -m pytest\n"


def test_every_flag_the_readmes_name_exists(run):
    known = {}
    scripts = [path.stem for path in ROOT.glob("*.py") if path.stem != "ModifiedModelingBert"]
    modules = {name for text in TEXTS.values() for name in re.findall(r"python -m (pruner\.\w+)", text)}
    assert len(scripts) == 7
    for script in (*scripts, *modules):
        code, shown, _ = run(script, "--help")
        assert code == 0
        known[script] = set(re.findall(r"--[a-z_-]+", shown))
    everywhere = set.union(*known.values()) | {"--logdir", "--nproc-per-node", "--nnodes", "--rdzv-backend",
                                               "--rdzv-endpoint", "--check"}  # fmt: skip
    for name, text in TEXTS.items():
        for script, command in re.findall(r"python (?:-m )?([\w.]+)([^`&\n]*)", text):
            for flag in re.findall(r"--[a-z_-]+", command):
                assert flag in known[script.removesuffix(".py")], (name, script, flag)
        for flag in re.findall(r"(?<![\w|-])--[a-z][a-z_-]*", text):
            assert flag in everywhere, (name, flag)


def test_requirements_are_pinned_exactly():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"[A-Za-z_-]+==[\w.]+( |$)", line) for line in lines if line and not line.startswith("#"))


def test_the_sentence_at_the_top_is_of_a_published_record():
    path = PUBLISHED / "budgets" / "sst-2" / "student-emission_learned-2x_seed1" / "record.json"
    record = json.loads(path.read_text("utf-8"))
    shown = survivors()
    assert len(shown.words) == 12  # of one piece each
    counts = [sum(layer) for layer in shown.kept]
    assert counts == [layer[0] for layer in keep_counts([12], record["schedule"])]
    assert [word for word, share in zip(shown.words, shown.kept[-1], strict=True) if share] == ["[CLS]", "charming"]
    check_says(FRONT, 'all but "charming" is gone in the end')
    (row,) = (row for row in tables_in(FRONT)["at a glance"].splitlines() if re.match(r"\| sst-2 \| student", row))
    assert "(-2.1)" in row.split("|")[6]
    assert "[2.1 points](#results-at-a-glance)" in FRONT
    assert record["examples"][0]["sentence"] == " ".join(shown.words)
    assert record["examples"][0]["kept"] == "[CLS] ... charming ..."


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_are_drawn_from_the_committed_records(name):
    page = "README.md" if f"]({name})" in FRONT else "records/published/README.md"
    assert f"]({name.removeprefix(page.removesuffix('README.md'))})" in TEXTS[page]
    matplotlib = pytest.importorskip("matplotlib")
    if f"matplotlib=={matplotlib.__version__} " not in (ROOT / "requirements.txt").read_text(encoding="utf-8"):
        pytest.skip("another matplotlib draws the same in other bytes")
    assert (ROOT / name).read_bytes() == PICTURES[name]()


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    page, text = PAGES[name], TEXTS[name]
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target
    given = dict(re.findall(r"^\[([^]]+)\]: (https://\S+)$", text, flags=re.MULTILINE))
    prose = re.sub(r"```.*?```|`[^`\n]*`|^\[[^]\n]+\]: ", "", text, flags=re.DOTALL | re.MULTILINE)
    used = set(re.findall(r"\[([^]\[]+)\](?![(\w])", prose))
    assert not given or given.keys() == used, name


@pytest.mark.parametrize("name", PAGES)
def test_the_files_the_readmes_name_exist(name):
    quoted = re.findall(r"`([^`\s]+)`", TEXTS[name])
    for path in re.findall(r"[\w./-]+", "\n".join(quoted)):
        if re.match(r"(pruner|tests|records/(published|speed))/", path):
            assert (ROOT / path).exists(), path
        elif path.endswith(".py"):
            places = [ROOT, PAGES[name].parent, ROOT / "tests", ROOT / "pruner"]
            assert any((place / path).is_file() for place in places), path
    for path, functions in re.findall(r"^\| `([\w/.]+\.py)` \| ([^|]*) \|", TEXTS[name], flags=re.MULTILINE):
        source = next(place / path for place in (ROOT, ROOT / "pruner") if (place / path).is_file()).read_text("utf-8")
        for function in re.findall(r"`(?:\w+\.)?(\w+)`", functions):
            assert re.search(rf"^ *(async )?(def|class) {function}\b|^{function}( =|:)", source, flags=re.MULTILINE), (
                path,
                function,
            )


def test_every_room_is_in_the_list_in_the_order_of_imports():
    section = PRUNER[: PRUNER.index("## Add a method here")]
    rooms = re.findall(r"^\| `([\w.]+?)(?:/|\.py)` \|", section, flags=re.MULTILINE)
    modules = [path for path in (ROOT / "pruner").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    assert sorted(rooms) == sorted(path.stem for path in modules if path.stem != "__init__")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    order = [name.strip().removeprefix("pruner.") for layer in layers for name in layer.split("|")]
    assert [room for room in rooms if room in order] == order


def test_every_key_of_a_record_is_explained():
    section = PRUNER[PRUNER.index("## What a record holds") : PRUNER.index("## Departures")]
    first_column = " ".join(row.split("|")[1] for row in section.splitlines() if row[:1] == "|")
    explained = {"target_prune_rate", *re.findall(r"`(\w+)`", first_column)}
    keys = {key for path in PUBLISHED.rglob("record.json") for key in json.loads(path.read_text("utf-8"))}
    assert keys | set(COMMON) - {"section"} == explained


def test_every_part_of_a_cache_is_explained(tmp_path):
    ids = np.arange(3, dtype=np.int32)
    split = Split(ids, np.array([0, 3]), np.array([3], dtype=np.int32), np.array([1]))
    cache = Cache("mine", ("a", "b"), 8, {"dev": split}, ids.astype(np.int64), "{}")
    path = write_cache(tmp_path, cache, "lstm", "abc")
    with safe_open(path, framework="numpy") as file:
        arrays, header = {name.rpartition(".")[2] for name in file.keys()}, file.metadata()  # noqa: SIM118
    for name in (*arrays, *header):
        assert re.search(rf"`(<split>\.)?{name}`", TEXTS["cache/README.md"]), name


def test_the_reports_leave_the_committed_pages_alone(tmp_path):
    """``python -m pruner.report --records records/published/budgets``, as the page says; Git ignores what it writes."""
    for folder, ignored in {"published/budgets": True, "published": False, "speed": False}.items():
        command = ["git", "check-ignore", "--no-index", "-q", f"records/{folder}/README.md"]
        assert (subprocess.run(command, cwd=ROOT, check=False).returncode == 0) == ignored
    source = PUBLISHED / "soft-extract" / "mrpc"
    for run in ("attention_soft-extract-2x_seed1", "baseline_seed1"):
        copy = tmp_path / "soft-extract" / "mrpc" / run / "record.json"
        copy.parent.mkdir(parents=True)
        copy.write_bytes((source / run / "record.json").read_bytes())
    write_report(tmp_path / "soft-extract", with_figures=False)
    (tmp_path / "README.md").write_text(RESULTS, encoding="utf-8")
    with pytest.raises(UserError, match="not written by this report, and left as it is"):
        write_report(tmp_path, with_figures=False)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == RESULTS


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


def fine_tuned(folder: Path) -> None:
    """A classifier of 12 layers with random weights, in ``my-bert``."""
    small_bert(folder / "my-bert", num_hidden_layers=12)
    config = small_config(num_hidden_layers=12, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    BertForSequenceClassification(config).save_pretrained(folder / "my-bert")


def test_a_fine_tuned_bert_is_compressed_and_served_in_five_lines(tmp_path, monkeypatch, capsys):
    fine_tuned(tmp_path)
    monkeypatch.chdir(tmp_path)
    compressing, serving = examples(FRONT)
    assert len([line for line in compressing.splitlines() if line and "import" not in line]) == 4
    names: dict = {"texts": ["a fine film .", "the plot is dull , not bad", "good actor"] * 8}
    exec(compile(compressing, "README.md", "exec"), names)
    assert re.search(r"^answers +the same for \d+\.\d% of 6 held-out texts", capsys.readouterr().out, re.MULTILINE)
    exec(compile(serving, "README.md", "exec"), {})
    assert re.search(r"'label': '(bad|good)', 'score'", capsys.readouterr().out)
    assert names["model"].config.model_type == "bert"


def test_a_schedule_is_set_and_trained_on_as_described(tmp_path, monkeypatch):
    fine_tuned(tmp_path)
    monkeypatch.chdir(tmp_path)
    (training,) = (one for one in examples(PRUNER) if "Trainer(" in one)
    names: dict = {}
    exec(compile(training, "pruner/README.md", "exec"), names)
    assert {"eval_loss", "epoch"} <= names["trainer"].state.log_history[-2].keys()
    trained = AutoModelForSequenceClassification.from_pretrained("my-bert-pruned")
    assert trained.pruning == names["model"].pruning
    assert trained.pruning.method == "attention"
    weight = names["model"].classifier.weight
    assert torch.equal(trained.classifier.weight, weight)
    before = PrunedBertForSequenceClassification.from_pretrained("my-bert")
    assert not torch.equal(before.classifier.weight, weight)


def test_a_scorer_is_added_as_described(model):
    code, *_ = examples(PRUNER)
    try:
        exec(compile(code, "pruner/README.md", "exec"), {})
        model.set_pruning([0.6, *[0] * 5], methods="middle")
        with torch.no_grad():
            output = model(torch.randint(5, 20, (1, 10)))
    finally:
        SCORERS.pop("middle", None)
    assert output.token_positions[0].tolist() == [0, 3, 4, 5]  # [CLS], and of the others those in the middle


def test_a_method_is_added_as_described(tmp_path, run):
    """It is no token pruning, and is run, recorded and shown as all others are."""
    small_bert(tmp_path / "bert", num_hidden_layers=4)
    write_mrpc(tmp_path / "data")
    assert run("PrepareGlue4Bert", "--tasks", "mrpc")[0] == 0
    families, code = len(FAMILIES), examples(PRUNER)[1]
    try:
        exec(compile(code, "pruner/README.md", "exec"), {})
        code, out, err = run(
            "RunBert4Glue", "--tasks", "mrpc", "--methods", "first-layers", "--epochs", "1", "--latency-repeats", "1"
        )
    finally:
        del FAMILIES[families:]
    assert code == 0, err
    assert re.search(r"\| mrpc \| first-layers \| 2 layers +\|", out)


def test_heads_are_removed_as_described(tmp_path, monkeypatch):
    dense = BertForSequenceClassification(small_config(num_labels=2)).eval()
    dense.save_pretrained(tmp_path / "my-bert")
    monkeypatch.chdir(tmp_path)
    ids = torch.randint(5, 20, (4, 7))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    names: dict = {"batches": [batch | {"labels": torch.tensor([0, 1, 0, 1])}]}
    (code,) = (one for one in examples(PRUNER) if "winning_heads" in one)
    exec(compile(code, "pruner/README.md", "exec"), names)
    loaded = PrunedBertForSequenceClassification.from_pretrained("my-smaller-bert").eval()
    heads = winning_heads(names["scores"].heads, 4)
    assert [layer.attention.self.num_attention_heads for layer in loaded.bert.encoder.layer] == heads.sum(1).tolist()
    with torch.no_grad(), masked(dense, heads=heads):
        assert torch.allclose(loaded(**batch).logits, dense(**batch).logits, atol=1e-5)
