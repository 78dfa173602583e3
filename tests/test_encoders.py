"""Encoders that share BERT's layers: the same answers under BERT's names, and all that works on a BERT."""

import copy

import pytest
import torch
import transformers
from conftest import VOCABULARY
from test_calibrated import texts, tokenizer  # noqa: F401
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner import compress
from pruner.compress.precision.quantise import to_int8
from pruner.compress.structure.shrink import Structure, shrink
from pruner.compress.tokens.select import keep_counts
from pruner.models.encoders import ENCODERS, as_bert
from pruner.models.flops import BertShape, dense_flops
from pruner.utils.errors import UserError

BERT = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
}
DISTILBERT = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64, "initializer_range": 0.3}
ROBERTA = BERT | {"type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
CONFIGS = {
    "distilbert": ("DistilBert", DISTILBERT | {"vocab_size": len(VOCABULARY), "max_position_embeddings": 40}),
    "roberta": ("Roberta", ROBERTA),
    "xlm-roberta": ("XLMRoberta", ROBERTA),
    "camembert": ("Camembert", ROBERTA),
    "electra": ("Electra", BERT | {"embedding_size": 16}),
    "electra of one width": ("Electra", BERT | {"embedding_size": 32}),
}


def encoder(name: str, **changes):
    torch.manual_seed(0)
    kind, settings = CONFIGS[name]
    config = getattr(transformers, f"{kind}Config")(**(settings | {"num_labels": 3} | changes))
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms matter too
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def inputs(model) -> dict:
    """Sentences of several lengths, padded on the right with what the model takes for padding."""
    generator, lengths = torch.Generator().manual_seed(1), torch.tensor([12, 3, 9, 1])
    ids = torch.randint(5, len(VOCABULARY), (4, 12), generator=generator)
    real = torch.arange(12) < lengths[:, None]
    ids = ids.where(real, torch.tensor(model.config.pad_token_id))
    batch = {"input_ids": ids, "attention_mask": real.long()}
    if getattr(model.config, "type_vocab_size", 1) > 1:
        batch["token_type_ids"] = (real & (torch.arange(12) > 4)).long()
    return batch


@torch.no_grad()
def logits(model, batch: dict) -> torch.Tensor:
    return model(**batch).logits


def test_all_of_them_are_tried():
    assert {name.partition(" ")[0] for name in CONFIGS} == ENCODERS.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_unpruned_it_answers_as_the_stock_model(name, tmp_path):
    model = encoder(name)
    before, batch = copy.deepcopy(model.state_dict()), inputs(model)
    expected = logits(model, batch)
    bert = as_bert(model)
    assert type(bert) is BertForSequenceClassification
    torch.testing.assert_close(logits(bert, batch), expected, rtol=1e-5, atol=1e-5)
    pruned = PrunedBertForSequenceClassification.from_unpruned(model)
    torch.testing.assert_close(logits(pruned, batch), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(pruned.unpruned_twin(), batch), expected, rtol=1e-5, atol=1e-5)
    pruned.save_pretrained(tmp_path)
    for loaded in (
        PrunedBertForSequenceClassification.from_pretrained(tmp_path),
        AutoModelForSequenceClassification.from_pretrained(tmp_path),
    ):
        torch.testing.assert_close(logits(loaded.eval(), batch), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits(loaded.unpruned_twin(), batch), expected, rtol=1e-5, atol=1e-5)
    assert pruned.config.id2label == model.config.id2label
    # The stock model has been left as it was, and shares nothing with the other.
    pruned.bert.embeddings.word_embeddings.weight.data.zero_()
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())


@pytest.mark.parametrize("name", CONFIGS)
def test_dropping_is_masking(name):
    """With what leaves before the first layer masked in the stock model, the answers are the same."""
    model = encoder(name)
    batch = inputs(model)
    pruned = PrunedBertForSequenceClassification.from_unpruned(model).set_pruning([0.5, 0, 0], "tail")
    with torch.no_grad():
        output = pruned(**batch)
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    assert output.token_counts[0] == keep_counts(lengths, [0.5])[0]
    mask = torch.zeros_like(batch["attention_mask"])
    for row, positions in enumerate(output.token_positions[0].split(output.token_counts[0])):
        mask[row, positions] = 1
    masked = logits(model, batch | {"attention_mask": mask})
    torch.testing.assert_close(output.logits, masked, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_everything_else_works_on_it(name, tmp_path):
    model = encoder(name)
    batch = inputs(model)
    smaller = PrunedBertForSequenceClassification.from_unpruned(model)
    everything = Structure.of(smaller.config)
    shrink(smaller, everything.keep_layers([0, 2]).mask(heads=torch.tensor([[True, True, False, True]] * 3)))
    smaller.set_pruning([0, 0.5], "attention")
    to_int8(smaller, embeddings=True).save_pretrained(tmp_path)
    loaded = PrunedBertForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(loaded, batch), logits(smaller.eval(), batch))
    # And it learns as the stock model does.
    stock = encoder(name)
    pruned = PrunedBertForSequenceClassification.from_unpruned(stock)
    labels = torch.tensor([0, 2, 1, 1])
    for one in stock, pruned:
        one(**batch, labels=labels).loss.backward()
    first = pruned.bert.encoder.layer[0].intermediate.dense.weight.grad
    layers = getattr(stock, stock.base_model_prefix)
    layer = layers.transformer.layer[0].ffn.lin1 if name == "distilbert" else layers.encoder.layer[0].intermediate.dense
    torch.testing.assert_close(first, layer.weight.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_compress_takes_it(name, tokenizer, tmp_path):  # noqa: F811
    """The tokenizer is one of BERT's here; that of the model need only be one of transformers'."""
    model = encoder(name)
    smaller = compress(model, tokenizer, texts(60), target_flops_reduction=1.4)
    smaller.save_pretrained(tmp_path / "smaller")
    loaded = PrunedBertForSequenceClassification.from_pretrained(tmp_path / "smaller").eval()
    torch.testing.assert_close(logits(loaded, inputs(model)), logits(smaller.model, inputs(model)))
    assert smaller.flops_reduction == pytest.approx(1.4, rel=0.06)


def test_narrow_embeddings_are_counted():
    shape = BertShape.of_model(as_bert(encoder("electra")))
    same = BertShape.of_model(as_bert(encoder("electra of one width")))
    assert dense_flops(shape, [10]) - dense_flops(same, [10]) == 2 * 16 * 32 * 10


def test_a_sentence_may_be_as_long_as_the_stock_model_takes():
    """RoBERTa's table of positions begins with two that are never used."""
    assert as_bert(encoder("roberta")).config.max_position_embeddings == 38
    assert as_bert(encoder("electra")).config.max_position_embeddings == 40


def other(kind: str, **settings):
    return getattr(transformers, f"{kind}")(getattr(transformers, kind.partition("For")[0] + "Config")(**settings))


REFUSED = {
    "another encoder": (
        lambda: other("AlbertForSequenceClassification", **BERT),
        "AlbertForSequenceClassification: not",
    ),
    "another head": (lambda: other("RobertaForTokenClassification", **ROBERTA), "RobertaForTokenClassification: not"),
    "a decoder": (lambda: encoder("roberta", is_decoder=True), "RobertaForSequenceClassification: a decoder reads in"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_by_name(case):
    make, line = REFUSED[case]
    for use in as_bert, PrunedBertForSequenceClassification.from_unpruned:
        with pytest.raises(UserError, match=line):
            use(make())


def test_a_folder_of_another_encoder_says_how_it_is_loaded(tmp_path):
    encoder("roberta").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a roberta model; load it with AutoModelForSequenceClass"):
        PrunedBertForSequenceClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"head_activation": "swish"}, "head_activation: swish is unknown"),
        ({"embedding_size": 0}, "embedding_size: 0 is"),
    ],
)
def test_configs_that_cannot_be_are_refused(entry, line):
    config = as_bert(encoder("electra")).config
    for name, value in entry.items():
        setattr(config, name, value)
    with pytest.raises(ValueError, match=line):
        PrunedBertForSequenceClassification(config)
