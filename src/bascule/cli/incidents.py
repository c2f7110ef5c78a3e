"""`bascule incident`: the draft of a postmortem."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.jobs import run_here
from bascule.cli.screen import note, print_json, say
from bascule.core import Invalid, seconds_of


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
    from bascule.core import replacing

    now = datetime.now(UTC)
    found = _drafted(endpoint, start_of(since, now), now)
    made = found["incident"]
    if as_json:
        print_json(made)
    elif to is None:
        say(found["markdown"].rstrip("\n"))
    else:
        with replacing(to) as draft:
            draft.write_text(found["markdown"], encoding="utf-8")
        events, questions = len(made["timeline"]), len(made["questions"])
        note(f"{to}: {events} events, {questions} open questions")


def _drafted(endpoint: str, since: datetime, until: datetime) -> dict[str, Any]:
    """The draft as JSON and as a page, made here or by `--server`."""
    times = {"since": since.isoformat(), "until": until.isoformat()}
    if context.is_remote():
        from bascule.control import operations

        return asdict(context.remote().ask(operations.INCIDENT, endpoint=endpoint, **times))
    return run_here("incident", {"endpoint": endpoint, **times})


def start_of(since: str, now: datetime) -> datetime:
    """The moment that --since names: a length of time before now, or a local time."""
    try:
        found = datetime.fromisoformat(since).astimezone(UTC)
    except (ValueError, OverflowError):
        try:
            found = now - timedelta(seconds=seconds_of(since, "--since"))
        except Invalid:
            raise Invalid(
                f"--since {since!r} is neither a length of time nor a time",
                hint="write 30m, 24h, 7d or 2026-11-26T14:00",
            ) from None
    if found >= now:
        raise Invalid(f"--since {since!r} is not in the past", hint="write 24h for a day")
    return found
