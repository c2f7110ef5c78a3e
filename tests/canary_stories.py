"""Canaries that are counted by workers, and decided turn by turn, as a server does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from bascule.control.loops.rollouts import counted
from bascule.release.rollouts import Interval, Running, decide, limits_of, table_of
from bascule.release.rollouts.evidence import less, with_limits
from bascule.release.rollouts.keys import cells_of

START = datetime(2026, 1, 1, tzinfo=UTC)


class CanaryStory:
    """A rollout and the `counters` of its arms; a subclass adds the requests of a turn.

    `raw` has the intervals as they were counted, `intervals` with the limits of guards, and
    `before` the sum of them.
    """

    plan_number, share = 1, 0.5

    def __init__(self, rollout, counters):
        self.rollout, self.counters = rollout, counters
        self.state, self.sentence, self.intervals, self.raw = Running(0, START), "", [], []
        self.before = None

    def turn(self):
        self.ask()
        totals = self.counters.arms.totals([(self.rollout.endpoint, self.plan_number)])
        counts = counted({arm.arm: arm for arm in totals}, 0, cells_of([0.5])[0])
        total = Interval(0, 0, counts.current, counts.candidate, share=self.share)
        interval = total if self.before is None else less(total, self.before)
        self.before = total
        interval = msgspec.structs.replace(interval, number=len(self.intervals))
        self.intervals.append(with_limits(interval, limits_of(self.rollout.guards, self.raw)))
        self.raw.append(interval)
        now = START + timedelta(hours=1)
        decision = decide(self.rollout, self.state, table_of(self.intervals), now=now)
        self.state, self.sentence = decision.state, decision.sentence

    def run(self, turns=60):
        for _ in range(turns):
            self.turn()
            if not isinstance(self.state, Running):
                break
        return type(self.state)
