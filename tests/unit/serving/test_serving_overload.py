"""More is asked than can be done: what is accepted is answered in time, the rest told at once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import ExitStack

import pytest
from tests.tiers import first_of

from bascule.core.programs import Program
from bascule.serving.execution.placement import Pace

pytestmark = pytest.mark.serial

RUN_S = 0.01
DEADLINE_S = 0.15


class Slow(Program):
    """One row at a time, ten milliseconds each: a hundred a second, and no more."""

    def __init__(self, program):
        self._program = program
        self.name, self.inputs, self.outputs = program.name, program.inputs, program.outputs
        self.signature = program.signature
        self.runs = 0

    def run(self, columns, outputs=None):
        rows = len(columns["x"])
        self.runs += rows
        time.sleep(RUN_S * rows)  # or larger batches would do away with the overload
        return self._program.run(columns, outputs)


@pytest.mark.parametrize("inline_rows", first_of([0, 1]), ids=["on its thread", "on the loop"])
@pytest.mark.parametrize("seconds", first_of([1.5, 60]))
def test_three_times_too_many_requests_leave_the_goodput_where_it_was(
    serve_models, fake, ask, seconds, inline_rows
):
    program = Slow(fake())
    server = serve_models(
        ("m", program, Pace(RUN_S, inline_rows, batch_rows=1)), deadline_s=DEADLINE_S
    )
    statuses, accepted_s, refused_s = Counter(), [], []
    stop_s = time.monotonic() + seconds

    def offer():
        with server.client() as client:
            while (started_s := time.monotonic()) < stop_s:
                answer = client.request("POST", "/v2/models/m/infer", ask([1, 2])).answer()
                took_s = time.monotonic() - started_s
                statuses[answer.status] += 1
                (accepted_s if answer.status == 200 else refused_s).append(took_s)
                if answer.status == 429:
                    assert int(answer.headers["retry-after"]) >= 1
                time.sleep(max(0.0, 0.1 - took_s))  # thirty callers, ten times a second each

    threads = [threading.Thread(target=offer) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    accepted_s.sort()
    refused_s.sort()
    p99_ms = accepted_s[int(len(accepted_s) * 0.99)] * 1e3
    goodput = statuses[200] / program.runs
    print(f"{statuses}, p99 of accepted {p99_ms:.0f} ms, {program.runs / seconds:.0f} runs/s")  # noqa: T201
    assert statuses[429] > statuses[200] / 4
    assert set(statuses) <= {200, 429, 504}
    assert statuses[504] <= 0.03 * statuses[200]
    assert goodput >= 0.9, "what was run was mostly for callers who had given up"
    assert program.runs >= 0.8 * seconds / RUN_S
    assert refused_s[len(refused_s) // 2] < 0.05, "a refusal is to be quick"


@pytest.mark.parametrize(("body", "statuses"), [(b"no JSON", (429, 400)), (None, (429, 200))])
def test_what_the_thread_cannot_answer_in_time_is_refused_before_it_is_decoded(
    serve_models, fake, ask, body, statuses
):
    program = fake()
    server = serve_models(("m", program, Pace(1.0, inline_rows=0, batch_rows=1)))
    program.gate.clear()
    with server.client() as first, server.client() as hurried:
        first.request("POST", "/v2/models/m/infer", ask([1, 2]))
        assert program.running.wait(10)
        path, asked = "/v2/models/m/infer", body or ask([1, 2])
        hurried.request("POST", path, asked, "X-Request-Timeout-Ms: 500\r\n")
        refused = hurried.answer()
        program.gate.set()
        assert first.answer().status == 200
        answer = hurried.request("POST", path, asked, "X-Request-Timeout-Ms: 500\r\n").answer()

    assert (refused.status, answer.status) == statuses
    assert int(refused.headers["retry-after"]) >= 1


# -- what waits is bounded in bytes, over all models and connections --


def body_of(ask, count):
    return ask(*[[1.0, 2.0]] * count)


def test_what_waits_for_models_is_bounded_in_bytes_over_all_of_them(
    serve_models, fake, thread, ask
):
    slow, other, idle = fake(), fake(), fake()
    slow.gate.clear()
    other.gate.clear()
    server = serve_models(
        ("slow", slow, thread), ("other", other, thread), ("idle", idle, thread),
        max_held_bytes=40_000,
    )  # fmt: skip
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(4)]
        for client, model in zip(clients, ["slow", "slow", "other"], strict=False):
            before = server.on_loop(lambda: server.site.held.bytes)
            client.request("POST", f"/v2/models/{model}/infer", body_of(ask, 700))
            server.until(lambda: server.site.held.bytes >= before + 700 * 16)  # noqa: B023
        refused = clients[3].request("POST", "/v2/models/other/infer", body_of(ask, 700)).answer()
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert "requests that wait for other/1 or elsewhere already take" in refused.json["error"]
        assert "retry later, with fewer rows a request" in refused.json["error"]
        # A model that has nothing to do has nobody wait.
        answer = clients[3].request("POST", "/v2/models/idle/infer", body_of(ask, 700)).answer()
        assert answer.status == 200
        slow.gate.set()
        other.gate.set()
        assert [client.answer().status for client in clients[:3]] == [200, 200, 200]
    server.until(lambda: server.site.held.bytes == 0)


@pytest.mark.parametrize("how", ["goes", "waits too long", "is swapped for another", "is answered"])
def test_nothing_is_held_of_a_call_whose_client_or_model(serve_models, fake, thread, ask, how):
    slow = fake()
    slow.gate.clear()
    deadline_s = 0.05 if how == "waits too long" else 10.0
    server = serve_models(("slow", slow, thread), deadline_s=deadline_s)
    with server.client() as first, server.client() as second:
        for client in (first, second):
            before = server.on_loop(lambda: server.site.held.bytes)
            client.request("POST", "/v2/models/slow/infer", ask([1, 2]))
            server.until(lambda: server.site.held.bytes > before)  # noqa: B023
        if how == "goes":
            first.socket.close()
            second.socket.close()
        elif how == "waits too long":
            assert [first.answer().status, second.answer().status] == [504, 504]
        elif how == "is swapped for another":
            server.on_loop(lambda: server.models[0].unload().stop(lambda: None))
        assert server.on_loop(lambda: server.site.held.bytes) > 0  # the thread has them still
        slow.gate.set()
        server.until(lambda: server.site.held.bytes == 0)


def test_a_call_that_runs_at_once_is_not_held(serve_models, fake, inline, ask):
    seen = []
    program = fake()
    server = serve_models(("fast", program, inline), max_held_bytes=1)
    run = program.run

    def noting(columns, outputs=None):
        seen.append(server.site.held.bytes)
        return run(columns, outputs)

    program.run = noting
    with server.client() as client:
        assert client.request("POST", "/v2/models/fast/infer", ask([1, 2])).answer().status == 200
    assert seen == [0]


def test_a_body_that_came_in_pieces_does_not_find_itself_in_the_account(serve_routes):
    seen = []

    def handle(exchange):
        seen.append((len(exchange.body), server.site.held.bytes))
        exchange.answer(b"{}")

    server = serve_routes({b"/": {b"POST": handle}})
    with server.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n12345678")
        server.until(lambda: server.site.held.bytes == 8)
        assert client.send(b"9").answer().status == 200
    assert seen == [(9, 0)]
