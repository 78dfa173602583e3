"""PrepareGlue4Bert.py, from files to cache, and its download from a local server."""

import hashlib
import io
import os
import socketserver
import stat
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT, full_disk, official_file, small_bert, write_mrpc

from pruner.data import download, encode
from pruner.data.cache import read_cache
from pruner.data.custom import find_custom_tasks
from pruner.data.download import mrpc_files
from pruner.data.rows import Rows
from pruner.data.task import TASKS, Task, register_task
from pruner.data.tokenizer import load_tokenizer
from pruner.data.vocabulary import read_vocabulary
from pruner.evaluation.metrics import dev_metrics
from pruner.evaluation.submission import submission_names
from pruner.utils.errors import UserError
from pruner.utils.files import whole


def test_from_files_to_cache(run, tmp_path):
    write_mrpc(tmp_path / "data")
    (tmp_path / "data" / "MRPC" / "test.tsv").write_text(
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tgood film\tbad\n", encoding="utf-8"
    )
    (tmp_path / "data" / "QNLI").mkdir()
    small_bert(tmp_path / "bert")
    code, out, err = run("PrepareGlue4Bert")
    assert (code, err) == (0, "")
    assert "skipped qnli: data/QNLI: no train.tsv" in out
    assert "skipped rte: data/RTE: no such folder" in out
    tokenizer = load_tokenizer(tmp_path / "bert", 128)
    cache = read_cache(tmp_path / "cache" / "bert", "mrpc", "bert", tokenizer.fingerprint, "")
    assert {name: len(split) for name, split in cache.splits.items()} == {"train": 24, "dev": 24, "test": 1}
    row = [tokenizer.tokenizer.id_to_token(int(i)) for i in cache.splits["test"].sentence(0)]
    assert row == ["[CLS]", "good", "film", "[SEP]", "bad", "[SEP]"]
    assert cache.splits["test"].second.tolist() == [4]
    assert cache.splits["test"].labels is None
    assert cache.splits["train"].labels.tolist() == [0, 1] * 12
    assert cache.counts.sum() == len(cache.splits["train"].tokens)
    assert cache.counts[2] == 24  # one [CLS] each
    table = out.strip().splitlines()[-4:]
    lengths = cache.splits["train"].lengths
    assert table[0].split() == ["task", "split", "sentences", "mean", "tokens", "95th", "pct."]
    assert table[1].split() == ["mrpc", "train", "24", f"{lengths.mean():.1f}", f"{np.percentile(lengths, 95):.0f}"]


def test_bad_rows_leave_no_cache_unless_they_are_skipped(run, tmp_path):
    folder = write_mrpc(tmp_path / "data")
    small_bert(tmp_path / "bert")
    with (folder / "dev.tsv").open("a", encoding="utf-8") as file:
        file.write("maybe\t1\t2\ta\tb\n")
    code, _, err = run("PrepareGlue4Bert")
    assert code == 2
    assert err == (
        "error: data/MRPC/dev.tsv:26: unknown label 'maybe' (expected 0, 1); "
        "mend the row or leave such rows out with --skip-bad-rows\n"
    )
    assert not (tmp_path / "cache").exists()
    code, out, _ = run("PrepareGlue4Bert", "--skip-bad-rows")
    assert code == 0
    assert "(1 bad rows left out)" in out


def test_a_task_asked_for_by_name_must_be_there(run, tmp_path):
    write_mrpc(tmp_path / "data")
    small_bert(tmp_path / "bert")
    code, _, err = run("PrepareGlue4Bert", "--tasks", "mrpc,rte")
    assert code == 2
    assert err == "error: data/RTE: no such folder; put the official files there, or run with --download\n"


@pytest.fixture
def trec():
    """A task that somebody registers at run time, in files of its own."""
    task = Task(
        *("trec", "TREC", ("question", "context"), "kind", ("who", "where"), ("accuracy", "f1")),
        dev=("valid",),
        test=("blind", "late"),
        submission=("first", "second"),
        files="trec.{split}.txt",
    )
    register_task(task)
    yield task
    del TASKS["trec"]


def test_a_task_registered_at_run_time_is_like_any_other(run, tmp_path, trec):
    (tmp_path / "data" / "TREC").mkdir(parents=True)
    rows = "question\tcontext\tkind\n" + "good film\tthe plot\twhere\nbad film\tthe actor\twho\n" * 8
    for split in ("train", "valid"):
        (tmp_path / "data" / "TREC" / f"trec.{split}.txt").write_text(rows, encoding="utf-8")
    (tmp_path / "data" / "TREC" / "trec.blind.txt").write_text("context\tquestion\nplot\tfilm\n", encoding="utf-8")
    small_bert(tmp_path / "bert")
    for script, kind, first in (("Bert", "bert", "[CLS] good film [SEP] the plot [SEP]"), ("Lstm", "lstm", "good")):
        code, _, err = run(f"PrepareGlue4{script}", "--tasks", "TREC")
        assert (code, err) == (0, "")
        folder = tmp_path / "cache" / kind
        if kind == "bert":
            vocabulary = load_tokenizer(tmp_path / "bert", 128)
            word = vocabulary.piece
        else:
            vocabulary = read_vocabulary(folder, "trec", "")
            word = vocabulary.word
        cache = read_cache(folder, "trec", kind, vocabulary.fingerprint, "")
        assert {name: len(split) for name, split in cache.splits.items()} == {"train": 16, "valid": 16, "blind": 1}
        assert cache.splits["valid"].labels.tolist() == [1, 0] * 8
        assert " ".join(word(int(number)) for number in cache.splits["train"].sentence(0)).startswith(first)
        assert cache.definition == ""  # it is known by the registry
        assert find_custom_tasks(folder) == {}
        assert submission_names(trec, cache) == {"blind": "first.tsv"}
        metrics = dev_metrics(trec, cache, {"valid": np.eye(2)[cache.splits["valid"].labels]})
        assert metrics == {"accuracy": 1, "f1": 1}
    options = ("--methods", "head", "--epochs", "1", "--batch-size", "8", "--latency-repeats", "1", "--predict-test")
    code, _, err = run("RunLstm4Glue", "--tasks", "trec", *options, "--embedding-size", "8", "--hidden-size", "8")
    assert code == 0, err
    assert len(list((tmp_path / "records" / "LSTM" / "trec").glob("*/first.tsv"))) == 2
    complaint = "unknown task 'tre'; did you mean trec? choose from cola, sst-2, mrpc"
    assert complaint in run("PrepareGlue4Bert", "--tasks", "tre")[2]


@pytest.mark.parametrize("name", ["mrpc", "demo", "Trec", "a b", "../x", ".x", ""])
def test_names_that_a_task_cannot_have(name):
    before = dict(TASKS)
    with pytest.raises(ValueError, match="is the name of another task, or not one for a folder"):
        register_task(replace(TASKS["rte"], name=name))
    assert before == TASKS


def test_the_sample_task_is_prepared_by_name_alone(run, tmp_path):
    write_mrpc(tmp_path / "data")
    assert run("PrepareGlue4Lstm")[0] == 0
    assert run("PrepareGlue4Lstm", "--tasks", "demo", "--cache", "demo", "--data", "nowhere")[0] == 0
    assert {path.stem for path in (tmp_path / "cache" / "lstm").iterdir()} == {"mrpc"}
    vocabulary = read_vocabulary(tmp_path / "demo", "demo", "")
    cache = read_cache(tmp_path / "demo", "demo", "lstm", vocabulary.fingerprint, "")
    assert {name: len(split) for name, split in cache.splits.items()} == {"train": 3000, "dev": 500}


def test_the_registry_is_light():
    code = "import sys, pruner.data.task; print({'torch', 'transformers', 'tensorflow', 'scipy'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "set()\n"


def test_max_length_cuts(run, tmp_path):
    write_mrpc(tmp_path / "data")
    small_bert(tmp_path / "bert")
    assert run("PrepareGlue4Bert", "--max-length", "8")[0] == 0
    tokenizer = load_tokenizer(tmp_path / "bert", 128)
    cache = read_cache(tmp_path / "cache" / "bert", "mrpc", "bert", tokenizer.fingerprint, "")
    assert cache.max_length == cache.splits["train"].lengths.max() == 8


def test_texts_are_encoded_in_batches(tmp_path, monkeypatch):
    """The tokenizer works on a batch with all cores and without a call from Python for each text."""
    sizes = []

    class Tokenizer:
        """The real one, which has this method alone."""

        def encode_batch_fast(self, texts):
            sizes.append(len(texts))
            return tokenizer.tokenizer.encode_batch_fast(texts)

    tokenizer = load_tokenizer(small_bert(tmp_path), 128)
    rows = Rows([("good film",), ("bad",)] * 7, [0, 1] * 7)
    whole_split = encode.encode(rows, TASKS["sst-2"], tokenizer)
    monkeypatch.setattr(encode, "TEXTS_AT_A_TIME", 6)
    split = encode.encode(rows, TASKS["sst-2"], replace(tokenizer, tokenizer=Tokenizer()))
    assert sizes == [6, 6, 2]
    for name in ("tokens", "offsets", "second", "labels"):
        assert np.array_equal(getattr(split, name), getattr(whole_split, name))


def test_preparing_words_waits_for_no_heavy_imports(tmp_path):
    write_mrpc(tmp_path / "data")
    names = "{'torch', 'transformers', 'tensorflow'}"
    code = f"import sys, PrepareGlue4Lstm; PrepareGlue4Lstm.main(); print({names} & {{*sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.stdout.splitlines()[-1] == "set()"


@pytest.fixture
def official(tmp_path_factory):
    """A folder of archives as the official server has them."""
    root = tmp_path_factory.mktemp("server")
    (root / "glue" / "data").mkdir(parents=True)
    (root / "senteval" / "senteval_data").mkdir(parents=True)
    (root / "glue" / "data" / "RTE.zip").write_bytes(archive())
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    for name, rows in (("train", 4076), ("test", 1725)):
        lines = (f"1\t{row}\t{row}\tgood film\tfine film {row}\r\n" for row in range(rows))
        path = root / "senteval" / "senteval_data" / f"msr_paraphrase_{name}.txt"
        path.write_bytes((header + "".join(lines)).encode())
    ids = "".join(f"{row}\t{row}\n" for row in range(1, 409))
    (root / "glue" / "data" / "mrpc_dev_ids.tsv").write_text(ids, encoding="utf-8")
    return root


@pytest.fixture
def server(official, serve):
    return serve(official), official


def test_download(run, server, tmp_path):
    small_bert(tmp_path / "bert")
    address, _ = server
    code, _, err = run("PrepareGlue4Bert", "--download", "--glue-address", address, "--tasks", "rte,mrpc")
    assert code == 0, err
    assert "RTE.zip" in err  # the progress bar
    files = [f"{split}.tsv{kind}" for split in ("train", "dev", "test") for kind in ("", ".sha256")]
    assert sorted(path.name for path in (tmp_path / "data").rglob("*")) == sorted(["MRPC", "RTE", *files * 2])
    mrpc = tmp_path / "data" / "MRPC"
    train, dev, test = (TASKS["mrpc"].read(mrpc, split) for split in ("train", "dev", "test"))
    assert train.texts[:2] == [("good film", "fine film 0"), ("good film", "fine film 409")]
    assert dev.texts == [("good film", f"fine film {row}") for row in range(1, 409)]
    assert test.labels is None
    assert (mrpc / "test.tsv").read_text(encoding="utf-8").splitlines()[2].split("\t")[0] == "1"
    for path in (tmp_path / "data").rglob("*.tsv"):
        expected = f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        assert path.with_name(f"{path.name}.sha256").read_text(encoding="utf-8") == expected
    assert not list(tmp_path.parent.glob("**/escaped.txt"))


def test_download_keeps_what_is_there_and_reports_what_fails(server, tmp_path):
    address, root = server
    folder = tmp_path / "RTE"
    folder.mkdir()
    (folder / "train.tsv").write_text("mine", encoding="utf-8")
    TASKS["rte"].download(folder, address)
    assert (folder / "train.tsv").read_text(encoding="utf-8") == "mine"
    with pytest.raises(UserError, match=r"WNLI\.zip: download failed .*404"):
        TASKS["wnli"].download(tmp_path / "WNLI", address)
    (root / "glue" / "data" / "WNLI.zip").write_bytes(b"not a zip")
    with pytest.raises(UserError, match="not a zip archive"):
        TASKS["wnli"].download(tmp_path / "WNLI", address)
    assert not (tmp_path / "WNLI").exists()
    with pytest.raises(UserError, match="download failed"):
        TASKS["wnli"].download(tmp_path / "WNLI", "http://127.0.0.1:1")


def archive(change=None, compression=zipfile.ZIP_DEFLATED, name="RTE/dev.tsv", data=None, task="rte") -> bytes:
    """An archive as the official one, but for its second file; ``change`` is made to its entry."""
    content = io.BytesIO()
    task = TASKS[task]
    with zipfile.ZipFile(content, "w") as file:
        for split in task.splits:
            member, official = zipfile.ZipInfo(f"{task.folder}/{split}.tsv"), official_file(task, split)
            if split == "dev":
                member.filename = name if task.name == "rte" else member.filename
                official = official if data is None else data
                if change:
                    change(member)
            member.compress_type = compression if split == "dev" else min(compression, zipfile.ZIP_DEFLATED)
            file.writestr(member, official)
        file.writestr("../../escaped.txt", "must not be written")
    return content.getvalue()


def patched(data: bytes, local: int, central: int, value: bytes) -> bytes:
    """Other bytes in both of the second file's headers, at these places of them."""
    for place in (data.index(b"PK\3\4", 4) + local, data.index(b"PK\1\2", data.index(b"PK\1\2") + 4) + central):
        data = data[:place] + value + data[place + len(value) :]
    return data


def link(member):
    member.external_attr = (stat.S_IFLNK | 0o777) << 16


RTE = official_file(TASKS["rte"], "dev")
STORED = archive(compression=zipfile.ZIP_STORED)
DEV = STORED.rindex(RTE)
*HEAD, BODY = archive().partition(b"RTE/dev.tsv")
BROKEN_ARCHIVES = {
    "empty": (b"", "RTE.zip: not a zip archive"),
    "no archive": (b"<html>", "RTE.zip: not a zip archive"),
    "cut short": (archive()[:-60], "RTE.zip: not a zip archive"),
    "of something else": (archive(name="RTE/notes.txt"), "RTE.zip: does not hold the files of RTE"),
    "other bytes": (STORED[:DEV] + b"I" + STORED[DEV + 1 :], "or damaged (Bad CRC-32 for file 'RTE/dev.tsv'"),
    "broken compression": (b"".join(HEAD) + b"\7" + BODY[1:], "'RTE/dev.tsv': not a zip"),
    "a smaller size than it has": (patched(STORED, 22, 24, b"\6\0\0\0"), "'RTE/dev.tsv': not a zip"),
    "encrypted": (patched(archive(), 6, 8, b"\1\0"), "encrypted"),
    "unknown compression": (patched(archive(), 8, 10, b"\x63\0"), "'RTE/dev.tsv': its compression"),
    "unbounded compression": (archive(compression=zipfile.ZIP_BZIP2), "'RTE/dev.tsv': its compression"),
    "a symbolic link": (archive(link, data=b"/etc/passwd"), "'RTE/dev.tsv': a symbolic link"),
    "a bomb": (archive(data=bytes(2_000_000)), "'RTE/dev.tsv': more than 1000000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_ARCHIVES)
def test_broken_archives_leave_nothing(official, tmp_path, name, monkeypatch):
    content, complaint = BROKEN_ARCHIVES[name]
    monkeypatch.setattr(download, "LARGEST", 1_000_000)
    (official / "glue" / "data" / "RTE.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"RTE\.zip") as error:
        TASKS["rte"].download(tmp_path / "data" / "RTE", official.as_uri())
    assert complaint in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["rte", "wnli", "cola", "sts-b"])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_download_has_the_rows_of_the_official_file(official, tmp_path, name, more):
    task, rows = TASKS[name], TASKS[name].official_rows[1][0]
    path = official / "glue" / "data" / f"{task.folder}.zip"
    path.write_bytes(archive(task=name, data=official_file(task, "dev", rows + more)))
    if more:
        with pytest.raises(
            UserError, match=rf"zip: not the official dev.tsv: {rows + more} rows instead of {rows}; run"
        ):
            task.download(tmp_path / task.folder, official.as_uri())
        assert list(tmp_path.iterdir()) == []
        path.write_bytes(archive(task=name))
    task.download(tmp_path / task.folder, official.as_uri())  # the next start fetches all of it
    assert [len(split.texts) for split in task.read_splits(tmp_path / task.folder).values()] == [
        few for few, _ in task.official_rows
    ]


def test_qqps_broken_rows_are_no_reason_to_refuse_it(tmp_path):
    path, rows = tmp_path / "train.tsv", TASKS["qqp"].official_rows[0][0]
    path.write_bytes(official_file(TASKS["qqp"], "train", rows) + b"133\tWhy?\n")
    download.check_file(TASKS["qqp"], "train", path, "here")
    path.write_bytes(official_file(TASKS["qqp"], "train", rows - 1) + b"133\tWhy?\n")
    with pytest.raises(UserError, match=rf"here: not the official train.tsv: {rows - 1} rows instead of {rows} to "):
        download.check_file(TASKS["qqp"], "train", path, "here")


HEAD_OF_RTE = b"index\tsentence1\tsentence2\tlabel\n"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"<html><title>404</title></html>\n", r":1: no column 'sentence1' in the header"),
        (b"", ": no rows"),
        (RTE.replace(b"label", b"answer", 1), ":1: no column 'label' in the header"),
        (HEAD_OF_RTE.replace(b"index", b"label") + RTE, ":1: two columns are called 'label'"),
        (RTE[:-20] + b"\n", ":278: .* columns instead of 4"),
        (RTE.replace(b"good", b"go\0d", 1), ":2: a NUL byte, which no text has"),
        (RTE.replace(b"good", b"go\xf6d", 1), ":2: not UTF-8"),
        (RTE.replace(b"good", b"good" * 300_000, 1), ":2: a line of more than 1048576 bytes"),
    ],
)
def test_a_download_that_is_no_such_table_leaves_nothing(official, tmp_path, data, problem):
    (official / "glue" / "data" / "RTE.zip").write_bytes(archive(data=data))
    with pytest.raises(UserError, match=rf"RTE.zip: not the official dev.tsv{problem}.*; run again .* by hand$"):
        TASKS["rte"].download(tmp_path / "data" / "RTE", official.as_uri())
    assert list(tmp_path.iterdir()) == []


def test_a_task_registered_at_run_time_is_downloaded_as_it_is(official, tmp_path, trec):
    """Nobody has said how its rows are counted."""
    (official / "trec.train.txt").write_bytes(b"any\0thing")
    for split in ("valid", "blind", "late"):
        (official / f"trec.{split}.txt").write_bytes(b"")
    download.download_files(trec, tmp_path / "TREC", official.as_uri())
    assert (tmp_path / "TREC" / "trec.train.txt").read_bytes() == b"any\0thing"


def test_files_that_a_user_has_cut_are_taken(official, tmp_path):
    folder = tmp_path / "RTE"
    folder.mkdir()
    (folder / "train.tsv").write_bytes(official_file(TASKS["rte"], "train", 10))
    TASKS["rte"].download(folder, official.as_uri())
    assert [len(split.texts) for split in TASKS["rte"].read_splits(folder).values()] == [10, 277, 3000]
    assert not (folder / "train.tsv.sha256").exists()


@pytest.mark.parametrize("name", ["../../RTE/dev.tsv", "/RTE/dev.tsv", "C:\\x/../RTE/dev.tsv", "\x1b[2J/RTE/dev.tsv"])
def test_strange_paths_lead_nowhere_else(official, tmp_path, name):
    (official / "glue" / "data" / "RTE.zip").write_bytes(archive(name=name))
    TASKS["rte"].download(tmp_path / "data" / "RTE", official.as_uri())
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {f"data/RTE/{split}.tsv{kind}" for split in ("train", "dev", "test") for kind in ("", ".sha256")}


@pytest.mark.parametrize(
    ("place", "content", "complaint"),
    [
        ("senteval/senteval_data/msr_paraphrase_test.txt", b"Quality\t#1 ID\ncaf\xe9\n", "test.txt: not UTF-8"),
        ("senteval/senteval_data/msr_paraphrase_train.txt", b"<html>\n", "msr_paraphrase_train.txt: not MRPC's file"),
        ("senteval/senteval_data/msr_paraphrase_test.txt", b"", "msr_paraphrase_test.txt: not MRPC's file"),
        ("glue/data/mrpc_dev_ids.tsv", b"\xff", "mrpc_dev_ids.tsv: not UTF-8"),
        ("glue/data/mrpc_dev_ids.tsv", bytes(download.LARGEST_IN_MEMORY + 1), "mrpc_dev_ids.tsv: more than"),
    ],
)
def test_broken_files_of_mrpc_leave_nothing(official, tmp_path, place, content, complaint):
    (official / place).write_bytes(content)
    with pytest.raises(UserError) as error:
        TASKS["mrpc"].download(tmp_path / "data" / "MRPC", official.as_uri())
    assert complaint in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n" + bytes(2_000_000), "more than 1000000 bytes"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2000000\r\n\r\n", "more than 1000000 bytes"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "only 4 of 9 bytes came"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: many\r\n\r\n", "download failed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf", "download failed"),
        (b"not a server of pages\r\n\r\n", "download failed"),
        (b"", "download failed"),
    ],
)
def test_servers_that_do_not_keep_to_the_rules(tmp_path, answer, complaint):
    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(4096)
            with suppress(ConnectionError):
                self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as odd:
        threading.Thread(target=odd.serve_forever, args=[0.01], daemon=True).start()
        with pytest.raises(UserError, match=complaint), whole(tmp_path / "data" / "file") as path:
            download.fetch(f"http://127.0.0.1:{odd.server_address[1]}/file", path, 1_000_000)
        odd.shutdown()
    assert list(tmp_path.iterdir()) == []


def test_a_download_is_not_held_in_memory(serve, tmp_path):
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "file").write_bytes(bytes(20_000_000))
    address = serve(tmp_path / "server")
    tracemalloc.start()
    download.fetch(f"{address}/file", tmp_path / "file")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "file").stat().st_size == 20_000_000
    assert peak < 4_000_000


@pytest.mark.parametrize("stage", ["cache", "words", "archive", "split"])
def test_a_full_disk_leaves_nothing(run, official, tmp_path, stage):
    write_mrpc(tmp_path / "data")
    small_bert(tmp_path / "bert")
    script = "PrepareGlue4Lstm" if stage == "words" else "PrepareGlue4Bert"
    if stage in ("cache", "words"):
        asked, place = ["--tasks", "mrpc"], f"cache/{'lstm' if stage == 'words' else 'bert'}/mrpc.safetensors"
    else:
        asked = ["--tasks", "rte", "--download", "--glue-address", official.as_uri()]
        place = "data/RTE/RTE.zip" if stage == "archive" else "data/RTE/train.tsv"
        kind = zipfile.ZIP_STORED if stage == "archive" else zipfile.ZIP_DEFLATED
        (official / "glue" / "data" / "RTE.zip").write_bytes(archive(compression=kind))
    before = sorted(tmp_path.rglob("*"))
    with full_disk(2000):
        code, _, err = run(script, *asked)
    assert code == 2
    line = err.strip().splitlines()[-1]
    assert line.startswith(f"error: {place}: cannot be written (")
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_mrpc_from_its_original_files_is_glues(shared):
    """Put GLUE's own rows back into one file: the split must come out as GLUE has it, in content."""
    folder = shared / "data" / "glue" / "MRPC"
    parts = {
        s: (folder / f"{s}.tsv").read_text(encoding="utf-8-sig").rstrip("\n").split("\n") for s in ("train", "dev")
    }
    ids = ["\t".join(line.split("\t")[1:3]) for line in parts["dev"][1:]]
    made = mrpc_files(parts["train"] + parts["dev"][1:], parts["train"][:1], ids)
    for split, lines in parts.items():
        assert made[split].rstrip("\n").split("\n") == lines


@pytest.mark.parametrize(
    "header", ["", "label,title,description\n", "Class Index,Title,Description\n", ",headline,text\n"]
)
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("options", [(), ("--skip-bad-rows",)])
def test_ag_news_with_classes_from_0_or_1(run, tmp_path, header, first, options):
    """A test file without the first class says nothing by itself: all files of a folder count alike."""
    folder = tmp_path / "data" / "ag_news_csv"
    folder.mkdir(parents=True)
    for split, classes in (("train", range(4)), ("test", range(1, 3))):
        rows = "".join(f'{first + label},"the film","it was good {label}"\n' for label in classes for _ in range(5))
        (folder / f"{split}.csv").write_text(header + rows, encoding="utf-8")
    code, _, err = run("PrepareAgnews4Lstm", *options)
    assert code == 0, err
    vocabulary = read_vocabulary(tmp_path / "cache" / "lstm", "agnews", "")
    cache = read_cache(tmp_path / "cache" / "lstm", "agnews", "lstm", vocabulary.fingerprint, "")
    for split in cache.splits.values():
        for row, label in enumerate(split.labels):
            assert str(label) in [vocabulary.word(int(number)) for number in split.sentence(row)]


@pytest.mark.parametrize("options", [(), ("--skip-bad-rows",)])
def test_ag_news_with_classes_0_and_4_is_refused(run, tmp_path, options):
    """One row of either, in whichever file, leaves open what all the others mean."""
    folder = tmp_path / "data" / "ag_news_csv"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("1,a,b\n2,a,b\n3,a,b\n4,a,b\n" * 200, encoding="utf-8")
    (folder / "test.csv").write_text("1,a,b\n0,a,b\n", encoding="utf-8")
    code, _, err = run("PrepareAgnews4Lstm", *options)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: data/ag_news_csv: classes 0 and 4;")
    assert "--skip-bad-rows" not in err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("options", [(), ("--skip-bad-rows",)])
def test_no_class_is_left_out_as_bad_rows(run, tmp_path, options):
    """Labels of another coding are refused, and no hint says to leave them out; a slip may be."""
    folder = tmp_path / "data" / "SST-2"
    folder.mkdir(parents=True)

    def prepare(labels):
        for split in ("train", "dev"):
            rows = "".join(f"a good film\t{label}\n" for label in labels)
            (folder / f"{split}.tsv").write_text(f"sentence\tlabel\n{rows}", encoding="utf-8")
        return run("PrepareGlue4Lstm", "--tasks", "sst-2", *options)

    code, _, err = prepare([1, -1] * 20)
    assert code == 2
    assert "train.tsv:3: unknown label '-1' (expected 0, 1); 20 rows have such labels (-1), too many to leave" in err
    assert "--skip-bad-rows" not in err
    code, out, err = prepare([0, 1] * 200 + ["x"])
    assert (code, "--skip-bad-rows" in err) == ((0, False) if options else (2, True))
    assert ("(1 bad rows left out)" in out) == bool(options)
