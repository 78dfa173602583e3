"""The cache: what goes in comes out, and nothing else is taken for one."""

import pickle

import numpy as np
import pytest

from pruner import cache as module
from pruner.cache import Cache, Split, read_cache, write_cache
from pruner.errors import UserError


def make_cache() -> Cache:
    split = Split(
        tokens=np.array([2, 5, 3, 2, 3], dtype=np.int32),
        offsets=np.array([0, 3, 5]),
        second=np.array([3, 1], dtype=np.int32),
        labels=np.array([1, 0]),
    )
    test = Split(split.tokens, split.offsets, split.second, None)
    return Cache("sst-2", ("0", "1"), 128, {"train": split, "test": test}, np.array([0, 0, 2, 2, 0, 1]))


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


def test_a_place_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written"):
        write_cache(tmp_path / "cache", make_cache(), "bert", "abc")
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]
