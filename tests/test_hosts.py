"""The pruned BERT in the hands of transformers, PEFT and PyTorch: as its parent, or refused by name."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, small_bert, small_config
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.utils.errors import UserError

LENGTHS = [3, 9, 6]
SCHEDULE = [0, 0.3, 0, 0.4, 0, 0]
TEXTS = ["the film was good", "a dull plot , is not fine !", "bad"]


def batch(width: int = 10) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    mask = (torch.arange(width) < torch.tensor(LENGTHS)[:, None]).long()
    return {"input_ids": torch.randint(5, len(VOCABULARY), (3, width)) * mask, "attention_mask": mask}


def small_model(method: str | None = None, **changes) -> PrunedBertForSequenceClassification:
    torch.manual_seed(0)
    model = PrunedBertForSequenceClassification(small_config(num_labels=3, **changes)).eval()
    return model.set_pruning(SCHEDULE, method) if method else model


def stock_of(model) -> BertForSequenceClassification:
    stock = BertForSequenceClassification(small_config(num_labels=model.num_labels)).eval()
    stock.load_state_dict(model.state_dict())
    return stock


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels"),
    [
        (None, 3, torch.tensor([0, 2, 1])),
        (None, 3, torch.tensor([[0], [2], [1]])),
        ("single_label_classification", 3, torch.tensor([0, 2, -100])),
        (None, 1, torch.tensor([0.5, 2.0, -1.0])),
        (None, 1, torch.tensor([[0.5], [2.0], [-1.0]])),
        (None, 3, torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])),
        ("multi_label_classification", 3, torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])),
        ("regression", 3, torch.tensor([[1.0, -2, 1], [0, 0.5, 0], [0, 1, 0]])),
    ],
)
def test_the_loss_is_the_one_of_the_config(problem_type, num_labels, labels):
    torch.manual_seed(0)
    model = PrunedBertForSequenceClassification(small_config(num_labels=num_labels, problem_type=problem_type)).eval()
    stock = stock_of(model)
    stock.config.problem_type = problem_type
    found = model(**batch(), labels=labels).loss
    assert torch.allclose(found, stock(**batch(), labels=labels).loss, atol=1e-5)
    assert model.config.problem_type == problem_type


def test_labels_that_would_be_broadcast_are_refused():
    model = PrunedBertForSequenceClassification(small_config(num_labels=1))
    with pytest.raises(ValueError, match=r"labels: \[3, 2\] for logits \[3, 1\]"):
        model(**batch(), labels=torch.zeros(3, 2))


@pytest.mark.parametrize("method", [None, "attention", "student", "emission"])
def test_trainer_trains_evaluates_and_predicts(tmp_path, method):
    small_bert(tmp_path / "bert")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bert")
    rows = [tokenizer(TEXTS[row % 3]) | {"labels": row % 3} for row in range(10)]
    model = PrunedBertForSequenceClassification.from_pretrained(tmp_path / "bert", num_labels=3)
    if method:
        model.set_pruning(SCHEDULE, method)
    model.save_pretrained(tmp_path / "before")
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            str(tmp_path / "out"),
            num_train_epochs=2,
            per_device_train_batch_size=4,
            per_device_eval_batch_size=4,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(axis=1) == p.label_ids).mean())},
    )
    trainer.train()
    metrics, predictions = trainer.evaluate(), trainer.predict(rows).predictions
    assert isinstance(predictions, np.ndarray)
    assert predictions.shape == (10, 3)
    with torch.no_grad():
        expected = [model.eval()(torch.tensor([row["input_ids"]])).logits[0].numpy() for row in rows]
    assert np.allclose(predictions, expected, atol=1e-5)
    assert metrics["eval_accuracy"] == np.mean(predictions.argmax(axis=1) == [row["labels"] for row in rows])
    trainer.save_model(tmp_path / "after")
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("before", "after"))
    assert before | {"use_cache": after["use_cache"]} == after  # which Trainer sets, as ``TrainingArguments`` say


@pytest.mark.parametrize("method", ["attention", "student"])
def test_lora_wraps_trains_and_merges(method):
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    model = small_model(method)
    model.students.requires_grad_(False)
    inputs, labels = batch(), torch.tensor([0, 1, 2])
    lora = peft.LoraConfig(task_type=peft.TaskType.SEQ_CLS, r=2, target_modules=["query", "value"])
    wrapped = peft.get_peft_model(model, lora)
    optimizer = torch.optim.SGD([x for x in wrapped.parameters() if x.requires_grad], lr=1.0)
    before = wrapped.eval()(**inputs).logits
    wrapped.train()(**inputs, labels=labels).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    wrapped(**inputs, labels=labels).loss.backward()
    optimizer.step()
    trained = wrapped.eval()(**inputs)
    assert not torch.allclose(trained.logits, before, atol=1e-3)
    merged = wrapped.merge_and_unload()
    assert isinstance(merged, PrunedBertForSequenceClassification)
    found = merged(**inputs)
    assert torch.allclose(found.logits, trained.logits, atol=1e-4)
    assert found.token_counts == trained.token_counts


def saved(tmp_path, method="student"):
    """A kept model, with its tokenizer, and the model itself."""
    small_bert(tmp_path / "bert")
    model = PrunedBertForSequenceClassification.from_pretrained(tmp_path / "bert", num_labels=3)
    model.set_pruning(SCHEDULE, method).eval().save_pretrained(tmp_path / "saved")
    AutoTokenizer.from_pretrained(tmp_path / "bert").save_pretrained(tmp_path / "saved")
    return tmp_path / "saved", model


def test_a_saved_model_is_pruned_wherever_it_is_loaded(tmp_path):
    folder, model = saved(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert type(loaded) is PrunedBertForSequenceClassification
    assert torch.equal(loaded(**batch()).logits, model(**batch()).logits)
    classify = pipeline("text-classification", model=str(folder))
    tokens = classify.tokenizer(TEXTS, padding=True, return_tensors="pt")
    scores = model(**tokens).logits.softmax(dim=1).max(dim=1).values
    assert torch.allclose(torch.tensor([answer["score"] for answer in classify(TEXTS)]), scores, atol=1e-5)
    assert classify.model.pruning == model.pruning
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    assert AutoTokenizer.from_pretrained(folder)(TEXTS[0]) == classify.tokenizer(TEXTS[0])


def test_without_this_code_a_saved_model_is_refused(tmp_path):
    folder, _ = saved(tmp_path)
    code = f"from transformers import pipeline; pipeline('text-classification', model={str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode
    assert "pruned_bert" in done.stderr


def test_models_of_earlier_versions_load(tmp_path):
    folder, model = saved(tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "bert"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    loaded = PrunedBertForSequenceClassification.from_pretrained(folder).eval()
    assert torch.equal(loaded(**batch()).logits, model(**batch()).logits)


def test_the_twin_of_a_saved_model_is_a_plain_bert(tmp_path):
    folder, _ = saved(tmp_path)
    twin = PrunedBertForSequenceClassification.from_pretrained(folder).unpruned_twin()
    twin.save_pretrained(tmp_path / "twin")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "twin").eval()
    assert type(plain) is BertForSequenceClassification
    assert torch.equal(plain(**batch()).logits, twin(**batch()).logits)


@pytest.mark.parametrize("method", [None, "attention", "student", "emission", "gradient"])
def test_vectors_in_place_of_words(method):
    model, inputs = small_model(method), batch()
    embeds = model.get_input_embeddings()(inputs.pop("input_ids")).detach()
    expected = model(**batch())
    found = model(**inputs, inputs_embeds=embeds)
    assert torch.allclose(found.logits, expected.logits, atol=1e-6)
    assert found.token_counts == expected.token_counts


def test_inputs_that_are_not_computed_are_refused_by_name():
    model, inputs = small_model("random"), batch()
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(ValueError, match=r"inputs_embeds: 'random' reads which words"):
        model(inputs_embeds=embeds)
    for given in ({}, {"input_ids": inputs["input_ids"], "inputs_embeds": embeds}):
        with pytest.raises(ValueError, match=r"input_ids, inputs_embeds: give one"):
            model(**given)
    for name in ("head_mask", "encoder_hidden_states", "past_key_values"):
        with pytest.raises(ValueError, match=f"{name}: not computed"):
            model(**inputs, **{name: torch.ones(1)})
    with pytest.raises(ValueError, match="output_attentions"):
        small_model(attn_implementation="eager", output_attentions=True)(**inputs)
    for lengths in ([3, 9], [0, 9, 6], [3, 11, 6]):
        with pytest.raises(ValueError, match="lengths: not 3 numbers from 1 to 10"):
            model(**inputs, lengths=lengths)


def test_what_changes_nothing_is_taken():
    model, inputs = small_model("attention"), batch()
    expected = model(**inputs).logits
    more = {"use_cache": False, "past_key_values": None, "special_tokens_mask": inputs["attention_mask"]}
    assert torch.equal(model(**inputs, **more).logits, expected)


@pytest.mark.parametrize(
    ("mask", "named"),
    [
        (torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), "padding_side='right'"),
        (torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1]]), "has holes"),
        (torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]]), "without any token"),
        (torch.ones(2, 1, 4, 4), r"\[2, 1, 4, 4\] for sentences \[2, 4\]"),
        (torch.ones(2, 5), r"\[2, 5\] for sentences"),
    ],
)
def test_masks_that_are_no_padding_on_the_right_are_refused_by_name(mask, named):
    with pytest.raises(ValueError, match=rf"attention_mask: .*{named}"):
        small_model()(torch.full((2, 4), 7), mask)


def test_the_config_says_what_is_returned():
    model = small_model("attention", return_dict=False, output_hidden_states=True)
    logits, states = model(**batch())
    output = model(**batch(), return_dict=True, output_hidden_states=False)
    assert torch.equal(output.logits, logits)
    assert output.hidden_states is None
    assert len(states) == 7


def test_hidden_states_are_the_parents_where_tokens_are_computed():
    model, inputs = small_model(), batch(width=12)
    stock = stock_of(model)(**inputs, output_hidden_states=True).hidden_states
    real = inputs["attention_mask"].bool()
    for found, expected in zip(model(**inputs, output_hidden_states=True).hidden_states, stock, strict=True):
        assert found.shape == expected.shape
        assert torch.allclose(found[real], expected[real], atol=1e-5)
        assert not found[~real].any()
    output = model.set_pruning(SCHEDULE, "student")(**inputs, output_hidden_states=True)
    for layer, state in enumerate(output.hidden_states[1:]):
        computed = torch.zeros_like(real)
        for row, kept in enumerate(output.token_positions[layer].split(output.token_counts[layer])):
            computed[row, kept] = True
        assert torch.equal(state.abs().sum(dim=2) > 0, computed)


SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
OTHERS = {
    "an albert": lambda: AlbertForSequenceClassification(AlbertConfig(embedding_size=16, **SIZES)),
    "a roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**SIZES)),
    "an electra": lambda: ElectraForSequenceClassification(ElectraConfig(**SIZES)),
    "a distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=len(VOCABULARY), dim=32, n_layers=2, n_heads=2, hidden_dim=64)
    ),
}
KINDS = {
    "position_embedding_type": "relative_key",
    "is_decoder": True,
    "add_cross_attention": True,
}


@pytest.mark.parametrize("kind", [*OTHERS, *KINDS])
def test_what_is_no_such_bert_is_refused_everywhere(run, tmp_path, kind):
    folder = small_bert(tmp_path / "bert")
    if kind in OTHERS:  # from the scripts and ``from_unpruned`` they can be had: see test_encoders
        OTHERS[kind]().save_pretrained(folder)
    else:
        config = json.loads((folder / "config.json").read_text()) | {kind: KINDS[kind]}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    named = f"{kind} model" if kind in OTHERS else kind
    with pytest.raises(UserError, match=named):
        PrunedBertForSequenceClassification.from_pretrained(folder)
    if kind in OTHERS and kind != "an albert":
        return
    (tmp_path / "t.tsv").write_text("a\tb\n" + "good\t1\nbad\t0\n" * 20, encoding="utf-8")
    code, _, err = run("PrepareGlue4Bert", "--tsv", "t.tsv", "--text", "a", "--label", "b")
    assert (code, named in err) == (2, True)
    assert not (tmp_path / "cache").exists()


def test_pairs_need_a_second_token_type(run, tmp_path):
    small_bert(tmp_path / "bert", type_vocab_size=1)
    (tmp_path / "t.tsv").write_text("a\tb\tc\n" + "good\tbad\t1\nbad\tfine\t0\n" * 20, encoding="utf-8")
    single = run("PrepareGlue4Bert", "--tsv", "t.tsv", "--text", "a", "--label", "c", "--name", "single")
    assert single[0] == 0
    code, _, err = run("PrepareGlue4Bert", "--tsv", "t.tsv", "--text", "a,b", "--label", "c")
    assert code == 2
    assert "config.json: t has pairs of sentences, and type_vocab_size is 1" in err
    assert not (tmp_path / "cache" / "bert" / "t.safetensors").exists()


def saved_bytes(model, inputs) -> int:
    """Bytes that autograd keeps for the way back, weights left out."""
    kept = {}
    weights = {x.untyped_storage().data_ptr() for x in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**inputs, labels=torch.tensor([0, 1, 2])).loss
    loss.backward()
    return sum(kept.values())


@pytest.mark.parametrize("method", [None, "attention", "student"])
def test_gradient_checkpointing_saves_memory_and_changes_nothing(method):
    model, inputs = small_model(method).train(), batch()
    torch.manual_seed(3)
    plain = saved_bytes(model, inputs)
    expected = {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    torch.manual_seed(3)
    assert saved_bytes(model, inputs) < plain / 2
    assert expected.keys() == {name for name, x in model.named_parameters() if x.grad is not None}
    for name, gradient in expected.items():
        assert torch.allclose(model.get_parameter(name).grad, gradient, atol=1e-6), name


@pytest.mark.parametrize("method", [None, "attention"])
def test_a_trace_is_refused(method):
    inputs = batch()
    with pytest.raises(ValueError, match=r"torch.jit.trace: .* lengths="):
        torch.jit.trace(small_model(method), (inputs["input_ids"], inputs["attention_mask"]), strict=False)


@pytest.mark.parametrize("method", [None, "attention", "student"])
def test_export_works_for_given_lengths(method):
    model, inputs = small_model(method), batch()
    with pytest.raises(ValueError, match=r"torch.export: .* lengths="):
        torch.export.export(model, (inputs["input_ids"], inputs["attention_mask"]))
    with torch.no_grad():
        program = torch.export.export(model, (inputs["input_ids"],), {"lengths": LENGTHS})
        others = (inputs["input_ids"] * 3) % len(VOCABULARY)
        found = program.module()(others, lengths=LENGTHS)
        assert torch.allclose(found.logits, model(others, lengths=LENGTHS).logits, atol=1e-5)
        with pytest.raises(Exception, match=r"lengths|3|Guard"):
            program.module()(others, lengths=[10, 9, 6])
