"""``compress``: a fine-tuned encoder made cheaper in one call, on texts without labels, without any training."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BertForSequenceClassification, PreTrainedModel

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.compress.joint.budgets import Budget, FlopsBudget
from pruner.compress.joint.chosen import Speed
from pruner.compress.joint.fisher import agreement, answer_kind
from pruner.compress.joint.texts import encode_texts
from pruner.compress.joint.untrained import calibrate
from pruner.compress.method import sizes_of
from pruner.compress.precision.quantise import to_int8
from pruner.compress.structure.shrink import Structure
from pruner.compress.tokens.flops import pruned_flops
from pruner.compress.tokens.schedule import schedule_text
from pruner.data.collate import BertCollator, hold_out
from pruner.evaluation.predict import predict
from pruner.models.config import SMALLER
from pruner.models.encoders import as_bert
from pruner.models.flops import BertShape, dense_flops
from pruner.utils.errors import SettingError, UserError

HELD_OUT = 0.25  # share of the texts by which the result is judged, and nothing else


@dataclass(frozen=True)
class Compressed:
    """A smaller model, and how it compares with the one that it was made of.

    ``agreement`` is the share of ``held_out`` texts, which have chosen nothing, with the dense model's answer; of a
    regression the rank correlation with it.
    """

    model: PrunedBertForSequenceClassification
    tokenizer: Any
    flops_reduction: float
    width_reduction: float
    bytes: tuple[int, int]  # of the dense model's weights and of these
    agreement: float
    held_out: int
    predicted_speedup: float | None = None  # where that was asked for

    def __call__(self, **inputs: Any) -> Any:
        return self.model(**inputs)

    def report(self) -> str:
        """Say in a few lines what has left, what that saves, and what it does to the answers."""
        structure, config = Structure.of(self.model.config), self.model.config
        heads = " ".join(str(len(kept)) for kept in structure.heads)
        neurons = " ".join(str(len(kept)) for kept in structure.neurons)
        before, after = (f"{size / 1e6:.1f} MB" for size in self.bytes)
        tokens = self.flops_reduction / self.width_reduction
        of_regression = answer_kind(config) == "regression"
        answers = f"rank correlation {self.agreement:.3f}" if of_regression else f"the same for {self.agreement:.1%}"
        speed = self.predicted_speedup
        return "\n".join(
            [
                f"tokens    rates by layer {schedule_text(self.model.pruning.schedule)}",
                f"heads     {heads} of {config.num_attention_heads}",
                f"neurons   {neurons} of {config.intermediate_size}",
                f"FLOPs     {self.flops_reduction:.2f}x fewer on these texts: width {self.width_reduction:.2f}x, "
                f"tokens {tokens:.2f}x",
                *([f"time      {speed:.2f}x faster, by the times of its parts"] if speed else []),
                f"weights   {before} -> {after}",
                f"answers   {answers} of {self.held_out} held-out texts as by the dense model",
            ]
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model and tokenizer to a folder, which ``PrunedBertForSequenceClassification`` loads."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def compress(
    model: PreTrainedModel,
    tokenizer: Any,
    texts: Sequence[str | Sequence[str]],
    target_flops_reduction: float = 2.0,
    tokens: bool = True,
    width: bool = True,
    int8: bool = True,
    batch_size: int = 32,
    target_speedup: float | None = None,
    times: str | Path | None = None,
) -> Compressed:
    """Make a fine-tuned encoder cheaper without training it; the model itself is left as it was.

    Heads and neurons leave by Fisher information, and what remains is corrected by least squares (after Kwon et al.
    2022, arXiv 2204.09656); tokens leave by the attention that they receive, by a schedule of two numbers. How much of
    each, is chosen by how little the answers change. It takes about 25 times as long as the model takes for the texts.

    Args:
        model: of classes, of several labels, or a regression, as ``from_pretrained`` gives it: a BERT, or another of
            ``models.encoders.ENCODERS``.
        texts: a few hundred, or pairs, such as the model will read; no labels. By a quarter of them the result is
            judged.
        target_flops_reduction: the budget, on texts of these lengths; int8 does not count.
        tokens, width, int8: what may leave: tokens before layers; heads and neurons; bits, of the word vectors too.
        target_speedup: in place of ``target_flops_reduction``, how many times faster it is to be on this machine than
            ``model`` in its dtype and on its device, in batches of ``batch_size`` sorted by length; int8 does not
            count either.
        times: the folder in which the times of layers are kept, that are measured for it; without, they are not kept.

    Raises:
        UserError: a model of another kind, or made smaller already; texts that are none; a budget that cannot be met.
    """
    dense = check_dense(model)
    check_factor("target_flops_reduction", target_flops_reduction)
    if target_speedup is not None:
        check_factor("target_speedup", target_speedup)
    if not (tokens or width):
        raise SettingError("target_flops_reduction", "neither tokens nor width may leave; allow one of them")
    config = dense.config
    split = encode_texts(texts, tokenizer, config.max_position_embeddings, config.vocab_size)
    known, held = hold_out(split, HELD_OUT)
    plain = dense.unpruned_twin() if isinstance(dense, PrunedBertForSequenceClassification) else copy.deepcopy(dense)
    plain.float().eval()
    lengths = [int(length) for length in split.lengths]
    axes = [name for name, may in (("tokens", tokens), ("width", width)) if may]
    if target_speedup is None:
        budget: Budget = FlopsBudget(target_flops_reduction, config, lengths)
    else:
        speed = Speed(target_speedup, model.dtype, batch_size, None if times is None else Path(times))
        budget = speed.budget(plain, lengths, None, print)
    smaller, found = calibrate(plain, known, lengths, budget, axes, batch_size, lambda line: None)
    flops = pruned_flops(BertShape.of_model(smaller), lengths, smaller.pruning.keep_counts(lengths), smaller.pruning)
    smaller.to(model.dtype)
    if int8:
        to_int8(smaller, embeddings=True)
    reference = torch.from_numpy(predict(plain, held, batch_size, BertCollator(with_lengths=False)))
    logits = torch.from_numpy(predict(smaller, held, batch_size, BertCollator(with_lengths=True)))
    return Compressed(
        smaller,
        tokenizer,
        dense_flops(BertShape.of_model(plain), lengths) / flops,
        found["width_reduction"],
        (sizes_of(model)[1], sizes_of(smaller)[1]),
        agreement(logits, reference, config),
        len(held),
        found.get("predicted_speedup"),
    )


def check_factor(name: str, value: object) -> None:
    """Raise a ``SettingError`` if something can be no budget."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 < value < float("inf"):
        raise SettingError(name, f"{value!r:.60} is no factor; use a number above 1, as 1.5")


def check_dense(model: Any) -> BertForSequenceClassification:
    """Return a classifier as a BERT; refuse, by name, what is none, or no dense one any more."""
    for key, what in SMALLER.items():
        if getattr(model.config, key, None):
            raise UserError(f"compress: {what}; give the model that it was made of")
    if any(getattr(getattr(model, "pruning", None), "schedule", ())):
        raise UserError("compress: tokens are dropped already; give the model that it was made of")
    dense = as_bert(model)
    bad = [name for name, weights in dense.named_parameters() if not bool(weights.isfinite().all())]
    if bad:
        raise UserError(f"compress: {bad[0]} holds numbers that are not finite; load the model again")
    return dense
