"""A classifier that knows its task goes on with it: classes are matched by name, or a line says that they are not."""

from dataclasses import replace

import pytest
import torch
from conftest import VOCABULARY, small_bert, small_config
from transformers import BertForSequenceClassification

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.data.task import TASKS, Task
from pruner.models.classes import match_classes
from pruner.models.pretrained import load_model

REVIEWS = Task("reviews", "reviews", ("text",), "stars", ("negative", "neutral", "positive"), ("accuracy",))
NUMBERS = replace(REVIEWS, labels=("0", "1", "2"))


@pytest.mark.parametrize(
    ("task", "own", "order"),
    [
        (REVIEWS, ["positive", "negative", "neutral"], [1, 2, 0]),
        (REVIEWS, ["POSITIVE", "Neutral ", "negative"], [2, 1, 0]),
        (REVIEWS, ["LABEL_0", "LABEL_1", "LABEL_2"], [0, 1, 2]),
        (REVIEWS, ["LABEL_2", "LABEL_0", "LABEL_1"], [1, 2, 0]),
        (REVIEWS, ["positive", "negative"], None),
        (REVIEWS, ["positive", "negative", "mixed"], None),
        (REVIEWS, ["positive", "Positive", "negative"], None),
        (NUMBERS, ["2.0", "1.0", "0.0"], [2, 1, 0]),
        (NUMBERS, ["label_2", "label_1", "label_0"], [2, 1, 0]),
        (NUMBERS, ["2", "1", "0"], [2, 1, 0]),
        (NUMBERS, ["1", "2", "3"], None),
        (replace(REVIEWS, labels=("b", "B", "c")), ["c", "B", "b"], [2, 1, 0]),
        (replace(REVIEWS, labels=("-1", "0", "+1")), ["1", "-1", "0"], [1, 2, 0]),
        (replace(REVIEWS, labels=("not good", "so so", "good")), ["Good", "NOT_GOOD", "so-so"], [1, 2, 0]),
        (TASKS["sst-2"], ["NEGATIVE", "POSITIVE"], [0, 1]),
        (TASKS["sst-2"], ["positive", "negative"], [1, 0]),
        (TASKS["mrpc"], ["equivalent", "not_equivalent"], [1, 0]),
        (TASKS["rte"], ["not-entailment", "ENTAILMENT"], [1, 0]),
        (TASKS["wnli"], ["not_entailment", "entailment"], [0, 1]),
        (TASKS["mnli"], ["ENTAILMENT", "NEUTRAL", "CONTRADICTION"], [2, 0, 1]),
        (TASKS["agnews"], ["World", "Sports", "Business", "Sci_Tech"], [0, 1, 2, 3]),
        (TASKS["agnews"], ["sci/tech", "business", "sports", "world"], [3, 2, 1, 0]),
        (TASKS["cola"], ["negative", "positive"], None),
    ],
)
def test_classes_are_matched_by_name(task, own, order):
    assert match_classes(own, task) == order


def classifier(folder, names):
    """A folder with a classifier for these classes, and the model."""
    small_bert(folder)
    torch.manual_seed(1)
    config = small_config(id2label=dict(enumerate(names)), label2id={name: k for k, name in enumerate(names)})
    model = BertForSequenceClassification(config).eval()
    torch.nn.init.normal_(model.classifier.bias)
    model.save_pretrained(folder)
    return model


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor([[2, 7, 9, 3]])).logits[0]


@pytest.mark.parametrize(
    ("names", "order", "said"),
    [
        (["positive", "negative", "neutral"], [1, 2, 0], None),
        (["LABEL_0", "LABEL_1", "LABEL_2"], [0, 1, 2], "taken for negative, neutral, positive"),
        (["LABEL_1", "LABEL_0", "LABEL_2"], [1, 0, 2], "LABEL_1, LABEL_0, LABEL_2; taken for neutral, negative, pos"),
    ],
)
def test_the_classifiers_rows_are_put_into_the_tasks_order(tmp_path, names, order, said):
    model, lines = classifier(tmp_path / "bert", names), []
    loaded = load_model(BertForSequenceClassification, str(tmp_path / "bert"), REVIEWS, lines.append)
    assert torch.allclose(logits(loaded), logits(model)[order], atol=1e-6)
    assert loaded.config.id2label == dict(enumerate(REVIEWS.labels))
    assert loaded.trained_head
    assert [said in line for line in lines] == ([True] if said else [])


@pytest.mark.parametrize(
    ("names", "task", "said"),
    [
        (["good", "bad", "ugly"], REVIEWS, "its classifier is for good, bad, ugly, reviews for negative, neutral, pos"),
        (["good", "bad"], REVIEWS, "for good, bad, reviews for negative, neutral, positive: begins with a fresh one"),
        (["good", "bad"], TASKS["sts-b"], "for good, bad, sts-b for a score, score: begins with a fresh one"),
    ],
)
def test_other_classes_get_a_fresh_classifier_and_a_line(tmp_path, names, task, said):
    model, lines = classifier(tmp_path / "bert", names), []
    torch.manual_seed(0)
    loaded = load_model(BertForSequenceClassification, str(tmp_path / "bert"), task, lines.append)
    assert len(lines) == 1
    assert said in lines[0]
    assert not loaded.trained_head
    assert not loaded.classifier.bias.any()
    assert len(loaded.classifier.weight) == task.num_labels
    for row in model.classifier.weight:
        assert not torch.isclose(loaded.classifier.weight, row, atol=1e-3).all(dim=1).any()


def test_a_model_without_a_classifier_is_nothing_to_speak_of(tmp_path):
    lines = []
    loaded = load_model(BertForSequenceClassification, str(small_bert(tmp_path / "bert")), REVIEWS, lines.append)
    assert not lines
    assert not loaded.trained_head


def test_a_pruned_model_is_not_begun_with_as_a_plain_one_without_a_word(tmp_path):
    folder, lines = small_bert(tmp_path / "bert"), []
    pruned = PrunedBertForSequenceClassification.from_pretrained(folder, num_labels=3)
    pruned.save_pretrained(folder)
    load_model(BertForSequenceClassification, str(folder), REVIEWS, lines.append)
    assert not any("schedule" in line for line in lines)
    pruned.set_pruning([0, 0.5, 0, 0, 0, 0], "student").save_pretrained(folder)
    loaded = load_model(BertForSequenceClassification, str(folder), REVIEWS, lines.append)
    assert f"{folder}: a pruned model; its weights are taken, its schedule is not" in lines
    assert torch.equal(loaded.bert.pooler.dense.weight, pruned.bert.pooler.dense.weight)


@pytest.mark.parametrize("names", [["LABEL_0", "LABEL_1"], ["LABEL_1", "LABEL_0"]])
def test_a_model_that_is_right_more_seldom_than_chance_is_named(run, tmp_path, names):
    """Its first class says good, whatever its name; of the task's, the first is bad."""
    model = classifier(tmp_path / "bert", names)
    with torch.no_grad():
        model.classifier.weight.copy_(torch.stack([torch.ones(32), -torch.ones(32)]))
        model.classifier.bias.zero_()
    model.save_pretrained(tmp_path / "bert")
    words = {True: [], False: []}  # those for which the model says its first class
    for word in ("the", "film", "actor", "plot", "good", "bad", "fine", "dull"):
        ids = torch.tensor([[2, VOCABULARY.index(word), 3]])
        with torch.no_grad():
            words[bool(model(ids).logits[0].argmax() == 0)].append(word)
    assert all(words.values())
    rows = [f"{word}\t{'good' if first else 'bad'}\n" for first in words for word in words[first]] * 5
    (tmp_path / "t.tsv").write_text("text\tlabel\n" + "".join(rows), encoding="utf-8")
    assert run("PrepareGlue4Bert", "--tsv", "t.tsv", "--text", "text", "--label", "label")[0] == 0
    options = ("--tasks", "t", "--methods", "head", "--schedule", "0,0.1,0,0,0,0", "--epochs", "0.01")
    code, out, _ = run("RunBert4Glue", *options, "--learning-rate", "1e-9", "--latency-repeats", "1")
    assert code == 0
    log = (tmp_path / "records" / "BERT" / "t" / "baseline_seed1" / "run.log").read_text(encoding="utf-8")
    wrong = names[0] == "LABEL_0"  # and so taken for bad
    for text in (out, log):
        assert text.count("its classes have no names") == 1
        assert text.count("before training, the model is right in 0.0% of") == wrong
