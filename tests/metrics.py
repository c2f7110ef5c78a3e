"""A text of /metrics in which every metric has a sample."""

from __future__ import annotations

from datetime import UTC, datetime

from bascule.batch import Status, batch_text
from bascule.core import PartCounts
from bascule.jobs import Schedule, Scheduled
from bascule.serving.telemetry import ArmTotals, MetricLabels, Totals, prometheus_text, texts
from bascule.serving.telemetry.counters import Histogram


def every_metric() -> str:
    buckets = (1, *([0] * 16))
    histograms = (Histogram("oip", "2xx", buckets, 0.1),)
    ended = {"complete": 1}
    totals = Totals(
        {200: 1},
        1,
        0.1,
        buckets,
        histograms=histograms,
        endings=ended,
        refusals={"rate": 1},
        texts=texts.totals_of([1] * texts.WORDS),
        of_composition={"part": PartCounts(1, 1, 0, 1)},
    )
    words = memoryview(bytearray(8 * texts.WORDS)).cast("Q")
    texts.count_text(words, 0, texts.TextFigures(1, 1, 0, 1, 1, 0, "stop", False, False))
    of_arm = texts.totals_of(words.tolist())
    arms = [
        ArmTotals("m", 1, arm, "m/1", 1, 0, 0, (1,), slower_than_s=(0.05,), texts=of_arm)
        for arm in ("current", "shadow")
    ]
    labels = [MetricLabels(), MetricLabels("m", "1")]
    return prometheus_text(labels, [totals, totals], arms=arms) + _of_batch()


def _of_batch() -> str:
    now = datetime(2026, 11, 26, tzinfo=UTC)
    runs = [
        Status(
            run="r", state=state, model="m", source="in", sink="out", expected_rows=1,
            started_at=now, updated_at=now,
        )
        for state in ("running", "done")
    ]  # fmt: skip
    schedule = Schedule(name="n", cron="0 2 * * *", job={}, created_at=now)
    return batch_text(runs, [Scheduled(schedule)], now)
