"""What the constants of the run script ask of precision: parts that stand last in a chain."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pruner.compress.chain import EMBEDDINGS, PRECISION, ZEROS, Part, register_part
from pruner.compress.method import weights_of
from pruner.compress.precision.factorised import factorise
from pruner.compress.precision.quantise import round_in_training, to_int8
from pruner.compress.precision.sparse import Sparsify
from pruner.training.context import Context
from pruner.training.stage import Additions
from pruner.utils.errors import SettingError


@dataclass(frozen=True)
class RoundedWeights(Part):
    """Compute the encoder in 8-bit integers: rounded after the training, or in it too (Q8BERT, Zafrir et al. 2019)."""

    embeddings: bool
    in_training: bool = False

    place = PRECISION
    variant = level = ""

    @property
    def name(self) -> str:
        return "int8-training" if self.in_training else "int8"

    @property
    def title(self) -> str:
        return (
            f"int8{' embeddings too' if self.embeddings else ''}{', rounded in training' if self.in_training else ''}"
        )

    @property
    def start(self) -> str | None:
        return "pretrained" if self.in_training else None

    def prepare(self, model: Any, context: Context, told: dict) -> Any:
        return round_in_training(model) if self.in_training else model

    def finalize(self, model: Any, context: Context) -> Any:
        return to_int8(model, self.embeddings)

    def describe(self, model: Any, context: Context) -> dict:
        return {"precision": model.config.precision}


@dataclass(frozen=True)
class Zeros(Part):
    """Set the smallest weights to zero, more and more of them, in the training (SparseBERT, Xu et al. 2021)."""

    sparsity: float

    name, title, place = "sparse", "sparse", ZEROS
    start = "finetuned"

    @property
    def variant(self) -> str:
        return f"{100 * self.sparsity:g} % zeros"

    @property
    def level(self) -> str:
        return f"{self.sparsity:g}"

    def additions(self, model: Any, context: Context) -> Additions:
        return Additions(callbacks=[Sparsify(model, self.sparsity)])

    def describe(self, model: Any, context: Context) -> dict:
        zeros = sum(int((x == 0).sum()) for x in weights_of(model))
        total = sum(x.numel() for x in weights_of(model))
        return {"sparsity": round(zeros / total, 6), "encoder_sparsity": self.sparsity}


@dataclass(frozen=True)
class Factorised(Part):
    """Make word vectors a product of two smaller matrices (Lan et al. 2020), by their largest singular values."""

    rank: int

    name, title, place = "factorised", "factorised embeddings", EMBEDDINGS
    start = "pretrained"

    @property
    def variant(self) -> str:
        return f"rank {self.rank}"

    @property
    def level(self) -> str:
        return str(self.rank)

    def check(self, context: Context, layers: int) -> int:
        config = context.backbone.model_config(context.task)
        most = min(config.hidden_size, config.vocab_size)
        if not 1 <= self.rank <= most:
            raise SettingError("embedding_rank", f"{self.rank} is out of range; use 1 to {most}")
        return layers

    def prepare(self, model: Any, context: Context, told: dict) -> Any:
        return factorise(model, self.rank)

    def describe(self, model: Any, context: Context) -> dict:
        return {"embedding_rank": self.rank}


def int8(in_training: bool, options: Namespace) -> Sequence[Part]:
    return [RoundedWeights(options.int8_embeddings, in_training)]


register_part("factorised", EMBEDDINGS, lambda options: [Factorised(rank) for rank in options.embedding_rank])
register_part("sparse", ZEROS, lambda options: [Zeros(share) for share in options.sparsity])
register_part("int8", PRECISION, lambda options: int8(False, options))
register_part("int8-training", PRECISION, lambda options: int8(True, options))
