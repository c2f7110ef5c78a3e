"""`/history`: what was done, by whom, when and why; every filter is in the address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated
from urllib.parse import quote, urlencode

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse

from bascule.console.session import Session, current
from bascule.console.site import context_of, page_router, render
from bascule.control import OF_ADMINISTRATORS, Act, Asked, History, as_csv, as_json_lines
from bascule.core import Invalid, NotFound
from bascule.security import ANY

router = page_router({
    "GET /history": ("read", ANY),
    "GET /history/export": ("read", ANY),
})  # fmt: skip

PAGE = 50
_KINDS = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl"}
SUBJECTS = (
    "model",
    "endpoint",
    "alert",
    "silence",
    "schedule",
    "ledger",
    "key",
    "session",
    "sign_in_link",
)
_PAGES_OF = {"model": "/models/", "endpoint": "/endpoints/"}
_Text = Annotated[str, Query(max_length=256)]
_Id = Annotated[int | None, Query(ge=1, lt=2**63)]


@dataclass(frozen=True, slots=True)
class Line:
    """One act, and the page of what it is about; empty for none."""

    act: Act
    path: str


@dataclass(frozen=True, slots=True)
class HistoryView:
    """What the page shows.

    Attributes:
        lines: The latest first.
        filters: As they are in the address.
        subjects: What the person may choose from.
        more: The address of the next page; empty on the last.
        exports: Addresses of the same as files, by their names.
        is_first: Whether it is the first page.
    """

    lines: Sequence[Line]
    filters: Mapping[str, str]
    subjects: Sequence[str]
    more: str
    exports: Mapping[str, str]
    is_first: bool

    @property
    def is_filtered(self) -> bool:
        return any(self.filters.values())


def history_view(
    acts: Sequence[Act], filters: Mapping[str, str], *, with_keys: bool, is_first: bool
) -> HistoryView:
    """The page, from one act more than it shows. Pure."""
    shown = acts[:PAGE]
    given = {name: value for name, value in filters.items() if value}
    more = ""
    if len(acts) > len(shown):
        more = f"/history?{urlencode({**given, 'after': shown[-1].id})}"
    lines = [
        Line(one, _PAGES_OF[one.about] + quote(one.name, safe="") if one.about in _PAGES_OF else "")
        for one in shown
    ]
    exports = {
        name: f"/history/export?{urlencode({**given, 'format': form})}"
        for name, form in (("CSV", "csv"), ("JSON lines", "jsonl"))
    }
    subjects = [one for one in SUBJECTS if with_keys or one not in OF_ADMINISTRATORS]
    return HistoryView(lines, filters, subjects, more, exports, is_first)


@router.get("/history")
def history(
    request: Request,
    about: _Text = "",
    name: _Text = "",
    kind: _Text = "",
    by: _Text = "",
    since: _Text = "",
    until: _Text = "",
    after: _Id = None,
) -> Response:
    """One page of it."""
    filters = _filters(about, name, kind, by, since, until)
    with_keys = _sees_keys(current(request))
    acts = _book(request).page(_asked(filters), limit=PAGE + 1, after=after, with_keys=with_keys)
    view = history_view(acts, filters, with_keys=with_keys, is_first=after is None)
    return render(request, "history.html", view, title="History")


@router.get("/history/export")
def export(
    request: Request,
    about: _Text = "",
    name: _Text = "",
    kind: _Text = "",
    by: _Text = "",
    since: _Text = "",
    until: _Text = "",
    form: Annotated[str, Query(alias="format", max_length=16)] = "csv",
) -> Response:
    """All of it as a file."""
    if form not in _KINDS:
        raise Invalid(f"format: {form!r} is no form of the history", hint="csv or jsonl")
    asked = _asked(_filters(about, name, kind, by, since, until))
    acts = _book(request).all(asked, with_keys=_sees_keys(current(request)))
    lines = as_csv(acts) if form == "csv" else as_json_lines(acts)
    named = {"Content-Disposition": f'attachment; filename="history.{form}"'}
    return StreamingResponse(lines, media_type=_KINDS[form], headers=named)


def _filters(
    about: str, name: str, kind: str, by: str, since: str, until: str
) -> Mapping[str, str]:
    said = {
        "about": about, "name": name, "kind": kind, "by": by, "since": since, "until": until
    }  # fmt: skip
    return {name: value.strip() for name, value in said.items()}


def _asked(filters: Mapping[str, str]) -> Asked:
    return Asked(
        filters["about"], filters["name"], filters["kind"], filters["by"],
        _moment("since", filters["since"]), _moment("until", filters["until"], is_end=True),
    )  # fmt: skip


def _moment(name: str, said: str, *, is_end: bool = False) -> datetime | None:
    """The start of a UTC day, or the end of it."""
    if not said:
        return None
    try:
        day = date.fromisoformat(said)
        return datetime.combine(day + timedelta(days=1 if is_end else 0), time(), UTC)
    except (ValueError, OverflowError):
        raise Invalid(f"{name}: {said!r} is no day", hint="write for example 2026-05-31") from None


def _sees_keys(session: Session) -> bool:
    return session.allows("keys", "")


def _book(request: Request) -> History:
    open_catalogue = context_of(request).catalogue
    if open_catalogue is None:
        raise NotFound("this server keeps no history", hint="run bascule control")
    return History(open_catalogue)
