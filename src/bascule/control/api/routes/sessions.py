"""The routes about sessions: that of a request, its end, and one-time links that begin one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, Request, Response
from pydantic import Field

from bascule.control import operations as of_server
from bascule.control.answers import OwnSession, ShownSession, SignInLink
from bascule.control.api.conventions import Page, Paged, Taken
from bascule.control.api.rights import Authorise, caller_of, loopback_only, serves
from bascule.control.people.cookies import cookie_name, cookie_of, is_encrypted, signed_in
from bascule.control.people.sessions import LINK_LASTS, Sessions, path_of_link
from bascule.core import NAME_PATTERN, NotFound, Refused
from bascule.security import ROLES, Session, check_projects, csrf_of, in_force, permissions_of_roles

_ON = rf"[A-Za-z0-9_.-]*[*]|(project=)?{NAME_PATTERN}"
_ROLE = f"^({'|'.join(ROLES)})(:({_ON}))?$"
_Roles = Annotated[
    list[Annotated[str, Field(max_length=160, json_schema_extra={"pattern": _ROLE})]],
    Field(min_length=1, max_length=100, description="viewer:*, operator:late, approver:*, admin"),
]


class NewLink(Taken):
    """A link to make."""

    user: Annotated[
        str, Field(max_length=128, description="For histories: your own, or by the right `keys`")
    ] = ""
    roles: _Roles = ["admin"]  # noqa: RUF012 -- pydantic copies it


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

    @serves(app, of_server.SESSION)
    def own(request: Request, response: Response) -> OwnSession:
        """The session by which the request is made."""
        session = current(request)
        response.headers["Cache-Control"] = "no-store"
        token = csrf_of(cookie_of(request))
        return OwnSession.of(session, csrf_token=token)

    @serves(app, of_server.END_SESSION)
    def end(request: Request, response: Response) -> ShownSession:
        """Sign out: the session opens nothing from now on."""
        session = current(request)
        open_sessions().end(session)
        drop_cookie(request, response)
        return ShownSession.of(session)

    @serves(app, of_server.SESSIONS)
    def live(paged: Paged) -> Page[ShownSession]:
        """The sessions that hold, the latest first."""
        return paged.numbered(open_sessions().live(), ShownSession.of)

    @serves(app, of_server.END_NAMED_SESSION)
    def end_another(session: str, request: Request) -> ShownSession:
        """End the session of another; fine where it has ended already."""
        by = caller_of(request).user
        return ShownSession.of(open_sessions().end_named(session, by=by))

    @serves(app, of_server.OFFER_LINK)
    def offer(wanted: NewLink, request: Request, response: Response) -> SignInLink:
        """Make a link that begins a session once, with rights that the caller has."""
        permissions = permissions_of_roles(wanted.roles)
        if not asks_for_keys:  # where all may read, a reader's link is still kept here
            loopback_only(request, "keys", "")
        check_projects(permissions, projects := open_sessions().projects)
        for one in in_force(permissions, projects):
            authorise(request, one.action, one.model)
        caller = caller_of(request)
        if asks_for_keys and not caller.key:  # it would renew itself
            raise Refused("a session makes no links", hint="make it with a key: bascule sign-in")
        user = wanted.user or caller.user
        if user != caller.user:
            authorise(request, "keys", "")
        code = open_sessions().offer(user, permissions, by=caller.user, key_id=caller.key)
        response.headers["Cache-Control"] = "no-store"
        return SignInLink(
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
