"""Encoders that share BERT's layers: the same answers under BERT's names, and all that works on a BERT."""

import copy
import json
from pathlib import Path

import pytest
import torch
import transformers
from conftest import VOCABULARY, write_mrpc
from test_calibrated import texts, tokenizer  # noqa: F401
from test_run import QUICK, records
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner import compress
from pruner.compress.precision.quantise import to_int8
from pruner.compress.structure.shrink import Structure, shrink
from pruner.compress.tokens.select import keep_counts
from pruner.data.tokenizer import FROM_PADDING, OTHER_KINDS, load_tokenizer
from pruner.models.encoders import ENCODERS, BertLikeForSequenceClassification, as_bert
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
    assert {name.partition(" ")[0] for name in CONFIGS} == ENCODERS.keys() == set(OTHER_KINDS)
    assert {kind for kind, one in ENCODERS.items() if one.first_position(encoder("roberta").config)} == {*FROM_PADDING}


@pytest.mark.parametrize("name", CONFIGS)
def test_unpruned_it_answers_as_the_stock_model(name, tmp_path):
    model = encoder(name)
    before, batch = copy.deepcopy(model.state_dict()), inputs(model)
    expected = logits(model, batch)
    bert = as_bert(model)
    assert type(bert) is BertLikeForSequenceClassification
    assert type(PrunedBertForSequenceClassification.from_unpruned(model).unpruned_twin()) is type(bert)
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


def test_a_stock_bert_is_one_whatever_else_its_config_has(tmp_path):
    torch.manual_seed(0)
    model = BertForSequenceClassification(transformers.BertConfig(**BERT, embedding_size=16)).eval()
    PrunedBertForSequenceClassification.from_unpruned(model).save_pretrained(tmp_path)
    batch = inputs(model)
    loaded = PrunedBertForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(loaded, batch), logits(model, batch), rtol=1e-5, atol=1e-5)
    assert type(loaded.unpruned_twin()) is BertForSequenceClassification


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"head_activation": "swish"}, "head_activation: swish is unknown"),
        ({"embedding_width": 0}, "embedding_width: 0 is"),
    ],
)
def test_configs_that_cannot_be_are_refused(entry, line):
    config = as_bert(encoder("electra")).config
    for name, value in entry.items():
        setattr(config, name, value)
    with pytest.raises(ValueError, match=line):
        PrunedBertForSequenceClassification(config)


def make_folder(name: str, folder: Path, **changes) -> None:
    """Put an encoder with its tokenizer there, as ``save_pretrained`` does."""
    kind = CONFIGS[name][0]
    if name in FROM_PADDING:
        lines = ["a film is good .", "the plot was not bad , the actor was fine", "films slowly"] * 3
        trained, marks = ByteLevelBPETokenizer(), ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        trained.train_from_iterator(lines, vocab_size=300, min_frequency=1, special_tokens=marks)
        folder.mkdir()
        trained.save_model(str(folder))
        tokenizer = transformers.RobertaTokenizer.from_pretrained(folder)
    else:
        folder.mkdir()
        (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
        named = {"distilbert": transformers.DistilBertTokenizer}.get(name, transformers.ElectraTokenizer)
        tokenizer = named.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    encoder(name, vocab_size=len(tokenizer), num_labels=2, **changes).save_pretrained(folder)
    assert kind in type(AutoModelForSequenceClassification.from_pretrained(folder)).__name__


# CamemBERT's and XLM-R's tokenizers are of SentencePiece; their layers are RoBERTa's.
SCRIPTED = ("distilbert", "roberta", "electra")


@pytest.mark.parametrize("name", SCRIPTED)
def test_the_scripts_run_on_it(name, run, tmp_path):
    write_mrpc(tmp_path / "data")
    make_folder(name, tmp_path / "bert", max_position_embeddings=140)
    code, _, err = run("PrepareGlue4Bert")
    assert code == 0, err
    how = ("--schedule", "0.5,0,0.3", "--methods", "attention,layers-top", "--layers-dropped", "1")
    code, _, err = run("RunBert4Glue", *QUICK, *how, "--learning-rate", "1e-9")
    assert code == 0, err
    found = records(tmp_path / "records/BERT/mrpc")
    assert len(found) == 3
    # Trained at next to nothing, it is the model that was given, and the scripts' metrics are stock's own.
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "bert").eval()
    own_tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bert")
    lines = (tmp_path / "data/MRPC/dev.tsv").read_text(encoding="utf-8-sig").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    batch = own_tokenizer([row[3] for row in rows], [row[4] for row in rows], padding=True, return_tensors="pt")
    answers = logits(stock, batch)
    baseline = found["baseline_seed1"]
    right = (answers.argmax(dim=1) == torch.tensor([int(row[0]) for row in rows])).float().mean().item()
    assert baseline["metrics"]["accuracy"] == pytest.approx(right, abs=1e-4)
    kept = AutoModelForSequenceClassification.from_pretrained(baseline["model_folder"]).eval()
    assert type(kept) is BertLikeForSequenceClassification
    torch.testing.assert_close(logits(kept, batch), answers, rtol=1e-4, atol=1e-4)
    # And what was kept can be given to the scripts again.
    lengths = batch["attention_mask"].sum(dim=1)
    for record in found.values():
        pruned = PrunedBertForSequenceClassification.from_pretrained(record["model_folder"]).eval()
        assert logits(pruned, batch).shape == answers.shape
    assert found["attention_0.5-0-0.3_seed1"]["flops"]["reduction"] > 1.3
    assert int(lengths.max()) <= 128
    code, _, err = run(
        "RunBert4Glue",
        *QUICK,
        "--bert",
        baseline["model_folder"],
        "--methods",
        "attention",
        "--schedule",
        "0,0.5,0",
        "--learning-rate",
        "1e-9",
        "--records",
        "again",
    )
    assert code == 0, err
    again = records(tmp_path / "again")["baseline_seed1"]
    assert again["metrics"] == baseline["metrics"]


METHODS = (
    "student,winning-ticket,width,layers-odd.distil-hidden,layers-top.distil-attention,sparse,top-layers,int8,"
    "int8-training,bfloat16"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTED)
def test_all_methods_take_it(name, run, tmp_path):
    write_mrpc(tmp_path / "data")
    make_folder(name, tmp_path / "bert", max_position_embeddings=140)
    assert run("PrepareGlue4Bert")[0] == 0
    few = ("--layers-dropped", "1", "--layers-trained", "1", "--ticket-levels", "30", "--width-reduction", "1.2")
    names = METHODS + ("" if name == "electra" else ",factorised")
    more = ("--methods", names, "--schedule", "0.3,0,0.2", "--embedding-rank", "8", "--sparsity", "0.5")
    code, _, err = run("RunBert4Glue", *QUICK, *few, *more)
    assert code == 0, err
    budget = ("--methods", "joint,calibrated", "--target-flops-reduction", "1.2", "--calibration-texts", "16")
    code, _, err = run("RunBert4Glue", *QUICK, *budget)
    assert code == 0, err
    found = records(tmp_path / "records/BERT/mrpc")
    assert len(found) == 1 + len(names.split(",")) + 2
    for record in found.values():
        AutoModelForSequenceClassification.from_pretrained(record["model_folder"])
    if name == "electra":
        code, _, err = run("RunBert4Glue", *QUICK, "--methods", "factorised")
        assert code == 2
        assert "factorised: the model's word vectors have 16 numbers already" in err


def test_a_stock_model_without_a_classifier_gets_one(run, tmp_path):
    """As of masked language models: what comes before is taken, the rest is new."""
    write_mrpc(tmp_path / "data")
    make_folder("distilbert", tmp_path / "bert", max_position_embeddings=140)
    body = encoder("distilbert", vocab_size=len(VOCABULARY), max_position_embeddings=140)
    transformers.DistilBertForMaskedLM(body.config).save_pretrained(tmp_path / "bert")
    assert run("PrepareGlue4Bert")[0] == 0
    code, _, err = run("RunBert4Glue", *QUICK, "--methods", "attention", "--schedule", "0.5,0,0")
    assert code == 0, err
    assert len(records(tmp_path / "records/BERT/mrpc")) == 2


BAD_FOLDERS = {
    "no size": ({"dim": "32"}, 'bert/config.json: dim is "32", which is no size'),
    "no layers": ({"n_layers": None, "num_hidden_layers": None}, "n_layers is null, which is no size"),
    "heads": ({"n_heads": 5}, "hidden_size 32 cannot be divided among num_attention_heads 5"),
    "dropout": ({"dropout": 2}, "dropout is 2, not a number from 0 to 1"),
    "activation": ({"activation": "swoosh"}, 'hidden_act is "swoosh", unknown to transformers'),
    "another kind": (
        {"model_type": "albert"},
        "an albert model; this project runs BERT models: choose one of them, or one of d",
    ),
    "of another size": ({"hidden_dim": 128}, "is not of the shape that config.json says"),
    "short": ({"max_position_embeddings": 20}, "128 tokens, but"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_folders_that_cannot_be_are_refused_in_a_line(case, run, tmp_path):
    changes, line = BAD_FOLDERS[case]
    write_mrpc(tmp_path / "data")
    make_folder("distilbert", tmp_path / "bert", max_position_embeddings=140)
    assert run("PrepareGlue4Bert")[0] == 0
    config = json.loads((tmp_path / "bert/config.json").read_text(encoding="utf-8"))
    (tmp_path / "bert/config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    code, _, err = run("RunBert4Glue", *QUICK, "--methods", "attention", "--schedule", "0.5,0,0")
    assert code == 2
    assert line in err
    assert err.count("\n") == 1


def test_positions_are_counted_from_the_padding(run, tmp_path):
    """A RoBERTa of 130 positions takes sentences of 128 tokens, one of 129 does not."""
    write_mrpc(tmp_path / "data")
    make_folder("roberta", tmp_path / "bert", max_position_embeddings=130)
    assert run("PrepareGlue4Bert")[0] == 0
    config = json.loads((tmp_path / "bert/config.json").read_text(encoding="utf-8"))
    (tmp_path / "bert/config.json").write_text(json.dumps(config | {"max_position_embeddings": 129}), encoding="utf-8")
    code, _, err = run("PrepareGlue4Bert")
    assert code == 2
    assert "128 tokens, but" in err
    assert "127 positions" in err
    assert load_tokenizer(tmp_path / "bert", 64).stock.cls_token == "<s>"
