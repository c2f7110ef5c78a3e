"""Who may do what through the control API. Every route is added and asks here.

Where callers need keys, the right that each operation declares is checked before a byte of the body
is read; a route whose model is in the body asks again when it knows the model. Without
keys, routes that change something or show keys are for this machine alone: the caller's address and
the host name that it uses must be loopback ones, and pages of other origins are refused.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from fastapi.types import DecoratedCallable
from starlette.exceptions import HTTPException

from bascule.batch import operations as of_batch
from bascule.catalogue import origins
from bascule.configuring import operations as of_configuration
from bascule.control import operations as of_server
from bascule.control.api.acts import Acts, origin_of
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
from bascule.core import BasculeError, Refused, TooLarge, Unauthenticated
from bascule.endpoints import operations as of_endpoints
from bascule.fleet import operations as of_fleet
from bascule.jobs import operations as of_jobs
from bascule.monitoring.alerts import operations as of_alerts
from bascule.monitoring.ledger import operations as of_outcomes
from bascule.monitoring.reviews import operations as of_reviews
from bascule.operations import CHANGING, MAX_BODY_BYTES, Operation, operations_of
from bascule.privacy import operations as of_privacy
from bascule.registry import operations as of_registry
from bascule.release.rollouts import operations as of_rollouts
from bascule.security import OPEN_ACTIONS, Action, Key, Person, in_words, is_protected
from bascule.serving.transports import Authenticator, host_of, is_loopback, status_of

if TYPE_CHECKING:
    from bascule.catalogue import Origin, Requests

Authorise = Callable[[Request, Action, str], "Caller"]
"""Raises `Refused` unless the caller of a request may do this to a model (`*`: to all)."""

SESSION = "bascule.session"
"""The key of a request's ASGI scope that holds the session of a person, where the console sends the
request. No request from the network can set it."""

APPROVAL = "bascule.approval"
"""The key of a request's ASGI scope that holds the id of the approval that it carries out."""
_ACT = "bascule.act"
"""The same of an act that may be protected."""

USER_HEADER = "Bascule-User"
"""Names the user for histories, where callers need no keys; else the key's name is recorded."""
_MAX_USER = 128
_DECLARING = (
    of_alerts, of_batch, of_configuration, of_endpoints, of_fleet, of_jobs, of_outcomes, of_privacy,
    of_registry, of_reviews, of_rollouts, of_server,
)  # fmt: skip

OPERATIONS: Mapping[str, Operation[Any]] = {
    operation.name: operation for module in _DECLARING for operation in operations_of(module)
}
"""All that this API can do, by method and path. The pages that describe the API are not there,
because they show nothing of this server; a route that is not here cannot be made."""

RIGHTS: Mapping[str, tuple[Action, str] | None] = {
    name: None if operation.action is None else (operation.action, operation.model)
    for name, operation in OPERATIONS.items()
}
"""The permission that each requires: action and model. `*` requires the right to all models; an
empty model, the action on any."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a request comes from.

    Attributes:
        id: The id of the key, or the address: keeps callers apart.
        user: The name for histories.
        key: The id of the key; empty for another caller.
        session: The hash of the session; empty for another caller.
        role: What the key or the session may do, in words.
        key_made_by: Who made the key.
    """

    id: str
    user: str
    key: str = ""
    session: str = ""
    role: str = ""
    key_made_by: str = ""

    @property
    def person(self) -> Person:
        """The same for approvals, which two persons take."""
        user = self.user.partition(" (key ")[0]
        return Person(user, self.key, self.session, self.key_made_by)


class ApprovalNeeded(Exception):
    """Is no error of the caller: the request is kept for a second person."""

    def __init__(self, thing: str) -> None:
        super().__init__(thing)
        self.thing = thing


def serves(
    app: FastAPI, operation: Operation[Any], **options: Any
) -> Callable[[DecoratedCallable], DecoratedCallable]:
    """The decorator of what handles an operation: its parameters are what the operation takes.

    `options` are those of a route of FastAPI.
    """
    return app.api_route(
        operation.path, methods=[operation.method], tags=[operation.chapter],
        status_code=operation.status, **options,
    )  # fmt: skip


def caller_of(request: Request) -> Caller:
    """The caller of a request that a route handles."""
    found: Caller = request.state.caller
    return found


def route_of(
    guard: Authenticator | None,
    open_requests: Callable[[], Requests],
    find_session: FindSession | None,
    acts: Acts,
) -> type[APIRoute]:
    """The class of the routes, which keeps the conventions.

    Rights come first, then a bounded body, then the entity tag of an answer to GET, or the
    `Idempotency-Key` of other requests. `acts` records what changes something.
    """
    authorise = authorise_of(guard, acts.protected)

    class GuardedRoute(DeferredRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()
            operation = OPERATIONS[f"{' '.join(self.methods or ())} {self.path}"]
            bound = operation.max_body_bytes

            async def allow(request: Request) -> None:
                await find_signed_in(request, find_session)
                model = operation.model.format(**request.path_params)
                request.state.caller = authorise(request, operation.action or "health", model)

            async def act(request: Request) -> Response:
                length = request.headers.get("content-length", "0")
                if length.isdecimal() and int(length) > bound:
                    raise TooLarge(_too_large(bound))
                bounded = _BoundedRequest(request.scope, request.receive)
                bounded.bound, bounded.allow = bound, partial(allow, request)
                if request.method == "GET":
                    return conditional(request, await handle(bounded))
                if not (operation.is_act and acts.protected and operation.action in CHANGING):
                    return await change(bounded)
                request.scope[_ACT] = True
                try:
                    if operation.thing:
                        thing = operation.thing.format(**request.path_params)
                        check_protected(request, thing, acts.protected, has_keys=guard is not None)
                    authorise(
                        request, operation.action, operation.model.format(**request.path_params)
                    )
                    return await change(bounded)
                except ApprovalNeeded as need:
                    person = request.state.caller.person
                    return await acts.wait(bounded, operation, need.thing, person)

            async def change(bounded: Request) -> Response:
                if not operation.keeps_answers:
                    return await handle(bounded)
                return await once(open_requests, bounded, bounded.state.caller.id, handle)

            async def guarded(request: Request) -> Response:
                if not operation.is_act:
                    await allow(request)
                    return await act(request)
                with origins.acting(origin_of(request, operation)) as origin:
                    try:
                        await allow(request)
                        caller = request.state.caller
                        if operation.action is None:  # it asks itself
                            caller = _caller_known(request, guard) or caller
                        _add_caller(origin, caller)
                        answer = await act(request)
                    except (Refused, Unauthenticated) as problem:
                        await refused(request, origin, problem.message)
                        raise
                    if answer.status_code in (401, 403):  # an answer that is kept
                        await refused(request, origin, "")
                    elif answer.status_code < 400 and not origin.has_recorded:
                        await acts.done(request, operation, caller.user)
                    return answer

            async def refused(request: Request, origin: Origin, reason: str) -> None:
                caller = _caller_known(request, guard)
                if caller is not None:
                    _add_caller(origin, caller)
                await acts.refused(request, operation, caller.user if caller else None, reason)

            return guarded

    return GuardedRoute


def _add_caller(origin: Origin, caller: Caller) -> None:
    origin.key, origin.session, origin.role = caller.key, caller.session, caller.role


def _caller_known(request: Request, guard: Authenticator | None) -> Caller | None:
    """The caller, by its key or session alone; None without a key or a session that holds."""
    person: SignedIn | None = request.scope.get(SESSION) or signed_in(request)
    if person is not None:
        return _of_person(person) if person.short_id else None
    with suppress(BasculeError):
        if guard is not None:
            return _of_key(guard.key_of(request.headers.get("authorization", "").encode()))
    return None


def _of_person(person: SignedIn) -> Caller:
    return Caller(
        f"session:{person.subject}", person.subject, session=person.short_id,
        role=in_words(person.permissions),
    )  # fmt: skip


def _of_key(key: Key, *, is_act: bool = True) -> Caller:
    role = in_words(key.permissions) if is_act else ""
    return Caller(key.id, key.name, key.id, role=role, key_made_by=key.created_by)


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


def authorise_of(guard: Authenticator | None, protected: Sequence[str] = ()) -> Authorise:
    """The one decision on callers, for the API and for pages.

    The session of a person counts, in the request's own cookie or of the page that sends it; else
    the key; else the address. An act on what is `protected` raises `ApprovalNeeded`.
    """
    of_caller = open_to_all if guard is None else by_key(guard)

    def authorise(request: Request, action: Action, model: str) -> Caller:
        caller = allowed(request, action, model)
        if protected and model and _ACT in request.scope:
            check_protected(request, f"{action}:{model}", protected, has_keys=guard is not None)
        return caller

    def allowed(request: Request, action: Action, model: str) -> Caller:
        person: SignedIn | None = request.scope.get(SESSION) or signed_in(request)
        if person is None or action in OPEN_ACTIONS:
            return of_caller(request, action, model)
        person.check(action, model)
        return _of_person(person)

    return authorise


def check_protected(
    request: Request, thing: str, protected: Sequence[str], *, has_keys: bool
) -> None:
    """Raise `ApprovalNeeded` for a protected thing, but where a second person has approved.

    Raises:
        Refused: Callers need no keys, so that two persons look alike.
    """
    if not is_protected(thing, protected) or APPROVAL in request.scope:
        return
    if not has_keys:
        raise Refused(
            f"{thing} takes two persons, who look alike where callers need no keys",
            hint='set security.callers = "keys"',
        )
    raise ApprovalNeeded(thing)


def by_key(guard: Authenticator) -> Authorise:
    """Requires a key that allows it; see `Authorise`."""

    def authorise(request: Request, action: Action, model: str) -> Caller:
        guard.look()
        said = request.headers.get("authorization", "").encode()
        key_id = guard.check(said, action, model)
        if not key_id:
            return Caller("", "")
        return _of_key(guard.key_of(said), is_act=request.method not in SAFE_METHODS)

    return authorise


def open_to_all(request: Request, action: Action, model: str) -> Caller:
    """Lets every caller read, and only this machine change something; see `Authorise`."""
    if action in {*CHANGING, "infer", "report"}:
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
