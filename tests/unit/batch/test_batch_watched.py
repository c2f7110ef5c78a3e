"""Runs and schedules as alerts and metrics see them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bascule.batch import (
    Status,
    batch_text,
    facts_of_runs,
    facts_of_schedules,
    model_of,
)
from bascule.jobs import Schedule, Scheduled
from bascule.monitoring.alerts.sources import BatchSource

T0 = datetime(2026, 3, 2, 12, tzinfo=UTC)


def status(state: str, *, at: datetime = T0, **more: Any) -> Status:
    facts: dict[str, Any] = {
        "run": "abc", "model": "late@champion", "source": "in", "sink": "out/",
        "started_at": at, "updated_at": at,
    }  # fmt: skip
    return Status(state=state, **(facts | more))


def nightly(**scheduled: Any) -> Scheduled:
    schedule = Schedule(
        name="night", cron="0 2 * * *", job={"model": "late/3"}, created_at=T0 - timedelta(days=2)
    )
    return Scheduled(schedule, **scheduled)


def findings(facts: Any, now: datetime = T0) -> list[tuple[str, str, str]]:
    looks = BatchSource(lambda _now: facts).look(now)
    return [(f.kind, f.model, f.sentence) for look in looks for f in look.findings]


def test_a_failed_run_is_a_finding_until_a_later_run_to_its_sink_is_done():
    failed = status("failed", error="the disk is full")
    ((kind, model, said),) = findings(facts_of_runs([failed]))
    assert (kind, model) == ("batch_failed", "late")
    assert said == "batch run abc to out/ failed: the disk is full"
    later = status("done", at=T0 + timedelta(hours=1), run="def")
    assert findings(facts_of_runs([later, failed])) == []
    assert len(findings(facts_of_runs([status("done", sink="other/"), failed]))) == 1


def test_a_killed_run_says_how_to_go_on():
    ((_, _, said),) = findings(facts_of_runs([status("killed")]))
    assert "bascule batch resume abc" in said


@pytest.mark.parametrize("state", ["running", "done", "cancelled"])
def test_a_run_that_did_not_fail_is_no_finding(state):
    assert findings(facts_of_runs([status(state)])) == []


def test_a_failure_is_forgotten_after_a_week():
    facts = list(facts_of_runs([status("failed", error="x")]))
    assert findings(facts, T0 + timedelta(days=7) - timedelta(seconds=1))
    assert not findings(facts, T0 + timedelta(days=7))


def test_a_run_of_a_schedule_is_told_of_by_the_schedule_alone():
    failed = status("failed", error="x", by="schedule night")
    assert findings(facts_of_runs([failed])) == []
    scheduled = nightly(due=T0.replace(hour=2), outcome={"error": "x"})
    ((kind, model, said),) = findings(facts_of_schedules([scheduled], T0))
    assert (kind, model) == ("batch_failed", "late")
    assert said == "the run of schedule night failed: x"


def test_a_late_run_is_a_finding_with_its_time():
    ((kind, _, said),) = findings(facts_of_schedules([nightly()], T0))
    assert kind == "batch_late"
    assert "of 2026-03-01 02:00 UTC has not ended after 2,040 minutes" in said


def test_findings_of_two_jobs_of_a_model_are_two_alerts():
    looks = BatchSource(
        lambda _now: facts_of_runs([status("failed", sink="a/"), status("failed", sink="b/")])
    ).look(T0)
    assert len({f.id for look in looks for f in look.findings}) == 2


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("late@champion", "late"),
        ("late/3", "late"),
        ("late", "late"),
        ("./x/late.bundle/", "late.bundle"),
    ],
)
def test_the_model_of_a_job_is_known_by_its_reference(reference, name):
    assert model_of(reference) == name


def test_metrics_tell_states_progress_and_lateness():
    running = status("running", run="r", model='a"b', rows=5, expected_rows=9)
    late = nightly(due=T0.replace(hour=2), is_under_way=True, outcome={"error": "x"})
    text = batch_text([running, status("failed")], [late], T0)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["bascule_batch_runs", "running"] == found["bascule_batch_runs", "failed"] == 1
    assert found["bascule_batch_runs", "done"] == 0
    assert found["bascule_batch_rows", "r", 'a"b'] == 5
    assert found["bascule_batch_expected_rows", "r", 'a"b'] == 9
    assert found["bascule_batch_last_end_seconds", "late@champion", "failed"] == T0.timestamp()
    assert found["bascule_schedule_late_seconds", "night"] == 36_000
    assert found["bascule_schedule_failed", "night"] == 1
