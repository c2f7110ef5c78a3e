"""Plans are checked, stored, and choose the same arm for the same key."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from bascule.core import Invalid
from bascule.endpoints import (
    HOLDBACK,
    Arm,
    BreakerRule,
    CallLimits,
    Plan,
    Shadow,
    choose,
    own_part,
)
from bascule.endpoints.plans import MAX_ARMS, MAX_THRESHOLDS, SCHEMA


def canary(share, **more):
    arms = (Arm("current", "late/3", 100.0 - share), Arm("candidate", "late/4", share))
    return Plan("late", 2, arms, **more)


shares = st.integers(0, 1_000).map(lambda tenths: tenths / 10)
keys = st.text(min_size=1, max_size=40)


# -- choosing --


@given(shares, shares, keys)
def test_a_key_that_had_the_candidate_keeps_it_when_its_share_grows(one, other, key):
    small, large = sorted((one, other))
    before, after = choose(canary(small), key), choose(canary(large), key)
    assert before.name == "current" or after.name == "candidate"


@given(keys, st.lists(st.integers(1, 20), min_size=2, max_size=6), st.integers(1, 30))
def test_of_several_arms_the_first_keeps_its_keys_when_it_grows(key, sizes, more):
    def plan(first):
        rest = [Arm(f"a{n}", f"late/{n + 10}", float(size)) for n, size in enumerate(sizes[1:], 1)]
        arms = [Arm("a0", "late/10", float(first)), *rest]
        left = 100.0 - sum(arm.share_percent for arm in arms)
        return Plan("late", 1, (Arm("current", "late/1", left), *arms)) if left >= 0 else None

    small, large = plan(sizes[0]), plan(sizes[0] + more)
    if small is not None and large is not None and choose(small, key).name == "a0":
        assert choose(large, key).name == "a0"


def test_the_shares_of_keys_and_of_requests_without_one_are_those_of_the_plan():
    arms = (Arm("b", "late/4", 10.0), Arm("c", "late/5", 30.0), Arm("current", "late/3", 60.0))
    plan, n = Plan("late", 1, arms), 40_000
    for keyed in (True, False):
        found = Counter(choose(plan, f"user {i}" if keyed else "").name for i in range(n))
        for arm in arms:
            share = arm.share_percent / 100
            four_sigma = 4 * (share * (1 - share) / n) ** 0.5
            assert found[arm.name] / n == pytest.approx(share, abs=four_sigma)


def test_keys_of_another_endpoint_are_assigned_anew():
    plan = canary(50.0)
    other = replace(plan, endpoint="other")
    same = sum(choose(plan, str(i)).name == choose(other, str(i)).name for i in range(2_000))
    assert 900 < same < 1_100


@pytest.mark.parametrize(("share", "expected"), [(0.0, {"current"}), (100.0, {"candidate"})])
def test_an_arm_without_a_share_gets_nothing_and_one_with_all_of_it_everything(share, expected):
    plan = canary(share)
    assert {choose(plan, str(i)).name for i in range(500)} == expected
    assert {choose(plan, draw=iter(each).__next__).name for each in ([0.0], [0.999])} == expected


# -- the stored form --


@given(
    shares,
    st.none() | st.builds(Shadow, st.just("late/9"), st.floats(0.1, 100), st.floats(0, 10)),
    st.sampled_from(["", "late/1"]),
    st.lists(st.floats(0.001, 10), max_size=MAX_THRESHOLDS).map(tuple),
)
def test_a_plan_is_the_same_after_json(share, shadow, fallback, slower_than_s):
    plan = canary(share, shadow=shadow, fallback=fallback, slower_than_s=slower_than_s)
    assert Plan.from_json(plan.to_json()) == plan


def test_a_plan_of_a_newer_schema_is_refused_with_the_version_that_is_needed():
    said = canary(5.0).to_json() | {"schema": SCHEMA + 1}
    with pytest.raises(Invalid, match=f"plan.schema: {SCHEMA + 1} is newer than {SCHEMA}"):
        Plan.from_json(said)


@pytest.mark.parametrize("schema", [None, 0, "1", True])
def test_a_plan_without_a_schema_is_refused(schema):
    with pytest.raises(Invalid, match=r"plan\.schema"):
        Plan.from_json(canary(5.0).to_json() | {"schema": schema})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": "a/b"}, "endpoint 'a/b' is not allowed"),
        ({"number": 0}, "plan.number: 0"),
        ({"arms": ()}, "plan.arms: 0 arms"),
        ({"arms": (Arm("current", "late", 100.0),)}, r"plan.arms\[0\].version: 'late'"),
        ({"arms": (Arm("current", "late/3", 99.0),)}, "the shares add up to 99 %"),
        ({"arms": (Arm("a", "late/3", 101.0),)}, r"plan.arms\[0\].share_percent: 101.0"),
        ({"arms": (Arm("a", "late/3", -1.0),)}, r"plan.arms\[0\].share_percent: -1.0"),
        ({"arms": (Arm("a", "late/3", float("nan")),)}, r"plan.arms\[0\].share_percent: nan"),
        ({"arms": (Arm("a", "l/3", 50.0), Arm("a", "l/4", 50.0))}, "the name 'a' is there twice"),
        ({"arms": (Arm("a", "l/3", 50.0), Arm("b", "l/3", 50.0))}, "the version 'l/3' is there"),
        ({"shadow": Shadow("late", 5.0)}, "plan.shadow.version: 'late'"),
        ({"shadow": Shadow("late/5", 0.0)}, "plan.shadow.share_percent: 0.0"),
        ({"fallback": "late@champion"}, "plan.fallback: 'late@champion'"),
        ({"sticky_header": "X-User"}, "plan.sticky_header: 'X-User'"),
        ({"sticky_header": "a: b"}, "plan.sticky_header"),
        ({"slower_than_s": (0.0,)}, r"plan.slower_than_s\[0\]: 0.0"),
        ({"slower_than_s": (0.1,) * (MAX_THRESHOLDS + 1)}, "plan.slower_than_s: 7 durations"),
    ],
)
def test_a_wrong_field_is_named(change, message):
    with pytest.raises(Invalid, match=message):
        replace(canary(5.0), **change)


@pytest.mark.parametrize(
    "change", [{"arms": [{"name": "a"}]}, {"arms": 3}, {"shadow": 3}, {"more": 1}]
)
def test_json_that_is_no_plan_is_invalid(change):
    with pytest.raises(Invalid, match="plan"):
        Plan.from_json(canary(5.0).to_json() | change)


def test_a_plan_has_as_many_arms_as_it_may_and_not_one_more():
    def plan(count):
        arms = [Arm(f"a{n}", f"late/{n + 1}", 100.0 / count) for n in range(count)]
        return Plan("late", 1, tuple(arms))

    assert len(plan(MAX_ARMS).arms) == MAX_ARMS
    with pytest.raises(Invalid, match=f"plan.arms: {MAX_ARMS + 1} arms"):
        plan(MAX_ARMS + 1)


def test_a_plan_names_every_version_that_it_needs_once():
    plan = canary(5.0, shadow=Shadow("late/5", 10.0), fallback="late/3")
    assert plan.versions == ("late/3", "late/4", "late/5")


# -- breaker and limits --

RESILIENT = {"breaker": BreakerRule(3, 2.5), "limits": CallLimits(0.5, 10.0)}


@pytest.mark.parametrize("parts", [("a", "b", "c", "d", "e"), ("a" * 32,), ("a b",), (1,)])
def test_a_plan_times_few_parts_so_that_its_label_fits_the_counters(parts):
    with pytest.raises(Invalid, match=r"plan\.timed_parts"):
        canary(5.0, timed_parts=parts)


def test_a_plan_is_written_with_the_smallest_schema_that_has_its_fields():
    plain = canary(5.0).to_json()
    assert plain["schema"] == 1
    assert not {"breaker", "limits", "holdback_percent"} & set(plain)
    said = canary(5.0, **RESILIENT).to_json()
    assert said["schema"] == 2
    assert canary(5.0, holdback_percent=2.0).to_json()["schema"] == 3
    timed = canary(5.0, timed_parts=("risk",))
    assert timed.to_json()["schema"] == SCHEMA == 4
    assert Plan.from_json(timed.to_json()) == timed
    assert said["breaker"] == {"failures": 3, "open_s": 2.5}
    for plan in (
        canary(5.0), canary(5.0, **RESILIENT), canary(5.0, breaker=BreakerRule(0)),
        canary(5.0, holdback_percent=2.0),
    ):  # fmt: skip
        assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"breaker": {"failures": -1}}, "plan.breaker.failures"),
        ({"breaker": {"failures": 1.5}}, "plan.breaker.failures"),
        ({"breaker": {"failures": 1, "open_s": 0}}, "plan.breaker.open_s"),
        ({"breaker": {"failures": 1, "wild": 0}}, "plan"),
        ({"limits": {"timeout_s": 3_601}}, "plan.limits.timeout_s"),
        ({"limits": {"retry_percent": 101}}, "plan.limits.retry_percent"),
    ],
)
def test_a_wrong_breaker_or_limit_is_refused_by_its_place(more, place):
    with pytest.raises(Invalid, match=place):
        Plan.from_json(canary(5.0).to_json() | {"schema": 2} | more)


# -- behind a router --


@given(shares)
def test_servers_of_one_version_answer_all_that_a_router_gives_them_under_the_name_of_its_arm(
    share,
):
    plan = canary(share, slower_than_s=(0.05,), shadow=Shadow("late/9", 10.0), fallback="late/3")
    for name, version in (("current", "late/3"), ("candidate", "late/4")):
        own = own_part(plan, {version})
        assert own.arms == (Arm(name, version, 100.0),)
        assert own.versions == (version,)
        assert (own.number, own.slower_than_s) == (plan.number, plan.slower_than_s)
    assert own_part(plan, {"late/9"}) is None


def test_servers_of_two_of_three_arms_answer_both_in_proportion():
    arms = (Arm("current", "late/1", 80.0), Arm("a", "late/2", 15.0), Arm("b", "late/3", 5.0))
    own = own_part(Plan("late", 1, arms, fallback="late/2"), {"late/2", "late/3"})
    assert [(arm.name, arm.share_percent) for arm in own.arms] == [("a", 75.0), ("b", 25.0)]
    assert own.fallback == "late/2"


# -- requests that are held back --


def test_a_share_of_the_keys_is_held_back_and_the_rest_is_split_as_before():
    plain, plan = canary(30.0), canary(30.0, holdback_percent=10.0)
    keys = [f"user{number}" for number in range(5_000)]
    arms = {key: choose(plan, key) for key in keys}
    held = [key for key in keys if arms[key].name == HOLDBACK]
    assert 0.08 < len(held) / len(keys) < 0.12
    assert {arms[key].version for key in held} == {plan.current.version}
    assert all(arms[key] == choose(plain, key) for key in keys if key not in set(held))


def test_without_a_key_requests_are_held_back_by_chance():
    plan = canary(0.0, holdback_percent=10.0)
    assert choose(plan, draw=lambda: 0.099).name == HOLDBACK
    assert choose(plan, draw=lambda: 0.1).name == "current"


def test_servers_behind_a_router_hold_back_what_they_answer():
    part = own_part(canary(30.0, holdback_percent=10.0), ["late/4"])
    assert part.holdback_percent == 10.0
    assert choose(part, draw=lambda: 0.0) == Arm(HOLDBACK, "late/4", 10.0)


@pytest.mark.parametrize("share", [-1.0, 51.0, float("nan"), True, "2"])
def test_a_share_to_hold_back_that_is_none_is_refused(share):
    with pytest.raises(Invalid, match=r"plan\.holdback_percent"):
        canary(5.0, holdback_percent=share)


def test_no_other_arm_has_the_name_of_held_back_requests():
    arms = (Arm("current", "late/3", 90.0), Arm(HOLDBACK, "late/4", 10.0))
    assert Plan("late", 1, arms).arm(HOLDBACK)
    with pytest.raises(Invalid, match="'holdback' is that of held-back requests"):
        Plan("late", 1, arms, holdback_percent=2.0)
