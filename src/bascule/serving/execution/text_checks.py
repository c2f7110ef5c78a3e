"""Checks of texts: what matches, and what becomes of it. Pure.

Patterns are RE2 expressions and those of personal data are bounded, so that every check takes time
in proportion to the text. What looks like a number of a card or an account is one where its check
digits are right (Luhn 1960; ISO 13616). Data that takes judgement is left to `presidio`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from string import ascii_uppercase
from time import perf_counter_ns
from typing import Any, Literal

import msgspec

from bascule.core import MissingExtra, library
from bascule.serving.execution import presidio

Span = tuple[int, int, str]
"""Where a match begins and ends, and what is put in its place."""
Note = Callable[[str, str, int], None]
"""Takes the kind of a check, its action at its first match in a text or nothing, and its cost in
ns."""
_CONTEXT = 8
"""Characters before a piece that patterns may look at."""
_JUDGED_STEP = 256
_MAX_SCHEMA_BYTES = 32_768
_SLOW = re.compile(r'"(pattern|patternProperties|uniqueItems|\$ref|\$dynamicRef)"')


@dataclass(frozen=True, slots=True)
class TextCheck:
    """A check of prompts or of answers; it has one of the three criteria.

    Attributes:
        action: What becomes of a text that matches: "refuse" it; "redact" puts a mark in the place
            of the match; "flag" counts it alone.
        pattern: A regular expression of RE2.
        pii: Personal data: `email`, `iban`, `card`, `ip`; any other kind is found by Presidio.
        spacy_model: The package of the spaCy model with which Presidio finds names and places.
        json_schema: As JSON. A text that is not valid under it matches; of answers alone.
    """

    action: Literal["refuse", "redact", "flag"] = "refuse"
    pattern: str = ""
    pii: tuple[str, ...] = ()
    spacy_model: str = ""
    json_schema: str = ""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.pattern, self.pii, self.json_schema))) != 1:
            raise ValueError("has one of pattern, pii and json_schema")
        if self.spacy_model and not self.judged:
            raise ValueError("spacy_model: is for other kinds of pii")
        if self.judged:
            presidio.check_installed(self.judged, self.spacy_model)
        if self.pattern and _compiled(self.pattern).match(""):
            raise ValueError(f"pattern: {self.pattern!r} matches every text")
        if self.json_schema:
            if self.action == "redact":
                raise ValueError("json_schema: its action is refuse or flag")
            if schema_check(self.json_schema, is_trusted=True) is None:
                raise ValueError("json_schema: is no JSON schema")

    @property
    def kind(self) -> str:
        """Under which it is counted: pattern, pii, presidio or schema."""
        pii = "presidio" if self.judged else "pii" if self.pii else ""
        return "pattern" if self.pattern else pii or "schema"

    @property
    def judged(self) -> tuple[str, ...]:
        """Of the personal data, what Presidio finds."""
        return tuple(name for name in self.pii if name not in _PERSONAL)

    @property
    def said(self) -> str:
        """What matches, in words."""
        return ", ".join(self.pii) or f"a match of its {self.kind}"

    def spans(self, text: str, start: int = 0) -> Iterator[Span]:
        """Matches of patterns and personal data from `start` on."""
        if self.pattern:
            for match in _compiled(self.pattern).finditer(text, start):
                if match.end() > match.start():
                    yield match.start(), match.end(), "[removed]"
        for name in _PERSONAL.keys() & self.pii:
            yield from _personal(name, text, start)
        if self.judged:
            yield from presidio.find(text, start, self.judged, self.spacy_model)

    def is_met(self, text: str) -> bool:
        """Whether a whole text matches."""
        if self.json_schema:
            is_valid = schema_check(self.json_schema, is_trusted=True)
            return is_valid is not None and not is_valid(text)
        return next(self.spans(text), None) is not None


class TextFilter:
    """Takes one text, whole or in pieces, and gives what may be handed on.

    The last `hold` characters are held back until it is known that no match begins in them; all of
    an unfinished match is. Of a match that is longer than that, the beginning may be handed on.
    For Presidio 256 are held back, and it looks once there are 256 more.

    Attributes:
        spans: The checks that change or refuse a text by what matches in it.
        note: As given.
        refused_by: The check that refuses the text; None while there is none.
    """

    def __init__(self, checks: Sequence[TextCheck], hold: int, note: Note) -> None:
        self._whole = [check for check in checks if check.json_schema or check.action == "flag"]
        self.spans = [check for check in checks if check not in self._whole]
        holds_all = any(check.json_schema and check.action == "refuse" for check in checks)
        self._step = _JUDGED_STEP if any(check.judged for check in self.spans) else 0
        self._hold = sys.maxsize if holds_all else (self._step or hold) * bool(self.spans)
        self.note = note
        self._acted: set[TextCheck] = set()
        self._all: list[str] = []
        self._buffer, self._start = "", 0
        self.refused_by: TextCheck | None = None

    def feed(self, piece: str, *, is_last: bool) -> str:
        """What of the text so far may be handed on now, and was not before; nothing if refused."""
        self._buffer += piece
        if self._whole:
            self._all.append(piece)
        if is_last:
            text = "".join(self._all)
            for check in self._whole:
                began_ns = perf_counter_ns()
                self._noted(check, began_ns, matches=check.is_met(text))
        handed = self._released(is_last=is_last)
        return "" if self.refused_by is not None else handed

    def _released(self, *, is_last: bool) -> str:
        text, start = self._buffer, self._start
        if self._step and not is_last and len(text) - start < 2 * self._step:
            return ""
        end = len(text) if is_last else max(start, len(text) - self._hold)
        marks: list[Span] = []
        for check in self.spans:
            began_ns, matches = perf_counter_ns(), False
            for span in check.spans(text, start):
                if span[1] == len(text) and not is_last:
                    end = min(end, span[0])  # it may go on
                    continue
                matches = True
                marks.append(span)
            self._noted(check, began_ns, matches=matches)
        parts, at = [], start
        for first, last, mark in sorted(marks):
            if first >= end or last <= at:
                continue
            if last > end:
                end = max(first, at)
                break
            parts += [text[at:first], mark]
            at = last
        parts.append(text[at:end])
        kept = max(0, end - _CONTEXT)
        self._buffer, self._start = text[kept:], end - kept
        return "".join(parts)

    def _noted(self, check: TextCheck, began_ns: int, *, matches: bool) -> None:
        is_new = matches and check not in self._acted
        if is_new:
            self._acted.add(check)
        self.note(check.kind, check.action if is_new else "", perf_counter_ns() - began_ns)
        if matches and check.action == "refuse":
            self.refused_by = check


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    re2 = library("re2", "texts")
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as problem:
        raise ValueError(f"pattern: {pattern!r} is no expression of RE2: {problem}") from None


# -- personal data --

_PERSONAL = {
    "email": r"\b[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,8}",
    "iban": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b",
    "card": r"(?<![\w.])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}|\d{4}([ -])\d{6}\2\d{5})(?!\w)",
    "ip": (
        r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)|"
        r"(?:(?<![\w.:])|(?<=[g-zG-Z]:))[\da-fA-F]{0,4}(?::[\da-fA-F]{0,4}){2,7}(?![\w:]|\.\d)"
    ),
}


def _is_ip(text: str) -> bool:
    try:
        return not ip_address(text).is_unspecified
    except ValueError:
        return False


_DIGITS = {ord(letter): str(int(letter, 36)) for letter in ascii_uppercase}


def _is_iban(text: str) -> bool:
    compact = text.replace(" ", "")
    turned = (compact[4:] + compact[:4]).translate(_DIGITS)
    return 15 <= len(compact) <= 34 and int(turned) % 97 == 1


def _is_card(text: str) -> bool:
    digits = [int(c) for c in text if c.isdigit()][::-1]
    total = sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return len(digits) in (13, 14, 15, 16, 19) and digits[-1] in range(2, 7) and total % 10 == 0


_IS: Mapping[str, Callable[[str], bool]] = {
    "email": bool, "iban": _is_iban, "card": _is_card, "ip": _is_ip,
}  # fmt: skip


def _personal(name: str, text: str, start: int) -> Iterator[Span]:
    pattern = re.compile(_PERSONAL[name])
    while match := pattern.search(text, start):
        matched, start = match.group(), match.start() + 1
        for _ in range(3):  # words in capitals behind an account may have been taken for a part
            if _IS[name](matched):
                start = match.start() + len(matched)
                yield match.start(), start, f"[{name}]"
                break
            matched = matched[: max(matched.rfind(" "), 0)] if name == "iban" else ""


# -- JSON schemas --


@lru_cache(maxsize=64)
def schema_check(schema: str, *, is_trusted: bool) -> Callable[[str], bool] | None:
    """Whether a text is JSON that is valid under a schema; None where that cannot be said.

    References to other documents are not followed. One that is not trusted, as it comes with a
    request, has none of the keywords that may take long.
    """
    try:
        validators = library("jsonschema.validators", "texts")
    except MissingExtra:
        if is_trusted:
            raise
        return None
    try:
        read = msgspec.json.decode(schema)
        if not is_trusted and (len(schema) > _MAX_SCHEMA_BYTES or _SLOW.search(schema)):
            return None
        from referencing import Registry

        kind = validators.validator_for(read, default=validators.Draft202012Validator)
        kind.check_schema(read)
        validator = kind(read, registry=Registry())
    except Exception:  # of a library, about what a caller has sent
        return None

    def is_valid(text: str) -> bool:
        try:
            return bool(validator.is_valid(msgspec.json.decode(text)))
        except Exception:  # as above: no JSON, or deeper than the interpreter goes
            return False

    return is_valid
