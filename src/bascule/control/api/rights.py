"""Who may do what through the control API. Every route asks here.

Where callers need keys, `RIGHTS` has the permission that each route requires, checked before a byte
of the body is read; a route whose model is in the body asks again when it knows the model. Without
keys, routes that change something or show keys are for this machine alone: the caller's address and
the host name that it uses must be loopback ones, and pages of other origins are refused.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from bascule.control.api.conventions import conditional
from bascule.control.api.deferred import DeferredRoute
from bascule.control.api.idempotency import once
from bascule.control.people.cookies import (
    SAFE_METHODS,
    FindSession,
    SignedIn,
    check_same_origin,
    find_signed_in,
    signed_in,
)
from bascule.core import BasculeError, Refused, TooLarge
from bascule.security import ANY, OPEN_ACTIONS, Action
from bascule.serving.transports import Authenticator, host_of, is_loopback, status_of

if TYPE_CHECKING:
    from bascule.catalogue import Requests

Authorise = Callable[[Request, Action, str], "Caller"]
"""Raises `Refused` unless the caller of a request may do this to a model (`*`: to all)."""

SESSION = "bascule.session"
"""The key of a request's ASGI scope that holds the session of a person, where the console sends the
request. No request from the network can set it."""

USER_HEADER = "Bascule-User"
"""Names the user for histories, where callers need no keys; else the key's name is recorded."""
_MAX_USER = 128

UPLOAD = "POST /api/v1/models/{model}/versions"
ADD_OUTCOMES = "POST /api/v1/models/{model}/outcomes"

RIGHTS: Mapping[str, tuple[Action, str] | None] = {
    "GET /health": ("health", ""),
    "GET /metrics": ("metrics", ""),
    "GET /api/v1/server": ("read", ANY),
    "GET /api/v1/server/load": ("read", ANY),
    "GET /api/v1/server/plans": ("read", ANY),
    "GET /api/v1/server/services": ("read", ANY),
    "POST /api/v1/server/services": ("manage", ""),  # of which model is in the body: asked then
    "DELETE /api/v1/server/services/{model}": ("manage", "{model}"),
    "POST /v2/repository/index": ("read", ANY),
    "POST /v2/repository/models/{model}/load": ("manage", "{model}"),
    "POST /v2/repository/models/{model}/unload": ("manage", "{model}"),
    "GET /api/v1/models": ("read", ANY),
    "GET /api/v1/search": ("read", ANY),
    "GET /api/v1/models/{model}": ("read", "{model}"),
    "GET /api/v1/models/{model}/resolve": ("read", "{model}"),
    "GET /api/v1/models/{model}/history": ("read", "{model}"),
    "GET /api/v1/models/{model}/aliases": ("read", "{model}"),
    "GET /api/v1/models/{model}/aliases/{alias}": ("read", "{model}"),
    "PUT /api/v1/models/{model}/aliases/{alias}": ("write", "{model}"),
    "DELETE /api/v1/models/{model}/aliases/{alias}": ("write", "{model}"),
    "GET /api/v1/models/{model}/versions": ("read", "{model}"),
    UPLOAD: ("write", "{model}"),
    "GET /api/v1/models/{model}/versions/{number}": ("read", "{model}"),
    "GET /api/v1/models/{model}/versions/{number}/statements": ("read", "{model}"),
    "GET /api/v1/models/{model}/versions/{number}/checks": ("read", "{model}"),
    # The model of the other version is in the query: asked then.
    "GET /api/v1/models/{model}/versions/{number}/differences": ("read", "{model}"),
    "GET /api/v1/models/{model}/versions/{number}/bundle": ("download", "{model}"),
    "GET /api/v1/models/{model}/versions/{number}/tags": ("read", "{model}"),
    "GET /api/v1/models/{model}/versions/{number}/servers": ("read", "{model}"),
    "GET /api/v1/models/{model}/versions/{number}/callers": ("read", "{model}"),
    "PATCH /api/v1/models/{model}/versions/{number}/tags": ("write", "{model}"),
    "PUT /api/v1/models/{model}/versions/{number}/retirement": ("write", "{model}"),
    "DELETE /api/v1/models/{model}/versions/{number}/retirement": ("write", "{model}"),
    "PUT /api/v1/models/{model}/versions/{number}/deprecation": ("write", "{model}"),
    "DELETE /api/v1/models/{model}/versions/{number}/deprecation": ("write", "{model}"),
    # Of which endpoint is in the body, or known by the rollout: asked then.
    "GET /api/v1/rollouts": ("read", ""),
    "POST /api/v1/rollouts": ("deploy", ""),
    "GET /api/v1/rollouts/{rollout}": ("read", ""),
    "GET /api/v1/rollouts/{rollout}/decisions": ("read", ""),
    "GET /api/v1/rollouts/{rollout}/evidence": ("read", ""),
    "GET /api/v1/rollouts/{rollout}/replay": ("read", ""),
    "POST /api/v1/rollouts/{rollout}/promote": ("approve", ""),
    "POST /api/v1/rollouts/{rollout}/{command}": ("deploy", ""),
    "POST /api/v1/verdicts/{endpoint}": ("read", "{endpoint}"),
    "GET /api/v1/verdicts/{endpoint}/api/v1/query": ("read", "{endpoint}"),
    "POST /api/v1/deployments": ("deploy", ""),
    "DELETE /api/v1/endpoints/{endpoint}": ("deploy", "{endpoint}"),
    "GET /api/v1/endpoints": ("read", ANY),
    "POST /api/v1/endpoints": ("deploy", ""),  # which endpoint is in the body: asked then
    "GET /api/v1/endpoints/{endpoint}": ("read", "{endpoint}"),
    # The model of the fallback is in the body: asked then.
    "PATCH /api/v1/endpoints/{endpoint}": ("deploy", "{endpoint}"),
    "GET /api/v1/endpoints/{endpoint}/plans": ("read", "{endpoint}"),
    "POST /api/v1/endpoints/{endpoint}/plans": ("deploy", "{endpoint}"),
    "GET /api/v1/endpoints/{endpoint}/plans/{number}": ("read", "{endpoint}"),
    "GET /api/v1/endpoints/{endpoint}/arms": ("read", "{endpoint}"),
    "GET /api/v1/endpoints/{endpoint}/history": ("read", "{endpoint}"),
    "POST /api/v1/endpoints/{endpoint}/rollback": ("deploy", "{endpoint}"),
    "GET /api/v1/endpoints/{endpoint}/incident": ("read", ANY),  # it tells of alerts and models
    "POST /api/v1/replays": ("manage", ANY),  # it shows rows of a caller
    # Which endpoints, schedules, keys and silences is in the body: asked then.
    "PUT /api/v1/configuration": ("deploy", ""),
    "GET /api/v1/models/{model}/monitor": ("read", "{model}"),
    "GET /api/v1/models/{model}/drift": ("read", "{model}"),
    "GET /api/v1/models/{model}/performance": ("read", "{model}"),
    "GET /api/v1/models/{model}/outcomes": ("outcome", "{model}"),
    ADD_OUTCOMES: ("outcome", "{model}"),
    "GET /api/v1/jobs": ("read", ANY),
    # Of which kind and model is in the body, or known by the job: asked then.
    "POST /api/v1/jobs": ("manage", ""),
    "GET /api/v1/jobs/{job}": ("read", ""),
    "GET /api/v1/jobs/{job}/log": ("read", ""),
    "POST /api/v1/jobs/{job}/{command}": ("manage", ""),
    "GET /api/v1/batch/runs": ("read", ANY),
    # Of which model is in the body, or known by the run or the schedule: asked then.
    "POST /api/v1/batch/runs": ("manage", ""),
    "GET /api/v1/batch/runs/{run}": ("read", ""),
    "GET /api/v1/batch/runs/{run}/manifest": ("read", ""),
    "GET /api/v1/batch/runs/{run}/log": ("read", ""),
    "POST /api/v1/batch/runs/{run}/{command}": ("manage", ""),
    "GET /api/v1/schedules": ("read", ANY),
    "POST /api/v1/schedules": ("manage", ""),
    "GET /api/v1/schedules/{schedule}": ("read", ""),
    "DELETE /api/v1/schedules/{schedule}": ("manage", ""),
    "POST /api/v1/schedules/{schedule}/run": ("manage", ""),
    "POST /api/v1/schedules/{schedule}/{command}": ("manage", ""),
    "GET /api/v1/alerts": ("read", ANY),
    "GET /api/v1/alerts/{alert}": ("read", ANY),
    # Of which model is known by the alert, or in the body: asked then.
    "PUT /api/v1/alerts/{alert}/acknowledgement": ("write", ""),
    "GET /api/v1/silences": ("read", ANY),
    "POST /api/v1/silences": ("write", ""),
    "DELETE /api/v1/silences/{silence}": ("write", ""),
    # Of which model is in the query, or known by the prediction: asked then.
    "GET /api/v1/predictions": ("manage", ""),
    "GET /api/v1/prediction": ("manage", ""),
    "GET /api/v1/history": ("read", ANY),
    "GET /api/v1/history/export": ("read", ANY),
    # Of the request's own session: nothing else is shown or ended.
    "GET /api/v1/session": None,
    "DELETE /api/v1/session": None,
    "GET /api/v1/sessions": ("keys", ""),
    "DELETE /api/v1/sessions/{session}": ("keys", ""),
    # A link has rights that its maker has: asked then.
    "POST /api/v1/sign-in-links": ("read", ""),
    "GET /api/v1/receivers": ("read", ANY),
    "POST /api/v1/receivers/{receiver}/test": ("write", ANY),
    "GET /api/v1/settings": ("read", ANY),
    "GET /api/v1/keys": ("keys", ""),
    "POST /api/v1/keys": ("keys", ""),
    "GET /api/v1/keys/{key}": ("keys", ""),
    "DELETE /api/v1/keys/{key}": ("keys", ""),
}
"""The permission that a route requires: action and model. `*` requires the right to all models; an
empty model, the action on any. The pages that describe the API need none, because they show nothing
of this server; a route that is not here refuses every request."""

CHANGING: frozenset[Action] = frozenset(("manage", "write", "deploy", "approve", "keys", "outcome"))
"""Actions that need this machine where callers need no keys."""


def keeps_answers(operation: str) -> bool:
    """Whether `Idempotency-Key` has the catalogue keep the answer of a route.

    Not of an upload, which is one version however often it is sent, nor where no right to change
    something is required: a caller without a key must not add rows to the catalogue.
    """
    right = RIGHTS[operation]
    return operation != UPLOAD and right is not None and right[0] in CHANGING


MAX_BODY_BYTES = 1 << 20
"""For most routes: some names and a path."""

MAX_UPLOAD_BYTES = 4 << 30
MAX_OUTCOMES_BYTES = 32 << 20
_BOUNDS = {UPLOAD: MAX_UPLOAD_BYTES, ADD_OUTCOMES: MAX_OUTCOMES_BYTES}


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a request comes from.

    Attributes:
        id: The id of the key, or the address: keeps callers apart.
        user: The name for histories.
        key: The id of the key; empty for another caller.
    """

    id: str
    user: str
    key: str = ""


def caller_of(request: Request) -> Caller:
    """The caller of a request that a route handles."""
    found: Caller = request.state.caller
    return found


def route_of(
    guard: Authenticator | None,
    open_requests: Callable[[], Requests],
    find_session: FindSession | None = None,
) -> type[APIRoute]:
    """The class of the routes, which keeps the conventions.

    Rights come first, then a bounded body, then the entity tag of an answer to GET, or the
    `Idempotency-Key` of other requests.
    """
    authorise = authorise_of(guard)

    class GuardedRoute(DeferredRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                operation = f"{request.method} {self.path}"
                action, model = RIGHTS[operation] or ("health", "")
                model = model.format(**request.path_params)

                async def allow() -> None:
                    await find_signed_in(request, find_session)
                    request.state.caller = authorise(request, action, model)

                await allow()
                bound = _BOUNDS.get(operation, MAX_BODY_BYTES)
                length = request.headers.get("content-length", "0")
                if length.isdecimal() and int(length) > bound:
                    raise TooLarge(_too_large(bound))
                bounded = _BoundedRequest(request.scope, request.receive)
                bounded.bound, bounded.allow = bound, allow
                if request.method == "GET":
                    return conditional(request, await handle(bounded))
                if not keeps_answers(operation):
                    return await handle(bounded)
                return await once(open_requests, bounded, request.state.caller.id, handle)

            return guarded

    return GuardedRoute


class _BoundedRequest(Request):
    bound = MAX_BODY_BYTES
    allow: Callable[[], Awaitable[None]]

    async def stream(self) -> AsyncGenerator[bytes, None]:
        # Errors are of Starlette's own kind, which is not taken for a body that cannot be parsed.
        size, began_s = 0, time.monotonic()
        async for piece in super().stream():
            size += len(piece)
            if size > self.bound:
                raise HTTPException(413, _too_large(self.bound))
            yield piece
        if time.monotonic() - began_s >= 1.0:  # the right may have ended meanwhile
            try:
                await self.allow()
            except BasculeError as problem:
                raise HTTPException(status_of(problem), problem.message) from None


def _too_large(bound: int) -> str:
    return f"the body is over {bound:,} bytes, the most that this route takes"


def authorise_of(guard: Authenticator | None) -> Authorise:
    """The one decision on callers, for the API and for pages.

    The session of a person counts, in the request's own cookie or of the page that sends it; else
    the key; else the address.
    """
    of_caller = open_to_all if guard is None else by_key(guard)

    def authorise(request: Request, action: Action, model: str) -> Caller:
        person: SignedIn | None = request.scope.get(SESSION) or signed_in(request)
        if person is None or action in OPEN_ACTIONS:
            return of_caller(request, action, model)
        person.check(action, model)
        return Caller(f"session:{person.subject}", person.subject)

    return authorise


def by_key(guard: Authenticator) -> Authorise:
    """Requires a key that allows it; see `Authorise`."""

    def authorise(request: Request, action: Action, model: str) -> Caller:
        guard.look()
        said = request.headers.get("authorization", "").encode()
        key_id = guard.check(said, action, model)
        return Caller(key_id, guard.name_of(said) if key_id else "", key_id)

    return authorise


def open_to_all(request: Request, action: Action, model: str) -> Caller:
    """Lets every caller read, and only this machine change something; see `Authorise`."""
    if action in CHANGING:
        loopback_only(request, action, model)
        if request.method not in SAFE_METHODS:
            check_same_origin(request)
    said = unquote(request.headers.get(USER_HEADER, ""))
    user = said if said.isprintable() and len(said) <= _MAX_USER else ""
    return Caller(request.client.host if request.client else "", user or "unknown")


def loopback_only(request: Request, action: Action, model: str) -> None:
    """Raise `Refused` for a caller on another machine."""
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
