"""The commands about callers' keys: make one, list them, end one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.screen import note, print_either, print_json, print_table, say, when
from bascule.core import seconds_of

if TYPE_CHECKING:
    from bascule.security import Key


def create(
    name: Annotated[str, typer.Argument(help="Whose it is.", show_default=False)],
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="What it allows: infer:MODEL, read:MODEL, metrics, manage:MODEL, write:MODEL, "
            "deploy:MODEL, approve:MODEL, test:MODEL, outcome:MODEL, review:MODEL, erase:MODEL, "
            "private:MODEL, keys. MODEL: a name, a prefix "
            "team-*, project=NAME, or * for every model. May be repeated.",
            show_default=False,
        ),
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            help="The permissions of a role: viewer:MODEL, operator:MODEL, approver:MODEL, "
            "reviewer:MODEL, admin:MODEL. May be repeated.",
            show_default=False,
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(help="When it ends by itself: 12h, 90d. Default: never.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key, and show it this once: only its hash is kept."""
    from bascule.security import Permission, permissions_of_roles

    allowed = [*map(Permission.parse, allow or ()), *permissions_of_roles(role or ())]
    now = datetime.now(UTC)
    lasts = None if expires is None else timedelta(seconds=seconds_of(expires, "--expires"))
    key, token = context.keys().create(
        name, allowed,
        by=context.user(), expires_at=None if lasts is None else now + lasts,
    )  # fmt: skip
    if as_json:
        print_json({**_shown(key, now), "token": token})
        return
    say(token)
    note(f"key {key.name} ({key.id}) allows {_permissions(key)}; it is not shown again")


def list_keys(as_json: AsJson = False) -> None:
    """List the keys that were made, with what they allow and whether they live."""
    now = datetime.now(UTC)
    keys = context.keys().stored()
    if as_json:
        print_json([_shown(key, now) for key in keys])
        return
    if not keys:
        note("no key was made; bascule keys create NAME --allow infer:MODEL makes one")
        return
    print_table(
        ("id", "name", "allows", "state", "expires", "created", "by"),
        [
            (
                key.id,
                key.name,
                _permissions(key),
                key.state(now),
                "never" if key.expires_at is None else when(key.expires_at),
                when(key.created_at),
                key.created_by,
            )
            for key in keys
        ],
    )


def revoke(
    key: Annotated[str, typer.Argument(help="Its name or its id.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """End a key. Every worker of every server refuses it within a second."""
    now = datetime.now(UTC)
    ended = context.keys().end(key, by=context.user())
    print_either(_shown(ended, now), f"revoked {ended.name} ({ended.id})", as_json=as_json)


def _shown(key: Key, now: datetime) -> dict[str, Any]:
    shown = key.to_json()
    del shown["token_sha256"]
    return {**shown, "state": key.state(now)}


def _permissions(key: Key) -> str:
    return ", ".join(map(str, key.permissions))


keys_group = context.group_of(
    "Keys of callers: who may ask a server for what.",
    create=create, list=list_keys, revoke=revoke,
)  # fmt: skip
