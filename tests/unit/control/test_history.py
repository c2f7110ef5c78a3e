"""The history over all subjects: filters, pages, words, and the export."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from itertools import chain

import pytest

from bascule.catalogue import Catalogue, SqliteDatabase, events
from bascule.control.history import COLUMNS, Asked, History, as_csv, as_json_lines

T0 = datetime(2026, 5, 4, 12, tzinfo=UTC)
ACTS = [
    ("model", "late", "pushed", "ada", "", {"number": 1}),
    ("model", "late", "alias_moved", "bob", "better",
     {"alias": "champion", "from_number": None, "to_number": 1, "number": 1}),
    ("endpoint", "late", "deployed", "bob", "", {"sentence": "late/1 answers all"}),
    ("key", "0a1b", "key_created", "ada", "",
     {"name": "ci", "permissions": ["read:*"], "expires_at": None}),
    ("session", "f" * 64, "signed_in", "eve", "",
     {"user": "eve", "source": "oidc", "permissions": ["read:*"], "ends_at": "x"}),
    ("schedule", "nightly", "schedule_paused", "=cmd()", "-1+1", {}),
    ("thing", "new", "kind_of_tomorrow", "ada", "", {"x": 1}),
]  # fmt: skip


@pytest.fixture
def history(tmp_path):
    catalogue = Catalogue(SqliteDatabase(tmp_path / "registry.db"))
    catalogue.create()
    with catalogue.write() as connection:
        for number, (about, name, kind, by, reason, body) in enumerate(ACTS):
            at = T0 + timedelta(minutes=number)
            subject = events.Subject(about, name)
            events.append(connection, events.Event(subject, kind, at, by, reason, body))
    return History(lambda: catalogue)


def kinds(acts):
    return [one.kind for one in acts]


def test_every_act_is_told_in_words_the_latest_first(history):
    found = history.page(Asked(), limit=100, with_keys=True)

    assert [one.sentence for one in found] == [
        "kind of tomorrow",
        "schedule paused",
        "eve signed in (oidc)",
        "key ci made for read:*",
        "late/1 answers all",
        "late@champion: new -> 1",
        "late/1 pushed",
    ]


def test_acts_on_keys_and_sessions_are_for_those_that_may_see_keys(history):
    found = history.page(Asked(), limit=100, with_keys=False)

    assert not {"key_created", "signed_in"} & set(kinds(found))
    assert len(found) == len(ACTS) - 2
    assert history.page(Asked(about="key"), limit=9, with_keys=False) == []


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Asked(about="model"), ["alias_moved", "pushed"]),
        (Asked(name="late"), ["deployed", "alias_moved", "pushed"]),
        (Asked(kind="pushed"), ["pushed"]),
        (Asked(by="bob"), ["deployed", "alias_moved"]),
        (Asked(about="model", by="bob"), ["alias_moved"]),
        (Asked(since=T0 + timedelta(minutes=6)), ["kind_of_tomorrow"]),
        (Asked(until=T0 + timedelta(minutes=1)), ["pushed"]),
        (Asked(about="nothing"), []),
    ],
)
def test_a_filter_narrows_the_history(history, asked, expected):
    assert kinds(history.page(asked, limit=100, with_keys=True)) == expected


def test_pages_follow_each_other_without_a_gap(history):
    pages, after = [], None
    while part := history.page(Asked(), limit=3, after=after, with_keys=True):
        pages.append(kinds(part))
        after = part[-1].id

    assert [len(one) for one in pages] == [3, 3, 1]
    assert [*chain(*pages)] == kinds(history.all(Asked(), with_keys=True))


@pytest.mark.parametrize("after", [0, -1, 2**63, 2**70])
def test_a_page_after_no_act_is_empty(history, after):
    assert history.page(Asked(), limit=3, after=after, with_keys=True) == []


def test_the_hash_of_a_session_is_shown_in_short(history):
    found = history.page(Asked(about="session"), limit=1, with_keys=True)

    assert found[0].name == "f" * 12


def test_the_table_holds_no_formula_for_a_spreadsheet(history):
    rows = list(csv.DictReader(io.StringIO("".join(as_csv(history.all(Asked(), with_keys=True))))))

    paused = next(one for one in rows if one["kind"] == "schedule_paused")
    assert (paused["by"], paused["reason"]) == ("'=cmd()", "'-1+1")
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(ACTS)


def test_json_lines_keep_every_value_as_it_is(history):
    lines = [json.loads(one) for one in as_json_lines(history.all(Asked(), with_keys=True))]

    paused = next(one for one in lines if one["kind"] == "schedule_paused")
    assert (paused["by"], paused["reason"]) == ("=cmd()", "-1+1")
    assert lines[-1]["at"] == T0.isoformat()


def test_before_the_first_act_the_history_is_empty(tmp_path):
    none = History(lambda: Catalogue(SqliteDatabase(tmp_path / "none" / "registry.db")))

    assert none.page(Asked(), limit=9, with_keys=True) == []
    assert list(none.all(Asked(), with_keys=True)) == []
