"""ConvertBert4Torch.py against what Google's own code wrote and computed, and against bad checkpoints."""

import itertools
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, VOCABULARY, full_disk, write_mrpc
from transformers import AutoTokenizer, BertForPreTraining, BertForSequenceClassification, BertModel

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.data.tokenizer import load_tokenizer
from pruner.models.google import body_weights, head_weights, is_training_state, padded_rows

pytest.importorskip("tensorflow", reason="only TensorFlow reads and writes Google's checkpoints")

CONFIG = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "pooler_num_fc_layers": 3,  # Google's multilingual configs have more keys; they mean nothing to the model
}


def write_checkpoint(
    folder, heads=(), labels=3, config=CONFIG, drop=(), add=(), slots=True, make=None
) -> dict[str, np.ndarray]:
    """A small checkpoint in Google's form; returns its variables."""
    import tensorflow

    folder.mkdir(parents=True, exist_ok=True)
    weights = body_weights(config)
    for head in heads:
        weights |= head_weights(config, labels)[head]
    make = make or np.random.default_rng(0).normal
    variables = {n: make(size=w.shape).astype(np.float32) for n, w in weights.items()}
    for name in drop:
        del variables[name]
    variables |= {name: np.ones(2, dtype=np.float32) for name in add}
    stored = dict(variables)
    if slots:
        stored |= {f"{name}/adam_{moment}": value for name, value in variables.items() for moment in "mv"}
        stored["global_step"] = np.array(7)
    prefix = str(folder / "bert_model.ckpt")
    tensorflow.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(stored), shape_and_slices=[""] * len(stored), tensors=list(stored.values())
    )
    (folder / "bert_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return variables


def convert(run, source, dump, *options):
    return run(
        "ConvertBert4Torch",
        *("--tf_checkpoint_path", str(source / "bert_model.ckpt")),
        *("--bert_config_file", str(source / "bert_config.json")),
        *("--pytorch_dump_path", str(dump)),
        *options,
    )


def load(model_class, folder):
    """A model of which the folder fills every weight."""
    model, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


def largest_difference(model, outputs) -> float:
    """Over everything that Google's code has computed."""
    ids, mask, types = (torch.from_numpy(outputs[k]).long() for k in ("input_ids", "input_mask", "segment_ids"))
    with torch.no_grad():
        found = model(ids, attention_mask=mask, token_type_ids=types, output_hidden_states=True)
        pooled = model.bert(ids, attention_mask=mask, token_type_ids=types).pooler_output
    pairs = [
        (found.hidden_states[0], "embedding_output"),
        (torch.stack(found.hidden_states[1:]), "all_encoder_layers"),
        (found.hidden_states[-1], "sequence_output"),
        (pooled, "pooled_output"),
        (found.prediction_logits, "mlm_logits"),
        (found.seq_relationship_logits, "nsp_logits"),
    ]
    return max(float(np.abs(own.numpy() - outputs[name]).max()) for own, name in pairs)


@pytest.fixture
def reference(shared):
    folder = shared / "reference" / "google_bert_tiny"
    return folder, dict(np.load(folder / "reference.npz"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_outputs_are_those_of_googles_code(run, tmp_path, reference, name):
    source, outputs = reference
    code, out, err = convert(run, source, tmp_path / "bert" / name)
    assert code == 0, err
    assert out.startswith("139 variables: 46 written (625,130 parameters")
    assert "93 of the optimizer left out" in out
    assert sorted(path.name for path in (tmp_path / "bert").iterdir()) == sorted(
        ["config.json", name, "tokenizer_config.json", "vocab.txt"]
    )
    assert largest_difference(load(BertForPreTraining, tmp_path / "bert"), outputs) < 2e-5
    pruned = PrunedBertForSequenceClassification.from_pretrained(tmp_path / "bert").eval()
    ids, mask, types = (torch.from_numpy(outputs[k]).long() for k in ("input_ids", "input_mask", "segment_ids"))
    with torch.no_grad():
        pruned.classifier = torch.nn.Identity()
        pooled = pruned(ids, attention_mask=mask, token_type_ids=types).logits
    assert np.abs(pooled.numpy() - outputs["pooled_output"]).max() < 2e-5


def test_every_tensor_is_in_its_place(run, tmp_path, reference):
    """Names spelt out once more and by hand: a swapped query and key bias would not show in the outputs."""
    import tensorflow

    source, _ = reference
    assert convert(run, source, tmp_path / "pytorch_model.bin")[0] == 0
    state = load(BertForPreTraining, tmp_path).state_dict()
    reader = tensorflow.train.load_checkpoint(str(source / "bert_model.ckpt"))
    renamed = {
        "bert.embeddings.word_embeddings.weight": "bert/embeddings/word_embeddings",
        "bert.embeddings.position_embeddings.weight": "bert/embeddings/position_embeddings",
        "bert.embeddings.token_type_embeddings.weight": "bert/embeddings/token_type_embeddings",
        "bert.embeddings.LayerNorm.weight": "bert/embeddings/LayerNorm/gamma",
        "bert.embeddings.LayerNorm.bias": "bert/embeddings/LayerNorm/beta",
        "cls.predictions.bias": "cls/predictions/output_bias",
        "cls.predictions.decoder.bias": "cls/predictions/output_bias",
        "cls.predictions.decoder.weight": "bert/embeddings/word_embeddings",
        "cls.predictions.transform.LayerNorm.weight": "cls/predictions/transform/LayerNorm/gamma",
        "cls.predictions.transform.LayerNorm.bias": "cls/predictions/transform/LayerNorm/beta",
        "cls.seq_relationship.weight": "cls/seq_relationship/output_weights",
        "cls.seq_relationship.bias": "cls/seq_relationship/output_bias",
    }
    dense = {
        "bert.pooler.dense": "bert/pooler/dense",
        "cls.predictions.transform.dense": "cls/predictions/transform/dense",
    }
    for layer in range(2):
        name, variable = f"bert.encoder.layer.{layer}", f"bert/encoder/layer_{layer}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value"):
            dense[f"{name}.{part}"] = f"{variable}/{part.replace('.', '/')}"
        for part in ("attention.output", "intermediate", "output"):
            dense[f"{name}.{part}.dense"] = f"{variable}/{part.replace('.', '/')}/dense"
            if part != "intermediate":
                renamed[f"{name}.{part}.LayerNorm.weight"] = f"{variable}/{part.replace('.', '/')}/LayerNorm/gamma"
                renamed[f"{name}.{part}.LayerNorm.bias"] = f"{variable}/{part.replace('.', '/')}/LayerNorm/beta"
    renamed |= {f"{name}.bias": f"{variable}/bias" for name, variable in dense.items()}
    kernels = {f"{name}.weight": f"{variable}/kernel" for name, variable in dense.items()}
    assert set(renamed) | set(kernels) == set(state)
    for name, variable in renamed.items():
        assert np.array_equal(state[name].numpy(), reader.get_tensor(variable)), name
    for name, variable in kernels.items():
        assert np.array_equal(state[name].numpy(), reader.get_tensor(variable).T), name


def test_the_comparison_would_catch_a_forgotten_transpose(run, tmp_path, reference):
    source, outputs = reference
    assert convert(run, source, tmp_path / "pytorch_model.bin")[0] == 0
    square = "attention.self.query attention.self.key attention.self.value attention.output.dense".split()
    names = [f"bert.encoder.layer.{layer}.{part}.weight" for layer in range(2) for part in square]
    for name in (*names, "bert.pooler.dense.weight", "cls.predictions.transform.dense.weight"):
        model = load(BertForPreTraining, tmp_path)
        weight = model.get_parameter(name)
        weight.data = weight.data.T.contiguous()
        assert largest_difference(model, outputs) > 2e-5, name


def test_gelu_and_the_things_no_file_says(run, tmp_path, reference):
    source, outputs = reference
    for gelu, activation in (("tanh", "gelu_pytorch_tanh"), ("exact", "gelu")):
        folder = tmp_path / gelu
        assert convert(run, source, folder / "pytorch_model.bin", "--gelu", gelu)[0] == 0
        model = load(BertForPreTraining, folder)
        assert model.config.hidden_act == activation
        assert model.config.layer_norm_eps == 1e-12
        assert model.config.architectures == ["BertForPreTraining"]
        assert (largest_difference(model, outputs) < 2e-5) == (gelu == "tanh")


def test_a_fine_tuned_classifier(run, tmp_path):
    variables = write_checkpoint(tmp_path / "source", heads=["classifier"], labels=3)
    code, out, err = convert(run, tmp_path / "source", tmp_path / "bert" / "model.safetensors")
    assert code == 0, err
    assert "heads: classifier" in out
    for model_class in (BertForSequenceClassification, PrunedBertForSequenceClassification):
        model = load(model_class, tmp_path / "bert")
        assert model.num_labels == 3
        assert np.array_equal(model.classifier.weight.detach().numpy(), variables["output_weights"])
        assert np.array_equal(model.classifier.bias.detach().numpy(), variables["output_bias"])


def test_absent_heads_stay_absent(run, tmp_path):
    write_checkpoint(tmp_path / "source", slots=False)
    assert convert(run, tmp_path / "source", tmp_path / "bert" / "pytorch_model.bin")[0] == 0
    state = torch.load(tmp_path / "bert" / "pytorch_model.bin", weights_only=True)
    assert all(name.startswith("bert.") for name in state)
    load(BertModel, tmp_path / "bert")
    write_checkpoint(tmp_path / "mlm", heads=["masked-LM head"])
    assert convert(run, tmp_path / "mlm", tmp_path / "bert2" / "pytorch_model.bin")[0] == 0
    assert json.loads((tmp_path / "bert2" / "config.json").read_text("utf-8"))["architectures"] == ["BertForMaskedLM"]


@pytest.mark.parametrize(("words", "lower"), [(VOCABULARY, True), ([*VOCABULARY[:-1], "Paris"], False)])
def test_casing(run, tmp_path, words, lower):
    write_checkpoint(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    assert convert(run, tmp_path / "bert", tmp_path / "bert" / "pytorch_model.bin")[0] == 0  # beside its source
    assert json.loads((tmp_path / "bert" / "tokenizer_config.json").read_text("utf-8"))["do_lower_case"] is lower
    tokens = AutoTokenizer.from_pretrained(tmp_path / "bert").tokenize("The film")
    assert tokens == (["the", "film"] if lower else ["[UNK]", "film"])


def test_a_converted_folder_is_prepared_and_run(run, tmp_path):
    write_checkpoint(tmp_path / "bert", config=CONFIG | {"max_position_embeddings": 32})
    assert convert(run, tmp_path / "bert", tmp_path / "bert" / "pytorch_model.bin")[0] == 0
    write_mrpc(tmp_path / "data")
    assert run("PrepareGlue4Bert", "--max-length", "32")[0] == 0
    quick = ("--epochs", "1", "--batch-size", "8", "--latency-repeats", "1")
    code, _, err = run("RunBert4Glue", *quick, "--schedule", "0.5,0", "--methods", "student")
    assert code == 0, err
    assert (tmp_path / "records" / "BERT" / "mrpc" / "student-emission_0.5-0_seed1" / "record.json").is_file()


def edit(**changes):
    def change(source):
        path = source / "bert_config.json"
        config = json.loads(path.read_text("utf-8")) | changes
        path.write_text(
            json.dumps({key: value for key, value in config.items() if value is not None}), encoding="utf-8"
        )

    return change


def cut_data(source):
    path = source / "bert_model.ckpt.data-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-200])


def rename_data(suffix):
    def change(source):
        data = source / "bert_model.ckpt.data-00000-of-00001"
        data.rename(data.with_name(f"bert_model.ckpt.{suffix}"))

    return change


def damage_data(source):
    path = source / "bert_model.ckpt.data-00000-of-00001"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def write(name, text):
    return lambda source: (source / name).write_text(text, encoding="utf-8")


# id: (what is done to the checkpoint's folder, how it is written, what the line must hold)
REFUSALS = {
    "no index": (lambda s: (s / "bert_model.ckpt.index").unlink(), {}, ["bert_model.ckpt.index: no such file"]),
    "no data": (
        lambda s: (s / "bert_model.ckpt.data-00000-of-00001").unlink(),
        {},
        ["data-00000-of-00001: no such file"],
    ),
    "one of two data files": (
        lambda s: (s / "bert_model.ckpt.data-00000-of-00001").rename(s / "bert_model.ckpt.data-00000-of-00002"),
        {},
        ["data-00001-of-00002: no such file"],
    ),
    "a damaged name of the data": (rename_data("data-0000x-of-00001"), {}, ["data-00000-of-00001: no such file"]),
    "a name of too much data": (rename_data("data-00000-of-99999999999"), {}, ["data-00000-of-00001: no such file"]),
    "a name of no data": (rename_data("data-00000-of-00000"), {}, ["cannot be read", "copy the data again"]),
    "data cut short": (cut_data, {}, ["data-00000-of-00001: cut short", "copy the data again"]),
    "data damaged": (damage_data, {"slots": False}, ["cannot be read", "copy the data again"]),
    "index damaged": (
        write("bert_model.ckpt.index", "nothing"),
        {},
        ["bert_model.ckpt.index: not a checkpoint's index"],
    ),
    "no config": (lambda s: (s / "bert_config.json").unlink(), {}, ["bert_config.json: no such file"]),
    "config not JSON": (write("bert_config.json", "{"), {}, ["bert_config.json: not JSON"]),
    "config lacks a key": (edit(intermediate_size=None), {}, ["bert_config.json: no intermediate_size"]),
    "config of words": (edit(hidden_size="8"), {}, ['bert_config.json: hidden_size is "8", which is no size']),
    "config of no BERT": (edit(num_attention_heads=0), {}, ["bert_config.json: num_attention_heads is 0"]),
    "activation is a list": (edit(hidden_act=["gelu"]), {}, ['bert_config.json: hidden_act is ["gelu"], not a name']),
    "no vocabulary": (lambda s: (s / "vocab.txt").unlink(), {}, ["vocab.txt: no such file"]),
    "vocabulary and config": (
        write("vocab.txt", "\n".join([*VOCABULARY, "more"]) + "\n"),
        {},
        [f"{len(VOCABULARY) + 1} word pieces", str(len(VOCABULARY))],
    ),
    "vocabulary and rows": (
        edit(vocab_size=len(VOCABULARY)),
        {"config": CONFIG | {"vocab_size": len(VOCABULARY) + 1}},
        ["word_embeddings should be", f"[{len(VOCABULARY)}, 8]", f"[{len(VOCABULARY) + 1}, 8]"],
    ),
    "more rows than padding": (
        edit(vocab_size=len(VOCABULARY)),
        {"config": CONFIG | {"vocab_size": len(VOCABULARY) + 128}},
        ["word_embeddings should be", f"[{len(VOCABULARY)}, 8]", f"[{len(VOCABULARY) + 128}, 8]"],
    ),
    "many unknown variables": (
        None,
        {"add": [f"bert/extra_{number}" for number in range(9)]},
        ["9 variables", "bert/extra_0, bert/extra_1, bert/extra_2, bert/extra_3, bert/extra_4 and 4 more; give a"],
    ),
    "long names": (
        None,
        {"drop": [f"bert/encoder/layer_1/attention/output/dense/{part}" for part in ("kernel", "bias")]},
        ["bert/encoder/layer_1/attention/output/dense/bias, bert/encoder/layer_1/attention/output/dense/kernel"],
    ),
    "another model beside it": (
        None,
        {"add": ["teacher/bert/pooler/dense/bias"], "slots": False},
        ["1 variables have no place in a BERT: teacher/bert/pooler/dense/bias"],
    ),
    "no layers": (
        None,
        {"add": ["a/group_0"], "drop": [name for name in body_weights(CONFIG) if "/layer_" in name], "slots": False},
        ["no variable of the checkpoint is one of a BERT's layers", ": a/group_0, bert/embeddings/", "and 3 more"],
    ),
    "TF2": (
        None,
        {"add": ["model/layer-1/kernel/.ATTRIBUTES/VARIABLE_VALUE"]},
        ["bert_model.ckpt: a checkpoint of TF2 (Keras); this reads what google-research/bert (TF1) writes"],
    ),
    "positions": (edit(max_position_embeddings=99), {}, ["position_embeddings should be [99, 8]", "[16, 8]"]),
    "token types": (edit(type_vocab_size=3), {}, ["token_type_embeddings should be [3, 8]", "[2, 8]"]),
    "intermediate width": (edit(intermediate_size=13), {}, ["intermediate/dense", "13", "12"]),
    "heads": (edit(num_attention_heads=3), {}, ["hidden_size 8 cannot be divided among num_attention_heads 3"]),
    "too few layers": (edit(num_hidden_layers=3), {}, ["num_hidden_layers is 3, the checkpoint has 2"]),
    "too many layers": (edit(num_hidden_layers=1), {}, ["num_hidden_layers is 1, the checkpoint has 2"]),
    "unknown variable": (None, {"add": ["bert/extra"]}, ["1 variables have no place in a BERT: bert/extra"]),
    "missing variable": (None, {"drop": ["bert/pooler/dense/bias"]}, ["not in the checkpoint: bert/pooler/dense/bias"]),
    "half a head": (
        None,
        {"heads": ["masked-LM head"], "drop": ["cls/predictions/output_bias"]},
        ["not in the checkpoint: cls/predictions/output_bias"],
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(run, tmp_path, name):
    change, how, expected = REFUSALS[name]
    write_checkpoint(tmp_path / "source", **how)
    if change:
        change(tmp_path / "source")
    code, _, err = convert(run, tmp_path / "source", tmp_path / "bert" / "pytorch_model.bin")
    lines = [line for line in err.splitlines() if "error: " in line]
    assert code == 2
    assert len(lines) == 1
    assert "Traceback" not in err
    for part in expected:
        assert part in lines[0]
    assert "; " in lines[0], "it says what to do"
    assert not list((tmp_path / "bert").glob("*")) if (tmp_path / "bert").exists() else True


@pytest.mark.parametrize(
    ("dump", "problem"),
    [
        ("", "--pytorch_dump_path: . names no file; name one"),
        ("bert", "bert: is a folder; remove it, or name another place"),
        ("bert/pipe", "bert/pipe: is a pipe, socket or device; remove it"),
        ("bert/config.json", "bert/config.json: is for another of the model's files; name the weights"),
    ],
)
def test_places_that_are_none_for_weights(run, tmp_path, dump, problem):
    write_checkpoint(tmp_path / "source")
    (tmp_path / "bert").mkdir()
    os.mkfifo(tmp_path / "bert" / "pipe")
    code, _, err = convert(run, tmp_path / "source", dump, "--force")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {problem}")
    assert [path.name for path in (tmp_path / "bert").iterdir()] == ["pipe"]


@pytest.mark.parametrize("config_is_padded", [True, False])
def test_a_table_padded_to_a_multiple_of_8(run, tmp_path, config_is_padded):
    pieces = VOCABULARY[:-3]
    variables = write_checkpoint(tmp_path / "source")  # 24 rows
    write("vocab.txt", "\n".join(pieces) + "\n")(tmp_path / "source")
    if not config_is_padded:
        edit(vocab_size=len(pieces))(tmp_path / "source")
    code, out, err = convert(run, tmp_path / "source", tmp_path / "bert" / "model.safetensors")
    assert code == 0, err
    assert f"24 rows of embeddings kept for {len(pieces)} word pieces" in out
    model, tokenizer = load(BertModel, tmp_path / "bert"), AutoTokenizer.from_pretrained(tmp_path / "bert")
    table = variables["bert/embeddings/word_embeddings"]
    assert torch.equal(model.embeddings.word_embeddings.weight, torch.from_numpy(table))
    assert len(tokenizer) == len(pieces)
    assert load_tokenizer(tmp_path / "bert", 16).size == len(pieces)


@pytest.mark.parametrize(
    ("pieces", "rows", "padded"),
    [
        *((14, 16, True), (30522, 30528, True), (30522, 30592, True), (28996, 29056, True)),
        *((14, 24, False), (16, 16, False), (16, 14, False)),
        (21090, 21128, False),  # a vocabulary of BERT-Chinese, cut short
    ],
)
def test_padding_ends_at_the_next_multiple(pieces, rows, padded):
    shapes = {"bert/embeddings/word_embeddings": (rows, 8)}
    for size in (pieces, rows):
        assert padded_rows(shapes, {"vocab_size": size}, pieces) == (rows if padded else None)
    assert padded_rows(shapes, {"vocab_size": rows + 1}, pieces) is None


def test_a_head_for_questions_is_left_out_and_named(run, tmp_path):
    write_checkpoint(tmp_path / "source", add=["cls/squad/output_weights", "cls/squad/output_bias"])
    code, out, err = convert(run, tmp_path / "source", tmp_path / "bert" / "model.safetensors")
    assert code == 0, err
    assert "a head for SQuAD's questions left out (cls/squad/output_bias, cls/squad/output_weights)" in out
    load(BertModel, tmp_path / "bert")


def test_repeated_pieces_have_the_id_of_the_last(run, tmp_path):
    write_checkpoint(tmp_path / "source")
    pieces = [*VOCABULARY[:-1], "film"]
    write("vocab.txt", "\n".join(pieces) + "\n")(tmp_path / "source")
    code, out, err = convert(run, tmp_path / "source", tmp_path / "bert" / "model.safetensors")
    assert code == 0, err
    assert "1 lines repeat a word piece" in out
    ids = AutoTokenizer.from_pretrained(tmp_path / "bert")("film")["input_ids"]
    assert ids == [2, len(pieces) - 1, 3] == load_tokenizer(tmp_path / "bert", 16).tokenizer.encode("film").ids


def test_what_is_converted_truncates_where_positions_end(run, tmp_path):
    write_checkpoint(tmp_path / "source")
    assert convert(run, tmp_path / "source", tmp_path / "bert" / "model.safetensors")[0] == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bert")
    assert len(tokenizer("film " * 99, truncation=True)["input_ids"]) == CONFIG["max_position_embeddings"]


def test_a_saved_model_of_tensorflow_is_named(run, tmp_path):
    write_checkpoint(tmp_path / "source")
    (tmp_path / "source" / "bert_config.json").unlink()  # which Keras does not write
    (tmp_path / "source" / "bert_model.ckpt").mkdir()
    write("bert_model.ckpt/saved_model.pb", "")(tmp_path / "source")
    code, _, err = convert(run, tmp_path / "source", tmp_path / "bert" / "model.safetensors")
    assert code == 2
    assert "bert_model.ckpt: a SavedModel; this reads" in err


def test_what_is_there_is_not_replaced_unasked(run, tmp_path):
    write_checkpoint(tmp_path / "source")
    dump = tmp_path / "bert" / "pytorch_model.bin"
    assert convert(run, tmp_path / "source", dump)[0] == 0
    before = {path: path.read_bytes() for path in dump.parent.iterdir()}
    code, _, err = convert(run, tmp_path / "source", dump)
    assert code == 2
    assert err == f"error: {dump}: is there already; replace it with --force\n"
    assert convert(run, tmp_path / "source", dump, "--force")[0] == 0
    assert before == {path: path.read_bytes() for path in dump.parent.iterdir()}
    (dump.parent / "model.safetensors").write_bytes(b"of another model")
    code, _, err = convert(run, tmp_path / "source", dump, "--force")
    assert code == 2
    assert "model.safetensors: from_pretrained may load it instead of pytorch_model.bin" in err
    code, _, err = convert(run, tmp_path / "source", tmp_path / "source" / "vocab.txt" / "pytorch_model.bin")
    assert code == 2
    assert "vocab.txt: cannot be written" in err


@pytest.mark.parametrize("moment", ["read", "write", "rename"])
def test_an_interrupted_conversion_leaves_nothing(run, tmp_path, monkeypatch, moment):

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    write_checkpoint(tmp_path / "source")
    target = {"read": (torch, "from_numpy"), "write": (torch, "save"), "rename": (os, "replace")}[moment]
    monkeypatch.setattr(*target, stop)
    code, _, _ = convert(run, tmp_path / "source", tmp_path / "bert" / "pytorch_model.bin")
    assert code == 130
    assert not (tmp_path / "bert").exists()


@pytest.mark.parametrize(
    "name", ["bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001", "vocab.txt", "bert_config.json"]
)
def test_no_pickle_is_loaded(run, tmp_path, name):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    write_checkpoint(tmp_path / "source")
    path = tmp_path / "source" / name
    path.write_bytes(pickle.dumps(Bomb()) + bytes(path.stat().st_size))
    code, _, err = convert(run, tmp_path / "source", tmp_path / "bert" / "model.safetensors")
    assert not (tmp_path / "exploded").exists()
    assert code == 2
    assert len([line for line in err.splitlines() if "error: " in line]) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_weights_never_lie_beside_files_of_other_ones(run, tmp_path, monkeypatch, name):
    """Interrupted before each renaming, over an older conversion and into nothing; then run again."""

    write_checkpoint(tmp_path / "old")
    write_checkpoint(tmp_path / "new", heads=["masked-LM head"], config=CONFIG | {"hidden_act": "relu"})
    (tmp_path / "new" / "vocab.txt").write_text("\n".join([*VOCABULARY[:-1], "Paris"]) + "\n", encoding="utf-8")
    assert convert(run, tmp_path / "new", tmp_path / "whole" / name)[0] == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    replace = os.replace
    for number, force in itertools.product(range(4), (False, True)):
        dump = tmp_path / f"{number}{force}" / name
        if force:
            assert convert(run, tmp_path / "old", dump)[0] == 0
        calls = iter(range(9))

        def stop(*paths, calls=calls, number=number):
            if next(calls) == number:
                raise KeyboardInterrupt
            replace(*paths)

        monkeypatch.setattr(os, "replace", stop)
        assert convert(run, tmp_path / "new", dump, *["--force"] * force)[0] == 130
        monkeypatch.setattr(os, "replace", replace)
        assert not dump.exists()
        assert {path.name for path in dump.parent.glob("*")} <= set(whole)
        if force:  # what is left of the older one is not replaced unasked
            assert convert(run, tmp_path / "new", dump)[0] == (2 if number < 3 else 0)
        dump.parent.mkdir(exist_ok=True)
        (dump.parent / f".{name}.{10**30}.{'0' * 16}.tmp").write_bytes(b"of a process that was killed")
        assert convert(run, tmp_path / "new", dump, *["--force"] * force)[0] == 0
        assert {path.name: path.read_bytes() for path in dump.parent.iterdir()} == whole


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process")
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_full_disk_during_the_conversion(run, tmp_path, name):
    write_checkpoint(tmp_path / "source", config=CONFIG | {"hidden_size": 64})
    dump = tmp_path / "bert" / name
    dump.parent.mkdir()
    dump.write_bytes(b"older weights")
    with full_disk(9999):
        code, _, err = convert(run, tmp_path / "source", dump, "--force")
    assert code == 2
    lines = [line for line in err.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert f"error: {dump}: cannot be written" in lines[0]
    assert "Traceback" not in err
    assert {path.name: path.read_bytes() for path in dump.parent.iterdir()} == {name: b"older weights"}


def test_slots_are_name_endings():
    kernel = "bert/pooler/dense/kernel"
    slots = [f"{kernel}/adam_m", f"{kernel}/LAMB_1", f"{kernel}/bert_adam/v", f"training/Adam/{kernel}/m"]
    slots += [f"{kernel}/ExponentialMovingAverage", "training/Adam/cls/predictions/output_bias/m"]
    scalars = ["global_step", "loss_scale/current_loss_scale", "good_steps", "beta1_power"]
    weights = ["bert/adam_m/kernel", "cls/predictions/output_bias", "output_bias", "bert/pooler/dense/bias"]
    weights += [f"teacher/{kernel}"]
    shapes = dict.fromkeys((kernel, *weights, *slots), (2,)) | dict.fromkeys(scalars, ())
    assert [name for name in shapes if is_training_state(name, shapes)] == [*slots, *scalars]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_memory_of_a_large_checkpoint(tmp_path, name):
    """BERT-large's sizes: the peak, TensorFlow and PyTorch themselves included, is below twice the weights."""
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    large |= {"vocab_size": 30522, "max_position_embeddings": 512}
    writer = f"import sys; sys.path[:0] = ['tests', '.']; import test_convert as t; from pathlib import Path; \
t.write_checkpoint(Path({str(tmp_path)!r}), config=t.CONFIG | {large!r}, slots=False, \
make=lambda size: t.np.zeros(size, t.np.float32))"
    subprocess.run([sys.executable, "-c", writer], cwd=ROOT, check=True, capture_output=True)
    words = [*VOCABULARY, *(f"word{i}" for i in range(large["vocab_size"] - len(VOCABULARY)))]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    weights = (tmp_path / "bert_model.ckpt.data-00000-of-00001").stat().st_size
    command = [sys.executable, str(ROOT / "ConvertBert4Torch.py"), "--pytorch_dump_path", str(tmp_path / "out" / name)]
    command += ["--tf_checkpoint_path", str(tmp_path / "bert_model.ckpt")]
    command += ["--bert_config_file", str(tmp_path / "bert_config.json")]
    script = f"import resource, subprocess; subprocess.run({command!r}, check=True, capture_output=True); \
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    peak = int(result.stdout)
    assert weights > 1.3e9
    assert peak < 2 * weights, f"{peak / 1e9:.2f} GB for {weights / 1e9:.2f} GB of weights"
