"""Reminders of the sunset of deprecated versions that still have callers."""

from datetime import UTC, datetime, timedelta

import pytest

from bascule.monitoring.alerts.sources import SunsetSource, callers_said
from bascule.monitoring.ledger import CallerCount
from bascule.registry import Deprecation, Version

NOW = datetime(2026, 6, 1, tzinfo=UTC)
CALLED = [CallerCount("scoring", 1_204, NOW)]


def look(left, callers=CALLED):
    said = Deprecation(NOW, "ada", "retrained", NOW + left, "late/4")
    version = Version("late", 2, "sha256:0", NOW, "ada", "passed", None, said)
    source = SunsetSource(lambda: {"late": [version], "other": []}, lambda *_: callers)
    late, other = source.look(NOW)
    assert (late.model, other.model, other.findings) == ("late", "other", ())
    return late.findings


@pytest.mark.parametrize(
    ("days", "severity"),
    [
        (30.01, None),
        (30, "info"),
        (7.01, "info"),
        (7, "warning"),
        (1, "critical"),
        (-3, "critical"),
    ],
)
def test_reminders_grow_with_the_days_that_are_left(days, severity):
    found = look(timedelta(days=days))
    assert [one.severity for one in found] == ([] if severity is None else [severity])


def test_a_reminder_names_callers_and_successor():
    (found,) = look(timedelta(days=5))
    assert found.sentence == (
        "late/2 ends in 5 days (ends 2026-06-06, then late/4), and it is still called by scoring "
        "(1,204 requests)"
    )
    (found,) = look(timedelta(days=-1))
    assert found.sentence.startswith("late/2 has passed its sunset")
    assert (found.version, found.evidence) == ("2", "bascule show late/2")


def test_a_version_without_callers_needs_no_reminder_and_unknown_callers_do():
    assert look(timedelta(days=1), callers=[]) == ()
    (found,) = look(timedelta(days=1), callers=None)
    assert "keeps no rows" in found.sentence
    many = [CallerCount(f"k{n}", 9 - n, NOW) for n in range(7)]
    assert callers_said(many).endswith("k4 (5 requests) and 2 more")
