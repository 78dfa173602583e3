"""Preparing MNLI, the largest task, fits into 2 GiB: files are larger than what is used of them."""

import random
import subprocess
import sys
import tracemalloc
from itertools import accumulate
from pathlib import Path

import pytest
from conftest import ROOT, VOCABULARY

from pruner.data import encode
from pruner.data.rows import Rows
from pruner.data.task import TASKS
from pruner.data.tokenizer import load_tokenizer
from pruner.data.vocabulary import Vocabulary

MNLI = TASKS["mnli"]
COLUMNS = "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse"
LETTERS = "etaoinshrdlu"


def write_mnli(data: Path, rows: int) -> Path:
    """MNLI's layout, parses included, with ``rows`` training pairs of random words, as long as the official ones.

    A few characters are beyond Latin-1, as in the official files: a text that holds one takes four bytes a character.
    """
    generator = random.Random(0)
    known = ["“quoted”", "naïve", "\U0001d11e"]
    known += ["".join(generator.choices(LETTERS, k=generator.randint(2, 10))) for _ in range(90_000)]
    generator.shuffle(known)
    weights = list(accumulate(1 / (rank + 3) for rank in range(len(known))))

    def sentence(length: int) -> tuple[str, str, str]:
        chosen = generator.choices(known, cum_weights=weights, k=length)
        binary = "( " * length + " ) ".join(chosen) + " ) ."
        return " ".join(chosen) + " .", binary, f"(ROOT (S {' '.join(f'(NP (NN {word}))' for word in chosen)} (. .)))"

    folder = data / "MNLI"
    folder.mkdir(parents=True)
    for split in ("train", *MNLI.dev, *MNLI.test[:2]):
        labelled = split not in MNLI.test
        columns = [*COLUMNS.split(), "sentence1", "sentence2", *(["label1", "gold_label"] if labelled else [])]
        with (folder / f"{split}.tsv").open("w", encoding="utf-8", newline="") as file:
            file.write("\t".join(columns) + "\n")
            for row in range(rows if split == "train" else rows // 40):
                one = sentence(1 + int(generator.expovariate(1 / 20)))
                two = sentence(generator.randint(4, 16))
                label = [MNLI.labels[row % 3]] * 2 if labelled else []
                cells = [str(row), str(row), f"{row}e", "fiction", one[1], two[1], one[2], two[2], one[0], two[0]]
                file.write("\t".join(cells + label) + "\n")
    return folder


def traced(work) -> tuple[int, int]:
    """Bytes of Python's that are left after ``work``, while its result is still held, and the most there were."""
    tracemalloc.start()
    result = work()
    found = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del result
    return found


def test_reading_takes_no_more_memory_than_what_is_read(tmp_path):
    folder = write_mnli(tmp_path, 5000)
    left, peak = traced(lambda: MNLI.read(folder, "train"))
    assert (folder / "train.tsv").stat().st_size > 5_000_000
    assert peak - left < 200_000
    assert left < 5000 * 600


def test_counting_rows_keeps_none_of_them(tmp_path):
    path = write_mnli(tmp_path, 5000) / "train.tsv"
    _, peak = traced(lambda: MNLI.counter(MNLI, path, "train"))
    assert MNLI.counter(MNLI, path, "train") == 5000
    assert peak < 200_000


@pytest.mark.parametrize("kind", ["bert", "lstm"])
def test_ids_take_little_more_memory_than_their_arrays(tmp_path, monkeypatch, kind):
    """Two copies while growing arrays become those of NumPy; arrays of each text were ten times that."""
    monkeypatch.setattr(encode, "TEXTS_AT_A_TIME", 100)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    tokenizer, vocabulary = load_tokenizer(tmp_path, 128), Vocabulary(tuple(VOCABULARY[5:]))

    def make(number):
        rows = Rows([("good film", "bad")] * number, [1] * number)
        if kind == "bert":
            return encode.encode(rows, MNLI, tokenizer)
        return encode.encode_words(rows, vocabulary, 128)

    split = make(1)
    bytes_per_row = sum(array.nbytes for array in (split.tokens, split.offsets[1:], split.second, split.labels))
    growth = (traced(lambda: make(8000))[1] - traced(lambda: make(4000))[1]) / 4000
    assert growth < 3 * bytes_per_row


MEASURED = """
import re, runpy, sys
from pathlib import Path
script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
sys.path.insert(0, str(Path(script).parent))
try:
    runpy.run_path(script, run_name="__main__")
finally:  # it ends by SystemExit
    print("peak", re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    """As many rows as MNLI has, and a vocabulary that makes a piece of every two letters, so that pairs are long."""
    root = tmp_path_factory.mktemp("mnli")
    write_mnli(root / "data", 393_000)
    (root / "bert").mkdir()
    parts = [*LETTERS, *(one + two for one in LETTERS for two in LETTERS)]
    pieces = [*VOCABULARY[:5], *parts, *(f"##{part}" for part in parts), "."]
    (root / "bert" / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("script", ["PrepareGlue4Bert", "PrepareGlue4Lstm"])
def test_mnli_is_prepared_in_2_gib(full_size, script):
    if not Path("/proc/self/status").is_file():
        pytest.skip("only Linux tells the peak of a process")
    command = [sys.executable, "-c", MEASURED, str(ROOT / f"{script}.py"), "--tasks", "mnli"]
    found = subprocess.run(command, cwd=full_size, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    name, number = found.stdout.rsplit(maxsplit=2)[1:]
    assert name == "peak"
    peak = int(number) * 1024
    print(f"{script}: {peak / 2**30:.2f} GiB")
    assert (full_size / "data" / "MNLI" / "train.tsv").stat().st_size > 400_000_000
    assert f"{'mnli':8}{'train':18}{393_000:>10}" in found.stdout
    assert peak < 2 * 2**30
