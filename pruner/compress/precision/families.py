"""What the constants of the run script ask of precision: parts that stand last in a chain."""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from pruner.compress.chain import EMBEDDINGS, PRECISION, ZEROS, Part, register_part
from pruner.compress.method import weights_of
from pruner.compress.precision.csr import CsrLinear, csr_speedup, to_csr
from pruner.compress.precision.factorised import factorise
from pruner.compress.precision.int8 import Scheme
from pruner.compress.precision.linears import linears_of
from pruner.compress.precision.quantise import round_in_training, to_int8
from pruner.compress.precision.sparse import Sparsify
from pruner.training.context import Context
from pruner.training.stage import Additions
from pruner.utils.errors import SettingError

SPARSE = 0.9  # share of zeros below which leaving them out is slower everywhere
NAMES: dict[Scheme | None, str] = {None: "int8", "rows": "int8-training", "published": "q8bert"}
TITLES: dict[Scheme | None, str] = {None: "int8", "rows": "int8, rounded in training", "published": "Q8BERT"}


@dataclass(frozen=True)
class RoundedWeights(Part):
    """Compute the encoder in 8-bit integers: rounded after the training, or in it too, by a ``scheme``."""

    embeddings: bool
    scheme: Scheme | None = None

    place = PRECISION
    variant = ""

    @property
    def name(self) -> str:
        return NAMES[self.scheme]

    @property
    def title(self) -> str:
        return TITLES[self.scheme] + (", embeddings too" if self.embeddings else "")

    @property
    def level(self) -> str:
        return "embeddings" if self.embeddings else ""

    @property
    def start(self) -> str:
        return "pretrained" if self.scheme else ""

    def prepare(self, model: Any, context: Context, told: dict) -> Any:
        return round_in_training(model, self.scheme) if self.scheme else model

    def finalize(self, model: Any, context: Context) -> Any:
        return to_int8(model, self.embeddings)

    def describe(self, model: Any, context: Context) -> dict:
        return {"precision": model.config.precision}


@dataclass(frozen=True)
class Bfloat16(Part):
    """Keep and compute the model in bfloat16."""

    name = title = "bfloat16"
    place = PRECISION
    variant = level = ""

    def finalize(self, model: Any, context: Context) -> Any:
        return model.to(torch.bfloat16)

    def describe(self, model: Any, context: Context) -> dict:
        return {"precision": {"weights": self.name}}


@dataclass(frozen=True)
class Zeros(Part):
    """Set the smallest weights to zero, more and more of them, in the training (SparseBERT, Xu et al. 2021).

    The fine-tuned dense model is the teacher. With ``csr`` zeros are left out where that is faster.
    """

    sparsity: float
    csr: bool = False

    name, title, place = "sparse", "sparse", ZEROS
    start = "pretrained"
    taught = True

    @property
    def variant(self) -> str:
        return f"{100 * self.sparsity:g} % zeros" + (" left out" if self.csr else "")

    @property
    def level(self) -> str:
        return f"{self.sparsity:g}" + ("-csr" if self.csr else "")

    def additions(self, model: Any, context: Context) -> Additions:
        return Additions(callbacks=[Sparsify(model, self.sparsity)])

    def finalize(self, model: Any, context: Context) -> Any:
        if self.csr and self.sparsity >= SPARSE and model.device.type == "cpu":
            model.csr_speedup = csr_speedup(linears_of(model))
            return to_csr(model) if model.csr_speedup > 1 else model
        return model

    def describe(self, model: Any, context: Context) -> dict:
        """Return the share of zeros, of all the model's weights, and what leaving them out does to its layers' time."""
        absent = sum(x.weight.numel() - x.values.numel() for x in model.modules() if isinstance(x, CsrLinear))
        zeros = sum(int((x == 0).sum()) for x in weights_of(model))
        total = sum(x.numel() for x in weights_of(model)) + absent
        found: dict = {"sparsity": round((zeros + absent) / total, 6), "encoder_sparsity": self.sparsity}
        if self.csr:
            speedup = getattr(model, "csr_speedup", None)  # None: it was not tried
            found["csr"] = {"used": absent > 0, "speedup": speedup and round(speedup, 4)}
        return found


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
        if narrow := getattr(config, "embedding_width", None):
            problem = f"factorised: the model's word vectors have {narrow} numbers already, and are widened behind"
            raise SettingError("pruning_methods", f"{problem}; leave it out")
        most = min(config.hidden_size, config.vocab_size)
        if not 1 <= self.rank <= most:
            raise SettingError("embedding_rank", f"{self.rank} is out of range; use 1 to {most}")
        return layers

    def prepare(self, model: Any, context: Context, told: dict) -> Any:
        return factorise(model, self.rank)

    def describe(self, model: Any, context: Context) -> dict:
        return {"embedding_rank": self.rank}


def int8(scheme: Scheme | None, options: Namespace) -> Sequence[Part]:
    return [RoundedWeights(options.int8_embeddings, scheme)]


register_part("factorised", EMBEDDINGS, lambda options: [Factorised(rank) for rank in options.embedding_rank])
register_part("sparse", ZEROS, lambda options: [Zeros(share, options.csr) for share in options.sparsity])
register_part("bfloat16", PRECISION, lambda options: [Bfloat16()])
for scheme, name in NAMES.items():
    register_part(name, PRECISION, partial(int8, scheme))
