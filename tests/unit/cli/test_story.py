"""The history of an endpoint, and a rollout under way, as people read them."""

from datetime import datetime, timedelta

from bascule.cli import rollouts
from bascule.cli.endpoints import story
from bascule.endpoints import PlanEvent
from bascule.release.rollouts import Aborted, Decision, Running, Shares, StoredDecision

DAY = datetime(2026, 3, 1, 12).astimezone()


def test_a_history_reads_from_the_oldest_with_days_times_and_reasons(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    told = story(
        [
            PlanEvent("deployed", DAY, "ada", "first", "deployed late/1 to late (all)"),
            PlanEvent("rollout_aborted", DAY, "eve", "", "aborted by eve: wrong data of the day"),
            PlanEvent(
                "rolled_back", DAY + timedelta(days=1), "ada", "more errors",
                "rolled back late from plan 2 to plan 1: late/1 answers every request again",
            ),
        ]
    )  # fmt: skip
    assert told.splitlines() == [
        "2026-03-01",
        "  12:00:00  deployed late/1 to late (all)",
        "            ada: first",
        "  12:00:00  aborted by eve: wrong data of the day",
        "2026-03-02",
        "  12:00:00  rolled back late from plan 2 to plan 1: late/1",
        "            answers every request again",
        "            ada: more errors",
    ]


class Book:
    """A rollout that runs for three looks and is then rolled back."""

    def __init__(self, stored):
        self.looks = 0
        self.stored = stored

    def get(self, _):
        self.looks += 1
        return self.stored(self.looks)

    def decisions(self, _):
        first = Decision(state=Running(0, DAY), shares=Shares(5.0), sentence="late/2 begins")
        made = [first]
        if self.looks >= 3:
            made.append(Decision(state=Aborted(DAY), shares=Shares(0.0), sentence="rolled back"))
        return [
            StoredDecision(
                number=n, at=DAY, made_by="c", before=None, decision=one, plan_number=None
            )
            for n, one in enumerate(made, 1)
        ]

    def evidence(self, _):
        return [0.0, 1.0, float(self.looks)]


def test_a_log_that_follows_a_rollout_has_each_line_once(monkeypatch, capsys):
    from types import SimpleNamespace

    def stored(looks):
        return SimpleNamespace(
            rollout=SimpleNamespace(id="r", endpoint="late", alpha=0.05),
            latest=Decision(state=Running(0, DAY), shares=Shares(5.0), sentence="held: 5 s left"),
            ended_at=DAY if looks >= 3 else None,
        )

    monkeypatch.setattr(rollouts, "_EVERY_S", 0.0)
    book = Book(stored)
    rollouts._print_news(book, stored(0))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[2] for line in lines] == [
        "late/2 begins", "held: 5 s left", "rolled back",
    ]  # fmt: skip


def test_the_evidence_fits_eighty_columns_and_a_full_bar_rolls_back(monkeypatch):
    line = rollouts.sparkline([0.0, 1.5, 3.0] * 100, 0.05, 28)
    assert len(line) <= 80
    assert line.endswith("20 to 1; rolls back at 20 to 1")
    assert rollouts.sparkline([None, None], 0.05) == ""
