"""The built-in sample task: a few words decide the topic, the rest is filler. It needs no download."""

import random
from pathlib import Path

from pruner.data.cache import cache_path, make_cache, write_cache
from pruner.data.encode import encode, encode_words
from pruner.data.rows import Rows
from pruner.data.task import Task
from pruner.data.tokenizer import load_tokenizer
from pruner.data.vocabulary import Vocabulary, write_words
from pruner.utils.folders import whole_folder, write_sums

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_LENGTH = 64
LAYERS = 3
SIGNAL_WORDS = 3  # of each sentence
NUM_ROWS = {"train": 3000, "dev": 500}

TOPICS = {
    "food": ("bread", "cheese", "soup"),
    "music": ("drum", "piano", "violin"),
    "sea": ("harbour", "ship", "wave"),
    "sport": ("goal", "referee", "stadium"),
}
FILLER = """
a about actor after all also an and another around as at audience back because been before book both but by came
camera cast character city could crew day dialogue director do during each early edit end even ever every evening
family few film first for four friend from had half has have he her here him his hour house how i if in into is
it just last later like line long look made make many may me middle minute month more most movie music must my
never new next night no not now of old on once one only or other our out over own part people place plot put role
room said same saw scene score screen script season second seen set she short show since so some sound stage
start still story street such take tell than that the their them then there they thing this three through time
title to two under until up use very was watch way we week well went were what when where which while who will
with word work world would write year yet you
""".split()
WORDS = (*FILLER, *(word for words in TOPICS.values() for word in words))


def make_sentences(number: int, seed: int) -> Rows:
    """Make sentences of 12 to 60 words: filler, and anywhere among it the few words that tell the topic."""
    generator = random.Random(seed)
    labels: list[float] = []
    rows = Rows([], labels)
    for _ in range(number):
        label = generator.randrange(len(TOPICS))
        words = generator.choices(FILLER, k=generator.randint(12, 60) - SIGNAL_WORDS)
        for word in generator.choices(TOPICS[SAMPLE.labels[label]], k=SIGNAL_WORDS):
            words.insert(generator.randint(0, len(words)), word)
        rows.texts.append((" ".join(words),))
        labels.append(label)
    return rows


def read_sample(task: Task, folder: Path, split: str, skip_bad_rows: bool) -> Rows:
    return make_sentences(NUM_ROWS[split], seed=1 + task.splits.index(split))


SAMPLE = Task(
    *("demo", "demo", ("sentence",), "label", tuple(TOPICS), ("accuracy",)), test=(), files="", reader=read_sample
)


BERT = "bert"  # its folder in the cache


def make_demo(folder: Path) -> None:
    """Write the sample task's cache and ``bert``, a small, untrained BERT, into ``folder``."""
    import torch  # in here, since all scripts import this module for its task
    from transformers import BertConfig, BertModel

    from pruner.utils.distributed import locked

    bert = folder / BERT
    with locked(bert, print):
        if bert.is_dir() and cache_path(folder, SAMPLE.name).is_file():
            return  # another run may be reading it
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(SPECIAL) + len(WORDS),
            hidden_size=64,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            intermediate_size=256,
            max_position_embeddings=MAX_LENGTH,
        )
        with whole_folder(bert, last="config.json") as new:
            BertModel(config).save_pretrained(new)
            (new / "vocab.txt").write_text("\n".join((*SPECIAL, *WORDS)) + "\n", encoding="utf-8")
            write_sums(new)
        tokenizer = load_tokenizer(bert, MAX_LENGTH)
        splits = {split: encode(rows, SAMPLE, tokenizer) for split, rows in SAMPLE.read_splits(folder).items()}
        write_cache(folder, make_cache(SAMPLE, splits, tokenizer.size, MAX_LENGTH), "bert", tokenizer.fingerprint)


def make_lstm_demo(folder: Path) -> None:
    """Write the same sentences as words for the LSTM under ``folder``, with their vocabulary."""
    vocabulary = Vocabulary(WORDS)
    splits = {split: encode_words(rows, vocabulary, MAX_LENGTH) for split, rows in SAMPLE.read_splits(folder).items()}
    write_words(folder, SAMPLE, splits, vocabulary, MAX_LENGTH)
