"""The route that makes the catalogue be as a document says; see `bascule.configuring`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field

from bascule.control.api.rights import Authorise, caller_of

if TYPE_CHECKING:
    from bascule.batch import Places
    from bascule.configuring import Books


class Configuration(BaseModel):
    """What shall be, and why."""

    model_config = {"extra": "forbid"}

    document: Annotated[
        dict[str, Any], Field(description="version, endpoints, schedules, keys, silences")
    ]
    reason: Annotated[str, Field(max_length=4_096)] = ""
    dry_run: Annotated[bool, Field(description="Compare and check, and change nothing")] = False


class ChangeView(BaseModel):
    """One change."""

    place: Annotated[str, Field(description="Of the document: endpoints.late")]
    sentence: str


class AppliedView(BaseModel):
    """What was changed, or would be."""

    changes: list[ChangeView]
    applied: bool
    tokens: Annotated[
        dict[str, str], Field(description="Of new keys, by name; they are not shown again")
    ]


def add_configuration(
    app: FastAPI, open_books: Callable[..., Books], authorise: Authorise, places: Places | None
) -> None:
    """Add the route to `app`; jobs of its schedules are held to the places, unless it is None."""

    @app.put("/api/v1/configuration", tags=["configuration"])
    def configure(wanted: Configuration, request: Request, response: Response) -> AppliedView:
        """Change what differs from the document; the same document again changes nothing."""
        from bascule.configuring import apply, parse_document

        document = parse_document(wanted.document)
        books = open_books(partial(authorise, request, "approve"))
        made = apply(
            document, replace(books, places=places), by=caller_of(request).user,
            reason=wanted.reason, dry_run=wanted.dry_run, authorise=partial(authorise, request),
        )  # fmt: skip
        response.headers["Cache-Control"] = "no-store"
        return AppliedView.model_validate(made.to_json())
