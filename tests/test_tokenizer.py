"""The tokenizer against the one of ``transformers``, and how casing is found."""

import json

import pytest
from conftest import VOCABULARY, small_bert
from transformers import AutoTokenizer

from pruner.data.task import TASKS
from pruner.data.tokenizer import bert_folder, load_tokenizer
from pruner.utils.errors import UserError


def pieces(folder, text, length=128):
    return load_tokenizer(folder, length).tokenizer.encode(text).tokens


def vocabulary(folder, *words):
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*VOCABULARY[:5], *words]) + "\n", encoding="utf-8")
    return folder


def test_casing_from_the_config_then_from_capital_letters(tmp_path):
    cased = vocabulary(tmp_path / "cased", "Paris", "paris", "##s")
    assert pieces(cased, "Paris paris") == ["[CLS]", "Paris", "paris", "[SEP]"]
    lower = vocabulary(tmp_path / "lower", "paris", "##s")
    assert pieces(lower, "Paris París") == ["[CLS]", "paris", "paris", "[SEP]"]  # accents go with the case
    (cased / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}), encoding="utf-8")
    assert pieces(cased, "Paris paris") == ["[CLS]", "paris", "paris", "[SEP]"]
    (lower / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}), encoding="utf-8")
    assert pieces(lower, "Paris paris") == ["[CLS]", "[UNK]", "paris", "[SEP]"]


def test_pairs_are_cut_longest_first_and_typed(tmp_path):
    folder = vocabulary(tmp_path, "a", "b")
    encoding = load_tokenizer(folder, 8).tokenizer.encode("a a a a a a", "b b")
    assert encoding.tokens == ["[CLS]", "a", "a", "a", "[SEP]", "b", "b", "[SEP]"]
    assert encoding.type_ids == [0, 0, 0, 0, 0, 1, 1, 1]
    assert load_tokenizer(folder, 8).tokenizer.encode("").tokens == ["[CLS]", "[SEP]"]


def test_special_tokens_in_a_text_are_taken_as_transformers_does(tmp_path):
    folder = vocabulary(tmp_path, "a")
    stock = AutoTokenizer.from_pretrained(small_bert(tmp_path / "stock"))
    text = "a [SEP] a"
    assert load_tokenizer(folder, 8).tokenizer.encode(text).tokens == stock(text).tokens()


def test_the_fingerprint_stands_for_all_that_decides_ids(tmp_path):
    one = load_tokenizer(vocabulary(tmp_path / "1", "a", "b"), 8)
    assert one.fingerprint == load_tokenizer(vocabulary(tmp_path / "2", "a", "b"), 99).fingerprint
    assert one.fingerprint != load_tokenizer(vocabulary(tmp_path / "3", "b", "a"), 8).fingerprint
    (tmp_path / "2" / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8")
    assert one.fingerprint != load_tokenizer(tmp_path / "2", 8).fingerprint


def test_a_hub_model_that_cannot_be_had(monkeypatch):
    import huggingface_hub

    def fail(*args, **kwargs):
        raise OSError("no route to host\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"some/model: no such folder, and the hub .*\(no route to host\)$"):
        bert_folder("some/model")


def test_a_hub_model_is_asked_for_its_small_files_only(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path))
    assert bert_folder("some/model") == tmp_path
    assert asked[0][0] == ("some/model",)
    assert not any("safetensors" in pattern for pattern in asked[0][1]["allow_patterns"])


@pytest.mark.parametrize("without_vocab_file", [False, True])
def test_real_sentences_get_the_ids_of_transformers(shared, tmp_path, without_vocab_file):
    source = shared / "models" / "minilm-l6"
    stock = AutoTokenizer.from_pretrained(source)
    folder = source
    if without_vocab_file:  # a folder with tokenizer.json alone, fixed padding inside it
        folder = tmp_path
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((source / name).read_bytes())
    own = load_tokenizer(folder, 60).tokenizer
    for name in ("mrpc", "cola"):
        texts = TASKS[name].read(shared / "data" / "glue" / TASKS[name].folder, "dev").texts[:300]
        columns = [list(column) for column in zip(*texts, strict=True)]
        expected = stock(*columns, truncation="longest_first", max_length=60, padding=False)
        found = own.encode_batch([text if len(text) == 2 else text[0] for text in texts])
        assert [encoding.ids for encoding in found] == expected["input_ids"]
        assert [encoding.type_ids for encoding in found] == expected["token_type_ids"]
