"""What stays: layers by hand, tickets in published numbers, budgets that are met, and all of it without the dev set."""

import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import small_config
from reference import bert_by_hand
from transformers import BertForSequenceClassification

from pruner.compress.structure.choices import Layers, Ticket
from pruner.compress.structure.importance import Scores, importance
from pruner.compress.structure.measures import Contribution, Importance, Skipping, batches, skipped
from pruner.compress.structure.shrink import Structure
from pruner.compress.structure.width import BLOCK, Width, encoder_parameters, shape_of
from pruner.data.cache import Split
from pruner.data.collate import BertCollator, hold_out
from pruner.data.task import TASKS
from pruner.models.flops import dense_flops
from pruner.training.context import Context
from pruner.training.trainer import TrainSettings
from pruner.utils.errors import SettingError

LAYERS, HEADS, NEURONS = 6, 4, 256
CONFIG = small_config(num_hidden_layers=LAYERS, intermediate_size=NEURONS, num_labels=2)


def split(rows: int, seed: int) -> Split:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, 12, rows)
    offsets = np.concatenate([[0], lengths.cumsum()])
    tokens = generator.integers(5, CONFIG.vocab_size, offsets[-1]).astype(np.int32)
    return Split(tokens, offsets, (lengths // 2).astype(np.int32), generator.integers(0, 2, rows))


def context(**changes) -> Context:
    """Training rows, and a dev set of which nothing is known but its lengths."""
    backbone = SimpleNamespace(
        collate=lambda task, with_lengths=False: BertCollator(with_lengths),
        model_config=lambda task: CONFIG,
        lengths=lambda task, splits: [9, 4, 11],
    )
    cache = SimpleNamespace(splits={"train": split(40, 0), "dev": None}, max_length=128)
    settings = TrainSettings(batch_size=8)
    return Context(TASKS["mrpc"], cache, 1, backbone, settings, **changes)


def told(here: Context, **measured) -> dict:
    return {f"mrpc/{name}_seed1": result for name, result in measured.items()}


@pytest.fixture(scope="module")
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(CONFIG).eval()


def whole(layers: int) -> Structure:
    return Structure.of(small_config(num_hidden_layers=layers))


@pytest.mark.parametrize(
    ("name", "layers", "count", "kept"),
    [
        # The paper's figure 1, of 12 layers without 4; counted from 0 here.
        ("layers-top", 12, 4, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("layers-bottom", 12, 4, [4, 5, 6, 7, 8, 9, 10, 11]),
        ("layers-odd", 12, 4, [0, 1, 2, 3, 5, 7, 9, 11]),
        ("layers-even", 12, 4, [0, 1, 2, 3, 4, 6, 8, 10]),
        ("layers-symmetric", 12, 4, [0, 1, 2, 3, 8, 9, 10, 11]),
        ("layers-top", 6, 1, [0, 1, 2, 3, 4]),
        ("layers-odd", 6, 3, [1, 3, 5]),
        ("layers-even", 6, 3, [0, 2, 4]),
        ("layers-odd", 5, 1, [0, 1, 2, 3]),
        ("layers-even", 5, 2, [0, 2, 4]),
        ("layers-symmetric", 6, 1, [0, 1, 3, 4, 5]),
        ("layers-symmetric", 6, 3, [0, 4, 5]),
    ],
)
def test_layers_by_their_place(name, layers, count, kept):
    assert list(Layers(name, count).narrow(whole(layers), {}, None).layers) == kept


def test_layers_by_what_they_do():
    here = context()
    results = told(here, contribution={"cls": [0.9, 0.5, 0.95, 0.2, 0.8, 0.1], "all": [0.1, 0.9, 0.2, 0.8, 0.3, 0.4]})
    results |= told(here, skipping={"skipping": [0.5, 0.1, 0.3, -0.2, 0.4, 0.9]})
    kept = {
        name: Layers(name, 2).narrow(whole(6), results, here).layers
        for name in ("layers-contribution", "layers-contribution-all", "layers-loss")
    }
    assert kept == {
        "layers-contribution": (1, 3, 4, 5),  # those that change [CLS] least leave
        "layers-contribution-all": (0, 2, 4, 5),
        "layers-loss": (0, 2, 4, 5),  # without which the loss is lowest
    }


def test_too_many_layers_are_refused():
    for name, most in ("layers-top", 5), ("layers-odd", 3), ("layers-even", 3), ("layers-loss", 5):
        assert Layers(name, most).check(context(), 6) == 6 - most
        with pytest.raises(SettingError, match=f"{most + 1} of 6 for {name}; use 1 to {most}"):
            Layers(name, most + 1).check(context(), 6)


def test_published_levels():
    """BERT-Base's heads and feed-forwards (Liang et al. 2021), and those of 6 layers."""
    base = [Ticket("winning", level).counts(12, 12) for level in range(10, 90, 10)]
    assert base == [(14, 1), (28, 2), (43, 3), (57, 4), (72, 5), (86, 6), (100, 7), (115, 8)]
    small = [Ticket("winning", level).counts(6, 12) for level in range(10, 90, 10)]
    assert small == [(7, 0), (14, 1), (21, 1), (28, 2), (36, 2), (43, 3), (50, 3), (57, 4)]
    assert Ticket("winning", 100).counts(6, 12) == (66, 5)
    assert Ticket("winning", 30, feed_forwards=4).counts(6, 12) == (21, 4)


def random_scores(seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"heads": (LAYERS, HEADS), "feed_forwards": (LAYERS,), "neurons": (LAYERS, NEURONS)}
    return {name: torch.rand(shape, generator=generator).tolist() for name, shape in shapes.items()}


def test_tickets_of_all_kinds_are_of_equal_size_and_keep_what_they_should():
    here = context()
    scores = random_scores()
    results, sizes = told(here, importance=scores), {}
    for kind in ("winning", "losing", "random"):
        for level in (20, 50, 80):
            left = Ticket(kind, level).narrow(Structure.of(CONFIG), results, here)
            assert all(neurons in ((), tuple(range(NEURONS))) for neurons in left.neurons)
            sizes.setdefault(level, set()).add((sum(map(len, left.heads)), sum(map(bool, left.neurons))))
    assert sizes == {20: {(20, 5)}, 50: {(12, 4)}, 80: {(6, 2)}}
    left = Ticket("winning", 80).narrow(Structure.of(CONFIG), results, here)
    assert [heads == (row.index(max(row)),) for heads, row in zip(left.heads, scores["heads"], strict=True)] == [
        True
    ] * 6
    best = sorted(range(LAYERS), key=lambda layer: -scores["feed_forwards"][layer])[:2]
    assert [layer for layer in range(LAYERS) if left.neurons[layer]] == sorted(best)
    # Random ones need no scores, and differ from seed to seed.
    assert Ticket("random", 50).sources(here, None) == ()
    draws = {Ticket("random", 50).narrow(Structure.of(CONFIG), {}, replace(here, seed=seed)) for seed in range(5)}
    assert len(draws) == 5


def test_a_ticket_of_fewer_layers_ranks_those_alone():
    here = context()
    left = Layers("layers-bottom", 2).narrow(Structure.of(CONFIG), {}, here)
    left = Ticket("winning", 50).narrow(left, told(here, importance=random_scores()), here)
    assert left.layers == (2, 3, 4, 5)
    assert sum(map(len, left.heads)) == 8
    assert sum(map(bool, left.neurons)) == 3  # floor(5 * 4 / 12) of 4 leave


@pytest.mark.parametrize("cost", ["flops", "parameters"])
@pytest.mark.parametrize("reduction", [1.2, 2.0, 4.0])
@pytest.mark.parametrize("random", [False, True])
def test_a_budget_is_met_by_no_more_than_a_part(cost, reduction, random):
    here = context()
    left = Width(reduction, cost, random).narrow(Structure.of(CONFIG), told(here, importance=random_scores()), here)
    lengths = np.array([9.0, 4.0, 11.0])

    def total(structure):
        shape = shape_of(structure, CONFIG)
        return dense_flops(shape, lengths) if cost == "flops" else encoder_parameters(shape)

    dense = total(Structure.of(CONFIG))
    one_head_more = [
        replace(left, heads=(*left.heads[:at], tuple(range(len(left.heads[at]) + 1)), *left.heads[at + 1 :]))
        for at in range(LAYERS)
    ]
    largest_part = max(
        max(total(more) for more in one_head_more) - total(left),
        (4 * lengths.sum() if cost == "flops" else 2) * CONFIG.hidden_size * BLOCK + BLOCK,
    )
    assert dense / reduction - largest_part < total(left) <= dense / reduction
    assert all(left.heads)
    assert all(len(neurons) >= BLOCK and len(neurons) % BLOCK == 0 for neurons in left.neurons)
    if cost == "parameters":
        torch.manual_seed(0)
        model = BertForSequenceClassification(CONFIG)
        assert sum(x.numel() for x in model.bert.encoder.parameters()) == dense


def test_what_is_important_for_its_cost_stays():
    here, scores = context(), random_scores()
    scores["heads"][3] = [1.0, 0.0, 0.0, 0.0]
    scores["neurons"][2] = [1.0] * BLOCK + [1e-6] * (NEURONS - BLOCK)
    left = Width(1.3).narrow(Structure.of(CONFIG), told(here, importance=scores), here)
    assert left.heads[3] == (0,)
    assert left.neurons[2] == tuple(range(BLOCK))
    with pytest.raises(SettingError, match=r"100 cannot be met, 6\.5 is the most"):
        Width(100.0).check(here, LAYERS)


def test_measurements_by_hand_and_without_the_dev_set(model):
    here = context(held_out=0.25)
    rows = here.training_split
    assert len(rows) == 30
    ones = [torch.ones(LAYERS, n, 1).double() for n in (HEADS, NEURONS)]
    with torch.no_grad():
        skipping = Skipping().measure(model, here, print)["skipping"]

    def loss(layers) -> float:
        total = 0.0
        for row in range(len(rows)):
            ids = torch.from_numpy(rows.sentence(row)).long()
            types = (torch.arange(len(ids)) >= int(rows.second[row])).long()
            heads, neurons = (x.expand(-1, -1, len(ids)) for x in ones)
            outputs = torch.ones(LAYERS, len(ids)).double()
            logits = bert_by_hand(model, ids, types, heads, outputs, neurons, layers)
            total -= torch.log_softmax(logits, -1)[int(rows.labels[row])].item()
        return total / len(rows)

    everything = loss(range(LAYERS))
    by_hand = [loss([layer for layer in range(LAYERS) if layer != gone]) - everything for gone in range(LAYERS)]
    assert np.allclose(skipping, by_hand, atol=1e-5)
    # The scores are those of the training rows, none of them held out.
    scores = Importance().measure(model, here, print)
    expected = importance(model, list(batches(here, rows, model.device)))
    assert all(np.allclose(scores[name], getattr(expected, name)) for name in Scores._fields)
    contribution = Contribution().measure(model, here, print)
    cosines = []
    for row in range(len(rows)):
        ids = torch.from_numpy(rows.sentence(row)).long()[None]
        types = (torch.arange(ids.shape[1]) >= int(rows.second[row])).long()[None]
        with torch.no_grad():
            states = [x[0].double() for x in model(ids, token_type_ids=types, output_hidden_states=True).hidden_states]
        norms = [x / x.norm(dim=-1, keepdim=True) for x in states]
        cosines.append(torch.stack([(a * b).sum(-1) for a, b in pairwise(norms)]))
    assert np.allclose(contribution["cls"], torch.stack([x[:, 0] for x in cosines]).mean(0), atol=1e-5)
    assert np.allclose(contribution["all"], torch.cat(cosines, dim=1).mean(1), atol=1e-5)
    assert all(math.isfinite(x) for x in contribution["cls"])


def test_held_out_rows_are_trained_on_by_nobody():
    everything = split(40, 0)
    train, held = hold_out(everything, 0.1)
    assert sorted([*train.numbers, *held.numbers]) == [*range(40)]
    assert len(held) == 4
    again = hold_out(everything, 0.1)[1]
    assert held.numbers.tolist() == again.numbers.tolist()
    for part in train, held:
        for row, number in enumerate(part.numbers):
            assert part.sentence(row).tolist() == everything.sentence(number).tolist()
            assert part.labels[row] == everything.labels[number]
    # Of a single row there is nothing to hold out.
    alone = context(max_train_rows=1, held_out=0.1)
    assert (len(alone.training_split), len(alone.held_out_split)) == (1, 0)
    assert alone.held_out_metrics(None, None) == {}
    # Those of a subset are named by their numbers in the whole, too.
    here = context(max_train_rows=20, held_out=0.2)
    assert {*here.training_split.numbers} | {*here.held_out_split.numbers} == {
        *context(max_train_rows=20).training_split.numbers
    }


def test_a_regression_is_measured_by_its_squared_error():
    torch.manual_seed(0)
    regression = BertForSequenceClassification(small_config(num_labels=1)).eval()
    here, rows = context(), split(12, 3)
    here.cache.splits["train"] = replace(rows, labels=np.linspace(0, 5, 12, dtype=np.float32))
    scores = Importance().measure(regression, here, print)
    assert np.isfinite(scores["heads"]).all()
    assert np.ptp(scores["heads"]) > 0
    skipping = Skipping().measure(regression, here, print)["skipping"]

    @torch.no_grad()
    def error(layer) -> float:
        squares = []
        for batch in batches(here, here.training_split, regression.device):
            labels = batch.pop("labels")
            with skipped(regression, layer):
                squares.append((regression(**batch).logits[:, 0] - labels).square())
        return torch.cat(squares).mean().item()

    assert skipping == pytest.approx([error(layer) - error(None) for layer in range(6)], abs=1e-4)
