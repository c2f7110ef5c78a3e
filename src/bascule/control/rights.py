"""Who may do what through the control API. One door: every route asks here.

Where callers need keys, `RIGHTS` says what each route asks for, before a byte of the body is read,
and what changes something asks again, for the model that it turns out to be about. Where they need
none, what changes something is for this machine alone: the caller's address and the name that it
knows the server by must be those of the loopback, and a page of a browser that came from elsewhere
is refused, whatever its address.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from bascule.core import Refused, TooLarge
from bascule.security import ANY, Action
from bascule.serving.transports import Authenticator, host_of, is_loopback

Authorise = Callable[[Request, Action, str], None]
"""Raises `Refused` unless the caller of a request may do this to a model (`*`: to all)."""

RIGHTS: Mapping[str, tuple[Action, str] | None] = {
    "GET /docs": None,
    "GET /docs/oauth2-redirect": None,
    "GET /redoc": None,
    "GET /health": ("health", ""),
    "GET /metrics": ("metrics", ""),
    "GET /api/v1/server": ("read", ANY),
    "GET /api/v1/server/load": ("read", ANY),
    "GET /api/v1/server/services": ("read", ANY),
    "POST /api/v1/server/services": ("manage", ""),  # of which model is in the body: asked then
    "DELETE /api/v1/server/services/{model}": ("manage", "{model}"),
    "POST /v2/repository/index": ("read", ANY),
    "POST /v2/repository/models/{model}/load": ("manage", "{model}"),
    "POST /v2/repository/models/{model}/unload": ("manage", "{model}"),
    "GET /api/v1/models": ("read", ANY),
    "GET /api/v1/models/{model}/versions": ("read", "{model}"),
    "GET /api/v1/models/{model}/versions/{number}/statements": ("read", "{model}"),
    "GET /api/v1/models/{model}/history": ("read", "{model}"),
}
"""What a caller must be allowed, by route: the action, and to which model. What names all models
asks for the right to all. The pages that explain the API need nothing, for they tell nothing of
what is here; a route that is not here opens for nobody."""

MAX_BODY_BYTES = 1 << 20
"""No route needs more than a few names and a path."""

bearer = HTTPBearer(auto_error=False, description="A key of `bascule keys create`.")
"""A dependency that describes the key; what lets callers in is the class of the routes."""


def route_of(guard: Authenticator | None) -> type[APIRoute]:
    """The class of the routes: the key first, by `RIGHTS`, then a body of bounded size."""
    authorise = None if guard is None else by_key(guard)

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                right = RIGHTS[f"{request.method} {self.path}"]
                if authorise is not None and right is not None:
                    action, model = right
                    authorise(request, action, model.format(**request.path_params))
                length = request.headers.get("content-length", "0")
                if length.isdecimal() and int(length) > MAX_BODY_BYTES:
                    raise TooLarge(_TOO_LARGE)
                return await handle(_BoundedRequest(request.scope, request.receive))

            return guarded

    return GuardedRoute


class _BoundedRequest(Request):
    async def stream(self) -> AsyncGenerator[bytes, None]:
        size = 0
        async for piece in super().stream():
            size += len(piece)
            if size > MAX_BODY_BYTES:
                # Of Starlette's own kind, which is not taken for a body that cannot be parsed.
                raise HTTPException(413, _TOO_LARGE)
            yield piece


_TOO_LARGE = f"the body is over {MAX_BODY_BYTES:,} bytes, the most that the control API takes"


def by_key(guard: Authenticator) -> Authorise:
    """Lets in who has a key that allows it; see `Authorise`."""

    def authorise(request: Request, action: Action, model: str) -> None:
        guard.look()
        guard.check(request.headers.get("authorization", "").encode(), action, model)

    return authorise


def loopback_only(request: Request, action: Action, model: str) -> None:
    """Refuse whoever is not on this machine; see `Authorise`."""
    caller = request.client.host if request.client else ""
    origin = request.headers.get("origin")
    named = request.headers.getlist("host")
    if origin is not None:
        named.append(origin.partition("://")[2])
    if not is_loopback(caller) or not all(is_loopback(host_of(one) or "") for one in named):
        raise Refused(
            f"{action} {model or 'models'}: only from this machine, by a loopback address",
            hint="run the command where the server runs",
        )
