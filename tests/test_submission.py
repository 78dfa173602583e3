"""Test sets' predictions as the GLUE server takes them."""

import numpy as np
import pytest
import torch
from test_run import prepared  # noqa: F401
from transformers import BertForSequenceClassification

from pruner.data.cache import Cache, Split
from pruner.data.task import TASKS
from pruner.data.tokenizer import load_tokenizer
from pruner.evaluation.submission import submission, submission_names

QUICK = ("--epochs", "1", "--batch-size", "8", "--latency-repeats", "1", "--schedule", "0.6,0,0,0,0,0")


def test_labels_by_name_and_scores_as_numbers():
    logits = np.array([[0.1, 2.0, 0.3], [3.0, 1.0, 2.0]])
    assert submission(TASKS["mnli"], logits) == "index\tprediction\n0\tentailment\n1\tcontradiction\n"
    assert submission(TASKS["qnli"], logits[:, :2]) == "index\tprediction\n0\tnot_entailment\n1\tentailment\n"
    assert submission(TASKS["cola"], logits[:, :2]) == "index\tprediction\n0\t1\n1\t0\n"
    assert submission(TASKS["sts-b"], np.array([[2.5], [-1.0], [6.0]])).split() == (
        ["index", "prediction", "0", "2.500", "1", "0.000", "2", "5.000"]
    )


def test_files_are_named_as_the_server_wants_them():
    def names(task):
        split = Split(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.int32), None)
        cache = Cache(task, (), 128, dict.fromkeys(TASKS[task].test, split), np.zeros(0))
        return list(submission_names(TASKS[task], cache).values())

    assert names("mnli") == ["MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"]
    assert [names(task) for task in ("sst-2", "cola", "sts-b", "rte")] == (
        [["SST-2.tsv"], ["CoLA.tsv"], ["STS-B.tsv"], ["RTE.tsv"]]
    )


def test_every_row_of_a_test_set_has_its_place(tmp_path):
    """Of QQP's broken rows, those of the test set are kept as empty ones, or all that follow would move up."""
    path = tmp_path / "test.tsv"
    path.write_text("id\tquestion1\tquestion2\n0\ta\tb\n1\tbroken\n2\tc\td\n", encoding="utf-8")
    rows = TASKS["qqp"].read(tmp_path, "test")
    assert rows.texts == [("a", "b"), ("", ""), ("c", "d")]
    assert rows.skipped == 1


def write_test(prepared, rows: int = 13) -> list[tuple[str, str]]:  # noqa: F811
    pairs = [("a film " * (row % 4 + 1), "the plot was not good " * (row % 3)) for row in range(rows)]
    lines = ["index\t#1 ID\t#2 ID\t#1 String\t#2 String"]
    lines += [f"{row}\t1\t2\t{first}\t{second}" for row, (first, second) in enumerate(pairs)]
    (prepared / "data" / "MRPC" / "test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return pairs


def test_predictions_of_a_run_are_those_of_its_model(run, prepared):  # noqa: F811
    pairs = write_test(prepared)
    assert run("PrepareGlue4Bert")[0] == 0
    options = (*QUICK, "--methods", "attention", "--save-models", "models")
    assert run("RunBert4Glue", *options, "--predict-test")[0] == 0
    folder = prepared / "records" / "BERT" / "mrpc"
    lines = (folder / "baseline_seed1" / "MRPC.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "index\tprediction"
    # The stock model, one sentence at a time.
    model = BertForSequenceClassification.from_pretrained(prepared / "models" / "mrpc" / "baseline_seed1").eval()
    tokenizer = load_tokenizer(prepared / "models" / "mrpc" / "baseline_seed1", 128).tokenizer
    for line, pair in zip(lines[1:], enumerate(pairs), strict=True):
        index, texts = pair
        encoded = tokenizer.encode(*texts)
        with torch.no_grad():
            logits = model(torch.tensor([encoded.ids]), token_type_ids=torch.tensor([encoded.type_ids])).logits
        assert line == f"{index}\t{int(logits.argmax())}"

    # For a run that was finished without them, by the model that it kept.
    pruned = folder / "attention_0.6-0x5_seed1" / "MRPC.tsv"
    before = pruned.read_text(encoding="utf-8")
    assert len(before.splitlines()) == 14
    pruned.unlink()
    code, out, err = run("RunBert4Glue", *options, "--predict-test")
    assert code == 0, err
    assert "2 cells, 2 of them finished already" in out
    assert pruned.read_text(encoding="utf-8") == before

    pruned.unlink()
    code, _, err = run("RunBert4Glue", *options[:-2], "--predict-test")
    assert code == 2
    cell = "attention_0.6-0x5_seed1"
    assert err.startswith(f"error: mrpc, {cell}: records/BERT/mrpc/{cell}: finished without predictions, and its")


@pytest.mark.parametrize("script", ["RunLstm4Glue"])
def test_an_lstm_predicts_too(run, prepared, script):  # noqa: F811
    write_test(prepared)
    assert run("PrepareGlue4Lstm")[0] == 0
    options = ("--epochs", "1", "--batch-size", "8", "--latency-repeats", "1", "--methods", "student", "--predict-test")
    code, _, err = run(script, *options, "--embedding-size", "8", "--hidden-size", "8")
    assert code == 0, err
    found = list((prepared / "records" / "LSTM").rglob("MRPC.tsv"))
    assert len(found) == 2
    assert len(found[0].read_text(encoding="utf-8").splitlines()) == 14
