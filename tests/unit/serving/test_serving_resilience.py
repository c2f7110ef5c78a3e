from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from bascule.core.errors import (
    Invalid,
    ModelFailed,
    NotFound,
    Overloaded,
    TimedOut,
    Unavailable,
)
from bascule.serving.execution.resilience import (
    Closed,
    Open,
    Probing,
    ResiliencePolicy,
    Retries,
    admitted,
    given_back,
    is_failure,
    noted,
    opens_again_in_s,
)

POLICY = ResiliencePolicy(breaker_failures=3, breaker_open_s=10.0)


def test_failures_in_a_row_open_the_breaker_and_one_fewer_does_not():
    breaker = Closed()
    for failures in (1, 2):
        breaker = noted(POLICY, breaker, 5.0, ok=False)
        assert breaker == Closed(failures)
    assert noted(POLICY, breaker, 5.0, ok=False) == Open(5.0)
    assert noted(POLICY, breaker, 5.0, ok=True) == Closed(), "a success in between starts again"


@pytest.mark.parametrize(("now_s", "breaker"), [(5.0, None), (14.99, None), (15.0, Probing(15.0))])
def test_an_open_breaker_lets_one_through_when_its_time_has_passed(now_s, breaker):
    assert admitted(POLICY, Open(5.0), now_s) == breaker


def test_while_one_is_let_through_nobody_else_is_until_it_is_given_up():
    assert admitted(POLICY, Probing(15.0), 24.9) is None
    assert admitted(POLICY, Probing(15.0), 25.0) == Probing(25.0)


@pytest.mark.parametrize(("ok", "breaker"), [(True, Closed()), (False, Open(16.0))])
def test_that_one_decides(ok, breaker):
    assert noted(POLICY, Probing(15.0), 16.0, ok=ok) == breaker


def test_one_that_never_ran_gives_its_turn_back_unless_the_breaker_has_moved_on():
    before = Open(5.0)
    let = admitted(POLICY, before, 15.0)
    assert given_back(let, let, before) == before
    assert given_back(Probing(25.0), let, before) == Probing(25.0), "another is under way"
    assert given_back(Closed(1), Closed(1), Closed(1)) == Closed(1)


@pytest.mark.parametrize("ok", [True, False])
def test_what_was_under_way_when_it_opened_changes_nothing(ok):
    assert noted(POLICY, Open(5.0), 6.0, ok=ok) == Open(5.0)


def test_without_a_number_of_failures_there_is_no_breaker():
    breaker = Closed()
    for _ in range(100):
        breaker = noted(ResiliencePolicy(), breaker, 1.0, ok=False)
        assert admitted(ResiliencePolicy(), breaker, 1.0) == breaker == Closed()


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 30)), max_size=60))
def test_an_open_breaker_always_lets_somebody_through_again(history):
    now_s, breaker = 0.0, Closed()
    for ok, passed_s in history:
        now_s += passed_s
        let = admitted(POLICY, breaker, now_s)
        if let is None:
            assert 0 < opens_again_in_s(POLICY, breaker, now_s) <= POLICY.breaker_open_s
        else:
            breaker = noted(POLICY, let, now_s, ok=ok)
    later_s = now_s + opens_again_in_s(POLICY, breaker, now_s) + 1e-6
    assert admitted(POLICY, breaker, later_s) is not None


def test_retries_are_a_part_of_the_calls_and_not_saved_up_without_end():
    policy = ResiliencePolicy(retry_percent=10)
    budget = Retries().spent()
    assert budget is not None
    assert budget.spent() is None
    for _ in range(10):
        budget = budget.earned(policy)
    assert budget.saved == pytest.approx(1.0)
    for _ in range(10_000):
        budget = budget.earned(policy)
    taken = 0
    while (budget := budget.spent()) is not None:
        taken += 1
    assert taken == 10


@pytest.mark.parametrize(
    ("outcome", "failed"),
    [
        (ModelFailed("x"), True),
        (Unavailable("x"), True),
        (TimedOut("x"), True),
        (Invalid("x"), False),
        (Overloaded("x"), False),
        (NotFound("x"), False),
        ({}, False),
    ],
)
def test_a_model_is_to_blame_for_its_own_failures_alone(outcome, failed):
    assert is_failure(outcome) is failed
