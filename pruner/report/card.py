"""The model card of a kept model, its ``README.md``: what the record says of it, and how it is loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from pruner.compress.tokens.schedule import schedule_text
from pruner.data.task import Task
from pruner.report.records import Record
from pruner.report.tables import hardware, metric_text, one_answer
from pruner.utils.errors import listed
from pruner.utils.text import escape_markdown, impersonal, printable

BERT = """\
from transformers import {auto}
{own}
folder = {folder}  # where this file is
model = {name}.from_pretrained(folder)
classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
print(classify({text}, truncation=True, max_length={length}))
"""
LSTM = """\
from pathlib import Path
import torch
from pruner.data.rows import read_lines
from pruner.data.vocabulary import Vocabulary
{own}
folder = {folder}  # where this file is
model = {name}.from_pretrained(folder).eval()
words = Vocabulary(tuple(read_lines(Path(folder, "vocab.txt"))))
texts = {text}
ids = [torch.tensor([words.to_ids(text)[:{length}]]) for text in texts]
print(model.config.id2label[model(*ids).logits.argmax().item()])
"""
SENTENCES = ("a charming and often affecting journey", "a journey that one likes to remember")


def card(record: Record, task: Task, model: Any, folder: Path) -> str:
    """Write the card of ``model``, which is the record's and kept in ``folder``."""
    title = f"{record.title}, {record.variant}, on {record.task}"
    kind = "structured-pruning" if "kept" in record.section else "token-pruning"
    tags = list(dict.fromkeys([kind, record.model, record.method, record.task]))
    data = ModelCardData(library_name="transformers", pipeline_tag="text-classification", tags=tags)
    facts = {name: escape_markdown(text) for name, text in told(record, task).items() if text}
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in facts.items())])
    warning = escape_markdown(collapse(record))
    parts = [f"---\n{data.to_yaml()}\n---", f"# {escape_markdown(title)}", *([f"**{warning}**"] if warning else [])]
    parts += [
        table,
        "To load it, in the folder of the code that made it:",
        f"```python\n{snippet(record, task, model, folder)}```",
    ]
    return "\n\n".join(parts) + "\n"


def collapse(record: Record) -> str:
    """Say that the model, or what it is compared with, is none to use."""
    own, baseline = one_answer(record.collapsed), one_answer(record.baseline_collapsed)
    if own:
        return f"This model {own}."
    return f"Its unpruned baseline {baseline}: the comparison says nothing." if baseline else ""


def told(record: Record, task: Task) -> dict[str, str]:
    """List what the record says of the model, in a few words each; empty where it says nothing."""
    pruned, section, settings = record.latency is not None, record.section, record.settings
    metrics, baseline = record.metrics, record.baseline_metrics
    difference = metric_text([{name: metrics[name] - baseline[name] for name in metrics}], "+.1f")
    return {
        "task": record.task,
        "classes": listed(task.labels),
        "metric on " + ", ".join(task.dev): metric_text([metrics]),
        "unpruned baseline": metric_text([baseline]) if pruned else "",
        "difference, points": difference if pruned else "",
        "method": record.title,
        "schedule": "" if section.get("schedule") is None else schedule_text(section["schedule"]),
        "pruning rate": "" if section.get("target_prune_rate") is None else f"{section['target_prune_rate']:g}",
        "teacher": section.get("teacher") or "",
        "weights": f"{section['weights_remaining']:.1%} of the dense model's" if "kept" in section else "",
        "saved": saved(record) if pruned else "",
        "pretrained model": settings.get("bert") or "",
        "trained": ", ".join(
            f"{key} {settings[key]}" for key in ("epochs", "batch_size", "learning_rate") if key in settings
        ),
        "seed": str(record.seed),
    }


def saved(record: Record) -> str:
    """Write what the model saves, and on what it was timed."""
    latency: Mapping[str, Any] = record.latency or {}
    environment = record.environment
    device = hardware(*(environment.get(key) for key in ("gpu", "cpu", "threads"))) or "a machine without a name"
    tokens = record.section.get("tokens")
    return ", ".join(
        [
            *([f"{tokens['effective_rate']:.1%} of the tokens not computed"] if tokens else []),
            f"FLOPs reduction {record.flops['reduction']:.2f}x",
            f"speed-up {latency['speedup']:.2f}x in batches of {latency.get('batch_size')} on {device}",
        ]
    )


def snippet(record: Record, task: Task, model: Any, folder: Path) -> str:
    """Write the Python code that loads the model and classifies a sentence, or a pair of them."""
    name, module, texts = type(model).__name__, type(model).__module__, list(SENTENCES[: len(task.text)])
    own = "" if module.startswith("transformers.") else f"from {module} import {name}\n"
    auto = ["AutoTokenizer", "pipeline"] + ([] if own else [name])
    for_pipeline: Any = dict(zip(("text", "text_pair"), texts, strict=False)) if len(texts) == 2 else texts[0]
    template, text = (LSTM, texts) if record.model == "lstm" else (BERT, for_pipeline)
    values = {"folder": impersonal(folder.as_posix()), "text": text, "length": record.settings["max_length"]}
    written = {key: printable(json.dumps(value, ensure_ascii=False)) for key, value in values.items()}
    if values["folder"].startswith("~"):
        own, written["folder"] = f"{own}import os\n", f"os.path.expanduser({written['folder']})"
    return template.format(auto=", ".join(auto), own=own, name=name, **written)
