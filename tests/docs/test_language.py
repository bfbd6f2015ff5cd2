"""The language of pages that are written by hand: the words of the glossary, short sentences, links that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import DOCS, ROOT, list_pages

PAGES = [ROOT / "README.md", *list_pages()]
MAX_WORDS = 30  # of a sentence
# each has a plain word: fix, print, requeue, return, submit, unlike, ...
AVOIDED = re.compile(
    r"\b(mend(?!el)\w*|tells?|told|sa(?:y|ys|id)|t[ao]ken? up|took up|g[ai]ven? back|hand(?:s|ed)? out|"
    r"twins?|alike|journey|harvest\w*|yardsticks?|duels?|objections?|a person|nobody|for ever|what is there|"
    r"(?<!there )is no \w+|beside the)\b",
    re.IGNORECASE,
)
# identifiers, docstrings and messages
AVOIDED_IN_CODE = re.compile(
    r"(?<![a-z])(mend(?!el)\w*|tells?|told|t[ao]ken? up|took up|g[ai]ven? back|give_back|hand(?:s|ed)? out|"
    r"twins?|alike|journey|harvest\w*|yardsticks?|duels?|objections?|a person|for ever|what is there|"
    r"anew|nobody|somebody|nought|sa(?:y|ys|id|ying)|(?<!there )(?:is|are|was|were) no (?!longer|more)\w+)(?![a-z])",
    re.IGNORECASE,
)
PACKAGE = ROOT / "e3relax_flows"


def read_prose(text: str) -> str:
    """The text without code, tables, comments and addresses of links."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^    .*$|^\|.*$|^#.*$|<[^>]+>|`[^`]*`", "", text, flags=re.MULTILINE)
    return re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)


def split_sentences(prose: str) -> list[str]:
    """Sentences; an item of a list is one, too."""
    parts = re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.) |(?<=[.!?:;])\s", prose, flags=re.MULTILINE)
    return [" ".join(part.split()) for part in parts if part.strip()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_has_plain_words_short_sentences_and_good_links(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    prose = read_prose(text)
    assert AVOIDED.findall(prose) == []
    assert [sentence for sentence in split_sentences(prose) if len(sentence.split()) > MAX_WORDS] == []
    for target in re.findall(r"\]\((?!http|#)([^)#]+)", text):
        made = re.sub(r".*/(reference/.*|changelog\.md)$", r"\1", (page.parent / target).as_posix())
        assert (page.parent / target).exists() or made.startswith(("reference/", "changelog")), target


SOURCES = [PACKAGE, *sorted({path.parent for path in PACKAGE.glob("*/*.py")}), ROOT / "workflows", ROOT / "configs"]


@pytest.mark.parametrize("folder", SOURCES, ids=lambda folder: folder.name)
def test_sources_have_plain_words(folder: Path) -> None:
    files = [path for path in folder.iterdir() if path.suffix in (".py", ".yaml")]
    texts = {path.name: path.read_text(encoding="utf-8") for path in files}
    assert texts
    found = {name: AVOIDED_IN_CODE.findall(text) for name, text in texts.items()}
    assert {name: words for name, words in found.items() if words} == {}


def test_what_is_not_plain_is_found() -> None:
    assert AVOIDED_IN_CODE.findall("def give_back(): # of a twin_id, retold") == ["give_back", "twin"]
    assert AVOIDED_IN_CODE.findall("it is no file, he said; there is no file, it is no longer one") == [
        "is no file",
        "said",
    ]
    assert AVOIDED.findall("It is no structure, which nobody mends.") == ["is no structure", "nobody", "mends"]
    assert AVOIDED.findall("There is nothing to recover.") == []
    long = " ".join(["word"] * (MAX_WORDS + 1))
    assert [len(each.split()) for each in split_sentences(f"One two.\n\n- {long}\n- three: four")] == [2, 31, 1, 1]
    assert read_prose("a `code` [link](there.md)\n```sh\nx\n```\n| cell |\n").split() == ["a", "link"]


def test_the_glossary_is_sorted_and_names_the_vocabulary() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^\| ([\w ,]+) \|", text, re.MULTILINE)
    first = words[1 : words.index("word", 1)]
    assert first == sorted(first)
    assert {"challenger", "incumbent", "candidate", "guard", "gate", "holdout", "place", "control"} <= set(first)
