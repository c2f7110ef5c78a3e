"""Measures a model in a process of its own: `python -m bascule.cli.judging`.

The watcher of alerts, the control API and the console ask for it: their process must stay small and
quick, and loads no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from bascule.cli.children import answer_parent, ask_child, told_settings

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

        found = self._ask(what, model, {"day": day.isoformat(), "now": now.isoformat()})
        return [Finding.from_json(one) for one in found["findings"]]

    def measure(self, what: str, model: str, since_s: float) -> dict[str, Any]:
        """What `bascule monitor`, `drift` or `performance` says as JSON; raises likewise."""
        return self._ask(what, model, {"since_s": since_s})

    def plots(self, version: str) -> list[dict[str, str]]:
        """The plots of a version's card: title, caption, svg and section of each; raises likewise.

        The model runs, on at most 20,000 held-out rows.
        """
        drawn: list[dict[str, str]] = self._ask(PLOTS, version, {}, within_s=_PLOTS_S)[PLOTS]
        return drawn

    def _ask(
        self, what: str, model: str, asked: dict[str, Any], *, within_s: float = _JUDGE_S
    ) -> dict[str, Any]:
        return ask_child(
            "bascule.cli.judging",
            {"what": what, "model": model, "settings": self._settings, **asked},
            what=f"{what} of {model}", timeout_s=within_s, is_nice=True,
        )  # fmt: skip


def _answer(settings: Settings, asked: dict[str, Any]) -> dict[str, Any]:
    from bascule.app import judge, measured

    what, model = asked["what"], asked["model"]
    if what == PLOTS:
        return {PLOTS: _plots(settings, model)}
    if "since_s" in asked:
        return measured(settings, what, model, asked["since_s"])
    day, now = date.fromisoformat(asked["day"]), datetime.fromisoformat(asked["now"])
    found = judge(settings, what, model, day, now)
    return {"findings": [one.to_json() for one in found]}


def _plots(settings: Settings, version: str) -> list[dict[str, str]]:
    from dataclasses import asdict

    from bascule.app import open_registry
    from bascule.bundle import load, plots

    return [asdict(one) for one in plots(load(open_registry(settings).path(version)))]


if __name__ == "__main__":
    answer_parent(_answer)
