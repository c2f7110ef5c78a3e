"""A server in front of OpenAI-compatible upstreams: breaker, fallback, callers that leave."""

from __future__ import annotations

import http.client
import json
import time
from contextlib import closing

import pytest
from tests.events import Events
from tests.language_models import asking
from tests.pace import is_within
from tests.upstreams import FINE, event, refusing, sending, upstream
from tests.waiting import until

import bascule
from bascule.bundle.generation import UPSTREAMS

BACKUP = sending(event("from the backup"), event("", "stop"))


@pytest.fixture(scope="module")
def first():
    with upstream() as served:
        served.behaviours = [FINE]
        yield served


@pytest.fixture(scope="module")
def second():
    with upstream() as served:
        served.behaviours = [BACKUP]
        yield served


@pytest.fixture(scope="module")
def server(start, first, second, tmp_path_factory):
    """Asks `first`, and after two failures in a row `second` for as long as the breaker is open."""
    folder = tmp_path_factory.mktemp("bundles")
    known = json.dumps({first.url: "", second.url: ""})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(UPSTREAMS, known)
        paths = [
            bascule.pack(
                bascule.TextGeneration(upstream=served.url, model="m"),
                name=name, to=folder / name, measure=False,
            ).path
            for name, served in (("chat", first), ("backup", second))
        ]  # fmt: skip
        patch.delenv(UPSTREAMS)
        policy = {"fallback": "backup", "breaker_failures": 2, "breaker_open_s": 1}
        running = start(
            *paths,
            env={
                "BASCULE_UPSTREAMS": known,
                "BASCULE_SERVING__MODELS": json.dumps({"chat": policy}),
            },
        )
    first.asked.clear()
    yield running
    running.process.stdout.close()
    running.end()


def request(said):
    return {"inputs": [{"name": "request", "datatype": "BYTES", "shape": [1], "data": [said]}]}


def texts(server, said="Hi"):
    with Events(server.port, "/v2/models/chat/infer_stream", request(said)) as events:
        parts = [*events]
    assert parts[-1][0] == "end", parts
    return [part["outputs"][0]["data"][0] for _, part in parts[:-1]]


def test_parts_come_as_the_upstream_sends_them(server, first):
    first.behaviours = [FINE]
    assert texts(server) == ["Hel", "lo", ""]


def test_the_fallback_answers_while_the_upstream_is_away_and_the_breaker_closes_again(
    server, first
):
    first.behaviours = [refusing(404)]
    assert [texts(server)[0] for _ in range(4)] == ["from the backup"] * 4
    asked = len(first.asked)
    assert texts(server)[0] == "from the backup"
    assert len(first.asked) == asked, "the breaker is open: the upstream is left alone"
    first.behaviours = [FINE]
    until(lambda: texts(server)[0] == "Hel", 20)


def test_a_stream_that_breaks_ends_with_an_error_and_no_second_answer(server, first):
    first.behaviours = [sending(event("Hel")), FINE]
    with Events(server.port, "/v2/models/chat/infer_stream", request("Hi")) as events:
        (_, part), (name, said) = [*events]
    assert part["outputs"][0]["data"] == ["Hel"]
    assert name == "error"
    assert "http://" not in str(said)
    first.behaviours = [FINE]
    texts(server)


def test_a_client_that_leaves_ends_the_upstreams_work(server, first):
    first.asked.clear()
    first.behaviours = [sending(*[event("x"), 0.01] * 3_000)]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    body = json.dumps(request(asking("Tell a story.")))
    connection.request("POST", "/v2/models/chat/infer_stream", body)
    connection.getresponse().read(200)
    began_s = time.monotonic()
    connection.sock.shutdown(2) if connection.sock else None
    connection.close()
    left_s = until(lambda: first.asked[0].left_s, 10)
    assert is_within(left_s - began_s, 0.4)
    first.behaviours = [FINE]


@pytest.mark.parametrize("why", ["its client leaves", "its time is over"])
def test_a_whole_answer_that_nobody_waits_for_ends_the_upstreams_work(server, first, why):
    first.asked.clear()
    first.behaviours = [sending(*(piece for _ in range(500) for piece in (event("more"), 0.05)))]
    headers = {} if why == "its client leaves" else {"X-Request-Timeout-Ms": "500"}
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as client:
        client.request("POST", "/v2/models/chat/infer", json.dumps(request("Hi")), headers)
        until(lambda: first.asked)
        if headers:
            assert client.getresponse().status == 504
    until(lambda: first.asked[0].left_s, 5)
    first.behaviours = [FINE]
    assert texts(server) == ["Hel", "lo", ""]
    assert len(first.asked) == 2
