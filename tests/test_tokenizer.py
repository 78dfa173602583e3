"""The tokenizer is that of the folder, or it is refused by name."""

import json
import sys

import pytest
from conftest import VOCABULARY, small_bert
from tokenizers import normalizers
from transformers import AutoTokenizer, BertConfig

from pruner.data.encode import encode
from pruner.data.rows import Rows
from pruner.data.task import TASKS
from pruner.data.tokenizer import bert_folder, load_tokenizer
from pruner.utils.errors import UserError


def pieces(folder, text, length=128):
    return load_tokenizer(folder, length).tokenizer.encode(text).tokens


def write_json(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")


def vocabulary(folder, *words):
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*VOCABULARY[:5], *words]) + "\n", encoding="utf-8")
    return folder


def test_casing_as_the_config_says_and_none_that_loses_capitals(tmp_path):
    lower = vocabulary(tmp_path / "lower", "paris", "##s")
    assert pieces(lower, "Paris París") == ["[CLS]", "paris", "paris", "[SEP]"]  # accents go with the case
    cased = vocabulary(tmp_path / "cased", "Paris", "paris", "##s")
    with pytest.raises(UserError, match=r"have capitals, but .* say which is right in tokenizer_config.json"):
        load_tokenizer(cased, 128)
    write_json(cased / "tokenizer_config.json", {"do_lower_case": False})
    assert pieces(cased, "Paris paris") == ["[CLS]", "Paris", "paris", "[SEP]"]
    write_json(cased / "tokenizer_config.json", {"do_lower_case": True})
    assert pieces(cased, "Paris paris") == ["[CLS]", "paris", "paris", "[SEP]"]


TEXTS = ["Remdesivir was good <url> [SEP] x", "Möchte Café GOOD\u00a0\u200b", "", "日本語が good", "good " * 40]
SETTINGS = {
    "accents": {"do_lower_case": True, "strip_accents": False},
    "accents without case": {"do_lower_case": False, "strip_accents": True},
    "Chinese": {"do_lower_case": True, "tokenize_chinese_chars": False},
    "left": {"do_lower_case": True, "truncation_side": "left"},
    "special": {"do_lower_case": True, "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>"},
    "Japanese": {
        "tokenizer_class": "BertJapaneseTokenizer",
        "word_tokenizer_type": "basic",
        "subword_tokenizer_type": "wordpiece",
    },
    "without segments": {"do_lower_case": True, "model_input_names": ["input_ids", "attention_mask"]},
}


@pytest.mark.parametrize("kind", [*SETTINGS, "added tokens", "normalizer"])
def test_every_folder_gives_the_ids_of_its_own_tokenizer(tmp_path, kind):
    """Of texts and pairs, cut to 16 tokens: what ``AutoTokenizer`` gives is what the model meets when it is served."""
    words = ["<s>", "</s>", "<unk>", "good", "was", "möchte", "mochte", "Café", "cafe", "日", "日本", "##語", "が"]
    vocabulary(tmp_path, *words)
    if kind in SETTINGS:
        write_json(tmp_path / "tokenizer_config.json", SETTINGS[kind])
    else:
        write_json(tmp_path / "tokenizer_config.json", {"do_lower_case": True})
        tokenizer = AutoTokenizer.from_pretrained(tmp_path, config=BertConfig())
        if kind == "added tokens":
            tokenizer.add_tokens(["<url>", "remdesivir"])
        else:
            tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("x", "good")])
        tokenizer.save_pretrained(tmp_path)
        (tmp_path / "vocab.txt").unlink()
    write_json(tmp_path / "config.json", {"model_type": "bert", "vocab_size": 100})
    stock, own = AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path, 16)
    pairs = list(zip(TEXTS, TEXTS[::-1], strict=True))
    split = encode(Rows([*((text,) for text in TEXTS)], None), TASKS["sst-2"], own)
    split_pairs = encode(Rows(pairs, None), TASKS["mrpc"], own)
    for row, (text, pair) in enumerate(zip(TEXTS, pairs, strict=True)):
        assert split.sentence(row).tolist() == stock(text, truncation=True, max_length=16)["input_ids"]
        expected = stock([pair[0]], [pair[1]], truncation="longest_first", max_length=16)
        assert split_pairs.sentence(row).tolist() == expected["input_ids"][0]
        types = expected.get("token_type_ids", [[0] * len(expected["input_ids"][0])])[0]
        assert len(types) - split_pairs.second[row] == sum(types)
    assert own.piece(stock.cls_token_id) == stock.cls_token


def test_a_tokenizer_that_needs_a_package_is_refused_by_name(tmp_path, monkeypatch):
    vocabulary(tmp_path, "a")
    settings = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}
    write_json(tmp_path / "tokenizer_config.json", settings)
    monkeypatch.setitem(sys.modules, "fugashi", None)
    with pytest.raises(UserError, match=r"BertJapaneseTokenizer cannot be loaded \(.*fugashi.*\); install"):
        load_tokenizer(tmp_path, 8)


def test_no_code_of_a_folder_is_run(tmp_path):
    vocabulary(tmp_path, "a")
    (tmp_path / "evil.py").write_text("raise SystemExit('run')", encoding="utf-8")
    settings = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    write_json(tmp_path / "tokenizer_config.json", settings)
    with pytest.raises(UserError, match=r"Evil cannot be loaded"):
        load_tokenizer(tmp_path, 8)


def test_a_forgotten_resize_is_named(tmp_path):
    vocabulary(tmp_path, "a")
    write_json(tmp_path / "config.json", {"model_type": "bert", "vocab_size": 6})
    assert load_tokenizer(tmp_path, 8).size == 6
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(["<url>"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"7 word pieces .* 6; .* resize_token_embeddings, as <url>"):
        load_tokenizer(tmp_path, 8)


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
