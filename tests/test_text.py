"""Text from outside harms nothing that it is written to, and says nothing of whom it is from."""

import unicodedata

import pytest

from pruner.utils import text as module
from pruner.utils.text import clean, escape_csv, escape_markdown, impersonal, printable, recorded_path, shorten

ORDINARY = [
    "plain, with \\ and 'quotes'",
    "naïve café, „so“ … 80.9 ± 0.1",
    "中文、日本語　한국어",
    "می‌خواهم שלום العربية",
    "हिन्दी क्‍ष ภาษาไทย",
    "👩‍👩‍👧 🏳️‍🌈 ❤️",
    "a\u00a0b\u00adc",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text):
    assert printable(text) == text


def test_what_steers_a_terminal_or_hides_is_seen():
    controls = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cc", "Cs", "Zl", "Zp")]
    turns = [chr(code) for code in (0x61C, *range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A))]
    for character in [*controls, *turns, "\ufeff"]:
        assert printable(f"a{character}b").isprintable(), ascii(character)
        assert printable(f"a{character}b") != "ab"
    assert printable("a\x1b[2J\x9b1m\u202eb\n\udc80") == "a\\x1b[2J\\x9b1m\\u202eb\\n\\udc80"
    assert printable("a\n\x1b[A\x1b[B", ("\n", "\x1b[A")) == "a\n\x1b[A\\x1b[B"
    assert printable(printable("\x1b")) == printable("\x1b")


def test_a_long_text_keeps_its_beginning_and_so_much_of_its_end():
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 10) == "abcdefg..."
    assert shorten("abcdefghijk", 10, 2) == "abcde...jk"


@pytest.mark.parametrize(
    "text",
    [
        "# a",
        "<script>x</b>",
        "[a](b)",
        "![a](b)",
        "*a* _b_ `c` ~d~",
        "a|b",
        "&lt;",
        "$x$",
        "\\",
        "https://a",
        "www.a",
    ],
)
def test_markdown_shows_text_as_it_is(text):
    escaped = escape_markdown(text)
    assert escaped != text
    assert "".join(part[-1:] if part.startswith("\\") else part for part in module.re.split(r"(\\.)", escaped)) == text
    assert escape_markdown("two\n# lines\x1b") == "two \\# lines\\\\x1b"


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@a", "-1+1|cmd", "=", "-", "\uff1dA1", "-nan", "+1-2"])
def test_a_spreadsheet_computes_nothing(text):
    assert escape_csv(text) == f"'{text}"


@pytest.mark.parametrize("text", ["a=1", "-1", "+1.5e-3", "-.5", "", "1", "0.6-0x5", "'=1"])
def test_what_is_no_formula_stays(text):
    assert escape_csv(text) == text


def test_no_control_character_begins_a_cell():
    assert [escape_csv(text) for text in ("\t=1", "\r=1", "\n=1")] == ["\\t=1", "\\r=1", "\\n=1"]


@pytest.fixture
def alice(tmp_path, monkeypatch):
    """Somebody at work in a project in her home."""
    home = tmp_path / "home" / "alice w"
    (home / "project").mkdir(parents=True)
    monkeypatch.chdir(home / "project")
    monkeypatch.setenv("HOME", str(home))
    for name in ("LOGNAME", "USER"):
        monkeypatch.setenv(name, "alice")
    monkeypatch.setattr(module.socket, "gethostname", lambda: "node17")
    return home


def test_paths_say_nothing_of_whose_they_are(alice):
    for path, shown in {
        f"{alice}/project/records/BERT": "records/BERT",
        f"{alice}/project": ".",
        f"-> {alice}/project/a, {alice}/project": "-> a, .",
        f"{alice}/project2/a": "~/project2/a",
        f"{alice}//models/a: not there": "~/models/a: not there",
        f"file://{alice}/a": "file://~/a",
        str(alice): "~",
        "/scratch/alice/bert": "/scratch/~/bert",
        "/tmp/run-of-alice/node17/x": "/tmp/run-of-~/HOST/x",
        "../../alice/bert": "../../~/bert",
        "/opt/bert": "/opt/bert",
        "alice said / alice did": "alice said / alice did",
        "models/alice/node17": "models/alice/node17",
        "alice/bert-base": "alice/bert-base",
        "loss 0.5 on node17": "loss 0.5 on node17",
    }.items():
        assert impersonal(path) == shown
        assert impersonal(shown) == shown


def test_a_recorded_path_is_found_again_by_whom_it_was_recorded(alice, tmp_path, monkeypatch):
    for folder in (alice / "models", tmp_path / "alice" / "models", tmp_path / "models"):
        folder.mkdir(parents=True)
        recorded = impersonal(str(folder))
        assert "alice" not in recorded
        assert recorded_path(recorded) == str(folder)
    monkeypatch.chdir(alice)
    assert recorded_path("models") == "models"
    assert recorded_path("~nobody-at-all/x") == "alicenobody-at-all/x"  # and is not there


def test_all_texts_of_a_value_are_clean(alice):
    value = {f"{alice}/a": [1, None, True, "\x1b", {"b": (f"{alice}/project/c",)}]}
    assert clean(value) == {"~/a": [1, None, True, "\\x1b", {"b": ["c"]}]}


def test_a_user_without_a_name(monkeypatch):
    monkeypatch.setattr(module.getpass, "getuser", lambda: {}["no name"])
    assert impersonal("/scratch/a") == "/scratch/a"
