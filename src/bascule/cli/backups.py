"""The commands about backups: take one, restore one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.screen import note, print_json, say
from bascule.documents import console

_File = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="The backup: late.tar, late.tar.gz.", show_default=False),
]


def backup(
    file: _File,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="The ledger and the outcomes of this home as well.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the catalogue and every bundle to one verified file. Servers go on meanwhile."""
    from bascule.app import open_catalogue, open_objects
    from bascule.backups import back_up

    settings = context.local_settings("backup")
    with _progress(quiet=as_json) as tell:
        made = back_up(
            open_catalogue(settings), open_objects(settings), settings.home, file,
            with_ledger=ledger, overwrite=overwrite, tell=tell,
        )  # fmt: skip
    if as_json:
        print_json(made.to_json())
        return
    also = ", and the ledger" if made.has_ledger else ""
    say(
        f"{file}: {_number(made.versions, 'version')}, {_number(made.bundles, 'bundle')}{also}; "
        f"{made.size_bytes / 1e6:,.1f} MB"
    )
    if made.missing:
        note(f"{len(made.missing)} retired versions have no bundle any more: gc removed them")
    note(f"bascule restore {file} --check verifies it")


def restore(
    file: _File,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what is recorded here. Stop servers first.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Verify the file, and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Restore a backup, verified before anything is written, into an empty home or database."""
    from bascule.app import open_catalogue, open_objects
    from bascule.backups import restore as restore_backup

    settings = context.local_settings("restore")
    with _progress(quiet=as_json) as tell:
        made = restore_backup(
            file, open_catalogue(settings, settles=False), open_objects(settings), settings.home,
            force=force, is_trial=check, tell=tell,
        )  # fmt: skip
    if as_json:
        print_json(made.to_json())
        return
    said = made.manifest
    also = " and the ledger" if said.has_ledger else ""
    verb = "holds" if made.is_trial else "restored"
    held = f"{_number(said.versions, 'version')}, {_number(said.bundles, 'bundle')}"
    say(f"{file} {verb} {held}{also} of {said.made_at}")
    if made.needs_force:
        note("what is recorded here is not empty: a restore into it needs --force")
    if not made.is_trial:
        note("bascule models lists the models; bascule serve serves them")


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show the part under way in one line of a terminal."""
    if quiet:
        yield lambda _: None
        return

    with console(stderr=True).status("working") as status:
        yield status.update
