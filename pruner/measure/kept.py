"""Timings of kept models, or of records' sizes, against the dense model: without tokens, layers, heads or neurons."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.method import sizes_of
from pruner.compress.structure.shrink import Structure, shrink
from pruner.compress.tokens.flops import pruned_flops
from pruner.data.cache import Split
from pruner.data.collate import BertCollator
from pruner.evaluation.latency import measure_latency
from pruner.models.flops import BertShape, dense_flops
from pruner.report.records import read_record
from pruner.utils.errors import UserError
from pruner.utils.files import is_there
from pruner.utils.progress import Progress


def load_kept(folder: str, dense: Any) -> PrunedBertForSequenceClassification:
    """Load a kept model, or make one of the sizes that a record says.

    Raises:
        UserError: there is no such model, or it is of another width or vocabulary than the ``dense`` one.
    """
    if is_there(Path(folder) / "record.json"):
        return of_record(Path(folder), dense)
    try:
        model = PrunedBertForSequenceClassification.from_pretrained(folder)
    except Exception as error:  # safetensors, JSON, the hub and torch each raise their own
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{folder}: not a kept model ({reason}); name a folder that --save-models has made") from None
    for size in ("hidden_size", "vocab_size"):
        own, whole = getattr(model.config, size), getattr(dense.config, size)
        if own != whole:
            raise UserError(f"{folder}: {size} {own}, but {whole} of --weights; name the model that it was made of")
    return model.eval()


def of_record(folder: Path, dense: Any) -> PrunedBertForSequenceClassification:
    """Make a model of the sizes that a record says, of the dense one's weights: times need no trained ones."""
    record = read_record(folder)
    kept = record.section.get("kept") if record else None
    if kept is None or any(record.section.get("schedule") or ()):  # type: ignore[union-attr]
        raise UserError(f"{folder}: not a record of fewer heads, neurons or layers alone; name the model's own folder")
    neurons = [list(range(number)) for number in kept["neurons"]]
    try:
        structure = Structure.from_dict(kept | {"neurons": neurons})
        return shrink(PrunedBertForSequenceClassification.from_unpruned(dense), structure).eval()
    except ValueError as error:
        raise UserError(f"{folder}: not of --weights ({error}); name the model that it was made of") from None


def measure_kept(args: argparse.Namespace, dense: Any, data: Sequence[tuple[int, str, Split]], most: int) -> list[dict]:
    """Time the kept models on ``data``, sentences for a batch size: a row for each dtype, of these and model."""
    kept: list[Any] = [(folder, load_kept(folder, dense).to(dense.device)) for folder in args.kept]
    cells = [(dtype, *source, *model) for dtype in args.dtypes for source in data for model in kept]
    collates = BertCollator(with_lengths=False), BertCollator(with_lengths=True)
    rows = []
    for dtype, size, name, split, folder, model in Progress(cells, unit="row"):
        lengths = split.lengths.tolist()
        shape, pruning = BertShape.of_model(model), model.pruning
        flops = pruned_flops(shape, lengths, pruning.keep_counts(lengths), pruning)
        saved = round(dense_flops(BertShape.of_model(dense), lengths) / flops, 4)
        latency = measure_latency(dense, model, split, size, collates, getattr(torch, dtype), args.repeats, most)
        what = {
            "data": name,
            "method": Path(folder).name,
            "schedule": list(pruning.schedule),
            "flops_reduction": saved,
            "parameters": [sizes_of(one)[0] for one in (dense, model)],
            "bytes": [sizes_of(one)[1] for one in (dense, model)],
        }
        rows.append(what | {"efficiency": round(latency["speedup"] / saved, 4)} | latency)
    return rows


def kept_table(rows: Sequence[dict]) -> pd.DataFrame:
    """Format the rows of a result, for a terminal or a README; megabytes are those of float32."""
    return pd.DataFrame(
        {
            "dtype": row["dtype"],
            "data": row["data"],
            "batch": row["batch_size"],
            "model": row["method"],
            "parameters": f"{row['parameters'][1] / row['parameters'][0]:.1%}",
            "MB": f"{row['bytes'][1] / 1e6:.1f}",
            "dense ms": f"{row['baseline_ms']:.1f}",
            "ms": f"{row['pruned_ms']:.1f}",
            "FLOPs reduction": f"{row['flops_reduction']:.2f}x",
            "speed-up": f"{row['speedup']:.2f}x",
        }
        for row in rows
    )
