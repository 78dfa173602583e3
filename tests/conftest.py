"""Fixtures: the real data and weights where there are any, small BERTs, and a way to run a script in this process."""

import importlib
import os
import sys
import threading
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# Small models are slower with several threads, which wait for each other; scripts that tests start have one as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
from transformers import BertConfig, BertModel

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.utils.errors import outcome

ROOT = Path(__file__).resolve().parent.parent
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights. ``.ci/run`` sets REQUIRE_SHARED: there, its absence is a failure."""
    folder = Path(os.environ.get("SEQUENCE_PRUNING_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        if os.environ.get("REQUIRE_SHARED"):
            pytest.fail(f"{folder}: the real data and weights are not there")
        pytest.skip(f"{folder}: the real data and weights are not there; set SEQUENCE_PRUNING_SHARED")
    return folder


WORDS = "a the film actor plot was is not good bad fine dull ##s ##ly , . ! ' \"".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


def small_config(**changes) -> BertConfig:
    sizes = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 32,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,  # far from zero, so that tokens and layers matter
    }
    return BertConfig(**(sizes | changes))


def small_bert(folder: Path, **changes) -> Path:
    """A BERT folder with random weights and a vocabulary of a few words."""
    torch.manual_seed(0)
    BertModel(small_config(**changes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def model() -> PrunedBertForSequenceClassification:
    torch.manual_seed(0)
    return PrunedBertForSequenceClassification(small_config(num_labels=3)).eval()


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a script's main in ``tmp_path``: ``run("RunBert4Glue", "--epochs", "1")`` -> exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(script: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
        capsys.readouterr()
        module = importlib.import_module(script)
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{script}.__main__")  # as python -m does
        try:
            code = outcome(module.main)
        except SystemExit as stop:  # of --help
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def write_mrpc(data: Path, rows: int = 24) -> Path:
    """A few rows in MRPC's layout, byte-order mark and bare quotes included."""
    folder = data / "MRPC"
    folder.mkdir(parents=True, exist_ok=True)
    pair = ('the " film was good .', "the actor was not bad , the plot is fine")
    for split in ("train", "dev"):
        lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
        lines += [f"{row % 2}\t{row}\t{row}\t{pair[row % 2]}\t{pair[row // 2 % 2]}" for row in range(rows)]
        (folder / f"{split}.tsv").write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_agnews(data: Path, rows: int = 24) -> Path:
    """A few rows in AG News' layout, with its backslashes and leftovers of HTML."""
    folder = data / "ag_news_csv"
    folder.mkdir(parents=True, exist_ok=True)
    news = (
        ("3", "Stocks rise", 'Oil, says <b>falls</b> "" b \\n\\next\\n again'),
        ("2", "Team wins", "the cup, it is said"),
        ("1", "Talks on", "ministers meet & speak"),
        ("4", "New chip", "faster (again)"),
    )
    for split, number in (("train", rows), ("test", rows // 3)):
        lines = [",".join(f'"{cell}"' for cell in news[row % 4]) for row in range(number)]
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def official_file(task, split: str, rows: int | None = None, separator: str = "\t") -> bytes:
    """A file of the official one's columns and number of rows, or of so many rows."""
    with_label = split not in task.test
    header = task.header if with_label and task.header else ("index", *task.columns(with_label))
    row = ((task.labels or ("2.5",))[0] if column == task.label else "good film" for column in header)
    lines = [separator.join(row)] * (rows or task.official_rows[task.splits.index(split)][0])
    return "".join(f"{line}\n" for line in ([] if header == task.header else [separator.join(header)]) + lines).encode()


def official_agnews(folder: Path) -> Path:
    """AG News as large as it is, of four rows over and over."""
    place = write_agnews(folder, 12)
    for name, times in (("train.csv", 120_000 // 12), ("test.csv", 7600 // 4)):
        (place / name).write_bytes((place / name).read_bytes() * times)
    return place


@contextmanager
def full_disk(largest: int):
    """Limit the size of files for a while: like a full disk, this fails the write that goes beyond it."""
    resource = pytest.importorskip("resource", reason="only POSIX systems limit the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def serve():
    """Serve a folder on this machine: ``serve(folder)`` -> its address."""
    with ExitStack() as stack:

        def start(folder: Path) -> str:
            handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
            http = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=http.serve_forever, args=[0.01], daemon=True).start()
            stack.callback(http.shutdown)
            return f"http://127.0.0.1:{http.server_port}"

        yield start
