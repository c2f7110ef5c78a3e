"""Requests are steered by their inputs, with probabilities that are known exactly."""

from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import norm
from tests.tiers import first_of

from bascule.core import Invalid
from bascule.endpoints import (
    Arm,
    ContextFeature,
    ContextPolicy,
    Plan,
    context_of,
    own_part,
)
from bascule.endpoints.strategies import next_plan
from bascule.release.rollouts.counting import context_sql

AGE = ContextFeature("age", "age", mean=40.0, scale=10.0)
COUNTRY = ContextFeature("country", "country", categories=("DE", "O'FR"))
THIRD = ContextFeature("c", "input", place=3, mean=1.0, scale=2.0)
FEATURES = AGE, COUNTRY, THIRD
POLICY = ContextPolicy((AGE,), (0.1, 0.3), ((0.04, 0.01), (0.01, 0.09)), floor=0.05)
ARMS = Arm("current", "late/1", 50.0), Arm("candidate", "late/2", 50.0)
DRAWS = (np.arange(20_000) + 0.5) / 20_000


def row(**values):
    return {name: np.array([value], object) for name, value in values.items()}


@pytest.mark.parametrize("age", first_of([10.0, 38.0, 55.0, float("nan")], 2))
@pytest.mark.parametrize("policy", [POLICY, ContextPolicy((AGE,)), ContextPolicy(
    (AGE,), (0.0, 9.0), ((0.01, 0.0), (0.0, 0.01)), floor=0.1, most=0.5
)])  # fmt: skip
def test_arms_are_drawn_with_the_logged_propensity_and_explored_ones_evenly(policy, age):
    steered = [policy.steer(row(age=age), draw) for draw in DRAWS]
    chosen = np.array([one.is_candidate for one in steered])
    explored = np.array([one.is_explored for one in steered])
    for arm in {bool(one) for one in chosen}:
        (propensity,) = {one.propensity for one in steered if one.is_candidate == arm}
        assert np.mean(chosen == arm) == pytest.approx(propensity, abs=1e-4)
        assert propensity >= policy.floor
    assert chosen.mean() <= policy.most + 1e-9 or policy.most == 1
    assert chosen[explored].mean() == pytest.approx(0.5, abs=1e-3)
    assert explored.mean() == pytest.approx(2 * policy.floor if policy.gain else 1.0)


def test_the_preference_is_the_chance_that_a_draw_of_the_posterior_prefers_the_candidate():
    context = context_of((AGE,), row(age=55.0))
    gains = np.random.default_rng(0).multivariate_normal(POLICY.gain, POLICY.covariance, 200_000)
    assert POLICY.preference(context) == pytest.approx((gains @ context > 0).mean(), abs=0.004)
    deviation = np.sqrt(np.array(context) @ np.array(POLICY.covariance) @ context)
    exact = norm.cdf(np.dot(POLICY.gain, context) / deviation)
    assert POLICY.preference(context) == pytest.approx(exact, abs=0.0005)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"age": 50.0, "country": "DE"}, [1, 1, 1, 0, 0]),
        ({"age": 30, "country": "O'FR"}, [1, -1, 0, 1, 0]),
        ({"age": float("nan"), "country": None}, [1, 0, 0, 0, 0]),
        ({"age": float("inf"), "country": "de"}, [1, 0, 0, 0, 0]),
        ({"age": 1e30}, [1, 3, 0, 0, 0]),
        ({"country": ""}, [1, 0, 0, 0, 0]),
        ({}, [1, 0, 0, 0, 0]),
    ],
)
def test_what_is_missing_counts_as_the_mean_and_an_unknown_category_as_none(values, expected):
    assert context_of(FEATURES, row(**values)) == expected
    assert context_of(FEATURES, row(**values) | {"input": np.array([[0, 0, 1.0]])}) == expected


def test_the_ledger_sees_the_context_by_which_a_request_was_steered():
    ages = [50.0, 38.5, None, float("nan"), float("-inf"), 1e30]
    countries = ["DE", "O'FR", None, "", "de", "DE"]
    matrix = np.random.default_rng(0).normal(size=(6, 3))
    rows = pa.table(
        {
            "input.age": pa.array(ages, pa.float64(), from_pandas=False),
            "input.country": countries,
            "input.input": pa.FixedSizeListArray.from_arrays(matrix.ravel(), 3),
        }
    )
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        numbers = ", ".join(f"CAST({one} AS DOUBLE)" for one in context_sql(FEATURES))
        found = connection.sql(f"SELECT {numbers} FROM rows").fetchall()
    expected = [
        context_of(FEATURES, row(age=age, country=country) | {"input": matrix[place : place + 1]})
        for place, (age, country) in enumerate(zip(ages, countries, strict=True))
    ]
    assert np.array(found) == pytest.approx(np.array(expected), abs=1e-12)


def test_a_plan_with_a_policy_is_read_as_it_was_written():
    plan = Plan("late", 3, ARMS, context=ContextPolicy(FEATURES))
    assert plan.to_json()["schema"] == 3
    for policy in (ContextPolicy(FEATURES), POLICY):
        plan = Plan("late", 3, ARMS, context=policy)
        assert Plan.from_json(plan.to_json()) == plan
        assert hash(Plan.from_json(plan.to_json())) == hash(plan)


def test_a_policy_ends_with_its_rollout_and_behind_a_router_that_chooses_the_arm():
    plan = Plan("late", 3, ARMS, context=POLICY, rollout="r1")
    assert next_plan(plan, "late", "late/2", "all").context is None
    assert own_part(plan, ["late/2"]).context is None


def test_a_server_without_the_fallback_steers_between_both_arms_as_others_do():
    plan = Plan("late", 3, ARMS, context=POLICY, rollout="r1", fallback="late/9")
    assert own_part(plan, ["late/1", "late/2"]) == replace(plan, fallback="")


def test_only_current_and_candidate_are_steered():
    with pytest.raises(Invalid, match="only arms named current and candidate"):
        Plan("late", 3, (Arm("current", "late/1", 100.0),), context=POLICY)
