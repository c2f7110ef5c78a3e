"""`bascule incident`: the draft of a postmortem."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.screen import note, print_json, say
from bascule.core import Invalid, seconds_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(incident)


def incident(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name.", show_default=False)],
    since: Annotated[
        str, typer.Option(help="The start: 2h, 7d, or a time such as 2026-11-26T14:00.")
    ] = "24h",
    to: Annotated[
        Path | None, typer.Option(help="Write the draft to this file.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draft a blameless postmortem: timeline, evidence, exposure, notifications, questions."""
    import msgspec

    from bascule.app import open_catalogue, open_ledger
    from bascule.core import replacing
    from bascule.release import incidents

    registry = context.local_registry("incident")
    settings, now = context.settings(), datetime.now(UTC)
    facts = incidents.gather(
        endpoint, since=start_of(since, now), until=now, catalogue=open_catalogue(settings),
        registry=registry, ledger=open_ledger(settings),
    )  # fmt: skip
    made = incidents.draft(facts)
    if as_json:
        print_json(msgspec.to_builtins(made))
        return
    text = incidents.to_markdown(made)
    if to is None:
        say(text.rstrip("\n"))
    else:
        with replacing(to) as draft:
            draft.write_text(text, encoding="utf-8")
        note(f"{to}: {len(made.timeline)} events, {len(made.questions)} open questions")


def start_of(since: str, now: datetime) -> datetime:
    """The moment that --since names: a length of time before now, or a local time."""
    try:
        found = datetime.fromisoformat(since).astimezone(UTC)
    except ValueError:
        try:
            found = now - timedelta(seconds=seconds_of(since, "--since"))
        except (Invalid, OverflowError):
            raise Invalid(
                f"--since {since!r} is neither a length of time nor a time",
                hint="write 30m, 24h, 7d or 2026-11-26T14:00",
            ) from None
    if found >= now:
        raise Invalid(f"--since {since!r} is not in the past", hint="write 24h for a day")
    return found
