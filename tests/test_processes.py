"""Several processes: together on one cell, started by torchrun, and side by side on one grid."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, small_bert, write_mrpc
from safetensors.numpy import load_file
from test_run import prepared, records  # noqa: F401

from pruner.experiments import run_grid
from pruner.utils.locks import Lock

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
QUICK = ("--epochs", "2", "--batch-size", "7", "--latency-repeats", "1", "--learning-rate", "1e-3")


def start(*command, **options) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    return subprocess.Popen(command, env=environment, **pipes, **options)


def weights(folder: Path) -> dict[str, dict]:
    """All kept weights, by the names of their folders without the hash of the settings."""
    found = folder.rglob("model.safetensors")
    return {re.sub(r"-[0-9a-f]{12}$", "", path.parent.name): load_file(path) for path in found}


def assert_same(one: dict[str, dict], other: dict[str, dict]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        for part, value in values.items():
            # Adam blows up what is rounding noise: gradients that are 0 but for it, which biases have.
            if not part.endswith("bias"):
                difference = np.nan_to_num(value - other[name][part])
                assert np.linalg.norm(difference) < 2e-3 * np.linalg.norm(np.nan_to_num(value)), (name, part)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("RunBert4Glue", ("--target-flops-reduction", "1.2", "--budget-schedule", "soft-extract")),
        (
            "RunLstm4Glue",
            ("--embedding-size", "16", "--hidden-size", "16", "--head-size", "8", "--student-widths", "8"),
        ),
    ],
)
def test_two_processes_do_what_one_does(run, tmp_path, script, options):
    """24 rows in batches of 7: the shares are uneven, and the last batch is smaller."""
    write_mrpc(tmp_path / "data")
    small_bert(tmp_path / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    prepare = script.replace("Run", "Prepare").replace("Lstm4Glue", "Glue4Lstm").replace("Bert4Glue", "Glue4Bert")
    assert run(prepare, "--tasks", "mrpc")[0] == 0
    options = (*QUICK, *options, "--methods", "student")
    code, _, err = run(script, *options, "--records", "one", "--save-models", "models/one")
    assert code == 0, err
    kept = weights(tmp_path / "cache")
    for left in (tmp_path / "cache").glob("*/stages"):
        left.rename(tmp_path / f"stages of one {left.parent.name}")

    together = start(*TORCHRUN, str(ROOT / f"{script}.py"), *options, "--records", "two", "--save-models", "models/two")
    out, err = together.communicate(timeout=900)
    assert together.returncode == 0, err
    assert out.count("[2/2") == 1  # one of them speaks
    assert "%|" not in err  # no bars where there is no terminal
    assert "Warning" not in err
    found, expected = records(tmp_path / "two"), records(tmp_path / "one")
    assert found.keys() == expected.keys()
    assert len(found) == 2
    for name, record in found.items():
        assert record["environment"]["processes"] == 2
        assert record["settings"] == expected[name]["settings"]
        assert record["metrics"] == pytest.approx(expected[name]["metrics"], abs=1e-6)
        assert record.get("schedule") == expected[name].get("schedule")
        for entry, alone in zip(record["loss"], expected[name]["loss"], strict=True):
            assert entry["loss"] == pytest.approx(alone["loss"], abs=2e-4)
            assert entry.get("student_loss", 0) == pytest.approx(alone.get("student_loss", 0), abs=1e-2)
    assert_same(kept, weights(tmp_path / "cache"))  # the fine-tuned model, the search with its parameters
    assert_same(weights(tmp_path / "models" / "one"), weights(tmp_path / "models" / "two"))


@pytest.mark.slow
def test_two_runs_of_one_grid_share_its_cells(prepared):  # noqa: F811
    options = (*QUICK, "--schedule", "0.5,0,0,0,0,0", "--methods", "head,tail,attention", "--seeds", "1,2")
    command = (sys.executable, str(ROOT / "RunBert4Glue.py"), *options)
    alone = start(*command, "--records", "alone", cwd=prepared)
    assert alone.communicate(timeout=900)[0]
    both = [start(*command, cwd=prepared) for _ in range(2)]
    ends = [process.communicate(timeout=900) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    ran = [re.findall(r"^\[\d+/.*\] mrpc: (\S+)", out, re.MULTILINE) for out, _ in ends]
    found, expected = records(prepared / "records"), records(prepared / "alone")
    assert sorted(ran[0] + ran[1]) == sorted(expected)  # each once
    assert found.keys() == expected.keys()
    for name, record in found.items():
        for key in ("metrics", "baseline_metrics", "loss", "tokens"):
            assert record[key] == expected[name][key], (name, key)
    tables = [out[out.index("| task") :] for out, _ in ends]
    assert tables[0] == tables[1]
    assert not list(prepared.rglob("*.lock"))
    assert not list(prepared.rglob("*.training"))


class StubGrid:
    """The records of a grid, and nothing else."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, cell):
        return self.root / cell.name

    def finished(self, cell):
        path = self.folder(cell) / "record.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def test_cells_of_another_process_are_left_and_waited_for(tmp_path, capsys):
    grid, cells = StubGrid(tmp_path), []
    for seed in (1, 2):
        baseline = SimpleNamespace(name=f"baseline_seed{seed}", baseline=None)
        cells += [baseline, SimpleNamespace(name=f"head_seed{seed}", baseline=baseline)]
    finished, locks = [None] * 4, [Lock(grid.folder(cell)) for cell in cells]
    taken, go = threading.Event(), threading.Event()

    def work_elsewhere():
        lock = Lock(grid.folder(cells[0]))
        assert lock.take(wait=False)
        taken.set()
        go.wait(10)
        time.sleep(0.5)
        grid.folder(cells[0]).mkdir()
        (grid.folder(cells[0]) / "record.json").write_text('{"theirs": true}', encoding="utf-8")
        lock.release()

    thread = threading.Thread(target=work_elsewhere)
    thread.start()
    assert taken.wait(10)
    # The baseline of seed 1 is the other's, so that nothing can be compared with it yet.
    for index in (2, 3):
        assert run_grid.take_cell(grid, cells, finished, {}, locks) == index
        finished[index] = {}
        locks[index].release()
    go.set()
    assert run_grid.take_cell(grid, cells, finished, {}, locks) == 1
    thread.join()
    assert finished[0] == {"theirs": True}
    assert capsys.readouterr().out == "waiting for another process, which runs baseline_seed1\n"
    finished[1] = {}
    assert run_grid.take_cell(grid, cells, finished, {}, locks) is None


def test_a_claim_ends_with_its_process(tmp_path):
    code = "import sys; from pathlib import Path; from pruner.utils.locks import Lock; "
    code += "lock = Lock(Path(sys.argv[1])); "
    code += "print(lock.take(wait=False), flush=True); sys.stdin.read()"
    path = tmp_path / "cell"
    other = start(sys.executable, "-c", code, str(path), stdin=subprocess.PIPE, cwd=ROOT)
    assert other.stdout.readline() == "True\n"
    lock = Lock(path)
    assert not lock.take(wait=False)
    other.kill()
    other.communicate()
    assert lock.take(wait=False)
    lock.release()
    assert not list(tmp_path.iterdir())
