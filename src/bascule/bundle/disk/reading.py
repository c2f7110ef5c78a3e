"""Reads JSON that came with a bundle. One discipline for all of it.

No code reads a value of a document by its key unchecked. A document is parsed by `parse`, is given
a declared type by `shaped`, and remaining inconsistencies raise inside `reading`; each of them ends
in `Untrusted`, with the file's name. Types are declared as dataclasses and typed dictionaries, and
compared by msgspec, which takes no number for a text and no text for a number. A worker reads
bundles, so nothing else is imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from bascule.core import BasculeError, Untrusted

T = TypeVar("T")

_OF_SHAPE = (
    ArithmeticError, AttributeError, LookupError, NotImplementedError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip
"""What code raises that was handed something else than it was written for."""


def parse(data: bytes, file: str, *, what: str) -> Any:
    """The value of a JSON document.

    Args:
        data: Its bytes.
        file: What to call it.
        what: What it should be, for the message: `a manifest`.

    Raises:
        Untrusted: It is none, or holds what JSON has no word for.
    """
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
        # Half of a surrogate pair is no character: it can be shown nowhere, and written nowhere.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise Untrusted(f"{file} is not {what}: it is not JSON", file=file) from None
    return value


def shaped(value: Any, kind: type[T], file: str, *, what: str) -> T:
    """The value as a `kind`, all the way down.

    Args:
        value: From `parse`.
        kind: A dataclass, a typed dictionary, or anything else that msgspec knows.
        file: What the document is called.
        what: What it should be, for the message.

    Raises:
        Untrusted: It is something else; the message names the place.
    """
    try:
        return msgspec.convert(value, kind, str_keys=True)
    except (msgspec.ValidationError, *_OF_SHAPE) as problem:
        said = " ".join(str(problem).split())
        raise Untrusted(f"{file} cannot be read as {what}: {said}", file=file) from None


@contextmanager
def reading(file: str, *, what: str, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Raises `Untrusted` for any exception of code that uses a document, and those of `also`."""
    caught: tuple[type[Exception], ...] = (*_OF_SHAPE, *also, BasculeError)
    try:
        yield
    except caught as problem:
        if isinstance(problem, BasculeError) and not isinstance(problem, also):
            raise
        said = " ".join(str(problem).split())
        raise Untrusted(f"{file} cannot be read as {what}: {said}", file=file) from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")
