from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from bascule.registry.holding import (
    REMOVAL_LIMIT,
    Hold,
    Marked,
    is_abandoned,
    next_mark,
    why_unneeded,
)
from bascule.registry.versions import Alias, Retirement, Version

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
GRACE = timedelta(hours=1)
USED = Version("late", 3, "sha256:d", NOW, "ada", "passed")
RETIRED = replace(USED, retired=Retirement(NOW, "ada", "it leaks"))


def why(versions=(RETIRED,), aliases=(), holds=()):
    return why_unneeded(list(versions), aliases, holds, now=NOW)


def test_a_version_in_use_is_needed_and_a_retired_one_is_not():
    assert why([USED]) is None
    assert why([RETIRED]) == "late/3 was retired: it leaks"
    assert why([RETIRED, replace(USED, model="other")]) is None


def test_what_no_version_has_is_not_needed():
    assert "no version has it" in why([])


def test_what_an_alias_points_to_is_needed_whatever_else_is_said():
    assert why(aliases=[Alias("late", "champion", 3, NOW)]) is None
    assert why(aliases=[Alias("late", "champion", 2, NOW)]) is not None
    assert why(aliases=[Alias("other", "champion", 3, NOW)]) is not None


@pytest.mark.parametrize(("until", "needed"), [(NOW + SECOND, True), (NOW, False)])
@pytest.mark.parametrize("versions", [[], [RETIRED]], ids=["orphan", "retired"])
def test_a_hold_counts_until_its_end(until, needed, versions):
    holds = [Hold("sha256:d", "server", until)]
    assert (why(versions, holds=holds) is None) == needed


@pytest.mark.parametrize(
    ("marked", "after"),
    [
        (Marked("kept", NOW - GRACE), Marked("marked", NOW)),
        (Marked("marked", NOW - GRACE + SECOND), Marked("marked", NOW - GRACE + SECOND)),
        (Marked("marked", NOW - GRACE), Marked("removing", NOW)),
        (Marked("removing", NOW - SECOND), Marked("removing", NOW - SECOND)),
        (Marked("removing", NOW - REMOVAL_LIMIT), Marked("removing", NOW)),
    ],
)
def test_removal_takes_a_mark_then_the_grace_period_and_is_taken_over_from_the_dead(marked, after):
    assert next_mark(marked, grace=GRACE, now=NOW) == after


def test_without_grace_one_step_is_enough():
    assert next_mark(Marked("kept", NOW), grace=timedelta(0), now=NOW).state == "removing"


@pytest.mark.parametrize("state", ["kept", "marked"])
def test_only_a_removal_can_be_abandoned(state):
    assert not is_abandoned(Marked(state, NOW - 2 * REMOVAL_LIMIT), now=NOW)
    assert is_abandoned(Marked("removing", NOW - REMOVAL_LIMIT), now=NOW)
    assert not is_abandoned(Marked("removing", NOW - REMOVAL_LIMIT + SECOND), now=NOW)
