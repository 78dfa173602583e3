"""Files are written whole or not at all, also by processes that are killed."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from pruner.data.cache import read_cache
from pruner.data.vocabulary import read_vocabulary
from pruner.utils.errors import UserError
from pruner.utils.files import whole, write_whole


def killed(tmp_path, code: str) -> None:
    """Run Python that ends by being killed."""
    code = f"import os, signal\nfrom pathlib import Path\ndef die(): os.kill(os.getpid(), signal.SIGKILL)\n{code}"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert found.returncode == -signal.SIGKILL


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def raise_after(write, content):
    write(content)
    raise KeyError


def test_an_error_leaves_what_was_there(tmp_path):
    write_whole(tmp_path / "kept", b"before")
    for path in (tmp_path / "kept", tmp_path / "made" / "below" / "new"):
        with pytest.raises(KeyError), whole(path) as name:
            raise_after(name.write_bytes, b"half")
    assert names(tmp_path) == ["kept"]
    assert (tmp_path / "kept").read_bytes() == b"before"
    with pytest.raises(UserError, match="kept/new: cannot be written"):
        write_whole(tmp_path / "kept" / "new", b"")
    assert names(tmp_path) == ["kept"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    code = "from pruner.utils.files import whole\nwith whole(Path('file')) as name: name.write_bytes(b'half'); die()"
    killed(tmp_path, code)
    killed(tmp_path, code.replace("'file'", "'other'"))
    assert [name.split(".")[1::3] for name in names(tmp_path)] == [["file", "tmp"], ["other", "tmp"]]
    running = f".file.{os.getppid()}.{'0' * 16}.tmp"  # another process is still writing this one
    users = "file.17.tmp", ".file..tmp"
    for name in (running, *users, f".file.{10**30}.{'0' * 16}.tmp"):
        (tmp_path / name).write_bytes(b"half")
    write_whole(tmp_path / "file", b"whole")
    assert [name for name in names(tmp_path) if not name.startswith(".other")] == sorted(["file", *users, running])
    assert len(names(tmp_path)) == 5


WRITE = """
import os
from dataclasses import replace
import numpy as np
from pruner.utils import files
from pruner.data.cache import Split
from pruner.data.task import TASKS
from pruner.data.vocabulary import Vocabulary, write_words

def write(words, tokens):
    row = Split(np.array(tokens, dtype=np.int32), np.array([0, 2]), np.array([2], dtype=np.int32), np.array([1]))
    write_words(Path("."), TASKS["sst-2"], {"train": row, "dev": row}, Vocabulary(words), 8)

write(("good", "bad"), [2, 3])
change, left = os.replace, NUMBER
def counted(*names):
    global left
    if left == 0:
        die()
    left -= 1
    change(*names)
    if left == 0 and LATE:
        die()
files.os.replace = counted
write(("bad", "good", "film"), [4, 2])
die()
"""


@pytest.mark.parametrize(
    ("number", "late", "expected"),
    [(0, False, "good bad"), (1, True, None), (1, False, None), (2, True, "film bad"), (3, False, "film bad")],
)
def test_a_vocabulary_and_a_cache_of_two_writes_are_no_pair(tmp_path, number, late, expected):
    """Killed before, between or after the renames: the old pair, a refusal, the new pair; never a mixture."""
    killed(tmp_path, WRITE.replace("NUMBER", str(number)).replace("LATE", str(late)))
    vocabulary = read_vocabulary(tmp_path, "sst-2", "")
    if expected is None:
        with pytest.raises(UserError, match="made with another vocabulary"):
            read_cache(tmp_path, "sst-2", "lstm", vocabulary.fingerprint, "")
        return
    split = read_cache(tmp_path, "sst-2", "lstm", vocabulary.fingerprint, "").splits["dev"]
    assert " ".join(vocabulary.word(int(number)) for number in split.sentence(0)) == expected
