"""`/changes`: the events that tell an open page to ask again for what it shows."""

from __future__ import annotations

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from bascule.console.site import console_of, page_router

router = page_router({"GET /changes": ("read", "")})


@router.get("/changes")
async def changes(request: Request) -> Response:
    """A stream of server-sent events; 204, after which browsers do not ask again, if it is full."""
    found = console_of(request).changes
    if not found.has_room:
        return Response(status_code=204)
    seen = request.headers.get("last-event-id", "")
    return StreamingResponse(found.stream(seen), media_type="text/event-stream")
