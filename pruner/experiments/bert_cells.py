"""The cells of RunBert4Glue.py: a pre-trained BERT, fine-tuned with and without pruning."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import BertForSequenceClassification, TrainerCallback

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.tokens.budget import Family, fit_schedule, learned_family, rates_of_shares
from pruner.compress.tokens.flops import pruned_flops
from pruner.compress.tokens.measures import count_tokens
from pruner.compress.tokens.sampled import SampleSchedules, choose_schedule, in_all_layers
from pruner.compress.tokens.schedule import Pruning, SearchSettings
from pruner.compress.tokens.search import make_soft, search
from pruner.compress.tokens.select import keep_counts
from pruner.compress.tokens.soft_extract import SoftBert
from pruner.data.cache import Cache
from pruner.data.collate import BertCollator, Collate, SplitDataset, make_batch, training_rows
from pruner.data.glue import Task
from pruner.data.tokenizer import TOKENIZER_FILES, BertTokenizer
from pruner.evaluation.metrics import dev_metrics
from pruner.evaluation.predict import predict, predict_dev
from pruner.experiments.grid import EXAMPLES, Cell, Grid, shorten, train_cell
from pruner.models.flops import BertShape, dense_flops, reduction
from pruner.models.pretrained import load_model
from pruner.report.tables import metric_text
from pruner.training.steps import read_step, remove_step, step_folder, training_folder, write_step
from pruner.training.trainer import TrainSettings, logits_loss
from pruner.utils.distributed import from_main, is_main, locked

CHOICE_ROWS = 512  # training sentences on which schedules are compared


def dev_lengths(task: Task, cache: Cache) -> list[int]:
    """Real tokens of all dev sentences: what is counted of a schedule is counted on them."""
    return [int(length) for split in task.dev for length in cache.splits[split].lengths]


def sampled_cell(cell: Cell, pruning: Pruning) -> Cell:
    """What is trained with sampled schedules in place of the cell: some rate in all layers stands for them."""
    return replace(cell, pruning=pruning.with_schedule([0.5] * len(pruning.schedule)), learned=None, target=None)


def search_name(cell: Cell, how: SearchSettings) -> str:
    return f"{how.name}_seed{cell.seed}"


def as_pruned(model: BertForSequenceClassification) -> PrunedBertForSequenceClassification:
    """The model of a cell that prunes, known for what ``make_model`` has made it."""
    assert isinstance(model, PrunedBertForSequenceClassification)
    return model


@dataclass(frozen=True)
class BertGrid(Grid[BertForSequenceClassification]):
    """``weights`` is the fingerprint of those of ``bert``.

    ``start`` says what becomes of a pruned cell: trained from ``bert`` (``pretrained``), or from the baseline of its
    seed, whose logits it imitates then (``finetuned``); or it shares one such training with all cells of its method and
    seed, in which schedules are sampled up to the FLOPs reduction ``reach`` (``sampled``).
    """

    bert: str
    weights: str | None
    tokenizer: BertTokenizer
    tokenizer_folder: Path
    train_settings: TrainSettings
    start: str
    reach: float
    shape: BertShape

    latency_batches = 12

    def training(self, task: Task) -> TrainSettings:
        return self.train_settings

    def settings(self, cell: Cell, cache: Cache) -> dict:
        settings = super().settings(cell, cache) | {"bert": self.bert, "weights": self.weights}
        if cell.pruning:
            settings["start"] = self.start
            settings["reach"] = self.reach if self.start == "sampled" else None
            settings["search"] = asdict(cell.learned.search) if cell.learned and cell.learned.search else None
        return settings

    def is_step(self, cell: Cell) -> bool:
        if cell.pruning is None:
            return self.start != "pretrained"
        return self.start == "sampled" and cell == sampled_cell(cell, cell.pruning)

    def forget(self, cell: Cell, cache: Cache) -> None:
        super().forget(cell, cache)
        if cell.pruning and self.start == "sampled":
            remove_step(self.step(sampled_cell(cell, cell.pruning), cache))
        if cell.learned and cell.learned.search:
            remove_step(self.search_step(cell, cell.learned.search, cache))

    def trained(self, cell: Cell, cache: Cache) -> tuple[BertForSequenceClassification, list[dict]]:
        if self.start != "sampled" or cell.pruning is None:
            return train_cell(self, cell, cache)
        name = cell.named(cell.pruning, f"sampled-{self.reach:g}x")
        model, loss = train_cell(self, sampled_cell(cell, cell.pruning), cache, name)
        return as_pruned(model).set_schedule(cell.pruning.schedule), loss

    def callbacks(self, model: BertForSequenceClassification, cell: Cell, cache: Cache) -> Sequence[TrainerCallback]:
        if self.start != "sampled" or cell.pruning is None:
            return ()
        return [SampleSchedules(as_pruned(model), dev_lengths(cell.task, cache), self.reach, cell.seed)]

    def make_model(self, cell: Cell, cache: Cache) -> BertForSequenceClassification:
        if cell.pruning is None:
            return load_model(BertForSequenceClassification, self.bert, cell.task)
        model = load_model(PrunedBertForSequenceClassification, self.bert, cell.task)
        counts = torch.zeros(model.config.vocab_size, dtype=torch.int64)
        counts[: len(cache.counts)] = torch.from_numpy(cache.counts)
        return model.set_pruning(cell.pruning, token_counts=counts)

    def first_weights(self, cell: Cell, cache: Cache) -> dict[str, torch.Tensor]:
        if cell.pruning is None or self.start == "pretrained":
            return {}
        finetuned = self.finetuned(cell, cache)
        if self.start == "finetuned" and cell.learned and cell.learned.search:  # whose weights are trained again
            soft = make_soft(finetuned, super().data(cell, cache), cell.learned.search)
            read_step(self.search_step(cell, cell.learned.search, cache), soft)
            finetuned = soft.model
        return finetuned.state_dict()

    def finetuned(self, cell: Cell, cache: Cache) -> BertForSequenceClassification:
        """The trained baseline of the cell's seed."""
        model, _ = train_cell(self, cell.baseline, cache)
        return model

    def data(self, cell: Cell, cache: Cache) -> SplitDataset:
        data = super().data(cell, cache)
        if cell.pruning is None or self.start == "pretrained":
            return data
        batch_size, collate = self.training(cell.task).batch_size, BertCollator(with_lengths=False)
        return SplitDataset(data.split, predict(self.finetuned(cell, cache), data.split, batch_size, collate))

    def learn(self, cell: Cell, cache: Cache) -> Cell:
        if cell.learned is None or cell.pruning is None:
            return cell
        if cell.learned.search:
            path = self.search(cell, cell.learned.search, cache)
            if cell.target is None:
                schedule = [round(rate, 3) for rate in rates_of_shares(path[-1])]
            else:
                schedule = self.fit(cell, cache, learned_family(path))
        else:
            (model, _), finetuned = self.trained(cell, cache), self.finetuned(cell, cache)
            schedule = from_main(lambda: self.choose(cell, cache, as_pruned(model), finetuned))
        self.log(f"pruning_schedule = {schedule}")
        return replace(cell, pruning=cell.pruning.with_schedule(schedule))

    def fit(self, cell: Cell, cache: Cache, family: Family) -> list[float]:
        """The schedule of the family that meets the cell's budget on the dev sets."""
        pruning, target = cell.pruning, cell.target
        if pruning is None or target is None:
            raise ValueError(f"{cell.name}: a cell without a budget")
        lengths = dev_lengths(cell.task, cache)
        shape = replace(self.shape, labels=cell.task.num_labels)
        return fit_schedule(family, target, lengths, shape, pruning.with_schedule)

    def choose(
        self,
        cell: Cell,
        cache: Cache,
        model: PrunedBertForSequenceClassification,
        finetuned: BertForSequenceClassification,
    ) -> list[float]:
        """The schedule with which a model of sampled schedules is most like the baseline, on training sentences."""
        split = training_rows(super().data(cell, cache).split, CHOICE_ROWS)
        size, collate = self.training(cell.task).batch_size, self.collate(cell)
        wanted = torch.from_numpy(predict(finetuned, split, size, BertCollator(with_lengths=False)))
        bar = tqdm(desc="choosing the schedule", unit="schedule")

        def cost(schedule: Sequence[float]) -> float:
            model.set_schedule(in_all_layers(schedule))
            bar.update()
            return logits_loss(torch.from_numpy(predict(model, split, size, collate)), wanted).item()

        schedule, least = choose_schedule(self.shape.depth, lambda family: self.fit(cell, cache, family), cost)
        bar.close()
        self.log(f"chosen of {bar.n} schedules; unlike the baseline by {least:.4f}")
        return schedule

    def search_step(self, cell: Cell, how: SearchSettings, cache: Cache) -> Path:
        settings = self.settings(cell.baseline, cache) | asdict(how)
        return step_folder(self.steps, cell.task.name, search_name(cell, how), settings)

    def search(self, cell: Cell, how: SearchSettings, cache: Cache) -> list[list[float]]:
        """The path of the cell's search, which all its methods and budgets share: run, resumed, or as it was kept."""
        task, training = cell.task, self.training(cell.task)
        step = self.search_step(cell, how, cache)
        data, lengths, collate = super().data(cell, cache), dev_lengths(task, cache), BertCollator(with_lengths=True)

        def after_epoch(soft: SoftBert, epoch: int, shares: Sequence[float]) -> None:
            if not is_main():
                return
            logits = predict_dev(soft, task, cache, training.batch_size, collate)
            retained = " ".join(f"{share:.2f}" for share in shares)
            self.log(f"search, epoch {epoch}: {metric_text([dev_metrics(task, cache, logits)])}; retained {retained}")

        soft = make_soft(self.finetuned(cell, cache), data, how)
        with locked(step, self.log):
            if from_main(step.is_dir):
                self.log(f"search: as finished before in {step}")
                return read_step(step, soft)["path"]
            self.log(f"search for the schedule: {how.name}, {training.epochs:g} epochs")
            folder = training_folder(step)
            curves = self.curves(search_name(cell, how), task, cache, collate)
            path = search(soft, data, lengths, training, how, cell.seed, folder, collate, after_epoch, self.log, curves)
            if is_main():
                write_step(step, soft, {"path": path})
        return path

    def collate(self, cell: Cell) -> Collate:
        return BertCollator(with_lengths=cell.pruning is not None)

    def latency_collates(self, cell: Cell) -> tuple[Collate, Collate]:
        return BertCollator(with_lengths=False), BertCollator(with_lengths=True)

    def describe(self, model: BertForSequenceClassification, cell: Cell, cache: Cache) -> dict:
        shape, pruning = BertShape.of(model.config), cell.pruning or Pruning.none(model.config.num_hidden_layers)
        lengths = dev_lengths(cell.task, cache)
        counts = keep_counts(lengths, pruning.schedule, pruning.count, pruning.padded_length)
        return {
            "model": "bert",
            "schedule": list(pruning.schedule),
            "schedule_source": "learned" if cell.learned else "hand",
            "target_flops_reduction": cell.target,
            "count": pruning.count,
            "tokens": count_tokens(lengths, pruning),
            "flops": reduction(dense_flops(shape, lengths), pruned_flops(shape, lengths, counts, pruning)),
        }

    def examples(self, model: BertForSequenceClassification, cell: Cell, cache: Cache) -> list[dict]:
        split, collate = cache.splits[cell.task.dev[0]], self.collate(cell)
        found = []
        for row in range(min(EXAMPLES, len(split))):
            options = getattr(model, "evaluation_options", {})
            with torch.no_grad():
                output = model.eval()(**make_batch(split, [row], collate, model.device), **options)
            pieces = [self.tokenizer.piece(int(token)) for token in split.sentence(row)]
            kept = set(output.token_positions[-1].tolist())
            found.append({"sentence": " ".join(pieces), "kept": shorten(pieces, kept)})
        return found

    def load_kept(self, folder: Path) -> PrunedBertForSequenceClassification:
        return PrunedBertForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa")

    def save_model(self, model: BertForSequenceClassification, cell: Cell, folder: Path) -> None:
        """A folder that ``from_pretrained`` loads, tokenizer included."""
        model.save_pretrained(folder)
        for name in TOKENIZER_FILES:
            if name != "config.json" and (self.tokenizer_folder / name).is_file():
                shutil.copyfile(self.tokenizer_folder / name, folder / name)
