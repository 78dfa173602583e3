"""CITATION.cff and the READMEs name the same papers; whatever is called published is in one of them."""

import re

import pytest
import yaml
from conftest import ROOT
from make_readme import PAGES

from pruner import __version__

FRONT = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
SECTION = FRONT[FRONT.index("## From these papers") : FRONT.index("## Use it on your own model")]
PRUNER = " ".join((ROOT / "pruner" / "README.md").read_text(encoding="utf-8").split())
PAPERS = PRUNER[PRUNER.index("## Papers") : PRUNER.index("## Work on it")]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_citation_has_what_its_format_demands():
    assert CITATION["cff-version"] == "1.2.0"
    assert (CITATION["type"], CITATION["title"], CITATION["version"]) == ("software", "Sequence Pruning", __version__)
    assert CITATION["message"]
    assert CITATION["authors"] == [{"name": "Sequence Pruning contributors"}]
    for reference in CITATION["references"]:
        assert {"type", "title", "authors", "year", "url"} <= reference.keys()
        assert all(set(author) in ({"name"}, {"given-names", "family-names"}) for author in reference["authors"])


@pytest.mark.parametrize("reference", CITATION["references"], ids=lambda reference: reference["title"].split(":")[0])
def test_a_reference_stands_in_a_readme(reference):
    shown = re.sub(r"[\[\]]", "", SECTION + PAPERS)
    assert f'"{reference["title"]}"' in shown
    assert str(reference["year"]) in shown
    for author in reference["authors"]:
        assert author.get("family-names", "no author named") in shown
    for link in (reference["url"], reference.get("repository-code", "")):
        assert link in FRONT + PAPERS


def test_the_papers_stand_in_the_first_screens():
    assert FRONT.index("## From these papers") < len(FRONT) / 3
    assert "*Published*, where nothing else is said, means this one." in SECTION


@pytest.mark.parametrize("name", [name for name in PAGES if name != "README.md"])
def test_a_page_that_says_published_says_by_whom(name):
    text = PAGES[name].read_text(encoding="utf-8")
    words = re.sub(r"\]\([^)]*\)|`[^`]*`|```.*?```", "", text, flags=re.DOTALL)
    assert "published" not in words.lower() or "README.md#from-these-papers)" in text


def test_no_licence_is_claimed():
    """There is none yet: none is declared to those who install or cite this either."""
    assert "license" not in CITATION
    assert "license" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8").lower()
    assert "No licence has been chosen yet." in FRONT
