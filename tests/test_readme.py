"""The README's promises: its tables are those of the committed records, its commands and files exist."""

import json
import re
import subprocess
import sys

import make_readme
import pytest
from conftest import ROOT, small_bert, small_config
from make_readme import (
    LSTM_TASKS,
    PICTURES,
    PUBLISHED,
    TABLES,
    budget_records,
    lstm_records,
    published,
    rewrite,
    speed,
    survivors,
    tables_in,
)
from transformers import BertForSequenceClassification

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.tokens.select import keep_counts
from pruner.utils.errors import UserError

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_are_made_from_the_committed_records():
    """After other records, ``python tests/make_readme.py`` writes them anew."""
    assert rewrite(README) == README
    assert all(found.count("\n") >= 4 for found in tables_in(README).values())  # a head and two rows


def test_every_marker_has_a_table_and_every_table_a_marker():
    markers = re.findall(r"<!-- (.*?) -->", README)
    assert sorted(markers) == sorted([*TABLES, *["end"] * len(TABLES)])
    assert tables_in(README).keys() == TABLES.keys()


def test_only_what_has_changed_is_written_and_named(tmp_path, monkeypatch, capsys):
    page = tmp_path / "README.md"
    page.write_text(README.replace("| demo | tail ", "| demo | head "), encoding="utf-8")
    monkeypatch.setattr(make_readme, "README", page)
    monkeypatch.setattr(make_readme, "PICTURES", {})
    make_readme.main()
    assert capsys.readouterr().out == "changed: demo\n"
    assert page.read_text(encoding="utf-8") == README
    written = page.stat().st_mtime_ns
    make_readme.main()
    assert capsys.readouterr().out == "nothing has changed\n"
    assert page.stat().st_mtime_ns == written
    with pytest.raises(UserError, match="no table is made for <!-- new -->"):
        rewrite("<!-- new -->\n<!-- end -->\n")


def test_the_tables_script_finds_the_code():
    as_script = f"import sys; sys.path[0] = {str(ROOT / 'tests')!r}; import make_readme"  # but it writes nothing
    subprocess.run([sys.executable, "-c", as_script], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", [name for name in TABLES if name.startswith("speed ")])
def test_the_hardware_of_the_speed_tables_is_named(name):
    environment = speed(name.removeprefix("speed "))["environment"]
    assert f"{environment['cpu']} with {environment['threads']} threads" in README


def test_budgets_are_met():
    records = budget_records()
    assert records["flops.reduction"].tolist() == pytest.approx(records["target_flops_reduction"].tolist(), rel=0.03)


def test_the_text_compares_power_berts_search_with_the_learned_schedules():
    records = budget_records().set_index(["task", "method", "way", "target_flops_reduction", "seed"])["score"]
    learned = [f"{records[task, 'attention', 'learned', 2.0, 1]:.1f}" for task in ("mrpc", "sst-2")]
    assert f"the learned schedules have {' and '.join(learned)}" in README


def test_the_budgets_are_what_the_text_says():
    """Up to 2x: whoever chooses is above chance, late above the first layer, and on SST-2 above one rate for all."""
    mean = budget_records().groupby(["task", "method", "way", "target_flops_reduction"])["lost"].mean()
    for task in ("mrpc", "cola", "sst-2"):
        for method in ("attention", "student"):
            for budget in (1.5, 2.0):
                learned = mean[task, method, "learned", budget]
                assert learned > mean[task, method, "first layer", budget]
                assert learned > mean[task, "random", "learned", budget]
                assert task != "sst-2" or learned > mean[task, method, "uniform", budget]
    best = {
        (task, budget): max(mean[task, method, "learned", budget] for method in ("attention", "student"))
        for task in ("mrpc", "sst-2", "cola")
        for budget in (1.5, 2.0, 3.0)
    }
    assert [round(-best[task, 2.0], 1) for task in ("mrpc", "sst-2", "cola")] == [1.5, 1.9, 4.4]
    assert [round(-best[task, 1.5], 1) for task in ("mrpc", "sst-2", "cola")] == [0.2, 0.5, 1.7]
    assert [round(-best[task, 3.0], 1) for task in ("mrpc", "sst-2", "cola")] == [3.9, 6.3, 14.0]
    assert [round(-mean[task, "random", "learned", 2.0]) for task in ("mrpc", "sst-2", "cola")] == [9, 8, 14]
    first = [-mean[task, method, "first layer", 2.0] for task, _ in best for method in ("attention", "student")]
    assert 3 < min(first) < max(first) < 15.5


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
    records = records[records["target_prune_rate"] == 0.9]
    means = records.groupby(["task", "method"])["score"].mean()
    for task in LSTM_TASKS:
        assert means[task, "student"] > max(means[task, "random"], means[task, "head"]), task
    student = records[(records["task"] == "agnews") & (records["method"] == "student")]
    assert (student["latency.speedup"] > 4).all()
    assert (student["latency.batch_size"] == 256).all()


def test_committed_records_name_no_place_of_the_machine_they_were_made_on():
    for path in PUBLISHED.rglob("*"):
        if path.is_file() and "figures" not in path.parts:
            assert not re.search(r"/(work|home|root|tmp|Users)/", path.read_text(encoding="utf-8")), path


def test_two_commands_come_first():
    head = README[: README.index("\n## ")]
    assert "pip install -r requirements.txt && python RunBert4Glue.py --demo" in head
    assert "pip install -r requirements.txt && python -m pytest" in head


def test_every_flag_the_readme_names_exists():
    scripts = {path.name for path in ROOT.glob("*.py")} - {"ModifiedModelingBert.py"}
    assert len(scripts) == 7
    modules = {f"-m {name}" for name in re.findall(r"python -m (pruner\.\w+)", README)}
    assert len(modules) == 3
    for script in scripts | modules:
        command = [sys.executable, *script.split(), "--help"]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        for command in re.findall(rf"python {script}([^`&\n]*)", README):
            for flag in re.findall(r"--[a-z_-]+", command):
                assert flag in shown.stdout, (script, flag)


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
    assert 'all but "charming"' in README
    (row,) = (row for row in tables_in(README)["at a glance"].splitlines() if re.match(r"\| sst-2 \| student", row))
    assert "(-2.1)" in row.split("|")[6]
    assert "[2.1 points](#results)" in README
    assert record["examples"][0]["sentence"] == " ".join(shown.words)
    assert record["examples"][0]["kept"] == "[CLS] ... charming ..."


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_are_drawn_from_the_committed_records(name):
    assert f"]({name})" in README
    matplotlib = pytest.importorskip("matplotlib")
    if f"matplotlib=={matplotlib.__version__} " not in (ROOT / "requirements.txt").read_text(encoding="utf-8"):
        pytest.skip("another matplotlib draws the same in other bytes")
    assert (ROOT / name).read_bytes() == PICTURES[name]()


def test_links_lead_somewhere():
    headings = re.findall(r"^#+ (.*)$", README, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_the_hardware_of_the_lstms_times_is_named():
    for cpu, threads in lstm_records().groupby(["environment.cpu", "environment.threads"]).groups:
        assert f"{cpu} with {threads} thread," in README


def test_a_fine_tuned_bert_is_pruned_and_served_in_under_ten_lines(tmp_path, monkeypatch, capsys):
    small_bert(tmp_path / "my-bert", num_hidden_layers=12)
    config = small_config(num_hidden_layers=12, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    BertForSequenceClassification(config).save_pretrained(tmp_path / "my-bert")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(code.splitlines()) < 10
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert re.search(r"'label': '(bad|good)', 'score'", capsys.readouterr().out)
    assert names["model"].pruning.method == "attention"
    names["model"].save_pretrained("pruned")
    loaded = PrunedBertForSequenceClassification.from_pretrained("pruned")
    assert loaded.pruning == names["model"].pruning
