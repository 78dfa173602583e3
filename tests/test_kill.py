"""Prepare and run, killed at random moments: what is there is whole, and what comes out is as without it.

``KILLS=200 python -m pytest -m slow tests/test_kill.py`` tries more of them than the 24 of CI.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, small_bert, write_mrpc
from safetensors.numpy import load_file

from pruner.data.cache import read_cache
from pruner.data.tokenizer import load_tokenizer
from pruner.training.checkpoints import last_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")]
KILLS = int(os.environ.get("KILLS", "24"))
RUN = ("--target-flops-reduction", "1.3", "--methods", "attention,student", "--epochs", "3", "--batch-size", "8")
RUN += ("--latency-repeats", "1", "--learning-rate", "1e-3", "--save-models", "models")
SEARCH = (*RUN, "--budget-schedule", "soft-extract")
STOPPED = "stopped: run the same command again, finished work is kept"


def start(folder, script, *options) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(ROOT / f"{script}.py"), *options]
    with (folder / "stderr.txt").open("wb") as err:  # a pipe that nobody reads would stop the script
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=err, text=True, encoding="utf-8"
        )


def finish(process, folder) -> str:
    """What it wrote to stderr to its end."""
    process.communicate(timeout=900)
    return (folder / "stderr.txt").read_text(encoding="utf-8", errors="replace")


def wait_for(process, sign) -> None:
    """Until the script has said so."""
    for line in process.stdout:
        if sign in line:
            return


def run_killed(folder, script, options, sign, longest, check, generator, kills) -> int:
    """Kill the script at random moments until it has come to its end; returns how often it was killed.

    Most moments are counted from when it prints ``sign``, since importing takes seconds; some from its start.
    """
    killed = 0
    while True:
        process = start(folder, script, *options)
        if generator.random() < 0.8:
            wait_for(process, sign)
        how = generator.choice([signal.SIGKILL, signal.SIGINT])
        if killed < kills:
            try:
                process.wait(generator.uniform(0.15, longest))
            except subprocess.TimeoutExpired:
                process.send_signal(how)
                killed += 1
        err = finish(process, folder)
        check()
        if process.returncode == 0:
            return killed
        # An interrupt while importing is a signal still; both are 130 for a shell.
        assert process.returncode in ((130, -signal.SIGINT) if how == signal.SIGINT else (-signal.SIGKILL,)), err
        if how == signal.SIGINT:
            assert "Traceback" not in err
            unborn = process.returncode == -signal.SIGINT and not err  # Python itself was not there yet
            assert unborn or err.splitlines()[-1] == STOPPED, err


def records(folder) -> dict[str, dict]:
    found = {}
    for path in folder.rglob("record.json"):
        if not path.parent.name.startswith("."):
            found[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
    return found


def check_run(folder) -> None:
    """Whatever has its final name is whole."""
    for name, record in records(folder / "records").items():
        assert record["status"] == "complete"
        assert (folder / "records" / "BERT" / "mrpc" / name / "run.log").is_file()
        # The model was kept before the record was written.
        assert load_file(folder / "models" / "mrpc" / name / "model.safetensors")
    for stage in (folder / "cache" / "bert" / "stages").glob("mrpc/[!.]*"):
        if stage.name.endswith(".training"):
            checkpoint = last_checkpoint(stage, print)
            assert checkpoint is None or load_file(f"{checkpoint}/model.safetensors")
        else:
            assert load_file(stage / "model.safetensors")
            assert json.loads((stage / "stage.json").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path):
    write_mrpc(tmp_path / "data", rows=160)
    small_bert(tmp_path / "bert")
    return tmp_path


@pytest.mark.parametrize("options", [RUN, SEARCH])
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(folder, options):
    generator = random.Random(str(options))
    finish(start(folder, "PrepareGlue4Bert", "--tasks", "mrpc"), folder)
    whole = start(folder, "RunBert4Glue", *options, "--records", "whole/BERT", "--cache", "cache/bert")
    wait_for(whole, "3 cells")
    began = time.monotonic()
    err = finish(whole, folder)
    longest = time.monotonic() - began
    assert whole.returncode == 0, err
    (folder / "models").rename(folder / "models of the whole run")
    (folder / "whole").rename(folder / "records of the whole run")

    killed, expected = 0, records(folder / "records of the whole run")
    while killed < KILLS // 3:
        for name in ("records", "models", "cache/bert/stages"):
            shutil.rmtree(folder / name, ignore_errors=True)
        killed += run_killed(
            folder,
            "RunBert4Glue",
            options,
            "3 cells",
            longest / 3,
            lambda: check_run(folder),
            generator,
            KILLS // 3 - killed,
        )
        check_end(folder, expected)
    print(f"killed {killed} times; a whole run takes {longest:.1f} s")


def check_end(folder, expected) -> None:
    """Records and models are those of the run that was not killed, and nothing else is left."""
    found = records(folder / "records")
    assert found.keys() == expected.keys()
    assert len(found) == 3
    for name, record in found.items():
        for key in set(record) - {"latency", "seconds"}:
            assert record[key] == expected[name][key], (name, key)
        kept, other = (folder / root / "mrpc" / name for root in ("models", "models of the whole run"))
        assert {path.name for path in kept.iterdir()} == {path.name for path in other.iterdir()}
        for path in kept.iterdir():  # but for the card, which has the speed-up
            assert path.name == "README.md" or path.read_bytes() == (other / path.name).read_bytes(), path
    left = [path.name for path in folder.rglob("*") if path.name.endswith((".tmp", ".old", ".training", ".lock"))]
    assert left == []


def test_a_prepare_that_is_killed_leaves_no_file_that_is_not_whole(folder):
    generator, fingerprint = random.Random(1), load_tokenizer(folder / "bert", 128).fingerprint
    write_mrpc(folder / "data", rows=6000)
    whole = start(folder, "PrepareGlue4Bert", "--tasks", "mrpc", "--cache", "whole")
    began = time.monotonic()
    assert finish(whole, folder) == ""
    longest = time.monotonic() - began

    def check():
        if (folder / "cache" / "mrpc.safetensors").is_file():
            read_cache(folder / "cache", "mrpc", "bert", fingerprint, "")

    killed = 0
    while killed < KILLS // 3:
        (folder / "cache" / "mrpc.safetensors").unlink(missing_ok=True)
        options = ("--tasks", "mrpc", "--cache", "cache")
        killed += run_killed(folder, "PrepareGlue4Bert", options, "vocabulary", longest, check, generator, 4)
    found, expected = (load_file(folder / name / "mrpc.safetensors") for name in ("cache", "whole"))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(value, expected[name]) for name, value in found.items())
    assert [path.name for path in (folder / "cache").iterdir()] == ["mrpc.safetensors"]
