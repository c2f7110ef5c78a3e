"""Rollouts over devices: outcomes of devices, the passing of phases, the content of channels."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.stores import open_database
from tests.unit.catalogue.conftest import (  # noqa: F401  # migrations run once for all tests
    catalogue,
    current,
    new_file,
    new_server_database,
)
from tests.unit.fleet.fleets import CANDIDATE, STABLE, T0, Clocked, counts

from bascule.catalogue import Leadership, Leases
from bascule.core import Conflict, Invalid
from bascule.edge import Channel
from bascule.fleet import LOOKS, DevicePlan, Seen, candidate_of, decide
from bascule.fleet.rollouts import begun, have_doubled, look_due, outcome_of

PLAN = DevicePlan(
    id="stable-1", group="stable", stable="late/1", stable_digest="sha256:1", candidate="late/2",
    candidate_digest="sha256:2", salt="salt",
)  # fmt: skip
START, HOLD = begun(PLAN, T0), timedelta(seconds=PLAN.hold_s)
FULL = LOOKS.index(1.0)
LATER = T0 + HOLD
NAMES = [f"device-{number}" for number in range(10_000)]
EXPOSED = {name for name in NAMES if candidate_of(PLAN, START).takes(name)}


def seen(at=LATER, bad=0, silent=0, untaken=0, bad_others=0, silent_others=0):
    """Of both arms, the first devices as named, the others well."""
    every = []
    for names, sick, mute, late in (
        (sorted(EXPOSED), bad, silent, untaken),
        ([name for name in NAMES if name not in EXPOSED], bad_others, silent_others, 0),
    ):
        for number, name in enumerate(names):
            every.append(
                Seen(
                    name, is_bad=number < sick, has_taken=number >= sick + mute + late,
                    seen_at=None if sick <= number < sick + mute else at,
                )
            )  # fmt: skip
    return every


def decided(number=FULL, at=LATER, state=START, **arms):
    return decide(PLAN, state, number, seen(at, **arms), at)


@pytest.mark.parametrize("silence", [0.99, 1.01])
def test_a_device_is_silent_after_half_of_the_phase_also_when_the_phase_takes_longer(silence):
    at = T0 + 2 * HOLD
    look = decide(PLAN, START, LOOKS.index(2.0), seen(at - silence * HOLD), at).looks[-1]
    silent = (look.exposed, look.others) if silence > 1 else (0, 0)
    assert (look.bad, look.others_bad) == silent


def test_a_version_that_harms_no_device_passes_its_first_phase_when_the_hold_is_over():
    state = decided()
    assert (state.status, state.phase, state.since) == ("running", 1, LATER)
    early = decided(number=FULL - 1, at=T0 + HOLD / 2)
    assert (early.status, early.phase) == ("running", 0)


def test_a_fifth_of_the_devices_that_fail_their_golden_check_halt_it_within_the_hour():
    state = decided(number=0, at=T0 + HOLD / 24, bad=len(EXPOSED) // 5)
    assert state.status == "halted"


def test_a_fifth_that_fall_silent_halt_it_where_the_others_report():
    assert decided(silent=len(EXPOSED) // 5, silent_others=100).status == "halted"


def test_silence_of_both_arms_is_no_evidence_of_harm():
    """A third of all devices lost their network for the night."""
    state = decided(silent=len(EXPOSED) // 3, silent_others=3_300)
    assert state.status == "running"
    assert state.looks[-1].log_e_worse < 1


def test_devices_that_report_and_have_not_taken_it_are_neither_harmed_nor_proof():
    state = decided(untaken=len(EXPOSED) // 2)
    assert (state.status, state.phase) == ("running", 0)
    assert "have not taken it yet" in state.sentence


def test_what_is_not_shown_by_the_last_look_is_taken_back():
    last = len(LOOKS) - 1
    state = decided(number=last, at=T0 + 4 * HOLD, untaken=len(EXPOSED) // 2)
    assert state.status == "halted"
    assert "not shown" in state.sentence


def test_devices_of_an_earlier_phase_are_no_evidence_in_the_next():
    second = decided()
    state = decided(at=LATER + HOLD, state=second, bad=len(EXPOSED))
    look = state.looks[-1]
    assert (look.bad, look.exposed) == (
        0,
        sum(map(candidate_of(PLAN, second).takes, NAMES)) - len(EXPOSED),
    )


def test_devices_that_were_silent_before_the_phase_do_not_count():
    every = [device._replace(was_heard=False) for device in seen()]
    look = decide(PLAN, START, FULL, every, LATER).looks[-1]
    assert (look.exposed, look.others) == (0, 0)


@pytest.mark.parametrize(
    ("passed", "due"), [(0.04, None), (1 / 24, 0), (0.49, 1), (1.0, FULL), (9.0, len(LOOKS) - 1)]
)
def test_the_latest_look_that_is_due_is_taken(passed, due):
    assert look_due(PLAN, START, T0 + passed * HOLD) == due


def test_a_look_is_taken_once():
    held = decided(number=0, at=T0 + HOLD / 24)
    assert look_due(PLAN, held, T0 + HOLD / 23) is None


@pytest.mark.parametrize(
    ("before", "since", "doubled"),
    [
        ((2_400, 48), (2_400, 96), True), ((2_400, 48), (2_400, 95), False),
        ((100, 1), (100, 3), False), ((0, 0), (100, 50), False), ((1_000, 0), (10, 1), False),
        ((1_000, 0), (1_000, 12), True), ((1_000, 1_000), (1_000, 1_000), False),
    ],
)  # fmt: skip
def test_errors_are_doubled_at_twice_the_share_before_and_not_by_chance(before, since, doubled):
    assert have_doubled(before, since) == doubled


def test_a_device_that_stays_is_judged_by_the_same_rule():
    doubled = Seen("a", (2_400, 48), stayed=(2_400, 96), candidate=(0, 0), seen_at=LATER)
    assert outcome_of(doubled, T0, is_drawn=False) == "sick"
    assert outcome_of(doubled, T0, is_drawn=True) == "none"


@pytest.mark.parametrize("phases", [(), (0.5,), (0.5, 0.1, 1.0), (0.0, 1.0), (float("nan"), 1.0)])
def test_phases_grow_to_all_devices(phases):
    with pytest.raises(Invalid):
        replace(PLAN, phases=phases).check()


# -- with the catalogue and a channel --


@pytest.fixture
def clocked(tmp_path, new_file):  # noqa: F811
    new_file(tmp_path)
    return with_cameras(open_database(tmp_path))


@pytest.fixture
def on_both(catalogue):  # noqa: F811
    """On SQLite and PostgreSQL."""
    return with_cameras(catalogue)


def with_cameras(catalogue):  # noqa: F811
    clocked = Clocked(catalogue)
    clocked.enroll("camera-1", "camera-2")
    return clocked


def channel(clocked):
    return clocked.channels.content


def test_a_rollout_over_all_devices_at_once_becomes_stable(clocked):
    stored = clocked.begin(phases=(1.0,))
    clocked.fleet.advance(stored)
    assert (channel(clocked).stable, channel(clocked).candidate) == (CANDIDATE, None)
    clocked.fleet.advance(clocked.fleet.rollout(stored.id))
    assert clocked.fleet.rollout(stored.id).ended_at == T0


def test_a_group_has_one_rollout_at_a_time(on_both):
    first = on_both.begin()
    with pytest.raises(Conflict):
        on_both.begin()
    on_both.fleet.abort(first.id, by="ada")
    on_both.fleet.advance(on_both.fleet.rollout(first.id))
    on_both.fleet.advance(on_both.fleet.rollout(first.id))
    assert on_both.begin().id != first.id


def test_an_aborted_rollout_takes_the_candidate_back_and_frees_what_was_stuck_on_it(on_both):
    stored = on_both.begin()
    on_both.fleet.advance(stored)
    assert channel(on_both).candidate == candidate_of(stored.plan, stored.state)
    on_both.report("camera-1", 1, "refused", CANDIDATE)
    on_both.fleet.abort(stored.id, by="ada")
    with pytest.raises(Conflict):
        on_both.fleet.abort(stored.id, by="ada")
    for _ in range(2):
        on_both.fleet.advance(on_both.fleet.rollout(stored.id))
    assert (channel(on_both).stable, channel(on_both).candidate) == (STABLE, None)
    assert on_both.device("camera-1").stuck_on == ""


def test_a_decision_whose_channel_was_not_written_is_written_in_the_next_turn(clocked):
    """Killed between the two, or the repository was away."""
    stored = clocked.begin()

    class Away(Exception):
        pass

    def fail(*_):
        raise Away

    clocked.channels.publish_channel, publish = fail, clocked.channels.publish_channel
    with pytest.raises(Away):
        clocked.fleet.advance(stored)
    clocked.channels.publish_channel = publish
    clocked.fleet.advance(clocked.fleet.rollout(stored.id))
    assert channel(clocked).candidate.share == stored.plan.phases[0]


def test_a_version_that_a_person_publishes_meanwhile_ends_the_rollout_and_stays(clocked):
    stored = clocked.begin()
    clocked.fleet.advance(stored)
    other = Channel("late", type(STABLE)("late/3", "sha256:3"), 9)
    clocked.channels.content = other
    clocked.fleet.advance(clocked.fleet.rollout(stored.id))
    ended = clocked.fleet.rollout(stored.id)
    assert (ended.state.status, ended.ended_at, channel(clocked)) == ("aborted", T0, other)


def test_the_candidate_that_a_person_publishes_meanwhile_stays(clocked):
    stored = clocked.begin()
    clocked.fleet.advance(stored)
    clocked.channels.content = other = Channel("late", CANDIDATE, 9)
    for _ in range(2):
        clocked.fleet.advance(clocked.fleet.rollout(stored.id))
    assert clocked.channels.content == other
    assert clocked.fleet.rollout(stored.id).ended_at == T0


def test_a_controller_that_lost_its_lease_stores_nothing(on_both):
    stored = on_both.begin()
    leases = Leases(on_both.fleet.catalogue)
    late = Leadership(leases, "devices", "late", 60.0)
    lease = late.keep()
    leases.release(lease)
    Leadership(leases, "devices", "next", 60.0).keep()
    on_both.pass_hours(2)
    with pytest.raises(Conflict):
        on_both.fleet.advance(stored, lease)
    assert on_both.fleet.rollout(stored.id).state.looks == ()


def test_two_controllers_that_decide_at_once_store_one_decision(on_both):
    stored = on_both.begin()
    on_both.pass_hours(2)
    on_both.fleet.advance(stored)
    with pytest.raises(Conflict):
        on_both.fleet.advance(stored)
    assert len(on_both.fleet.rollout(stored.id).state.looks) == 1


def test_reports_become_what_was_seen_of_a_phase(on_both):
    on_both.report("camera-1", 1, **counts(100, 1))
    on_both.pass_hours(1)
    stored = on_both.begin()
    on_both.pass_hours(1)
    on_both.report("camera-1", 2, **counts(50, 2))
    on_both.report("camera-1", 3, "installed", CANDIDATE)
    on_both.report("camera-1", 4, running=CANDIDATE, **counts(30, 3))
    on_both.report("camera-1", 5, "returned", CANDIDATE)
    one, two = on_both.fleet.seen(stored.plan, stored.state.since, on_both.now)
    assert one == Seen(
        "camera-1", (100, 1), (50, 2), (30, 3), is_bad=True, has_taken=True, seen_at=on_both.now
    )
    assert two == Seen("camera-2", was_heard=False)
