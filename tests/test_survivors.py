"""Which words survive: the data against counts made by hand, the views against what a person must not be shown."""

import html
import json
import os
import random
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_bert, small_config
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_lstm import make_lstm
from test_run import QUICK, SCHEDULE, prepared, records, written  # noqa: F401
from test_run_lstm import QUICK as QUICK_LSTM
from test_run_lstm import VOCABULARY
from test_run_lstm import prepared as prepared_words  # noqa: F401
from transformers import BertForSequenceClassification

from ModifiedModelingBert import PrunedBertForSequenceClassification
from pruner.data.cache import Split
from pruner.data.vocabulary import learn_vocabulary
from pruner.survivors import picture as survivor_picture
from pruner.survivors import show as survivor_show
from pruner.survivors.kept import Survivors, load_kept
from pruner.survivors.picture import draw_survivors, fonts_for
from pruner.survivors.show import write_survivors
from pruner.survivors.views import NORMAL, STRUCK, columns, page, terminal, wrap
from pruner.utils.screen import print_coloured

SCRIPT = "pruner.survivors"
HOSTILE = "<script>alert('&amp;')</script>"


@pytest.fixture
def bert(tmp_path):
    """A kept model of two layers that keeps the first tokens: 7 of 9, then 4."""
    small_bert(tmp_path / "model", num_hidden_layers=2)
    torch.manual_seed(0)
    config = small_config(num_hidden_layers=2, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    model = PrunedBertForSequenceClassification(config).set_pruning([0.3, 0.5], "head")
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_words_of_bert_are_joined_and_what_is_kept_of_them_is_counted(bert):
    """Of 10 tokens 10 - floor(0.3 * 10) = 7 enter the first layer, and 7 - floor(0.5 * 7) = 4 the second."""
    model = load_kept(bert, None)
    found = model.survivors(model.read("The FILM dulls, fïne, ?"), 1)
    assert found.words == ["[CLS]", "The", "FILM", "dulls", ",", "fïne", ",", "?", "[SEP]"]
    assert found.layers == ["layer 1", "layer 2"]
    assert found.kept == [[1, 1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0.5, 0, 0, 0, 0, 0]]
    assert found.label == "good"


def test_the_predictions_are_those_of_the_stock_model_and_of_the_pruned_one(bert):
    model = load_kept(bert, None)
    sentence = model.read("the film was good", "the plot is dull")
    found = model.survivors(sentence)
    stock = BertForSequenceClassification.from_pretrained(bert).eval()
    pruned = PrunedBertForSequenceClassification.from_pretrained(bert).eval()
    ids = torch.tensor(sentence.tokens[None])
    types = (torch.arange(len(sentence.tokens)) >= sentence.second).long()[None]
    for model, said in ((stock, found.before), (pruned, found.after)):
        with torch.no_grad():
            shares = model(ids, attention_mask=torch.ones_like(ids), token_type_ids=types).logits[0].softmax(0)
        assert said == f"{('bad', 'good')[int(shares.argmax())]} ({100 * float(shares.max()):.1f}%)"
    assert found.before != found.after
    assert types[0].tolist() == [0] * 6 + [1] * 5
    assert found.words[found.second :] == ["the", "plot", "is", "dull", "[SEP]"]


def test_a_prepared_sentence_is_read_as_the_same_words_written(bert):
    """But for their case: a cache has pieces, no texts."""
    model = load_kept(bert, None)
    sentence = model.read("the film dulls")
    split = Split(sentence.tokens, np.array([0, len(sentence.tokens)]), np.array([len(sentence.tokens)]), None)
    assert model.survivors(model.prepared(split, 0)) == model.survivors(sentence)


def test_long_texts_are_cut_as_in_the_run(bert):
    assert len(load_kept(bert, 6).read("the film was good " * 5).tokens) == 6
    assert len(load_kept(bert, None).read("the film was good " * 100).tokens) == 128  # the model's positions


def test_a_score_is_said_as_a_number(tmp_path):
    small_bert(tmp_path, num_hidden_layers=1)
    PrunedBertForSequenceClassification(small_config(num_hidden_layers=1, num_labels=1)).save_pretrained(tmp_path)
    model = load_kept(tmp_path, None)
    found = model.survivors(model.read("the film"), 2.75)
    assert found.label == "2.75"
    assert re.fullmatch(r"-?\d\.\d\d", found.before)
    assert found.before == found.after
    assert found.kept == [[1] * 4]


@pytest.fixture
def lstm(tmp_path):
    """A kept LSTM that reads the last words: of 4 one, of 2 one."""
    model = make_lstm("tail", 0.75)
    model.save_pretrained(tmp_path / "lstm")
    (tmp_path / "lstm" / "vocab.txt").write_text("".join(f"{word}\n" for word in VOCABULARY.words), encoding="utf-8")
    return tmp_path / "lstm"


def test_words_of_an_lstm_are_as_they_were_written(lstm):
    """Its rate is 0.75: of 4 words 3 go, of 2 words floor(1.5) = 1."""
    model = load_kept(lstm, None)
    sentence = model.read("The Film: - wäs 'good'", "plot, dull!")
    known = VOCABULARY.ids
    assert sentence.tokens.tolist() == [known["the"], known["film"], 1, known["good"], known["plot"], 1]
    found = model.survivors(sentence)
    assert found.words == ["The", "Film:", "wäs", "'good'", "plot,", "dull!"]
    assert found.layers == ("LSTM",)
    assert found.kept == [[0, 0, 0, 1, 0, 1]]
    assert found.second == 4
    alone = model.survivors(model.read("the film was good"))
    assert (alone.words, alone.kept, alone.second) == (["the", "film", "was", "good"], [[0, 0, 0, 1]], None)
    with torch.no_grad():
        shares = model.unpruned(torch.tensor([VOCABULARY.to_ids("the film was good")])).logits[0].softmax(0)
    assert f"({100 * float(shares.max()):.1f}%)" in alone.before


def test_words_are_read_as_they_are_prepared():
    generator = random.Random(0)
    letters = "aÄZé'\"-_.,!?¿«»“”—$~`[]^\\\t 　\u00a0中ש1\u0301"
    texts = ["".join(generator.choices(letters, k=generator.randint(0, 30))) for _ in range(500)]
    vocabulary = learn_vocabulary(texts, 10_000)
    for text in texts:
        words = re.findall(r"\S+", text, flags=re.ASCII)
        assert [number for word in words for number in vocabulary.to_ids(word)] == vocabulary.to_ids(text), text


# --- what a person sees ---


class Page(HTMLParser):
    """The tags of a page, and the rows of its tables: each word of theirs with the tag that marks it, or ""."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.rows: list[list[tuple[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "bdi":
            self.rows[-1].append(("", self.open[-2] if self.open[-2] in ("del", "u") else ""))

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1] == "bdi":
            word, mark = self.rows[-1][-1]
            self.rows[-1][-1] = word + data, mark


EXAMPLE = Survivors(
    ["[CLS]", HOSTILE, "中文", "a\x1b[31mb"],
    ["layer 1", "layer 2"],
    [[1, 1, 1, 0.5], [1, 0, 1, 0]],
    "<i>0</i> (60.0%)",
    "1 (70.0%)",
    "1",
)


def test_the_page_holds_the_data_and_text_stays_text():
    text = page(f"title {HOSTILE}", {"model": HOSTILE}, [EXAMPLE])
    found = Page(text)
    assert not {tag for tag, _ in found.tags} & {"script", "i", "img", "link"}
    assert HOSTILE not in text
    assert "http" not in text.replace("http-equiv", "")
    words = [*EXAMPLE.words[:-1], "a\\x1b[31mb"]
    assert [[word for word, _ in row] for row in found.rows] == [[layer, *words] for layer in EXAMPLE.layers]
    assert [[mark for _, mark in row] for row in found.rows] == [["", "", "", "", "u"], ["", "", "del", "", "del"]]
    assert "unpruned: &lt;i&gt;0&lt;/i&gt; (60.0%), pruned: 1 (70.0%), label 1" in text


def test_no_text_of_a_sentence_harms_page_data_or_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(survivor_show, "missing_matplotlib", lambda: "it is not there")
    harm = "\x1b[31m\x9b\u202e\udc80\n"
    each = Survivors([harm, "b"], [harm], [[1, 0]], harm, harm, harm)
    write_survivors(tmp_path / harm, harm, {"model": harm}, [each])
    print_coloured(terminal(each, colours=True), (STRUCK, NORMAL))
    files = [(tmp_path / harm / f"survivors.{kind}").read_text("utf-8") for kind in ("json", "html")]
    for text in (*files, capsys.readouterr().out.replace(STRUCK, "").replace(NORMAL, "")):
        assert text.replace("\n", "").isprintable()
    assert json.loads(files[0])["sentences"][0]["words"] == ["\\x1b[31m\\x9b\\u202e\\udc80\\n", "b"]


PAIR = Survivors(
    ["[CLS]", "a", "film", "[SEP]", "good", "[SEP]"],
    ["layer 1"],
    [[1, 0, 1, 1, 1, 0]],
    "0 (60.0%)",
    "1 (70.0%)",
    second=4,
)


def test_the_sentences_of_a_pair_are_told_apart():
    found = Page(page("pair", {}, [PAIR]))
    first = [("layer 1", ""), ("[CLS]", ""), ("a", "del"), ("film", ""), ("[SEP]", "")]
    second = [("layer 1", ""), ("good", ""), ("[SEP]", "del")]
    assert found.rows == [[("first", "")], first, [("second", "")], second]
    assert terminal(PAIR, colours=False, width=80).splitlines()[1:] == [
        "first    [CLS] a film [SEP]",
        "layer 1  [CLS] · film [SEP]",
        "",
        "second   good [SEP]",
        "layer 1  good ·····",
    ]
    pytest.importorskip("matplotlib")
    alone = replace(PAIR, second=None)
    heights = [size_of(draw_survivors(each)[0]["svg"])[1] for each in (alone, PAIR)]
    rows = 3 * survivor_picture.ROW + survivor_picture.BETWEEN  # two names, and another line of words
    assert heights[1] - heights[0] == pytest.approx(rows, abs=0.01)


def contrast(*colours: str) -> float:
    """The contrast of two colours, ``#rgb`` or ``#rrggbb``, as WCAG 2 defines it."""
    lights = []
    for colour in colours:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
    return max(lights) / min(lights)


def test_the_contrast_is_that_of_the_standards_examples():
    assert contrast("#000", "#fff") == pytest.approx(21)
    assert contrast("#777", "#ffffff") == pytest.approx(4.48, abs=0.005)


def test_all_words_of_the_page_can_be_read_by_day_and_by_night():
    style = re.search("<style>(.*)</style>", page("a", {}, [EXAMPLE]), flags=re.DOTALL)[1]
    light, dark = (dict(re.findall(r"--(\w+): (#\w+)", scheme)) for scheme in re.findall(r":root {(.*?)}", style))
    assert "color-scheme: light dark" in style
    assert style.index("prefers-color-scheme: dark") > style.index(light["paper"])
    used = set(re.findall(r"[ ;]color: ([^;} ]+)", style))
    assert used == {"var(--ink)", "var(--faint)"}
    assert "background: var(--paper)" in style
    for scheme in (light, dark):
        for name in ("ink", "faint"):
            assert contrast(scheme[name], scheme["paper"]) >= 4.5, (name, scheme)
    assert contrast(light["paper"], dark["paper"]) > 10


@pytest.fixture(scope="module")
def browser() -> str:
    """A headless browser. ``.ci/run`` sets REQUIRE_SHARED: there, its absence is a failure."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None and os.environ.get("REQUIRE_SHARED"):
        pytest.fail("chromium is not there; the page is not looked at")
    return found or pytest.skip("chromium is not there; the page is not looked at")


LOOK = """<!doctype html>
<iframe style="width: 360px; height: 640px; border: 0" srcdoc="{page}"></iframe>
<script>
onload = () => {{
  const view = document.querySelector("iframe").contentDocument, root = view.documentElement
  const places = [...view.body.querySelectorAll("*")].map(each => each.getBoundingClientRect())
  const ends = [Math.min(...places.map(each => each.left)), Math.max(...places.map(each => each.right))]
  document.title = JSON.stringify([root.scrollWidth, root.clientWidth, places.length, ...ends])
}}
</script>
"""


def test_nothing_scrolls_sideways_on_a_telephone(browser, tmp_path):
    """A window of a headless browser cannot be so narrow; a frame can."""
    layers = [f"layer {number}" for number in range(1, 13)]
    words = ["[CLS]", *"a charming and often affecting journey".split() * 5, "[SEP]", "x" * 300, "[SEP]"]
    kept = [[float(at % 12 >= row) for at in range(len(words))] for row in range(12)]
    wide = Survivors(words, layers, kept, "0 (60.0%)", "1 (70.0%)", "a_label_" * 10, second=32)
    sentences = [wide, replace(wide, words=["שלום"] * len(words)), EXAMPLE]
    told = {"model": "cache/bert/models/" + "student-emission_" * 9, "schedule": ",".join(["0.25"] * 24)}
    look = tmp_path / "look.html"
    look.write_text(LOOK.format(page=escape(page("t" * 100, told, sentences))), encoding="utf-8")
    quiet = "--no-first-run --disable-background-networking --disable-component-update --disable-sync".split()
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", *quiet, profile, "--dump-dom", look.as_uri()]
    dom = subprocess.run(command, capture_output=True, check=True, timeout=900, encoding="utf-8").stdout
    scroll, client, number, left, right = json.loads(re.search("<title>(.*)</title>", dom)[1])
    assert 300 < client <= 360
    assert scroll == client
    assert number > 36 * len(words)
    assert (left >= 0, right <= client) == (True, True)  # nor inside a box of its own


@pytest.mark.parametrize(
    ("words", "direction"),
    [
        (["[CLS]", "שלום", "עולם", "ok", "[SEP]"], "rtl"),
        (["هذا", "الفيلم"], "rtl"),
        (["[CLS]", "a", "film"], "ltr"),
        (["中", "文", "!"], "ltr"),
        (["[CLS]", "1", "?"], "ltr"),
    ],
)
def test_words_run_as_their_script_does(words, direction):
    each = Survivors(words, ["layer 1"], [[1] * len(words)], "0 (1%)", "0 (1%)")
    assert [attrs["dir"] for tag, attrs in Page(page("", {}, [each])).tags if tag == "table"] == [direction]


def test_the_terminal_shows_dots_for_what_is_dropped():
    words = ["[CLS]", "a", "good", "film", "中文"]
    each = Survivors(words, ["layer 1", "layer 2"], [[1, 0, 1, 0.5, 1], [1, 0, 0, 1, 0]], "0 (60.0%)", "1 (70.0%)")
    assert terminal(each, colours=False, width=24).splitlines() == [
        "unpruned: 0 (60.0%), pruned: 1 (70.0%)",
        "         [CLS] a good",
        "layer 1  [CLS] · good",
        "layer 2  [CLS] · ····",
        "",
        "         film 中文",
        "layer 1  film 中文",
        "layer 2  film ····",
    ]
    assert "\x1b[2;9mgood\x1b[0m" in terminal(each, colours=True, width=80)


def test_nothing_in_the_data_steers_the_terminal():
    text = terminal(EXAMPLE, colours=False, width=200)
    assert "\x1b" not in text
    assert "a\\x1b[31mb" in text
    assert columns("中文 e\u0301") == 6


@given(st.lists(st.floats(0.1, 5), max_size=30), st.floats(1, 6), st.floats(0, 1))
def test_lines_hold_all_items_in_order_and_are_no_wider_than_they_may(widths, limit, space):
    lines = list(wrap(widths, limit, space))
    assert [item for line in lines for item in line] == list(range(len(widths)))
    for line in lines:
        used = sum(widths[item] for item in line) + space * (len(line) - 1)
        assert used <= limit + 1e-9 or len(line) == 1
    for line, after in pairwise(lines):  # and as full as they can be
        assert sum(widths[item] for item in line) + space * len(line) + widths[after[0]] > limit - 1e-9


def test_the_picture_is_whole_and_the_same_again():
    pytest.importorskip("matplotlib")
    many = Survivors(EXAMPLE.words * 40, EXAMPLE.layers, [row * 40 for row in EXAMPLE.kept], "$x$", "\\frac")
    files, _ = draw_survivors(many)
    assert files == draw_survivors(many)[0]
    assert files["png"].startswith(b"\x89PNG")
    width, height = size_of(files["svg"])
    assert 0.8 * survivor_picture.WIDTH < width <= survivor_picture.WIDTH + 0.01
    assert height > 20 * survivor_picture.ROW


def size_of(svg: bytes) -> list[float]:
    """Width and height in inches."""
    root = ElementTree.fromstring(svg)
    return [float(root.get(side).removesuffix("pt")) / 72 for side in ("width", "height")]


def test_what_is_dropped_can_be_read_in_the_picture_and_is_struck_through():
    pytest.importorskip("matplotlib")
    svg = draw_survivors(EXAMPLE)[0]["svg"].decode()
    colours = set(re.findall(r"#[0-9a-f]{6}\b", svg)) - {"#ffffff"}
    assert len(colours) == 1  # beside black, which Matplotlib need not write
    assert min(contrast(colour, "#ffffff") for colour in colours) >= 4.5
    lines = re.findall(r'<g id="line2d_\d+">\s*<path [^>]*style="([^"]*)"', svg)
    assert ["dasharray" in line for line in lines] == [True, False, False]  # a word in part, and two dropped


def test_letters_that_no_font_has_are_named(monkeypatch):
    font_manager = pytest.importorskip("matplotlib.font_manager")
    own = [font for font in font_manager.fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    assert fonts_for("a film שלום 文中") == (["DejaVu Sans"], "中文")
    assert draw_survivors(Survivors(["中"], ["layer 1"], [[1]], "0", "1"))[1] == "中"


# --- the command ---


def test_a_run_keeps_its_model_and_shows_its_words(run, prepared):  # noqa: F811
    pytest.importorskip("matplotlib")
    code, out, err = run("RunBert4Glue", *QUICK, *SCHEDULE, "--methods", "student")
    assert code == 0, err
    run_folder = prepared / "records" / "BERT" / "mrpc" / "student-emission_0.6-0-0.3-0x3_seed1"
    record = records(prepared / "records")[run_folder.name]
    assert record["model_folder"].startswith("cache/bert/models/mrpc/student-emission_0.6-0-0.3-0x3_seed1-")
    assert f"model: {record['model_folder']}" in out

    code, out, err = run(SCRIPT)  # the newest run, the first three of dev
    assert code == 0, err
    assert "mrpc: student of emission 0.6,0,0.3,0,0,0 (records/BERT/mrpc/student-emission" in out
    assert "-> records/BERT/mrpc/student-emission_0.6-0-0.3-0x3_seed1/survivors.html and 3 pictures" in out
    data = json.loads((run_folder / "survivors.json").read_text("utf-8"))
    assert len(data["sentences"]) == len(record["examples"]) == 3
    for each, example in zip(data["sentences"], record["examples"], strict=True):
        assert "".join(each["words"]) == example["sentence"].replace(" ", "").replace("##", "")
        last = "".join(word for word, share in zip(each["words"], each["kept"][-1], strict=True) if share == 1)
        assert last in example["kept"].replace(" ", "").replace("...", "").replace("##", "")
        assert each["label"] in ("0", "1")
    assert sorted(path.name for path in run_folder.glob("survivors*")) == sorted(
        ["survivors.html", "survivors.json", *(f"survivors-{i}.{kind}" for i in (1, 2, 3) for kind in ("png", "svg"))]
    )

    text = html.unescape((run_folder / "survivors.html").read_text("utf-8"))
    told = dict(re.findall("<dt>(.*)</dt><dd>(.*)</dd>", text))
    assert told == data["about"]
    assert told["model"] == f"bert, {record['model_folder']}"
    assert told["method"] == "student of emission, 0.6,0,0.3,0,0,0"
    for key, of in (("metrics", "metric"), ("baseline_metrics", "metric")):
        assert f"accuracy {100 * record[key]['accuracy']:.1f}" in told[of]
    assert f"FLOPs reduction {record['flops']['reduction']:.2f}x" in told["saved"]
    assert told["record"] == f"records/BERT/mrpc/{run_folder.name}/record.json"

    # The model's own folder will do, and what is there of more sentences goes.
    own = ("--sentence", f"a film {HOSTILE}", "--second", "was good")
    code, out, err = run(SCRIPT, record["model_folder"], *own, "--output", str(run_folder))
    assert code == 0, err
    assert len(list(run_folder.glob("survivors-*.png"))) == 1
    assert "<script" not in (run_folder / "survivors.html").read_text("utf-8")

    (prepared / "cache" / "bert" / "models").rename(prepared / "elsewhere")
    code, _, err = run(SCRIPT)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{record['model_folder']}: the model of records/BERT/mrpc/{run_folder.name} is not there" in err


def test_an_lstm_too_whose_model_is_elsewhere_in_the_home_folder(run, prepared_words, monkeypatch):  # noqa: F811
    models = f"{prepared_words}-models"
    monkeypatch.setenv("HOME", str(prepared_words.parent))
    assert run("RunLstm4Glue", *QUICK_LSTM, "--methods", "student", "--save-models", models)[0] == 0
    name = "student-gate_0.9_seed1"
    record = records(prepared_words / "records")[name]
    assert record["model_folder"] == f"~/{Path(models).name}/mrpc/{name}"
    code, _, err = run(SCRIPT, f"records/LSTM/mrpc/{name}", "--dev", "2", "--cache", "cache/lstm")
    assert code == 0, err
    data = json.loads((prepared_words / "records" / "LSTM" / "mrpc" / name / "survivors.json").read_text("utf-8"))
    assert data["about"]["model"] == f"lstm, {record['model_folder']}"
    for each, example in zip(data["sentences"], record["examples"], strict=False):
        assert [" ".join(part) for part in (each["words"][: each["second"]], each["words"][each["second"] :])] == (
            example["sentence"].split(" / ")
        )
        kept = [word for word, share in zip(each["words"], each["kept"][0], strict=True) if share]
        assert kept == [word for word in example["kept"].split() if word not in ("...", "/")]


def test_other_settings_do_not_share_a_kept_model(run, prepared):  # noqa: F811
    for records_folder, rate in (("one", "1e-3"), ("two", "1e-4")):
        options = (*QUICK, *SCHEDULE, "--methods", "head", "--learning-rate", rate, "--records", records_folder)
        assert run("RunBert4Glue", *options)[0] == 0
    folders = {record["model_folder"] for name in ("one", "two") for record in records(prepared / name).values()}
    assert len(folders) == 4
    assert all((prepared / folder / "model.safetensors").is_file() for folder in folders)


def test_models_may_be_discarded(run, prepared):  # noqa: F811
    assert run("RunBert4Glue", *QUICK, *SCHEDULE, "--methods", "head", "--discard-models")[0] == 0
    assert not (prepared / "cache" / "bert" / "models").exists()
    code, _, err = run(SCRIPT, "records/BERT/mrpc/head_0.6-0-0.3-0x3_seed1")
    assert (code, err.count("\n")) == (2, 1)
    assert "its model was not kept; run it again with --force and without --discard-models" in err
    code, _, err = run(SCRIPT)
    assert err == (
        "error: records: no finished run with a kept model; run RunBert4Glue.py first, or name a run's folder\n"
    )


def test_a_model_that_cannot_be_kept_costs_no_result(run, prepared):  # noqa: F811
    (prepared / "cache" / "bert" / "models").write_text("a file", encoding="utf-8")
    code, out, err = run("RunBert4Glue", *QUICK, *SCHEDULE, "--methods", "head")
    assert code == 0, err
    assert out.count("the model is not kept: cache/bert/models/mrpc/") == 2
    assert {record["model_folder"] for record in records(prepared / "records").values()} == {None}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "--sentence", "a"], "nowhere: neither a record's folder nor a model's; name one"),
        (["model", "--sentence", " "], "--sentence: no words in ' '"),
        (
            ["model", "--sentence", "a", "--sentence", "the", "--second", "b"],
            "--second: 2 first sentences and 1 second",
        ),
        (["model", "--second", "b"], "--second: without a first sentence"),
        (["model", "--sentence", "a\0b"], "--sentence: a NUL byte"),
        (["model", "--dev", "0"], "--dev: 0 sentences; use 1 or more"),
        (["model"], "no such file; run PrepareGlue4Bert.py, or name the cache folder with --cache first"),
        (["mrpc/model", "--sentence", "a"], "--second: 1 first sentences and 0 second ones; give one of each"),
        (["broken", "--sentence", "a"], "broken: the weights cannot be loaded"),
        (["other", "--sentence", "a"], "other: not a model that a run has kept"),
        (["list", "--sentence", "a"], "list/config.json: not a JSON object"),
    ],
)
def test_bad_input_is_one_line(bert, run, tmp_path, arguments, said):
    for name in ("broken", "mrpc/model"):
        (tmp_path / name).mkdir(parents=True)
        for file in bert.iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"\x08")
    for name, config in (("other", '{"model_type": "gpt2"}'), ("list", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config, encoding="utf-8")
    code, _, err = run(SCRIPT, *arguments)
    assert (code, err.count("\n")) == (2, 1), err
    assert said in err
    assert not list(tmp_path.rglob("survivors*"))


HUGE = [
    ("bert", {"num_hidden_layers": 10**9}),
    ("bert", {"hidden_size": 2**30, "num_attention_heads": 2}),
    ("bert", {"intermediate_size": 2**30}),
    ("bert", {"num_labels": 10**9}),
    ("lstm", {"num_layers": 10**9}),
    ("lstm", {"hidden_size": 10**9}),
    ("lstm", {"vocab_size": 10**12}),
    ("lstm", {"head_size": 10**12}),
]


@pytest.mark.parametrize(("kind", "change"), HUGE)
def test_a_config_of_more_than_the_weights_are_is_refused_before_it_is_made(request, run, kind, change):
    folder = request.getfixturevalue(kind)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    code, _, err = run(SCRIPT, str(folder), "--sentence", "the film")
    assert (code, err.count("\n")) == (2, 1), err
    assert "cannot be loaded" in err or "is no size" in err


@pytest.mark.parametrize("kind", ["bert", "lstm"])
def test_weights_that_are_no_numbers_are_named(request, run, kind):
    folder = request.getfixturevalue(kind)
    weights = load_file(folder / "model.safetensors")
    name = next(iter(weights))
    weights[name].flatten()[-1] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    code, out, err = run(SCRIPT, str(folder), "--sentence", "the film")
    assert code == 2
    assert re.fullmatch(rf"error: {folder}: {name} holds numbers that are not finite; copy the model again\n", err)
    assert "nan" not in out


def test_without_matplotlib_there_is_the_page(bert, run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    code, out, err = run(SCRIPT, "model", "--sentence", "the film")
    assert code == 0, err
    assert "no pictures: matplotlib" in out
    assert (tmp_path / "model" / "survivors.html").is_file()
    assert not list((tmp_path / "model").glob("survivors-*"))
