"""Judging as jobs: a judge model scores the answers of a model that it has not seen yet."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from bascule.app import judge_of, open_judge
from bascule.core import Limits, check_name
from bascule.jobs import Kind, Live, Task, half_of_memory

if TYPE_CHECKING:
    from bascule.settings import Settings

_MOST = 10_000
"""Answers that one job judges."""


def parsed(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """`model` and `judge`. Raises `Invalid`."""
    return {
        "model": check_name(content.get("model", "")),
        "judge": check_name(content.get("judge", ""), what="judge"),
    }


def judge_answers(settings: Settings, task: Task, live: Live) -> dict[str, Any]:
    """Judge; verdicts are kept and shared as they come, and a job that goes on judges the rest."""
    from bascule.monitoring import Ledger, Outcomes, unjudged, verdicts
    from bascule.monitoring.ledger import shared_of

    model, name = task.input["model"], task.input["judge"]
    live.begin(f"{name} judges {model}", {})
    ledger = Ledger(settings.home, is_private=True)
    waiting = unjudged(ledger, model, name, judge_of(settings, name).share, _MOST)
    outcomes, shared = Outcomes(settings.home), shared_of(settings.home)
    judged = unusable = 0
    if waiting:
        with closing(open_judge(settings, name)) as judge:
            for group in verdicts(judge, waiting):
                outcomes.add_rows(name, [(*verdict, None) for verdict in group], of_judge=True)
                if shared is not None:  # before a job of another host begins
                    shared.share_outcomes()
                judged += len(group)
                unusable += sum(isinstance(truth, str) for _, truth in group)
                live.tell({"done": judged, "of": len(waiting)})
                if live.stopped:
                    break
    return {"judged": judged, "unusable": unusable}


JUDGE_ANSWERS = Kind(
    name="judge_answers", run=judge_answers, parse=parsed, can_resume=True, retries=2, is_open=True,
    limits=Limits(7_200.0, half_of_memory(), is_nice=True),
)  # fmt: skip
