"""The commands about schedules of batch jobs. A running server's control process runs them."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, Reason
from bascule.cli.screen import note, print_either, print_json, say, table, when
from bascule.core import counted

if TYPE_CHECKING:
    from bascule.batch import RemoteSchedules
    from bascule.jobs import Scheduled, Schedules

_Name = Annotated[str, typer.Argument(help="The schedule's name.", show_default=False)]
schedule_group = context.group_of("Run batch jobs at times.")


@schedule_group.command()
def add(
    name: _Name,
    cron: Annotated[str, typer.Option(help="Five fields: '0 2 * * *' is every night at 2.")],
    job: Annotated[Path, typer.Option(help="The job's file, JOB.toml.")],
    kind: Annotated[str, typer.Option(help="The kind of the job; see jobs run.")] = "batch",
    timezone: Annotated[str, typer.Option(help="Of the fields: Europe/Paris.")] = "UTC",
    catch_up: Annotated[
        str, typer.Option(help="Times that were missed: one, all or none of them.")
    ] = "one",
    window: Annotated[
        str, typer.Option(help="Hours in which it may run: 22:00-06:00. Default: all.")
    ] = "",
    retries: Annotated[int, typer.Option(help="How often a failed run is tried again.")] = 0,
    retry_after_min: Annotated[
        float, typer.Option(help="Minutes until the first retry; doubled each time.")
    ] = 5.0,
    late_after_min: Annotated[
        float, typer.Option(help="Raise an alert where it has not ended after so many minutes.")
    ] = 60.0,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Run a job at times. Paths in the job are relative to this folder, or to the server's."""
    from bascule.batch import read_toml
    from bascule.jobs import Schedule, next_time
    from bascule.kinds import KINDS

    now = datetime.now(UTC)
    made = Schedule(
        name=name, cron=cron, timezone=timezone, catch_up=catch_up,  # type: ignore[arg-type]
        kind=kind, job=dict(KINDS[kind].parse(read_toml(job))), folder=os.getcwd(),
        created_at=now, window=window, late_after_min=late_after_min, retries=retries,
        retry_after_min=retry_after_min,
    )  # fmt: skip
    open_schedules().add(made, by=context.user(), reason=reason)
    if as_json:
        print_json(open_schedules().get(name).to_json())
        return
    first = next_time(made, now)
    say(f"schedule {name}" + (f" runs first at {when(first)}" if first else " never runs"))
    note("a running server runs it: bascule up, or bascule serve")


@schedule_group.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """List the schedules, with the next time and the last outcome of each."""
    found = open_schedules().list()
    shown = table(
        ("schedule", "cron", "next", "last", "outcome"), map(_row, found),
        empty="no schedules; bascule schedule add makes one",
    )  # fmt: skip
    print_either([one.to_json() for one in found], shown, as_json=as_json)


@schedule_group.command()
def pause(name: _Name, reason: Reason = "") -> None:
    """Run nothing until `resume`. A run under way goes on."""
    open_schedules().pause(name, by=context.user(), reason=reason)
    say(f"schedule {name} is paused")


@schedule_group.command()
def resume(name: _Name, reason: Reason = "") -> None:
    """Run a paused schedule again."""
    open_schedules().resume(name, by=context.user(), reason=reason)
    say(f"schedule {name} runs again")


@schedule_group.command()
def remove(name: _Name, reason: Reason = "") -> None:
    """Forget a schedule. Its history and the rows it has written stay."""
    open_schedules().remove(name, by=context.user(), reason=reason)
    say(f"schedule {name} is removed")


@schedule_group.command()
def run(
    name: _Name,
    due: Annotated[
        datetime | None,
        typer.Option(help="Of the schedule, for the dates in its job. Default: its last time."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the job of a schedule now: here, or at the server of --server."""
    from bascule.batch import RemoteSchedules, job_of
    from bascule.cli.batch import follow, run_here
    from bascule.cli.jobs import follow_new
    from bascule.jobs import time_of_run, with_dates

    schedules = open_schedules()
    if isinstance(schedules, RemoteSchedules):
        begun = schedules.run(name, by=context.user(), due=due)
        follow(lambda _: begun, as_json=as_json)
        return
    schedule = schedules.get(name).schedule
    os.chdir(schedule.folder)
    job = with_dates(schedule, time_of_run(schedule, due, datetime.now(UTC)))
    if schedule.kind == "batch":
        run_here(job_of(job), as_json=as_json)
    else:
        follow_new(schedule.kind, dict(job), as_json=as_json)


def open_schedules() -> Schedules | RemoteSchedules:
    if context.is_remote():
        from bascule.batch import RemoteSchedules

        return RemoteSchedules(context.control_client())
    from bascule.app import open_catalogue
    from bascule.jobs import Schedules

    return Schedules(open_catalogue(context.settings()))


def _row(one: Scheduled) -> tuple[str, ...]:
    from bascule.jobs import next_time

    schedule = one.schedule
    following = None if schedule.is_paused else next_time(schedule, datetime.now(UTC))
    outcome = one.outcome or {}
    result = outcome.get("error") or (counted(outcome["rows"], "row") if "rows" in outcome else "")
    return (
        schedule.name, f"{schedule.cron} {schedule.timezone}",
        "paused" if schedule.is_paused else when(following) if following else "never",
        "" if one.due is None else when(one.due), "running" if one.is_under_way else result,
    )  # fmt: skip
