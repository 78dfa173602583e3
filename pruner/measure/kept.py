"""Timings of kept models, without tokens, layers, heads or neurons, against the dense one that they were made of."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import BertForSequenceClassification

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.tokens.flops import pruned_flops
from pruner.data.cache import Split
from pruner.data.collate import BertCollator
from pruner.data.task import TASKS
from pruner.evaluation.latency import measure_latency
from pruner.models.flops import BertShape, dense_flops
from pruner.models.pretrained import load_model, weight_files
from pruner.utils.errors import UserError
from pruner.utils.progress import Progress


def load_kept(folder: str, like: Any) -> PrunedBertForSequenceClassification:
    """Load a kept model; raise a ``UserError`` if it is none, or of another width or vocabulary than ``like``."""
    try:
        model = PrunedBertForSequenceClassification.from_pretrained(folder)
    except Exception as error:  # safetensors, JSON, the hub and torch each raise their own
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{folder}: not a kept model ({reason}); name a folder that --save-models has made") from None
    for size in ("hidden_size", "vocab_size"):
        own, dense = getattr(model.config, size), getattr(like.config, size)
        if own != dense:
            raise UserError(f"{folder}: {size} {own}, but {dense} of --weights; name the model that it was made of")
    return model.eval()


def measure_kept(
    args: argparse.Namespace, device: str, sentences: Callable[[str, int], Split], most: int
) -> list[dict]:
    """Time the kept models: one row for each dtype, batch size, task and model."""
    dense: Any = load_model(BertForSequenceClassification, args.weights, TASKS["sst-2"]).to(device).eval()
    dense.set_attn_implementation("sdpa")
    kept: list[Any] = [(folder, load_kept(folder, dense).to(device)) for folder in args.kept]  # type: ignore[arg-type]
    cells = [
        (dtype, size, name, *model)
        for dtype in args.dtypes
        for size in args.batch_sizes
        for name in args.task or args.lengths
        for model in kept
    ]
    collates = BertCollator(with_lengths=False), BertCollator(with_lengths=True)
    rows = []
    for dtype, size, name, folder, model in Progress(cells, unit="row"):
        split = sentences(name, size)
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
            "parameters": [sum(x.numel() for x in one.parameters()) for one in (dense, model)],
            "file_bytes": sum(path.stat().st_size for path in weight_files(Path(folder))),
        }
        rows.append(what | {"efficiency": round(latency["speedup"] / saved, 4)} | latency)
    return rows
