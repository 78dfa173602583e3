"""The README's first command: what the sample task shows."""

import json
import re
import subprocess
import sys
from itertools import pairwise

import pytest
from conftest import ROOT

from pruner.data.sample import SAMPLE, SIGNAL_WORDS, TOPICS, make_sentences

README = ROOT / "README.md"
WORDS = {word for words in TOPICS.values() for word in words}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """``--demo`` in an empty folder: its output, as a file would have it, and its records by method."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, str(ROOT / "RunBert4Glue.py"), "--demo"]
    result = subprocess.run(command, check=False, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = result.stdout.decode()
    assert result.returncode == 0, output
    command += ["--methods", "student", "--teacher", "gradient"]  # beside the default, the student of emission
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    paths = (folder / "records" / "BERT" / "demo").glob("*/record.json")
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return output, {(record["method"], record.get("teacher")): record for record in found}


def accuracy(demo, method, teacher=None):
    return demo[1][method, teacher]["metrics"]["accuracy"]


def test_students_and_teachers_keep_the_accuracy_that_controls_lose(demo):
    baseline = accuracy(demo, "baseline")
    assert baseline > 0.97
    for method in (("student", "emission"), ("student", "gradient"), ("emission", None), ("gradient", None)):
        assert accuracy(demo, *method) > baseline - 0.02, method
    for method in ("random", "head", "tail"):
        assert accuracy(demo, method) < baseline - 0.25, method


def test_a_student_orders_tokens_like_its_teacher(demo):
    assert demo[1]["student", "emission"]["student_rank_correlation"] > 0.6


def test_the_words_that_survive_are_shown(demo):
    record = demo[1]["student", "emission"]
    assert len(record["examples"]) == 3
    for example in record["examples"]:
        signal = [word for word in example["sentence"].split() if word in WORDS]
        kept = example["kept"].split()
        assert len(signal) == SIGNAL_WORDS
        assert any(word in kept for word in signal)
        assert len([word for word in kept if word != "..."]) < len(example["sentence"].split()) / 3
    assert record["examples"][0]["kept"] in demo[0]


def test_a_file_gets_plain_lines(demo):
    assert "\r" not in demo[0]
    assert "it/s" not in demo[0]
    assert len(demo[0].encode()) < 10_000
    # Where a training takes more than a minute, its losses are in several lines.
    trainings = re.findall(r"^stage \S+: training, 4 epochs\n((?:loss .* of 4\n)+)", demo[0], re.MULTILINE)
    assert len(trainings) == 10
    for told in trainings:
        assert re.findall(r"\d\.\d{4} in epoch (\d)", told) == ["1", "2", "3", "4"]
    left = re.findall(r"^\[\d+/10, about (.*) left\]", demo[0], re.MULTILINE)
    assert len(left) == 9
    assert all(re.fullmatch(r"[1-9]\d* (s|min)", told) for told in left)


def test_tokens_leave_in_each_layer(demo):
    record = demo[1]["student", "emission"]
    shares = record["tokens"]["kept_by_layer"]
    assert len(shares) == 3
    assert all(after < 0.8 * before for before, after in pairwise([1, *shares]))


def test_the_readme_names_a_run_of_the_demo(demo):
    (named,) = re.findall(r"python -m pruner.survivors records/BERT/demo/(\S+)`", README.read_text(encoding="utf-8"))
    assert f"-> records/BERT/demo/{named}\n" in demo[0]
    assert (README.parent / "records" / "published" / "BERT" / "demo" / named / "record.json").is_file()


def test_pruning_saves_work(demo):
    for method in (("student", "emission"), ("random", None)):
        record = demo[1][method]
        assert record["tokens"]["effective_rate"] > 0.7
        assert record["flops"]["reduction"] > 3
        assert record["latency"]["speedup"] > 0
    assert demo[1]["gradient", None]["flops"]["reduction"] < 1  # a teacher is counted with all it needs


def test_a_ticket_is_half_a_model(demo):
    record = demo[1]["winning-ticket", None]
    assert sum(map(len, record["kept"]["heads"])) == 6
    assert sorted(record["kept"]["neurons"]) == [0, 256, 256]
    assert record["flops"]["reduction"] > 1.4
    assert record["metrics"]["accuracy"] > accuracy(demo, "baseline") - 0.1


def test_it_ends_with_a_table(demo):
    assert re.search(r"\| demo \| student of emission +\| 0\.8,0\.4,0\.4 ", demo[0])


@pytest.fixture(scope="module")
def lstm_demo(tmp_path_factory):
    """The LSTM's ``--demo`` of both scripts in an empty folder: their output and the records by method."""
    folder, outputs = tmp_path_factory.mktemp("demo"), []
    for script in ("RunLstm4Glue", "RunLstm4Agnews"):
        command = [sys.executable, str(ROOT / f"{script}.py"), "--demo"]
        result = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, encoding="utf-8")
        assert result.returncode == 0, result.stderr
        outputs.append(result.stdout)
    paths = (folder / "records" / "LSTM" / "demo").glob("*/record.json")
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return outputs, {record["method"]: record for record in found}


def test_its_cache_may_lie_elsewhere(run):
    code, out, err = run("RunBert4Glue", "--demo", "--cache", "elsewhere", "--dry-run")
    assert code == 0, err
    assert "elsewhere/stages/" in out
    code, _, err = run("RunBert4Glue", "--demo", "--cache", "elsewhere", "--bert", "nowhere", "--dry-run")
    assert code == 2
    assert "nowhere" in err


@pytest.mark.slow
def test_an_lstm_finds_the_words_too(lstm_demo):
    scores = {method: record["metrics"]["accuracy"] for method, record in lstm_demo[1].items()}
    assert scores["baseline"] > 0.97
    for method in ("student", "gate"):
        assert scores[method] > scores["baseline"] - 0.1, method
    for method in ("random", "head", "tail", "frequency"):
        assert scores[method] < scores["baseline"] - 0.25, method
    student = lstm_demo[1]["student"]
    assert student["tokens"]["effective_rate"] > 0.85
    assert student["flops"]["reduction"] > 5
    assert lstm_demo[1]["gate"]["flops"]["reduction"] < 1


@pytest.mark.slow
def test_both_lstm_scripts_have_the_same_demo(lstm_demo):
    first, second = lstm_demo[0]
    assert "7 cells, 7 of them finished already" in second
    assert first.splitlines()[-9:] == second.splitlines()[-9:]


def test_sentences_are_seeded_and_their_topics_in_them():
    rows = make_sentences(50, seed=1)
    assert rows == make_sentences(50, seed=1)
    assert rows.texts != make_sentences(50, seed=2).texts
    for (text,), label in zip(rows.texts, rows.labels, strict=True):
        topic = TOPICS[SAMPLE.labels[label]]
        assert [word in topic for word in text.split() if word in WORDS] == [True] * SIGNAL_WORDS
        assert 12 <= len(text.split()) <= 60
