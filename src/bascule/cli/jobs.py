"""The commands about jobs of every kind: run, list, show, follow, cancel, resume, retry."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson
from bascule.cli.screen import note, print_either, print_json, print_table, say, when

if TYPE_CHECKING:
    from bascule.jobs import Command, Job, JobRunner, RemoteJobs

_Id = Annotated[str, typer.Argument(help="The job's id, or its beginning.", show_default=False)]
jobs_group = context.group_of("Long work of every kind.")


@jobs_group.command()
def run(
    kind: Annotated[str, typer.Argument(help="batch, monitor, drift, performance...")],
    content: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE|FILE.json...", help="The input of the job.")
    ],
    as_json: AsJson = False,
) -> None:
    """Do a job in a process of its own: here, or with --server on that machine."""
    follow_new(kind, _input(content), as_json=as_json)


def follow_new(kind: str, content: Mapping[str, Any], *, as_json: bool) -> None:
    """Submit a job, and follow it."""
    _follow(_submitted(kind, content), as_json=as_json)


def result_of(kind: str, content: Mapping[str, Any], *, as_json: bool) -> Any:
    """Submit a job, and its result; its log goes to standard error. Raises what it raised."""
    job = _ended(_submitted(kind, content), quiet=as_json)
    if job.problem is not None:
        raise job.problem
    return job.result


def run_here(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The result of what is a job elsewhere, done in this process and recorded nowhere."""
    from bascule.jobs import Task, Unrecorded
    from bascule.kinds import KINDS

    task = Task(kind=kind, input=content)
    result: dict[str, Any] = KINDS[kind].run(context.settings(), task, Unrecorded())
    return result


def print_search(
    result: Any, show: Callable[[Any], None], chart: Path | None, *, as_json: bool
) -> None:
    """The result of a search for a model, with its chart in a file."""
    from bascule.core import writing

    if chart is not None:
        with writing(chart):
            chart.write_text(result["chart"] or "", encoding="utf-8")
    if as_json:
        print_json(result)
    else:
        show(result)


def _submitted(kind: str, content: Mapping[str, Any]) -> str:
    from bascule.jobs import Task
    from bascule.kinds import KINDS

    task = Task(kind=kind, input=KINDS[kind].parse(content), by=context.user(), folder=os.getcwd())
    return str(open_jobs().submit(task).id)


@jobs_group.command(name="list")
def list_(
    kind: Annotated[str, typer.Option(help="Of this kind.")] = "",
    state: Annotated[str, typer.Option(help="In this state: queued, running, failed...")] = "",
    as_json: AsJson = False,
) -> None:
    """List the jobs of the catalogue, the latest first."""
    jobs = open_jobs().find(kind=kind, state=state)
    if as_json:
        print_json([_json(job) for job in jobs])
    elif not jobs:
        note("no jobs yet: batch runs, reports and what the console packs are jobs")
    else:
        print_table(("job", "kind", "title", "state", "progress", "by", "began"), map(_row, jobs))


@jobs_group.command()
def show(job: _Id, as_json: AsJson = False) -> None:
    """Tell how far a job is, what it was given, and its result."""
    shown = _json(open_jobs().get(job))
    if as_json:
        print_json(shown)
        return
    for name, value in shown.items():
        if value not in ("", None, {}, [], 0):
            say(f"{name.replace('_', ' '):12} {value}")


@jobs_group.command()
def follow(job: _Id, as_json: AsJson = False) -> None:
    """Print the log of a job until it has ended."""
    _follow(open_jobs().get(job).id, as_json=as_json)


@jobs_group.command()
def cancel(job: _Id, as_json: AsJson = False) -> None:
    """Stop a job; what it has written stays."""
    _command(job, "cancel", as_json=as_json)


@jobs_group.command()
def resume(job: _Id, as_json: AsJson = False) -> None:
    """Go on with a job that has ended early, where it was."""
    _command(job, "resume", as_json=as_json)


@jobs_group.command()
def retry(job: _Id, as_json: AsJson = False) -> None:
    """Begin a job again that has ended early."""
    _command(job, "retry", as_json=as_json)


@jobs_group.command()
def infer(
    model: Annotated[str, typer.Argument(help="MODEL or MODEL/VERSION of the server.")],
    data: Annotated[Path, typer.Argument(help="Rows (.parquet .csv .jsonl .feather .npy .npz).")],
    url: Annotated[
        str, typer.Option(help="Where it predicts. Default: port 8080 of --server, or as set here.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Have a server answer rows later, with the key of BASCULE_KEY."""
    from bascule.batch import read_rows
    from bascule.cli.screen import url_host
    from bascule_client import Client
    from bascule_client.addresses import parse_address

    serving, control_url = context.settings().serving, context.stores.get("server")
    port = 8080 if control_url else serving.port
    scheme = "https" if serving.tls_certificate else "http"
    control_url = control_url or f"{scheme}://{url_host(serving.host)}:{serving.control_port}"
    host = url_host(parse_address(control_url).host)
    url = url or f"{control_url.partition(':')[0]}://{host}:{port}"
    key = os.environ.get("BASCULE_KEY") or None
    with Client(url, model=model, key=key, control_url=control_url) as client:
        job = client.submit(read_rows(data, "data")).id
    server = f"--server {control_url} " if context.is_remote() else ""
    print_either({"job": job}, f"bascule {server}jobs answer {job} --wait 600", as_json=as_json)


@jobs_group.command()
def answer(
    job: _Id,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for it.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Fetch the answer of a request of `infer`, with the key that submitted it."""
    from bascule.cli.running import server_client
    from bascule.cli.showing import print_answers
    from bascule_client.later import LaterAnswer

    later = LaterAnswer(server_client(None, None, os.environ.get("BASCULE_KEY", "")), job)
    if wait:
        note(f"waits up to {wait:g} s for job {job}")
    table = (later.result(wait) if wait else later.read()).to_arrow()
    print_json(table.to_pylist()) if as_json else print_answers(table, all_by="--json")


def _command(job: str, command: Command, *, as_json: bool) -> None:
    jobs = open_jobs()
    changed = jobs.command(jobs.get(job).id, command, by=context.user())
    if not changed.is_ended and not changed.stop:
        _follow(changed.id, as_json=as_json)
    else:
        now = "stops" if changed.stop else f"is {changed.state}"
        print_either(_json(changed), f"job {changed.id} {now}", as_json=as_json)


def _ended(job_id: str, *, quiet: bool) -> Job:
    from bascule.jobs import until_ended

    jobs, printed = open_jobs(), 0

    def watch(_job: Job) -> None:
        nonlocal printed
        log = "" if quiet else jobs.log(job_id)
        if len(log) > printed:
            note(log[printed:].rstrip())
            printed = len(log)

    return until_ended(jobs, job_id, watch)


def _follow(job_id: str, *, as_json: bool) -> None:
    job = _ended(job_id, quiet=as_json)
    if as_json:
        print_json(_json(job))
    elif job.problem is None:
        say(f"job {job.id} is {job.state}: {json.dumps(job.result)}")
    if job.problem is not None:
        raise job.problem


def open_jobs() -> JobRunner | RemoteJobs:
    if context.is_remote():
        from bascule.jobs import RemoteJobs

        return RemoteJobs(context.control_client())
    from bascule.kinds import runner_of

    return runner_of(context.settings())


def _input(words: list[str]) -> dict[str, Any]:
    """`NAME=VALUE`, whose value is JSON or a text, and files of JSON."""
    from bascule.core import Invalid

    found: dict[str, Any] = {}
    for word in words:
        name, is_pair, value = word.partition("=")
        if not is_pair:
            found |= json.loads(Path(word).read_text(encoding="utf-8"))
            continue
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    if not found:
        raise Invalid("the job has no input", hint="write NAME=VALUE, or a file of JSON")
    return found


def _json(job: Job) -> dict[str, Any]:
    import msgspec

    shown: dict[str, Any] = msgspec.to_builtins(job.shown())
    return shown


def _row(job: Job) -> tuple[str, ...]:
    done, whole = job.progress.get("done"), job.progress.get("of")
    progress = "" if done is None else f"{done:,}" + (f" of {whole:,}" if whole else "")
    return (job.id[:12], job.kind, job.title, job.state, progress, job.by, when(job.created_at))
