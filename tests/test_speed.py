"""Budgets of time: what a machine's table says of a model, what is chosen by it, and that this is then timed."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_config
from test_calibrated import bert, rows, texts, tokenizer  # noqa: F401
from test_run import QUICK, prepared, records  # noqa: F401

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner import compress
from pruner.compress.joint import timing
from pruner.compress.joint.budgets import CLOSE, SpeedBudget, by_attention
from pruner.compress.joint.mixtures import AXES, Space
from pruner.compress.joint.times import Times, output_share, tokens_by_layer
from pruner.compress.joint.timing import Beside, known_times
from pruner.compress.joint.untrained import calibrate
from pruner.compress.structure.importance import Scores
from pruner.compress.structure.shrink import Structure
from pruner.compress.structure.width import shape_of
from pruner.data.cache import Split
from pruner.data.collate import sorted_rows
from pruner.models.flops import BertShape, LayerShape
from pruner.utils.errors import SettingError

LENGTHS = [3, 5, 9, 12, 20, 33] * 4


def pretend(model, batch: dict) -> float:
    """Seconds of a machine whose parts take what one can compute by hand: so much for each token, head and neuron."""
    shape, lengths = BertShape.of_model(model), batch["lengths"]
    tokens = tokens_by_layer(model.pruning, [lengths])[:, 0]
    ms = 2 + 0.1 * tokens[0]
    for layer, entering, kept in zip(shape.layers, tokens, tokens[1:], strict=False):
        heads, share = layer.attention / 8, output_share(32, entering / len(lengths))
        ms += 0.01 * kept * layer.intermediate
        if kept < entering:
            ms += (1 - share) * entering * heads + share * kept * heads + 0.5 + 0.03 * entering
        else:
            ms += entering * heads
    return ms / 1000


def pretend_latency(dense, model, split: Split, size: int, *how) -> dict:
    """Milliseconds of the same machine, on which stock takes a fifth longer."""
    batches = [{"lengths": split.lengths[rows].tolist()} for rows in sorted_rows(split, size)]
    whole = PrunedBertForSequenceClassification.from_unpruned(dense)
    before, after = (1000 * np.mean([pretend(one, batch) for batch in batches]) for one in (whole, model))
    return {"baseline_ms": 1.2 * before, "pruned_ms": after, "speedup": 1.2 * before / after}


@pytest.fixture
def machine(monkeypatch) -> None:
    """Be that machine, whatever else runs on this one."""
    monkeypatch.setattr(timing, "seconds", pretend)
    monkeypatch.setattr(timing, "measure_latency", pretend_latency)


@pytest.fixture(scope="module")
def table() -> Times:
    """Times of that machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "seconds", pretend)
        return known_times(None, bert(num_labels=2), 1, torch.float32, 40, lambda line: None)


def test_the_table_of_a_machine_whose_times_are_known(table):
    """Whatever layers, heads, neurons and tokens are left: the sum of the parts is what the whole takes."""
    dense, generator = bert(num_labels=2), np.random.default_rng(0)
    for _ in range(20):
        depth, length = int(generator.integers(1, 7)), int(generator.integers(1, 41))
        sizes = [(int(generator.integers(1, 5)), int(generator.choice([0, 16, 32, 64]))) for _ in range(depth)]
        kept = [tuple(range(heads)) for heads, _ in sizes], [tuple(range(neurons)) for _, neurons in sizes]
        structure = Structure(tuple(range(depth)), *map(tuple, kept))
        schedule = generator.choice([0, 0.1, 0.4, 0.8], depth).tolist()
        model = timing.shrink(PrunedBertForSequenceClassification.from_unpruned(dense), structure)
        model.set_pruning(schedule, "attention")
        found = table.ms(shape_of(structure, dense.config), tokens_by_layer(model.pruning, [[length]]))
        # What choosing takes is a mean over the layers by which tokens leave one by one.
        dropping = any(schedule)
        assert found == pytest.approx([1000 * pretend(model, {"lengths": [length]})], rel=5e-3 if dropping else 1e-6)


@pytest.mark.parametrize("changes", [{"num_attention_heads": 1}, {"num_hidden_layers": 1}], ids=str)
def test_a_table_of_the_smallest_models(changes, machine):
    dense = bert(num_labels=2, **changes)
    times = known_times(None, dense, 1, torch.float32, 10, lambda line: None)
    whole: Any = PrunedBertForSequenceClassification.from_unpruned(dense)
    for length in 3, 10:
        found = times.ms(BertShape.of_model(whole), tokens_by_layer(whole.pruning, [[length]]))
        assert found == pytest.approx([1000 * pretend(whole, {"lengths": [length]})], rel=1e-6)


def test_times_by_hand():
    parts = {"ends": [1.0, 3.0], "attention": [[2.0, 4.0], [6.0, 12.0]], "feed_forward": [[0.0, 1.0], [0.0, 3.0]]}
    machine = {"batch_size": 2, "hidden": 8, "heads": 2}
    times = Times(machine, [10, 30], [1, 2], [0, 64], **parts, choosing=[[0.5, 0.7], [0.9, 1.1]])
    shape = BertShape(8, 2, (LayerShape(8, 64), LayerShape(4, 32)))
    # Two heads and all neurons, then one head and half of them; 20 and 40 tokens in a batch.
    whole = times.ms(shape, np.array([[20, 40], [20, 40], [20, 40]]))
    assert whole == pytest.approx([1 + (4 + 1) + (2 + 0.5), 2 + (8 + 2) + (4 + 1)])
    # In the second layer 20 of 40 tokens leave, behind its attention.
    share = output_share(8, 20)
    dropped = times.ms(shape, np.array([[40], [40], [20]]))
    assert dropped == pytest.approx([2 + (8 + 2) + (1 - share) * 4 + share * 2 + 0.7 + 0.5])


def test_a_table_is_kept_and_named_by_hardware(tmp_path, monkeypatch):
    dense, said, timed = bert(num_labels=2), list[str](), list[str]()
    monkeypatch.setattr(timing, "seconds", lambda model, batch: timed.append("") or pretend(model, batch))
    monkeypatch.setattr(timing, "cpu_name", lambda: "Some CPU (R) 7")

    def known(batch_size: int = 1, dtype: torch.dtype = torch.float32, longest: int = 20) -> Times:
        timed.clear()
        return known_times(tmp_path / "times", dense, batch_size, dtype, longest, said.append)

    times = known()
    assert timed
    (path,) = (tmp_path / "times").iterdir()
    assert path.name == f"some-cpu-r-7_{torch.get_num_threads()}-threads_6x32_float32_batch-1.json"
    assert said == ["measuring how long layers take: Some CPU (R) 7, float32, batches of 1", f"-> {path}"]
    assert known() == times == Times(**json.loads(path.read_text(encoding="utf-8")))
    assert not timed
    assert known(longest=12) == times
    known(dtype=torch.bfloat16)
    assert timed
    assert len(list((tmp_path / "times").iterdir())) == 2
    # What does not serve longer sentences, was measured with another PyTorch, or is no table, is measured anew.
    assert known(longest=30).lengths[-1] == 30
    assert timed
    other = asdict(times) | {"machine": times.machine | {"torch": "0.1"}}
    for content in json.dumps(other), "{}", "[", json.dumps({"lengths": 3}):
        path.write_text(content, encoding="utf-8")
        assert known() == times
        assert timed


def speed_budget(target: float, table: Times, measure=lambda model: 1.0) -> SpeedBudget:
    dense = bert(num_labels=2)
    beside = Beside(dense, LENGTHS, 1, torch.float32, None)
    return SpeedBudget(target, dense.config, table, beside.batches, 400.0, 300.0, measure)


def space() -> Space:
    generator = torch.Generator().manual_seed(3)
    scores = Scores(*(torch.rand(shape, generator=generator).double() for shape in ((6, 4), (6,), (6, 64))))
    return Space(small_config(num_labels=2), LENGTHS, scores, [4, 3, 1, 2, 5, 0], 6.0)


@pytest.mark.parametrize("axes", [AXES, ("tokens",), ("width",), ("depth",), ("tokens", "width")], ids=".".join)
@pytest.mark.parametrize("target", [1.5, 2.0, 3.0])
def test_mixtures_are_as_fast_as_was_asked(axes, target, table):
    budget, whole = speed_budget(target, table), space().full
    assert budget.reduction(whole) == pytest.approx(400 / 300)
    mixtures = list(space().meeting(budget, axes))
    assert mixtures
    for mixture in mixtures:
        told = budget.told(mixture.structure, mixture.schedule)
        assert told["predicted_speedup"] == pytest.approx(400 / told["predicted_ms"]["pruned"], rel=1e-3)
        assert told["predicted_speedup"] > 0.97 * target
        if "depth" not in axes:
            assert told["predicted_speedup"] < 1.06 * target  # a head is the largest part that leaves
            assert len(mixture.structure.layers) == 6
        assert "width" in axes or mixture.structure == whole.keep_layers(mixture.structure.layers)
        assert "tokens" in axes or not any(mixture.schedule)
        # It is the time of the very sentences, each layer with what is left.
        pruning, shape = by_attention(len(mixture.schedule)), shape_of(mixture.structure, budget.config)
        tokens = tokens_by_layer(pruning.with_schedule(mixture.schedule), [[length] for length in LENGTHS])
        parts = table.ms(shape, tokens).mean()
        unpruned = tokens_by_layer(by_attention(6).with_schedule([0.0] * 6), [[length] for length in LENGTHS])
        all_of = table.ms(shape_of(whole, budget.config), unpruned).mean()
        assert told["predicted_ms"]["pruned"] == pytest.approx(300 * parts / all_of, rel=1e-3)


def test_what_is_chosen_is_timed_and_chosen_again_where_it_is_slower(table):
    """Here all models take a quarter longer than their parts."""
    dense, split, said = bert(num_labels=2), rows(30), list[str]()
    budget = speed_budget(1.6, table)

    def measure(model) -> float:
        return budget.speedup(Structure.of(model.config), model.pruning.schedule) / 1.25

    slow = replace(budget, measure=measure)
    model, found = calibrate(dense, split, LENGTHS, slow, ("width",), 32, said.append)
    assert sum("corrected, and chosen again" in line for line in said) == 1
    assert found["parts_error"] == pytest.approx(1.25)
    assert measure(model) == pytest.approx(1.6, rel=CLOSE)
    assert measure(model) == pytest.approx(found["predicted_speedup"], rel=1e-3)
    model, found = calibrate(dense, split, LENGTHS, replace(budget, measure=lambda model: 1.6), ("width",), 32, print)
    assert found["parts_error"] == 1


def test_batches_are_those_by_which_latencies_are_measured():
    dense = bert(num_labels=2)
    lengths = list(range(1, 41))
    beside = Beside(dense, lengths, 4, torch.float32, 3)
    assert [list(beside.batches[0]), list(beside.batches[-1])] == [[40, 39, 38, 37], [4, 3, 2, 1]]
    took = beside(PrunedBertForSequenceClassification.from_unpruned(dense))
    assert took["batch_size"] == 4
    assert took["dtype"] == "float32"
    assert took["baseline_ms"] > 0


def test_a_budget_of_time_in_a_run(run, prepared, machine):  # noqa: F811
    flags = ("--methods", "calibrated,calibrated-uniform,joint-depth", "--target-speedup", "1.5")
    how = ("--latency-dtype", "bfloat16", "--latency-batch-size", "2", "--calibration-texts", "16")
    code, out, err = run("RunBert4Glue", *QUICK, *flags, *how)
    assert code == 0, err
    assert out.count("measuring how long layers take") == 1
    assert len(list((prepared / "cache/bert/times").iterdir())) == 1
    found = records(prepared / "records/BERT/mrpc")
    for name in "calibrated", "calibrated-uniform", "joint-depth":
        record = found[f"{name}_1.5x-faster_bfloat16_batch-2_seed1"]
        assert record["target_speedup"] == 1.5
        assert record["target_flops_reduction"] is None
        assert record["variant"] == "1.5x faster in bfloat16, batches of 2"
        assert (record["latency"]["dtype"], record["latency"]["batch_size"]) == ("bfloat16", 2)
        assert record["choice"]["predicted_speedup"] > 1.45
        assert record["choice"]["predicted_ms"]["baseline"] > 0
    code, out, err = run("RunBert4Glue", *QUICK, *flags, *how)
    assert code == 0, err
    assert "measuring" not in out


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            "--methods attention --target-speedup 2",
            "--target-speedup (target_speedup): attention meets no budget of time",
        ),
        ("--methods attention,joint --target-speedup 2", "attention meets no budget of time; use --methods joint"),
        ("--methods joint --target-speedup 1", "(target_speedup): 1.0 is out of range; use a number above 1"),
        ("--methods joint --target-speedup 2 --latency-batch-size 0", "(latency_batch_size): 0 is out of range"),
        ("--methods joint", "joint needs a budget; give one, as 2, or several, or --target-speedup"),
    ],
)
def test_budgets_of_time_are_refused_where_nothing_reads_them(run, prepared, flags, line):  # noqa: F811
    code, _, err = run("RunBert4Glue", *QUICK, *flags.split())
    assert code == 2
    assert line in err
    assert err.count("\n") == 1


def test_more_than_can_be_met_is_refused(table):
    with pytest.raises(SettingError, match="500 cannot be met by tokens and width; use less, or --methods joint"):
        calibrate(bert(num_labels=2), rows(30), LENGTHS, speed_budget(500, table), ("tokens", "width"), 32, print)


def test_compress_for_a_budget_of_time(tokenizer, tmp_path, machine):  # noqa: F811
    smaller = compress(bert(num_labels=2), tokenizer, texts(60), target_speedup=1.5, times=tmp_path, int8=False)
    assert smaller.predicted_speedup > 1.45
    assert f"time      {smaller.predicted_speedup:.2f}x faster" in smaller.report()
    assert len(list(tmp_path.glob("*float32_batch-32.json"))) == 1
    with pytest.raises(SettingError, match="'2x' is no factor"):
        compress(bert(num_labels=2), tokenizer, texts(60), target_speedup="2x")
