"""One cell's failure, damaged and unreadable files, files of the user's own: nothing is lost or taken wrongly."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import small_bert
from safetensors.torch import load_file, save_file
from test_run import QUICK, SCHEDULE, prepared, records  # noqa: F401  # a fixture

from pruner.compress.method import Dense
from pruner.compress.tokens.methods import TokenPruning
from pruner.report.records import read_record
from pruner.training import stages
from pruner.training.trainer import PruningTrainer
from pruner.utils.errors import SettingError, UserError
from pruner.utils.folders import check_sums, own_files, whole_folder, write_sums

HEAD = (*QUICK, *SCHEDULE, "--methods", "head")
CELL = "head_0.6-0-0.3-0x3_seed1"


def flip(path: Path, byte: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def one_line(err: str) -> str:
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert len(err) < 500
    return err


@pytest.mark.parametrize("way", ["learned", "uniform", "first"])
def test_a_budget_that_a_cell_cannot_meet_is_found_before_any_training(run, prepared, way):  # noqa: F811
    budgets = ("--target-flops-reduction", "1.2,30", "--search-reach", "30", "--budget-schedule", way)
    code, _, err = run("RunBert4Glue", *QUICK, *budgets, "--methods", "student")
    assert code == 2
    assert re.match(r"error: mrpc, student: --target-flops-reduction .*: 30 cannot be met", one_line(err))
    assert not (prepared / "records").exists()
    assert not (prepared / "cache/bert/stages").exists()


def test_a_budget_that_a_search_cannot_meet_ends_its_cell_alone(run, prepared, monkeypatch):  # noqa: F811
    real = TokenPruning.fit

    def fit(self, family, context):
        if self.target == 2:
            raise SettingError("target_flops_reduction", "2 cannot be met within 3 %; choose another")
        return real(self, family, context)

    monkeypatch.setattr(TokenPruning, "fit", fit)
    budgets = ("--target-flops-reduction", "2,1.2,1.3", "--budget-schedule", "soft-extract")
    code, out, err = run("RunBert4Glue", *QUICK, *budgets, "--methods", "attention")
    assert code == 2
    assert err == "error: " + re.search(r"mrpc, attention_soft-extract-2x_seed1: --target.*\n", out)[0]
    names = ["attention_soft-extract-1.2x_seed1", "attention_soft-extract-1.3x_seed1", "baseline_seed1"]
    assert list(records(prepared / "records")) == names


def test_an_error_that_nobody_has_foreseen_ends_its_cell_alone(run, prepared, monkeypatch):  # noqa: F811
    def examples(self, model, context, rows):
        return [{}][1 // (self.name == "tail")] if self.name in ("head", "tail") else []

    monkeypatch.setattr(TokenPruning, "examples", examples)
    code, out, err = run("RunBert4Glue", *QUICK, *SCHEDULE, "--methods", "head,tail,random")
    assert code == 2
    found = re.fullmatch(r"error: mrpc, head_\S+: ZeroDivisionError: .*; where that was is in (\S+) \(.*\)\n", err)
    assert "division" in Path(found[1]).read_text("utf-8").splitlines()[-1]
    assert "(and 1 more)" in err
    assert re.search(r"^mrpc, tail_\S+: IndexError: ", out, re.MULTILINE)
    assert "Traceback" not in out + err
    assert [record["method"] for record in records(prepared / "records").values()] == ["baseline", "random"]
    monkeypatch.undo()
    monkeypatch.chdir(prepared)
    assert run("RunBert4Glue", *QUICK, *SCHEDULE, "--methods", "head,tail,random")[0] == 0
    assert not Path(found[1]).exists()


def test_cells_without_their_baseline_are_counted(run, prepared, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Dense, "finalize", lambda *_: 1 / 0)
    code, _, err = run("RunBert4Glue", *QUICK, *SCHEDULE, "--methods", "head,tail")
    assert code == 2
    assert err.endswith("(and 2 not run, for want of their baseline)\n")
    assert not records(prepared / "records")


def test_a_name_that_is_no_text_is_refused_before_any_training(run, prepared):  # noqa: F811
    code, _, err = run("RunBert4Glue", *HEAD, "--save-models", "models-\udcff")
    assert code == 2
    assert "--save-models (save_models): 'models-\\udcff' is not UTF-8; give" in one_line(err)
    assert not (prepared / "records").exists()


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (("--records", "X", "--save-models", "./X"), r"--save-models \(save_models\): X is a folder of --records too"),
        (("--records", "X", "--save-models", "link"), r"--save-models .*: link is a folder of --records too"),
        (("--save-models", "cache/bert/stages"), r"--save-models .* is a folder of --cache too"),
        (("--records", "cache/bert/models"), r"--save-models .* is a folder of --records too"),
        (("--tensorboard", "records/BERT"), r"--tensorboard .* is a folder of --records too"),
    ],
)
def test_one_folder_for_two_things_is_refused(run, prepared, options, where):  # noqa: F811
    (prepared / "X").mkdir()
    (prepared / "link").symlink_to("X")
    code, _, err = run("RunBert4Glue", *HEAD, *options)
    assert code == 2
    assert re.match(f"error: {where}; choose another", one_line(err))
    assert not [*(prepared / "X").iterdir()]


@pytest.mark.parametrize("spoil", ["loop", "file", "locked"])
def test_a_record_that_cannot_be_read_is_not_a_missing_one(run, prepared, spoil):  # noqa: F811
    assert run("RunBert4Glue", *HEAD)[0] == 0
    folder = prepared / "records/BERT/mrpc" / CELL
    if spoil == "locked":
        folder.chmod(0)
        if os.access(folder, os.X_OK):
            pytest.skip("this user may enter any folder")
    else:
        folder.rename(prepared / "elsewhere")
        folder.symlink_to(folder) if spoil == "loop" else folder.write_text("mine", encoding="utf-8")
    try:
        before = sorted(folder.parent.iterdir())
        for options in ((), ("--force",)):
            code, _, err = run("RunBert4Glue", *HEAD, *options)
            assert code == 2
            assert re.match(rf"error: records/BERT/mrpc/{CELL}/\S+: cannot be read \(.*\); allow reading it, or", err)
            one_line(err)
        assert sorted(folder.parent.iterdir()) == before
    finally:
        if spoil == "locked":
            folder.chmod(0o700)


@pytest.mark.slow
def test_files_of_the_users_own_stay(run, prepared):  # noqa: F811
    """In the folders of a record, of a kept model, of a stage, of a training; as files and as folders."""
    options = (*HEAD, "--save-models", "models")
    mine = [f"{folder}/mine/notes.txt" for folder in (f"records/BERT/mrpc/{CELL}", f"models/mrpc/{CELL}")]
    for name in mine:
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text("mine", encoding="utf-8")
    assert run("RunBert4Glue", *options)[0] == 0
    (base,) = Path("cache/bert/stages/mrpc").iterdir()
    places = (base, Path("records/BERT/mrpc", CELL), Path("models/mrpc", CELL))
    mine += [f"{place}/notes.txt" for place in places]
    for name in mine[2:]:
        Path(name).write_text("mine", encoding="utf-8")
    kept = {path: path.read_bytes() for path in Path("models").rglob("*") if path.is_file()}
    assert run("RunBert4Glue", *options, "--force")[0] == 0
    assert run("pruner.clean", "--yes")[0] == 0
    assert all(Path(name).read_text(encoding="utf-8") == "mine" for name in mine)
    assert [path.name for path in base.iterdir()] == ["notes.txt"]
    assert {path.name for path in places[1].iterdir()} == {"record.json", "run.log", "mine", "notes.txt"}
    for path, content in kept.items():
        assert path.name == "README.md" or path.read_bytes() == content, path
    # A stage's folder that holds the user's file alone is no stage.
    assert run("RunBert4Glue", *options, "--records", "again")[0] == 0
    assert read_record(Path("again/mrpc", CELL))


def raise_after(path: Path) -> None:
    path.write_bytes(b"half")
    raise KeyError


def test_what_is_replaced_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "kept"
    for names in (("a", "b", "last"), ("b", "c", "last")):
        with whole_folder(folder, last="last") as new:
            for name in names:
                (new / name).write_text(name)
            write_sums(new)
    assert {path.name for path in folder.iterdir()} == {"b", "c", "last", "SHA256SUMS"}
    check_sums(folder, "")
    with pytest.raises(KeyError), whole_folder(folder, last="last") as new:
        raise_after(new / "b")
    check_sums(folder, "")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    "line", ["x", *(f"{'0' * 64}  {name}" for name in ("../up", "..", "*", "/")), f"{'0' * 64} *a", "\udcff"]
)
def test_checksums_that_are_none_are_damage(tmp_path, line):
    (tmp_path / "SHA256SUMS").write_text(line, errors="surrogateescape")
    with pytest.raises(UserError, match="SHA256SUMS: "):
        check_sums(tmp_path, "")
    assert own_files(tmp_path) == []


def test_what_is_kept_is_as_readable_as_other_files(run, prepared):  # noqa: F811
    assert run("RunBert4Glue", *HEAD)[0] == 0
    (prepared / "plain").touch()
    files = [path for root in ("records", "cache") for path in (prepared / root).rglob("*") if path.is_file()]
    assert {"model.safetensors", "config.json", "stage.json", "mrpc.safetensors"} <= {path.name for path in files}
    assert {path.stat().st_mode for path in files} == {(prepared / "plain").stat().st_mode}


@pytest.mark.parametrize("name", ["model.safetensors", "stage.json"])
def test_a_flipped_bit_in_a_stage_is_noticed(run, prepared, name):  # noqa: F811
    assert run("RunBert4Glue", *HEAD)[0] == 0
    shutil.rmtree("records")
    (base,) = Path("cache/bert/stages/mrpc").iterdir()
    flip(base / name, byte=-20)
    code, _, err = run("RunBert4Glue", *HEAD)
    assert code == 2
    assert f"{base}/{name}: not as it was written, by SHA256SUMS beside it; remove the folder" in one_line(err)
    shutil.rmtree(base)
    assert run("RunBert4Glue", *HEAD)[0] == 0


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt"])
def test_a_flipped_bit_in_a_kept_model_is_noticed(run, prepared, name):  # noqa: F811
    assert run("RunBert4Glue", *HEAD, "--save-models", "models")[0] == 0
    folder = Path("models/mrpc", CELL)
    if not (folder / name).is_file():
        name = "tokenizer.json"
    flip(folder / name, byte=-20)
    damage = f"{folder}/{name}: not as it was written, by SHA256SUMS beside it; "
    code, _, err = run("pruner.survivors", f"records/BERT/mrpc/{CELL}", "--sentence", "a film")
    assert code == 2
    assert damage in one_line(err)
    code, _, err = run("RunBert4Glue", *HEAD, "--bert", str(folder), "--records", "more")
    assert code == 2
    assert damage in one_line(err)


def unknown_field(folder: Path) -> None:
    path = folder / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"invented": 1}))


def missing_field(folder: Path) -> None:
    path = folder / "trainer_state.json"
    path.write_text(json.dumps({"global_step": json.loads(path.read_text())["global_step"]}))


def foreign_state(folder: Path) -> None:
    """As of another version of transformers."""
    unknown_field(folder)
    write_sums(folder)


DAMAGES = {
    "unknown field": unknown_field,
    "missing field": missing_field,
    "foreign state": foreign_state,
    "cut optimizer": lambda folder: (folder / "optimizer.pt").write_bytes(b"cut"),
    "flipped bit": lambda folder: flip(folder / "model.safetensors"),
    "no scheduler": lambda folder: (folder / "scheduler.pt").unlink(),
    "no sums": lambda folder: (folder / "SHA256SUMS").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_not_used(run, prepared, monkeypatch, damage):  # noqa: F811
    baseline = (*QUICK, "--methods", "", "--epochs", "2")
    assert run("RunBert4Glue", *baseline, "--records", "whole")[0] == 0
    shutil.rmtree("cache/bert/stages")
    real, steps = PruningTrainer.training_step, []

    def stop(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(PruningTrainer, "training_step", stop)
    assert run("RunBert4Glue", *baseline)[0] == 130
    (checkpoint,) = Path("cache/bert/stages/mrpc").glob("*.training/checkpoint-*")
    DAMAGES[damage](checkpoint)
    code, out, err = run("RunBert4Glue", *baseline)
    assert code == 0, err
    assert f"{checkpoint}: cut short or damaged, training goes on without it (" in out
    assert len(steps) == 5 + 6
    (whole,), (damaged,) = (records(prepared / name).values() for name in ("whole", "records"))
    assert damaged["loss"] == whole["loss"]


def test_a_model_is_kept_as_by_a_run_that_was_not_killed_before_its_record(run, prepared, monkeypatch):  # noqa: F811
    """Its config too: training leaves traces in that."""
    options = (*QUICK, *SCHEDULE, "--methods", "head,student")
    assert run("RunBert4Glue", *options, "--save-models", "whole", "--records", "whole records")[0] == 0
    shutil.rmtree("cache/bert/stages")
    for kind in (Dense, TokenPruning):
        real = kind.finalize
        monkeypatch.setattr(kind, "finalize", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        assert run("RunBert4Glue", *options, "--save-models", "broken")[0] == 130
        monkeypatch.setattr(kind, "finalize", real)
    code, _, err = run("RunBert4Glue", *options, "--save-models", "broken")
    assert code == 0, err
    files = [path.relative_to("whole") for path in Path("whole").rglob("*") if path.is_file()]
    assert len({path.parent for path in files}) == 3
    for path in files:
        assert path.name == "README.md" or Path("broken", path).read_bytes() == Path("whole", path).read_bytes(), path
    config = json.loads(Path("broken/mrpc/baseline_seed1/config.json").read_text(encoding="utf-8"))
    assert config["use_cache"]
    assert config.get("problem_type") is None


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_blamed_on_the_learning_rate(run, prepared, number):  # noqa: F811
    weights = load_file("bert/model.safetensors")
    weights["embeddings.word_embeddings.weight"][3, 5] = number
    save_file(weights, "bert/model.safetensors", {"format": "pt"})
    code, _, err = run("RunBert4Glue", *HEAD)
    assert code == 2
    assert re.search(r": bert: bert\.embeddings\.word_embeddings\.weight holds numbers that are not finite; copy", err)
    assert "learning" not in one_line(err)
    assert not [path for root in ("records", "cache/bert") for path in Path(root).rglob("*") if path.is_dir()]


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "MASTER_PORT"])
def test_an_environment_that_torchrun_does_not_make_is_refused(run, prepared, monkeypatch, name):  # noqa: F811
    monkeypatch.setenv(name, "x")
    code, _, err = run("RunBert4Glue", *HEAD)
    assert code == 2
    assert err == f"error: {name}: 'x' is no number; start several processes with torchrun, or unset WORLD_SIZE\n"


def test_several_processes_that_cannot_meet_are_refused(run, prepared, monkeypatch):  # noqa: F811
    for name, number in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, number)
    code, _, err = run("RunBert4Glue", *HEAD)
    assert code == 2
    assert "MASTER_ADDR" in one_line(err)


@pytest.mark.parametrize("shape", [{}, {"hidden_size": 16}])
def test_a_stage_of_other_weights_is_named(run, prepared, monkeypatch, shape):  # noqa: F811
    """A checksum is not asked of folders that have none; what they hold is checked all the same."""
    assert run("RunBert4Glue", *HEAD)[0] == 0
    shutil.rmtree("records")
    (base,) = Path("cache/bert/stages/mrpc").iterdir()
    (base / "SHA256SUMS").unlink()
    torch.save({}, base / "nothing.pt")
    shutil.copy(small_bert(prepared / "other", **shape) / "model.safetensors", base / stages.WEIGHTS)
    code, _, err = run("RunBert4Glue", *HEAD)
    assert code == 2
    assert f"{base}: not a finished stage (" in one_line(err)


PIPES = [f"records/BERT/mrpc/{CELL}/record.json", "records/README.md"]
PIPES += [f"cache/bert/stages/mrpc/baseline*/{name}" for name in ("stage.json", "model.safetensors", "SHA256SUMS")]


@pytest.mark.parametrize("place", PIPES)
@pytest.mark.parametrize("with_sums", [True, False])
@pytest.mark.timeout(60)
def test_a_pipe_in_place_of_a_file_is_refused(run, prepared, place, with_sums):  # noqa: F811
    """Reading it would never end."""
    assert run("RunBert4Glue", *HEAD)[0] == 0
    (path,) = prepared.glob(place)
    if not place.startswith("records"):
        shutil.rmtree("records")
        if not with_sums:
            (path.parent / "SHA256SUMS").unlink()
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    code, out, err = run("RunBert4Glue", *HEAD)
    if place.endswith("README.md"):  # the page is not what the run is for
        assert code == 0
        assert "no report: records/README.md: a pipe, socket or device, not a file" in out
    else:
        assert code == 2
        assert "a pipe, socket or device, not a file" in one_line(err)
