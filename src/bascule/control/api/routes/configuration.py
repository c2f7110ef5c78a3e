"""The route that makes the catalogue be as a document says; see `bascule.configuring`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Request, Response
from pydantic import Field

from bascule.configuring import Applied, operations as of_configuration
from bascule.control.api.conventions import Taken
from bascule.control.api.rights import Authorise, caller_of, serves

if TYPE_CHECKING:
    from bascule.batch import Places
    from bascule.configuring import Books


class Configuration(Taken):
    """What shall be, and why."""

    document: Annotated[
        dict[str, Any], Field(description="version, endpoints, schedules, keys, silences")
    ]
    reason: Annotated[str, Field(max_length=4_096)] = ""
    dry_run: Annotated[bool, Field(description="Compare and check, and change nothing")] = False


def add_configuration(
    app: FastAPI, open_books: Callable[..., Books], authorise: Authorise, places: Places | None
) -> None:
    """Add the route to `app`; jobs of its schedules are held to the places, unless it is None."""

    @serves(app, of_configuration.CONFIGURE)
    def configure(wanted: Configuration, request: Request, response: Response) -> Applied:
        """Change what differs from the document; the same document again changes nothing."""
        from bascule.configuring import apply, parse_document

        document = parse_document(wanted.document)
        books = open_books(partial(authorise, request, "approve"))
        made = apply(
            document, replace(books, places=places), by=caller_of(request).user,
            reason=wanted.reason, dry_run=wanted.dry_run, authorise=partial(authorise, request),
        )  # fmt: skip
        response.headers["Cache-Control"] = "no-store"
        return made
