"""A user's own table: from one TSV and two names of columns to records."""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as arrow
import pyarrow.parquet
import pytest
from conftest import small_bert, write_mrpc
from safetensors import safe_open
from safetensors.numpy import save
from test_bad_input import cut, folder, nothing, write
from test_run import QUICK, SCHEDULE, records
from test_run_lstm import SIZES
from transformers import BertForSequenceClassification

from pruner.data import sample
from pruner.data.cache import read_cache, write_cache
from pruner.data.custom import find_custom_tasks, hold_out, in_order, read_custom_task, read_table
from pruner.data.encode import encode_words
from pruner.data.rows import Rows
from pruner.data.tokenizer import load_tokenizer
from pruner.data.vocabulary import Vocabulary, read_vocabulary, write_words
from pruner.utils.errors import UserError

OWN = ("--tsv", "reviews.tsv", "--text", "review", "--label", "stars")
TEXTS = ("the film was good", "the plot is not dull", "bad actor , bad film")
WORDS = Vocabulary(tuple("the film was good plot is not dull bad actor".split()))


def write_reviews(root: Path, rows: int = 25, name: str = "reviews.tsv") -> Path:
    """Reviews of three classes, 2, 9 and 10 stars, and columns that nobody asks for."""
    lines = ["id\treview\tstars\tsource"]
    lines += [f"{row}\t{TEXTS[row % 3]} {'. ' * (row % 4)}\t{(9, 10, 2)[row % 3]}\tweb" for row in range(rows)]
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / name


@pytest.fixture
def root(tmp_path):
    """A table and a BERT."""
    write_reviews(tmp_path)
    small_bert(tmp_path / "bert")
    return tmp_path


def flags(tsv, **more):
    given = {"text": ["review"], "label": "stars", "name": None, "dev_tsv": None, "test_tsv": None}
    given |= dict.fromkeys(("table", "dev_table", "test_table"))
    return argparse.Namespace(tsv=tsv and str(tsv), **(given | {"skip_bad_rows": False} | more))


def load(root, task="reviews"):
    return read_cache(root / "cache" / "bert", task, "bert", load_tokenizer(root / "bert", 128).fingerprint, "")


def decode(root, split):
    tokenizer = load_tokenizer(root / "bert", 128).tokenizer
    return [" ".join(tokenizer.id_to_token(int(i)) for i in split.sentence(row)) for row in range(len(split))]


def header(path):
    with safe_open(path, framework="numpy") as file:
        return file.metadata()


def test_a_table_becomes_a_cache(run, root):
    code, out, err = run("PrepareGlue4Bert", *OWN)
    assert (code, err) == (0, "")
    assert "reviews: 3 classes in column 'stars': 2, 9, 10\n" in out
    assert "reviews: 2 of 25 rows, of each class its share, held out to evaluate on; --dev-table names others\n" in out
    assert out.splitlines()[-1] == "next: python RunBert4Glue.py --tasks reviews"
    cache = load(root)
    assert (cache.labels, cache.max_length) == (("2", "9", "10"), 128)
    assert {name: len(split) for name, split in cache.splits.items()} == {"train": 23, "dev": 2}
    held = sorted(set(range(25)) - set(trained(root)))
    assert len(held) == 2
    for split, rows in (("train", trained(root)), ("dev", held)):
        expected = [f"[CLS] {TEXTS[row % 3]} {'. ' * (row % 4)}[SEP]" for row in rows]
        assert decode(root, cache.splits[split]) == expected
        assert cache.splits[split].labels.tolist() == [(1, 2, 0)[row % 3] for row in rows]
    assert cache.counts.sum() == len(cache.splits["train"].tokens)  # of what is trained on alone
    assert [path.name for path in (root / "cache").rglob("*.*")] == ["reviews.safetensors"]


def trained(root):
    """The numbers of the rows that are not held out."""
    rows = Rows([(str(row),) for row in range(25)], [(1, 2, 0)[row % 3] for row in range(25)])
    return [int(text) for (text,) in hold_out(rows, root)["train"].texts]


@pytest.mark.parametrize(("rows", "held"), [(10, 1), (19, 1), (20, 2), (500, 50)])
def test_a_tenth_is_held_out_and_always_the_same(rows, held):
    table = Rows([(f"text {row}",) for row in range(rows)], [row % 7 for row in range(rows)], skipped=3)
    first, second = hold_out(table, Path("x")), hold_out(table, Path("x"))
    assert first == second
    assert (len(first["train"].texts), len(first["dev"].texts)) == (rows - held, held)
    assert (first["train"].skipped, first["dev"].skipped) == (3, 0)
    pairs = [pair for split in first.values() for pair in zip(split.texts, split.labels, strict=True)]
    assert sorted(pairs) == sorted(zip(table.texts, table.labels, strict=True))
    for split in first.values():  # in the order of the file
        numbers = [int(text.split()[1]) for (text,) in split.texts]
        assert numbers == sorted(numbers)
    if rows == 500:  # from everywhere
        assert min(numbers) < 50 < 450 < max(numbers)


@pytest.mark.parametrize("sizes", [(900, 90, 10), (50, 50), (500, 1, 1), (1, 19)])
def test_every_class_is_held_out_in_its_share(sizes):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    dev = hold_out(Rows([("text",)] * len(labels), labels), Path("x"))["dev"].labels
    assert len(dev) == len(labels) // 10
    for label, size in enumerate(sizes):
        assert abs(dev.count(label) - size / 10) <= 1
        assert size > 1 or label not in dev  # it is needed for training


STRANGE = ["007", "NA", "None", "null", 'say "hi"', "a,b", "a\tb", "first\nsecond", "é 日本", "1.0", "True", " x "]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "dataset"])
def test_a_table_is_its_rows_whatever_it_is_written_in(tmp_path, kind):
    """What a TSV can hold is the same there too."""
    texts = [f"{text} {row}" for row, text in enumerate(STRANGE * 3)]
    frame = pd.DataFrame({"review": texts, "stars": [("a", "b")[row % 2] for row in range(len(texts))]})
    path = tmp_path / f"reviews.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False, encoding="utf-8-sig")
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        features = datasets.Features(
            {"review": datasets.Value("string"), "stars": datasets.ClassLabel(names=["b", "a"])}
        )
        datasets.Dataset.from_pandas(frame, features=features).save_to_disk(path)
    task, rows = read_table(flags(None, table=str(path), name="own"))
    assert task.labels == ("a", "b")
    found = [pair for split in rows.values() for pair in zip(split.texts, split.labels, strict=True)]
    assert sorted(found) == sorted(((text,), row % 2) for row, text in enumerate(texts))
    plain = [text for text in texts if not set("\t\n") & set(text)]
    (tmp_path / "plain.tsv").write_text("\n".join(["review\tstars", *(f"{text}\ta" for text in plain)]), "utf-8")
    with (tmp_path / "plain.tsv").open("a", encoding="utf-8") as file:
        file.write("\nlast\tb\nlast\tb\n")
    of_tsv = read_table(flags(None, table=str(tmp_path / "plain.tsv"), name="own"))[1]
    assert {*plain, "last"} == {text for split in of_tsv.values() for (text,) in split.texts}


def test_the_same_rows_give_the_same_task(tmp_path):
    frame = pd.DataFrame({"review": [f"good {row}" for row in range(30)], "stars": [row % 3 for row in range(30)]})
    frame.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "t.parquet")
    tasks = [read_table(flags(None, table=str(tmp_path / f"t.{kind}"))) for kind in ("tsv", "csv", "jsonl", "parquet")]
    assert all(task == tasks[0] for task in tasks)
    assert read_table(flags(tmp_path / "t.tsv")) == tasks[0]


@pytest.mark.parametrize("rows", ['"say ""hi"""\ta', '"one\ntwo"\ta', '"a\tb"\ta', 'good\t"a"'])
def test_a_tsv_that_is_quoted_as_csv_is_refused(tmp_path, rows):
    path = tmp_path / "t.tsv"
    path.write_text(f"review\tstars\ngood\tb\n{rows}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"t.tsv:3: quoted as CSV has it; write the table as .csv"):
        read_table(flags(path, skip_bad_rows=True))


@pytest.mark.parametrize("rest", ["two", "", "\nthree"])
def test_a_quoted_text_of_several_lines_in_the_last_column_is_refused(tmp_path, rest):
    """Its first line has the right width: only the next one tells."""
    path = tmp_path / "t.tsv"
    path.write_text("stars\treview\n" + f'a\tgood\nb\t"one\n{rest}"\n' * 10, encoding="utf-8")
    with pytest.raises(UserError, match=r"t.tsv:3: quoted as CSV has it; write the table as .csv"):
        read_table(flags(path, skip_bad_rows=True))


@pytest.mark.parametrize("text", ['a "good" film', '"good" and "bad"', '"cut off', "it's", '"', '"""'])
def test_quotes_of_a_plain_tsv_are_text(tmp_path, text):
    path = tmp_path / "t.tsv"
    path.write_text("review\tstars\n" + f"{text}\ta\n{text}\tb\n" * 10, encoding="utf-8")
    assert read_table(flags(path))[1]["train"].texts[0] == (text,)


ALIKE = [("0", "0.0"), ("1", "01"), ("0", "-0"), ("1e3", "1000"), ("good", "Good"), ("A", "\uff21"), ("a b", "A  b")]


@pytest.mark.parametrize("pair", ALIKE)
def test_one_class_in_two_ways_is_refused(tmp_path, pair):
    path = tmp_path / "t.tsv"
    path.write_text("review\tstars\n" + "".join(f"x\t{label}\n" for label in (*pair, "c")) * 9, encoding="utf-8")
    with pytest.raises(UserError, match="are one class written in two ways"):
        read_table(flags(path))


def test_long_numbers_are_told_apart(tmp_path):
    """As floats these are the same."""
    path, ids = tmp_path / "t.tsv", ("9007199254740992", "9007199254740993")
    path.write_text("review\tstars\n" + "".join(f"x\t{label}\n" for label in ids) * 9, encoding="utf-8")
    assert read_table(flags(path))[0].labels == ids


def test_white_space_around_a_label_is_no_part_of_it(tmp_path):
    path, dev = tmp_path / "t.tsv", tmp_path / "dev.tsv"
    path.write_text("review\tstars\n" + "x\t0\ny\t0 \nz\t 1\n" * 5, encoding="utf-8")
    dev.write_text("review\tstars\nx\t 0 \n", encoding="utf-8")
    task, rows = read_table(flags(path, dev_tsv=str(dev)))
    assert task.labels == ("0", "1")
    assert rows["dev"].labels == [0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.xlsx", "x", r"t.xlsx is none of .tsv, .csv, .jsonl, .parquet, by its name"),
        ("t.csv", 'a,"b\n', r"t.csv:1: not a row of CSV"),
        ("t.csv", "review,stars\na,b,c\n", r"t.csv:2: 3 columns instead of 2; mend the row"),
        ("t.csv", "text,stars\na,b\n", r"t.csv:2: no column 'review'; it has text, stars"),
        ("t.csv", "review,stars\ngood\n", r"t.csv:2: 1 columns instead of 2"),
        ("t.jsonl", "{\n", r"t.jsonl:1: not JSON"),
        ("t.jsonl", "[1]\n", r"t.jsonl:1: not an object"),
        ("t.jsonl", '"good"\n', r"t.jsonl:1: not an object"),
        ("t.jsonl", '{"review": null, "stars": 1}\n', r"t.jsonl:1: no text"),
        ("t.jsonl", '{"review": NaN, "stars": 1}\n', r"t.jsonl:1: no text"),
        ("t.jsonl", '{"review": "good", "stars": " "}\n', r"t.jsonl:1: no label"),
        ("t.jsonl", '{"review": ["good"], "stars": 1}\n', r"t.jsonl:1: a text of type list.*--skip-bad-rows"),
        ("t.jsonl", '{"review": "good", "stars": {"of": 5}}\n', r"t.jsonl:1: a label of type dict"),
        ("t.jsonl", '{"review": "a\\u0000", "stars": 1}\n', r"t.jsonl:1: a text with a NUL or half"),
        ("t.jsonl", '{"review": "a\\ud800", "stars": 1}\n', r"t.jsonl:1: a text with a NUL or half"),
        ("t.parquet", "PAR1", r"t.parquet: not Parquet"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, name, content, said):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        read_table(flags(None, table=str(tmp_path / name)))


def write_table(path, columns, *rows):
    """A table in the form that its name says, Parquet's columns by their numbers, since names may come twice."""
    if path.suffix == ".jsonl":
        pairs = (", ".join(f'"{name}": "{cell}"' for name, cell in zip(columns, row, strict=True)) for row in rows)
        path.write_text("".join(f"{{{line}}}\n" for line in pairs), encoding="utf-8")
    elif path.suffix == ".parquet":
        arrow.parquet.write_table(arrow.Table.from_arrays([arrow.array(c) for c in zip(*rows)], columns), path)  # noqa: B905
    else:
        lines = ((",", "\t")[path.suffix == ".tsv"].join(row) for row in (columns, *rows))
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


KINDS = pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parquet"])


@KINDS
@pytest.mark.parametrize("skip", [False, True])
def test_two_columns_of_one_name_are_refused_where_one_is_used(tmp_path, kind, skip):
    path = tmp_path / f"t.{kind}"
    for columns in (["review", "review", "stars"], ["review", "stars", "stars"]):
        write_table(path, columns, *[("good", "bad", "1"), ("bad", "good", "2")] * 10)
        with pytest.raises(UserError, match=rf"t.{kind}:.*two columns are called '{columns[1]}'; rename one of them"):
            read_table(flags(None, table=str(path), skip_bad_rows=skip))
    if kind == "parquet":  # pandas reads no such file
        return
    write_table(path, ["review", "x", "x", "stars"], *[("good", "?", "!", "1"), ("bad", "!", "?", "2")] * 10)
    assert read_table(flags(None, table=str(path)))[0].labels == ("1", "2")


@KINDS
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_header_inside_a_table_is_a_bad_row(tmp_path, kind, mark):
    """As of files that were joined; it would be one more class."""
    path, rows = tmp_path / f"t.{kind}", [("good", "1"), ("stars", "2"), ("review", "1")] * 10
    write_table(path, ["review", "stars"], *rows, (f"{mark}review", "stars"), *rows)
    place = {"tsv": ":32", "csv": ":32", "jsonl": ":31", "parquet": ": row 31"}[kind]
    with pytest.raises(UserError, match=rf"t.{kind}{place}: the names of the columns once more, .*--skip-bad-rows"):
        read_table(flags(None, table=str(path)))
    task, splits = read_table(flags(None, table=str(path), skip_bad_rows=True))
    assert (task.labels, splits["train"].skipped) == (("1", "2"), 1)
    assert sum(len(split.texts) for split in splits.values()) == 60


def test_a_line_of_json_that_lacks_a_column_is_a_bad_row(tmp_path):
    path = tmp_path / "t.jsonl"
    good = ['{"review": "good", "stars": 1}', '{"stars": 2, "review": "bad"}'] * 10
    bad = ['{"review": "good"}', "{}", '{"review": "x", "stars": 1, "review": "y"}']
    path.write_text("\n".join([*bad[:1], *good, *bad[1:]]), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"t.jsonl:1: no column 'stars'; it has review; name them with.*--skip-bad-rows"
    ):
        read_table(flags(None, table=str(path)))
    splits = read_table(flags(None, table=str(path), skip_bad_rows=True))[1]
    assert (sum(len(split.texts) for split in splits.values()), splits["train"].skipped) == (20, 3)
    own = tmp_path / "own.jsonl"
    own.write_text("\n".join(good), encoding="utf-8")
    test = read_table(flags(None, table=str(own), test_table=str(path), skip_bad_rows=True))[1]["test"]
    assert (len(test.texts), test.skipped) == (23, 2)  # no labels are asked for, and every row needs an answer
    assert test.texts[-3:] == [("bad",), ("",), ("",)]
    path.write_text("\n".join(bad), encoding="utf-8")
    with pytest.raises(UserError, match=r"all 3 rows are bad, the first at .*t.jsonl:1: no column 'stars'"):
        read_table(flags(None, table=str(path), skip_bad_rows=True))


@pytest.mark.parametrize("cell", [["a", "b"], b"a", {"of": "a"}])
def test_cells_of_parquet_that_are_no_text(tmp_path, cell):
    pd.DataFrame({"review": [cell], "stars": [1]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t.parquet: row 1: a text of type .*--skip-bad-rows"):
        read_table(flags(None, table=str(tmp_path / "t.parquet")))


def test_packages_that_a_table_needs_are_named(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"")
    (tmp_path / "saved").mkdir()

    def fail(*args, **kwargs):
        raise ImportError

    monkeypatch.setattr(pd, "read_parquet", fail)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name, package in (("t.parquet", "pyarrow"), ("saved", "datasets")):
        with pytest.raises(UserError, match=f"not installed; pip install {package}"):
            read_table(flags(None, table=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["10", "9", "-1", "2.5"], ["-1", "2.5", "9", "10"]),
        (["1.0", "1", "0"], ["0", "1", "1.0"]),
        (["pos", "neg", "Neutral"], ["Neutral", "neg", "pos"]),
        (["10", "9", "none"], ["10", "9", "none"]),
        (["nan", "10", "9"], ["10", "9", "nan"]),
    ],
)
def test_labels_are_sorted_as_numbers_if_all_are(labels, expected):
    assert in_order(labels) == expected


def test_the_rules_of_reading_are_those_of_official_files(run, root):
    rows = ['a "film\twas\u2028good\tyes', "too\tmany\tyes\tcolumns", "the\tfilm\t ", "the film\tis bad\tno"]
    content = "\ufefffirst\tsecond\tanswer\r\n" + "\r\n".join(rows) + "\r\n\r\n"
    (root / "Pairs.TSV").write_bytes(content.encode())
    asked = ("--tsv", "Pairs.TSV", "--text", "second, first", "--label", "answer", "--dev-tsv", "Pairs.TSV")
    code, _, err = run("PrepareGlue4Bert", *asked)
    assert (code, err[:48]) == (2, "error: Pairs.TSV:3: 4 columns instead of 3; mend")
    code, out, err = run("PrepareGlue4Bert", *asked, "--skip-bad-rows")
    assert (code, err) == (0, "")
    assert out.count("(2 bad rows left out)") == 2  # the other one has no label
    cache = load(root, "pairs")  # in lower case, as tasks are looked for
    assert cache.labels == ("no", "yes")
    first, second = decode(root, cache.splits["train"])
    assert first == '[CLS] was good [SEP] a " film [SEP]'
    assert second == "[CLS] is bad [SEP] the film [SEP]"
    assert cache.splits["dev"].labels.tolist() == [1, 0]
    assert "held out" not in out


def test_both_prepare_scripts_hold_out_the_same_rows(run, root):
    assert run("PrepareGlue4Bert", *OWN)[0] == 0
    code, out, err = run("PrepareGlue4Lstm", *OWN)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "next: python RunLstm4Glue.py --tasks reviews"
    vocabulary = read_vocabulary(root / "cache" / "lstm", "reviews", "")
    words = read_cache(root / "cache" / "lstm", "reviews", "lstm", vocabulary.fingerprint, "")
    pieces = load(root)
    for name, split in words.splits.items():
        sentences = [" ".join(vocabulary.word(int(i)) for i in split.sentence(row)) for row in range(len(split))]
        expected = [text.replace("[CLS] ", "").replace(" [SEP]", "") for text in decode(root, pieces.splits[name])]
        assert sentences == [" ".join(text.replace(".", "").replace(",", "").split()) for text in expected]
        assert split.labels.tolist() == pieces.splits[name].labels.tolist()
    paths = [root / "cache" / kind / "reviews.safetensors" for kind in ("bert", "lstm")]
    assert header(paths[0])["own"] == header(paths[1])["own"]


def test_the_next_command_names_what_both_scripts_need(run, root):
    (root / "bert").rename(root / "my bert")
    more = ("--bert", "my bert", "--cache", "elsewhere", "--name", "Opinions-2.0")
    code, out, err = run("PrepareGlue4Bert", *OWN, *more)
    assert code == 0, err
    assert out.splitlines()[-1] == (
        "next: python RunBert4Glue.py --tasks opinions-2.0 --bert 'my bert' --cache elsewhere"
    )
    assert (root / "elsewhere" / "opinions-2.0.safetensors").is_file()
    table = out.splitlines()[-5:-2]  # the columns stand below each other though the name is long
    assert len({len(line) for line in table}) == 1
    assert [line.split()[0] for line in table] == ["task", "opinions-2.0", "opinions-2.0"]


def test_a_run_of_bert_from_a_table(run, root):
    write_mrpc(root / "data")
    write_reviews(root, 13, "dev.tsv")
    (root / "test.tsv").write_text("review\nthe film\n\ngood\n", encoding="utf-8")  # one without a word
    assert run("PrepareGlue4Bert", "--tasks", "mrpc")[0] == 0
    code, out, err = run("PrepareGlue4Bert", *OWN, "--dev-tsv", "dev.tsv", "--test-tsv", "test.tsv")
    assert code == 0, err
    assert [line.split()[:3] for line in out.splitlines() if line.startswith("reviews ")][1:] == (
        [["reviews", "train", "25"], ["reviews", "dev", "13"], ["reviews", "test", "3"]]
    )
    options = (*QUICK, *SCHEDULE, "--methods", "student")
    more = ("--tasks", "Reviews", "--predict-test", "--save-models", "models")
    code, _, err = run("RunBert4Glue", *options, *more)
    assert code == 0, err
    found = records(root / "records" / "BERT" / "reviews")
    assert list(found) == ["baseline_seed1", "student-emission_0.6-0-0.3-0x3_seed1"]
    for name, record in found.items():
        assert record["task"] == "reviews"
        assert set(record["metrics"]) == {"accuracy", "macro_f1"}
        assert record["metrics"]["accuracy"] * 13 == pytest.approx(round(record["metrics"]["accuracy"] * 13), abs=1e-4)
        lines = (root / "records" / "BERT" / "reviews" / name / "reviews.tsv").read_text("utf-8").splitlines()
        assert [line.split("\t")[0] for line in lines] == ["index", "0", "1", "2"]
        assert {line.split("\t")[1] for line in lines[1:]} <= {"2", "9", "10"}
    model = BertForSequenceClassification.from_pretrained(root / "models" / "reviews" / "baseline_seed1")
    assert model.config.id2label == {0: "2", 1: "9", 2: "10"}

    # Without --tasks it comes after the built-in ones, and is finished already.
    code, out, err = run("RunBert4Glue", *options)
    assert code == 0, err
    assert "4 cells, 2 of them finished already" in out
    assert "skipped rte: not prepared" in out
    rows = [line.split()[1] for line in out.splitlines() if line.startswith("| ") and "student" in line]
    assert rows == ["mrpc", "reviews"]

    # Other rows under the same name are other data, as many as they may be.
    table = (root / "reviews.tsv").read_text(encoding="utf-8")
    (root / "reviews.tsv").write_text(table.replace("good", "fine", 1), encoding="utf-8")
    assert run("PrepareGlue4Bert", *OWN, "--dev-tsv", "dev.tsv")[0] == 0
    code, _, err = run("RunBert4Glue", *options, "--tasks", "reviews")
    assert code == 2
    assert err.startswith("error: records/BERT/reviews/baseline_seed1: finished with data = ")


def test_a_run_of_an_lstm_from_a_table(run, root):
    with (root / "reviews.tsv").open("a", encoding="utf-8") as file:
        file.write("25\t...\t9\tweb\n" * 5)  # no words at all
    assert run("PrepareGlue4Lstm", *OWN)[0] == 0
    options = ("--epochs", "1", "--latency-repeats", "1", "--methods", "student", *SIZES)
    code, _, err = run("RunLstm4Glue", *options, "--tasks", "reviews")
    assert code == 0, err
    found = records(root / "records" / "LSTM" / "reviews")
    assert list(found) == ["baseline_seed1", "student-gate_0.9_seed1"]
    for record in found.values():
        assert set(record["metrics"]) == {"accuracy", "macro_f1"}
        assert sum(entry["rows"] for entry in record["metrics_by_length"]) == 3
        assert record["settings"]["batch_size"] == 256
        assert record["settings"]["train_rows"] == 27
    code, again, err = run("RunLstm4Glue", *options)
    assert code == 0, err
    assert "2 cells, 2 of them finished already" in again


def test_texts_without_words_are_nothing_for_an_lstm(run, root):
    """As of a column that holds nothing."""
    write("empty.tsv", HEAD + "\t1\n...\t0\n" * 10)(root)
    code, _, err = run("PrepareGlue4Lstm", "--tsv", "empty.tsv", *COLUMNS)
    assert code == 2
    assert err == "error: empty: no words in the texts that it is trained on; name the file and column of texts\n"
    assert not (root / "cache").exists()


@pytest.fixture
def words(root):
    """``cache/lstm`` as ``PrepareGlue4Lstm.py`` would write it."""
    task, rows = read_table(flags(root / "reviews.tsv"))
    splits = {name: encode_words(each, WORDS, 128) for name, each in rows.items()}
    write_words(root / "cache" / "lstm", task, splits, WORDS, 128)
    return root


def test_own_tasks_are_for_the_scripts_of_glue(run, words):
    code, _, err = run("RunLstm4Agnews")
    assert (code, err[:45]) == (2, "error: cache/lstm: no prepared tasks; run Pre")
    code, _, err = run("RunLstm4Agnews", "--tasks", "reviews")
    assert (code, err) == (2, "error: --tasks (tasks): unknown task 'reviews'; choose from agnews\n")
    code, _, err = run("RunLstm4Glue", "--tasks", "reveiws")
    assert code == 2
    assert err == (
        "error: --tasks (tasks): unknown task 'reveiws'; did you mean reviews? choose from "
        "cola, sst-2, mrpc, qqp, mnli, qnli, rte, wnli, "
        "agnews, reviews, or prepare your own with PrepareGlue4Lstm.py --table\n"
    )


def test_other_caches_are_no_own_tasks(run, root):
    """Neither the sample task's, nor those of built-in tasks, nor what is no cache at all."""
    write_mrpc(root / "data")
    assert run("PrepareGlue4Bert", "--tasks", "mrpc")[0] == 0
    assert set(header(root / "cache" / "bert" / "mrpc.safetensors")) == (
        {"format_version", "kind", "task", "labels", "max_length", "fingerprint", "splits", "sha256"}
    )
    assert run("PrepareGlue4Bert", *OWN)[0] == 0
    sample.make_demo(root / "cache" / "bert")
    sample.make_lstm_demo(root / "cache" / "lstm")
    shutil.copy(root / "bert" / "model.safetensors", root / "cache" / "bert")
    for name in ("agnews.safetensors", "My reviews.safetensors", "Reviews2.safetensors"):
        shutil.copy(root / "cache" / "bert" / "reviews.safetensors", root / "cache" / "bert" / name)
    assert list(find_custom_tasks(root / "cache" / "bert")) == ["reviews"]
    assert find_custom_tasks(root / "cache" / "lstm") == find_custom_tasks(root / "nowhere") == {}
    task = read_custom_task(root / "cache" / "bert" / "reviews.safetensors", "")
    assert (task.name, task.text, task.label, task.labels) == ("reviews", ("review",), "stars", ("2", "9", "10"))
    assert (task.dev, task.test, task.metrics) == (("dev",), ("test",), ("accuracy", "macro_f1"))
    assert task.fingerprint


def test_a_cache_that_is_read_can_be_written_again(run, root):
    assert run("PrepareGlue4Bert", *OWN)[0] == 0
    path = root / "cache" / "bert" / "reviews.safetensors"
    before = header(path)
    write_cache(path.parent, load(root), "bert", before["fingerprint"])
    assert header(path) == before


def test_a_hash_tells_tables_apart(root):
    first = read_table(flags(root / "reviews.tsv"))[0]
    assert read_table(flags(root / "reviews.tsv", name="other"))[0].fingerprint == first.fingerprint
    table = (root / "reviews.tsv").read_text(encoding="utf-8")
    for old, new in (("good", "fine"), ("\t2\t", "\t3\t"), ("\t9\t", "\t10\t"), ("0\tthe", "0\tThe")):
        (root / "other.tsv").write_text(table.replace(old, new, 1), encoding="utf-8")
        assert read_table(flags(root / "other.tsv"))[0].fingerprint != first.fingerprint, old
    # What is predicted may come later.
    assert read_table(flags(root / "reviews.tsv", test_tsv=root / "other.tsv"))[0].fingerprint == first.fingerprint


def test_a_thousand_classes_are_not_too_many(tmp_path):
    for number, good in ((1000, True), (1001, False)):
        lines = ["review\tstars", *(f"text\t{row % number}" for row in range(2002))]
        (tmp_path / "table.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if good:
            assert len(read_table(flags(tmp_path / "table.tsv"))[0].labels) == 1000
            continue
        with pytest.raises(UserError, match=r"1001 different labels in column 'stars' \(0, 1, .*, 9 and 991 more\)"):
            read_table(flags(tmp_path / "table.tsv"))


P, L, R = "PrepareGlue4Bert", "PrepareGlue4Lstm", "RunBert4Glue"
TABLE, HEAD = "reviews.tsv", "review\tstars\n"
ROWS = "".join(f"good\t{row % 2}\n" for row in range(10))
COLUMNS, MEND = OWN[2:], "mend the row or leave such rows out with --skip-bad-rows"

# id: (what is changed, script, arguments, what the line must hold)
CASES = {
    "no such file": (nothing, P, ("--tsv", "review.tsv", *COLUMNS), ["review.tsv: no such file", "--tsv"]),
    "a name too long": (nothing, P, ("--tsv", "x" * 300, *COLUMNS), ["xxx: no such file", "--tsv"]),
    "no name": (nothing, P, ("--tsv", "", *COLUMNS), ["(name): '' would not do for a folder", "--name"]),
    "a folder": (folder(TABLE), P, OWN, ["reviews.tsv: cannot be read (Is a directory)"]),
    "empty": (write(TABLE, ""), P, OWN, ["reviews.tsv: no rows"]),
    "a header alone": (write(TABLE, HEAD), P, OWN, ["reviews.tsv: no rows"]),
    "few rows": (write(TABLE, HEAD + ROWS[:-7]), P, OWN, ["reviews.tsv: 9 rows are too few", "--dev-table"]),
    "all are bad": (write(TABLE, HEAD + "a\n"), P, (*OWN, "--skip-bad-rows"), ["reviews.tsv: all 1 rows are bad"]),
    "not UTF-8": (write(TABLE, HEAD.encode() + b"\xff\t1\n"), P, OWN, ["reviews.tsv:2: not UTF-8"]),
    "NUL byte": (write(TABLE, HEAD + "a\0b\t1\n"), L, OWN, ["reviews.tsv:2: a NUL byte"]),
    "short row": (write(TABLE, HEAD + "good\n"), P, OWN, ["reviews.tsv:2: 1 columns instead of 2", MEND]),
    "no label": (write(TABLE, HEAD + "good\t\n"), P, OWN, ["reviews.tsv:2: no label", MEND]),
    "no column": (
        nothing, P, ("--tsv", TABLE, "--text", "review", "--label", "star"),
        ["reviews.tsv:1: no column 'star' in the header; between tabs it has id, review, stars, source", "--label"],
    ),
    "no column of texts": (nothing, L, (*OWN, "--text", "id,text"), ["reviews.tsv:1: no column 'text'", "--text"]),
    "a CSV": (write(TABLE, "id,review,stars\n"), P, OWN, ["no column 'review'", "between tabs it has id,review,stars"]),
    "a header that is no text": (write(TABLE, "a\x1b[2Jb\t\n"), P, OWN, ["between tabs it has a\\x1b[2Jb, ; name"]),
    "one class": (
        write(TABLE, HEAD + "good\t5\n" * 20), P, OWN,
        ["reviews.tsv: 1 different labels in column 'stars' (5)", "2 to 1000 classes", "--label"],
    ),
    "scores": (
        write(TABLE, HEAD + "".join(f"good\t{row / 7:.3f}\n" for row in range(2000))), L, OWN,
        ["reviews.tsv: 2000 different labels in column 'stars' (0.000, 0.143, ", " and 1990 more)", "--label"],
    ),
    "a class of dev alone": (
        write("dev.tsv", HEAD + "good\t2\nbad\t7\n"), P, (*OWN, "--dev-tsv", "dev.tsv"),
        ["dev.tsv:3: unknown label '7' (expected 2, 9, 10)", MEND],
    ),
    "no dev": (nothing, L, (*OWN, "--dev-tsv", "dev.tsv"), ["dev.tsv: no such file", "--dev-tsv"]),
    "no test": (nothing, P, (*OWN, "--test-tsv", "test.tsv"), ["test.tsv: no such file", "--test-tsv"]),
    "test has no such column": (
        write("test.tsv", "text\ngood\n"), P, (*OWN, "--test-tsv", "test.tsv"), ["test.tsv:1: no column 'review'"],
    ),
    "columns": (nothing, P, ("--tsv", TABLE, "--text", "review"), ["(tsv): which columns of reviews.tsv", "--label"]),
    "no columns": (nothing, L, ("--tsv", TABLE), ["(tsv): which columns of reviews.tsv", "--text", "--label"]),
    "three texts": (nothing, P, (*OWN, "--text", "a,b,c"), ["(text): 3 columns are too many"]),
    "and tasks": (nothing, P, (*OWN, "--tasks", "mrpc"), ["(tsv): --tasks is given too"]),
    "and a download": (nothing, L, (*OWN, "--download"), ["(tsv): --download is given too"]),
    "columns of nothing": (nothing, P, COLUMNS, ["(text): there is no table that it is of", "--table"]),
    "dev of nothing": (nothing, L, ("--dev-tsv", TABLE), ["(dev_tsv): there is no table", "--table"]),
    "a built-in name": (nothing, P, (*OWN, "--name", "MRPC"), ["(name): 'mrpc' is the name of another task", "--name"]),
    "another built-in name": (nothing, L, (*OWN, "--name", "agnews"), ["(name): 'agnews' is the name of another"]),
    "the demo's name": (nothing, P, (*OWN, "--name", "demo"), ["(name): 'demo' is the name of another task"]),
    "a file's built-in name": (nothing, P, ("--tsv", "data/RTE.tsv", *COLUMNS), ["--name (name): 'rte' is the name"]),
    "a file's odd name": (nothing, P, ("--tsv", "my reviews.tsv", *COLUMNS), ["(name): 'my reviews' would", "--name"]),
    "a path for a name": (nothing, L, (*OWN, "--name", "../x"), ["(name): '../x' would not do"]),
    "a hidden name": (nothing, P, (*OWN, "--name", ".."), ["(name): '..' would not do"]),
    "a flag for a name": (nothing, P, (*OWN, "--name=-x"), ["(name): '-x' would not do"]),
    "a cache cut short": (cut("cache/bert/own.safetensors", 0.7), R, SCHEDULE, ["own.safetensors: cut short or not a"]),
    "a cache that is none": (
        write("cache/bert/own.safetensors", b"\x80\x04N."), R, (*SCHEDULE, "--tasks", "own"),
        ["own.safetensors: cut short or not a cache", "run PrepareGlue4Bert.py again"],
    ),
    "to run": (nothing, R, (*SCHEDULE, "--tasks", "reviews"), ["unknown task 'reviews'", "agnews, own, or prepare"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in which the scripts would succeed, with a task of another name prepared."""
    root = tmp_path_factory.mktemp("prepared")
    small_bert(root / "bert")
    table = write_reviews(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("sys.argv", [f"{P}.py", "--tsv", str(table), *COLUMNS, "--name", "own"])
        __import__(P).main()
    return root


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_nothing_left(run, prepared, tmp_path, name):
    change, script, arguments, expected = CASES[name]
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    change(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, _, err = run(script, *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in expected:
        assert part in err
    assert re.search(r"; |\? name|choose from", err), "it says what to do"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def define(**changes):
    return {"own": json.dumps({"text": ["review"], "label": "stars", "fingerprint": "abc"} | changes)}


HEADERS = {
    "no JSON": {"own": "{"},
    "JSON without end": {"own": "[" * 100_000},
    "a list": {"own": "[]"},
    "nothing of it": {"own": "{}"},
    "text for a list of columns": define(text="ab"),
    "no column": define(text=[]),
    "three columns": define(text=["a", "b", "c"]),
    "a number for a column": define(text=[1]),
    "a list for a column of labels": define(label=["stars"]),
    "a number for a hash": define(fingerprint=3),
    "no text in any encoding": define(label="\ud800"),
    "labels that are none": {"labels": "null"},
    "labels by their numbers": {"labels": '{"2": 0, "9": 1, "10": 2}'},
    "numbers for labels": {"labels": "[2, 9, 10]"},
    "lists for labels": {"labels": "[[2], [9], [10]]"},
    "no labels, as of scores": {"labels": "[]"},
    "one label": {"labels": '["2"]'},
    "the same label twice": {"labels": '["2", "9", "9"]'},
    "fewer labels than there are": {"labels": '["2", "9"]'},
    "labels without end": {"labels": json.dumps([str(number) for number in range(1001)])},
    "another task": {"task": "mrpc"},
    "another model": {"kind": "lstm"},
    "no dev split": {"splits": '["train"]'},
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_make_no_sense_are_refused(run, prepared, tmp_path, name):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "cache" / "bert" / "own.safetensors"
    with safe_open(path, framework="numpy") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        path.write_bytes(save(arrays, metadata=file.metadata() | HEADERS[name]))
    code, _, err = run("RunBert4Glue", *SCHEDULE)
    assert code == 2
    assert err.startswith("error: cache/bert/own.safetensors: ")
    assert err.endswith("run PrepareGlue4Bert.py again\n")
    assert err.count("\n") == 1
    assert not (tmp_path / "records").exists()
    # It is nothing to a run of other tasks.
    code, _, err = run("RunBert4Glue", *SCHEDULE, "--tasks", "rte")
    assert "rte.safetensors: no such file" in err
