"""A person in texts, JSON and bytes: where the value of a field stands, and what replaces it. Pure.

A short number stands in many places by chance. So a value that is not distinctive is looked for in
columns and JSON members of its field alone, and no free text is changed for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from bascule.core import Invalid
from bascule.monitoring.ledger import text_of

ERASED = "(erased)"
_LEAST_LETTERS, _LEAST_DIGITS, _MOST_LETTERS = 6, 9, 1_024


class Person:
    """The person whose `field` is `text`."""

    def __init__(self, field: str, text: str) -> None:
        """Raises `Invalid` for an empty or very long value."""
        if not field or not 0 < len(text) <= _MOST_LETTERS or text == ERASED:
            raise Invalid(
                "a subject is the value of a field, of 1 to 1,024 characters",
                hint="bascule erase SUBJECT --field customer_id",
            )
        self.field, self.text = field, text

    @property
    def is_distinctive(self) -> bool:
        """Whether the value alone, in any text, means this person."""
        least = _LEAST_DIGITS if self.text.isdigit() else _LEAST_LETTERS
        return len(self.text) >= least

    @cached_property
    def spellings(self) -> tuple[str, ...]:
        """The value as it is, and as JSON of ASCII letters has it, also as a text in JSON."""
        once = json.dumps(self.text)[1:-1]
        return tuple(dict.fromkeys((self.text, once, json.dumps(once)[1:-1])))

    @cached_property
    def _in_text(self) -> re.Pattern[str]:
        # In JSON, an escape is before it. Looked for behind each word, which is found fast.
        begins = r"(?:(?<![0-9A-Za-z_])|(?<=\\[bfnrt])|(?<=\\u[0-9A-Fa-f]{4}))"
        words = "|".join(f"{word}(?<={begins}{word})" for word in map(re.escape, self.spellings))
        return re.compile(rf"(?:{words})(?![0-9A-Za-z_])")

    @cached_property
    def in_bytes(self) -> re.Pattern[bytes]:
        """Finds the value in a file."""
        return re.compile(self._in_text.pattern.encode())

    def is_in(self, data: bytes) -> bool:
        """Whether bytes hold the value, if it alone means this person."""
        return self.is_distinctive and self.in_bytes.search(data) is not None

    def redacted(self, text: str) -> str:
        """A text without the value."""
        return self._in_text.sub(ERASED, text) if self.is_distinctive else text

    def without(self, value: Any) -> Any:
        """A JSON value without the value: that of a member of the field, and in texts."""
        if isinstance(value, str):
            return self.redacted(value)
        if isinstance(value, Mapping):
            return {
                self.redacted(key): ERASED if self.is_value(key, member) else self.without(member)
                for key, member in value.items()
            }
        return [self.without(member) for member in value] if isinstance(value, list) else value

    def is_value(self, name: str, value: Any) -> bool:
        """Whether a member or column of this name, with this value, is the person."""
        is_plain = isinstance(value, str | int | float)
        return name == self.field and is_plain and text_of(value) == self.text
