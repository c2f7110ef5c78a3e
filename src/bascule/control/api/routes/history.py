"""The routes of the history: pages of acts, and an export."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import StreamingResponse

from bascule.control import operations as of_server
from bascule.control.api.conventions import Moment, Page, Paged, next_page
from bascule.control.api.rights import Authorise, serves
from bascule.control.history import Act, Asked, History, as_csv, as_json_lines
from bascule.core import Refused, Unauthenticated

if TYPE_CHECKING:
    from bascule.catalogue import Catalogue

_Name = Annotated[str, Query(max_length=256)]
_Form = Annotated[Literal["csv", "jsonl"], Query(alias="format")]


def asked_of(
    about: _Name = "",
    name: _Name = "",
    kind: _Name = "",
    by: _Name = "",
    since: Moment | None = None,
    until: Moment | None = None,
) -> Asked:
    """Read which part of the history a request asks for."""
    return Asked(about, name, kind, by, since, until)


Filtered = Annotated[Asked, Depends(asked_of)]


def sees_keys(request: Request, authorise: Authorise) -> bool:
    """Whether the caller sees acts on keys and sessions."""
    try:
        authorise(request, "keys", "")
    except (Refused, Unauthenticated):
        return False
    return True


def add_history(
    app: FastAPI, open_catalogue: Callable[[], Catalogue], authorise: Authorise
) -> None:
    """Add the routes to `app`."""
    book = History(open_catalogue)

    @serves(app, of_server.HISTORY)
    def history(asked: Filtered, paged: Paged, request: Request) -> Page[Act]:
        """What was done, the latest first; acts on keys and sessions for those with `keys`."""
        after = paged.number()
        found = book.page(
            asked, limit=paged.limit + 1, after=after, with_keys=sees_keys(request, authorise)
        )
        return next_page(found, paged, lambda one: one.id)

    @serves(
        app,
        of_server.EXPORT_HISTORY,
        response_class=StreamingResponse,
        responses={200: {"content": {"text/csv": {}, "application/jsonl": {}}}},
    )
    def export(asked: Filtered, request: Request, form: _Form = "csv") -> StreamingResponse:
        """The same as a file: a table for spreadsheets, or a JSON object a line."""
        acts = book.all(asked, with_keys=sees_keys(request, authorise))
        kind = "text/csv; charset=utf-8" if form == "csv" else "application/jsonl"
        content = as_csv(acts) if form == "csv" else as_json_lines(acts)
        named = {"Content-Disposition": f'attachment; filename="history.{form}"'}
        return StreamingResponse(content, media_type=kind, headers=named)

    @serves(
        app,
        of_server.EXPORT_CHAIN,
        response_class=StreamingResponse,
        responses={200: {"content": {"application/jsonl": {}}}},
    )
    def chain() -> StreamingResponse:
        """The audit chain, whole: its head, then an entry a line; `bascule audit verify` reads it.

        Values that may name a person come with the salt of their digest.
        """
        from bascule.catalogue import sealing

        lines = sealing.export(open_catalogue().read)
        whole = itertools.chain([next(lines)], lines)  # a catalogue that cannot be read is an error
        return StreamingResponse(whole, media_type="application/jsonl")
