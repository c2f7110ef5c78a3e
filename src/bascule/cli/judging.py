"""Measures a model in production in a process of its own: `python -m bascule.cli.judging`.

The watcher of alerts and the control API ask for it: their process must stay small and quick.
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

    def _ask(self, what: str, model: str, asked: dict[str, Any]) -> dict[str, Any]:
        return ask_child(
            "bascule.cli.judging",
            {"what": what, "model": model, "settings": self._settings, **asked},
            what=f"{what} of {model}", timeout_s=_JUDGE_S, is_nice=True,
        )  # fmt: skip


def _answer(settings: Settings, asked: dict[str, Any]) -> dict[str, Any]:
    from bascule.app import judge, measured

    what, model = asked["what"], asked["model"]
    if "since_s" in asked:
        return measured(settings, what, model, asked["since_s"])
    day, now = date.fromisoformat(asked["day"]), datetime.fromisoformat(asked["now"])
    found = judge(settings, what, model, day, now)
    return {"findings": [one.to_json() for one in found]}


if __name__ == "__main__":
    answer_parent(_answer)
