"""One document in every format: what it says stays, and no text of it becomes markup."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, strategies as st
from markdown_it import MarkdownIt

from bascule.charts import within
from bascule.core import printable
from bascule.documents import (
    Bullets,
    Document,
    Figures,
    Plot,
    Plots,
    Quote,
    Section,
    Table,
    Text,
    bars,
    code,
    fragment,
    lettered,
    markdown,
    notebook,
    page,
    section_json,
    strong,
    verdict,
)

DIGEST = "sha256:" + "4f" * 32
STATEMENT = Document(
    "Technical documentation of late/4",
    (
        Section("1 Intended purpose", (Quote("Estimates delays.\nNo other use.", "ada"),)),
        Section(
            "2 Performance",
            (
                Text(("Measured by ", code("bascule check"), ", recorded as ", code(DIGEST), ".")),
                Table(
                    ("metric", "value", "unit", "verdict"),
                    (("rmse", "4.2", "min", verdict(True)), ("bias", "9", "min", verdict(False))),
                    ("value",),
                ),
            ),
        ),
        Section("3 Incidents", (Table(("when", "what"), (), empty="Not known: no ledger."),)),
        Section("4 Not applicable", ()),
        Section("5 Open", (Bullets(("Who signs?",), is_open=True),)),
    ),
    lead=(Figures((("gates", verdict(False)), ("rows", "400", "held out"))),),
)


def test_a_document_is_the_same_in_every_format():
    assert (
        markdown(STATEMENT)
        == f"""# Technical documentation of late/4

- gates: **failed**
- rows: 400

## 1 Intended purpose

> Estimates delays.
> No other use.
>
> ada

## 2 Performance

Measured by `bascule check`, recorded as `{DIGEST}`.

| metric | value | unit | verdict |
|---|---:|---|---|
| rmse | 4.2 | min | passed |
| bias | 9 | min | **failed** |

## 3 Incidents

Not known: no ledger.

## 5 Open

- [ ] Who signs?
"""
    )
    text = page(STATEMENT)
    assert '<section id="2-performance">\n<h2>2 Performance</h2>' in text
    assert f"recorded as <code>{DIGEST}</code>.</p>" in text
    assert '<tr><th scope="row">bias</th><td class="number">9</td><td>min</td>' in text
    assert '<td><span class="badge bad">failed</span></td>' in text
    assert "<dt>rows</dt><dd>400</dd>" in text
    assert "Not applicable" not in text
    performance = section_json(STATEMENT.sections[1])
    assert performance["blocks"][1]["rows"][1] == ["bias", "9", "min", "failed"]
    shown = lettered(STATEMENT.sections[1].blocks)
    assert f"recorded as {DIGEST}." in shown
    assert re.search(r"bias +9 +min +FAILED$", shown, re.M)


def test_a_table_of_letters_folds_long_cells_to_its_width():
    shown = lettered([Table(("what", "n"), (("x" * 200, "1"),), ("n",))], width=60)
    assert max(map(len, shown.splitlines())) <= 60
    assert shown.count("x") == 200


@pytest.mark.parametrize(
    ("values", "low", "shown"),
    [
        ([1, 2, 3], None, "▁▅█"), ([2, 2], None, "▁▁"), ([], None, ""),
        ([0, float("nan"), 1], None, "▁ █"), ([50.0, 100.0], 0.0, "▅█"), ([0.0, 0.0], 0.0, "▁▁"),
    ],
)  # fmt: skip
def test_bars_go_from_the_least_or_from_a_bound_to_the_largest(values, low, shown):
    assert bars(values, low=low) == shown


# -- no text becomes markup --


ATTACKS = [
    "<script>alert(1)</script>", "a | b", "[a](http://x)", "![a](http://x)", "`a`", "``", "*a*",
    "__a__", "_a_", "~~a~~", "# a", "- a", "1. a", "1) a", "> a", "---", "===", "+ a", "&lt;",
    "\\|", "\\", "<http://x>", "[a]: http://x", "a\n\n# b", "\x1b[2J", "\u202ea", "| - |",
    "- [ ] a", "a\\", "```\na", "    a", "a  \nb", "&#35; a", "a_b_c", "** a **", "*", "'\"",
]  # fmt: skip
texts = st.one_of(st.text(max_size=30), st.text("`*_[]()<>|\\#-+=~&!1.) \nab", max_size=12))
READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def words(text):
    return " ".join(printable(text).split())


def read(markdown_text):
    """The text of every paragraph, cell and heading, and the kinds of markup beside them."""
    tokens = READER.parse(markdown_text)
    inline = [token for token in tokens if token.type == "inline"]
    kinds = {child.type for token in inline for child in token.children}
    shown = ["".join(child.content for child in token.children) for token in inline]
    return shown, kinds, {token.type for token in tokens if token.type.endswith("_open")}


def check_markdown(text):
    if not text.split():
        return
    document = Document("t", (Section("s", (Text(text),)),))
    shown, kinds, blocks = read(markdown(document))
    assert shown == ["t", "s", words(text)]
    assert kinds <= {"text", "text_special"}
    assert blocks == {"heading_open", "paragraph_open"}
    shown, kinds, blocks = read(markdown(Document("t", lead=(Bullets((text,)),))))
    assert shown == ["t", words(text)]
    assert blocks == {"heading_open", "bullet_list_open", "list_item_open", "paragraph_open"}
    table = Table(("a", "b"), ((text, strong("b")),))
    shown, kinds, _ = read(markdown(Document("t", lead=(table,))))
    assert shown == ["t", "a", "b", words(text), "b"]
    assert kinds <= {"text", "text_special", "strong_open", "strong_close"}
    shown, kinds, _ = read(markdown(Document("t", lead=(Text(("a ", code(text), " b")),))))
    assert " ".join(shown[1].split()) == words(f"a {text} b")


@pytest.mark.parametrize("text", ATTACKS)
def test_a_text_is_no_markup_in_markdown(text):
    check_markdown(text)


@given(texts)
def test_no_text_is_markup_in_markdown(text):
    check_markdown(text)


class _Texts(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert dict(attrs).keys() <= {"class", "scope", "role", "aria-label", "tabindex"}

    def handle_data(self, data):
        self.texts.append(data)


@given(texts)
def test_no_text_is_markup_in_html(text):
    blocks = [Text(text), Table((text,), ((code(text),),)), Quote(text, text), Bullets((text,))]
    reader = _Texts()
    reader.feed(fragment(blocks))
    assert set(reader.tags) == {
        "p", "div", "table", "tbody", "tr", "th", "code", "blockquote", "footer", "ul", "li",
    } | ({"thead"} if text else set())  # fmt: skip
    assert printable(text) in html.unescape(fragment([Text(text)]))


@given(texts)
def test_no_text_moves_the_cursor(text):
    blocks = [Text(text), Table((text, "b"), ((text, "b"),)), Bullets((text,)), Quote(text, text)]
    assert re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", lettered(blocks)) is None


# -- notebooks --


def plots(name, caption=""):
    return Plots((Plot(name, caption, within([("onnx", 1e-9, 1e-6)], "Parity")),))


def test_a_chart_of_a_notebook_needs_no_page_around_it():
    shown = notebook(Text("a"), plots("Parity <b>", "of & for"))
    assert shown.count("<svg") == 1
    assert "Parity &lt;b&gt;" in shown
    assert "of &amp; for" in shown
    assert not any(word in shown for word in ("<script", "http://", "https://", "onload"))


def test_the_colours_touch_nothing_else_of_the_notebook():
    style = notebook(plots("x")).split("<style>")[1].split("</style>")[0]
    rules = [one.split("{")[0] for one in style.replace("\n", " ").split("}") if "{" in one]
    names = [name.strip() for rule in rules for name in rule.split(",") if "@media" not in rule]
    assert all(one.startswith(".bascule .plots") for one in names), names


def test_without_a_chart_a_notebook_gets_no_style():
    assert "<style" not in notebook(Text("a"))


def test_json_is_text_alone():
    blocks = (Text((strong("a"), " b")), Bullets((code("c"),)), Quote("d", "e"), plots("x"))
    told = json.loads(json.dumps(section_json(Section("s", blocks))))
    assert told["blocks"][0] == {"kind": "text", "text": "a b"}
    assert told["blocks"][1] == {"kind": "bullets", "items": ["c"]}
    assert "svg" not in str(told)
