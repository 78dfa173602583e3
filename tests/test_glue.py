"""Reading GLUE's files in all their layouts, and the metrics."""

import os

import numpy as np
import pytest

from pruner.data.rows import LONGEST_LINE, read_lines
from pruner.data.task import TASKS, find_task
from pruner.evaluation.metrics import compute_metrics
from pruner.utils.errors import UserError

# The header of the official files and one row, with the texts and the label that must come out.
LAYOUTS = {
    "cola": ("", "gj04\t0\t*\tWho do you think that will question Seamus first?", -1, 0),
    "sst-2": ("sentence\tlabel", "it 's a charming journey . \t1", 0, 1),
    "mrpc": ("\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", '1\t7\t8\tHe said " no\tShe said', (3, 4), 1),
    "qqp": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "3\t1\t2\tWhy?\tWhy not?\t0", (3, 4), 0),
    "sts-b": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tmain\tMSR\t2012\t1\tnone\tnone\tA plane.\tAn air plane.\t3.800",
        (7, 8),
        3.8,
    ),
    "mnli": (
        "index\tpromptID\tpairID\tgenre\ts1\ts2\tp1\tp2\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\t1\t2\tfiction\tx\tx\tx\tx\tIt is.\tIt is not.\tneutral\tcontradiction",
        (8, 9),
        0,
    ),
    "qnli": ("index\tquestion\tsentence\tlabel", "0\tWho?\tHim.\tnot_entailment", (1, 2), 1),
    "rte": ("index\tsentence1\tsentence2\tlabel", "0\tNone\tIt was none.\tentailment", (1, 2), 0),
    "wnli": ("index\tsentence1\tsentence2\tlabel", "0\tThe trophy.\tIt is big.\t1", (1, 2), 1),
}


def write(folder, name, *lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes("\n".join(lines).encode() + b"\n")


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("ending", ["", "\r"])
def test_every_layout(tmp_path, name, ending):
    header, row, at, label = LAYOUTS[name]
    lines = [line + ending for line in (header, row) if line]
    task = TASKS[name]
    for split in ("train", *task.dev):
        write(tmp_path, f"{split}.tsv", *lines)
        rows = task.read(tmp_path, split)
        cells = row.split("\t")
        assert rows.texts == [tuple(cells[i] for i in ((at,) if isinstance(at, int) else at))]
        assert rows.labels == [label]


@pytest.mark.parametrize("name", LAYOUTS)
def test_test_files_have_no_labels(tmp_path, name):
    task = TASKS[name]
    header = "index\t" + "\t".join(task.text)
    write(tmp_path, f"{task.test[0]}.tsv", header, "0\t" + "\t".join(f"text {i}" for i in range(len(task.text))))
    rows = task.read(tmp_path, task.test[0])
    assert rows.labels is None
    assert rows.texts == [tuple(f"text {i}" for i in range(len(task.text)))]


def test_separators_inside_a_text_do_not_end_the_line(tmp_path):
    write(tmp_path, "train.tsv", "sentence\tlabel", "one\u2028two\x85three\x0cfour\t1", "\t0")
    rows = TASKS["sst-2"].read(tmp_path, "train")
    assert rows.texts == [("one\u2028two\x85three\x0cfour",), ("",)]
    assert rows.labels == [1, 0]


@pytest.mark.parametrize(
    ("name", "content", "line", "complaint"),
    [
        ("sst-2", "sentence\tlabel\nfine\t1\nno label\n", 3, "1 columns instead of 2"),
        ("sst-2", "sentence\tlabel\n\nfine\t1\n", 2, "1 columns instead of 2"),
        ("sst-2", "sentence\tlabel\na\tb\t1\n", 2, "3 columns instead of 2"),
        ("sst-2", "sentence\tlabel\nfine\tgood\n", 2, "unknown label 'good'"),
        ("cola", "gj04\t1\t\n", 1, "3 columns instead of 4"),
        ("sts-b", LAYOUTS["sts-b"][0] + "\n" + LAYOUTS["sts-b"][1].replace("3.800", "nan") + "\n", 2, "unknown label"),
        ("sts-b", LAYOUTS["sts-b"][0] + "\n" + LAYOUTS["sts-b"][1].replace("3.800", "5.1") + "\n", 2, "unknown label"),
        (
            "mnli",
            LAYOUTS["mnli"][0] + "\n" + LAYOUTS["mnli"][1].replace("contradiction", "-") + "\n",
            2,
            "unknown label",
        ),
        ("sst-2", "text\tlabel\nfine\t1\n", 1, "no column 'sentence'"),
        ("sst-2", "sentence\tlabel\tlabel\nfine\t1\t0\n", 1, "two columns are called 'label'; rename one"),
        ("sst-2", "sentence\tlabel\nfine\t1\nsentence\tlabel\n", 3, "the names of the columns once more"),
        ("cola", "source\tlabel\tmark\tsentence\n", 1, "the names of the columns once more"),
        ("sst-2", "sentence\tlabel\n", None, "no rows"),
        ("sst-2", "", None, "no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path, name, content, line, complaint):
    (tmp_path / "train.tsv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as error:
        TASKS[name].read(tmp_path, "train")
    assert complaint in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'train.tsv'}:{line}:" if line else f"{tmp_path / 'train.tsv'}:")


def test_bad_rows_can_be_left_out_and_are_counted(tmp_path):
    write(tmp_path, "train.tsv", "sentence\tlabel", "fine\t1", "broken", "odd\t7", "dull\t0")
    rows = TASKS["sst-2"].read(tmp_path, "train", skip_bad_rows=True)
    assert (rows.texts, rows.labels, rows.skipped) == ([("fine",), ("dull",)], [1, 0], 2)
    write(tmp_path, "train.tsv", "sentence\tlabel", "broken", "odd\t7")
    with pytest.raises(UserError, match="all 2 rows are bad"):
        TASKS["sst-2"].read(tmp_path, "train", skip_bad_rows=True)


def test_qqps_known_broken_rows_are_left_out_but_unknown_labels_are_not(tmp_path):
    header, row, *_ = LAYOUTS["qqp"]
    write(tmp_path, "train.tsv", header, row, "133\t2\t3", row)
    rows = TASKS["qqp"].read(tmp_path, "train")
    assert (len(rows.texts), rows.skipped) == (2, 1)
    write(tmp_path, "train.tsv", header, row.replace("\t0", "\tyes"))
    with pytest.raises(UserError, match="unknown label 'yes'"):
        TASKS["qqp"].read(tmp_path, "train")


def test_not_utf8_names_the_line(tmp_path):
    (tmp_path / "train.tsv").write_bytes(b"sentence\tlabel\nfine\t1\ncaf\xe9\t1\n")
    with pytest.raises(UserError, match=r"train\.tsv:3: not UTF-8"):
        TASKS["sst-2"].read(tmp_path, "train")


def test_lines_are_those_of_the_whole_text(tmp_path):
    """Empty lines count where text follows, byte-order marks only at the start, and \\r only before the end."""
    for text in ("\ufeffa\r\n\n\r\n\ufeffb\rc\n\n\r\n\n", "a", "a\r", "\n\na", "\ufeff", "\n\r\n", ""):
        (tmp_path / "file").write_bytes(text.encode())
        expected = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
        while expected and not expected[-1]:
            expected.pop()
        assert list(read_lines(tmp_path / "file")) == expected


def test_what_is_no_text_names_the_line(tmp_path):
    path = tmp_path / "train.tsv"
    start = b"sentence\tlabel\nfine\t1\n"
    for content, problem in (
        (start + b"fi\0ne\t1\n", "3: a NUL byte"),
        (start + b"x" * (LONGEST_LINE + 1), "3: a line of more than"),
        (start + b"caf\xc3", r"3: not UTF-8 \(byte 0xc3\)"),
        ("sentence\tlabel\n".encode("utf-16"), r"1: not UTF-8 \(byte 0xff\)"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"train\.tsv:{problem}"):
            TASKS["sst-2"].read(tmp_path, "train", skip_bad_rows=True)


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "train.tsv").mkdir()
    with pytest.raises(UserError, match=r"train\.tsv: cannot be read \(Is a directory\)"):
        TASKS["sst-2"].read(tmp_path, "train")
    write(tmp_path, "dev.tsv", "sentence\tlabel", "fine\t1")
    (tmp_path / "dev.tsv").chmod(0)
    if os.access(tmp_path / "dev.tsv", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(UserError, match=r"dev\.tsv: cannot be read \(Permission denied\)"):
        TASKS["sst-2"].read(tmp_path, "dev")


def test_unknown_task():
    assert find_task("SST-2", TASKS).name == "sst-2"
    with pytest.raises(UserError, match="unknown task 'sst2'"):
        find_task("sst2", TASKS)


def test_metrics_by_hand():
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0], [1.0, 0.0]])  # predictions 0 1 1 0
    labels = np.array([0, 1, 0, 0])
    found = compute_metrics(("accuracy", "f1", "mcc"), logits, labels)
    # One true positive, one false positive, two true negatives: f1 = 2/(2+1), mcc = 1*2/sqrt(2*1*3*2).
    assert found == pytest.approx({"accuracy": 0.75, "f1": 2 / 3, "mcc": 2 / np.sqrt(12)})
    scores = compute_metrics(("pearson", "spearman"), np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 3.0, 3.5]))
    assert scores["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], [1, 3, 3.5])[0, 1])
    assert scores["spearman"] == pytest.approx(1.0)
    constant = compute_metrics(("pearson", "spearman"), np.ones((3, 1)), np.array([1.0, 2.0, 3.0]))
    assert constant == {"pearson": 0.0, "spearman": 0.0}


def test_the_real_files_have_the_known_counts(shared):
    counts = {"sst-2": (67349, 872, 1821), "cola": (8551, 1043, 1063), "mrpc": (3667, 408, 1725)}
    for name, expected in counts.items():
        task = TASKS[name]
        folder = shared / "data" / "glue" / task.folder
        assert tuple(len(task.read(folder, split).texts) for split in task.splits) == expected
