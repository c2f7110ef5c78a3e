"""`bascule edge`: a signed repository, and what it offers to devices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, KeyPassword, Ref
from bascule.cli.fleet import add_commands
from bascule.cli.screen import print_either, say

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

_RootKeys = Annotated[
    list[Path] | None,
    typer.Option("--root-key", help="A private key of the root; may be repeated."),
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Publish versions to devices, signed, and follow the devices.", no_args_is_help=True
    )
    for command in (init, publish, refresh, rotate):
        group.command()(command)
    add_commands(group)
    app.add_typer(group, name="edge")


def init(
    root_key: _RootKeys = None,
    threshold: Annotated[
        int, typer.Option(min=1, help="How many of the root keys a later root needs.")
    ] = 1,
    password: KeyPassword = None,
) -> None:
    """Make a repository. A root key that is no file yet is written: keep it offline."""
    from bascule.app import open_repository
    from bascule.fleet import key_in

    files = root_key or [Path("root.pem")]
    keys = [key_in(file, password, create=True) for file in files]
    open_repository(context.settings()).init(keys, threshold)
    say(f"made the repository; keep {', '.join(map(str, files))} offline, on another machine")


def publish(
    model: Ref,
    channel: Annotated[str, typer.Option(help="Which devices: those of this channel.")] = "stable",
    as_json: AsJson = False,
) -> None:
    """Offer a version to the devices of a channel; they receive the difference where they can."""
    published = _done({"version": model, "channel": channel}, f"publish {model} to {channel}")
    deltas = "".join(
        f", {size:,} from {version}" for version, size in published["delta_bytes"].items()
    )
    print_either(
        published,
        f"{published['channel']} offers {published['version']} "
        f"({published['full_bytes']:,} bytes{deltas})",
        as_json=as_json,
    )


def refresh(as_json: AsJson = False) -> None:
    """Sign that nothing has changed; devices refuse a repository that is silent for too long."""
    result = _done({}, "refresh the repository")
    print_either(result, f"signed until {result['expires'][:10]}", as_json=as_json)


def rotate(
    role: Annotated[
        str, typer.Argument(help="root, targets, snapshot, timestamp or channel-NAME.")
    ],
    root_key: _RootKeys = None,
    new_root_key: Annotated[
        list[Path] | None,
        typer.Option(help="Of root: its keys from now on; default: the same, signed anew."),
    ] = None,
    password: KeyPassword = None,
) -> None:
    """Give a role a new key; the former one signs nothing any more that devices accept."""
    from bascule.app import open_repository
    from bascule.fleet import key_in

    def keys(files: list[Path] | None, *, create: bool) -> list[CryptoSigner]:
        return [key_in(file, password, create=create) for file in files or ()]

    repository = open_repository(context.settings())
    repository.rotate(role, keys(root_key, create=False), keys(new_root_key, create=True))
    say(f"{role} has another key" if role != "root" or new_root_key else "signed the root anew")


def _done(content: dict[str, str], title: str) -> dict[str, Any]:
    """The result of a job of kind `publish_edge`, here or at the server."""
    from bascule.jobs import RemoteJobs, Task, until_ended
    from bascule.kinds import KINDS, runner_of

    jobs: Any = (
        RemoteJobs(context.control_client())
        if context.is_remote()
        else runner_of(context.settings())
    )
    task = Task(
        kind="publish_edge", input=KINDS["publish_edge"].parse(content), title=title,
        by=context.user(), folder=os.getcwd(),
    )  # fmt: skip
    job = until_ended(jobs, jobs.submit(task).id)
    if job.problem is not None:
        raise job.problem
    result: dict[str, Any] = job.result
    return result
