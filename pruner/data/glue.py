"""The GLUE tasks as the official files have them."""

from functools import partial

from pruner.data.download import GLUE_ADDRESS, download_archive, download_mrpc
from pruner.data.task import Task

PAIR = ("sentence1", "sentence2")
BINARY = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")
ACCURACY, ACCURACY_AND_F1 = ("accuracy",), ("accuracy", "f1")
COLA_COLUMNS = ("source", "label", "mark", "sentence")
MNLI_LABELS = ("contradiction", "entailment", "neutral")

archived = partial(Task, address=GLUE_ADDRESS, downloader=download_archive)
GLUE = (
    archived(
        "cola", "CoLA", ("sentence",), "label", BINARY, ("mcc",), ("unacceptable", "acceptable"), header=COLA_COLUMNS
    ),
    archived("sst-2", "SST-2", ("sentence",), "label", BINARY, ACCURACY, ("negative", "positive")),
    archived(
        *("mrpc", "MRPC", ("#1 String", "#2 String"), "Quality", BINARY, ACCURACY_AND_F1),
        names=("not_equivalent", "equivalent"),
        downloader=download_mrpc,
    ),
    archived(
        *("qqp", "QQP", ("question1", "question2"), "is_duplicate", BINARY, ACCURACY_AND_F1),
        names=("not_duplicate", "duplicate"),
        broken_rows=True,
        downloader=partial(download_archive, archive="QQP-clean.zip"),
    ),
    archived("sts-b", "STS-B", PAIR, "score", (), ("pearson", "spearman")),
    archived(
        *("mnli", "MNLI", PAIR, "gold_label", MNLI_LABELS, ACCURACY),
        dev=("dev_matched", "dev_mismatched"),
        test=("test_matched", "test_mismatched", "diagnostic"),
        submission=("MNLI-m", "MNLI-mm", "AX"),
        downloader=partial(download_archive, optional=("diagnostic",)),  # GLUE's AX
    ),
    archived(
        *("qnli", "QNLI", ("question", "sentence"), "label", ENTAILMENT, ACCURACY),
        downloader=partial(download_archive, archive="QNLIv2.zip"),
    ),
    archived("rte", "RTE", PAIR, "label", ENTAILMENT, ACCURACY),
    archived("wnli", "WNLI", PAIR, "label", BINARY, ACCURACY, ("not_entailment", "entailment")),
)
