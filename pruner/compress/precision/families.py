"""What the constants of the run script ask of precision: parts that stand last in a chain."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pruner.compress.chain import PRECISION, Part, register_part
from pruner.compress.precision.quantise import round_in_training, to_int8
from pruner.training.context import Context


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


def int8(in_training: bool, options: Namespace) -> Sequence[Part]:
    return [RoundedWeights(options.int8_embeddings, in_training)]


register_part("int8", PRECISION, lambda options: int8(False, options))
register_part("int8-training", PRECISION, lambda options: int8(True, options))
