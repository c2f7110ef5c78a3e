"""The commands about rollouts under way: status, pause, resume, abort, promote, replay."""

from __future__ import annotations

import math
import shutil
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, Reason
from bascule.cli.screen import note, print_either, print_json, print_table, say, table, when

if TYPE_CHECKING:
    from bascule.release.rollouts import Command, RolloutBook, SteeredValues, StoredRollout

_Name = Annotated[
    str, typer.Argument(help="The rollout's id, or its endpoint.", show_default=False)
]
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH, _LEAST_WIDTH, _BESIDE = 60, 10, 52
"""Characters of the evidence, and of the words beside it."""
_EVIDENCE = "evidence of harm"
_EVERY_S = 1.0

rollout_group = context.group_of("Look at rollouts, and command them.")


@rollout_group.command()
def status(
    name: Annotated[
        str | None,
        typer.Argument(help="A rollout's id, or an endpoint. Default: all.", show_default=False),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show it until its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """List rollouts; or tell one as a story, with its evidence."""
    import msgspec

    book = context.rollouts()
    if name is None:
        found = book.rollouts()
        shown = table(
            ("rollout", "candidate", "strategy", "state", "asked"), map(_row, found),
            empty="no rollouts; bascule deploy MODEL/VERSION --strategy canary begins one",
        )  # fmt: skip
        print_either([_as_json(one) for one in found], shown, as_json=as_json)
        return
    stored = book.get(name)
    if as_json:
        values = book.values(stored.rollout.id) if stored.rollout.context else None
        more = {"story": _story(book, stored.rollout.id), "values": msgspec.to_builtins(values)}
        print_json(_as_json(stored) | more)
        return
    if not follow or stored.ended_at is not None:
        for line in _lines(book, stored):
            say(line)
        if stored.rollout.context:
            _tell_values(book.values(stored.rollout.id))
    elif sys.stdout.isatty():
        _show_live(book, stored)
    else:
        _print_news(book, stored)


def _show_live(book: RolloutBook, stored: StoredRollout) -> None:
    """The story, redrawn each second until the rollout ends or the user has seen enough."""
    from rich.live import Live
    from rich.text import Text

    def picture() -> Text:
        return Text("\n".join(_lines(book, stored)))

    with suppress(KeyboardInterrupt), Live(picture(), auto_refresh=False) as live:
        while stored.ended_at is None:
            time.sleep(_EVERY_S)
            stored = book.get(stored.rollout.id)
            live.update(picture(), refresh=True)


def _print_news(book: RolloutBook, stored: StoredRollout) -> None:
    """For a log: each line once, when it is new."""
    told: set[str] = set()
    while True:
        for line in _lines(book, stored):
            if line not in told and not line.startswith(_EVIDENCE):
                say(line)
                told.add(line)
        if stored.ended_at is not None:
            return
        time.sleep(_EVERY_S)
        stored = book.get(stored.rollout.id)


@rollout_group.command()
def pause(name: _Name, reason: Reason = "", as_json: AsJson = False) -> None:
    """Keep the shares as they are. Harm still rolls back."""
    _command(name, "pause", reason, as_json=as_json)


@rollout_group.command()
def resume(name: _Name, reason: Reason = "", as_json: AsJson = False) -> None:
    """Go on with a paused rollout."""
    _command(name, "resume", reason, as_json=as_json)


@rollout_group.command()
def abort(name: _Name, reason: Reason = "", as_json: AsJson = False) -> None:
    """Give all traffic back to the current version."""
    _command(name, "abort", reason, as_json=as_json)


@rollout_group.command()
def promote(
    name: _Name,
    reason: Reason = "",
    allow_answers: Annotated[
        bool,
        typer.Option(
            "--allow-answers",
            help="Also where its answers differ from those of the current version.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Approve the last step, or give the candidate all traffic before there is proof."""
    _command(name, "promote", reason, as_json=as_json, allow_answers=allow_answers)


@rollout_group.command()
def replay(name: _Name, as_json: AsJson = False) -> None:
    """Make every decision again from the stored evidence; exit code 1 if one differs."""
    book = context.rollouts()
    differing = book.replay(name)
    decided = sum(one.decision.is_by_evidence for one in book.decisions(name))
    if as_json:
        print_json({"decisions": decided, "differing": differing})
    else:
        for line in differing:
            say(line)
        say(f"{decided} decisions made again from the evidence, {len(differing)} differ")
    if differing:
        raise typer.Exit(1)


def _command(
    name: str, command: Command, reason: str, *, as_json: bool, allow_answers: bool = False
) -> None:
    import msgspec

    made = context.rollouts().command(
        name, command, by=context.user(), reason=reason, allow_answers=allow_answers
    )
    if as_json:
        print_json(msgspec.to_builtins(made))
    else:
        say(made.sentence)
        note("servers follow within a second: bascule rollout status")


def _as_json(stored: StoredRollout) -> dict[str, object]:
    import msgspec

    shown: dict[str, object] = msgspec.to_builtins(stored)
    del shown["decisions"]
    return shown


def _story(book: RolloutBook, rollout: str) -> list[object]:
    import msgspec

    return [msgspec.to_builtins(one) for one in book.decisions(rollout)]


def _tell_values(values: SteeredValues) -> None:
    print_table(
        ("answered by", "reward", "95 %"),
        [
            (policy, f"{reward.value:.4f}", f"{reward.low:.4f} to {reward.high:.4f}")
            for policy, reward in values.values.items()
        ],
        empty="too few answers with an outcome to estimate rewards",
    )
    note(f"rewards had all requests been answered so; doubly robust, {values.answers:,} answers")


def _row(stored: StoredRollout) -> tuple[str, ...]:
    rollout = stored.rollout
    asked = f"{when(rollout.started_at)} by {stored.created_by}"
    return rollout.id, rollout.candidate, rollout.strategy, stored.state, asked


def _lines(book: RolloutBook, stored: StoredRollout) -> list[str]:
    """The decisions so far; of a rollout under way also the latest look and its evidence."""
    made = [f"{when(one.at)}  {one.decision.sentence}" for one in book.decisions(stored.rollout.id)]
    latest = stored.latest
    if latest is None:
        made.append(f"asked for; a server that serves {stored.rollout.endpoint} begins it")
    elif stored.ended_at is None:
        made.append(f"now  {latest.sentence}")
        width = min(_WIDTH, max(shutil.get_terminal_size().columns - _BESIDE, _LEAST_WIDTH))
        line = sparkline(book.evidence(stored.rollout.id), stored.rollout.alpha, width)
        made += [line] if line else []
    return made


def sparkline(log_es: list[float | None], alpha: float, width: int = _WIDTH) -> str:
    """The evidence of harm so far; a full bar rolls back."""
    known = [one for one in log_es if one is not None]
    if not known:
        return ""
    step = max(len(known) / width, 1.0)
    shown = [known[int(place * step)] for place in range(int(len(known) / step))]
    needed = -math.log(alpha)
    bars = [
        _BARS[min(int(max(one, 0.0) / needed * (len(_BARS) - 1)), len(_BARS) - 1)] for one in shown
    ]
    odds = f"{math.exp(min(known[-1], 30.0)):,.2g}"
    return f"{_EVIDENCE} {''.join(bars)} {odds} to 1; rolls back at {1 / alpha:g} to 1"
