"""`bascule ledger status` and `ledger delete`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from bascule.cli import context
from bascule.cli.screen import confirm, print_either, print_json, print_table, say
from bascule.core import counted

_SHOWN_GAPS = 5


def status(as_json: context.AsJson = False) -> None:
    """Show what the ledger holds by day, what waits in the spool, gaps and hosts."""
    from bascule.app import open_ledger
    from bascule.monitoring.ledger import read_status

    settings = context.settings()
    open_ledger(settings)
    found = read_status(settings.home)
    if as_json:
        print_json(asdict(found) | {"rows": found.rows, "size_bytes": found.size_bytes})
        return
    print_table(
        ("model", "day", "rows", "segments", "MB"),
        [
            (one.model, one.day, f"{one.rows:,}", str(one.segments), f"{one.size_bytes / 1e6:,.1f}")
            for one in found.days
        ],
        right=("rows", "segments", "MB"),
        empty="no answers yet: bascule serve records them",
    )
    say(f"{counted(found.rows, 'row')}, {found.size_bytes / 1e6:,.1f} MB")
    waiting = f"{found.spool_bytes / 1e6:,.1f} MB wait in the spool"
    scribe = "a scribe runs" if found.has_scribe else "no scribe runs"
    say(f"{waiting}, for {found.lag_s:,.0f} s; {scribe}")
    if found.dropped:
        say(f"not recorded for lack of space: {counted(found.dropped, 'request')}")
    if found.deletions:
        say(f"asked for and not carried out: {counted(found.deletions, 'deletion')}")
    for name, written_at in found.hosts.items():
        say(f"host {name}: last written {written_at}")
    for gap in found.gaps[-_SHOWN_GAPS:]:
        say(f"{gap.requests:,} requests of {gap.writer} are missing ({gap.why}, {gap.found_at})")


def delete(
    where: Annotated[
        str, typer.Option(help="One SQL condition over predictions: \"caller = 'key-7'\".")
    ],
    model: Annotated[str, typer.Option(help="The model whose answers are looked at.")],
    reason: context.Reason = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Count, and delete nothing.")] = False,
    as_json: context.AsJson = False,
) -> None:
    """Delete rows of the ledger, with the outcomes of these rows, for good.

    The history records who deleted how many rows, and why. Profiles keep their counts.
    """
    from bascule.app import open_catalogue, open_ledger
    from bascule.monitoring.ledger import delete_and_record, matching

    settings = context.local_settings("ledger delete")
    found = matching(open_ledger(settings), model, where)
    if not as_json:
        say(
            f"matching: {counted(found.rows, 'row')} of {counted(found.requests, 'request')} of "
            f"{model}, and {counted(found.outcomes, 'outcome')}"
        )
    if dry_run or not found.rows:
        if as_json:
            print_json(asdict(found) | {"deleted": False})
        return
    if not yes:
        confirm("Delete them for good?")
    done = delete_and_record(
        open_catalogue(settings), settings.home, model, where, by=context.user(), reason=reason
    )
    print_either(
        {"deleted": True, "rows": done.rows, "outcomes": done.outcomes},
        f"deleted {counted(done.rows, 'row')} and {counted(done.outcomes, 'outcome')}",
        as_json=as_json,
    )
