"""The commands about batch jobs: run, runs, show, logs, cancel, resume."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, Parameters
from bascule.cli.screen import note, print_either, print_json, print_table, say, table, when
from bascule.core import counted
from bascule.documents import console

if TYPE_CHECKING:
    import pyarrow as pa

    from bascule.batch import Job, MonitoringRules, Planned, RemoteRuns, Runs, Status
    from bascule.jobs import Job as Record

_MOST_COLUMNS, _SHOWN_ROWS, _LINE, _CELL = 8, 3, 100, 24
"""Of a preview; more columns than these are shown a line each."""
_RunId = Annotated[str, typer.Argument(help="The run's id, or its beginning.", show_default=False)]
batch_group = context.group_of("Score a table, and look at runs.")


@batch_group.command()
def run(
    what: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|JOB.toml",
            show_default=False,
            help="A model: gb@champion, gb/3, a bundle's folder; or a job's file.",
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            show_default=False,
            help="Files (a path, a quoted glob, s3://...), delta://TABLE or DATABASE_URL#TABLE.",
        ),
    ] = None,
    sink: Annotated[
        str | None,
        typer.Option("--to", show_default=False, help="A folder (with /), a file, a table."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Answers: prediction,interval... Default: all.", show_default=False),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="Columns of the source to write too. Default: all.", show_default=False),
    ] = None,
    ignore: Annotated[
        str | None,
        typer.Option(help="Columns that are no input of a model without names."),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="Of added columns, to score a scored table again.")
    ] = None,
    confidence: Annotated[float | None, typer.Option(help="Of intervals and sets.")] = None,
    parameter: Parameters = None,
    where: Annotated[str | None, typer.Option(help="A condition in SQL on the rows.")] = None,
    query: Annotated[str | None, typer.Option(help="SQL in place of a table.")] = None,
    key: Annotated[str | None, typer.Option(help="The column that tells rows apart.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many rows.")] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="With other rows there: error, append, replace, replace_partitions or upsert.",
            show_default=False,
        ),
    ] = None,
    partition_by: Annotated[
        str | None, typer.Option(help="Columns whose values are folders: day,country.")
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="Of files: parquet, csv, jsonl or arrow.")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between the values of CSV.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Of CSV: utf-8, latin-1...")] = None,
    nulls: Annotated[str | None, typer.Option(help="Words of CSV that are no value: NA,-.")] = None,
    type_: Annotated[
        list[str] | None,
        typer.Option("--type", help="Of a column of CSV: 'id=text', 'x=decimal(9, 2)'."),
    ] = None,
    memory_mb: Annotated[int | None, typer.Option(help="About how much memory to use.")] = None,
    workers: Annotated[int | None, typer.Option(help="Default: one per core.")] = None,
    max_quarantined: Annotated[
        float | None, typer.Option(help="The share of rows that may fail. Default: 0.01.")
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(help="Stop unless it holds: 'missing(age) <= 0.1'; may be repeated."),
    ] = None,
    warn: Annotated[list[str] | None, typer.Option(help="The same, and go on.")] = None,
    record: Annotated[
        str | None,
        typer.Option(help="For monitoring: profile (of a sample, the default), rows, or off."),
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="The engine: local, ray, or ray://HOST:PORT of a cluster.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Show the plan and ten rows; write none.")] = False,
    as_json: AsJson = False,
) -> None:
    """Score a table, exactly once; the same job again goes on, or changes nothing.

    With --server before the command, the server runs it, and paths are those of its machine.
    """
    given = {
        "from": source, "to": sink, "columns": _names(columns), "keep": _names(keep),
        "ignore": _names(ignore), "prefix": prefix, "delimiter": delimiter, "encoding": encoding,
        "nulls": _names(nulls), "types": _pairs(type_), "confidence": confidence,
        "parameters": _parameters(parameter), "where": where, "query": query, "key": key,
        "limit": limit, "mode": mode, "partition_by": _names(partition_by), "format": format_,
        "memory_mb": memory_mb, "workers": workers, "max_quarantined": max_quarantined,
        "checks": check, "warnings": warn, "record": record, "on": on,
    }  # fmt: skip
    job = _job(what, {name: value for name, value in given.items() if value is not None})
    if dry_run:
        _show_plan(job, as_json=as_json)
    elif context.is_remote() and on is None:
        follow(lambda runs: runs.start(job, by=context.user()), as_json=as_json)
    else:
        run_here(job, as_json=as_json)


@batch_group.command()
def stream(
    model: Annotated[str, typer.Argument(help="A model: gb@champion, gb/3, a bundle's folder.")],
    source: Annotated[
        str,
        typer.Option("--from", help="kafka://HOST:9092/TOPIC?group=NAME or nats://HOST/SUBJECT."),
    ],
    sink: Annotated[str, typer.Option("--to", help="The same, for the answers.")],
    dead_letter: Annotated[
        str,
        typer.Option(help="The topic of what cannot be scored. Default: TO.quarantine."),
    ] = "",
    outcomes: Annotated[
        bool, typer.Option(help="Messages are outcomes of the model: id, truth, time.")
    ] = False,
    columns: Annotated[str | None, typer.Option(help="Answers. Default: all.")] = None,
    keep: Annotated[str | None, typer.Option(help="Fields to publish too. Default: all.")] = None,
    record: Annotated[str, typer.Option(help="For monitoring: rows, profile or off.")] = "rows",
    batch_rows: Annotated[int, typer.Option(help="Messages scored at once, at most.")] = 1_000,
    idle_s: Annotated[
        float, typer.Option(help="End once no message came for so long. Default: never.")
    ] = 0.0,
    metrics: Annotated[
        str, typer.Option(help="Where Prometheus asks for the counts: 0.0.0.0:9105.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Score messages as they come, until it is interrupted; offsets are committed with answers."""
    from bascule.app import batch_model, open_outcomes
    from bascule.batch import StreamJob, run_stream, serve_metrics, take_outcomes
    from bascule.core import SignalEvent

    kept = _names(keep)
    job = StreamJob(
        model=model, source=source, sink=sink, dead_letter=dead_letter,
        columns=tuple(_names(columns) or ()), keep=None if kept is None else tuple(kept),
        record=record, batch_rows=batch_rows, idle_s=idle_s,  # type: ignore[arg-type]
    )  # fmt: skip
    stopped, settings = SignalEvent(), context.settings()
    watch = serve_metrics(job, metrics) if metrics else (lambda _: None)
    for number in (signal.SIGINT, signal.SIGTERM):  # after the messages under way
        signal.signal(number, lambda *_: stopped.set())
    if outcomes:
        done = take_outcomes(job, open_outcomes(settings).add_rows, stopped=stopped, watch=watch)
    else:
        version, path = context.find(model)
        bundle, number_of, rules = batch_model(settings, path, version)
        done = run_stream(
            job,
            bundle,
            settings.home,
            version=number_of,
            monitoring=rules,
            stopped=stopped,
            watch=watch,
        )
    bad = f", {done.quarantined:,} in {job.dead_topic}" if done.quarantined else ""
    text = f"{done.messages:,} messages{bad}, in {done.seconds:.1f} s"
    print_either(done.to_json(), text, as_json=as_json)


@batch_group.command()
def runs(as_json: AsJson = False) -> None:
    """List the runs of the catalogue, or of that of --server, the latest first."""
    found = _runs().list()
    headings = ("run", "model", "state", "rows", "quarantined", "chunks", "began")
    shown = table(headings, map(_row, found), right=("rows", "quarantined", "chunks"))
    print_either([one.to_json() for one in found], shown, as_json=as_json)


@batch_group.command()
def show(run: _RunId, as_json: AsJson = False) -> None:
    """Tell how far a run is, and why it ended."""
    status = _runs().get(run)
    if as_json:
        print_json(status.to_json())
        return
    for name, value in status.to_json().items():
        if value not in ("", None, []):
            say(f"{name.replace('_', ' '):14} {value}")


@batch_group.command()
def logs(run: _RunId) -> None:
    """Print what a run has logged."""
    say(_runs().log(run).rstrip())


@batch_group.command()
def cancel(run: _RunId, as_json: AsJson = False) -> None:
    """Stop a run after the batch under way. What is committed stays; resume goes on."""
    status = _runs().cancel(run)
    print_either(status.to_json(), f"run {status.run} stops", as_json=as_json)


@batch_group.command()
def resume(run: _RunId, as_json: AsJson = False) -> None:
    """Go on with a run that was killed, cancelled or failed."""
    from bascule.batch import job_of

    if context.is_remote():
        follow(lambda runs: runs.resume(run, by=context.user()), as_json=as_json)
        return
    record = _local_runs().find(run)
    os.chdir(record.folder)
    run_here(job_of(record.input), again=record, as_json=as_json)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [one.strip() for one in text.split(",") if one.strip()]


def _parameters(pairs: list[str] | None) -> dict[str, Any] | None:
    from bascule.bundle.extras import read_pairs

    return read_pairs(pairs) if pairs else None


def _pairs(texts: list[str] | None) -> dict[str, str] | None:
    return None if texts is None else {n: v for n, _, v in (one.partition("=") for one in texts)}


def _job(what: str, given: dict[str, Any]) -> Job:
    import msgspec

    from bascule.batch import job_of, read_job
    from bascule.core import Invalid

    if what.endswith(".toml"):
        return job_of(msgspec.to_builtins(read_job(Path(what))) | given)
    absent = next((name for name in ("from", "to") if name not in given), None)
    if absent is not None:
        raise Invalid(f"--{absent} is missing", hint=f"add --{absent}, or name a JOB.toml")
    return job_of({"model": what, **given})


def _runs() -> Runs | RemoteRuns:
    if context.is_remote():
        from bascule.batch import RemoteRuns

        return RemoteRuns(context.control_client())
    return _local_runs()


def _local_runs() -> Runs:
    from bascule.app import open_jobs
    from bascule.batch import Runs

    return Runs(open_jobs(context.settings()))


def _found(job: Job) -> tuple[Any, str, MonitoringRules]:
    from bascule.app import batch_model

    version, path = context.find(job.model)
    return batch_model(context.settings(), path, version)


def follow(begin: Callable[[RemoteRuns], Status], *, as_json: bool) -> None:
    """Begin a run on the server, and show it until it ends."""
    from bascule.batch import RemoteRuns

    runs = RemoteRuns(context.control_client())
    run = begin(runs).run
    try:
        with _progress(quiet=as_json) as watch:
            status = runs.wait(run, watch)
    except KeyboardInterrupt:
        note(f"run {run} goes on at the server; bascule batch cancel {run} stops it")
        raise
    for finding in status.findings:
        note(f"warning: {finding}")
    if as_json:
        print_json(status.to_json())
    else:
        _say(status.rows, status.quarantined, status.seconds, status.sink, run)


def run_here(job: Job, *, again: Record | None = None, as_json: bool) -> None:
    """Run a job in this process, with a bar, and print what it did; `again` goes on with it."""
    from bascule.app import open_jobs
    from bascule.batch import recorded_run, run_job

    bundle, version, rules = _found(job)
    settings = context.settings()
    recorded = recorded_run(open_jobs(settings), job, by=context.user(), again=again)
    with _progress(quiet=as_json) as watch, recorded as live:
        made = run_job(
            job, bundle, settings.home, version=version, monitoring=rules, watch=watch, live=live,
            expected_run=again.subject if again else "",
        )  # fmt: skip
        live.result = made.to_json()
    for finding in made.findings:
        note(f"warning: {finding}")
    if as_json:
        print_json(made.to_json())
    else:
        _say(made.rows, made.quarantined, made.seconds, made.manifest.sink, made.manifest.run)


def _say(rows: int, quarantined: int, seconds: float, sink: str, run: str) -> None:
    bad = f", {quarantined:,} in quarantine" if quarantined else ""
    rate = f" ({rows / seconds:,.0f} rows/s)" if seconds > 1 else ""
    say(f"{counted(rows, 'row')} in {sink}{bad}, in {seconds:.1f} s{rate}")
    note(f"run {run}; the same command again changes nothing")


def _show_plan(job: Job, *, as_json: bool) -> None:
    from bascule.batch import planned

    bundle, version, _ = _found(job)
    with planned(job, bundle, version) as plan:
        preview = plan.preview()
        if as_json:
            print_json(_plan_json(plan) | {"preview": preview.to_pylist()})
            return
        rows = "an unknown number of rows" if plan.rows is None else counted(plan.rows, "row")
        say(f"{rows} of {plan.source.place} in {counted(len(plan.chunks), 'chunk')}")
        threads = counted(plan.workers, "thread")
        say(f"to {plan.sink.place}, on {threads}, {counted(plan.batch_rows, 'row')} at once")
        expected_s = plan.expected_s()
        if expected_s is not None:
            say(f"scoring takes about {expected_s:.1f} s by the bundle's measured cost")
        _print_preview(preview)
    note("nothing was written")


def _print_preview(preview: pa.Table) -> None:
    """The rows as a table; a line for each column where these are many or their texts are long."""
    from bascule.cli.showing import print_answers

    rows = [[_cell(value) for value in row.values()] for row in preview.to_pylist()]
    if preview.num_columns <= _MOST_COLUMNS and all(len("".join(row)) < _LINE for row in rows):
        print_answers(preview)
        return
    shown = [list(column) for column in zip(*rows[:_SHOWN_ROWS], strict=True)]
    lines = (
        (field.name, str(field.type), *column)
        for field, column in zip(preview.schema, shown or [[]] * preview.num_columns, strict=True)
    )
    print_table(("column", "type", *(f"row {n}" for n in range(len(rows[:_SHOWN_ROWS])))), lines)


def _cell(value: object) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= _CELL else f"{text[: _CELL - 1]}…"


def _plan_json(plan: Planned) -> dict[str, Any]:
    return {
        "run": plan.manifest.run, "rows": plan.rows, "chunks": len(plan.chunks),
        "workers": plan.workers, "batch_rows": plan.batch_rows, "expected_s": plan.expected_s(),
        "from": plan.source.place, "to": plan.sink.place,
    }  # fmt: skip


def _row(status: Status) -> tuple[str, ...]:
    return (
        status.run[:12], status.model, status.state, f"{status.rows:,}", f"{status.quarantined:,}",
        f"{status.chunks_done}/{status.chunks}", when(status.started_at),
    )  # fmt: skip


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Any]:
    """A bar with the rate and the time left, on a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    screen = console(stderr=True)
    columns = (
        TextColumn("{task.completed:,.0f} rows"), BarColumn(),
        TextColumn("{task.fields[rate]:,.0f} rows/s"), TimeRemainingColumn(),
    )  # fmt: skip
    hidden = quiet or not screen.is_terminal
    with Progress(*columns, console=screen, transient=True, disable=hidden) as bar:
        task = bar.add_task("scoring", total=None, rate=0.0)

        def watch(status: Status) -> None:
            bar.update(
                task, completed=status.rows, total=status.expected_rows,
                rate=status.rows_per_s or 0.0,
            )  # fmt: skip

        yield watch
