"""The event loop is behind: what has come is read before it is worked on, or refused at once."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack

import grpc
import pytest
from hypothesis import given, strategies as st

from bascule.core.programs import Program
from bascule.serving.execution.admission import TURN_S, AdmissionQueue, comes_in_time
from bascule.serving.execution.placement import Pace

pytestmark = pytest.mark.serial

INFER = "/v2/models/m/infer"
INLINE = Pace(1e-4, inline_rows=1_000, batch_rows=8)
MS = 1_000_000
TURN_NS = int(TURN_S * 1e9)


class Slow(Program):
    """Holds the loop for some time a run, and looks at who waits meanwhile."""

    def __init__(self, program, run_s):
        self._program, self._run_s = program, run_s
        self.name, self.inputs, self.outputs = program.name, program.inputs, program.outputs
        self.signature = program.signature
        self.asked = []
        self.waiting = []
        self.look = lambda: 0

    def run(self, columns, outputs=None):
        self.asked.append(columns["x"][0, 0])
        self.waiting.append(self.look())
        time.sleep(self._run_s)
        return self._program.run(columns, outputs)


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def serve(serve_models, fake):
    """Serves a program on the loop that takes so long each time; `held` begins to hold the loop."""

    def start(run_s, **limits):
        limits = {"batching": "never", **limits}
        held = fake()
        slow = Slow(fake(), run_s)
        server = serve_models(("m", slow, INLINE), ("held", held, INLINE), **limits)
        slow.look = lambda: len(server.site.backlog)
        return server, slow, held

    return start


def hold(server, held, stack, ask):
    """The loop works, and reads nothing, until the gate is opened."""
    held.gate.clear()
    client = stack.enter_context(server.client())
    client.request("POST", "/v2/models/held/infer", ask([0, 0]))
    assert held.running.wait(10)
    time.sleep(2 * TURN_S)  # a turn of the loop is what has to pass


def clients(server, stack, count):
    return [stack.enter_context(server.client()) for _ in range(count)]


# -- deciding --


@pytest.mark.parametrize(
    ("wait_s", "standing_s", "is_in_time"),
    [
        (0.8, 0.1, True),  # a burst: as long as deadlines allow, with a margin
        (0.81, 0.1, False),
        (0.5, 0.11, True),  # a queue that stands: half of the deadline
        (0.51, 0.11, False),
        (0.0, 100.0, True),
    ],
)
def test_a_burst_may_wait_long_and_a_queue_that_stands_may_not(wait_s, standing_s, is_in_time):
    assert comes_in_time(wait_s, 1.0, standing_s) == is_in_time


@given(st.floats(0, 100), st.floats(0.001, 100), st.floats(0, 100), st.floats(1.0, 10))
def test_what_comes_in_time_does_so_with_a_longer_deadline_and_a_shorter_wait(
    wait_s, allowed_s, standing_s, times
):
    if comes_in_time(wait_s, allowed_s, standing_s):
        assert wait_s <= allowed_s
        assert comes_in_time(wait_s, allowed_s * times, standing_s)
        assert comes_in_time(wait_s / times, allowed_s, standing_s)


def test_a_loop_is_behind_when_it_has_worked_for_a_turn_without_a_rest():
    backlog = AdmissionQueue(0)
    now_ns = 1_000 * MS
    assert not backlog.is_behind(now_ns)
    for passed_ns in range(0, TURN_NS + 1, MS):
        assert not backlog.is_behind(now_ns + passed_ns)
        backlog.answered_ns = now_ns + passed_ns
    assert backlog.is_behind(backlog.answered_ns + MS)


def test_a_loop_that_had_nothing_to_answer_is_not_behind_however_long_it_has_answered():
    backlog = AdmissionQueue(0)
    for now_ns in range(0, 100 * MS, 2 * MS):
        assert not backlog.is_behind(now_ns)
        backlog.answered_ns = now_ns + MS // 2


# -- what the loop reads while it is behind --


def test_what_has_come_is_read_before_it_is_worked_on_and_answered_in_its_order(serve, stack, ask):
    server, slow, held = serve(run_s=0.015)
    others = clients(server, stack, 12)
    hold(server, held, stack, ask)
    for number, client in enumerate(others):
        client.request("POST", INFER, ask([number, 1]))
    held.gate.set()
    answers = [client.answer() for client in others]

    assert [answer.json["outputs"][0]["data"] for answer in answers] == [
        [2 * number, 2] for number in range(12)
    ]
    # The first of them may have been run as it was read.
    assert max(slow.waiting) >= 11
    assert sorted(slow.waiting[1:], reverse=True) == slow.waiting[1:]
    assert len(server.site.backlog) == 0


def test_whoever_waited_past_the_deadline_is_told_so_and_its_body_is_not_looked_at(
    serve, stack, ask
):
    server, slow, held = serve(run_s=0.02)
    others = clients(server, stack, 20)
    hold(server, held, stack, ask)
    for client in others[:-1]:
        client.request("POST", INFER, ask([1, 2]), "X-Request-Timeout-Ms: 150\r\n")
    others[-1].request("POST", INFER, b"no JSON", "X-Request-Timeout-Ms: 150\r\n")
    held.gate.set()
    answers = [client.answer() for client in others]

    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) == len(slow.asked) <= 9
    assert statuses[-1] == 429
    assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a.status == 429)
    assert server.totals()[1].by_status == {200: statuses.count(200), 429: statuses.count(429)}


def test_whoever_would_come_too_late_is_refused_at_once(serve, stack, ask):
    """The pace is known from those before; whoever waits for long has been there before."""
    server, slow, held = serve(run_s=0.02)
    patient, hurried = clients(server, stack, 10), clients(server, stack, 5)
    hold(server, held, stack, ask)
    for client in patient:
        client.request("POST", INFER, ask([1, 2]))
    held.gate.set()
    server.until(lambda: len(slow.asked) >= 3)
    for client in hurried:
        client.request("POST", INFER, ask([7, 7]), "X-Request-Timeout-Ms: 60\r\n")
    refused = [client.answer() for client in hurried]
    still_waiting = server.on_loop(lambda: len(server.site.backlog))

    assert [answer.status for answer in refused] == [429] * 5
    assert still_waiting > 0
    assert [client.answer().status for client in patient] == [200] * 10
    assert 7 not in slow.asked


def test_a_client_that_goes_while_it_waits_is_not_run(serve, stack, ask):
    server, slow, held = serve(run_s=0.02)
    others = clients(server, stack, 10)
    hold(server, held, stack, ask)
    for number, client in enumerate(others):
        client.request("POST", INFER, ask([number, 1]))
    others[9].socket.close()
    held.gate.set()
    assert [client.answer().status for client in others[:9]] == [200] * 9
    server.until(lambda: server.totals()[1].by_status.get(499) == 1)

    assert slow.asked == list(range(9))


def test_health_is_told_before_those_who_wait_for_predictions(serve, stack, ask):
    server, slow, held = serve(run_s=0.05)
    others = clients(server, stack, 20)
    probe = stack.enter_context(server.client())
    hold(server, held, stack, ask)
    for client in others:
        client.request("POST", INFER, ask([1, 2]))
    probe.request("GET", "/v2/health/live")
    held.gate.set()

    assert probe.answer().status == 200
    assert len(slow.asked) < 10
    assert [client.answer().status for client in others] == [200] * 20


def test_requests_of_one_connection_keep_their_order(serve, stack, ask):
    server, _, held = serve(run_s=0.015)
    (client,) = clients(server, stack, 1)
    hold(server, held, stack, ask)
    for number in range(6):
        client.request("POST", INFER, ask([number, 1]))
        client.request("GET", "/v2/health/live")
    held.gate.set()

    for number in range(6):
        assert client.answer().json["outputs"][0]["data"] == [2 * number, 2]
        assert client.answer().json["live"]


def test_bodies_that_wait_are_bounded_together(serve, stack, ask):
    server, slow, held = serve(run_s=0.015, max_body_bytes=1_000)
    others = clients(server, stack, 10)
    hold(server, held, stack, ask)
    for client in others:
        client.request("POST", INFER, ask([1, 2], id="x" * 200))
    held.gate.set()
    statuses = [client.answer().status for client in others]

    assert set(statuses) == {200, 429}
    assert 2 <= statuses.count(200) == len(slow.asked) <= 4


def test_calls_over_grpc_wait_in_the_same_line(serve, stack, ask, ask_grpc, grpc_client):
    server, slow, held = serve(run_s=0.03)
    caller = grpc_client(server)
    infer = caller.method("ModelInfer")
    message = ask_grpc([5, 5])
    message.model_name = "m"
    assert infer(message.SerializeToString(), timeout=10)  # the channel is open
    others = clients(server, stack, 5)
    hold(server, held, stack, ask)
    for client in others:
        client.request("POST", INFER, ask([1, 2]))
    calls = [infer.future(message.SerializeToString(), timeout=10) for _ in range(5)]
    held.gate.set()
    assert [client.answer().status for client in others] == [200] * 5
    assert all(call.result() for call in calls)
    assert max(slow.waiting) > 5

    slow.asked.clear()
    hold(server, held, stack, ask)
    calls = [infer.future(message.SerializeToString(), timeout=10) for _ in range(10)]
    held.gate.set()
    server.until(lambda: len(slow.asked) >= 3)
    with pytest.raises(grpc.RpcError) as refused:
        infer(message.SerializeToString(), timeout=0.06)
    assert refused.value.code() in (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,  # by the client's own clock
    )
    assert all(call.result() for call in calls)
    assert len(slow.asked) == 10


STATUSES = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


def test_under_too_many_calls_a_model_on_the_loop_is_counted_by_what_they_were_told(
    serve, stack, ask, ask_grpc, grpc_client
):
    server, slow, held = serve(run_s=0.02, deadline_s=0.2)
    infer = grpc_client(server).method("ModelInfer")
    message = ask_grpc([1, 2], raw=False)
    message.model_name, message.model_version = "m", "1"
    hurry = message.SerializeToString()
    hold(server, held, stack, ask)
    calls = [infer.future(hurry, timeout=10) for _ in range(20)]
    time.sleep(0.1)  # they have come, and are read at once
    held.gate.set()
    server.until(lambda: len(slow.asked) >= 3)
    # The pace is known now.
    calls += [
        infer.future(hurry, timeout=10, compression=compression)
        for compression in [grpc.Compression.NoCompression, grpc.Compression.Gzip] * 10
    ]
    told = Counter(STATUSES[call.code()] for call in calls)

    assert told[200] == len(slow.asked)
    assert min(told[200], told[429], told[504]) > 0
    assert server.totals()[1].by_status == told
    assert server.totals()[0].by_status == {}
    late = next(call for call in calls if STATUSES[call.code()] == 504)
    assert "it waited for" in late.details()


def test_calls_that_wait_and_name_no_model_are_counted_under_none(
    serve, stack, ask, ask_grpc, grpc_client
):
    server, _, held = serve(run_s=0.02, deadline_s=0.1)
    infer = grpc_client(server).method("ModelInfer")
    hold(server, held, stack, ask)
    nobody = ask_grpc([1, 2])
    nobody.model_name = "nobody"
    calls = [
        infer.future(nobody.SerializeToString(), timeout=10),
        infer.future(b"\xff", timeout=10),
    ]
    time.sleep(0.1)  # they have come, and wait for the loop; nobody can look at it meanwhile
    held.gate.set()

    assert [call.code().name for call in calls] == ["NOT_FOUND", "INVALID_ARGUMENT"]
    assert server.totals()[0].by_status == {404: 1, 400: 1}
    assert server.totals()[1].by_status == {}
