"""The process that writes texts is killed, hangs or lacks memory: its callers learn so."""

from __future__ import annotations

import os
import signal
import threading

import psutil
import pytest
from tests.events import Events
from tests.language_models import asking
from tests.waiting import until

import bascule
from bascule.core import BasculeError

STREAM = "/v2/models/chat/infer_stream"
STORY = asking("Tell a long story.", max_tokens=400)
HELLO = asking("Say hello.", max_tokens=2)

pytestmark = pytest.mark.slow


def request(said):
    return {"inputs": [{"name": "request", "datatype": "BYTES", "shape": [1], "data": [said]}]}


def engine_of(server):
    """The process with the model."""
    for worker in server.worker_pids():
        for child in psutil.Process(worker).children():
            if any(part.endswith("programs/host.py") for part in child.cmdline()):
                return child
    return None


def texts(events):
    return [part["outputs"][0]["data"][0] for name, part in events if name == "message"]


@pytest.fixture(scope="module")
def server(start, chat):
    running = start(chat, env={"BASCULE_SERVING__DEADLINE_S": "4"})
    yield running
    running.process.stdout.close()
    running.end()


def ask(server, said=HELLO):
    with Events(server.port, STREAM, request(said)) as events:
        return [*events]


def test_a_killed_engine_ends_its_answer_with_an_error_and_the_waiting_one_is_answered(server):
    ask(server)
    waiting = []
    with Events(server.port, STREAM, request(STORY)) as events:
        first = next(events)
        other = threading.Thread(target=lambda: waiting.append(ask(server)))
        other.start()
        killed = engine_of(server)
        killed.send_signal(signal.SIGKILL)
        rest = [*events]
    assert first[0] == "message"
    (name, said) = rest[-1]
    assert name == "error"
    assert "ended" in str(said)
    other.join(30)
    assert waiting[0][-1][0] == "end"
    assert texts(waiting[0])
    assert ask(server)[-1][0] == "end"
    assert engine_of(server).pid != killed.pid


def test_a_hung_engine_is_replaced_and_its_caller_gets_the_timeout(server):
    ask(server)
    with Events(server.port, STREAM, request(STORY)) as events:
        next(events)
        stopped = engine_of(server)
        stopped.send_signal(signal.SIGSTOP)
        *_, (name, said) = events
    assert name == "error"
    assert "within" in str(said) or "in time" in str(said)
    until(lambda: not psutil.pid_exists(stopped.pid), 30)
    until(lambda: _is_answered(server), 30)


def _is_answered(server):
    with Events(server.port, STREAM, request(HELLO)) as events:
        return events.status == 200 and [*events][-1][0] == "end"


def test_an_engine_without_memory_fails_that_request_alone(serve, smollm2, tmp_path):
    greedy = (
        "{% if messages[0].content == 'all' %}{{ 'x' * 5000000000 }}{% endif %}"
        "{{ messages[0].content }}"
    )
    model = bascule.TextGeneration(
        smollm2, template=greedy, memory_bytes=1_500_000_000, context_tokens=256,
        defaults={"max_tokens": 2},
    )  # fmt: skip
    server = serve(bascule.pack(model, name="chat", to=tmp_path / "chat", measure=False).path)
    before = engine_of(server) or (until(lambda: _is_answered(server)) and engine_of(server))
    with Events(server.port, STREAM, request("all")) as events:
        assert events.status in (500, 503)
        assert "MemoryError" not in str(events.json())
    assert _is_answered(server)
    assert os.path.exists(f"/proc/{before.pid}")


def test_too_little_memory_to_load_is_told_when_the_model_is_packed(smollm2, tmp_path):
    model = bascule.TextGeneration(smollm2, memory_bytes=150_000_000)
    with pytest.raises(BasculeError, match="original"):
        bascule.pack(model, name="chat", to=tmp_path / "chat")
