"""`bascule edge`: a signed repository, and what it offers to devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, Ref
from bascule.cli.exporting import export
from bascule.cli.federating import federate
from bascule.cli.fleet import device_rollouts, devices, enroll, groups, revoke, rows
from bascule.cli.jobs import result_of
from bascule.cli.screen import print_either, say

_RootKeys = Annotated[
    list[Path], typer.Option("--root-key", help="A private key of the root; may be repeated.")
]
_NewRootKeys = Annotated[
    list[Path],
    typer.Option("--new-root-key", help="Of root: its keys from now on. Default: the same."),
]


def init(
    root_key: _RootKeys,
    threshold: Annotated[
        int, typer.Option(min=1, help="How many of the root keys a later root needs.")
    ] = 1,
) -> None:
    """Make a repository. A root key that is no file yet is written: keep it offline."""
    from bascule.app import open_repository
    from bascule.fleet import key_in

    keys = [key_in(file, create=True) for file in root_key]
    open_repository(context.settings(), is_new=True).init(keys, threshold)
    say(f"made the repository; keep {', '.join(map(str, root_key))} on no server")


def publish(
    model: Ref,
    channel: Annotated[str, typer.Option(help="Of the devices.")] = "stable",
    as_json: AsJson = False,
) -> None:
    """Offer a version to the devices of a channel; they receive a difference where they can."""
    content = {"version": model, "channel": channel}
    published = result_of("publish_edge", content, as_json=as_json)
    sizes = {"full": published["full_bytes"], **published["delta_bytes"]}
    shown = ", ".join(f"{size:,} bytes from {version}" for version, size in sizes.items())
    shown = shown.replace(" from full", "", 1)
    text = f"{channel} offers {published['version']}: {shown}"
    print_either(published, text, as_json=as_json)


def refresh() -> None:
    """Sign anew what is half over, as a control process does by itself once an hour."""
    from bascule.app import open_repository

    ends, root_ends = open_repository(context.settings()).refresh()
    say(f"signed until {ends:%Y-%m-%d}; the root ends {root_ends:%Y-%m-%d}")


def rotate(
    role: Annotated[
        str, typer.Argument(help="root, targets, snapshot, timestamp or channel-NAME.")
    ],
    root_key: _RootKeys = [],  # noqa: B006 - Typer makes a list for each call
    new_root_key: _NewRootKeys = [],  # noqa: B006
) -> None:
    """Give a role a new key; devices accept nothing more that the former one signs."""
    from bascule.app import open_catalogue, open_repository
    from bascule.fleet import key_in, record

    keys = [key_in(file) for file in root_key]
    new_keys = [key_in(file, create=True) for file in new_root_key]
    settings = context.settings()
    open_repository(settings).rotate(role, keys, new_keys)
    record(open_catalogue(settings), role, "role_rotated", {}, context.user())
    say(f"signed {role} anew")


edge_group = context.group_of(
    "Publish versions to devices, signed, and follow the devices.",
    init, publish, refresh, rotate, export, federate, devices, groups, rows, enroll, revoke,
)  # fmt: skip
edge_group.add_typer(device_rollouts, name="rollout")
