"""GLUE's metrics, by scikit-learn and SciPy."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


def _correlation(function, labels: np.ndarray, predictions: np.ndarray) -> float:
    # Undefined for a constant prediction, which explains nothing of the scores: 0.
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(function(labels, predictions).statistic)


FUNCTIONS = {
    "accuracy": lambda labels, predictions: float(accuracy_score(labels, predictions)),
    "f1": lambda labels, predictions: float(f1_score(labels, predictions, zero_division=0)),
    "mcc": lambda labels, predictions: float(matthews_corrcoef(labels, predictions)),
    "pearson": lambda labels, predictions: _correlation(pearsonr, labels, predictions),
    "spearman": lambda labels, predictions: _correlation(spearmanr, labels, predictions),
}


def compute_metrics(names: Sequence[str], logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Named metrics of [N, labels] logits against [N] labels; one column of logits is a regression."""
    predictions = logits[:, 0] if logits.shape[1] == 1 else logits.argmax(axis=1)
    return {name: FUNCTIONS[name](labels, predictions) for name in names}
