"""Whether a training run is to start now, and why. Pure.

A trigger is asked at the times of a schedule. It starts a run where one of its conditions holds and
nothing speaks against it; either way it gives one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec

from bascule.core import Invalid, counted, first_line

_MONTH = timedelta(days=30)
ALERTS = ("drift", "performance", "losses")
"""The sources of alerts that a trigger can wait for."""
_CONDITION = re.compile(
    r"(?P<count>[1-9]\d*)(?P<percent> ?%)? new rows|new data|time|" + "|".join(ALERTS)
)


class Trigger(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a pipeline runs by itself.

    Attributes:
        file: Of the pipeline.
        pipeline: Its name; empty where the file has one alone.
        on: Any of them starts a run: `drift`, `performance`, `losses` (an alert of it fires),
            `5000 new rows`, `20 % new rows`, `new data` (rows or files differ from those of the
            last run), `time`. A share trains often while rows are few and more of them help: on
            the census, 20 % comes within 0.0003 of the area under the curve of retraining always,
            with 12 of its 50 trainings (bench/loop.py).
        cool_down_h: Hours since the last run began, before which none starts.
        budget: Runs in 30 days at most.
        parameters: Of the pipeline.
    """

    file: str = "pipeline.toml"
    pipeline: str = ""
    on: tuple[str, ...]
    cool_down_h: Annotated[float, msgspec.Meta(ge=0)] = 24.0
    budget: Annotated[int, msgspec.Meta(ge=1)] = 10
    parameters: dict[str, Any] = {}

    @classmethod
    def of(cls, content: Any) -> Trigger:
        """Raises `Invalid`."""
        try:
            trigger = msgspec.convert(content, cls)
        except msgspec.ValidationError as problem:
            raise Invalid(
                f"the trigger: {first_line(problem)}", hint="give on=['drift'], and a budget over 0"
            ) from None
        for condition in trigger.on:
            if not _CONDITION.fullmatch(condition):
                raise Invalid(
                    f"on: {condition!r} is no condition",
                    hint=f"write one of {', '.join(ALERTS)}, '5000 new rows', 'new data', time",
                )
        if not trigger.on:
            raise Invalid("on: a trigger needs a condition", hint="on = ['drift']")
        return trigger

    @property
    def reads_rows(self) -> bool:
        """Whether the rows must be counted to decide."""
        return any(condition.startswith("new") or "rows" in condition for condition in self.on)


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run of the pipeline.

    Attributes:
        began_at: When.
        is_under_way: Whether it waits or runs.
        rows: It had so many; None if it did not come so far.
    """

    began_at: datetime
    is_under_way: bool = False
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known now.

    Attributes:
        runs: Of the pipeline, the latest first.
        alerts: (source, sentence) of each alert of the model that fires.
        rows: There are so many; None where that was not asked.
    """

    runs: Sequence[PastRun]
    alerts: Sequence[tuple[str, str]]
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a run starts, and why, in a sentence."""

    starts: bool
    sentence: str


def decide(trigger: Trigger, facts: Facts, now: datetime) -> Decision:
    """Whether the pipeline runs now.

    What speaks against a run is looked at last, so that its sentence says what waits for it.
    """
    reason = next(filter(None, (_reason(condition, facts) for condition in trigger.on)), "")
    if not reason:
        return Decision(False, f"no run: none of {', '.join(trigger.on)}")
    if any(run.is_under_way for run in facts.runs):
        return Decision(False, f"no run: one is under way; {reason}")
    latest = max((run.began_at for run in facts.runs), default=None)
    cool_down = timedelta(hours=trigger.cool_down_h)
    if latest is not None and now - latest < cool_down:
        until = latest + cool_down
        return Decision(False, f"no run before {until:%Y-%m-%d %H:%M}Z, to cool down; {reason}")
    recent = sum(now - run.began_at < _MONTH for run in facts.runs)
    if recent >= trigger.budget:
        return Decision(False, f"no run: {recent} in 30 days are the whole budget; {reason}")
    return Decision(True, reason)


def _reason(condition: str, facts: Facts) -> str:
    """The sentence of a condition that holds; empty where it does not."""
    if condition == "time":
        return "it is time"
    if condition in ALERTS:
        return next((sentence for source, sentence in facts.alerts if source == condition), "")
    before = next((run.rows for run in facts.runs if run.rows is not None), None)
    if facts.rows is None or facts.rows == before:
        return ""
    if before is None:
        return f"{counted(facts.rows, 'row')}, and no run has had any"
    match = _CONDITION.fullmatch(condition)
    least = float(match["count"]) if match is not None and match["count"] else 1.0
    if match is not None and match["percent"]:
        least *= before / 100
    # Fewer rows than before are other data: a table was replaced.
    enough = abs(facts.rows - before) >= least
    return (
        f"{facts.rows - before:+,} rows since the last run, {facts.rows:,} in all" if enough else ""
    )
