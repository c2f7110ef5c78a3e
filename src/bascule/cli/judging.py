"""Measures a model in a process of its own: `python -m bascule.cli.judging`.

The watcher of alerts, the control API and the console ask for it: their process must stay small and
quick, and loads no model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

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

    def measure(self, what: str, model: str, since_s: float) -> dict[str, Any]:
        """What `bascule monitor`, `drift` or `performance` says as JSON; raises likewise."""
        report: dict[str, Any] = self._ask({"what": what, "model": model, "since_s": since_s})
        return report

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


def main() -> None:
    """Measure what standard input names; says the findings or the report, or the error."""
    from pydantic import TypeAdapter

    from bascule.app import judge, measured
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
        if "since_s" in asked:
            print_json(measured(settings, what, model, asked["since_s"]))
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
