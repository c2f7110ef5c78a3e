"""Reads the form of a request: fields as texts, bounded."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from fastapi import Request

from bascule.core import Invalid, TooLarge

MAX_FORM_BYTES = 1 << 20
_MAX_FIELDS = 1_000
_URLENCODED = "application/x-www-form-urlencoded"


def is_form(request: Request) -> bool:
    """Whether the body is a form, and no file."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == _URLENCODED


async def read_form(request: Request, *, max_bytes: int = MAX_FORM_BYTES) -> Mapping[str, str]:
    """The fields of a form; of a field that is there twice, the last value.

    Raises:
        Invalid: The body is no form.
        TooLarge: It is over `max_bytes`.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise TooLarge(f"the form is over {max_bytes:,} bytes, the most that this page takes")
    if not body:
        return {}
    if not is_form(request):
        raise Invalid("content-type: the body is no form", hint=f"send {_URLENCODED}")
    try:
        text = body.decode("utf-8")
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:
        raise Invalid("the form cannot be read", hint="send it from the page") from None


def field(form: Mapping[str, str], name: str, *, max_length: int = 4_096) -> str:
    """A field without spaces around it; empty if it is absent. Raises `Invalid` if too long."""
    value = form.get(name, "").strip()
    if len(value) > max_length:
        raise Invalid(f"{name}: {len(value):,} letters are over {max_length:,}")
    return value
