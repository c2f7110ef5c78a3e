from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from bascule.catalogue import Reply, Requests
from bascule.catalogue.idempotency import KEPT, UNDER_WAY_LIMIT
from bascule.core import Conflict, Invalid

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
REPLY = Reply(201, (("etag", '"1"'), ("vary", "a"), ("vary", "b")), b'{"n\xc3\xa4me": 1}\x00\xff')
MOMENT = timedelta(microseconds=1)


@pytest.fixture
def requests(catalogue):
    return Requests(catalogue)


def test_the_same_request_gets_the_first_reply_again(requests):
    assert requests.begin("k", "ada", "d", now=T0) is None
    requests.finish("k", "ada", REPLY)

    for _ in range(2):
        assert requests.begin("k", "ada", "d", now=T0 + timedelta(hours=1)) == REPLY


def test_another_request_under_the_same_key_is_refused_before_and_after_the_reply(requests):
    requests.begin("k", "ada", "d", now=T0)
    with pytest.raises(Invalid, match="another route or body"):
        requests.begin("k", "ada", "other", now=T0)
    requests.finish("k", "ada", REPLY)
    with pytest.raises(Invalid):
        requests.begin("k", "ada", "other", now=T0)


def test_keys_of_two_callers_do_not_meet(requests):
    assert requests.begin("k", "ada", "d", now=T0) is None
    assert requests.begin("k", "bob", "other", now=T0) is None
    requests.finish("k", "bob", REPLY)
    with pytest.raises(Conflict, match="under way"):
        requests.begin("k", "ada", "d", now=T0)


def test_a_request_whose_process_died_may_be_sent_again_after_a_while(requests):
    requests.begin("k", "ada", "d", now=T0)
    with pytest.raises(Conflict, match="under way"):
        requests.begin("k", "ada", "d", now=T0 + UNDER_WAY_LIMIT - MOMENT)
    again = T0 + UNDER_WAY_LIMIT
    assert requests.begin("k", "ada", "d", now=again) is None
    with pytest.raises(Conflict, match="under way"):
        requests.begin("k", "ada", "d", now=again + MOMENT)


def test_a_dropped_request_may_be_sent_again_at_once(requests):
    requests.begin("k", "ada", "d", now=T0)
    requests.forget("k", "ada")
    assert requests.begin("k", "ada", "other", now=T0) is None


def test_a_reply_is_kept_for_a_day_and_then_pruned(requests, catalogue):
    from bascule.catalogue import schema

    requests.begin("k", "ada", "d", now=T0)
    requests.finish("k", "ada", REPLY)
    assert requests.begin("k", "ada", "d", now=T0 + KEPT - MOMENT) == REPLY

    requests.begin("another", "ada", "d", now=T0 + KEPT)
    with catalogue.read() as connection:
        rows = connection.execute(schema.requests.select()).all()
    assert [row.key for row in rows] == ["another"]
    assert requests.begin("k", "ada", "other", now=T0 + KEPT) is None


def test_of_the_same_requests_at_once_one_goes_on(requests):
    barrier, results = threading.Barrier(6), []

    def send():
        barrier.wait()
        try:
            results.append(requests.begin("k", "ada", "d", now=T0))
        except Conflict:
            results.append("under way")

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=str) == [None] + ["under way"] * 5
