"""Devices in the catalogue: enrolment, reports that come late, twice or never, and who is stuck."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.stores import open_database
from tests.unit.catalogue.conftest import (  # noqa: F401  # migrations run once for all tests
    catalogue,
    current,
    new_file,
    new_server_database,
)
from tests.unit.fleet.fleets import CANDIDATE, STABLE, T0, Clocked, counts, report

from bascule.core import Conflict, Invalid, NotFound, Refused
from bascule.fleet import read_reports
from bascule.registry import CatalogueKeys
from bascule.registry.stores import Records


@pytest.fixture
def clocked(tmp_path, new_file):  # noqa: F811
    new_file(tmp_path)
    return Clocked(open_database(tmp_path))


@pytest.fixture
def on_both(catalogue):  # noqa: F811
    """On SQLite and PostgreSQL."""
    return Clocked(catalogue)


def test_the_key_of_a_device_may_report_and_nothing_else(clocked):
    (token,) = clocked.enroll("camera-1")
    (key,) = CatalogueKeys(Records(clocked.fleet.catalogue)).stored()
    assert [str(permission) for permission in key.permissions] == ["report:*"]
    assert token not in str(clocked.device("camera-1"))


def test_a_device_that_is_enrolled_twice_keeps_its_first_key(clocked):
    clocked.enroll("camera-1")
    before = clocked.device("camera-1")
    with pytest.raises(Conflict):
        clocked.enroll("camera-1", group="other")
    assert clocked.device("camera-1") == before


def test_a_revoked_device_reports_no_more_and_may_come_back_with_its_numbers(on_both):
    on_both.enroll("camera-1")
    on_both.report("camera-1", 7)
    on_both.fleet.revoke("camera-1", by="ada")
    again = on_both.fleet.revoke("camera-1", by="bob")
    assert again.revoked_at == on_both.now
    with pytest.raises(Refused):
        on_both.report("camera-1", 8)

    on_both.enroll("camera-1")
    assert on_both.report("camera-1", 1) == 7
    assert on_both.report("camera-1", 8) == 8


def test_the_key_of_one_device_reports_for_no_other(clocked):
    clocked.enroll("camera-1", "camera-2")
    mine, other = (clocked.device(name).key for name in ("camera-1", "camera-2"))
    assert clocked.report("camera-1", 1, key=mine) == 1
    with pytest.raises(Refused):
        clocked.report("camera-1", 2, key=other)
    with pytest.raises(NotFound):
        clocked.report("camera-9", 1)


def test_a_report_that_comes_twice_counts_once(on_both):
    on_both.enroll("camera-1")
    for _ in range(2):
        assert on_both.report("camera-1", 1, bytes_received=500, **counts(100)) == 1
    assert on_both.device("camera-1").bytes_received == 500
    both = read_reports([report("camera-1", 1, bytes_received=9), report("camera-1", 3)])
    assert on_both.fleet.receive({"camera-1": both}) == {"camera-1": 3}
    assert on_both.device("camera-1").bytes_received == 500


def test_a_device_is_stuck_from_its_first_refusal_until_it_installs(clocked):
    clocked.enroll("camera-1")
    clocked.report("camera-1", 1, "installed")
    clocked.pass_hours(1)
    clocked.report("camera-1", 2, "golden_failed", CANDIDATE, reason="7 of 10 outputs differ")
    clocked.pass_hours(1)
    clocked.report("camera-1", 3, "golden_failed", CANDIDATE, reason="again")
    clocked.report("camera-1", 4)
    stuck = clocked.device("camera-1")
    assert (stuck.version, stuck.stuck_on) == (STABLE.version, CANDIDATE.version)
    assert stuck.stuck_since == T0 + timedelta(hours=1)

    clocked.report("camera-1", 5, "installed", CANDIDATE)
    free = clocked.device("camera-1")
    assert (free.version, free.stuck_on, free.stuck_since) == (CANDIDATE.version, "", None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sequence": 0}, {"sequence": 2**60}, {"event": "exploded"}, {"at": "x" * 300},
        {"bytes_received": -1}, counts(1, 2), counts(10**12), {"running": {"version": "late/1"}},
        {"running": {"version": "v" * 300, "digest": "d"}},
    ],
)  # fmt: skip
def test_a_report_that_is_malformed_is_refused_as_a_whole(wrong):
    with pytest.raises(Invalid):
        read_reports([report("camera-1", 1) | wrong])


def test_reports_of_two_devices_are_no_batch():
    with pytest.raises(Invalid):
        read_reports([report("camera-1", 1), report("camera-2", 1)])


def test_reports_that_no_decision_reads_are_deleted(on_both):
    on_both.enroll("camera-1")
    on_both.report("camera-1", 1, **counts(100))
    on_both.pass_hours(24 * 31)
    on_both.report("camera-1", 2)
    on_both.fleet.forget()
    assert on_both.report("camera-1", 1) == 2
    assert len(on_both.fleet.catalogue.rows(_all_reports())) == 1


def _all_reports():
    import sqlalchemy as sa

    from bascule.fleet.schema import reports

    return sa.select(reports)
