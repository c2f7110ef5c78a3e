"""`/changes`: the events that tell an open page to ask again for what it shows."""

from __future__ import annotations

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from bascule.console.site import PageRouter, console_of
from bascule.core import BasculeError, Unavailable

router = PageRouter()


@router.page("GET /changes", "read")
async def changes(request: Request) -> Response:
    """A stream of server-sent events; 204, after which browsers do not ask again, if it is full."""
    console = console_of(request)
    if not console.changes.has_room:
        return Response(status_code=204)

    def holds() -> bool:
        try:
            return console.sessions.find(request).allows("read", "")
        except BasculeError as error:  # without the catalogue there is nothing to tell
            return isinstance(error, Unavailable)

    seen = request.headers.get("last-event-id", "")
    return StreamingResponse(console.changes.stream(seen, holds), media_type="text/event-stream")
