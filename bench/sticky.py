"""Rollouts whose users keep their arm, by simulation: `python -m bench.sticky`.

Each run is a canary of 5, 25, 50 and 100 % through `release.rollouts.decide`, between two versions
that are alike. Each user has an error rate of its own, drawn from a Beta law with a mean of 1 % and
a concentration of 10, and a sticky key. What workers and the store count is computed by the code
that computes it there: `cells_of` and `add_keys`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.endpoints import KEY_UNITS
from bascule.release.rollouts import (
    FINAL,
    ArmCounts,
    Cell,
    Guard,
    Interval,
    Promoted,
    Rollout,
    Told,
    cells_of,
    decide,
    packed,
    start,
    table_of,
)
from bascule.release.rollouts.evidence import less
from bascule.release.rollouts.keys import add_keys
from bascule.serving.telemetry import FIRST_ANSWERED, FIRST_CLAIMED, FIRST_FAILED, ROUND_BITS
from bascule.stats import exact_interval

START = datetime(2026, 1, 1, tzinfo=UTC)
STEPS = (5.0, 25.0, 50.0, 100.0)
LOOKS = 12
"""Of each stage, evenly in time; the last stage has twice as many."""
MEAN, CONCENTRATION = 0.01, 10.0
Ints = NDArray[np.int64]


class Users:
    """The users of one rollout, and what is known of them in one stage."""

    def __init__(self, count: int, harm: float, random: np.random.Generator) -> None:
        """`harm`: the rate at which the candidate fails beside the errors of both versions."""
        self.rates = random.beta(MEAN * CONCENTRATION, (1 - MEAN) * CONCENTRATION, count)
        self.drawn = random.random(count)
        self.units = (self.drawn * KEY_UNITS).astype(np.int64)
        self.harm = harm
        self._random = random

    def begin(self) -> None:
        self.bytes = np.zeros(KEY_UNITS, np.uint8)
        self.totals = np.zeros((2, 2), np.int64)

    def answer(self, share: float, requests: int, round_number: int) -> None:
        """So many requests, of users by chance; what workers count of them."""
        users = self._random.integers(0, len(self.rates), requests)
        of_candidate = self.drawn[users] < share
        rates = self.rates[users] + np.where(of_candidate, self.harm, 0.0)
        failed = self._random.random(requests) < rates
        for arm in (0, 1):
            self.totals[arm] += (of_candidate == arm).sum(), failed[of_candidate == arm].sum()
        units, first = np.unique(self.units[users], return_index=True)
        known = self.bytes[units]
        is_new = (known == 0) | (known >> ROUND_BITS < round_number)
        flags = round_number << ROUND_BITS | FIRST_CLAIMED | FIRST_ANSWERED
        states = flags | np.where(failed[first], FIRST_FAILED, 0)
        self.bytes[units[is_new]] = states[is_new]

    def told(self, stage: int, cell: Cell, *, by_key: bool) -> Told:
        arms = [
            ArmCounts(int(n), int(e), bound=int(n) * by_key, bound_errors=int(e) * by_key)
            for n, e in self.totals
        ]
        current, candidate = arms
        return Told(
            0, stage, current, candidate, share=cell.share, low=cell.low, high=cell.high,
            firsts=packed([self.bytes.tobytes()]) if by_key else "",
        )  # fmt: skip


def outcome_of(
    users: int, margin: float, seed: int, *, requests: int = 60_000, harm: float = 0.0,
    harmful_from: int = 0, by_key: bool = True,
) -> str:  # fmt: skip
    """How one rollout ends: promoted, aborted, or held after `requests` in all.

    Args:
        users: How many there are.
        margin: Of the guard on errors.
        seed: Of all that is drawn.
        requests: Of all users.
        harm: What the candidate's rate is higher by.
        harmful_from: The look from which on it is.
        by_key: Whether keys are counted; else each request.
    """
    plan = Rollout(
        id="r1", started_at=START, endpoint="late", candidate="late/2", current="late/1",
        strategy="canary", guards=(Guard("errors", margin, "pp"),), steps_percent=STEPS,
        step_s=1.0, min_requests=0,
    )  # fmt: skip
    everyone = Users(users, 0.0, np.random.default_rng(seed))
    cells = cells_of([step / 100 for step in STEPS])
    decision, intervals, number = start(plan, START), [], 0
    for stage in range(3):
        everyone.begin()
        seen, before = "", Interval(0, stage)
        looks = LOOKS * (1 + (stage == 2))
        for look in range(looks):
            number += 1
            everyone.harm = harm if number > harmful_from else 0.0
            # A look of the last stage may be of a later round.
            turn = look // LOOKS
            everyone.answer(cells[stage].share, requests // (4 * LOOKS), turn)
            told = everyone.told(stage, cells[stage], by_key=by_key)
            part = less(told, before)
            before = told
            made, seen = add_keys(part, [told], seen)
            intervals += made
            now = START + timedelta(minutes=number if look < looks - 1 else number + 1)
            state = decision.state
            if look < looks - 1 and not isinstance(state, FINAL):
                state = msgspec.structs.replace(state, since=now)  # the step is not over
            decision = decide(plan, state, table_of(intervals), now=now)
            if isinstance(decision.state, FINAL):
                return "promoted" if isinstance(decision.state, Promoted) else "aborted"
    return "held"


CELLS = [(users, margin) for users in (100, 1_000, 10_000) for margin in (0.0, 0.01)]


def main() -> int:
    """Print a line for each cell; 1 where more than 5 % of equal versions are rolled back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--requests", type=int, default=60_000)
    parser.add_argument("--by-request", action="store_true", help="count as if there were no keys")
    options = parser.parse_args()
    missed = 0
    print("users   margin   aborted               promoted  held")
    for users, margin in CELLS:
        ends = Counter(
            outcome_of(
                users, margin, seed, requests=options.requests, by_key=not options.by_request
            )
            for seed in range(options.runs)
        )
        low, high = exact_interval(ends["aborted"], options.runs)
        shares = {name: ends[name] / options.runs for name in ("aborted", "promoted", "held")}
        missed += shares["aborted"] > 0.05
        print(
            f"{users:6,}  {margin:6.0%}   {shares['aborted']:5.1%} ({low:5.1%} to {high:5.1%})  "
            f"{shares['promoted']:8.1%}  {shares['held']:5.1%}",
            flush=True,
        )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
