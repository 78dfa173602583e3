"""One cell of a BERT grid: a task, a method and a seed, fine-tuned, evaluated, measured and recorded."""

import hashlib
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from transformers import BertForSequenceClassification

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.batches import SplitDataset, training_rows
from pruner.cache import Cache, Split
from pruner.errors import UserError
from pruner.flops import BertShape
from pruner.glue import Task
from pruner.measure import count_flops, count_tokens, measure_latency, predict, rank_correlation, survivors
from pruner.metrics import compute_metrics
from pruner.records import Log, environment, finished_record, finite, metric_text, write_record
from pruner.schedule import Pruning, schedule_name
from pruner.tokenizer import TOKENIZER_FILES, BertTokenizer, read_json
from pruner.train import TrainSettings, train

WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
EXAMPLES = 3  # sentences whose surviving words are shown


@dataclass(frozen=True)
class Cell:
    """``pruning`` is ``None`` for the baseline, the unpruned stock model."""

    task: Task
    pruning: Pruning | None
    seed: int

    @property
    def method(self) -> str:
        return self.pruning.method if self.pruning else "baseline"

    @property
    def name(self) -> str:
        """The run's folder: method, schedule and seed."""
        if self.pruning is None:
            return f"baseline_seed{self.seed}"
        teacher = f"-{self.pruning.teacher}" if self.pruning.teacher else ""
        padded = "_padded" if self.pruning.count == "padded" else ""
        return f"{self.method}{teacher}_{schedule_name(self.pruning.schedule)}{padded}_seed{self.seed}"


@dataclass(frozen=True)
class Grid:
    """What all cells of a run share; ``weights`` is the fingerprint of those of ``bert``."""

    bert: str
    weights: str | None
    tokenizer: BertTokenizer
    tokenizer_folder: Path
    training: TrainSettings
    max_train_rows: int | None
    latency_repeats: int
    records: Path
    models: Path | None
    force: bool
    steady: bool

    def folder(self, cell: Cell) -> Path:
        return self.records / cell.task.name / cell.name

    def settings(self, cell: Cell, cache: Cache) -> dict:
        """Everything that decides a cell's result beside its name; a finished cell must have been made with it."""
        settings = asdict(self.training) | {
            "bert": self.bert,
            "weights": self.weights,
            "max_length": cache.max_length,
            "train_rows": min(self.max_train_rows or len(cache.splits["train"]), len(cache.splits["train"])),
            "train_rows_available": len(cache.splits["train"]),
        }
        if cell.pruning and "student" in cell.pruning.methods:
            return settings | {"student_widths": list(cell.pruning.student_widths)}
        del settings["student_learning_rate"]
        return settings

    def finished(self, cell: Cell, cache: Cache) -> dict | None:
        return None if self.force else finished_record(self.folder(cell), self.settings(cell, cache))


def weights_fingerprint(bert: str) -> str | None:
    """A hash of a local folder's weights; ``None`` for a model of the hub, which its name identifies."""
    for name in WEIGHTS:
        path = Path(bert) / name
        if path.is_file():
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return None


def check_bert(bert: str, folder: Path) -> dict:
    """The config of a BERT; an error where the folder holds no config, no weights or another kind of model."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: no config.json; copy the model's config there")
    config = read_json(path)
    if config.get("model_type", "bert") != "bert":
        raise UserError(f"{path}: a {config['model_type']} model; this project runs BERT models")
    if "num_hidden_layers" not in config:
        raise UserError(f"{path}: no num_hidden_layers; copy the model's own config.json there")
    if Path(bert).is_dir() and weights_fingerprint(bert) is None:
        raise UserError(f"{folder}: no weights; put model.safetensors or pytorch_model.bin there")
    return config


def load_model(
    model_class: type[BertForSequenceClassification], bert: str, task: Task
) -> BertForSequenceClassification:
    """A pre-trained BERT in float32, with its own classifier if that has the task's labels, else with a fresh one.

    Raises:
        UserError: weights that cannot be read, or that are not those of a BERT.
    """
    names = dict(enumerate(task.labels)) or {0: task.label}
    try:
        model, info = model_class.from_pretrained(
            bert,
            num_labels=task.num_labels,
            id2label=names,
            label2id={name: index for index, name in names.items()},
            dtype=torch.float32,  # a float16 file would otherwise be trained in float16
            ignore_mismatched_sizes=True,  # the classifier's; all others are refused below
            output_loading_info=True,
        )
    except Exception as error:  # safetensors, pickle, the hub and torch each raise their own
        raise UserError(f"{bert}: the weights cannot be loaded ({error}); copy the model again") from None
    absent = [key for key in info["missing_keys"] if not key.startswith(("classifier.", "bert.pooler.", "students."))]
    mismatched = [key for key, *_ in info["mismatched_keys"] if not key.startswith(("classifier.", "students."))]
    if mismatched:
        raise UserError(f"{bert}: {sorted(mismatched)[0]} is not of the shape that config.json says; copy it again")
    if absent:
        raise UserError(f"{bert}: {len(absent)} weights of a BERT are not in the file, {sorted(absent)[0]} among them")
    return model


def evaluate(model: torch.nn.Module, task: Task, cache: Cache, batch_size: int, **options) -> dict[str, float]:
    """The task's metrics on dev; MNLI's have the split in their name."""
    found = {}
    for split in task.dev:
        data = cache.splits[split]
        metrics = compute_metrics(task.metrics, predict(model, data, batch_size, **options), data.labels)
        suffix = split.removeprefix("dev")
        found |= {f"{name}{suffix}": round(value, 6) for name, value in metrics.items()}
    return finite(found, task.name)


def example_words(model: torch.nn.Module, split: Split, tokenizer: BertTokenizer) -> list[dict]:
    """A few sentences of a split and the words that reach the last layer, ``...`` where some are left out."""
    examples = []
    rows = range(min(EXAMPLES, len(split)))
    for row, kept in zip(rows, survivors(model, split, rows), strict=True):
        pieces = [tokenizer.tokenizer.id_to_token(int(token)) for token in split.sentence(row)]
        shown: list[str] = []
        for position, piece in enumerate(pieces):
            if position in kept:
                shown.append(piece)
            elif not shown or shown[-1] != "...":
                shown.append("...")
        examples.append({"sentence": " ".join(pieces), "kept": " ".join(shown)})
    return examples


def run_cell(grid: Grid, cell: Cell, cache: Cache, baseline: dict | None, log: Log) -> dict:
    """Fine-tune, evaluate, measure and record one cell; ``baseline`` is the finished record of its baseline."""
    started = time.monotonic()
    task, pruning = cell.task, cell.pruning
    transformers.set_seed(cell.seed)
    model_class = PrunedBertForSequenceClassification if pruning else BertForSequenceClassification
    model = load_model(model_class, grid.bert, task)
    if pruning:
        counts = torch.zeros(model.config.vocab_size, dtype=torch.int64)
        counts[: len(cache.counts)] = torch.from_numpy(cache.counts)
        model.set_pruning(token_counts=counts, **pruning.to_dict())
    rows = training_rows(len(cache.splits["train"]), grid.max_train_rows)
    data = SplitDataset(cache.splits["train"], rows)
    with tempfile.TemporaryDirectory() as scratch:
        curve = train(model, data, grid.training, cell.seed, Path(scratch), takes_lengths=pruning is not None)

    batch_size = grid.training.batch_size
    dev = [cache.splits[split] for split in task.dev]
    metrics = evaluate(model, task, cache, batch_size)
    shape, measured = BertShape.of(model.config), pruning or Pruning.none(model.config.num_hidden_layers)
    record = {
        "model": "bert",
        "task": task.name,
        "method": cell.method,
        "teacher": pruning.teacher if pruning else None,
        "schedule": list(measured.schedule),
        "schedule_source": "hand",
        "count": measured.count,
        "seed": cell.seed,
        "status": "complete",
        "metrics": metrics,
        "baseline_metrics": baseline["metrics"] if baseline else metrics,
        "tokens": count_tokens(dev, measured),
        "flops": count_flops(dev, shape, measured),
        "latency": None,
    }
    if pruning:
        gpu = next(model.parameters()).is_cuda
        dtype = torch.bfloat16 if gpu and torch.cuda.is_bf16_supported() else torch.float32
        record["latency"] = measure_latency(model, dev[0], batch_size, dtype, grid.latency_repeats)
        record["examples"] = example_words(model, dev[0], grid.tokenizer)
        if pruning.teacher:
            record["teacher_metrics"] = evaluate(model, task, cache, batch_size, follow_teacher=True)
            record["student_rank_correlation"] = round(rank_correlation(model, dev[0], batch_size), 4)
    if grid.models:
        save_model(model, grid.models / task.name / cell.name, grid.tokenizer_folder)

    report(record, log)
    log(f"-> {grid.folder(cell)}")
    record |= {
        "loss": curve,
        "settings": grid.settings(cell, cache),
        "environment": environment(grid.steady),
        "seconds": round(time.monotonic() - started, 1),
    }
    write_record(grid.folder(cell), record, log)
    return record


def report(record: dict, log: Log) -> None:
    """A finished cell in a few lines."""
    if record["method"] == "baseline":
        log(f"dev: {metric_text([record['metrics']])} (unpruned baseline)")
        return
    log(f"dev: {metric_text([record['metrics']])} (baseline: {metric_text([record['baseline_metrics']])})")
    if record["teacher"]:
        log(
            f"the student alone; led by its teacher: {metric_text([record['teacher_metrics']])}; "
            f"rank correlation with it {record['student_rank_correlation']:.2f}"
        )
    tokens, flops, latency = record["tokens"], record["flops"], record["latency"]
    log(
        f"tokens not computed {tokens['effective_rate']:.1%}, FLOPs reduction {flops['reduction']:.2f}x, "
        f"speed-up {latency['speedup']:.2f}x ({latency['baseline_ms']:.1f} -> {latency['pruned_ms']:.1f} ms per batch)"
    )
    for example in record["examples"]:
        log(f"  {example['sentence']}\n  -> {example['kept']}")


def save_model(model: torch.nn.Module, folder: Path, tokenizer_folder: Path) -> None:
    """A folder that ``from_pretrained`` loads, tokenizer included."""
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if name != "config.json" and (tokenizer_folder / name).is_file():
            shutil.copyfile(tokenizer_folder / name, folder / name)
