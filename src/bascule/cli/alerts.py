"""The commands about alerts: list, acknowledge, silence, try a receiver, rules of Prometheus."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.screen import note, print_either, print_json, print_table, say, when
from bascule.core import Invalid, seconds_of

if TYPE_CHECKING:
    from bascule.monitoring.alerts import Alert, AlertStore, RemoteAlerts, Silence

_Why = Annotated[
    str, typer.Option("--reason", "--why", help="The reason, for the history.", show_default=False)
]


def list_alerts(
    model: Annotated[
        str | None, typer.Option(help="Of this model alone.", show_default=False)
    ] = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Resolved alerts too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the alerts. The exit code is 1 if one fires."""
    from bascule.monitoring.alerts import shown

    book, now = _book(), datetime.now(UTC)
    found, silences = book.alerts(resolved=resolved, model=model), book.silences(now)
    away = [] if context.is_remote() else _store().undelivered()
    if as_json:
        print_json(
            {
                "alerts": [shown(one) for one in found],
                "silences": [asdict(one) for one in silences],
                "undelivered": away,
            }
        )
    else:
        _print(found, silences, now)
        for lost in away:
            note(
                f"not delivered to {lost['receiver']} ({lost['state']}, "
                f"{lost['attempts']} attempts): {lost['problem']}"
            )
    if any(one.state == "firing" for one in found):
        raise typer.Exit(1)


def ack(
    alert: Annotated[str, typer.Argument(metavar="ALERT", help="Its id.", show_default=False)],
    why: _Why,
    as_json: AsJson = False,
) -> None:
    """Acknowledge an alert: it is not repeated while it fires."""
    from bascule.monitoring.alerts import shown

    made = _book().acknowledge(alert, by=context.user(), why=why, now=datetime.now(UTC))
    print_either(shown(made), f"acknowledged {made.id}: {made.finding.sentence}", as_json=as_json)


def silence(
    why: _Why,
    lasts: Annotated[str, typer.Option("--for", help="How long: 30m, 2h, 7d.")] = "2h",
    alert: Annotated[
        str | None, typer.Option(help="This alert alone, by its id.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A model, or a pattern: 'late*'.", show_default=False)
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            help="health, ledger, drift, performance, fairness, queries and so on. Default: all."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Keep notifications back for some time; alerts that still fire then are notified."""
    if (alert is None) == (model is None):
        raise Invalid("silence: name --alert or --model, one of them", hint="--model '*' is all")
    now, book = datetime.now(UTC), _book()
    if alert is not None:
        model = book.find(alert).finding.model or "*"
    until = now + timedelta(seconds=seconds_of(lasts, "--for"))
    made = book.silence(
        by=context.user(), why=why, until=until, now=now, model=model or "*", source=source,
        alert=alert or "",
    )  # fmt: skip
    print_either(asdict(made), f"silence {made.id} until {when(made.until)}", as_json=as_json)


def unsilence(
    silence: Annotated[str, typer.Argument(help="Its id.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """End a silence now."""
    ended = _book().end_silence(silence, by=context.user(), now=datetime.now(UTC))
    print_either(asdict(ended), f"ended silence {ended.id}", as_json=as_json)


def try_out(
    receiver: Annotated[
        str | None, typer.Argument(help="Its name. Default: all.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send a notification for trial. The exit code is 1 if a receiver does not take it."""
    from bascule.app import receivers_of
    from bascule.monitoring.alerts import try_receivers

    known = {one.name: one for one in receivers_of(context.settings())}
    if not known or (receiver is not None and receiver not in known):
        raise Invalid(
            f"there is no receiver {receiver!r}" if receiver else "there are no receivers",
            hint=f"receivers are {', '.join(known)}" if known else "add [alerts.receivers.NAME]",
        )
    chosen = [known[receiver]] if receiver else list(known.values())
    found = try_receivers(chosen, datetime.now(UTC))
    if as_json:
        print_json([{"receiver": name, "problem": problem} for name, problem in found.items()])
    else:
        for name, problem in found.items():
            say(f"{name}: {problem or 'taken'}")
    if any(found.values()):
        raise typer.Exit(1)


def rules() -> None:
    """Print rules for Prometheus, on the metrics of `/metrics`."""
    from bascule.monitoring.alerts import shipped

    say(shipped("rules.yml").rstrip())


def dashboard() -> None:
    """Print a dashboard for Grafana, on the metrics of `/metrics`."""
    from bascule.monitoring.alerts import shipped

    say(shipped("dashboard.json").rstrip())


def _book() -> AlertStore | RemoteAlerts:
    if not context.is_remote():
        return _store()
    from bascule.monitoring.alerts import RemoteAlerts

    return RemoteAlerts(context.control_client())


def _store() -> AlertStore:
    from bascule.app import open_alerts

    return open_alerts(context.settings())


def _print(found: list[Alert], silences: list[Silence], now: datetime) -> None:
    rows = [
        (
            one.id,
            _state(one, silences, now),
            when(one.since),
            one.finding.severity,
            one.finding.sentence,
        )
        for one in found
    ]
    if rows:
        print_table(("id", "state", "since", "severity", "what"), rows)
    else:
        say("no alerts")
    for one in silences:
        what = one.alert or f"{one.model} {one.source}".strip()
        note(f"silence {one.id}: {what} until {when(one.until)}, by {one.by}: {one.why}")


def _state(alert: Alert, silences: list[Silence], now: datetime) -> str:
    noted = alert.acknowledgement
    if any(one.holds(alert, now) for one in silences):
        return f"{alert.state}, silenced"
    return f"{alert.state}, acknowledged by {noted.by}" if noted else alert.state


alerts_group = context.group_of(
    "What is wrong, and which receivers know.", list=list_alerts, ack=ack, silence=silence,
    unsilence=unsilence, test=try_out, rules=rules, dashboard=dashboard,
)  # fmt: skip
