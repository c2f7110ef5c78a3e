"""Versions and endpoints as jobs: a model is packed, a bundle taken in, a deployment forecast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.core import BasculeError, Limits
from bascule.jobs import Kind, Live, Task, half_of_memory
from bascule.kinds.batch import check_upload

if TYPE_CHECKING:
    from bascule.registry import Registry, Version
    from bascule.settings import Settings

_PUSH_S = 600.0


def pack(settings: Settings, task: Task, live: Live) -> dict[str, Any]:
    """Pack an uploaded model, put it before the gates and into the registry."""
    from bascule.app import open_registry, pack_files
    from bascule.core import Scratch

    asked = task.input

    def path(name: str) -> Path | None:
        return Path(asked[name]) if asked.get(name) else None

    for name in ("train", "test"):
        check_upload(asked.get(name) or "")
    registry = open_registry(settings)
    with Scratch("bascule-console-") as folder:
        made = pack_files(
            Path(asked["file"]), name=asked["model"], train=path("train"), test=path("test"),
            target=[asked["target"]] if asked.get("target") else None, allow_pickle=False,
            to=folder / "bundle", progress=lambda stage: live.tell({"stage": stage}),
        )  # fmt: skip
        version = registry.push(made.path, by=task.by)
        return judge_pushed(settings, registry, version, task.by)


def take_in(settings: Settings, task: Task, live: Live) -> dict[str, Any]:
    """Put an uploaded bundle into the registry, and before the gates."""
    from bascule.app import open_registry

    registry = open_registry(settings)
    number = push(settings, task, live)["number"]
    version = registry.resolve(f"{task.input['model']}/{number}", retired=True)
    return judge_pushed(settings, registry, version, task.by)


def push(settings: Settings, task: Task, _live: Live) -> dict[str, Any]:
    """Put an archive into the registry. Raises what `Registry.import_archive` raises."""
    from bascule.app import open_registry

    file, model = Path(task.input["file"]), task.input["model"]
    return {"number": open_registry(settings).import_archive(file, by=task.by, model=model).number}


def forecasts(settings: Settings, task: Task, _live: Live) -> dict[str, Any]:
    """What `deploy --dry-run` says of each strategy: its sentence and forecasts, or the refusal."""
    from bascule.app import open_rollouts
    from bascule.release.rollouts import Begun, RolloutRequest

    asked, book, made = task.input, open_rollouts(settings), list[dict[str, Any]]()
    for strategy in asked["strategies"]:
        request = RolloutRequest(
            version=asked["version"], endpoint=asked["endpoint"], strategy=strategy,
            guards=tuple(asked["guards"]),
        )  # fmt: skip
        try:
            found = book.deploy(request, by=task.by, dry_run=True)
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


def judge_pushed(
    settings: Settings, registry: Registry, version: Version, user: str, own: Sequence[str] = ()
) -> dict[str, Any]:
    """The version, after the gates of the settings and its own, if any, have judged it."""
    from datetime import UTC, datetime
    from functools import partial

    from bascule.app import open_judge
    from bascule.bundle import load
    from bascule.release import check_and_record

    said: dict[str, Any] = {"model": version.model, "number": version.number}
    if criteria := [*settings.gates.criteria, *own]:
        _, problem = check_and_record(
            load(registry.path(version)), criteria, registry, version,
            configured=settings.gates.criteria, now=datetime.now(UTC), by=user,
            find_judge=partial(open_judge, settings),
        )  # fmt: skip
        if problem is not None:
            said["warning"] = problem.message
    return said


def _endpoint(content: Mapping[str, Any]) -> str:
    return str(content["endpoint"])


PACK = Kind(name="pack", run=pack, right="write", is_private=True)
TAKE_IN = Kind(name="take_in", run=take_in, right="write", is_private=True)
PUSH = Kind(
    name="push", run=push, right="write", limits=Limits(_PUSH_S, half_of_memory(), is_nice=True)
)
FORECASTS = Kind(name="forecasts", run=forecasts, right="deploy", model_of=_endpoint)
