"""One ledger of several hosts in a real S3 store: each row once, whatever dies in between."""

from __future__ import annotations

import shutil
import threading
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from tests.ledger_rows import Answers, counts, ids, killed_at, segments, spool, take_in
from tests.stores import open_database
from tests.tiers import first_of

from bascule.catalogue import Leases
from bascule.core import Conflict, Unavailable, Untrusted
from bascule.monitoring.ledger import (
    Leader,
    Ledger,
    Outcomes,
    OutcomeUpkeep,
    Retention,
    Scribe,
    SharedStore,
    Sharing,
    delete,
    matching,
    outcomes as outcomes_module,
    scribe as scribing,
    shared,
    sharing as sharing_module,
)
from bascule.monitoring.ledger.manifest import read_manifest
from bascule.monitoring.ledger.shared import connect_home
from bascule.monitoring.profiles import read_windows

STOPPING = threading.Event()
STOPPING.set()


@pytest.fixture
def hosts(tmp_path, s3_url):
    """The homes of two hosts and of a third that only asks."""
    homes = [tmp_path / name for name in ("a", "b", "asking")]
    for home in homes:
        home.mkdir()
        connect_home(home, s3_url)
    return homes


def sharing(home, **options):
    return Sharing(shared.shared_of(home), every_s=0, **options)


def record(home, *ids, **options):
    """Take answers into a home's segments, without sharing them."""
    spool(home, Answers(ids, **options))
    take_in(home)


def share(home, **options):
    take_in(home, sharing(home, **options))


def never():
    return False


def test_a_query_on_any_host_finds_the_rows_of_all(hosts):
    a, b, _asking = hosts
    record(a, "a-1", "a-2")
    share(a)
    record(b, "b-1")
    share(b)
    spool(b, Answers(["b-2"]))
    assert [counts(home)[0] for home in hosts] == [3, 4, 3]
    share(b)
    assert [counts(home) for home in hosts] == [(4, 4)] * 3
    assert read_manifest(a).segments == read_manifest(b).segments == []


def test_the_leader_merges_outcomes_of_all_hosts_and_each_stays_once(hosts, s3_url, monkeypatch):
    a, b, asking = hosts
    late = datetime.now(UTC) - timedelta(days=2)
    monkeypatch.setattr(outcomes_module.time, "time_ns", lambda: int(late.timestamp()) * 10**9)
    for number, home in enumerate((a, a, b, b)):
        Outcomes(home).add("gb", pa.table({"id": [f"{number}"], "truth": [1]}))
    share(a, may_lead=never)
    share(b, may_lead=never)
    share(a, may_lead=never)
    share(a)  # as the leader
    share(a)
    share(b, may_lead=never)  # has all four still, and the store has none of them
    share(a)
    assert len(SharedStore(s3_url, asking).names("outcomes")) == 1
    for home in hosts:
        found = Ledger(home).query("select id from outcome_history order by id")["id"]
        assert found.to_pylist() == ["0", "1", "2", "3"]


@pytest.mark.parametrize("seen_by_b", first_of([3, 4, 2]))
def test_two_leaders_that_merge_outcomes_at_once_leave_each_once(
    hosts, s3_url, monkeypatch, seen_by_b
):
    """The second one has seen all of the files that the first one merges, or some, and one more."""
    a, b, _asking = hosts
    late = datetime.now(UTC) - timedelta(days=2)
    monkeypatch.setattr(outcomes_module.time, "time_ns", lambda: int(late.timestamp()) * 10**9)
    for number in range(4):
        Outcomes(a).add("gb", pa.table({"id": [f"{number}"], "truth": [1]}))
    files = sorted((a / "outcomes" / "gb").glob("*.parquet"))
    (b / "outcomes" / "gb").mkdir(parents=True)
    for file in files[:seen_by_b]:
        shutil.copy2(file, b / "outcomes" / "gb")
    if seen_by_b == 3:
        Outcomes(b).add("gb", pa.table({"id": ["4"], "truth": [1]}))
    for home in (a, b):  # both believe that they lead, and neither has seen the other's work
        OutcomeUpkeep(shared.shared_of(home)).tend(home, Retention(1 << 40, 30), datetime.now(UTC))
    expected = [str(number) for number in range(5 if seen_by_b == 3 else 4)]
    for _ in range(2):
        share(a)
        share(b, may_lead=never)
    for home in hosts:
        found = Ledger(home).query("select id from outcomes order by id")["id"].to_pylist()
        assert found == expected, "what counts"
    upkeep = OutcomeUpkeep(shared.shared_of(a))
    upkeep.tend(a, Retention(1 << 40, 30), datetime.now(UTC))  # merges what overlaps
    for home in (a, b, *hosts):
        share(home, may_lead=never)
    for home in hosts:
        found = Ledger(home).query("select id from outcome_history order by id")["id"].to_pylist()
        assert found == expected


def test_the_retention_of_outcomes_holds_on_all_hosts(hosts, s3_url):
    a, b, asking = hosts
    Outcomes(a).add("gb", pa.table({"id": ["x"], "truth": [1]}))
    share(a)
    share(b)
    upkeep = OutcomeUpkeep(shared.shared_of(a))
    upkeep.tend(a, Retention(1 << 40, 30), datetime.now(UTC) + timedelta(days=31))
    share(b)
    assert SharedStore(s3_url, asking).names("outcomes") == []
    assert [Outcomes(home).stored()[0] for home in hosts] == [[], [], []]


def test_the_leader_merges_segments_of_all_hosts_and_each_row_stays_once(hosts, s3_url):
    a, b, asking = hosts
    segments(a, 3, 5)
    segments(b, 3, 5, day="2026-11-01")
    share(a, may_lead=never)
    share(b, may_lead=never)
    assert counts(asking)[0] == 30
    share(a)
    view = SharedStore(s3_url, asking).view()
    assert [one.rows for one in view.segments()] == [30]
    assert len(view.merged.gone) == 6
    assert [counts(home)[0] for home in hosts] == [30] * 3
    share(b)
    share(a)
    share(b)
    view = SharedStore(s3_url, asking).view()
    assert (view.merged.gone, [len(one.segments) for one in view.hosts.values()]) == ([], [0, 0])
    assert len(SharedStore(s3_url, asking).names("segments")) == 1
    assert [counts(home)[0] for home in hosts] == [30] * 3


@pytest.mark.parametrize(
    ("owner", "name"),
    first_of([(SharedStore, "write"), (scribing, "commit"), (Scribe, "_leave")]),
    ids=["uploaded", "named", "dropped"],
)
def test_a_host_that_dies_while_it_adds_leaves_each_row_once(hosts, owner, name):
    a, b, _asking = hosts
    record(a, *map(str, range(10)))
    with killed_at(owner, name):
        share(a, may_lead=never)
    assert counts(a) == (10, 10)
    share(b)  # as a leader, while the host is dead
    assert counts(a) == (10, 10)
    share(a)
    for home in hosts:
        assert counts(home) == (10, 10)


@pytest.mark.parametrize("name", first_of(["change_merged", "remove"]))
def test_a_leader_that_dies_leaves_each_row_once(hosts, name):
    a, b, _asking = hosts
    segments(a, 4, 5)
    with killed_at(SharedStore, name):
        share(a)
    assert [counts(home) for home in hosts] == [(20, 20)] * 3
    share(b)
    share(a)
    assert [counts(home) for home in hosts] == [(20, 20)] * 3


def test_of_two_leaders_the_second_is_refused(hosts, s3_url):
    a, b, asking = hosts
    segments(a, 4, 5)
    share(a, may_lead=never)
    store = SharedStore(s3_url, b)
    view = store.view()
    for one in view.segments():
        store.fetch(one)
    sharing(a).lead(view)
    with pytest.raises(Conflict, match="another leader"):
        sharing(b).lead(view)
    assert counts(asking) == (20, 20)


def test_the_leader_removes_what_is_past_the_retention_from_all_hosts(hosts, s3_url):
    a, b, asking = hosts
    segments(a, 1, 5, day="2020-01-01")
    segments(b, 1, 5, day="2020-01-01")
    record(b, "new")
    share(a, may_lead=never)
    share(b, retention=Retention(1 << 40, 30))
    assert [counts(home) for home in hosts] == [(1, 1)] * 3
    share(a)
    assert len(SharedStore(s3_url, asking).names("segments")) == 1


def test_a_file_that_was_altered_in_the_store_is_not_read(hosts, s3_url):
    a, b, asking = hosts
    record(a, "x")
    share(a)
    store = SharedStore(s3_url, b)
    (name,) = store.names("segments")
    store._api.put(store._store, name, b"something else")
    with pytest.raises(Untrusted, match="was altered"):
        counts(asking)


def test_while_the_store_is_away_the_host_keeps_what_it_records_and_adds_it_later(
    hosts, monkeypatch
):
    a, _b, asking = hosts

    def away(*_, **__):
        raise Unavailable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(SharedStore, "read", away)
        record(a, "x")
        share(a)
        assert len(read_manifest(a).segments) == 1
        with pytest.raises(Unavailable):
            counts(a)
    share(a)
    assert counts(asking) == (1, 1)


def test_a_home_whose_copies_are_lost_downloads_them_again(hosts):
    a, _b, _asking = hosts
    record(a, "x")
    share(a)
    shutil.rmtree(a / "cache")
    assert counts(a) == (1, 1)


def test_a_deletion_reaches_the_rows_and_outcomes_of_all_hosts(hosts):
    a, b, asking = hosts
    record(a, "a-1", caller="alice")
    record(a, "a-2")
    share(a)
    record(b, "b-1", caller="alice")
    Outcomes(b).add("gb", pa.table({"id": ["a-1", "a-2", "b-1"], "truth": [1, 1, 1]}))
    share(b)
    spool(b, Answers(["b-2"], caller="alice"))
    assert matching(Ledger(asking), "gb", "caller = 'alice'").rows == 2
    done = []
    where = "caller = 'alice'"
    asked = threading.Thread(target=lambda: done.append(delete(asking, "gb", where)))
    asked.start()
    while asked.is_alive():  # the hosts' scribes, which take part every 10 s
        share(a, may_lead=never)
        share(b, may_lead=never)
    asked.join()
    assert (done[0].rows, done[0].outcomes, done[0].error) == (3, 2, "")
    for home in hosts:
        assert ids(home) == ["a-2"]
        history = Ledger(home).query("select id from outcome_history")["id"].to_pylist()
        assert history == ["a-2"]


def test_a_host_that_was_away_carries_a_deletion_out_before_it_adds_anything(hosts, monkeypatch):
    a, b, asking = hosts
    record(a, "a-1")
    share(a)
    record(b, "b-0")
    share(b)
    record(b, "b-1")
    monkeypatch.setattr(sharing_module, "_AWAY_S", -1.0)
    assert delete(asking, "gb", "true").rows == 2
    assert ids(b) == ["b-1"]
    record(b, "later")
    share(b)
    for home in hosts:
        assert ids(home) == ["later"]


def test_windows_of_all_hosts_merge_on_each(hosts):
    a, b, _ = hosts
    for _ in range(2):
        record(a, "a")
        share(a)
        record(b, "b")
        share(b)
        share(a)
    for home in (a, b):
        (window,) = read_windows(home, "gb")
        assert (window.rows, window.inputs.rows) == (4, 4)


def test_two_hosts_have_one_leader(hosts, postgresql_url):
    catalogue = open_database(hosts[0], postgresql_url)
    catalogue.create()
    one, two = (Leader(Leases(catalogue), name) for name in ("a", "b"))
    assert [one(), two(), one()] == [True, False, True]


def test_a_truth_joins_the_newest_of_an_id_that_two_hosts_have_answered(hosts):
    a, b, asking = hosts
    record(a, "x", at=datetime(2026, 11, 1, 12, tzinfo=UTC))
    record(b, "x", at=datetime(2026, 11, 1, 13, tzinfo=UTC))
    Outcomes(a).add("gb", pa.table({"id": ["x"], "truth": [1]}))
    share(a)
    share(b)
    sql = "select hour(time at time zone 'UTC') h, repeats from predictions_with_outcomes"
    assert Ledger(asking).query(sql).to_pylist() == [{"h": 13, "repeats": 1}]
