"""Judging as jobs: a judge model scores the answers of a model that it has not seen yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bascule.app import judge_of, open_judge
from bascule.core import Invalid, Limits, check_name
from bascule.jobs import Kind, Live, Task, half_of_memory

if TYPE_CHECKING:
    from bascule.settings import Settings

_MOST = 2_000
"""Answers that one job judges, unless its input says otherwise."""


def parsed(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """`model`, `judge`, and perhaps `most`. Raises `Invalid`."""
    most = content.get("most", _MOST)
    if not isinstance(most, int | str) or not str(most).isdecimal() or not 0 < int(most) <= 100_000:
        raise Invalid(
            f"most must be 1 to 100,000 answers, not {most!r}", field="most", hint="most=2000"
        )
    return {
        "model": check_name(content.get("model", "")), "most": int(most),
        "judge": check_name(content.get("judge", ""), what="judge"),
    }  # fmt: skip


def judge_answers(settings: Settings, task: Task, live: Live) -> dict[str, Any]:
    """Judge; verdicts are kept as they come, and a job that goes on judges the rest."""
    from bascule.monitoring import Ledger, Outcomes, unjudged, verdicts
    from bascule.monitoring.ledger import judge_model

    model, judge, most = (task.input[name] for name in ("model", "judge", "most"))
    live.begin(f"{judge} judges {model}", {})
    options = judge_of(settings, judge)
    waiting = unjudged(
        Ledger(settings.home, is_private=True), model, judge, options.share, most + 1
    )
    if not waiting:
        return {"judged": 0, "unusable": 0, "are_more": False}
    asked = open_judge(settings, judge)
    outcomes, judged, unusable = Outcomes(settings.home), 0, 0
    for group in verdicts(asked, waiting[:most]):
        outcomes.add_rows(judge_model(judge), [(*verdict, None) for verdict in group])
        judged += len(group)
        unusable += sum(isinstance(truth, str) for _, truth in group)
        live.tell({"done": judged, "of": len(waiting[:most])})
        if live.stopped:
            break
    return {"judged": judged, "unusable": unusable, "are_more": len(waiting) > judged}


JUDGE_ANSWERS = Kind(
    name="judge_answers", run=judge_answers, parse=parsed, can_resume=True, retries=2, is_open=True,
    limits=Limits(7_200.0, half_of_memory(), is_nice=True),
)  # fmt: skip
