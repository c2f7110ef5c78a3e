"""What one column's watch decides: level and effect, categories once, weekdays, slow changes."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from bascule.core.errors import Invalid
from bascule.monitoring import Budget, ColumnWatch, Effect
from bascule.stats import ColumnProfile

MONDAY = date(2026, 1, 5)


def profile(values) -> ColumnProfile:
    values = np.asarray(values)
    made = ColumnProfile("text" if values.dtype == object else "number")
    made.add(values)
    return made


def texts(**counts) -> ColumnProfile:
    return profile(np.array([one for one, n in counts.items() for _ in range(n)], object))


@pytest.fixture
def random():
    return np.random.default_rng(2)


@pytest.fixture
def normal(random):
    return profile(random.normal(size=20_000))


def alarms(tests):
    return [one.name for one in tests if one.is_alarm]


def test_the_level_is_the_budget_over_windows_columns_and_kinds():
    assert Budget(4, 365, 30, 2).level == pytest.approx(4 / (365 * 30 * 2))
    assert Budget(1_000, 1, 1).level == 0.2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Budget(0), "budget: 0 alarms a year is not > 0"),
        (lambda: Budget(float("nan")), "budget: nan"),
        (lambda: Budget(1, 0), "windows_a_year: 0 is not >= 1"),
        (lambda: Effect(deviations=-1), "effect: deviations -1 is not >= 0"),
    ],
)
def test_a_budget_or_effect_that_cannot_be_is_refused(make, said):
    with pytest.raises(Invalid, match=said):
        make()


def test_significance_alone_is_no_alarm(random, normal):
    """A shift of 0.07 deviations is certain at 40,000 rows, and too small to matter."""
    window = profile(random.normal(0.08, 1, 40_000))
    budget = Budget(4, 365, 30)
    (test,) = [one for one in ColumnWatch(normal, budget).judge(window) if one.is_significant]
    assert not test.is_alarm
    assert len(alarms(ColumnWatch(normal, budget, Effect(0.01, 0.01)).judge(window))) == 1


def test_an_effect_alone_is_no_alarm(random, normal):
    window = profile(random.normal(0.3, 1, 40))
    tests = ColumnWatch(normal, Budget(4, 365, 30)).judge(window)
    assert max(abs(one.effect) for one in tests if one.name != "missing") > 0.1
    assert alarms(tests) == []


def test_values_of_fewer_than_20_rows_are_not_tested(normal):
    watch = ColumnWatch(normal, Budget(4, 365, 30))
    assert "location" not in [one.name for one in watch.judge(profile(np.full(19, 9.0)))]
    assert alarms(watch.judge(profile(np.full(20, 3.0)))) != []


def test_a_new_category_raises_one_alarm_and_not_one_a_day():
    watch = ColumnWatch(texts(a=900, b=100), Budget(4, 365, 30))
    found = [alarms(watch.judge(texts(a=270, b=30, new=20))) for _ in range(2)]
    assert "unseen" in found[0]
    assert "unseen" not in found[1]
    assert "unseen" in alarms(watch.judge(texts(a=270, b=30, newer=20)))


def test_a_column_of_two_numbers_is_tested_as_categories():
    watch = ColumnWatch(profile([0.0] * 900 + [1.0] * 100), Budget(4, 365, 30))
    tests = watch.judge(profile([0.0] * 60 + [1.0] * 40))
    assert alarms(tests) == ["categories"]


def test_all_values_missing_is_an_alarm_of_missing_values(normal):
    watch = ColumnWatch(normal, Budget(4, 365, 30))
    assert alarms(watch.judge(profile(np.full(100, np.nan)))) == ["missing"]


def test_a_change_that_no_window_shows_is_found_by_the_slow_detector(random, normal):
    watch = ColumnWatch(normal, Budget(4, 365, 30, 2), Effect(deviations=0.08))
    found = [alarms(watch.judge(profile(random.normal(0.12, 1, 300)))) for _ in range(40)]
    assert ["slow"] in found
    assert found.index(["slow"]) > 2


def days_of(random, watch, days, draw):
    return [
        watch.judge(profile(draw(place)), MONDAY + timedelta(days=place)) for place in range(days)
    ]


def test_weekends_raise_alarms_until_weekdays_are_known(random, normal):
    watch = ColumnWatch(normal, Budget(4, 365, 3, 2))

    def draw(day):
        return random.normal(0.4 if day % 7 >= 5 else 0.0, 1, 1_000)

    found = days_of(random, watch, 84, draw)
    early, late = found[:56], found[56:]
    assert sum(bool(alarms(tests)) for tests in early) >= 14
    assert [alarms(tests) for tests in late] == [[]] * 28
    assert {one.rule for tests in late for one in tests if one.name == "location"} <= {"weekday"}
    assert watch.overdispersion > 5


def test_a_weekday_that_is_unlike_its_weekdays_is_found_after_8_weeks(random, normal):
    watch = ColumnWatch(normal, Budget(4, 365, 3, 2))

    def draw(day):
        weekend = 0.4 if day % 7 >= 5 else 0.0
        return random.normal(0.4 if day == 57 else weekend, 1, 1_000)

    found = days_of(random, watch, 62, draw)
    assert [day for day in range(56, 62) if alarms(found[day])] == [57]


def test_shares_have_weekdays_too(random):
    watch = ColumnWatch(texts(a=6_000, b=3_000, c=1_000), Budget(4, 365, 3, 2))

    def window(day):
        shares = [0.2, 0.7, 0.1] if day == 60 else [0.6, 0.3, 0.1]
        a, b, c = random.multinomial(1_000, shares)
        return texts(a=a, b=b, c=c)

    found = [watch.judge(window(day), MONDAY + timedelta(days=day)) for day in range(61)]
    assert [alarms(tests) for tests in found[56:60]] == [[]] * 4
    (test,) = [one for one in found[60] if one.is_alarm]
    assert (test.name, test.rule, test.what) == ("categories", "weekday", "a")
    assert test.effect == pytest.approx(-0.4, abs=0.05)


def test_a_random_walk_is_not_alarmable(random, normal):
    watch = ColumnWatch(normal, Budget(4, 365, 3, 2))
    means = np.cumsum(random.normal(size=120)) * 0.1
    days_of(random, watch, 120, lambda day: random.normal(means[day], 1, 2_000))
    assert not watch.is_alarmable
