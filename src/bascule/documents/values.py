"""What documents are made of: sections of blocks, without any markup.

A statement with its source is a `Quote`; evidence is named by its digest, as `code`; units stand in
the headings of a table; a table without rows says why in its place (`empty`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Span:
    """Words of a line that stand out.

    Attributes:
        text: The words.
        style: `strong`; `code` for commands, names and digests; `good` or `bad` for a verdict.
    """

    text: str
    style: Literal["strong", "code", "good", "bad"]


Line = str | Span | tuple[str | Span, ...]
"""The text of a paragraph, an item or a cell: runs of white space in it are one space."""


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: Line


@dataclass(frozen=True, slots=True)
class Quote:
    """Words of a source, which were not measured; their lines are kept."""

    text: str
    by: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of short sentences; with `is_open`, of questions to tick off."""

    items: tuple[Line, ...]
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings.

    Attributes:
        heads: The headings; all empty for a table of names and values.
        rows: As many cells in each as there are headings; the first names the row.
        numbers: The headings of columns that are set to the right.
        empty: The sentence in place of a table without rows; without it nothing is shown.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[Line, ...], ...]
    numbers: tuple[str, ...] = ()
    empty: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """The few figures that a reader asks for first: what they are, their values, and notes."""

    items: tuple[tuple[str, Line] | tuple[str, Line, str], ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """A chart with its words. Formats of letters show the words alone.

    Attributes:
        title: What it is.
        caption: How to read it, with its figures.
        svg: The chart, whose texts are escaped; of `bascule.charts`.
        section: The title of the section in which it stands, where plots come apart from it.
    """

    title: str
    caption: str
    svg: str
    section: str = ""


@dataclass(frozen=True, slots=True)
class Plots:
    """Charts side by side; with `are_small`, more of them in a row."""

    plots: tuple[Plot, ...]
    are_small: bool = False


Block = Text | Quote | Bullets | Table | Figures | Plots


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A page.

    Attributes:
        title: Its heading.
        sections: In order. Sections without a block are not shown.
        lead: What stands before the first section.
    """

    title: str
    sections: tuple[Section, ...] = ()
    lead: tuple[Block, ...] = ()

    @property
    def shown(self) -> tuple[Section, ...]:
        """The sections that have a block."""
        return tuple(section for section in self.sections if section.blocks)


def strong(text: str) -> Span:
    return Span(text, "strong")


def code(text: str) -> Span:
    return Span(text, "code")


def verdict(passed: object) -> Span:
    """`passed` or `failed`."""
    return Span("passed", "good") if passed else Span("failed", "bad")


def spans(line: Line) -> Sequence[str | Span]:
    """The parts of a line."""
    return line if isinstance(line, tuple) else (line,)


def words(line: Line) -> str:
    """A line without its styles."""
    return "".join(part if isinstance(part, str) else part.text for part in spans(line))
