"""Texts of callers and servers as a terminal may have them."""

from __future__ import annotations

import re

# C0, DEL, C1 and lone surrogates; marks that reverse the order of what follows; ends of lines that
# not every reader takes for one. A carriage return before a line feed is the end of a line.
_UNPRINTABLE = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)"
)


def counted(count: float, noun: str) -> str:
    """A number with its noun: `1 row`, `1,234 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    r"""The text with what could move the cursor, hide or reorder text as escapes: `\x1b[2J`."""
    return _UNPRINTABLE.sub(lambda character: ascii(character[0])[1:-1], text)
