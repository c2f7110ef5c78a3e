"""The commands about people: a one-time link to the console, and the sessions that hold."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.screen import note, print_either, print_json, say, table, url_host, when

if TYPE_CHECKING:
    from bascule.control import ShownSession
    from bascule.security import Session
    from bascule.settings import Settings


def sign_in(
    role: Annotated[
        list[str] | None,
        typer.Option(
            help="What the session may do: viewer:MODEL, operator:MODEL, approver:MODEL, "
            "reviewer:MODEL, admin:MODEL; * is every model. May be repeated. Default: admin:*",
            show_default=False,
        ),
    ] = None,
    user: Annotated[
        str, typer.Option(help="For histories: your own, or by the right keys.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Print a link that signs a person in to the console once, within ten minutes.

    Over --server, the key of BASCULE_KEY must have the rights that the link gives; the session
    ends with that key.
    """
    roles = role or ["admin"]
    made = _link_of_server(roles, user) if context.is_remote() else _link(roles, user)
    if as_json:
        print_json(made)
        return
    say(made["url"])
    note(f"signs {made['user']} in once, within ten minutes, as {', '.join(roles)}")


def _link(roles: list[str], user: str) -> dict[str, Any]:
    from bascule.app import open_sessions
    from bascule.control import path_of_link
    from bascule.security import permissions_of_roles

    settings = context.settings()
    permissions = permissions_of_roles(roles)
    own = context.user()
    code = open_sessions(settings).offer(user or own, permissions, by=own)
    base = address_of(settings, settings.serving.control_port)
    return {
        "url": base + path_of_link(code), "user": user or own,
        "permissions": [str(one) for one in permissions],
    }  # fmt: skip


def _link_of_server(roles: list[str], user: str) -> dict[str, Any]:
    from bascule.control import operations

    wanted = {"roles": roles, "user": user}
    made = context.remote().ask(operations.OFFER_LINK, wanted, by=context.user())
    base = context.stores["server"].rstrip("/")
    return {"url": base + made.path, "user": made.user, "permissions": made.permissions}


def list_sessions(as_json: AsJson = False) -> None:
    """List the sessions that hold, the latest first."""
    if context.is_remote():
        from bascule.control import operations

        shown = [*map(_plain, context.remote().items(operations.SESSIONS))]
    else:
        from bascule.app import open_sessions

        shown = [_shown(one) for one in open_sessions(context.settings()).live()]
    names, times = ("id", "user", "key", "source"), ("began_at", "ends_at")
    rows = [
        [
            *(session[name] for name in names),
            *(when(datetime.fromisoformat(session[name])) for name in times),
        ]
        for session in shown
    ]
    empty = "no session holds; bascule sign-in makes a link"
    print_either(shown, table((*names, *times), rows, empty=empty), as_json=as_json)


def end_session(
    session: Annotated[str, typer.Argument(help="Its id.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """End a session: it opens nothing from now on."""
    if context.is_remote():
        from bascule.control import operations

        ended = _plain(context.remote().ask(operations.END_NAMED_SESSION, session=session))
    else:
        from bascule.app import open_sessions

        ended = _shown(open_sessions(context.settings()).end_named(session, by=context.user()))
    print_either(ended, f"ended the session {ended['id']} of {ended['user']}", as_json=as_json)


def _shown(session: Session) -> dict[str, Any]:
    from bascule.control import ShownSession

    return _plain(ShownSession.of(session))


def _plain(session: ShownSession) -> dict[str, Any]:
    import msgspec

    shown: dict[str, Any] = msgspec.to_builtins(session)
    return shown


def address_of(settings: Settings, control_port: int) -> str:
    """The address by which a browser reaches the control port."""
    if settings.console.public_url:
        return settings.console.public_url.rstrip("/")
    return local_address_of(settings, control_port)


def local_address_of(settings: Settings, port: int) -> str:
    """The address by which this machine reaches a port of the server."""
    scheme = "https" if settings.serving.tls_certificate else "http"
    return f"{scheme}://{url_host(settings.serving.host)}:{port}"


def show_link(link: str) -> None:
    """Print a link to sign in, if it is not empty, on a terminal alone: elsewhere it is a log."""
    if link and sys.stdout.isatty():
        say(f"sign in once, within ten minutes: {link}")
    elif link:
        note("bascule sign-in makes a link to sign in")


sessions_group = context.group_of(
    "Sessions of people: list or end them.", list=list_sessions, end=end_session
)
