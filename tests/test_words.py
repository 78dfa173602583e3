"""The LSTM's prepare scripts: words and vocabulary as TensorFlow has them, AG News as it comes, vectors."""

import hashlib
import random
from collections import Counter

import numpy as np
import pytest
from conftest import official_agnews, write_agnews, write_mrpc
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pruner.data.agnews import AGNEWS
from pruner.data.cache import read_cache
from pruner.data.encode import encode_words
from pruner.data.rows import Rows
from pruner.data.sample import make_lstm_demo, make_sentences
from pruner.data.task import TASKS
from pruner.data.vocabulary import (
    PUNCTUATION,
    Vocabulary,
    learn_vocabulary,
    read_vectors,
    read_vocabulary,
    vocabulary_path,
    write_words,
)
from pruner.utils.errors import UserError


def load(folder, task):
    vocabulary = read_vocabulary(folder, task, "")
    return read_cache(folder, task, "lstm", vocabulary.fingerprint, ""), vocabulary


def words(cache, vocabulary, split, row):
    return [vocabulary.word(int(number)) for number in cache.splits[split].sentence(row)]


def test_glue_from_files_to_cache(run, tmp_path):
    write_mrpc(tmp_path / "data")
    header = "index\t#1 ID\t#2 ID\t#1 String\t#2 String"
    rows = ["0\t1\t2\tThe FILM, wasn't good!\tnovel plot", "1\t1\t2\tfine\t"]
    (tmp_path / "data" / "MRPC" / "test.tsv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    code, out, err = run("PrepareGlue4Lstm")
    assert (code, err) == (0, "")
    assert "skipped sst-2: data/SST-2: no such folder" in out
    cache, vocabulary = load(tmp_path / "cache" / "lstm", "mrpc")
    assert words(cache, vocabulary, "train", 0) == "the film was good the film was good".split()
    assert words(cache, vocabulary, "train", 1) == "the actor was not bad the plot is fine the film was good".split()
    assert words(cache, vocabulary, "test", 0) == ["the", "film", "[UNK]", "good", "[UNK]", "plot"]
    assert cache.splits["test"].second.tolist() == [4, 1]
    assert cache.splits["test"].lengths.tolist() == [6, 1]  # an empty second sentence has no words at all
    assert cache.splits["test"].labels is None
    assert cache.splits["train"].labels.tolist() == [0, 1] * 12
    assert cache.counts.tolist() == np.bincount(cache.splits["train"].tokens, minlength=vocabulary.size).tolist()
    assert cache.counts[:2].tolist() == [0, 0]
    listed = (tmp_path / "cache" / "lstm" / "mrpc.txt").read_text(encoding="utf-8").splitlines()
    assert set(listed) == set("the film was good actor not bad plot is fine".split())
    assert [entry.name for entry in sorted((tmp_path / "cache" / "lstm").iterdir())] == ["mrpc.safetensors", "mrpc.txt"]
    table = out.strip().splitlines()[-4:]
    assert table[0].split() == ["task", "split", "sentences", "mean", "words", "95th", "pct."]
    assert table[1].split()[:3] == ["mrpc", "train", "24"]


def test_a_full_vocabulary_keeps_the_commonest(run, tmp_path):
    write_mrpc(tmp_path / "data")
    code, _, err = run("PrepareGlue4Lstm", "--vocabulary-size", "5", "--max-length", "6", "--cache", "words")
    assert code == 0, err
    cache, vocabulary = load(tmp_path / "words", "mrpc")
    assert vocabulary.size == 5
    assert vocabulary.words[0] == "the"
    assert "[UNK]" in words(cache, vocabulary, "train", 0) + words(cache, vocabulary, "train", 1)
    assert cache.counts[1] > 0
    second = cache.splits["train"].second
    assert second.max() <= 6
    assert (cache.splits["train"].lengths - second).max() == 6  # each sentence is cut by itself


def test_words_by_hand():
    texts = ["It's GOOD; (really), good.", "good-bye\u00a0Été\\nline <b>html</b> &lt;", "", "?!", " a\tb \u2028 c "]
    vocabulary = learn_vocabulary(texts, 65_000)
    words = [[vocabulary.word(number) for number in vocabulary.to_ids(text)] for text in texts]
    assert words[0] == ["its", "good", "really", "good"]
    assert words[1] == ["goodbye\u00a0Éténline", "bhtmlb", "lt"]
    assert words[2:] == [[], [], ["a", "b", "\u2028", "c"]]
    # By their number, then the last in the order of code points first.
    assert vocabulary.words[:4] == ("good", "\u2028", "really", "lt")
    assert learn_vocabulary(texts, 4).words == ("good", "\u2028")


@pytest.fixture(scope="module")
def text_vectorization():
    """What TensorFlow makes of texts: ``(train, size) -> vocabulary, text -> ids``."""
    tensorflow = pytest.importorskip("tensorflow", reason="TensorFlow is the reference for the words of the LSTM")

    def learn(train, size=65_000):
        layer = tensorflow.keras.layers.TextVectorization(max_tokens=size, ragged=True)
        layer.adapt(tensorflow.data.Dataset.from_tensor_slices(list(train)).batch(4096))
        return [str(word) for word in layer.get_vocabulary()[2:]], lambda texts: layer(list(texts)).to_list()

    return learn


def check_words(text_vectorization, train, texts, size=65_000):
    """Vocabulary and ids are those that TensorFlow makes."""
    words, to_ids = text_vectorization(train, size)
    vocabulary = learn_vocabulary(train, size)
    assert list(vocabulary.words) == words
    assert [vocabulary.to_ids(text) for text in texts] == to_ids(texts)


# What one of the two might take for white space, a capital letter, or punctuation.
ODD = "".join(map(chr, [*range(1, 33), 0x7F, 0x85, 0xA0, 0x1680, 0x2003, 0x2028, 0x202F, 0x3000, 0x200B, 0xFEFF]))
ODD += PUNCTUATION.decode() + "¿«»“”—aAzZÄé\u0130\u0131\u017fßΣΩПя中שﬁ1\u0301\U0001d11e\U0001f600"


def test_odd_texts_have_the_ids_of_tensorflow(text_vectorization):
    generator = random.Random(0)
    texts = ["".join(generator.choices(ODD, k=generator.randint(0, 12))) for _ in range(3000)]
    texts += ["", " ", *ODD, *(f"a{character}b" for character in ODD)]
    for size in (65_000, 50, 3):  # of words that occur equally often, some are left out
        check_words(text_vectorization, texts[::2], texts, size)


@pytest.mark.parametrize(
    ("name", "folder", "split"), [("agnews", "ag_news_csv", "test"), ("sst-2", "glue/SST-2", "dev")]
)
def test_real_texts_have_the_ids_of_tensorflow(text_vectorization, shared, name, folder, split):
    texts = [text for (text,) in TASKS[name].read(shared / "data" / folder, split).texts[:1000]]
    check_words(text_vectorization, texts[:700], texts, 3000)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "folder"), [("agnews", "ag_news_csv"), ("sst-2", "glue/SST-2")])
def test_all_real_texts_have_the_ids_of_tensorflow(text_vectorization, shared, name, folder):
    train, *others = (TASKS[name].read(shared / "data" / folder, split).texts for split in TASKS[name].splits)
    texts = [text for split in (train, *others) for (text,) in split]
    for size in (65_000, 5000):
        check_words(text_vectorization, texts[: len(train)], texts, size)


def unicode_texts():
    # Surrogates are in no UTF-8 file, and files with a NUL byte are refused.
    return st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=8)


@given(train=unicode_texts(), texts=unicode_texts(), size=st.integers(3, 30))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_texts_have_the_ids_of_tensorflow(text_vectorization, train, texts, size):
    assume(learn_vocabulary(train, size).words)  # those without words are refused
    check_words(text_vectorization, train, [*train, *texts], size)


def test_the_vocabulary_is_text(tmp_path):
    vocabulary = Vocabulary(("good", "a\u2028b", "été", "\u00a0"))
    split = encode_words(Rows([("good",)], [1]), vocabulary, 8)
    write_words(tmp_path, TASKS["sst-2"], {"train": split, "dev": split}, vocabulary, 8)
    assert vocabulary_path(tmp_path, "sst-2").read_bytes().decode() == "good\na\u2028b\nété\n\u00a0\n"
    assert read_vocabulary(tmp_path, "sst-2", "") == vocabulary
    assert read_vocabulary(tmp_path, "sst-2", "").fingerprint == vocabulary.fingerprint
    assert Vocabulary(("good",)).fingerprint != vocabulary.fingerprint


def test_the_samples_words_are_in_its_vocabulary(tmp_path):
    make_lstm_demo(tmp_path)
    cache, vocabulary = load(tmp_path, "demo")
    rows = make_sentences(50, seed=1)
    for row, (text,) in enumerate(rows.texts):
        assert words(cache, vocabulary, "train", row) == text.split()


def test_agnews_from_files_to_cache(run, tmp_path):
    write_agnews(tmp_path / "data")
    code, out, err = run("PrepareAgnews4Lstm")
    assert (code, err) == (0, "")
    cache, vocabulary = load(tmp_path / "cache" / "lstm", "agnews")
    assert words(cache, vocabulary, "train", 0) == "stocks rise oil says bfallsb b nnextn again".split()
    assert words(cache, vocabulary, "train", 1) == "team wins the cup it is said".split()
    assert cache.splits["train"].labels.tolist() == [2, 1, 0, 3] * 6
    assert cache.labels == ("World", "Sports", "Business", "Sci/Tech")
    assert list(cache.splits) == ["train", "test"]
    assert out.strip().splitlines()[-1].split()[:3] == ["agnews", "test", "8"]

    code, _, err = run("PrepareAgnews4Lstm", "--columns", "description", "--cache", "published")
    assert code == 0, err
    cache, vocabulary = load(tmp_path / "published", "agnews")
    assert words(cache, vocabulary, "train", 1) == "the cup it is said".split()


def test_the_official_test_set(shared):
    folder = shared / "data" / "ag_news_csv"
    rows = AGNEWS.read(folder, "test")
    assert len(rows.texts) == 7600
    assert Counter(rows.labels) == dict.fromkeys(range(4), 1900)
    (first,) = rows.texts[0]
    assert first.startswith("Fears for T N pension after talks Unions representing workers at Turner   Newall say")
    rows = AGNEWS.read(folder, "train")
    assert len(rows.texts) == 6912
    assert all(text for (text,) in rows.texts)


def test_bad_rows_of_agnews(tmp_path):
    path = tmp_path / "train.csv"
    good = '"3","a ""quoted"" title","two\nlines, one row"\n'
    path.write_text(good + '"5","t","d"\n' + '"1","t"\n' + '"2"x,"t","d"\n' + good, encoding="utf-8")
    assert AGNEWS.read(tmp_path, "train", skip_bad_rows=True) == Rows(
        [('a "quoted" title two\nlines, one row',)] * 2, [2, 2], 3
    )
    for line, text, problem in (
        (3, good + '"5","t","d"\n', r"unknown class '5' \(expected 1, 2, 3, 4\)"),
        (3, good + '"1","t"\n', "2 columns instead of 3"),
        (3, good + '"2"x,"t","d"\n', "not a row of CSV"),
        (1, '"2","t","never ends\n', "not a row of CSV"),
        (1, "\n" + good, "0 columns instead of 3"),
        (2, "class,title,description\nclass,title,description\n" + good, "unknown class 'class'"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=rf"train\.csv:{line}: {problem}.*--skip-bad-rows"):
            AGNEWS.read(tmp_path, "train")
    for text, problem in (
        (good + '"3","t","a\0b"\n', ":3: a NUL byte"),
        (good + '"3","t","' + "x" * (1 << 21), ":3: a line of more than"),
        (good + '"3","t","' + "x\n" * 100_000, ":3: not a row of CSV"),
        ("\n", ": no rows"),
        ("class,title,description\n", ": no rows"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=rf"train\.csv{problem}"):
            AGNEWS.read(tmp_path, "train")
    path.write_text('"5","t","d"\n', encoding="utf-8")
    with pytest.raises(UserError, match="all 1 rows are bad"):
        AGNEWS.read(tmp_path, "train", skip_bad_rows=True)


def test_agnews_is_downloaded(tmp_path, serve):
    source, target = official_agnews(tmp_path / "server"), tmp_path / "ag_news_csv"
    address = serve(source)
    AGNEWS.download(target, address)
    for split in AGNEWS.splits:
        content = (target / f"{split}.csv").read_bytes()
        assert content == (source / f"{split}.csv").read_bytes()
        expected = f"{hashlib.sha256(content).hexdigest()}  {split}.csv\n"
        assert (target / f"{split}.csv.sha256").read_text(encoding="utf-8") == expected
    for path in (target / "train.csv.sha256", target / "test.csv.sha256", target / "test.csv"):
        path.unlink()
    (target / "train.csv").write_text("mine", encoding="utf-8")
    for change, problem in (
        (lambda data: data[: data.rindex(b'"3"')], ": 7596 rows instead of 7600"),
        (lambda data: data[:-9], ":7600: not a row of CSV"),
        (lambda data: data + b"1,a,b", ": 7601 rows instead of 7600"),
        (lambda data: b'"1","two\nlines","b"\n' + data, ": 7601 rows instead of 7600"),
        (lambda data: data.replace(b"Team", b'Te",am', 1), ":2: 4 columns instead of 3"),
        (lambda data: b"<html>\n", ": 0 rows instead of 7600"),
    ):
        whole = (source / "test.csv").read_bytes()
        (source / "test.csv").write_bytes(change(whole))
        with pytest.raises(UserError, match=rf"{address}: not the official test.csv{problem}.*; run again .* by hand$"):
            AGNEWS.download(target, address)
        assert [entry.name for entry in target.iterdir()] == ["train.csv"]
        (source / "test.csv").write_bytes(whole)
    with pytest.raises(UserError, match=r"nothing/test\.csv: download failed .*404"):
        AGNEWS.download(target, f"{address}/nothing")
    assert [entry.name for entry in target.iterdir()] == ["train.csv"]
    assert (target / "train.csv").read_text(encoding="utf-8") == "mine"


def test_pretrained_vectors(tmp_path):
    path = tmp_path / "glove.txt"
    vocabulary = Vocabulary(("good", "bad", ". ."))
    path.write_text("the 1 2 3\ngood 4 5 6.5\n. . 7 8 9\n", encoding="utf-8")
    found = read_vectors(path, vocabulary, 3)
    assert {number: vector.tolist() for number, vector in found.items()} == {2: [4, 5, 6.5], 4: [7, 8, 9]}
    path.write_text("2 3\nbad 1 2 3\n", encoding="utf-8")  # word2vec's form of the format
    assert list(read_vectors(path, vocabulary, 3)) == [3]
    for text, problem in (
        ("good 1 2\n", r"glove\.txt:1: 2 numbers; set embedding_size"),
        ("good 1 2 3 4\n", r"glove\.txt:1: 4 numbers; set embedding_size"),
        ("good 1 2 x\n", r"glove\.txt:1: not a word and 3 numbers"),
        ("good 1 2 nan\n", r"glove\.txt:1: a number is not finite"),
        ("other 1 2 3\n", "none of the vocabulary's 3 words is in it"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=problem):
            read_vectors(path, vocabulary, 3)


def test_only_tasks_of_classes(run, tmp_path):
    code, _, err = run("PrepareGlue4Lstm", "--tasks", "sts-b")
    assert (code, err) == (
        2,
        "error: --tasks (tasks): sts-b has scores, not classes; the LSTM is a classifier; name other tasks\n",
    )
    assert TASKS["sts-b"].labels == ()
