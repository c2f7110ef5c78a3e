"""Production as jobs: reports of a model, callers of a version, incidents, recorded requests again.

Each reads the ledger in a process of its own. The watcher of alerts, the control API and the
console ask for it: their process must stay small and quick, and loads no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.app import callers_by_name, open_catalogue, open_ledger, open_registry, usage_said
from bascule.core import Limits, Reference
from bascule.jobs import Kind, Live, Task, half_of_memory
from bascule.security import ANY

if TYPE_CHECKING:
    from bascule.jobs import JobRunner
    from bascule.monitoring.alerts import Finding
    from bascule.settings import Settings

_REPORT = Limits(3_600.0, half_of_memory(), is_nice=True)
_DRAWING = Limits(120.0, half_of_memory(), is_nice=True)


def _measuring(measure: Callable[..., Any]) -> Callable[[Settings, Task, Live], dict[str, Any]]:
    """A report of the last `since_s` seconds of a model, as JSON."""

    def run(settings: Settings, task: Task, _live: Live) -> dict[str, Any]:
        from bascule.control import versions_of

        name, bundle_of = versions_of(task.input["model"], cache(partial(open_registry, settings)))
        report: dict[str, Any] = measure(
            settings.home, name, bundle_of, timedelta(seconds=task.input["since_s"])
        ).to_json()
        return report

    return run


def _overview(home: Path, name: str, bundle_of: Any, since: timedelta) -> Any:
    from bascule.monitoring.reporting import look_at

    return look_at(home, name, bundle_of, since=since)


def _drift(home: Path, name: str, bundle_of: Any, since: timedelta) -> Any:
    from bascule.monitoring import measure_production_drift

    return measure_production_drift(home, name, bundle_of, since=since)


def _performance(home: Path, name: str, bundle_of: Any, since: timedelta) -> Any:
    from bascule.monitoring import measure_performance

    now = datetime.now(UTC)
    return measure_performance(home, name, bundle_of=bundle_of, since=now - since, now=now)


def _slices(settings: Settings, task: Task, _live: Live) -> dict[str, Any]:
    """Of `model`, a version, beside one that is `against` it or none; or of its held-out rows."""
    from bascule.bundle import load
    from bascule.release import measure_slices

    registry, asked, now = open_registry(settings), task.input, datetime.now(UTC)
    version = registry.resolve(asked["model"])
    other = registry.resolve(asked["against"]) if asked.get("against") else None
    ledger = (settings.home, version.model, str(version.number))
    report = measure_slices(
        load(registry.path(version)), ledger=None if asked.get("held_out") else ledger,
        against=None if other is None else load(registry.path(other)),
        since=now - timedelta(seconds=asked.get("since_s", 2_592_000)), now=now,
    )  # fmt: skip
    return {"model": str(version), "against": str(other or ""), **report}


def _callers(settings: Settings, task: Task, _live: Live) -> dict[str, Any]:
    since = datetime.fromisoformat(task.input["since"])
    model, _, number = task.input["model"].partition("/")
    found = callers_by_name(settings, model, number, since)
    said = {"since": since, "callers": found, "sentence": usage_said(found, since)}
    plain: dict[str, Any] = msgspec.to_builtins(said)
    return plain


def _incident(settings: Settings, task: Task, _live: Live) -> dict[str, Any]:
    from bascule.documents import markdown
    from bascule.release import incidents

    since, until = (datetime.fromisoformat(task.input[one]) for one in ("since", "until"))
    facts = incidents.gather(
        task.input["endpoint"], since=since, until=until, catalogue=open_catalogue(settings),
        registry=open_registry(settings), ledger=open_ledger(settings),
    )  # fmt: skip
    made = incidents.draft(facts)
    return {
        "incident": msgspec.to_builtins(made),
        "markdown": markdown(incidents.document_of(made)),
    }


def _document(settings: Settings, task: Task, _live: Live) -> dict[str, Any]:
    """A compliance document of a version, in every format but PDF."""
    from bascule.app import shown_settings
    from bascule.control import Approvals, versions_of
    from bascule.documents import markdown, page, section_json
    from bascule.release import compliance

    name, chosen, now = task.input["document"], settings.documents, datetime.now(UTC)
    registry, catalogue = open_registry(settings), open_catalogue(settings)
    version = registry.resolve(task.input["model"], retired=True)
    spec = compliance.read_list(name, chosen.lists)
    answers = compliance.read_answers(chosen.answers, name, spec)
    _, bundle_of = versions_of(version.model, lambda: registry)
    manifest, known, facts = compliance.gather(
        registry, version, catalogue=catalogue, ledger=open_ledger(settings),
        approvals=map(asdict, Approvals(lambda: catalogue, timedelta()).list()),
        settings=shown_settings(settings), open_bundle=bundle_of, now=now,
    )  # fmt: skip
    document, missing = compliance.draft(name, spec, facts, answers, about=str(version), now=now)
    front = ""
    if name == "model-card":
        licence = answers.get("licence", "")
        front = compliance.front_matter(manifest, known, str(version), licence)
    return {
        "json": {
            "document": name, "model": str(version), "digest": version.digest,
            "at": now.isoformat(), "title": document.title,
            "sections": list(map(section_json, document.sections)),
            "missing": msgspec.to_builtins(missing),
        },
        "markdown": front + markdown(document),
        "html": page(document),
    }  # fmt: skip


def _replay(settings: Settings, task: Task, _live: Live) -> dict[str, Any]:
    from bascule.bundle import Bundle, load
    from bascule.monitoring import replay_prediction

    registry = open_registry(settings)

    def open_version(reference: str) -> Bundle:  # no folder of this machine
        return load(registry.path(registry.resolve(reference)))

    asked = task.input
    ledger = open_ledger(settings)
    return replay_prediction(ledger, asked["id"], open_version, on=asked["on"]).to_json()


def _explain(settings: Settings, task: Task, _live: Live) -> Sequence[dict[str, str]]:
    """The waterfalls of a recorded prediction, as `_plots`."""
    from bascule.bundle import load
    from bascule.monitoring import explain_prediction

    registry = open_registry(settings)
    plots = explain_prediction(
        open_ledger(settings), task.input["id"],
        lambda reference: load(registry.path(registry.resolve(reference, retired=True))),
    )  # fmt: skip
    return [asdict(plot) for plot in plots]


def _judge(settings: Settings, task: Task, _live: Live) -> list[dict[str, Any]]:
    """The findings of a finished day of a model: `drift`, `performance` or `fairness`."""
    from bascule.app import judge

    what, model = task.input["what"], task.input["model"]
    day, now = date.fromisoformat(task.input["day"]), datetime.fromisoformat(task.input["now"])
    return [finding.to_json() for finding in judge(settings, what, model, day, now)]


def judging(
    open_jobs: Callable[[], JobRunner],
) -> Callable[[str, str, date, datetime], list[Finding]]:
    """What judges a finished day of a model in a process of its own; see `app.watcher_of`."""
    from bascule.monitoring.alerts import Finding

    def judge(what: str, model: str, day: date, now: datetime) -> list[Finding]:
        asked = {"what": what, "model": model, "day": day.isoformat(), "now": now.isoformat()}
        title = f"{what} of {model}"
        found = open_jobs().answer(Task(kind="judge", input=asked, title=title))
        return [Finding.from_json(finding) for finding in found]

    return judge


def _plots(settings: Settings, task: Task, _live: Live) -> Sequence[dict[str, str]]:
    """Title, caption, svg and section of each plot; the model runs on held-out rows."""
    from bascule.bundle import load, plots

    return [asdict(plot) for plot in plots(load(open_registry(settings).path(task.input["model"])))]


def _any_model(_content: Mapping[str, Any]) -> str:
    return ANY


def _model(content: Mapping[str, Any]) -> str:
    return str(content["model"]).partition("/")[0]


def _both_models(content: Mapping[str, Any]) -> str:
    """All models, where two are compared."""
    names = {
        Reference.parse(name).model for key in ("model", "against") if (name := content.get(key))
    }
    return names.pop() if len(names) == 1 else ANY


def _kind(name: str, run: Any, **how: Any) -> Kind:
    chosen: dict[str, Any] = {"limits": _REPORT, "right": "read", "model_of": _model}
    return Kind(name=name, run=run, **chosen | how)


MONITOR = _kind(
    "monitor", _measuring(_overview), is_open=True, kept=timedelta(days=7)
)  # pages show the latest with its time while a new one is made
DRIFT = _kind("drift", _measuring(_drift), is_open=True)
PERFORMANCE = _kind("performance", _measuring(_performance), is_open=True)
SLICES = _kind("slices", _slices, model_of=_both_models, is_open=True)
CALLERS = _kind("callers", _callers)
INCIDENT = _kind("incident", _incident, model_of=_any_model)  # it tells of alerts and models
DOCUMENT = _kind("document", _document)
REPLAY = _kind("replay", _replay, right="manage", model_of=_any_model, is_private=True)
EXPLAIN = _kind(
    "explain", _explain, limits=_DRAWING, right="manage", model_of=_any_model, is_private=True
)
PLOTS = _kind("plots", _plots, limits=_DRAWING)
JUDGE = _kind("judge", _judge)
