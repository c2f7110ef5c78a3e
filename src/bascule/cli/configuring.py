"""The command `apply`: endpoints, schedules, keys and silences as a file says."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, Reason
from bascule.cli.screen import note, print_json, say, say_sentences
from bascule.core import counted

if TYPE_CHECKING:
    from bascule.configuring import Applied


def apply(
    file: Annotated[Path, typer.Option("--file", "-f", help="The YAML file.", show_default=False)],
    diff: Annotated[
        bool, typer.Option("--diff", help="Tell what would change, and stop; exit 1 if anything.")
    ] = False,
    tokens: Annotated[
        Path | None,
        typer.Option(help="A file for the secrets of new keys: JSON by name.", show_default=False),
    ] = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Make endpoints, schedules, keys and silences be as a file says. Again, it changes nothing."""
    from bascule.core import Invalid

    planned = _apply(file, reason, dry_run=True)
    if diff or not planned.changes:
        _tell(planned, as_json=as_json)
        raise typer.Exit(1 if planned.changes else 0)
    if tokens is None and any(one.sentence.startswith("make key ") for one in planned.changes):
        raise Invalid(
            "a key would be made, and its secret is shown nowhere again",
            hint="name a file that takes it: --tokens FILE",
        )
    if tokens is not None:
        _check_tokens(tokens)
    made = _apply(file, reason, dry_run=False)
    if tokens is not None and made.tokens:
        _write_tokens(tokens, made.tokens)
    _tell(made, as_json=as_json)


def _apply(file: Path, reason: str, *, dry_run: bool) -> Applied:
    from bascule.configuring import apply as apply_here, apply_remotely, read_document, with_folder

    document, user = read_document(file), context.user()
    if context.is_remote():
        client = context.control_client()
        return apply_remotely(document, client, by=user, reason=reason, dry_run=dry_run)
    from bascule.app import open_books

    return apply_here(
        with_folder(document, file.absolute().parent), open_books(context.settings()),
        by=user, reason=reason, dry_run=dry_run,
    )  # fmt: skip


def _check_tokens(file: Path) -> None:
    from bascule.core import Conflict, check_writable

    check_writable(file)
    if file.exists():
        raise Conflict(f"{file} exists already", hint="move it away: it holds secrets of keys")


def _write_tokens(file: Path, tokens: dict[str, str]) -> None:
    from bascule.core import replacing

    with replacing(file) as draft:
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(tokens, indent=1) + "\n")
    note(f"the secrets of {', '.join(tokens)} are in {file}")


def _tell(made: Applied, *, as_json: bool) -> None:
    if as_json:
        said = asdict(made)
        del said["tokens"]  # they are in the file of --tokens alone
        print_json(said)
        return
    if not made.changes:
        say("nothing to change")
        return
    for one in made.changes:
        say_sentences(f"{one.place}: {one.sentence}")
    many = counted(len(made.changes), "change")
    say(f"{many} made" if made.applied else f"{many} would be made")
