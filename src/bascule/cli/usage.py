"""`bascule usage`: requests, rows, errors and cost by caller, model or project."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.screen import Output, note, print_json, print_table
from bascule.core import Invalid, seconds_of

if TYPE_CHECKING:
    from bascule.monitoring import UsageAsked
    from bascule.monitoring.ledger import Usage, UsageLine


def usage(
    by: Annotated[str, typer.Option(help="caller, model or project.")] = "caller",
    since: Annotated[
        str, typer.Option(help="The first UTC day, as 2026-11-01, or how far back: 7d.")
    ] = "29d",
    until: Annotated[
        str, typer.Option(help="The last UTC day, as 2026-11-30, or how far back.")
    ] = "0s",
    project: Annotated[
        str, typer.Option(help="Of the models of this project alone.", show_default=False)
    ] = "",
    as_json: context.AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a table for spreadsheets.")] = False,
) -> None:
    """Show requests, rows, errors and cost by caller, model or project, from the ledger."""
    from bascule.monitoring import UsageAsked, as_csv as csv_lines

    way: Any = by
    if by not in ("caller", "model", "project"):
        raise Invalid(f"--by: {by!r} is not known", hint="use caller, model or project")
    read = _read(UsageAsked.of(way, _day(since, "--since"), _day(until, "--until"), project))
    if as_json:
        import msgspec

        print_json(msgspec.to_builtins(read))
    elif as_csv:
        Output().writelines(csv_lines(read))
    else:
        _show(read)


def _read(asked: UsageAsked) -> Usage:
    if not context.is_remote():
        from bascule.app import usage_by

        return usage_by(context.settings(), asked)
    from bascule.monitoring.ledger import operations

    operation = operations.USAGE
    return operation.read(context.control_client().do(operation.name, **asked._asdict()))


def _day(text: str, option: str) -> date:
    """The UTC day of `2026-11-01`, or of a time so far back. Raises `Invalid`."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        return (datetime.now(UTC) - timedelta(seconds=seconds_of(text, option))).date()


def _show(read: Usage) -> None:
    columns = ["requests", "rows", "refused", "errors", "server time"]
    columns += [f"cost, {read.currency}"] if read.currency else []
    lines = [*read.lines, *([read.total] if read.total and read.lines else [])]
    span = f"from {read.since} to {read.until} (UTC days)"
    nothing = f"no request {span}" if read.total else f"usage {span} is not known"
    print_table((read.by, *columns), list(map(_cells, lines)), right=columns, empty=nothing)
    for text in read.notes:
        note(text)


def _cells(line: UsageLine) -> list[str]:
    counts = (line.requests, line.rows, line.refused, line.errors)
    cost = [] if line.cost is None else [f"{line.cost:,.4f}"]
    return [line.name, *(f"{count:,}" for count in counts), f"{line.server_s:,.1f} s", *cost]
