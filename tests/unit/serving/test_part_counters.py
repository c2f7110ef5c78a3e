"""What workers count of the parts of compositions, in the shared file."""

from __future__ import annotations

from bascule.core import PartCounts
from bascule.serving.telemetry import Counters, MetricLabels

LATE, OTHER = MetricLabels("late", "1"), MetricLabels("late", "2")


def test_parts_are_summed_over_workers_and_survive_them(tmp_path):
    counters = Counters(tmp_path / "counters", workers=2)
    for label in (LATE, OTHER):
        counters.name(label)
    counted = {"risk": PartCounts(2, 20, 1, 500_000_000), "a" * 31: PartCounts(1, 1, 0, 0)}
    for worker in (0, 1):
        counters.series(worker, LATE).count_parts(counted)
    again = Counters(tmp_path / "counters", workers=2)
    again.series(0, LATE).count_parts(counted)
    _, late, other = again.totals()
    assert late.of_composition["risk"] == (6, 60, 3, 1_500_000_000)
    assert late.of_composition["a" * 31].runs == 3
    assert not other.of_composition


def test_as_many_parts_as_a_composition_may_have_keep_to_their_own_slot(tmp_path):
    counters = Counters(tmp_path / "counters", workers=1)
    for label in (LATE, OTHER):
        counters.name(label)
    parts = {f"part{number}": PartCounts(number, 0, 0, 0) for number in range(16)}
    counters.series(0, LATE).count_parts(parts)
    counters.series(0, OTHER).count_parts({"only": PartCounts(7, 0, 0, 0)})
    _, late, other = counters.totals()
    assert [late.of_composition[name].runs for name in parts] == list(range(16))
    assert {name: part.runs for name, part in other.of_composition.items()} == {"only": 7}
