from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from bascule.core.digests import canonical_json
from bascule.release import Criterion, Measured, evaluate

LIMIT = 0.8
BELOW, ABOVE = math.nextafter(LIMIT, 0), math.nextafter(LIMIT, 1)


def judge(text: str, value: float | None, note: str = ""):
    criterion = Criterion.parse(text)
    return evaluate([criterion], {criterion.measure: Measured(value, note)}).results[0]


@pytest.mark.parametrize(
    ("operator", "below", "equal", "above"),
    [
        (">=", False, True, True),
        (">", False, False, True),
        ("<=", True, True, False),
        ("<", True, False, False),
    ],
)
def test_a_limit_is_judged_to_the_last_bit_on_both_sides(operator, below, equal, above):
    found = [judge(f"roc_auc {operator} 0.8", value).passed for value in (BELOW, LIMIT, ABOVE)]

    assert found == [below, equal, above]


def test_a_value_next_to_the_limit_is_shown_with_enough_digits_to_tell_them_apart():
    assert judge("roc_auc >= 0.8", 0.79999).reason == "0.79999 is not >= 0.8"
    assert judge("roc_auc >= 0.8", 0.7).reason == "0.7 is not >= 0.8"
    assert judge("roc_auc >= 0.8", LIMIT).reason == "0.8 is >= 0.8"
    assert judge("roc_auc >= 0.8", BELOW).reason == f"{BELOW!r} is not >= 0.8"


def test_a_reason_carries_the_unit_and_the_note():
    result = judge("latency_p99 <= 5 ms", 6.25, "of 200 runs")

    assert result.reason == "6.25 ms is not <= 5 ms; of 200 runs"


@pytest.mark.parametrize("operator", [">=", "<=", ">", "<"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_fails_whatever_is_asked(operator, value):
    result = judge(f"r2 {operator} 0", value)

    assert not result.passed
    assert result.value is None
    assert "no number" in result.reason


def test_a_criterion_that_could_not_be_measured_fails_with_the_reason():
    result = judge("roc_auc >= 0.8", None, "the bundle holds no test rows")

    assert not result.passed
    assert result.reason == "not measured: the bundle holds no test rows"


def test_a_criterion_without_a_fact_fails():
    report = evaluate([Criterion.parse("latency_p99[2] <= 5 ms")], {"latency_p99[1]": Measured(1)})

    assert not report.passed
    assert report.results[0].reason == "not measured: no measurement of it"


def test_one_failure_fails_the_whole_and_is_the_only_one_listed():
    criteria = [Criterion.parse(text) for text in ("r2 >= 0.5", "size <= 1 MB", "accuracy > 0")]
    facts = {"r2": Measured(0.9), "size": Measured(2.0), "accuracy": Measured(0.5)}

    report = evaluate(criteria, facts)

    assert not report.passed
    assert [str(result.criterion) for result in report.failures] == ["size <= 1 MB"]
    assert evaluate([criteria[0], criteria[2]], facts).passed


def test_no_criteria_are_no_evidence():
    assert not evaluate([], {}).passed


def test_a_report_is_the_body_of_a_statement():
    criteria = [Criterion.parse("latency_p50[8] <= 5 ms"), Criterion.parse("r2 >= 0.5")]
    report = evaluate(criteria, {"latency_p50[8]": Measured(4.0), "r2": Measured(math.nan)})

    assert report.to_json() == {
        "passed": False,
        "results": [
            {
                "criterion": "latency_p50[8] <= 5 ms",
                "value": 4.0,
                "limit": 5.0,
                "unit": "ms",
                "passed": True,
                "reason": "4 ms is <= 5 ms",
            },
            {
                "criterion": "r2 >= 0.5",
                "value": None,
                "limit": 0.5,
                "unit": "",
                "passed": False,
                "reason": "measured nan, which is no number",
            },
        ],
    }


@given(st.floats(), st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_any_fact_gives_a_report_that_is_json_and_the_same_each_time(value, limit):
    criterion = Criterion("r2", ">=", limit)
    facts = {"r2": Measured(value)}

    report = evaluate([criterion], facts)

    assert canonical_json(report.to_json())
    assert evaluate([criterion], facts) == report
    assert report.passed == (math.isfinite(value) and value >= limit)
