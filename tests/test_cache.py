"""The cache: what goes in comes out, and nothing else is taken for one."""

import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save
from safetensors.torch import save as torch_save

from pruner.data import cache as module
from pruner.data.cache import Cache, Split, read_cache, write_cache
from pruner.utils.errors import UserError


def make_cache() -> Cache:
    split = Split(
        tokens=np.array([2, 5, 3, 2, 3], dtype=np.int32),
        offsets=np.array([0, 3, 5]),
        second=np.array([3, 1], dtype=np.int32),
        labels=np.array([1, 0]),
    )
    test = Split(split.tokens, split.offsets, split.second, None)
    splits = {"train": split, "dev": split, "test": test}
    return Cache("sst-2", ("0", "1"), 128, splits, np.array([0, 0, 2, 2, 0, 1]))


def read(folder, task="sst-2", fingerprint="abc"):
    return read_cache(folder, task, "bert", fingerprint, "PrepareGlue4Bert.py")


def test_round_trip(tmp_path):
    path = write_cache(tmp_path, make_cache(), "bert", "abc")
    found = read(tmp_path)
    assert (found.task, found.labels, found.max_length) == ("sst-2", ("0", "1"), 128)
    assert found.counts.tolist() == [0, 0, 2, 2, 0, 1]
    for name, split in make_cache().splits.items():
        other = found.splits[name]
        assert other.tokens.tolist() == split.tokens.tolist()
        assert other.lengths.tolist() == [3, 2]
        assert other.second.tolist() == [3, 1]
        assert other.sentence(1).tolist() == [2, 3]
        assert (other.labels is None) == (name == "test")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_cut_short_at_any_byte(tmp_path):
    path = write_cache(tmp_path, make_cache(), "bert", "abc")
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="cut short or not a cache"):
            read(tmp_path)


def rewritten(path, **changes):
    """Write a cache again with other entries in its header; ``None`` removes one."""
    with safe_open(path, framework="numpy") as file:
        arrays, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata() | changes  # noqa: SIM118
    path.write_bytes(save(arrays, metadata={key: value for key, value in header.items() if value is not None}))


def test_a_flipped_bit_is_noticed(tmp_path):
    """Whichever of the arrays it is in: most of them would pass for another cache."""
    path = write_cache(tmp_path, make_cache(), "bert", "abc")
    whole = path.read_bytes()
    first = 8 + int.from_bytes(whole[:8], "little")  # behind the header
    problems = set()
    for place in range(first, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"; run PrepareGlue4Bert.py again") as error:
            read(tmp_path)
        problems.add(re.search("damaged|not a cache", str(error.value))[0])
    assert problems == {"damaged", "not a cache"}
    path.write_bytes(whole)
    rewritten(path, max_length="127")
    with pytest.raises(UserError, match="damaged"):
        read(tmp_path)


def test_caches_without_a_checksum_are_read(tmp_path):
    rewritten(write_cache(tmp_path, make_cache(), "bert", "abc"), sha256=None)
    assert read(tmp_path).max_length == 128


def test_foreign_files(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no such file; run PrepareGlue4Bert\.py first"):
        read(tmp_path)
    path = write_cache(tmp_path, make_cache(), "bert", "abc")
    with pytest.raises(UserError, match="another vocabulary"):
        read(tmp_path, fingerprint="other")
    with pytest.raises(UserError, match="holds bert data of sst-2"):
        read_cache(tmp_path, "sst-2", "lstm", "abc", "PrepareGlue4Lstm.py")
    path.rename(tmp_path / "rte.safetensors")
    with pytest.raises(UserError, match="holds bert data of sst-2, not bert rte"):
        read(tmp_path, "rte")
    monkeypatch.setattr(module, "FORMAT_VERSION", 2)
    with pytest.raises(UserError, match="format version 1, this code reads 2"):
        read(tmp_path, "rte")


def test_a_pickle_is_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was executed",))

    (tmp_path / "sst-2.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="cut short or not a cache"):
        read(tmp_path)


def change(name, value, dtype=None):
    """Write other numbers in the place of one array of the development set."""

    def changed(cache):
        array = np.array(value, dtype=dtype or getattr(cache.splits["dev"], name).dtype)
        splits = cache.splits | {"dev": replace(cache.splits["dev"], **{name: array})}
        return replace(cache, splits=splits)

    return changed


MISFITS = {
    "begin late": (change("offsets", [1, 3, 5]), "dev: offsets do not ascend"),
    "end early": (change("offsets", [0, 3, 4]), "dev: offsets do not ascend"),
    "end late": (change("offsets", [0, 3, 6]), "dev: offsets do not ascend"),
    "go back": (change("offsets", [0, 6, 5]), "dev: offsets do not ascend"),
    "go so far that a difference overflows": (change("offsets", [0, 2**62, -(2**63), 5]), "dev: "),
    "no rows": (change("offsets", [0]), "dev: no rows"),
    "no offsets": (change("offsets", []), "dev: no rows"),
    "rows without a second segment": (change("second", [3]), "dev: no rows, or arrays of different lengths"),
    "labels of other rows": (change("labels", [0, 1, 0]), "dev: no rows, or arrays of different lengths"),
    "second begins before its sentence": (change("second", [-1, 1]), "dev: a second segment outside"),
    "second begins after its sentence": (change("second", [3, 3]), "dev: a second segment outside"),
    "unknown class": (change("labels", [0, 2]), "dev: labels outside"),
    "negative class": (change("labels", [0, -1]), "dev: labels outside"),
    "scores for classes": (change("labels", [0, 1], "float32"), "dev: labels are not int64"),
    "token outside the vocabulary": (change("tokens", [2, 6, 3, 2, 3]), "dev: tokens outside"),
    "negative token": (change("tokens", [2, -5, 3, 2, 3]), "dev: tokens outside"),
    "tokens as fractions": (change("tokens", [2, 5, 3, 2, 3], "float32"), "dev: tokens are not int32"),
    "tokens in two dimensions": (change("tokens", [[2], [5], [3], [2], [3]]), "dev: tokens are not int32 in one"),
    "longer than it says": (lambda cache: replace(cache, max_length=2), "train: a sentence of more than 2 tokens"),
    "no length": (lambda cache: replace(cache, max_length=0), "a header of no such task"),
    "a word for the length": (lambda cache: replace(cache, max_length="long"), "invalid literal"),
    "labels of another task": (lambda cache: replace(cache, labels=("no", "yes")), "a header of no such task"),
    "no training split": (lambda cache: replace(cache, splits={"dev": cache.splits["dev"]}), "no train split"),
    "no development split": (lambda cache: replace(cache, splits={"train": cache.splits["train"]}), "no dev split"),
    "unlabelled": (lambda cache: replace(cache, splits=cache.splits | {"dev": cache.splits["test"]}), "no dev split"),
    "counts as fractions": (lambda cache: replace(cache, counts=np.ones(6)), "counts are not int64"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_arrays_that_do_not_fit_are_refused(tmp_path, name):
    changed, complaint = MISFITS[name]
    write_cache(tmp_path, changed(make_cache()), "bert", "abc")
    with pytest.raises(UserError, match="cut short or not a cache") as error:
        read(tmp_path)
    assert complaint in str(error.value)


def test_scores_must_be_finite(tmp_path):
    cache = replace(make_cache(), task="sts-b", labels=())
    for scores, good in (([0.5, 5.0], True), ([0.5, np.nan], False), ([np.inf, 1], False)):
        split = replace(cache.splits["dev"], labels=np.array(scores, dtype=np.float32))
        write_cache(tmp_path, replace(cache, splits={"train": split, "dev": split}), "bert", "abc")
        if good:
            assert read(tmp_path, "sts-b").splits["dev"].labels.tolist() == scores
        else:
            with pytest.raises(UserError, match="labels outside"):
                read(tmp_path, "sts-b")


HEADERS = {
    "splits that are none": {"splits": "3"},
    "splits that are lists": {"splits": "[[]]"},
    "splits without end": {"splits": "[" * 100_000},
    "labels that are none": {"labels": "null"},
    "no length": {"max_length": None},
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_make_no_sense_are_refused(tmp_path, name):
    rewritten(write_cache(tmp_path, make_cache(), "bert", "abc"), **HEADERS[name])
    with pytest.raises(UserError, match="cut short or not a cache"):
        read(tmp_path)


def test_a_type_that_numpy_lacks_is_refused(tmp_path):
    path = write_cache(tmp_path, make_cache(), "bert", "abc")
    with safe_open(path, framework="pt") as file:
        arrays, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    path.write_bytes(torch_save(arrays | {"dev.tokens": arrays["dev.tokens"].bfloat16()}, metadata=header))
    with pytest.raises(UserError, match="cut short or not a cache"):
        read(tmp_path)


def test_a_cache_is_read_without_being_copied(tmp_path):
    """100 MB of it add less than 10 MB to the memory that is this process's own."""
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("only Linux tells a process's own memory from mapped files")

    def own_megabytes():
        return int(re.search(r"RssAnon:\s+(\d+) kB", status.read_text(encoding="utf-8"))[1]) / 1000

    split = make_cache().splits["train"]
    tokens = np.zeros(25_000_000, dtype=np.int32)
    offsets = np.arange(0, len(tokens) + 1, 100)
    rows = np.zeros(len(offsets) - 1, dtype=np.int64)
    large = Split(tokens, offsets, rows.astype(np.int32), rows)
    write_cache(tmp_path, replace(make_cache(), splits={"train": large, "dev": split}), "bert", "abc")
    read(tmp_path)  # whatever the first reading brings into memory once for all
    before = own_megabytes()
    found = read(tmp_path)
    assert found.splits["train"].sentence(249_999).tolist() == [0] * 100
    assert own_megabytes() - before < 10


def test_a_place_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written"):
        write_cache(tmp_path / "cache", make_cache(), "bert", "abc")
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]


def test_a_cache_that_cannot_be_looked_for_is_not_a_missing_one(tmp_path):
    (tmp_path / "cache").symlink_to("cache")  # which leads nowhere, as a folder that may not be entered
    with pytest.raises(UserError, match=r"cache/mrpc\.safetensors: cannot be read \(.*\); allow reading it"):
        read_cache(tmp_path / "cache", "mrpc", "bert", "", "prepare")
