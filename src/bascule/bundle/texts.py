"""How texts are prepared for a program whose graph counts words.

Cutting a text into words and counting them is done in the graph. What comes before differs between
languages of programming (there are fourteen hundred capital letters, and some become two
characters), so it is done here as scikit-learn does it, in Python, and handed to the graph as one
more input.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from bascule.core import DType, Field, Untrusted

_SPACES = re.compile(r"\s\s+")


def _without_accents(text: str) -> str:
    if text.isascii():
        return text
    apart = unicodedata.normalize("NFKD", text)
    return "".join(part for part in apart if not unicodedata.combining(part))


def _as_ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")


STEPS: Mapping[str, Callable[[str], str]] = {
    "lower": str.lower,
    "strip_accents_unicode": _without_accents,
    "strip_accents_ascii": _as_ascii,
    "single_spaces": partial(_SPACES.sub, " "),
}
"""What may be done to a text, by name; scikit-learn's own, step by step."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One more input of a graph, made from a text column.

    Attributes:
        name: What the graph calls it.
        column: The input that it is made from.
        steps: Names in `STEPS`, in order.
    """

    name: str
    column: str
    steps: tuple[str, ...]

    @property
    def field(self) -> Field:
        return Field(self.name, DType.BYTES)


@dataclass(frozen=True, slots=True)
class Texts:
    """What a graph that counts words needs.

    Attributes:
        prepared: Its inputs beside the columns.
        rows_at_once: The most rows of one run: a row becomes as many numbers as there are words.
    """

    prepared: tuple[Prepared, ...]
    rows_at_once: int

    def __post_init__(self) -> None:
        """Refuse what a manifest may say and this version cannot do; raises `Untrusted`."""
        strange = {step for one in self.prepared for step in one.steps} - STEPS.keys()
        if strange or self.rows_at_once < 1:
            raise Untrusted(
                f"the manifest prepares texts by {', '.join(sorted(strange)) or 'no rows'}, which "
                "this version cannot",
                hint="update bascule",
                file="bundle.json",
            )
