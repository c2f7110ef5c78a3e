"""Rates and budgets of callers: what is refused, over every protocol, and how much is over."""

from __future__ import annotations

import multiprocessing
import time

import pytest
from tests.waiting import until

from bascule.core import Invalid, Overloaded
from bascule.serving.execution import CallerFacts, Meters, PolicyFacts, limiting, meters, read_chain
from bascule.serving.execution.limiting import Allowance, LimitedPredictor, LimitSettings
from bascule.serving.execution.meters import (
    DAY,
    GRANTED,
    KEY,
    ROWS,
    STATE,
    THROTTLED_NS,
    WANTED,
)

INFER = "/v2/models/m/infer"
S = 1_000_000_000


@pytest.fixture
def limited(serve_models, fake, inline, tmp_path):
    """`limited(shares=False, name="m", ...)`: a server of a model under limits."""

    def start(shares=False, name="m", **settings):
        server = serve_models((name, fake(), inline))
        shared = Meters(tmp_path / "meters")
        callers = CallerFacts(shared, shares)
        facts = PolicyFacts(lambda _: None, server.loop, name, callers)
        predictor = LimitedPredictor(server.models[0], LimitSettings(**settings), facts)
        server.serve(predictor)
        server.meter = shared.meter(
            name, "address:127.0.0.1", settings.get("budget_rows_per_day", 0)
        )
        return server

    return start


def answers(server, ask, rows_of_requests, path=INFER):
    with server.client() as client:
        return [
            client.request("POST", path, ask(*[[1.0, 2.0]] * rows)).answer()
            for rows in rows_of_requests
        ]


def test_what_is_over_a_rate_is_refused_with_the_time_to_wait(limited, ask):
    server = limited(rate="2/h")
    refused = answers(server, ask, [1, 1, 1])[-1]
    assert refused.status == 429
    assert 1790 <= int(refused.headers["retry-after"]) <= 1800
    assert refused.json["error"] == (
        "address 127.0.0.1 asks more of m than it may (2/h, policies.m.rate); "
        "send requests less often"
    )
    assert server.totals()[1].refusals == {"rate": 1}


def test_a_budget_is_of_rows_and_says_when_the_next_begins(limited, ask):
    server = limited(budget_rows_per_day=5)
    statuses = [answer.status for answer in answers(server, ask, [3, 3, 2, 1, 6])]
    assert statuses == [200, 429, 200, 429, 413], "what still fits is answered"
    refused = answers(server, ask, [1])[0]
    assert int(refused.headers["retry-after"]) <= 86_400
    assert (
        "has used its 5 rows of a day of m (policies.m.budget_*_per_day)" in refused.json["error"]
    )
    assert server.totals()[1].refusals == {"budget": 4}


def test_a_batch_larger_than_the_burst_is_told_apart_from_one_too_early(limited, ask):
    server = limited(rate="10 rows/h", burst=4)
    assert [answer.status for answer in answers(server, ask, [5, 4, 1])] == [413, 200, 429]


@pytest.mark.parametrize("protocol", ["/invocations", "/v1/models/m:predict"])
def test_every_protocol_refuses_alike(limited, protocol):
    server = limited(budget_rows_per_day=1)
    with server.client() as client:
        body = {"instances": [[1.0, 2.0]]}
        statuses = [client.request("POST", protocol, body).answer().status for _ in range(2)]
    assert statuses == [200, 429]


def test_over_grpc_a_limit_is_resource_exhausted(limited, grpc_client, ask_grpc):
    server = limited(name="fake", budget_rows_per_day=1)
    client = grpc_client(server)
    client.infer(ask_grpc([1, 2]))
    code, words = client.refusal("ModelInfer", ask_grpc([1, 2]).SerializeToString())
    assert (code, words.split(";")[1]) == (
        "RESOURCE_EXHAUSTED",
        " retry after 00:00 UTC, or have the budget raised",
    )


def test_a_group_of_all_callers_has_a_budget_of_its_own(limited, ask):
    server = limited(groups=("*",), group_budget_rows_per_day=3)
    assert [answer.status for answer in answers(server, ask, [2, 2, 1])] == [200, 429, 200]


def test_a_call_waits_until_its_budget_is_reserved(limited, ask):
    server = limited(shares=True, budget_rows_per_day=10)
    words = server.meter.words
    with server.client() as client:
        waiting = client.request("POST", INFER, ask([1.0, 2.0], [3.0, 4.0]))
        until_s = time.monotonic() + 5
        while words[WANTED] != 2:
            assert time.monotonic() < until_s
        words[GRANTED] = 2
        assert waiting.answer().status == 200
        words[STATE] = meters.AWAY
        refused = client.request("POST", INFER, ask([1.0, 2.0])).answer()
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        words[STATE] = meters.EXHAUSTED
        assert client.request("POST", INFER, ask([1.0, 2.0])).answer().status == 429


def test_a_call_that_the_model_could_not_take_is_given_back(limited, ask, monkeypatch):
    server = limited(rate="1/h", budget_rows_per_day=2)

    def full(*_):
        raise Overloaded("the queue is full")

    with monkeypatch.context() as patch:
        patch.setattr(server.models[0], "answer", full)
        assert answers(server, ask, [2])[0].status == 429
    assert server.meter.words[ROWS] == 0
    assert answers(server, ask, [2])[0].status == 200


def test_a_throttled_caller_has_another_rate_until_that_ends(limited, ask):
    server = limited(on_suspicious_queries="throttle", throttled_rate="2/h")
    assert {answer.status for answer in answers(server, ask, [1] * 5)} == {200}
    server.meter.words[THROTTLED_NS] = time.monotonic_ns() + 60 * S
    last = until(
        lambda: [answer for answer in answers(server, ask, [1] * 3) if answer.status == 429]
    )
    assert "(2/h, policies.m.throttled_rate)" in last[0].json["error"]
    server.meter.words[THROTTLED_NS] = time.monotonic_ns()
    assert answers(server, ask, [1])[0].status == 200


def test_what_is_admitted_unnoted_is_a_part_of_what_is_left_and_noted_in_time(limited, ask):
    server = limited(budget_rows_per_day=1_000)
    assert {answer.status for answer in answers(server, ask, [1] * 12)} == {200}
    assert server.meter.words[ROWS] == 1, "1/64 of 999 rows is not noted yet"
    until(lambda: answers(server, ask, [1]) and server.meter.words[ROWS] >= 13)
    statuses = [answer.status for answer in answers(server, ask, [100] * 10)]
    assert statuses == [200] * 9 + [429]


# -- the shared file --


def test_a_bucket_fills_in_its_time_and_not_beyond_its_burst(tmp_path):
    meter = Meters(tmp_path / "meters").meter("m", "key:a", 0)
    now_ns = time.monotonic_ns()
    rate = Allowance("", 0, "10/s", S // 10, 0, 2 * S // 10)

    def takes(at_ns):
        if meter.room_ns(rate.burst_ns, at_ns) < rate.cost_ns(1):
            return False
        meter.take(rate.cost_ns(1), 1, at_ns)
        return True

    assert [takes(now_ns) for _ in range(3)] == [True, True, False]
    assert [takes(now_ns + S // 10) for _ in range(2)] == [True, False]
    later_ns = now_ns + 3_600 * S
    assert [takes(later_ns) for _ in range(3)] == [True, True, False]


def test_yesterday_is_not_counted_and_a_clock_that_goes_back_gives_no_new_budget(tmp_path):
    meter = Meters(tmp_path / "meters").meter("m", "key:a", 9)
    for day, rows in ((100, 3), (101, 1), (100, 4)):
        meter.begin(day)
        meter.take(0, 1, 0)
        assert meter.words[DAY] == max(day, 100 + (rows != 3))
    assert meter.words[ROWS] == 2


def test_more_callers_than_slots_share_one_counter_of_their_section(tmp_path, monkeypatch):
    monkeypatch.setattr(meters, "SLOTS", 32)
    shared = Meters(tmp_path / "meters")
    for number in range(200):
        meter = shared.meter("m", f"address:{number}", 5)
        meter.begin(meters.today())
        meter.take(0, 1, 0)
    assert (shared.table[:32, ROWS] == 1).all()
    late, later = (shared.meter("m", f"address:late{number}", 5) for number in range(2))
    assert late.name == later.name, "many addresses get no more than one"
    assert late.words[ROWS] > 100


def test_a_slot_that_says_nothing_any_more_is_used_again(tmp_path, monkeypatch):
    monkeypatch.setattr(meters, "SLOTS", 16)
    shared = Meters(tmp_path / "meters")
    first = []
    for number in range(16):
        first.append(shared.meter("m", f"key:{number}", 5))
        first[-1].begin(meters.today())
        first[-1].take(0, 5, 0)
    tomorrow = meters.today() + 1
    monkeypatch.setattr(meters, "today", lambda: tomorrow)
    new = shared.meter("m", "key:new", 5)
    assert new.words[ROWS] == 0
    assert [meter.is_current for meter in first].count(False) == 1
    assert (shared.table[:, KEY] != 0).sum() == 16


def spend(path, rate, results, seconds):
    shared = Meters(path)
    meter = shared.meter("m", "key:a", 0)
    until_ns = time.monotonic_ns() + int(seconds * S)
    taken = 0
    while (now_ns := time.monotonic_ns()) < until_ns:
        with shared:
            if meter.room_ns(rate.burst_ns, now_ns) >= rate.cost_ns(1):
                meter.take(rate.cost_ns(1), 1, now_ns)
                taken += 1
    results.put(taken)


def test_workers_at_once_take_a_rate_together_and_no_more(tmp_path):
    context = multiprocessing.get_context("fork")
    results, rate = context.Queue(), Allowance("", 0, "1000/s", S // 1_000, 0, 50 * S // 1_000)
    Meters(tmp_path / "meters").meter("m", "key:a", 0)
    started_ns = time.monotonic_ns()
    children = [
        context.Process(target=spend, args=(tmp_path / "meters", rate, results, 0.5))
        for _ in range(3)
    ]
    for child in children:
        child.start()
    taken = sum(results.get(timeout=20) for _ in children)
    for child in children:
        child.join()
    allowed = 50 + 1_000 * (time.monotonic_ns() - started_ns) / S
    assert 50 + 1_000 * 0.5 - 2 <= taken <= allowed


def hold(path, has_lock):
    with Meters(path):
        has_lock.set()
        time.sleep(60)


def test_the_lock_of_a_worker_that_is_killed_is_free(tmp_path):
    context = multiprocessing.get_context("fork")
    has_lock = context.Event()
    holder = context.Process(target=hold, args=(tmp_path / "meters", has_lock))
    holder.start()
    assert has_lock.wait(20)
    holder.kill()
    with Meters(tmp_path / "meters"):
        pass
    holder.join()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rate": "fast"}, "rate: 'fast' is not like '100/s'"),
        ({"budget_rows_per_day": -1}, "budget_rows_per_day: -1 is not >= 0"),
        ({"budget_unknowns_per_day": float("nan")}, "budget_unknowns_per_day: nan is not >= 0"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(values, said):
    with pytest.raises(Invalid, match=said):
        read_chain({"limits": values})


def test_one_user_of_ipv6_is_one_caller():
    networks = {limiting.network_of(f"2001:db8::{number}") for number in range(3)}
    assert networks == {"2001:0db8:0000:0000"}
    assert limiting.network_of("10.0.0.7") == "10.0.0.7"
