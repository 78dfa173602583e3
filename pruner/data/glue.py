"""The GLUE tasks as the official files have them."""

from functools import partial

from pruner.data.download import GLUE_ADDRESS, download_archive, download_mrpc
from pruner.data.rows import count_rows
from pruner.data.task import Task, exactly

PAIR = ("sentence1", "sentence2")
BINARY = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")
ACCURACY, ACCURACY_AND_F1 = ("accuracy",), ("accuracy", "f1")
COLA_COLUMNS = ("source", "label", "mark", "sentence")
MNLI_LABELS = ("contradiction", "entailment", "neutral")

archived = partial(Task, address=GLUE_ADDRESS, downloader=download_archive, counter=count_rows)
GLUE = (
    archived(
        *("cola", "CoLA", ("sentence",), "label", BINARY, ("mcc",)),
        names=("unacceptable", "acceptable"),
        header=COLA_COLUMNS,
        official_rows=exactly(8551, 1043, 1063),
    ),
    archived(
        *("sst-2", "SST-2", ("sentence",), "label", BINARY, ACCURACY),
        names=("negative", "positive"),
        official_rows=exactly(67_349, 872, 1821),
    ),
    archived(
        *("mrpc", "MRPC", ("#1 String", "#2 String"), "Quality", BINARY, ACCURACY_AND_F1),
        names=("not_equivalent", "equivalent"),
        downloader=download_mrpc,
        official_rows=((3667, 3668), *exactly(408, 1725)),  # copies of the first lack a row
    ),
    archived(
        *("qqp", "QQP", ("question1", "question2"), "is_duplicate", BINARY, ACCURACY_AND_F1),
        names=("not_duplicate", "duplicate"),
        broken_rows=True,
        downloader=partial(download_archive, archive="QQP-clean.zip"),
        # 363 846, 40 430 and 390 965, but for rows that are broken in one release or another.
        official_rows=((363_800, 363_900), (40_400, 40_440), (390_900, 391_000)),
    ),
    archived("sts-b", "STS-B", PAIR, "score", (), ("pearson", "spearman"), official_rows=exactly(5749, 1500, 1379)),
    archived(
        *("mnli", "MNLI", PAIR, "gold_label", MNLI_LABELS, ACCURACY),
        dev=("dev_matched", "dev_mismatched"),
        test=("test_matched", "test_mismatched", "diagnostic"),
        submission=("MNLI-m", "MNLI-mm", "AX"),
        downloader=partial(download_archive, optional=("diagnostic",)),  # GLUE's AX
        official_rows=exactly(392_702, 9815, 9832, 9796, 9847, 1104),
    ),
    archived(
        *("qnli", "QNLI", ("question", "sentence"), "label", ENTAILMENT, ACCURACY),
        downloader=partial(download_archive, archive="QNLIv2.zip"),
        official_rows=exactly(104_743, 5463, 5463),
    ),
    archived("rte", "RTE", PAIR, "label", ENTAILMENT, ACCURACY, official_rows=exactly(2490, 277, 3000)),
    archived(
        *("wnli", "WNLI", PAIR, "label", BINARY, ACCURACY),
        names=("not_entailment", "entailment"),
        official_rows=exactly(635, 71, 146),
    ),
)
