"""Controllers that are killed by SIGKILL at every statement, and two at once: one story, no gap.

A controller is a forked process. It is killed before a statement to the catalogue, or before a
commit. What its server counts is in memory that survives it, as with a real server.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import sqlalchemy as sa
from tests.tiers import first_of

from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.control.loops.rollouts import LEASE, RolloutRunner
from bascule.core import BasculeError
from bascule.endpoints import Arm, ContextFeature, EndpointStore, Plan, StoredPlan
from bascule.release.rollouts import (
    Cohort,
    CohortArm,
    Guard,
    Interval,
    Rollout,
    RolloutStore,
    check_rollout,
    replay,
    summed,
    table_of,
)
from bascule.serving.telemetry import ArmTotals

T0 = datetime.now(UTC)
A_TURN = 4_000
MOST_TURNS = 60
MOST_PLANS = 8
ROLLOUT = Rollout(
    id="r1", started_at=T0, endpoint="late", candidate="late/2", current="late/1",
    strategy="canary", guards=(Guard("errors", 0.02, "pp"),), step_s=0.0,
    steps_percent=(20.0, 100.0),
)  # fmt: skip
STEERED = msgspec.structs.replace(
    ROLLOUT, strategy="contextual", steps_percent=(50.0,), context=(ContextFeature("a", "a"),),
    guards=(Guard("accuracy", 0.5, "pp"),),
)  # fmt: skip


class CountedServer:
    """A server whose arms answer `A_TURN` requests a turn; the candidate fails every `bad_every`.

    Requests and errors by plan and arm are shared with forked processes.
    """

    services = labels = ()

    def __init__(self, catalogue, bad_every=0):
        self._plans = EndpointStore(catalogue)
        self._shared = memoryview(mmap.mmap(-1, MOST_PLANS * 4 * 8)).cast("Q")
        self._bad_every = bad_every

    def totals(self):
        return []

    def answer(self):
        plan = self._plans.endpoint("late").current.plan
        for place, arm in enumerate(plan.arms):
            at = (plan.number * 2 + place) * 2
            asked = int(A_TURN * arm.share_percent / 100)
            self._shared[at] += asked
            if self._bad_every and arm.name == "candidate":
                self._shared[at + 1] += asked // self._bad_every

    def arm_totals(self, _compared=""):
        made = []
        for stored in self._plans.plans("late"):
            for place, arm in enumerate(stored.plan.arms):
                at = (stored.plan.number * 2 + place) * 2
                made.append(
                    ArmTotals(
                        endpoint="late", plan_number=stored.plan.number, arm=arm.name,
                        version=arm.version, requests=self._shared[at],
                        errors=self._shared[at + 1], fallbacks=0, slower=(), slower_than_s=(),
                        rows=0, disagreements=0, dropped=0,
                    )
                )  # fmt: skip
        return made


@dataclass
class Home:
    """A catalogue with a rollout that was asked for."""

    catalogue: Catalogue

    @property
    def store(self):
        return RolloutStore(self.catalogue)

    def let_lease_end(self):
        """As if the seconds of the lease had passed."""
        with self.catalogue.write() as connection:
            connection.execute(
                sa.text("UPDATE leases SET expires_at = '2000-01-01' WHERE name = :name"),
                {"name": LEASE},
            )


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """By rollout: the file of a catalogue with it, which no controller has begun."""
    folder = tmp_path_factory.mktemp("asked")
    return {rollout: _asked(rollout, folder / rollout.strategy) for rollout in (ROLLOUT, STEERED)}


def _asked(rollout, file):
    plan = Plan("late", 1, (Arm("current", "late/1", 100.0),))
    RolloutStore(Catalogue(SqliteDatabase(file))).add(
        check_rollout(rollout), by="ada", reason="", first=StoredPlan(plan, T0, "ada")
    )
    return file


@pytest.fixture
def new_home(asked, tmp_path):
    numbers = iter(range(1_000))

    def make(rollout=ROLLOUT):
        file = tmp_path / f"{next(numbers)}.db"
        shutil.copy(asked[rollout], file)
        return Home(Catalogue(SqliteDatabase(file)))

    return make


def controller(home, server, name="a", *, die_at=None, count=lambda *_: [], **options):
    """Fork a controller, which turns until the rollout has ended; its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        if die_at is not None:
            _die_at_statement(die_at)
        runner = RolloutRunner(server, home.catalogue, count, **options)
        runner._source = f"host/{name}"
        for _ in range(MOST_TURNS):
            server.answer()
            try:
                if not runner.turn():
                    os._exit(0)
            except BasculeError:
                time.sleep(0.001)
        os._exit(3)
    finally:
        os._exit(4)


def _die_at_statement(number):
    left = iter(range(number))

    def count(*_arguments, **_more):
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    sa.event.listen(sa.Engine, "commit", count)


def ended(pid):
    """The exit code of a process; the negative signal where one killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def story(home):
    """What a reader sees of a rollout, without times: states, plans and shares."""
    decisions = home.store.decisions("r1")
    assert [one.number for one in decisions] == [*range(1, len(decisions) + 1)]
    plans = EndpointStore(home.catalogue).plans("late")
    assert [one.plan.number for one in plans] == [*range(len(plans), 0, -1)]
    made = [one.plan_number for one in decisions if one.plan_number]
    assert made == [*range(2, len(plans) + 1)], "each plan is of one decision"
    return [
        (type(one.decision.state).__name__, one.decision.shares.candidate_percent)
        for one in decisions
    ], plans[0].plan.arms


def check_evidence(home):
    """Each count is in one interval, and the decisions can be made again from the intervals."""
    store = home.store
    stored = store.get("r1")
    sealed = [one for one, _ in store.intervals("r1")]
    assert [one.number for one in sealed] == [*range(len(sealed))]
    with home.catalogue.read() as connection:
        said = connection.execute(sa.text("SELECT sealed FROM rollouts")).scalar_one()
    parts = [msgspec.convert(one, Interval) for one in json.loads(said).values()]
    assert summed(sealed).candidate == summed(parts).candidate
    assert summed(sealed).current == summed(parts).current
    decided = [one for one in store.decisions("r1") if one.decision.intervals]
    assert replay(stored.rollout, decided, table_of(sealed)) == []


@pytest.mark.parametrize("bad_every", first_of([4, 0]), ids=["harmful", "good"])
@pytest.mark.parametrize("apart", first_of([13, 1]))
def test_killed_at_every_statement_a_rollout_ends_as_if_it_had_not_been(new_home, bad_every, apart):
    home = new_home()
    assert ended(controller(home, CountedServer(home.catalogue, bad_every))) == 0
    expected = story(home)
    check_evidence(home)
    last = "Aborted" if bad_every else "Promoted"
    assert Counter(state for state, _ in expected[0])[last] == 1

    number = 0
    while True:
        home = new_home()
        server = CountedServer(home.catalogue, bad_every)
        code = ended(controller(home, server, die_at=number))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        home.let_lease_end()
        assert ended(controller(home, server)) == 0
        assert story(home) == expected, f"killed at statement {number}"
        check_evidence(home)
        number += apart
    assert number > 30


def test_of_two_controllers_one_acts_and_each_step_is_made_once(new_home):
    for _ in range(5):
        home = new_home()
        servers = [CountedServer(home.catalogue), CountedServer(home.catalogue)]
        pids = [
            controller(home, server, name) for server, name in zip(servers, ("a", "b"), strict=True)
        ]
        codes = {ended(pid) for pid in pids}
        assert 0 in codes
        states, arms = story(home)
        assert states[-1] == ("Promoted", 100.0)
        assert arms[0].version == "late/2"
        assert len({one.made_by for one in home.store.decisions("r1")}) == 1, "one acts"
        check_evidence(home)


def outcomes(_rollout, stages, _now):
    """The candidate suits half of the contexts; and all of them once a policy was learnt."""
    slope, answers = 0.4 if len(stages) == 1 else 0.0, 4_000.0
    arms = []
    for mean, side in ((0.4, -slope), (0.8, slope)):
        lost = answers * (1 - mean)
        moments = (answers, answers, 0.0, answers * mean, answers, answers * side, answers * mean)
        arms.append(CohortArm(int(answers), 0.0, (lost,), (lost,), moments=moments))
    return [Cohort(number, 0, 5.0 + number, *arms) for number in range(len(stages))]


@pytest.mark.slow
@pytest.mark.parametrize("apart", first_of([11, 1]))
def test_killed_at_every_statement_a_policy_is_learnt_as_if_it_had_not_been(
    new_home, apart, monkeypatch
):
    monkeypatch.setattr("bascule.control.loops.rollouts._OUTCOMES_S", 0.0)
    options = {"count": outcomes, "clock": lambda: T0 + timedelta(seconds=1)}

    def begun():
        home = new_home(STEERED)
        return home, CountedServer(home.catalogue)

    def policies(home):
        plans = EndpointStore(home.catalogue).plans("late")
        return [(stored.plan.number, stored.plan.context) for stored in plans]

    home, server = begun()
    assert ended(controller(home, server, **options)) == 0
    expected, learnt = story(home), policies(home)
    assert [state for state, _ in expected[0]] == ["Running", "Running", "Promoted"]
    assert [bool(policy and policy.gain) for _, policy in learnt] == [False, True, False, False]
    number = 0
    while True:
        home, server = begun()
        code = ended(controller(home, server, die_at=number, **options))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        home.let_lease_end()
        assert ended(controller(home, server, **options)) == 0
        assert (story(home), policies(home)) == (expected, learnt), f"killed at statement {number}"
        number += apart
    assert number > 30
