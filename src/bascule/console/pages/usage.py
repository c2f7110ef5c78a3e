"""`/usage`: requests, rows, errors and cost by caller, model or project, and the same as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Depends, Request, Response

from bascule.charts import Svg, sparkline
from bascule.console.session import current
from bascule.console.site import PageRouter, context_of, render
from bascule.control import usage_asked
from bascule.monitoring import UsageAsked
from bascule.monitoring.ledger import Usage, UsageLine

router = PageRouter()

_SHOWN = 100


@router.page("GET /usage", "read")
def usage(request: Request, asked: Annotated[UsageAsked, Depends(usage_asked)]) -> Response:
    """The page."""
    context, session = context_of(request), current(request)
    read = context.usage(asked, lambda model: session.allows("read", model))
    shown = read.lines[:_SHOWN]
    return render(
        request, "usage.html", "Usage", usage=read, asked=asked, more=len(read.lines) - len(shown),
        projects=list(context.parts.usage.projects),
        lines=list(zip(shown, trends_of(read, shown), strict=True)),
        export=f"/api/v1/usage/export?{urlencode(asked._asdict())}",
    )  # fmt: skip


def trends_of(usage: Usage, lines: Sequence[UsageLine]) -> list[Svg]:
    """Requests of each line by day, 0 on days without any. Pure."""
    requests = {(one.id, one.day): one.requests for one in usage.days}
    days = [usage.since + timedelta(at) for at in range((usage.until - usage.since).days + 1)]
    return [
        sparkline((requests.get((one.id, day), 0) for day in days), f"Requests of {one.name}")
        for one in lines
    ]
