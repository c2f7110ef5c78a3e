"""The draft of a postmortem: facts in order, what was taken out, who was exposed, what is open."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from bascule.cli.incidents import start_of
from bascule.core import Invalid, NotFound
from bascule.documents import markdown
from bascule.release.incidents import (
    Attempt,
    Entry,
    Exposure,
    Facts,
    Receipt,
    document_of,
    draft,
    gather,
)

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
SAID = "rolled back to late/4: 6.1% of the answers of late/5 failed"


def minute(number):
    return T0 + timedelta(minutes=number)


ABORTED = Attempt(
    id="late-a1", candidate="late/5", current="late/4", state="aborted", began_at=minute(1),
    ended_at=minute(4), sentence=SAID, guards=["errors +1 pp"],
    log_e={"errors +1 pp": 4.2, "all": 4.2}, requests=300, errors=18, all_requests=6_000,
)  # fmt: skip
FACTS = Facts(
    endpoint="late", since=T0, until=minute(60), serves="late/4 (100 %) by plan 3",
    entries=[
        Entry(minute(4), "rollout_aborted", SAID, "host:7"),
        Entry(minute(0), "rollout_asked", "rollout of late/5 (canary) was asked for", "ada", "try"),
    ],
    attempts=[ABORTED], left={},
    exposures=[
        Exposure("late/5", "shop", 200, 11, minute(1), minute(4)),
        Exposure("late/5", "app", 100, 7, minute(1), minute(3)),
        Exposure("late/4", "shop", 5_700, 3, minute(0), minute(9)),
    ],
    receipts=[Receipt(minute(2), "pager", "5.9% of requests fail", "sent")],
    aliases={"late@champion": "late/4"}, passed=frozenset(), firing=[],
)  # fmt: skip


def test_events_are_in_order_and_the_version_that_was_taken_out_is_named_with_its_reason():
    made = draft(FACTS)
    assert [one.kind for one in made.timeline] == ["rollout_asked", "rollout_aborted"]
    assert [(one.version, one.why) for one in made.suspects] == [("late/5", SAID)]
    assert made.suspects[0].lasted == timedelta(minutes=3)


def test_exposure_is_of_the_suspects_alone_by_caller_the_most_exposed_first():
    assert [one.caller for one in draft(FACTS).exposures] == ["shop", "app"]


def test_a_rollback_by_hand_makes_a_suspect_too():
    made = draft(replace(FACTS, attempts=[], left={"late/5": "rolled back late (errors)"}))
    assert [(one.version, one.lasted) for one in made.suspects] == [("late/5", None)]
    assert [one.caller for one in made.exposures] == ["shop", "app"]


@pytest.mark.parametrize(
    ("changes", "question"),
    [
        ({"passed": frozenset({"late/5"})}, "The gates of late/5 passed"),
        ({"aliases": {"late@champion": "late/5"}}, "late@champion still points to late/5"),
        ({"exposures": None}, "callers are unknown"),
        ({"receipts": []}, "No notification was sent"),
        (
            {"receipts": [Receipt(T0, "pager", "it fails", "failed", "timed out")]},
            "pager was not reached (timed out)",
        ),
        ({"firing": ["late is slow"]}, "An alert has not ended: late is slow"),
        (
            {"entries": [Entry(T0, "deployed", "late/5 answers late", "ada")]},
            "No reason was recorded for: late/5 answers late",
        ),
        ({"attempts": [replace(ABORTED, state="promoted")]}, "No version was rolled back"),
    ],
)
def test_what_the_facts_leave_open_is_a_question(changes, question):
    assert not [one for one in draft(FACTS).questions if question in one]
    asked = draft(replace(FACTS, **changes)).questions
    assert len([one for one in asked if question in one]) == 1


def test_a_guard_on_accuracy_leaves_no_question_about_outcomes():
    guarded = replace(ABORTED, guards=["errors +1 pp", "accuracy -2 pp"])
    assert any("guard on outcomes" in one for one in draft(FACTS).questions)
    questions = draft(replace(FACTS, attempts=[guarded])).questions
    assert not any("guard on outcomes" in one for one in questions)


def test_the_page_has_the_facts_and_a_users_text_is_no_markup():
    entry = Entry(T0, "deployed", "late/5 answers", "ada", "a | b\n# heading <script>")
    page = markdown(document_of(draft(replace(FACTS, entries=[entry]))))
    assert "- **late/5**: " + SAID + ". It had traffic for 3 min." in page
    assert "| errors +1 pp | 67 to 1 |" in page
    assert "late/5 answered 300 of 6,000 requests of rollout `late-a1`; 18 failed" in page
    assert (
        "| late/5 | shop | 200 | 11 | 2026-03-01 12:01:00 UTC | 2026-03-01 12:04:00 UTC |" in page
    )
    assert "late/5 answers (a \\| b # heading &lt;script&gt;)" in page


def test_nothing_recorded_is_said_and_makes_no_empty_table():
    empty = replace(FACTS, entries=[], attempts=[], exposures=None, receipts=[])
    page = markdown(document_of(draft(empty)))
    assert "No version was rolled back in this time." in page
    assert page.count("None recorded.") == 3


def test_since_is_a_length_or_a_time_in_the_past():
    assert start_of("2h", minute(60)) == minute(-60)
    assert start_of("2026-03-01T12:30:00+00:00", minute(60)) == minute(30)
    for wrong in ("soon", "2026-03-01T13:00:00+00:00", "0s", "99999999999999d"):
        with pytest.raises(Invalid, match="--since"):
            start_of(wrong, minute(60))


def test_an_unknown_name_is_refused(tmp_path):
    from bascule.catalogue import Catalogue, SqliteDatabase
    from bascule.monitoring import Ledger
    from bascule.registry import open_registry

    catalogue = Catalogue(SqliteDatabase(tmp_path / "catalogue.db"))
    catalogue.create()
    with pytest.raises(NotFound, match="nothing"):
        gather(
            "nothing", since=T0, until=minute(1), catalogue=catalogue,
            registry=open_registry(tmp_path), ledger=Ledger(tmp_path),
        )  # fmt: skip
