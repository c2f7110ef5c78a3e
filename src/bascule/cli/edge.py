"""`bascule edge`: a signed repository, and what it offers to devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, KeyPassword, Ref
from bascule.cli.exporting import export
from bascule.cli.federating import federate
from bascule.cli.fleet import add_commands
from bascule.cli.screen import print_either, say

_RootKeys = Annotated[
    list[Path], typer.Option("--root-key", help="A private key of the root; may be repeated.")
]
_NewRootKeys = Annotated[
    list[Path],
    typer.Option("--new-root-key", help="Of root: its keys from now on. Default: the same."),
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Publish versions to devices, signed, and follow the devices.", no_args_is_help=True
    )
    for command in (init, publish, refresh, rotate, export, federate):
        group.command()(command)
    add_commands(group)
    app.add_typer(group, name="edge")


def init(
    root_key: _RootKeys,
    threshold: Annotated[
        int, typer.Option(min=1, help="How many of the root keys a later root needs.")
    ] = 1,
    password: KeyPassword = None,
) -> None:
    """Make a repository. A root key that is no file yet is written: keep it offline."""
    from bascule.app import open_repository
    from bascule.fleet import key_in

    keys = [key_in(file, password, create=True) for file in root_key]
    open_repository(context.settings()).init(keys, threshold)
    say(f"made the repository; keep {', '.join(map(str, root_key))} on no server")


def publish(
    model: Ref,
    channel: Annotated[str, typer.Option(help="Of the devices.")] = "stable",
    as_json: AsJson = False,
) -> None:
    """Offer a version to the devices of a channel; they receive a difference where they can."""
    published = _done({"version": model, "channel": channel}, f"publish {model} to {channel}")
    sizes = {"full": published["full_bytes"], **published["delta_bytes"]}
    shown = ", ".join(f"{size:,} bytes from {version}" for version, size in sizes.items())
    shown = shown.replace(" from full", "", 1)
    text = f"{channel} offers {published['version']}: {shown}"
    print_either(published, text, as_json=as_json)


def refresh(as_json: AsJson = False) -> None:
    """Sign that nothing has changed; devices refuse a repository that is silent for too long."""
    result = _done({}, "refresh the repository")
    ends, root_ends = (result[name][:10] for name in ("expires", "root_expires"))
    print_either(result, f"signed until {ends}; the root ends {root_ends}", as_json=as_json)


def rotate(
    role: Annotated[
        str, typer.Argument(help="root, targets, snapshot, timestamp or channel-NAME.")
    ],
    root_key: _RootKeys = [],  # noqa: B006 - Typer makes a list for each call
    new_root_key: _NewRootKeys = [],  # noqa: B006
    password: KeyPassword = None,
) -> None:
    """Give a role a new key; devices accept nothing more that the former one signs."""
    from bascule.app import open_catalogue, open_repository
    from bascule.fleet import key_in, record

    keys = [key_in(file, password) for file in root_key]
    new_keys = [key_in(file, password, create=True) for file in new_root_key]
    settings = context.settings()
    open_repository(settings).rotate(role, keys, new_keys)
    record(open_catalogue(settings), role, "role_rotated", {}, context.user())
    say(f"signed {role} anew")


def _done(content: Mapping[str, str], title: str) -> dict[str, Any]:
    """The result of a job of kind `publish_edge`, here or at the server."""
    from bascule.jobs import RemoteJobs, Task, until_ended
    from bascule.kinds import KINDS, runner_of

    is_remote = context.is_remote()
    jobs: Any = RemoteJobs(context.control_client()) if is_remote else runner_of(context.settings())
    chosen = KINDS["publish_edge"].parse(content)
    task = Task(kind="publish_edge", input=chosen, title=title, by=context.user())
    job = until_ended(jobs, jobs.submit(task).id)
    if job.problem is not None:
        raise job.problem
    result: dict[str, Any] = job.result
    return result
