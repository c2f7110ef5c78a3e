"""`bascule top`: what a running server does, as it does it."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from bascule.cli.screen import print_json, say
from bascule.core import Invalid, Unavailable, masked_text
from bascule.documents import Span, Table, bars, console, table_for
from bascule.serving.telemetry import Load, Look, VersionLoad, WorkerLoad, load_between

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table as RichTable

_TREND = 40
_LINES_BESIDE_VERSIONS = 9

Ask = Callable[[], Look]
"""Asks the server for a look at it."""


def show_load(ask: Ask, *, every_s: float, once: bool, as_json: bool) -> None:
    """Show what a server does, until the user has seen enough.

    Args:
        ask: Asks the server; see `GET /api/v1/server/load`.
        every_s: How long to look before telling.
        once: Tell once and return.
        as_json: For programs: one document, or one line each time.

    Raises:
        Unavailable: There is no server. One that goes away later is waited for.
        Invalid: Nobody could read it: standard output is no terminal.
    """
    is_terminal = sys.stdout.isatty()
    if not once and not as_json and not is_terminal:
        raise Invalid(
            "a live view needs a terminal", hint="look once with --once, or add --json for lines"
        )
    before = ask()
    if not once and not as_json:
        with suppress(KeyboardInterrupt):  # how one says that one has seen enough
            _show_live(ask, before, every_s)
        return
    while True:
        time.sleep(every_s)
        after = ask()
        load = load_between(before, after)
        before = after
        if once and not as_json:
            console(markup=False, width=None if is_terminal else 120).print(picture(after, load))
        elif once:
            print_json(asdict(load))
        else:
            say(json.dumps(asdict(load)))
        if once:
            return


def _show_live(ask: Ask, before: Look, every_s: float) -> None:
    from rich.live import Live
    from rich.text import Text

    trend: deque[float] = deque(maxlen=_TREND)
    waiting = Text(f"looking for {every_s:g} s ...")
    with Live(waiting, console=console(), screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every_s)
            try:
                after = ask()
            except Unavailable as error:
                said = masked_text(error.message)
                live.update(Text(f"{said}; trying again", "red"), refresh=True)
                continue
            load = load_between(before, after)
            before = after
            trend.append(load.inference.requests_per_s)
            most = max(3, live.console.height - _LINES_BESIDE_VERSIONS - len(load.workers))
            live.update(picture(after, load, trend, most), refresh=True)


def picture(
    look: Look, load: Load, trend: deque[float] | None = None, most_versions: int = 1_000
) -> RenderableType:
    """What there is to see, for a terminal.

    Args:
        look: The newer look.
        load: What was done before it.
        trend: Requests a second of the last looks, the newest last.
        most_versions: How many versions there is room for; the busiest are shown.
    """
    from rich.console import Group
    from rich.text import Text

    alive = sum(one.alive for one in load.workers)
    all_alive = alive == len(load.workers)
    head = Text.assemble(
        ("bascule ", "bold"), f"{look.version}  ",
        (f"{alive} of {len(load.workers)} workers", "" if all_alive else "bold red"),
        f"  {load.inference.requests_per_s:,.0f} requests/s",
        f"  {load.inference.rows_per_s:,.0f} rows/s  ",
        (f"{load.inference.errors_per_s:,.1f} errors/s", _alarm(load.inference.errors_per_s)),
        f"  {load.other.requests_per_s:,.1f} other/s",
        no_wrap=True, overflow="ellipsis",
    )  # fmt: skip
    parts: list[RenderableType] = [head]
    if trend:
        parts.append(Text(bars(list(trend), low=0.0), "cyan"))
    shown = sorted(
        (one for one in load.versions if one.is_served or one.requests),
        key=lambda one: (-one.requests_per_s, not one.is_served, one.model, one.version),
    )
    parts.append(_versions(shown[:most_versions]))
    if len(shown) > most_versions:
        parts.append(Text(f"and {len(shown) - most_versions} versions that are less busy", "dim"))
    parts.append(_workers(load.workers))
    return Group(*parts)


def _versions(versions: list[VersionLoad]) -> RichTable:
    # Short headings: with the longest figures the table fits 80 columns.
    heads = ("version", "req/s", "err/s", "rows/s", "p50", "p99", "open", "total")
    rows = tuple(
        (
            f"{one.model}/{one.version}" + ("" if one.is_served else " (unloaded)"),
            f"{one.requests_per_s:,.1f}",
            Span(f"{one.errors_per_s:,.1f}", "bad") if one.errors_per_s else "0.0",
            f"{one.rows_per_s:,.1f}",
            _duration(one.p50_s),
            _duration(one.p99_s),
            f"{one.open_calls:,}",
            f"{one.requests:,}",
        )
        for one in versions
    )
    return table_for(Table(heads, rows, heads[1:]))


def _workers(workers: tuple[WorkerLoad, ...]) -> RichTable:
    heads = ("worker", "process", "state", "cpu", "memory", "models", "restarts")
    rows = tuple(
        (
            str(one.worker),
            str(one.pid),
            "answers" if one.alive else Span("away", "bad"),
            f"{one.cpu_percent:.0f} %",
            f"{one.rss_bytes / 1e6:,.0f} MB",
            f"{one.models_bytes / 1e6:,.1f} MB",
            str(one.restarts),
        )
        for one in workers
    )
    return table_for(Table(heads, rows, heads[1:]))


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.3g} ms"


def _alarm(errors_per_s: float) -> str:
    return "bold red" if errors_per_s else ""
