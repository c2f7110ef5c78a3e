"""Reads the ledger in a process of its own: `python -m bascule.cli.judging`.

What a model does in production, who calls a version, incidents, and recorded requests again.

The watcher of alerts, the control API and the console ask for it: their process must stay small and
quick, and loads no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from bascule.app import callers_by_name, open_catalogue, open_ledger, open_registry, usage_said
from bascule.cli.children import answer_with_settings, told_settings
from bascule.core import Child, Limits

if TYPE_CHECKING:
    from bascule.monitoring.alerts import Finding
    from bascule.settings import Settings

_JUDGE_S = 3_600.0
_PLOTS_S = 120.0
PLOTS = "plots"


class Judge:
    """Judges by some settings; see `app.watcher_of`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = told_settings(settings)

    def __call__(self, what: str, model: str, day: date, now: datetime) -> Sequence[Finding]:
        """The findings of `drift` or `performance` of a model's day.

        Raises:
            BasculeError: What the measurement raises.
            ModelFailed: The process died.
            TimedOut: It took longer than an hour, and was killed.
        """
        from bascule.monitoring.alerts import Finding

        findings = self._ask(
            {"what": what, "model": model, "day": day.isoformat(), "now": now.isoformat()}
        )["findings"]
        return [Finding.from_json(finding) for finding in findings]

    def measure(self, what: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """See `measured`; raises likewise."""
        return self._ask({"what": what, "model": name, "options": dict(options)})

    def plots(self, version: str) -> list[dict[str, str]]:
        """The plots of a version's card: title, caption, svg and section of each; raises likewise.

        The model runs, on at most 20,000 held-out rows.
        """
        question = {"what": PLOTS, "model": version}
        drawn: list[dict[str, str]] = self._ask(question, within_s=_PLOTS_S)[PLOTS]
        return drawn

    def _ask(self, question: dict[str, Any], *, within_s: float = _JUDGE_S) -> dict[str, Any]:
        return Child(
            "bascule.cli.judging", {**question, "settings": self._settings},
            Limits(within_s, is_nice=True), what=f"{question['what']} of {question['model']}",
        ).answer()  # fmt: skip


def measured(
    settings: Settings, what: str, name: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """What the control API has measured in a process of its own, as JSON.

    Args:
        settings: Where ledger, catalogue and registry are.
        what: One of `_REPORTS`.
        name: Of a model, an endpoint, a version or a prediction, as `what` says.
        options: The rest of the question, as JSON.

    Raises:
        BasculeError: What the measurement raises.
    """
    return _REPORTS[what](settings, name, options)


def _overview(settings: Settings, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from bascule.control import versions_of
    from bascule.monitoring.reporting import look_at

    name, bundle_of = versions_of(model, cache(partial(open_registry, settings)))
    since = timedelta(seconds=options["since_s"])
    return look_at(settings.home, name, bundle_of, since=since).to_json()


def _drift(settings: Settings, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from bascule.control import versions_of
    from bascule.monitoring import measure_production_drift

    name, bundle_of = versions_of(model, cache(partial(open_registry, settings)))
    since = timedelta(seconds=options["since_s"])
    return measure_production_drift(settings.home, name, bundle_of, since=since).to_json()


def _performance(settings: Settings, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from bascule.control import versions_of
    from bascule.monitoring import measure_performance

    name, bundle_of = versions_of(model, cache(partial(open_registry, settings)))
    now = datetime.now(UTC)
    since = now - timedelta(seconds=options["since_s"])
    return measure_performance(
        settings.home, name, bundle_of=bundle_of, since=since, now=now
    ).to_json()


def _callers(settings: Settings, version: str, options: Mapping[str, Any]) -> dict[str, Any]:
    since = datetime.fromisoformat(options["since"])
    model, _, number = version.partition("/")
    found = callers_by_name(settings, model, number, since)
    callers = None if found is None else [
        {"caller": one.caller, "requests": one.requests, "last": one.last.isoformat()}
        for one in found
    ]  # fmt: skip
    return {"since": since.isoformat(), "callers": callers, "sentence": usage_said(found, since)}


def _incident(settings: Settings, endpoint: str, options: Mapping[str, Any]) -> dict[str, Any]:
    import msgspec

    from bascule.documents import markdown
    from bascule.release import incidents

    since, until = (datetime.fromisoformat(options[one]) for one in ("since", "until"))
    facts = incidents.gather(
        endpoint, since=since, until=until, catalogue=open_catalogue(settings),
        registry=open_registry(settings), ledger=open_ledger(settings),
    )  # fmt: skip
    made = incidents.draft(facts)
    return {
        "incident": msgspec.to_builtins(made),
        "markdown": markdown(incidents.document_of(made)),
    }


def _replay(settings: Settings, prediction_id: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from bascule.bundle import Bundle, load
    from bascule.monitoring import replay_prediction

    registry = open_registry(settings)

    def open_version(reference: str) -> Bundle:  # no folder of this machine
        return load(registry.path(registry.resolve(reference)))

    ledger = open_ledger(settings)
    return replay_prediction(ledger, prediction_id, open_version, on=options["on"]).to_json()


_REPORTS: Mapping[str, Callable[[Settings, str, Mapping[str, Any]], dict[str, Any]]] = {
    "monitor": _overview,
    "drift": _drift,
    "performance": _performance,
    "callers": _callers,
    "incident": _incident,
    "replay": _replay,
}


def answer(settings: Settings, question: dict[str, Any]) -> dict[str, Any]:
    """Measure what a question names: the findings, the report or the plots."""
    from bascule.app import judge

    what, model = question["what"], question["model"]
    if what == PLOTS:
        return {PLOTS: _plots(settings, model)}
    if "options" in question:
        return measured(settings, what, model, question["options"])
    day, now = date.fromisoformat(question["day"]), datetime.fromisoformat(question["now"])
    return {"findings": [item.to_json() for item in judge(settings, what, model, day, now)]}


def _plots(settings: Settings, version: str) -> list[dict[str, str]]:
    from dataclasses import asdict

    from bascule.app import open_registry
    from bascule.bundle import load, plots

    return [asdict(one) for one in plots(load(open_registry(settings).path(version)))]


if __name__ == "__main__":
    answer_with_settings(answer)
