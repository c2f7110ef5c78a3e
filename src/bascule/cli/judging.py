"""Reads the ledger in a process of its own: `python -m bascule.cli.judging`.

What a model does in production, who calls a version, incidents, and recorded requests again.

The watcher of alerts, the control API and the console ask for it: their process must stay small and
quick, and loads no model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from bascule.app import callers_by_name, open_catalogue, open_ledger, open_registry, usage_said
from bascule.core import KINDS, BasculeError, ModelFailed, TimedOut

if TYPE_CHECKING:
    from bascule.monitoring.alerts import Finding
    from bascule.settings import Settings

_JUDGE_S = 3_600.0
_PLOTS_S = 120.0
_NICE = 10
PLOTS = "plots"


class Judge:
    """Judges by some settings; see `app.watcher_of`."""

    def __init__(self, settings: Settings) -> None:
        from pydantic import TypeAdapter

        from bascule.settings import Settings as Kind

        self._settings = TypeAdapter(Kind).dump_python(settings, mode="json")

    def __call__(self, what: str, model: str, day: date, now: datetime) -> Sequence[Finding]:
        """The findings of `drift` or `performance` of a model's day.

        Raises:
            BasculeError: What the measurement raises.
            ModelFailed: The process died.
            TimedOut: It took longer than an hour, and was killed.
        """
        from bascule.monitoring.alerts import Finding

        asked = {"what": what, "model": model, "day": day.isoformat(), "now": now.isoformat()}
        found = self._ask(asked)
        return [Finding.from_json(one) for one in found["findings"]]

    def measure(self, what: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """See `measured`; raises likewise."""
        return self._ask({"what": what, "model": name, "options": dict(options)})

    def plots(self, version: str) -> list[dict[str, str]]:
        """The plots of a version's card: title, caption, svg and section of each; raises likewise.

        The model runs, on at most 20,000 held-out rows.
        """
        asked = {"what": PLOTS, "model": version}
        drawn: list[dict[str, str]] = self._ask(asked, within_s=_PLOTS_S)[PLOTS]
        return drawn

    def _ask(self, asked: dict[str, Any], *, within_s: float = _JUDGE_S) -> dict[str, Any]:
        what, model = asked["what"], asked["model"]
        asked = {**asked, "settings": self._settings}
        command = [
            "nice", "-n", str(_NICE), sys.executable, "-m", "bascule.cli.judging", str(os.getpid())
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, input=json.dumps(asked).encode(), stdout=subprocess.PIPE,
                timeout=within_s, check=False,
            )  # fmt: skip
            found: dict[str, Any] = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            raise TimedOut(f"{what} of {model} took over {within_s:g} s") from None
        except ValueError:
            raise ModelFailed(f"{what} of {model} failed; see the server's log") from None
        if "error" in found:
            kind = next(kind for kind in KINDS if kind.__name__ == found["kind"])
            raise kind(found["error"], hint=found["hint"])
        return found


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

    from bascule.release import incidents

    since, until = (datetime.fromisoformat(options[one]) for one in ("since", "until"))
    facts = incidents.gather(
        endpoint, since=since, until=until, catalogue=open_catalogue(settings),
        registry=open_registry(settings), ledger=open_ledger(settings),
    )  # fmt: skip
    made = incidents.draft(facts)
    return {"incident": msgspec.to_builtins(made), "markdown": incidents.to_markdown(made)}


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


def main() -> None:
    """Measure what standard input names; says the findings or the report, or the error."""
    from pydantic import TypeAdapter

    from bascule.app import judge
    from bascule.bundle.programs import die_with
    from bascule.cli.screen import error_json, print_json
    from bascule.settings import Settings as Kind

    die_with(int(sys.argv[1]))
    asked: dict[str, Any] = json.loads(sys.stdin.read())
    settings = TypeAdapter(Kind).validate_python(asked["settings"])
    what, model = asked["what"], asked["model"]
    try:
        if what == PLOTS:
            print_json({PLOTS: _plots(settings, model)})
            return
        if "options" in asked:
            print_json(measured(settings, what, model, asked["options"]))
            return
        day, now = date.fromisoformat(asked["day"]), datetime.fromisoformat(asked["now"])
        found = judge(settings, what, model, day, now)
        print_json({"findings": [one.to_json() for one in found]})
    except BasculeError as error:
        kind = next(one for one in type(error).__mro__ if one in KINDS)
        print_json({**error_json(error), "kind": kind.__name__})


def _plots(settings: Settings, version: str) -> list[dict[str, str]]:
    from dataclasses import asdict

    from bascule.app import open_registry
    from bascule.bundle import load, plots

    return [asdict(one) for one in plots(load(open_registry(settings).path(version)))]


if __name__ == "__main__":
    main()
