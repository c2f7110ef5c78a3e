"""The routes about usage by caller, model or project: figures, and a table of them."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, FastAPI, Query, Request, Response

from bascule.control.api.rights import serves
from bascule.core import Refused
from bascule.monitoring import UsageAsked, as_csv
from bascule.monitoring.ledger import By, Usage, operations as of_ledger

if TYPE_CHECKING:
    from bascule.control.api.context import ControlContext

_Day = Annotated[date | None, Query(description="A UTC day")]


def usage_asked(
    by: By = "caller",
    since: _Day = None,
    until: _Day = None,
    project: Annotated[str, Query(max_length=128)] = "",
) -> UsageAsked:
    """Read which usage a request asks for."""
    return UsageAsked.of(by, since, until, project)


Asked = Annotated[UsageAsked, Depends(usage_asked)]


def add_usage(app: FastAPI, context: ControlContext) -> None:
    """Add the routes to `app`."""

    def read(request: Request, asked: UsageAsked) -> Usage:
        def sees(model: str) -> bool:
            try:
                context.authorise(request, "read", model)
            except Refused:
                return False
            return True

        return context.usage(asked, sees)

    @serves(app, of_ledger.USAGE)
    def usage(asked: Asked, request: Request) -> Usage:
        """Requests, rows, errors and cost of the models that the caller may read."""
        return read(request, asked)

    @serves(app, of_ledger.EXPORT_USAGE, responses={200: {"content": {"text/csv": {}}}})
    def export(asked: Asked, request: Request) -> Response:
        """The same by day, as a table for spreadsheets."""
        name = f"usage-by-{asked.by}-{asked.since}-{asked.until}.csv"
        named = {"Content-Disposition": f'attachment; filename="{name}"'}
        table = "".join(as_csv(read(request, asked)))
        return Response(table, media_type="text/csv", headers=named)
