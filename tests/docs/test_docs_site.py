"""The site builds without a warning, documents every public name, and asks no other host."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

import bascule

ROOT = Path(__file__).parents[2]
API = ROOT / "docs" / "reference" / "api.md"
_LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
_LOADED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch"}


class Loaded(HTMLParser):
    """The addresses that a browser loads by itself as it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        kinds = set((given.get("rel") or "").split())
        if tag in _LOADS and (tag != "link" or kinds & _LOADED_LINKS):
            self.found.append(given.get(_LOADS[tag]) or "")


def foreign(page: str) -> list[str]:
    loaded = Loaded()
    loaded.feed(page)
    styles = re.findall(r"url\(\s*['\"]?((?:https?:)?//[^)]+)\)|@import\s+(\S+)", page)
    return [
        *[address for address in loaded.found if re.match(r"(https?:)?//", address)],
        *["".join(pair) for pair in styles],
    ]


def pages_and_styles(site: Path) -> Iterator[Path]:
    yield from site.rglob("*.html")
    yield from site.rglob("*.css")


def test_the_api_page_has_every_public_name_once() -> None:
    shown = re.findall(r"^\.\. auto\w+:: bascule\.(\w+)$", API.read_text(), re.MULTILINE)

    assert sorted(shown) == sorted(name for name in bascule.__all__ if name != "__version__")


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_another_host(
    tmp_path: Path,
) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-b", "html",
         ROOT / "docs", tmp_path / "site", "-d", tmp_path / "doctrees"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (built.returncode, built.stderr) == (0, "")

    looked_at = list(pages_and_styles(tmp_path / "site"))
    assert len(looked_at) > 40
    assert {str(path): foreign(path.read_text()) for path in looked_at} == {
        str(path): [] for path in looked_at
    }


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://cdn.example/mathjax.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        '<link rel="preconnect" href="https://fonts.example">',
        '<img src="http://example/badge.svg">',
        "@font-face { src: url('https://fonts.example/a.woff2') }",
        "@import 'https://fonts.example/css';",
    ],
)
def test_what_a_browser_would_load_from_another_host_is_noticed(page: str) -> None:
    assert foreign(page)


@pytest.mark.parametrize(
    "page",
    [
        '<a href="https://llvm.org">LLVM</a>',
        '<link rel="canonical" href="https://example/">',
        '<script src="_static/a.js"></script>',
        '<svg xmlns="http://www.w3.org/2000/svg"></svg>',
    ],
)
def test_a_link_that_a_reader_follows_loads_nothing(page: str) -> None:
    assert foreign(page) == []
