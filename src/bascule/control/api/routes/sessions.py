"""The routes about sessions: that of a request, its end, and one-time links that begin one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, Request, Response
from pydantic import AwareDatetime, BaseModel, Field

from bascule.control.api.conventions import Page, Paged
from bascule.control.api.rights import Authorise, caller_of, loopback_only
from bascule.control.people.cookies import cookie_name, cookie_of, is_encrypted, signed_in
from bascule.control.people.sessions import LINK_LASTS, Sessions, path_of_link
from bascule.core import NotFound, Refused
from bascule.security import Session, csrf_of, permissions_of_roles

_TAGS = "sessions"
_Roles = Annotated[
    list[Annotated[str, Field(max_length=160)]],
    Field(min_length=1, max_length=100, description="viewer:*, operator:late, approver:*, admin"),
]


class SessionView(BaseModel):
    """The session of a person."""

    id: Annotated[str, Field(description="As it is in the history")]
    user: str
    key: Annotated[str, Field(description="The key whose right it is; empty for none")]
    source: Annotated[str, Field(description="link or oidc")]
    permissions: list[str]
    began_at: AwareDatetime
    ends_at: AwareDatetime

    @classmethod
    def of(cls, session: Session) -> SessionView:
        said = [str(one) for one in session.permissions]
        return cls(
            id=session.short_id, user=session.user, source=session.source, permissions=said,
            key="" if session.key is None else session.key.name,
            began_at=session.began_at, ends_at=session.ends_at,
        )  # fmt: skip


class OwnSessionView(SessionView):
    """The session of the request, and the token that its other requests carry."""

    csrf_token: Annotated[str, Field(description="Send it as X-CSRF-Token with what changes")]


class NewLink(BaseModel):
    """A link to make."""

    model_config = {"extra": "forbid"}

    user: Annotated[
        str, Field(max_length=128, description="For histories: your own, or by the right `keys`")
    ] = ""
    roles: _Roles = ["admin"]


class LinkView(BaseModel):
    """A link, which begins one session."""

    path: Annotated[str, Field(description="Of the address of this API; it works once")]
    user: str
    permissions: list[str]
    lasts_s: float


def add_sessions(
    app: FastAPI,
    open_sessions: Callable[[], Sessions],
    authorise: Authorise,
    *,
    asks_for_keys: bool,
) -> None:
    """Add the routes to `app`."""

    def current(request: Request) -> Session:
        session = signed_in(request)
        if session is None:
            raise NotFound("the request has no session", hint="bascule sign-in makes a link")
        return session

    @app.get("/api/v1/session", tags=[_TAGS])
    def own(request: Request, response: Response) -> OwnSessionView:
        """The session by which the request is made."""
        session = current(request)
        response.headers["Cache-Control"] = "no-store"
        token = csrf_of(cookie_of(request))
        return OwnSessionView(**SessionView.of(session).model_dump(), csrf_token=token)

    @app.delete("/api/v1/session", tags=[_TAGS])
    def end(request: Request, response: Response) -> SessionView:
        """Sign out: the session opens nothing from now on."""
        session = current(request)
        open_sessions().end(session)
        drop_cookie(request, response)
        return SessionView.of(session)

    @app.get("/api/v1/sessions", tags=[_TAGS])
    def live(paged: Paged) -> Page[SessionView]:
        """The sessions that hold, the latest first."""
        found = list(enumerate(open_sessions().live()))
        return paged.page(found, lambda one: SessionView.of(one[1]), lambda one: one[0])

    @app.delete("/api/v1/sessions/{session}", tags=[_TAGS])
    def end_another(session: str, request: Request) -> SessionView:
        """End the session of another; fine where it has ended already."""
        by = caller_of(request).user
        return SessionView.of(open_sessions().end_named(session, by=by))

    @app.post("/api/v1/sign-in-links", tags=[_TAGS], status_code=201)
    def offer(wanted: NewLink, request: Request, response: Response) -> LinkView:
        """Make a link that begins a session once, with rights that the caller has."""
        permissions = permissions_of_roles(wanted.roles)
        if not asks_for_keys:  # where all may read, a reader's link is still kept here
            loopback_only(request, "keys", "")
        for one in permissions:
            authorise(request, one.action, one.model)
        caller = caller_of(request)
        if asks_for_keys and not caller.key:  # it would renew itself
            raise Refused("a session makes no links", hint="make it with a key: bascule sign-in")
        user = wanted.user or caller.user
        if user != caller.user:
            authorise(request, "keys", "")
        code = open_sessions().offer(user, permissions, by=caller.user, key_id=caller.key)
        response.headers["Cache-Control"] = "no-store"
        return LinkView(
            path=path_of_link(code), user=user, permissions=[str(one) for one in permissions],
            lasts_s=LINK_LASTS.total_seconds(),
        )  # fmt: skip


def set_cookie(request: Request, response: Response, token: str, session: Session) -> None:
    """Have the browser keep the token of a session until it ends."""
    response.set_cookie(
        cookie_name(request), token, expires=session.ends_at, path="/",
        secure=is_encrypted(request), httponly=True, samesite="strict",
    )  # fmt: skip


def drop_cookie(request: Request, response: Response) -> None:
    """Have the browser forget the token of its session."""
    response.delete_cookie(
        cookie_name(request), path="/", secure=is_encrypted(request), httponly=True,
        samesite="strict",
    )  # fmt: skip
