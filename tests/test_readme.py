"""The README's promises: its tables are those of the committed records, its commands and files exist."""

import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT, small_bert

from pruner.records import markdown, summary

README = (ROOT / "README.md").read_text(encoding="utf-8")
PUBLISHED = ROOT / "records" / "published" / "BERT"


def published(*tasks):
    """The records of these tasks, in the order in which a run prints them."""
    order = ["baseline", "student", "emission", "gradient", "random", "head", "tail", "frequency"]
    found = [json.loads(p.read_text("utf-8")) for task in tasks for p in (PUBLISHED / task).glob("*/record.json")]
    return sorted(found, key=lambda r: (tasks.index(r["task"]), order.index(r["method"]), r["seed"]))


@pytest.mark.parametrize("tasks", [("demo",), ("mrpc", "sst-2"), ("cola",)])
def test_tables_are_made_from_the_committed_records(tasks):
    records = published(*tasks)
    assert len(records) >= 3
    assert markdown(summary(records)) in README


def test_committed_records_name_no_place_of_the_machine_they_were_made_on():
    for path in PUBLISHED.rglob("*"):
        if path.is_file():
            assert not re.search(r"/(work|home|root|tmp|Users)/", path.read_text(encoding="utf-8")), path


def test_two_commands_come_first():
    head = README[: README.index("\n## ")]
    assert "pip install -r requirements.txt && python RunBert4Glue.py --demo" in head
    assert "pip install -r requirements.txt && python -m pytest" in head


def test_every_flag_the_readme_names_exists():
    for script in ("RunBert4Glue.py", "PrepareGlue4Bert.py", "ConvertBert4Torch.py"):
        shown = subprocess.run(
            [sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True, check=True
        )
        for command in re.findall(rf"python {script}(.*)", README):
            for flag in re.findall(r"--[a-z_-]+", command):
                assert flag in shown.stdout, (script, flag)


def test_requirements_are_pinned_exactly():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"[A-Za-z_-]+==[\w.]+( |$)", line) for line in lines if line and not line.startswith("#"))


def test_the_picture_is_from_a_record():
    student = next(record for record in published("demo") if record["method"] == "student")
    example = student["examples"][1]
    assert example["sentence"] in README.replace("\n", " ")
    assert example["kept"] in README.replace("\n", " ")


def test_the_hardware_is_named():
    for record in published("mrpc"):
        assert record["environment"]["cpu"] in README
        assert f"{record['environment']['threads']} threads" in README


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    small_bert(tmp_path / "bert", num_hidden_layers=12)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert "tensor" in capsys.readouterr().out
