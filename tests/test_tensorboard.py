"""TensorBoard's curves: they show what was trained, and change nothing of it."""

import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from conftest import ROOT, small_bert, small_config, write_mrpc
from safetensors.torch import load_file
from test_processes import TORCHRUN, start
from test_run import prepared, records, written  # noqa: F401
from test_run_lstm import SIZES
from test_run_lstm import prepared as words  # noqa: F401
from test_train import make_split
from test_trainer import lstm

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.tokens.sampled import SampleSchedules
from pruner.compress.tokens.select import keep_counts
from pruner.data.cache import read_cache
from pruner.data.collate import LstmCollator, SplitDataset
from pruner.data.tokenizer import load_tokenizer
from pruner.training.context import Context
from pruner.training.curves import Curves, check_tensorboard
from pruner.training.train import train
from pruner.training.trainer import PruningTrainer, TrainSettings
from pruner.utils.errors import CellError, UserError

# All rows in each step, so that it is known what is computed in it.
WHOLE = ("--epochs", "3", "--batch-size", "24", "--latency-repeats", "1", "--learning-rate", "1e-3")
BERT = (*WHOLE, "--schedule", "0.6,0,0.3,0,0,0", "--methods", "student")
STUDENT = "student-emission_0.6-0-0.3-0x3_seed1"
LOGGED = ("--tensorboard", "curves")
# Of its training rows' sentences, as in write_mrpc; row 3 has 2 and 0.
WORDS = [(4, 9)[row % 2] for row in range(24) if row != 3] + [2]
WORDS += [(4, 9)[row // 2 % 2] for row in range(24) if row != 3] + [0]


@pytest.fixture
def read():
    """What TensorBoard shows of a folder: the steps and values of each curve."""
    pytest.importorskip("tensorboard", reason="its files are read with tensorboard")

    def curves(folder) -> dict[str, dict[int, float]]:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        shown = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        found = {}
        for name in shown.Tags()["scalars"]:
            events = shown.Scalars(name)
            found[name] = {event.step: event.value for event in events}
            assert name == "train/epoch" or len(found[name]) == len(events)  # each step once
        return found

    return curves


def assert_losses(curves: dict, record: dict) -> None:
    for name in ("loss", "student_loss"):
        expected = {entry["step"]: entry[name] for entry in record["loss"] if name in entry}
        assert curves.get(f"train/{name}", {}) == pytest.approx(expected, abs=1e-5)


def assert_metrics(curves: dict, record: dict, steps: list[int]) -> None:
    """One after each epoch, the last that of the record."""
    for name, value in record["metrics"].items():
        assert list(curves[f"eval/{name}"]) == steps
        assert curves[f"eval/{name}"][steps[-1]] == pytest.approx(value, abs=1e-6)


def assert_same_run(one, other) -> None:
    """Records and kept models of two folders, to the last bit."""
    found, expected = records(one / "records"), records(other / "records")
    assert found.keys() == expected.keys()
    for name, record in found.items():
        for key in set(record) - {"latency", "seconds", "model_folder"}:
            assert record[key] == expected[name][key], (name, key)
    kept = [path.relative_to(one) for path in one.rglob("models/*/*/model.safetensors")]
    assert len(kept) == len(found)
    for path in kept:
        assert (one / path).read_bytes() == (other / path).read_bytes(), path


def run_both(run, folder, script, *options):
    """The same run with and without curves; where each wrote to."""
    ends = []
    for name, more in (("without", ()), ("with", LOGGED)):
        places = ("--records", f"{name}/records", "--save-models", f"{name}/models")
        for stages in (folder / "cache").glob("*/stages"):
            shutil.rmtree(stages)  # each begins from nothing
        code, _, err = run(script, *options, *places, *more)
        assert code == 0, err
        ends.append(folder / name)
        assert (folder / "curves").exists() == bool(more)
    return ends


def train_lengths(folder) -> list[int]:
    fingerprint = load_tokenizer(folder / "bert", 128).fingerprint
    return read_cache(folder / "cache" / "bert", "mrpc", "bert", fingerprint, "").splits["train"].lengths.tolist()


def test_curves_of_a_student_are_its_records_and_change_nothing(run, prepared, read):  # noqa: F811
    without, logged = run_both(run, prepared, "RunBert4Glue", *BERT)
    assert_same_run(without, logged)
    found = records(logged / "records")
    assert {path.name for path in (prepared / "curves" / "mrpc").iterdir()} == found.keys()
    lengths = np.array(train_lengths(prepared))
    first = lengths - np.floor(lengths * 0.6 + 1e-9)
    second = first - np.floor(first * 0.3 + 1e-9)
    retained = {STUDENT: (2 * first.sum() + 4 * second.sum()) / (6 * lengths.sum()), "baseline_seed1": 1}
    assert 0.3 < retained[STUDENT] < 0.5
    for name, record in found.items():
        curves = read(prepared / "curves" / "mrpc" / name)
        assert_losses(curves, record)
        assert_metrics(curves, record, [1, 2, 3])
        assert curves["train/retained_tokens"] == pytest.approx(dict.fromkeys([1, 2, 3], retained[name]), abs=1e-6)
        assert np.diff(list(curves["train/learning_rate"].values())) == pytest.approx(-1e-3 / 3, abs=1e-8)

    # Finished cells are known again, whether they were logged or not.
    places = ("--records", "without/records", "--save-models", "without/models")
    before = written(without)
    code, out, err = run("RunBert4Glue", *BERT, *places, *LOGGED)
    assert code == 0, err
    assert "2 cells, 2 of them finished already" in out
    assert written(without) == before


def test_curves_of_an_lstm_are_its_records_and_change_nothing(run, words, read):  # noqa: F811
    """Pairs, whose rate grows while training: what is retained follows it."""
    options = (*WHOLE, *SIZES, "--epochs", "8", "--methods", "student", "--pruning-rate-start", "0.2")
    without, logged = run_both(run, words, "RunLstm4Glue", *options)
    assert_same_run(without, logged)
    record = records(logged / "records")["student-gate_0.9_seed1"]
    curves = read(words / "curves" / "mrpc" / "student-gate_0.9_seed1")
    assert_losses(curves, record)
    assert_metrics(curves, record, list(range(1, 9)))
    rates = {step: 0.2 + (0.9 - 0.2) * ((step - 1) / 7) for step in range(1, 9)}
    expected = {step: sum(keep_counts(WORDS, [rate])[0]) / sum(WORDS) for step, rate in rates.items()}
    assert curves["train/retained_tokens"] == pytest.approx(expected, abs=1e-6)
    assert expected[1] > 3 * expected[8]


def test_what_is_retained_is_that_of_all_steps_since_the_last_log(tmp_path, read):
    """Two steps are logged together, of half of the rows each."""
    split, settings = make_split(rows=24), TrainSettings(epochs=50, batch_size=12, learning_rate=1e-3)
    curves = Curves(tmp_path / "curves", lambda model: {}, print)
    train(lstm(), SplitDataset(split), settings, 1, tmp_path / "steps", LstmCollator(True), callbacks=[curves])
    lengths = [*split.second.tolist(), *(split.lengths - split.second).tolist()]
    expected = sum(keep_counts(lengths, [0.5])[0]) / sum(lengths)
    shown = read(tmp_path / "curves")["train/retained_tokens"]
    assert shown == pytest.approx(dict.fromkeys(range(2, 101, 2), expected), abs=1e-6)


def test_a_shared_training_has_a_name_of_its_own(run, prepared, read):  # noqa: F811
    """And in each step, where schedules are sampled, another share of the tokens."""
    budget = ("--target-flops-reduction", "1.3,1.5", "--search-reach", "3", "--methods", "attention")
    without, logged = run_both(run, prepared, "RunBert4Glue", *WHOLE, *budget, "--cache", "cache/bert", "--force")
    assert_same_run(without, logged)
    names = {path.name for path in (prepared / "curves" / "mrpc").iterdir()}
    assert names == {"baseline_seed1", "attention_sampled-3x_seed1"}
    curves = read(prepared / "curves" / "mrpc" / "attention_sampled-3x_seed1")
    assert_losses(curves, records(logged / "records")["attention_learned-1.5x_seed1"])
    assert list(curves["eval/accuracy"]) == [1, 2, 3]
    lengths = train_lengths(prepared)  # which are those of dev
    samples = SampleSchedules(PrunedBertForSequenceClassification(small_config()), lengths, 3.0, seed=1)
    counts = [np.sum(keep_counts(lengths, samples.sample(step))) for step in range(3)]
    expected = {step + 1: count / (6 * sum(lengths)) for step, count in enumerate(counts)}
    assert curves["train/retained_tokens"] == pytest.approx(expected, abs=1e-6)
    assert len(set(counts)) == 3


def test_a_search_shows_what_its_parameters_retain(run, prepared, read):  # noqa: F811
    search = ("--target-flops-reduction", "2", "--budget-schedule", "soft-extract", "--methods", "attention")
    code, out, err = run("RunBert4Glue", *WHOLE, *search, *LOGGED)
    assert code == 0, err
    curves = read(prepared / "curves" / "mrpc" / "soft-extract-4x_seed1")
    (stage,) = (prepared / "cache" / "bert" / "stages").glob("mrpc/soft-extract*")
    path = load_file(stage / "model.safetensors")["path"]
    shown = curves["train/retained_tokens"]
    assert list(shown) == [1, 2, 3]
    assert shown[3] == pytest.approx(float(path[-1].mean()), abs=1e-6)
    assert shown[1] > shown[2] > shown[3]
    for step in (1, 2, 3):
        assert f"search, epoch {step}: accuracy {100 * curves['eval/accuracy'][step]:.1f}, f1 " in out
    # Then the model is trained again, imitating the first.
    record = records(prepared / "records")["attention_soft-extract-2x_seed1"]
    curves = read(prepared / "curves" / "mrpc" / "attention_soft-extract-2x_seed1")
    assert_losses(curves, record)
    assert_metrics(curves, record, [1, 2, 3])


def test_an_interrupted_training_goes_on_with_its_curves(run, prepared, read, monkeypatch):  # noqa: F811
    """What was logged after the last checkpoint is logged once, and so is a training that is run anew."""
    options = (*BERT, "--batch-size", "8", "--learning-rate", "2e-3", "--methods", "tail")
    name = "tail_0.6-0-0.3-0x3_seed1"
    assert run("RunBert4Glue", *options, "--records", "whole", "--tensorboard", "whole-curves")[0] == 0
    whole = read(prepared / "whole-curves" / "mrpc" / name)
    shutil.rmtree(prepared / "cache" / "bert" / "stages")
    real, steps = PruningTrainer.training_step, []

    def stop(self, model, *rest, **options):
        steps.append(1)
        if len(steps) == 9 + 6:  # in the second epoch of the second cell
            raise KeyboardInterrupt
        return real(self, model, *rest, **options)

    monkeypatch.setattr(PruningTrainer, "training_step", stop)
    assert run("RunBert4Glue", *options, *LOGGED)[0] == 130
    assert list(read(prepared / "curves" / "mrpc" / name)["train/loss"]) == [1, 2, 3, 4, 5]
    monkeypatch.setattr(PruningTrainer, "training_step", real)
    for force in ((), ("--force",)):
        assert run("RunBert4Glue", *options, *LOGGED, *force)[0] == 0
        found = read(prepared / "curves" / "mrpc" / name)
        assert found.keys() == whole.keys()
        for curve in ("train/loss", "train/learning_rate", "train/retained_tokens", "eval/accuracy", "eval/f1"):
            assert found[curve] == whole[curve], curve
    assert list(found["train/loss"]) == list(range(1, 10))
    assert_metrics(found, records(prepared / "records")[name], [3, 6, 9])


def test_dev_is_evaluated_in_the_precision_of_the_weights(run, prepared, read, monkeypatch):  # noqa: F811
    """Mixed precision is for training; so the last metric of a curve is the record's."""
    real, seen = PrunedBertForSequenceClassification.forward, []

    def forward(self, *args, **inputs):
        half = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
        seen.append((self.training, half))
        return real(self, *args, **inputs)

    monkeypatch.setattr(PrunedBertForSequenceClassification, "forward", forward)
    assert run("RunBert4Glue", *BERT, *LOGGED, "--train-dtype", "bfloat16")[0] == 0
    assert set(seen) == {(True, True), (False, False)}
    first = seen.index((False, False))
    assert (True, True) in seen[first:]  # the training goes on in mixed precision
    assert_metrics(read(prepared / "curves/mrpc" / STUDENT), records(prepared / "records")[STUDENT], [1, 2, 3])


def test_metrics_that_cannot_be_had_end_no_training(run, prepared, read, monkeypatch):  # noqa: F811
    real = Context.metrics

    def fail(self, model, collate, **options):
        if options:  # of the evaluation after the training, by the teacher
            return real(self, model, collate, **options)
        raise CellError("evaluation: a logit is not finite")

    monkeypatch.setattr(Context, "metrics", fail)
    code, out, err = run("RunBert4Glue", *BERT, *LOGGED)
    assert code == 0, err
    assert out.count("no metrics for TensorBoard: evaluation: a logit is not finite\n") == 6
    curves = read(prepared / "curves" / "mrpc" / STUDENT)
    assert len(curves["train/loss"]) == 3
    assert not any(name.startswith("eval/") for name in curves)


@pytest.mark.parametrize("script", ["RunBert4Glue", "RunLstm4Glue", "RunLstm4Agnews"])
def test_without_the_package_only_who_asks_for_it_hears_of_it(run, tmp_path, monkeypatch, script):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith(("torch.utils.tensorboard", "tensorboard."))]:
        monkeypatch.delitem(sys.modules, name)
    code, out, err = run(script, "--demo", *LOGGED)
    assert code == 2
    assert err.splitlines()[-1].startswith("error: tensorboard: ")
    assert err.endswith("; pip install -r requirements.txt brings it, and only --tensorboard needs it\n")
    assert "finished already" not in out  # it has not begun
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize("place", ["curves", "curves/mrpc"])
def test_a_folder_that_cannot_be_written_is_one_line_before_training(run, prepared, read, place):  # noqa: F811
    (prepared / place).parent.mkdir(exist_ok=True)
    (prepared / place).write_text("a file", encoding="utf-8")
    code, _, err = run("RunBert4Glue", *BERT, *LOGGED)
    assert code == 2
    assert err.splitlines()[-1].startswith(f"error: {place}")
    assert "cannot be written" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not records(prepared / "records")


def test_a_disk_that_is_full_later_is_one_line(tmp_path, read):
    class Full:
        def add_scalar(self, *_):
            raise OSError(28, "No space left on device")

    class State:
        is_world_process_zero, global_step = True, 1

    curves = Curves(tmp_path / "curves", lambda model: {}, print)
    curves.tb_writer = Full()
    with pytest.raises(UserError, match=r"curves: cannot be written \(.*No space left on device\)"):
        curves.on_log(None, State(), None, {"loss": 1.0})


def test_the_thread_that_writes_prints_no_traceback_of_a_full_disk(monkeypatch, capsys):
    def fail(error):
        raise error

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    check_tensorboard()
    for error in (OSError(28, "No space left on device"), KeyError("a fault")):
        thread = threading.Thread(target=fail, args=(error,))
        thread.start()
        thread.join()
    err = capsys.readouterr().err
    assert "No space" not in err
    assert "a fault" in err


def test_tensorboard_is_imported_when_asked_for_and_tensorflow_never(tmp_path, read):
    """Imported, TensorFlow would take seconds, and write to stderr."""
    code = (
        "import sys, pruner.experiments.bert, pruner.experiments.lstm\n"
        "assert 'tensorboard' not in sys.modules\n"
        "from pruner.training.curves import Curves\n"
        "curves = Curves(None, None, print)\n"
        "curves._SummaryWriter(sys.argv[1]).close()\n"
        "assert 'tensorboard' in sys.modules and 'tensorflow' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    found = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.slow
def test_two_processes_write_the_curves_of_one(run, tmp_path, read):
    write_mrpc(tmp_path / "data")
    small_bert(tmp_path / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    assert run("PrepareGlue4Bert", "--tasks", "mrpc")[0] == 0
    options = (*BERT, "--batch-size", "7")
    code, _, err = run("RunBert4Glue", *options, "--records", "one", "--tensorboard", "curves/one")
    assert code == 0, err
    shutil.rmtree(tmp_path / "cache" / "bert" / "stages")
    places = ("--records", "two", "--tensorboard", "curves/two")
    together = start(*TORCHRUN, str(ROOT / "RunBert4Glue.py"), *options, *places, cwd=tmp_path)
    _, err = together.communicate(timeout=900)
    assert together.returncode == 0, err
    for name in ("baseline_seed1", STUDENT):
        one, two = (read(tmp_path / "curves" / folder / "mrpc" / name) for folder in ("one", "two"))
        assert len(list((tmp_path / "curves" / "two" / "mrpc" / name).iterdir())) == 1
        assert one.keys() == two.keys()
        assert len(one["train/loss"]) == 12
        for curve, tolerance in (("train/retained_tokens", 1e-6), ("eval/accuracy", 1e-6), ("train/loss", 1e-3)):
            assert two[curve] == pytest.approx(one[curve], abs=tolerance), curve
