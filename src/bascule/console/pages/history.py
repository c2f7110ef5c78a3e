"""`/history`: what was done, by whom, when and why; every filter is in the address."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated
from urllib.parse import quote, urlencode

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, StringConstraints

from bascule.console.calling import call
from bascule.console.flash import Flash
from bascule.console.forms import field
from bascule.console.paging import Pager
from bascule.console.session import Session, current
from bascule.console.site import PageRouter, context_of, form_of, render, see
from bascule.control import (
    OF_ADMINISTRATORS,
    Act,
    Approval,
    Asked,
    History,
    as_csv,
    as_json_lines,
    operations,
)  # fmt: skip
from bascule.core import Invalid, NotFound
from bascule.security import ANY

router = PageRouter()

PAGE = 50
_KINDS = {"csv": "text/csv; charset=utf-8", "jsonl": "application/jsonl"}
SUBJECTS = (
    "model", "endpoint", "alert", "silence", "schedule", "ledger", "key", "session", "sign_in_link",
)  # fmt: skip
_PAGES_OF = {"model": "/models/", "endpoint": "/endpoints/"}
_Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=256)]


class Filters(BaseModel):
    """What an address of these pages says; an empty filter is any."""

    about: _Text = ""
    name: _Text = ""
    kind: _Text = ""
    by: _Text = ""
    since: _Text = ""
    until: _Text = ""
    after: Annotated[int | None, Field(ge=1, lt=2**63)] = None
    format: Annotated[str, Field(max_length=16)] = "csv"

    @property
    def given(self) -> dict[str, str]:
        said = self.model_dump(exclude={"after", "format"})
        return {name: value for name, value in said.items() if value}

    @property
    def asked(self) -> Asked:
        """The same for `History`. Raises `Invalid`."""
        days = _moment("since", self.since), _moment("until", self.until, is_end=True)
        return Asked(self.about, self.name, self.kind, self.by, *days)


def more_of(acts: Sequence[Act], filters: Filters) -> str:
    """The address of the next page, from one act more than a page shows; empty on the last."""
    if len(acts) <= PAGE:
        return ""
    return f"/history?{urlencode({**filters.given, 'after': acts[PAGE - 1].id})}"


def path_of(act: Act) -> str:
    """The page of what an act is about; empty for none."""
    start = _PAGES_OF.get(act.about)
    return "" if start is None else start + quote(act.name, safe="")


@router.page("GET /history", "read", ANY)
def history(request: Request, filters: Annotated[Filters, Query()]) -> Response:
    """One page of it."""
    with_keys = _sees_keys(current(request))
    book, asked = _book(request), filters.asked
    acts = book.page(asked, limit=PAGE + 1, after=filters.after, with_keys=with_keys)
    return render(
        request, "history.html", "History", filters=filters, waiting=_waiting(request),
        lines=[(one, path_of(one)) for one in acts[:PAGE]],
        subjects=[one for one in SUBJECTS if with_keys or one not in OF_ADMINISTRATORS],
        pager=Pager(
            "" if filters.after is None else f"/history?{urlencode(filters.given)}",
            more_of(acts, filters),
        ),
        exports={
            name: f"/history/export?{urlencode({**filters.given, 'format': form})}"
            for name, form in (("CSV", "csv"), ("JSON lines", "jsonl"))
        },
    )  # fmt: skip


@router.page("POST /history/approvals/{approval}/{decision}", "approve")
async def decide(request: Request, approval: str, decision: str) -> Response:
    """Approve a request of another person, or decline it."""
    names, query = {"approval": approval, "decision": decision}, form_of(request)
    answer = await call(
        request, operations.DECIDE, names, query=urlencode({"reason": field(query, "reason")})
    )
    if answer.problem:
        return see(request, "/history", Flash("bad", answer.problem))
    state, problem = answer.body["state"], answer.body["outcome"].get("answer") or {}
    if state == "failed":
        return see(request, "/history", Flash("bad", f"It failed: {problem.get('detail', '')}"))
    return see(request, "/history", Flash("good", f"{answer.body['thing']}: {state}"))


def _waiting(request: Request) -> list[Approval]:
    now = datetime.now(UTC)
    with suppress(NotFound):
        every = context_of(request).approvals().list()
        return [one for one in every if one.state == "waiting" and one.ends_at > now]
    return []


@router.page("GET /history/export", "read", ANY)
def export(request: Request, filters: Annotated[Filters, Query()]) -> Response:
    """All of it as a file."""
    form = filters.format
    if form not in _KINDS:
        raise Invalid(f"format: {form!r} is no form of the history", hint="csv or jsonl")
    acts = _book(request).all(filters.asked, with_keys=_sees_keys(current(request)))
    lines = as_csv(acts) if form == "csv" else as_json_lines(acts)
    named = {"Content-Disposition": f'attachment; filename="history.{form}"'}
    return StreamingResponse(lines, media_type=_KINDS[form], headers=named)


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
