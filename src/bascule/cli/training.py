"""The commands about training runs: run, list, show, follow, compare."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, Reason
from bascule.cli.jobs import open_jobs, result_of
from bascule.cli.schedules import open_schedules
from bascule.cli.screen import note, print_either, print_json, print_table, say, table, when

if TYPE_CHECKING:
    from bascule.jobs import Scheduled
    from bascule.training import Run

_Run = Annotated[str, typer.Argument(help="The run's id, or its beginning.", show_default=False)]
_Name = Annotated[str, typer.Argument(help="The trigger's name.", show_default=False)]
train_group = context.group_of("Train models by pipelines, and compare the runs.")
loop_group = context.group_of("Follow how a model is trained again and again.")
trigger_group = context.group_of("Start training runs by themselves.")


@train_group.command()
def run(
    pipeline: Annotated[
        str, typer.Argument(help="Its name; needless where the file has one.")
    ] = "",
    file: Annotated[
        Path, typer.Option(help="A TOML file with [pipeline.NAME], or a Python file.")
    ] = Path("pipeline.toml"),
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE, for this run.")
    ] = None,
    why: Annotated[str, typer.Option(help="Why it runs, for the record.")] = "by hand",
    mlflow: Annotated[
        str, typer.Option(help="A tracking server or store. Default: tracking.mlflow.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Train a model, push it, and compare it with the champion; a winner goes out."""
    from bascule.training import read_values

    content = {
        "file": str(file), "pipeline": pipeline, "parameters": read_values(parameter or []),
        "why": why,
        "mlflow": mlflow,
    }  # fmt: skip
    result = result_of("train", content, as_json=as_json)
    if as_json:
        print_json(result)
        return
    if result["was_known"]:
        note("nothing was fitted: an earlier run had the same rows, code and parameters")
    say(result["sentence"])
    if result["deployed"]:
        say(result["deployed"])


@train_group.command()
def manifest(
    image: Annotated[str, typer.Option(help="With Bascule, the code and its packages.")],
    pipeline: Annotated[str, typer.Argument(help="Its name.")] = "",
    file: Annotated[Path, typer.Option(help="As of run; relative to the image's folder.")] = Path(
        "pipeline.toml"
    ),
) -> None:
    """Print a Job of Kubernetes that does one run."""
    from bascule.ship import render_text, slug_of
    from bascule.training import read_pipeline

    name = read_pipeline(file, pipeline).name
    args = ["train", "run", name, "--file", str(file), "--why", "a Job of Kubernetes"]
    facts = {"slug": slug_of(name), "image": image, "args": args}
    say(render_text("training/job.yaml.j2", **facts).rstrip())


@train_group.command()
def runs(
    pipeline: Annotated[str, typer.Argument(help="Of this pipeline.")] = "", as_json: AsJson = False
) -> None:
    """List the runs, the latest first."""
    listed = [own for own in _runs() if pipeline in ("", own.pipeline)]
    if as_json:
        print_json([_json(own) for own in listed])
    elif not listed:
        note("no runs yet: bascule train run")
    else:
        print_table(
            ("run", "pipeline", "state", "version", "began", "s", "why", "what came of it"),
            [
                (
                    own.id[:8], own.pipeline, own.state, own.version, when(own.began_at),
                    f"{own.seconds:.0f}", own.why, own.sentence,
                )
                for own in listed
            ],
            right=("s",),
        )  # fmt: skip


@train_group.command()
def show(run: _Run, as_json: AsJson = False) -> None:
    """Show what went into a run, and what came of it."""
    job = open_jobs().get(run)
    shown = {**_json(_of(job)), **(job.result or {})}
    if as_json:
        print_json(shown)
        return
    for name, value in shown.items():
        if value not in ("", None, {}, []) and name != "curves":
            say(f"{name.replace('_', ' '):12} {value}")


@train_group.command()
def logs(run: _Run) -> None:
    """Print the log of a run."""
    jobs = open_jobs()
    say(jobs.log(jobs.get(run).id).rstrip())


@train_group.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Two or more runs.")], as_json: AsJson = False
) -> None:
    """Put the parameters and metrics of runs side by side."""
    from bascule.training import compared

    chosen = [_of(open_jobs().get(own)) for own in runs]
    rows = compared(chosen)
    cells = [(name, *map(_cell, values)) for name, values in rows]
    shown = table(("", *(own.id[:8] for own in chosen)), cells)
    print_either(dict(rows), shown, as_json=as_json)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def _runs() -> list[Run]:
    """The latest first. A control API lists jobs without results: those are asked for."""
    jobs = open_jobs()
    found = jobs.find(kind="train")
    return [_of(jobs.get(job.id) if job.result is None else job) for job in found]


def _trigger_list() -> list[Scheduled]:
    return [own for own in open_schedules().list() if own.schedule.kind == "trigger"]


def _of(job: Any) -> Run:
    from bascule.training import Run

    return Run.of(job)


def _json(run: Run) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(run), "began_at": run.began_at.isoformat()}


@trigger_group.command()
def add(
    name: _Name,
    on: Annotated[
        list[str],
        typer.Option(
            help="drift, performance, losses, '5000 new rows', '20 % new rows', 'new data', time."
        ),
    ],
    pipeline: Annotated[str, typer.Option(help="Which of the file.")] = "",
    file: Annotated[Path, typer.Option(help="The pipeline's file.")] = Path("pipeline.toml"),
    cron: Annotated[str, typer.Option(help="When it is looked at.")] = "0 * * * *",
    cool_down_h: Annotated[float, typer.Option(help="Hours between two runs at least.")] = 24.0,
    budget: Annotated[int, typer.Option(help="Runs in 30 days at most.")] = 10,
    reason: Reason = "",
) -> None:
    """Start runs of a pipeline where drift, new rows or worse answers ask for it."""
    from bascule.jobs import Schedule
    from bascule.kinds import KINDS

    content = {
        "file": str(file), "pipeline": pipeline, "on": on, "cool_down_h": cool_down_h,
        "budget": budget,
    }  # fmt: skip
    schedule = Schedule(
        name=name, cron=cron, kind="trigger", job=dict(KINDS["trigger"].parse(content)),
        folder=os.getcwd(), created_at=datetime.now(UTC),
    )  # fmt: skip
    open_schedules().add(schedule, by=context.user(), reason=reason)
    say(f"trigger {name} looks at {', '.join(on)} by the times {cron}")
    note("a running server does so: bascule up, or bascule serve")


@trigger_group.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """List the triggers, with what they last decided."""
    listed = _trigger_list()
    shown = table(
        ("trigger", "on", "looks", "last", "decided"),
        [
            (
                own.schedule.name, ", ".join(own.schedule.job["on"]),
                "paused" if own.schedule.is_paused else own.schedule.cron,
                "" if own.due is None else when(own.due),
                (own.outcome or {}).get("sentence") or (own.outcome or {}).get("error", ""),
            )
            for own in listed
        ],
        empty="no triggers; bascule trigger add makes one",
    )  # fmt: skip
    print_either([own.to_json() for own in listed], shown, as_json=as_json)


@trigger_group.command()
def pause(name: _Name, reason: Reason = "") -> None:
    """Start no run until `resume`."""
    open_schedules().pause(name, by=context.user(), reason=reason)
    say(f"trigger {name} is paused")


@trigger_group.command()
def resume(name: _Name, reason: Reason = "") -> None:
    """Let a paused trigger look again."""
    open_schedules().resume(name, by=context.user(), reason=reason)
    say(f"trigger {name} looks again")


@trigger_group.command()
def remove(name: _Name, reason: Reason = "") -> None:
    """Forget a trigger; its history and its runs stay."""
    open_schedules().remove(name, by=context.user(), reason=reason)
    say(f"trigger {name} is removed")


@loop_group.command()
def status(
    model: Annotated[str, typer.Argument(help="The model.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Tell which version is the champion and why, its challengers, and what starts the next run."""
    from bascule.training import loop_of

    loop = loop_of(
        model, _runs(), _trigger_list(), context.registry(), context.endpoints(),
        context.rollouts(),
    )  # fmt: skip
    if as_json:
        print_json({
            "champion": loop.champion or None, "endpoint": loop.endpoint or None,
            "feedback": loop.feedback or None,
            "challenges": list(loop.challenges), "runs": [_json(own) for own in loop.runs],
            "triggers": [own.to_json() for own in loop.triggers],
            "rollouts": [own.rollout.id for own in loop.rollouts],
        })  # fmt: skip
        return
    say(loop.sentence)
    if loop.feedback:
        say(loop.feedback)
    print_table(
        ("judged", "challenger", "champion", "look", "", "why"),
        [
            (
                when(datetime.fromisoformat(own["at"])), own["challenger"], own["champion"],
                str(own["look"]), "wins" if own["wins"] else "loses",
                own["sentence"].partition(": ")[2],
            )
            for own in loop.challenges
        ],
        right=("look",), empty="no version has challenged another",
    )  # fmt: skip
    for stored in loop.rollouts[:1]:
        say(f"rollout {stored.rollout.id} of {stored.rollout.candidate}: {stored.state}")
    for trigger in loop.triggers:
        outcome = trigger.outcome or {}
        decided = outcome.get("sentence") or outcome.get("error") or "has not looked yet"
        paused = " (paused)" if trigger.schedule.is_paused else ""
        say(f"trigger {trigger.schedule.name}{paused}: {decided}")
    for run in loop.runs[:1]:
        say(f"last run {run.id[:8]}, {run.state}: {run.why}")
