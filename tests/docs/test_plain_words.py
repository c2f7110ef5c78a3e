"""Docs and sources name things: no `whoever`, no `what is told`. See CONTRIBUTING."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.plain_words import name, not_yet_plain, pages, sources, wrong_words


@pytest.mark.parametrize("page", pages(), ids=name)
def test_a_page_is_in_plain_words(page: Path) -> None:
    found = [f"{name(page)}:{line}: {words}" for line, words in wrong_words(page.read_text())]
    assert not found, "\n".join(found)


def test_a_source_file_is_in_plain_words_unless_it_is_listed() -> None:
    listed = set(not_yet_plain())
    found = [
        f"{name(path)}:{line}: {words}"
        for path in sources()
        if name(path) not in listed
        for line, words in wrong_words(path.read_text())
    ]
    assert not found, "\n".join(found)


def test_the_list_of_exceptions_only_shrinks() -> None:
    with_findings = {name(path) for path in sources() if any(wrong_words(path.read_text()))}
    clean = sorted(set(not_yet_plain()) - with_findings)
    assert not clean, f"take these off tests/docs/not_yet_plain.txt: {clean}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Whoever calls it waits.", "Whoever"),
        ("the server is\n    told the port", "is told"),
        ("    # the line of those\n    # who wait", "those who"),
        ("It answers nobody.", "nobody"),
    ],
)
def test_a_word_is_found_over_the_end_of_a_line(text: str, words: str | None) -> None:
    found = [" ".join(found.split()) for _, found in wrong_words(text)]
    assert found == [words]


@pytest.mark.parametrize(
    "text", ['`callers = "anybody"` or `nobody`', "```text\nwhoever\n```", "[x](whatever.md)"]
)
def test_code_is_not_looked_at(text: str) -> None:
    assert list(wrong_words(text)) == []
