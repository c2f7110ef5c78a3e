"""The commands about the audit chain: who did what, and whether the record is whole."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from bascule.cli import context
from bascule.cli.context import AsJson, Reason
from bascule.cli.screen import Output, note, print_either, print_json, say, table, when

if TYPE_CHECKING:
    from bascule.control import Act

_ANCHORS = typer.Option(
    "--anchors",
    help="A file of anchors, or s3://BUCKET/PREFIX; may be repeated. Default: audit.anchors.",
    show_default=False,
)


def log(
    by: Annotated[str, typer.Option(help="Of this user or key.", show_default=False)] = "",
    about: Annotated[str, typer.Option(help="Kind: model, endpoint, key, job.")] = "",
    name: Annotated[str, typer.Option(help="Of the model, endpoint...")] = "",
    kind: Annotated[str, typer.Option(help="What happened: alias_moved, refused.")] = "",
    since: Annotated[datetime | None, typer.Option(help="From then on, UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before then, UTC.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List acts, the latest first, with the key, the session and the address of the caller."""
    from bascule.app import open_catalogue
    from bascule.control import Asked, History, operations

    moments = (None if at is None else at.astimezone() for at in (since, until))
    asked = Asked(about, name, kind, by, *moments)
    if context.is_remote():
        filters = {name: value for name, value in msgspec.to_builtins(asked).items() if value}
        every = context.remote().each(operations.HISTORY, **filters)
    else:
        every = History(partial(open_catalogue, context.settings())).all(asked, with_keys=True)
    acts = list(islice(every, limit))
    rows = [
        (str(act.entry or "-"), when(act.at), act.by, act.sentence, act.reason or "-", _from(act))
        for act in acts
    ]
    shown = table(("entry", "when", "by", "what", "why", "from"), rows)
    print_either(msgspec.to_builtins(acts), shown, as_json=as_json)


def export(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file. Default: print it.")
    ] = None,
) -> None:
    """Write the whole chain, an entry a line, for `bascule audit verify` or a script."""
    from bascule.core import Scratch

    if output is not None:
        _write(output)
        note(f"wrote {output}")
        return
    with Scratch("bascule-audit-") as folder, _write(folder / "chain").open() as file:
        Output().writelines(file)


def verify(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="What `bascule audit export` wrote. Default: the chain of the catalogue.",
            show_default=False,
        ),
    ] = None,
    anchors: Annotated[list[str] | None, _ANCHORS] = None,
    as_json: AsJson = False,
) -> None:
    """Verify that no act was changed, dropped, added or moved; exit code 1 if one was."""
    from bascule.app import open_catalogue
    from bascule.catalogue import chain, sealing
    from bascule.control import read_anchors
    from bascule.core import Scratch

    places = context.settings().audit.anchors if anchors is None else anchors
    kept = [anchor for place in places for anchor in read_anchors(place)]
    if file is None and not context.is_remote():
        result = sealing.verify(open_catalogue(context.settings()).read, kept)
    else:
        with (
            Scratch("bascule-audit-") as folder,
            (file or _write(folder / "chain")).open("rb") as lines,
        ):
            result = chain.verify(*chain.read_export(lines), kept)
    if as_json:
        print_json(msgspec.to_builtins(result))
    else:
        for problem in result.problems:
            say(problem)
        say(f"{result.entries:,} acts, {len(result.problems) or 'no'} problems")
        younger = result.entries - result.anchored
        if result.anchored_at is None:
            note("no anchors: acts that were cut off at the end cannot be noticed")
        elif younger > 0:
            at = when(result.anchored_at)
            note(f"the last {younger} acts are younger than the last anchor, of {at}")
    if result.problems:
        raise typer.Exit(1)


def approvals(as_json: AsJson = False) -> None:
    """List the requests that wait for a second person, and earlier ones; over --server."""
    from bascule.control import operations

    every = context.remote().items(operations.APPROVALS)
    rows = [
        (one.id, one.state, when(one.at), one.by, one.thing, one.call, one.content) for one in every
    ]
    shown = table(("id", "state", "asked", "by", "what", "request", "content"), rows)
    print_either(msgspec.to_builtins(every), shown, as_json=as_json)


def approve(approval: str, reason: Reason = "", as_json: AsJson = False) -> None:
    """Approve a request of another person, which is done at once; over --server."""
    _decide(approval, "approve", reason, as_json=as_json)


def decline(approval: str, reason: Reason = "", as_json: AsJson = False) -> None:
    """Decline a request that waits for a second person; over --server."""
    _decide(approval, "decline", reason, as_json=as_json)


def _decide(approval: str, decision: str, reason: str, *, as_json: bool) -> None:
    from bascule.control import operations

    ended = context.remote().ask(
        operations.DECIDE, approval=approval, decision=decision, reason=reason or None
    )
    detail = (ended.outcome.get("answer") or {}).get("detail", "")
    has_failed = ended.state == "failed"
    sentence = f"{ended.thing} {ended.state}" + (f": {detail}" if has_failed else "")
    shown = {"state": ended.state, "outcome": ended.outcome}
    print_either(shown, sentence, as_json=as_json)
    if has_failed:
        raise typer.Exit(1)


def _write(file: Path) -> Path:
    """Write the chain of the catalogue, or of `--server`."""
    from bascule.app import open_catalogue
    from bascule.catalogue import sealing
    from bascule.control import operations

    if context.is_remote():
        context.control_client().download(operations.EXPORT_CHAIN.path, file)
    else:
        with file.open("wb") as output:
            output.writelines(sealing.export(open_catalogue(context.settings()).read))
    return file


def _from(act: Act) -> str:
    origin = act.origin
    caller = origin.get("session") or origin.get("key") or ""
    return " ".join(filter(None, (origin.get("via"), caller, origin.get("address")))) or "-"


audit_group = context.group_of(
    "Who did what, from where and why, in a chain that shows every change of it.",
    log, verify, export, approvals, approve, decline,
)  # fmt: skip
