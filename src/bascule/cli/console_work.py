"""What the console asks for and takes seconds: `python -m bascule.cli.console_work`.

Each task runs in a process of its own: it loads models, which may be large or hostile.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.cli.children import answer_with_settings, told_settings
from bascule.core import BasculeError, Child, Limits, NotFound

if TYPE_CHECKING:
    from bascule.registry import Registry, Version
    from bascule.settings import Settings

_TASK_S, _RUN_S = 1_800.0, 7 * 86_400.0
_OWN_PLACE = re.compile(r"[^\s'\"]*/(?:console/uploads/[\w-]{22}|bascule-[^/\s'\"]*)/")
"""Where uploads and what is made of them are: of no use to callers."""


def worker(settings: Settings) -> Callable[[str, Mapping[str, Any]], dict[str, Any]]:
    """What does a task by these settings; see `control.work.DoTask`."""
    told = told_settings(settings)

    def do(task: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        question = {**asked, "task": task, "settings": told}
        within_s = _RUN_S if task == "run" else _TASK_S
        limits = Limits(within_s, memory_bytes=_memory_bytes(), is_nice=True)
        what = task.replace("_", " ")
        return Child("bascule.cli.console_work", question, limits, what=what).answer()

    return do


def answer(settings: Settings, asked: dict[str, Any]) -> dict[str, Any]:
    """Do the task that a question names; errors show no place of an upload."""
    try:
        return _TASKS[asked["task"]](settings, asked)
    except BasculeError as error:
        message = _OWN_PLACE.sub("", error.message)
        raise type(error)(message, hint=_OWN_PLACE.sub("", error.hint), **error.facts) from None


def preview(settings: Settings, asked: dict[str, Any]) -> dict[str, Any]:
    """Plan a batch job and score its first rows; nothing is written."""
    from bascule.app import batch_model
    from bascule.batch import Places, job_of, planned

    given = asked.get("places")
    places = None if given is None else Places(given)
    _enter(asked["folder"])
    job = job_of(asked["job"])
    _check_upload(job.source)
    bundle, version, _ = batch_model(settings, job.model)
    with planned(job, bundle, version, places) as plan:
        table = plan.preview()
        return {
            "run": plan.manifest.run, "rows": plan.rows, "chunks": len(plan.chunks),
            "expected_s": plan.expected_s(), "from": plan.source.place, "to": plan.sink.place,
            "columns": table.column_names,
            "preview": [[_cell(one) for one in row.values()] for row in table.to_pylist()],
        }  # fmt: skip


def run(settings: Settings, asked: dict[str, Any]) -> dict[str, Any]:
    """Score the rows of an uploaded file; the run as JSON."""
    from bascule.app import batch_model
    from bascule.batch import job_of, run_job

    _enter(asked["folder"])
    job = job_of(asked["job"])
    _check_upload(job.source)
    bundle, version, _ = batch_model(settings, job.model)
    # Not monitored: a file for trial is no production.
    return run_job(job, bundle, settings.home, version=version, by=asked["by"]).to_json()


def pack(settings: Settings, asked: dict[str, Any]) -> dict[str, Any]:
    """Pack an uploaded model, put it before the gates and into the registry."""
    from bascule.app import open_registry
    from bascule.cli.building import pack_files
    from bascule.core import Scratch

    def path(name: str) -> Path | None:
        return Path(asked[name]) if asked.get(name) else None

    for name in ("train", "test"):
        _check_upload(asked.get(name) or "")
    registry = open_registry(settings)
    with Scratch("bascule-console-") as folder:
        made = pack_files(
            Path(asked["file"]), name=asked["model"], train=path("train"), test=path("test"),
            target=[asked["target"]] if asked.get("target") else None, allow_pickle=False,
            to=folder / "bundle", quiet=True,
        )  # fmt: skip
        version = registry.push(made.path, by=asked["user"])
        return _judged(settings, registry, version, asked["user"])


def take_in(settings: Settings, asked: dict[str, Any]) -> dict[str, Any]:
    """Put an uploaded bundle into the registry, and before the gates."""
    from bascule.app import open_registry

    registry = open_registry(settings)
    version = registry.import_archive(Path(asked["file"]), by=asked["user"], model=asked["model"])
    return _judged(settings, registry, version, asked["user"])


def forecasts(settings: Settings, asked: dict[str, Any]) -> dict[str, Any]:
    """What `deploy --dry-run` says of each strategy: its sentence and forecasts, or the refusal."""
    from bascule.app import open_rollouts
    from bascule.release.rollouts import Begun, RolloutRequest

    book, made = open_rollouts(settings), []
    for strategy in asked["strategies"]:
        request = RolloutRequest(
            version=asked["version"], endpoint=asked["endpoint"], strategy=strategy,
            guards=tuple(asked["guards"]),
        )  # fmt: skip
        try:
            found = book.deploy(request, by=asked["user"], dry_run=True)
        except BasculeError as error:
            made.append({"strategy": strategy, "problem": error.message, "hint": error.hint})
            continue
        lines = found.forecasts if isinstance(found, Begun) else ()
        made.append(
            {
                "strategy": strategy,
                "sentence": found.sentence if isinstance(found, Begun) else found.prospect,
                "forecasts": [
                    {
                        "guard": one.guard, "harm": one.harm, "sentence": one.sentence,
                        "requests": one.detection.median_requests,
                        "exposed": one.detection.exposed_requests,
                        "power": one.detection.power,
                    }
                    for one in lines
                ],
            }
        )  # fmt: skip
    return {"strategies": made}


_TASKS: dict[str, Callable[[Settings, dict[str, Any]], dict[str, Any]]] = {
    "preview": preview, "run": run, "pack": pack, "take_in": take_in,
    "forecasts": forecasts,
}  # fmt: skip


def _memory_bytes() -> int:
    """What a task may take: half of the machine, so that the server stays."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _check_upload(place: str) -> None:
    """Refuse an uploaded table that grows too much before it is read; see `check_growth`."""
    from bascule.cli.table_files import check_growth

    if _OWN_PLACE.match(place):
        check_growth(Path(place))


def _enter(folder: str) -> None:
    """Go to the folder that a job's paths are relative to. Raises `NotFound`."""
    try:
        os.chdir(folder)
    except OSError as problem:
        raise NotFound(f"the folder of the job cannot be entered: {problem}") from None


def _judged(settings: Settings, registry: Registry, version: Version, user: str) -> dict[str, Any]:
    """The version, after the gates of the settings, if there are any, have judged it."""
    from datetime import UTC, datetime

    from bascule.bundle import load
    from bascule.release import check_and_record

    said: dict[str, Any] = {"model": version.model, "number": version.number}
    if criteria := settings.gates.criteria:
        _, problem = check_and_record(
            load(registry.path(version)), criteria, registry, version, configured=criteria,
            now=datetime.now(UTC), by=user,
        )  # fmt: skip
        if problem is not None:
            said["warning"] = problem.message
    return said


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


if __name__ == "__main__":
    answer_with_settings(answer)
