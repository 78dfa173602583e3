"""python -m pruner.clean, and --dry-run."""

import io
import json

import pytest
from test_run import QUICK, SCHEDULE, prepared, records  # noqa: F401

from pruner.utils.locks import Lock

CLEAN = "pruner.clean"
OPTIONS = (*QUICK, *SCHEDULE, "--methods", "head,tail", "--start", "finetuned")


def kept(folder) -> set[str]:
    """The stages and models, without the hash of their settings."""
    places = ("stages", "models")
    return {path.name.rpartition("-")[0] for place in places for path in (folder / "cache/bert" / place).glob("mrpc/*")}


def stop_after(monkeypatch, cells):
    from pruner.experiments import run_grid

    real, ran = run_grid.run_cell, []

    def run_cell(*args):
        if len(ran) == cells:
            raise KeyboardInterrupt
        ran.append(args)
        return real(*args)

    monkeypatch.setattr(run_grid, "run_cell", run_cell)


def test_a_dry_run_shows_everything_and_trains_nothing(run, prepared, monkeypatch):  # noqa: F811
    before = set(prepared.rglob("*"))
    code, out, err = run("RunBert4Glue", *OPTIONS, "--dry-run")
    assert (code, err) == (0, "")
    assert set(prepared.rglob("*")) == before
    assert "mrpc: baseline_seed1\n    stage baseline_seed1: to do (1 epochs of 24 rows, 3 steps)\n" in out
    head = "    stage head_0.6-0-0.3-0x3_seed1: to do (1 epochs of 24 rows, 3 steps, from baseline_seed1)\n"
    assert f"mrpc: head_0.6-0-0.3-0x3_seed1\n    stage baseline_seed1: as above\n{head}" in out
    assert "3 cells, 0 of them finished; 3 trainings to do\n" in out
    size = prepared.joinpath("bert/model.safetensors").stat().st_size / 1e6  # but for the classifier
    assert f"{size:.1f} MB of stages in cache/bert/stages/, {3 * size:.1f} MB of models in" in out

    stop_after(monkeypatch, 2)
    assert run("RunBert4Glue", *OPTIONS)[0] == 130
    out = run("RunBert4Glue", *OPTIONS, "--dry-run")[1]
    assert "mrpc: baseline_seed1 (finished)\n    stage baseline_seed1: finished (" in out
    assert "mrpc: head_0.6-0-0.3-0x3_seed1 (finished)\n" in out
    assert "mrpc: tail_0.6-0-0.3-0x3_seed1\n" in out
    assert "3 cells, 2 of them finished; 1 trainings to do\n" in out


def test_what_unfinished_cells_need_stays_until_they_are_finished(run, prepared, monkeypatch):  # noqa: F811
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert run("RunBert4Glue", *OPTIONS)[0] == 130
    assert kept(prepared) == {"baseline_seed1", "head_0.6-0-0.3-0x3_seed1"}
    (prepared / "cache/bert/stages/mrpc/notes.txt").write_text("mine")
    written = records(prepared / "records")

    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, out, _ = run(CLEAN)
    assert code == 0
    assert "needed by 1 unfinished cell\n" in out
    assert "nothing was removed" in out
    assert run(CLEAN, "--no-models", "--yes")[1].endswith("nothing to remove\n")
    code, out, _ = run(CLEAN, "--yes")  # the models of the two that are finished
    assert "removed 2 folders" in out
    assert {
        path.name.rpartition("-")[0] for path in (prepared / "cache/bert/stages/mrpc").iterdir() if path.is_dir()
    } == {"baseline_seed1"}
    assert not list((prepared / "cache/bert/models").glob("mrpc/*"))

    # The third cell needs no second training of the baseline. When it has its record, nothing is needed any more.
    code, out, _ = run("RunBert4Glue", *OPTIONS)
    assert code == 0
    assert "stage baseline_seed1: training" not in out
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert "removed 2 folders" in run(CLEAN)[1]  # the baseline's stage, the third model
    assert (prepared / "cache/bert/stages/mrpc/notes.txt").read_text() == "mine"
    assert written.items() <= records(prepared / "records").items()
    assert (prepared / "cache/bert/mrpc.safetensors").is_file()


def test_what_is_being_trained_stays(run, prepared):  # noqa: F811
    stage = prepared / "cache/bert/stages/mrpc/baseline_seed1-0123456789ab"
    odd = stage.with_name("a\x1b[2J\nb.training")
    odd.mkdir(parents=True)
    checkpoint = stage.with_name(f"{stage.name}.training") / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    lock = Lock(stage)
    assert lock.take(wait=False)
    out = run(CLEAN, "--yes")[1]
    assert "another process is at work on it" in out
    assert "cache/bert/stages/mrpc/a\\x1b[2J\\nb.training: 0.0 MB\n" in out
    assert checkpoint.is_dir()
    lock.release()
    assert "removed 1 folders" in run(CLEAN, "--yes")[1]
    assert not checkpoint.parent.exists()


@pytest.mark.parametrize("content", ["{", "[]x", json.dumps([{"stages": []}]), json.dumps({"record": 1})])
def test_a_damaged_plan_is_named(run, prepared, content):  # noqa: F811
    plan = prepared / "cache/bert/stages/plans/0123.json"
    plan.parent.mkdir(parents=True)
    plan.write_text(content)
    code, _, err = run(CLEAN, "--yes")
    assert code == 2
    assert err.startswith("error: cache/bert/stages/plans/0123.json: not a plan of a run (")
    assert err.count("\n") == 1


def test_a_folder_that_is_not_there_is_named(run, tmp_path):
    code, _, err = run(CLEAN, "--cache", "nowhere")
    assert (code, err.count("\n")) == (2, 1)
    assert "--cache (cache): nowhere is no folder" in err


def test_where_nobody_can_answer_nothing_is_removed(run, prepared, monkeypatch):  # noqa: F811
    assert run("RunBert4Glue", *OPTIONS)[0] == 0
    before = kept(prepared)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = run(CLEAN)
    assert (code, err) == (2, "error: nothing was removed: there is nobody to ask; --yes removes them without asking\n")
    assert kept(prepared) == before
