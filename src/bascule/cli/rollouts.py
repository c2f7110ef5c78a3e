"""The commands about rollouts under way: status, pause, resume, abort, promote, replay."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.screen import note, print_json, print_table, say, when

if TYPE_CHECKING:
    from bascule.release.rollouts import Command, RolloutBook, StoredRollout

_Name = Annotated[
    str, typer.Argument(help="The rollout's id, or its endpoint.", show_default=False)
]
_Reason = Annotated[str, typer.Option(help="Why, for the history.")]
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 60

_group = typer.Typer(help="Look at rollouts, and command them.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(_group, name="rollout")


@_group.command()
def status(
    name: Annotated[
        str | None,
        typer.Argument(help="A rollout's id, or an endpoint. Default: all.", show_default=False),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show it until its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """List rollouts; or tell one as a story, with its evidence."""
    book = context.rollouts()
    if name is None:
        found = book.rollouts()
        if as_json:
            print_json([_as_json(one) for one in found])
        else:
            print_table(
                ("rollout", "candidate", "strategy", "state", "asked"), map(_row, found),
                empty="no rollouts; bascule deploy MODEL/VERSION --strategy canary begins one",
            )  # fmt: skip
        return
    stored = book.get(name)
    if as_json:
        print_json(_as_json(stored) | {"story": _story(book, stored.rollout.id)})
        return
    said = _tell(book, stored, 0)
    while follow and stored.ended_at is None:
        time.sleep(1.0)
        stored = book.get(stored.rollout.id)
        said = _tell(book, stored, said)


@_group.command()
def pause(name: _Name, reason: _Reason = "", as_json: AsJson = False) -> None:
    """Keep the shares as they are. Harm still rolls back."""
    _command(name, "pause", reason, as_json=as_json)


@_group.command()
def resume(name: _Name, reason: _Reason = "", as_json: AsJson = False) -> None:
    """Go on with a paused rollout."""
    _command(name, "resume", reason, as_json=as_json)


@_group.command()
def abort(name: _Name, reason: _Reason = "", as_json: AsJson = False) -> None:
    """Give all traffic back to the current version."""
    _command(name, "abort", reason, as_json=as_json)


@_group.command()
def promote(name: _Name, reason: _Reason = "", as_json: AsJson = False) -> None:
    """Approve the last step, or give the candidate all traffic before there is proof."""
    _command(name, "promote", reason, as_json=as_json)


@_group.command()
def replay(name: _Name, as_json: AsJson = False) -> None:
    """Make every decision again from the stored evidence; exit code 1 if one differs."""
    book = context.rollouts()
    differing = book.replay(name)
    decided = sum(bool(one.decision.intervals) for one in book.decisions(name))
    if as_json:
        print_json({"decisions": decided, "differing": differing})
    else:
        for line in differing:
            say(line)
        say(f"{decided} decisions made again from the evidence, {len(differing)} differ")
    if differing:
        raise typer.Exit(1)


def _command(name: str, command: Command, reason: str, *, as_json: bool) -> None:
    import msgspec

    made = context.rollouts().command(name, command, by=context.user(), reason=reason)
    if as_json:
        print_json(msgspec.to_builtins(made))
    else:
        say(made.sentence)
        note("servers follow within a second: bascule rollout status")


def _as_json(stored: StoredRollout) -> dict[str, object]:
    import msgspec

    return {
        "rollout": msgspec.to_builtins(stored.rollout), "state": stored.state_name,
        "latest": msgspec.to_builtins(stored.latest), "intervals": stored.intervals,
        "created_by": stored.created_by, "reason": stored.reason,
        "ended_at": msgspec.to_builtins(stored.ended_at),
    }  # fmt: skip


def _story(book: RolloutBook, rollout: str) -> list[object]:
    import msgspec

    return [msgspec.to_builtins(one) for one in book.decisions(rollout)]


def _row(stored: StoredRollout) -> tuple[str, ...]:
    rollout = stored.rollout
    asked = f"{when(rollout.started_at)} by {stored.created_by}"
    return rollout.id, rollout.candidate, rollout.strategy, stored.state_name, asked


def _tell(book: RolloutBook, stored: StoredRollout, said: int) -> int:
    """Print the decisions after number `said`, and the latest look; the last number."""
    decided = book.decisions(stored.rollout.id)
    for one in decided[said:]:
        say(f"{when(one.at)}  {one.decision.sentence}")
    latest = stored.latest
    if latest is not None and stored.ended_at is None:
        say(f"now  {latest.sentence}")
        if line := sparkline(book.evidence(stored.rollout.id), stored.rollout.alpha):
            say(line)
    elif latest is None:
        say(f"asked for; a server that serves {stored.rollout.endpoint} begins it")
    return len(decided)


def sparkline(log_es: list[float | None], alpha: float) -> str:
    """The evidence of harm so far; a full bar rolls back."""
    known = [one for one in log_es if one is not None]
    if not known:
        return ""
    step = max(len(known) / _WIDTH, 1.0)
    shown = [known[int(place * step)] for place in range(int(len(known) / step))]
    needed = -math.log(alpha)
    bars = [
        _BARS[min(int(max(one, 0.0) / needed * (len(_BARS) - 1)), len(_BARS) - 1)] for one in shown
    ]
    odds = f"{math.exp(min(known[-1], 30.0)):,.2g}"
    return f"evidence of harm {''.join(bars)} {odds} to 1; rolls back at {1 / alpha:g} to 1"
