"""What one column's watch decides: level and effect, categories once, weekdays, slow changes."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from bascule.core.errors import Invalid
from bascule.monitoring import Budget, ColumnWatch, Effect, ModelWatch
from bascule.stats import ColumnProfile, Profile

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
    window, budget = profile(random.normal(0.5, 1, 40_000)), Budget(4, 365, 30)
    large = Effect(deviations=0.6, distance=0.3)
    (test,) = [
        one for one in ColumnWatch(normal, budget, large).judge(window) if one.is_significant
    ]
    assert not test.is_alarm
    assert len(alarms(ColumnWatch(normal, budget).judge(window))) == 1


def test_a_shift_as_small_as_days_differ_by_is_no_alarm_however_many_rows(random, normal):
    watch = ColumnWatch(normal, Budget(4, 365, 30), Effect(0.01, 0.01))
    assert alarms(watch.judge(profile(random.normal(0.12, 1, 40_000)))) == []
    assert alarms(watch.judge(profile(random.normal(0.5, 1, 40_000)))) != []


def test_a_lasting_shift_is_an_alarm_every_day_and_does_not_hide_itself(random, normal):
    watch = ColumnWatch(normal, Budget(4, 365, 30))
    for _ in range(20):
        assert alarms(watch.judge(profile(random.normal(size=500)))) == []
    found = [alarms(watch.judge(profile(random.normal(0.5, 1, 500)))) for _ in range(12)]
    assert all(found)


def test_quiet_windows_make_later_tests_finer(random, normal):
    watch, small = ColumnWatch(normal, Budget(4, 365, 30)), random.normal(0.25, 1, 5_000)
    assert alarms(ColumnWatch(normal, Budget(4, 365, 30)).judge(profile(small))) == []
    for _ in range(56):
        watch.judge(profile(random.normal(size=5_000)))
    assert alarms(watch.judge(profile(small))) != []


@pytest.mark.parametrize("digits", [1e-10, 3e-7])
def test_answers_of_another_program_are_the_same_answers(random, digits):
    """A tree of few leaves, and a program that computes them in another order."""
    leaves = np.array([0.07, 0.21, 0.4, 0.77])
    then, now = random.choice(leaves, 2_000), random.choice(leaves, 500)
    watch = ColumnWatch(profile(then), Budget(4, 365, 4))
    for side in (-1, 1):
        assert alarms(watch.judge(profile(now * (1 + side * digits)))) == []
        assert alarms(watch.judge(profile(then * (1 + side * digits)))) == []
    assert alarms(watch.judge(profile(random.choice(leaves + 0.01, 500)))) != []


def test_small_probabilities_are_not_drawn_to_the_least_of_them(random):
    """Within the tolerance of their least value lie many of both sides."""
    then, now = (10 ** random.uniform(-12, 0, rows) for rows in (5_000, 500))
    watch = ColumnWatch(profile(then), Budget(4, 365, 4), tolerance=1e-4)
    assert alarms(watch.judge(profile(now))) == []


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
    found = [alarms(watch.judge(profile(random.normal(0.12, 1, 300)))) for _ in range(90)]
    assert ["slow"] in found
    assert found.index(["slow"]) > 2


def days_of(random, watch, days, draw):
    return [
        watch.judge(profile(draw(place)), MONDAY + timedelta(days=place)) for place in range(days)
    ]


def test_weekends_raise_no_alarms_once_one_was_seen(random, normal):
    watch = ColumnWatch(normal, Budget(4, 365, 3, 2))

    def draw(day):
        return random.normal(0.4 if day % 7 >= 5 else 0.0, 1, 1_000)

    found = days_of(random, watch, 84, draw)
    early, late = found[:56], found[56:]
    assert 1 <= sum(bool(alarms(tests)) for tests in early) <= 4
    assert not any(alarms(tests) for tests in early[14:])
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


def test_the_category_that_was_tested_is_shown_and_not_the_most_frequent_one():
    then = {f"c{place:02}": 400 - 10 * place for place in range(30)}
    now = {name: count // 10 for name, count in then.items()} | {"c29": 90}
    watch = ModelWatch({"input": of_column(texts(**then))})
    (column,) = watch.judge({"input": of_column(texts(**now))}).columns
    assert column.tested == "c29"
    assert "the share of 'c29'" in column.sentence
    assert column.then["c29"] == pytest.approx(110 / sum(then.values()))
    assert column.now["c29"] == pytest.approx(90 / sum(now.values()))


def test_the_quantile_that_moved_is_shown_where_the_median_did_not(random):
    then, now = random.normal(size=5_000), random.normal(size=2_000)
    now = np.where(now > 0.5, now + 3, now)
    watch = ModelWatch({"input": of_column(profile(then))})
    (column,) = watch.judge({"input": of_column(profile(now))}).columns
    assert column.is_alarm
    assert column.tested in ("p75", "p95")
    (quiet,) = watch.judge({"input": of_column(profile(random.normal(size=2_000)))}).columns
    assert not quiet.is_alarm
    assert quiet.tested == "p50"
    assert "% quantile" in column.sentence


def of_column(column):
    return Profile(column.rows, {"x": column})


@pytest.mark.parametrize(("rows", "is_small"), [(30, True), (499, True), (500, False)])
def test_a_small_baseline_says_which_shifts_it_cannot_find(random, rows, is_small):
    watch = ModelWatch({"input": of_column(profile(random.normal(size=rows)))})
    assert any(f"the baseline has {rows} rows" in note for note in watch.notes()) is is_small


@pytest.mark.parametrize("rows", [30, 100])
def test_a_year_beside_a_small_baseline_keeps_the_budget(random, rows):
    """30 rows raised 1,909 alarms a year of 30 columns."""
    budget, found = Budget(4, 365, 30), 0
    for _ in range(4):
        watch = ColumnWatch(profile(random.normal(size=rows)), budget)
        for _day in range(40):
            found += bool(alarms(watch.judge(profile(random.normal(size=500)))))
    assert found <= 1
