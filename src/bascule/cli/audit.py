"""The commands about the audit chain: who did what, and whether the record is whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.screen import note, print_either, print_json, print_table, say, when

if TYPE_CHECKING:
    from bascule.control import Act

_Reason = Annotated[str, typer.Option("--reason", help="Why, for the history.")]
_ANCHORS = typer.Option(
    "--anchors",
    help="A file of anchors, or s3://BUCKET/PREFIX; may be repeated. Default: audit.anchors.",
    show_default=False,
)


def register(app: typer.Typer) -> None:
    """Add the group `audit` to `app`."""
    group = typer.Typer(
        help="Who did what, from where and why, in a chain that shows every change of it.",
        no_args_is_help=True,
    )
    for name, command in (("log", log), ("verify", verify), ("export", export),
        ("approvals", approvals), ("approve", approve), ("decline", decline),
    ):  # fmt: skip
        group.command(name)(command)
    app.add_typer(group, name="audit")


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
    from itertools import islice

    from bascule.control import Asked

    moments = (None if at is None else at.astimezone() for at in (since, until))
    acts = list(islice(_acts(Asked(about, name, kind, by, *moments)), limit))
    if as_json:
        print_json([_as_json(act) for act in acts])
        return
    rows = [
        (str(act.entry or "-"), when(act.at), act.by, act.sentence, act.reason or "-", _from(act))
        for act in acts
    ]
    print_table(("entry", "when", "by", "what", "why", "from"), rows)


def export(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file. Default: print it.")
    ] = None,
) -> None:
    """Write the whole chain, an entry a line, for `bascule audit verify` or a script."""
    if output is None:
        for line in _chain():
            say(line.decode().rstrip("\n"))
        return
    with output.open("wb") as file:
        file.writelines(_chain())
    note(f"wrote {output}")


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
    from bascule.control import anchors_at, verify as verify_lines

    places = tuple(context.settings().audit.anchors) if anchors is None else tuple(anchors)
    kept = list(anchors_at(places))
    if file is None:
        result = verify_lines(_chain(), kept)
    else:
        with file.open("rb") as lines:
            result = verify_lines(lines, kept)
    if as_json:
        print_json({
            "chain": result.chain, "entries": result.entries, "problems": list(result.problems),
            "anchored": result.anchored,
            "anchored_at": result.anchored_at and result.anchored_at.isoformat(),
        })  # fmt: skip
    else:
        for problem in result.problems:
            say(problem)
        say(f"{result.entries:,} acts, {len(result.problems) or 'no'} problems")
        _tell_window(result.entries, result.anchored, result.anchored_at)
    if result.problems:
        raise typer.Exit(1)


def approvals(as_json: AsJson = False) -> None:
    """List the requests that wait for a second person, and earlier ones; over --server."""
    from dataclasses import asdict

    from bascule.control import operations

    every = context.remote().items(operations.APPROVALS)
    if as_json:
        print_json([
            {**asdict(one), "at": one.at.isoformat(), "ends_at": one.ends_at.isoformat()}
            for one in every
        ])  # fmt: skip
        return
    rows = [
        (one.id, one.state, when(one.at), one.by, one.thing, one.call, one.content) for one in every
    ]
    print_table(("id", "state", "asked", "by", "what", "request", "content"), rows)


def approve(approval: str, reason: _Reason = "", as_json: AsJson = False) -> None:
    """Approve a request of another person, which is done at once; over --server."""
    _decide(approval, "approve", reason, as_json=as_json)


def decline(approval: str, reason: _Reason = "", as_json: AsJson = False) -> None:
    """Decline a request that waits for a second person; over --server."""
    _decide(approval, "decline", reason, as_json=as_json)


def _decide(approval: str, decision: str, reason: str, *, as_json: bool) -> None:
    from bascule.control import operations

    ended = context.remote().ask(
        operations.DECIDE, approval=approval, decision=decision, reason=reason or None
    )
    outcome = ended.outcome.get("answer") or {}
    detail = f": {outcome.get('detail', '')}" if ended.state == "failed" else ""
    print_either(
        {"state": ended.state, "outcome": ended.outcome},
        f"{ended.thing} {ended.state}{detail}",
        as_json=as_json,
    )
    if ended.state == "failed":
        raise typer.Exit(1)


def _tell_window(entries: int, anchored: int, at: datetime | None) -> None:
    if at is None:
        note("no anchors: acts that were cut off at the end cannot be noticed")
    elif entries > anchored:
        note(f"the last {entries - anchored} acts are younger than the last anchor, of {when(at)}")


def _chain() -> Iterator[bytes]:
    if context.is_remote():
        from bascule.control import operations
        from bascule.core import Scratch

        with Scratch("bascule-audit-") as folder:
            context.control_client().download(operations.EXPORT_CHAIN.path, folder / "chain")
            with (folder / "chain").open("rb") as file:
                yield from file
        return
    from functools import partial

    from bascule.app import open_catalogue
    from bascule.control import export

    yield from export(partial(open_catalogue, context.settings()))


def _acts(asked: Any) -> Iterator[Act]:
    if context.is_remote():
        from bascule.control import operations

        filters = {
            "about": asked.about, "name": asked.name, "kind": asked.kind, "by": asked.by,
            "since": asked.since and asked.since.isoformat(),
            "until": asked.until and asked.until.isoformat(),
        }  # fmt: skip
        given = {name: value for name, value in filters.items() if value}
        return context.remote().each(operations.HISTORY, **given)
    from functools import partial

    from bascule.app import open_catalogue
    from bascule.control import History

    return History(partial(open_catalogue, context.settings())).all(asked, with_keys=True)


def _from(act: Act) -> str:
    origin = act.origin
    caller = next((origin[name] for name in ("session", "key") if name in origin), "")
    return " ".join(filter(None, (origin.get("via"), caller, origin.get("address")))) or "-"


def _as_json(act: Act) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(act), "at": act.at.isoformat()}
