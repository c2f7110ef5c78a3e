"""Who may do what through the control API. One door: every route asks here.

Where callers need keys, `RIGHTS` says what each route asks for, and what changes something asks
again, for the model that it turns out to be about. Where they need none, what changes something is
for this machine alone: the caller's address and the name that it knows the server by must be those
of the loopback, and a page of a browser that came from elsewhere is refused, whatever its address.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from bascule.core.errors import Refused
from bascule.security.keys import ANY, Action
from bascule.serving import Guard
from bascule.serving.hosts import host_of, is_loopback

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

_bearer = HTTPBearer(auto_error=False, description="A key of `bascule keys create`.")


def let_in(guard: Guard) -> Callable[..., None]:
    """A dependency of every route: the caller has a key that `RIGHTS` asks for."""
    authorise = by_key(guard)

    def let_in(request: Request, _: Annotated[Any, Depends(_bearer)]) -> None:
        right = RIGHTS[f"{request.method} {request.scope['route'].path}"]
        if right is not None:
            action, model = right
            authorise(request, action, model.format(**request.path_params))

    return let_in


def by_key(guard: Guard) -> Authorise:
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
