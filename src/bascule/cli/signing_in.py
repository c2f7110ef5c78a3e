"""The command that makes a one-time link to the console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.screen import note, print_json, say, url_host

if TYPE_CHECKING:
    from bascule.settings import Settings

_EVERY_ADDRESS = ("0.0.0.0", "::")  # compared, not listened on


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("sign-in")(sign_in)


def sign_in(
    role: Annotated[
        list[str] | None,
        typer.Option(
            help="What the session may do: viewer:MODEL, operator:MODEL, approver:MODEL, "
            "admin:MODEL; * is every model. May be repeated. Default: admin:*",
            show_default=False,
        ),
    ] = None,
    user: Annotated[
        str, typer.Option(help="The name for histories. Default: your own.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Print a link that signs a person in to the console once, within ten minutes.

    Over --server, the key of BASCULE_KEY must have the rights that the link gives.
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
    from bascule_client.control import path_of

    wanted = {"roles": roles, "user": user}
    made = context.control_client().ask(
        "POST", path_of("sign-in-links"), wanted, user=context.user()
    )
    base = context.stores["server"].rstrip("/")
    return {
        "url": base + made["path"], "user": made["user"], "permissions": made["permissions"]
    }  # fmt: skip


def address_of(settings: Settings, control_port: int) -> str:
    """The address by which a browser reaches the control port."""
    if settings.console.public_url:
        return settings.console.public_url.rstrip("/")
    scheme = "https" if settings.serving.tls_certificate else "http"
    host = settings.serving.host
    return f"{scheme}://{url_host('127.0.0.1' if host in _EVERY_ADDRESS else host)}:{control_port}"


def show_link(link: str) -> None:
    """Print a link to sign in, if it is not empty."""
    if link:
        say(f"sign in once, within ten minutes: {link}")
