from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import pytest
from tests.waiting import until

from bascule.core.errors import Conflict, Invalid, NotFound, Unavailable
from bascule.endpoints import Arm, Plan
from bascule.serving import Limits, ModelSpec
from bascule.serving.execution import ResiliencePolicy
from bascule.serving.protocols.chosen import ChosenProtocols
from bascule.serving.telemetry import RequestLogConfig
from bascule.serving.transports import Tls
from bascule.serving.workers import Addresses, bind
from bascule.serving.workers.config import LedgerConfig, ServingConfig, WorkerConfig
from bascule.serving.workers.sockets import _take_no_more
from bascule.serving.workers.supervised import (
    _STOPPED_LOOKS,
    Command,
    Heartbeat,
    Supervised,
    _activity_of,
    keep_alive,
)
from bascule.serving.workers.supervisor import Supervisor

ANYWHERE = Addresses("127.0.0.1", 0)


def close(listeners):
    for listener in listeners:
        listener.close()


def test_all_listeners_have_one_port():
    listeners = bind("127.0.0.1", 0, 3)
    assert len({listener.getsockname()[1] for listener in listeners}) == 1
    close(listeners)


def test_a_port_is_not_shared_though_the_other_would_share_it():
    first = bind("127.0.0.1", 0, 1)
    port = first[0].getsockname()[1]
    with pytest.raises(Conflict) as refused:
        bind("127.0.0.1", port, 1)
    assert refused.value.message == f"port {port} on 127.0.0.1 is in use"
    assert refused.value.facts == {"port": port}
    close(first)
    close(bind("127.0.0.1", port, 1))


def test_no_client_is_let_in_while_it_is_looked_whether_a_port_is_free(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    attempts, plain = [], socket.socket

    class Looking(socket.socket):
        def close(self):
            if not attempts:
                with plain() as client:
                    attempts.append(client.connect_ex(address))
            super().close()

    monkeypatch.setattr(socket, "socket", Looking)
    close(bind(*address, 1))
    assert attempts == [errno.ECONNREFUSED]


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.1"])
def test_an_address_that_cannot_be_bound_is_said(host):
    with pytest.raises(Invalid, match=host):
        bind(host, 0, 1)


def test_who_has_connected_is_kept_and_who_comes_later_is_not_let_in():
    (listener,) = bind("127.0.0.1", 0, 1)
    address = listener.getsockname()
    with socket.create_connection(address, timeout=5) as early:
        early.sendall(b"hello")
        _take_no_more(listener)
        with socket.socket() as late:
            late.settimeout(0.1)
            assert late.connect_ex(address) != 0
        accepted, _ = listener.accept()
        accepted.setblocking(True)
        accepted.sendall(accepted.recv(5))
        assert early.recv(5) == b"hello"
        accepted.close()
    listener.close()


def test_every_field_that_a_worker_is_told_arrives_as_it_was_meant(tmp_path):
    serving = ServingConfig(
        limits=Limits(deadline_s=3, batching="never", max_body_bytes=1 << 30),
        tls=Tls(tmp_path / "certificate.pem", tmp_path / "key.pem", tmp_path / "authority.pem"),
        protocols=ChosenProtocols(("oip", "vertex"), "/health", "/predict"),
        policies={"m": {"resilience": ResiliencePolicy(timeout_s=0.5, fallback="other/2")}},
        request_log=RequestLogConfig("json", access_log=True, trace_endpoint="http://c/v1/traces"),
        allowed_hosts=("models.example", "*.example"),
        ledger=LedgerConfig(
            tmp_path / "ledger", keep=0.5, private={"m.name": "omit"}, is_anonymous=True
        ),
        outcomes_home=tmp_path / "home",
    )
    config = WorkerConfig(
        worker=1,
        workers=2,
        listener_fd=7,
        counters=tmp_path / "counters",
        serving=serving,
        services=(ModelSpec("m", "1", tmp_path),),
        keys=tmp_path / "keys",
        unix_fd=8,
        grpc_fd=9,
        multi_model=True,
        control_port=9,
        meters=tmp_path / "meters",
        plans=(Plan("m", 1, (Arm("current", "m/1", 100.0),), slower_than_s=(0.5,)),),
    )
    for told in (config, serving):
        for one in fields(told):
            assert getattr(told, one.name) != one.default, f"{one.name} is not told here"

    assert WorkerConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_field_that_is_not_told_has_its_default(tmp_path):
    plain = WorkerConfig(0, 1, 3, tmp_path, ServingConfig(Limits()))
    told = plain.to_json()
    del told["grpc_fd"], told["serving"]["policies"], told["serving"]["request_log"]
    assert WorkerConfig.from_json(told) == plain


def test_a_supervisor_whose_worker_cannot_load_says_why_and_leaves_nothing(tmp_path):
    supervisor = Supervisor(ANYWHERE, ServingConfig(Limits()), workers=2)
    with pytest.raises(NotFound, match="no bundle at"):
        supervisor.start([ModelSpec("m", "1", tmp_path / "nowhere")])
    assert not any(status.alive for status in supervisor.statuses())
    supervisor.stop()
    close(bind("127.0.0.1", supervisor.port, 1))


def test_a_worker_needs_none_of_the_heavy_packages():
    heavy = ["sklearn", "skl2onnx", "skops", "onnx", "pandas", "pyarrow", "sqlalchemy", "fastapi"]
    heavy += ["typer", "rich", "pydantic", "uvicorn"]
    code = (
        "import bascule.serving.workers.worker, sys; "
        f"print(sorted(set(sys.modules) & set({heavy})))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("find", "kind", "message"),
    [
        (lambda name, folder: ModelSpec(name, "1", folder), Unavailable, "the server stops"),
        (None, Invalid, "callers may not change what is served"),
    ],
)
def test_a_load_request_that_cannot_be_carried_out_is_refused(find, kind, message, tmp_path):
    supervisor = Supervisor(ANYWHERE, ServingConfig(Limits()), workers=1, find=find)
    if find is not None:
        supervisor.stop()
    with pytest.raises(kind, match=message):
        supervisor._answer_worker("load", {"model": "late", "place": str(tmp_path)})
    supervisor.stop()


@pytest.fixture
def silent():
    """`silent(heartbeat)`: a process that waits for its end, kept by a beat that a test moves."""
    spawning, processes = ThreadPoolExecutor(1), []

    def start(code="import time; time.sleep(600)", state="S", **times):
        beat, kills = [5], []
        heartbeat = Heartbeat(lambda: beat[0], on_silent=lambda: kills.append(1), **times)
        command = Command([sys.executable, "-c", code])
        process = Supervised(lambda: command, "worker 0", spawning, heartbeat=heartbeat)
        processes.append(process)
        process.start()
        until(lambda: _activity_of(process.pid)[0] == state)
        return process, beat, kills

    yield start
    for process in processes:
        process.terminate()
        process.wait(10)
    spawning.shutdown()


def test_a_process_is_killed_once_its_beat_has_stayed_the_same_for_too_long(silent, caplog):
    process, beat, kills = silent(silent_s=2.0, first_s=60.0)
    for watched_s in (0.0, 50.0, 60.0):  # it has not beaten yet
        process.look_after(watched_s)
    beat[0] = 6
    process.look_after(60.0)
    process.look_after(62.0)
    beat[0] = 7
    for watched_s in (62.1, 64.1):
        process.look_after(watched_s)
    assert kills == []
    process.look_after(64.2)
    assert kills == [1]
    assert f"worker 0 (process {process.pid}) stood still for 2 s and is killed" in caplog.text
    until(lambda: not process.runs)


def test_a_process_is_not_silent_while_it_waits_for_a_processor(silent):
    """On a machine with more to do than it has processors for."""
    process, _, kills = silent("while True: pass", "R", silent_s=0.3, first_s=0.3)

    def had_s():
        return _activity_of(process.pid)[1]

    before_s = had_s()
    for watched_s in (0.0, 10.0, 20.0):  # within milliseconds, in which it cannot have had so much
        process.look_after(watched_s)
    assert had_s() - before_s > 0.3 or kills == []
    until(lambda: had_s() - before_s > 0.4)
    process.look_after(30.0)
    assert kills == [1]


def test_a_process_that_never_beats_is_killed_after_its_first_time(silent):
    process, _, kills = silent(silent_s=2.0, first_s=60.0)
    for watched_s in (10.0, 70.0):
        process.look_after(watched_s)
    assert kills == []
    process.look_after(70.1)
    assert kills == [1]


def test_a_process_that_has_died_is_replaced_and_its_successor_has_the_first_time_again(silent):
    process, beat, kills = silent(silent_s=2.0, first_s=60.0)
    first = process.pid
    process.look_after(0.0)
    beat[0] = 6
    process.look_after(1.0)
    process.terminate()
    until(lambda: not process.runs)
    process.look_after(1.0)  # notes the end
    process.look_after(1.0)
    assert (process.restarts, process.runs, process.pid == first) == (1, True, False)
    for watched_s in (1.0, 50.0):
        process.look_after(watched_s)
    assert kills == []


ANSWERING = """
import json, socket, sys
end = socket.socket(fileno=int(sys.argv[2]))
question = json.load(sys.stdin)
for line in end.makefile():
    message = json.loads(line)
    reply = {"answer": message["ask"], "value": [question, message["what"]]}
    end.sendall(json.dumps(reply).encode() + b"\\n")
"""


def test_a_process_reads_its_question_and_is_asked_and_so_is_its_successor():
    spawning, asked = ThreadPoolExecutor(1), itertools.count(1)

    def command():
        return Command([sys.executable, "-c", ANSWERING], question={"start": next(asked)})

    process = Supervised(command, "it", spawning, answer=lambda what, arguments: None)
    with pytest.raises(Unavailable, match="it is not started"):
        process.ask("ready", 1)
    process.start()
    assert process.ask("ready", 20) == [{"start": 1}, "ready"]
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: not process.runs)
    with pytest.raises(Unavailable, match="it has ended"):
        process.ask("ready", 20)
    for _ in range(2):  # notes the end, then starts
        process.look_after(0.0)
    assert process.ask("models", 20) == [{"start": 2}, "models"]
    process.wait(0.1)
    spawning.shutdown()


def test_a_process_that_does_not_end_is_killed(caplog):
    spawning = ThreadPoolExecutor(1)
    code = "import signal, time; signal.pause()"
    blocked = frozenset({signal.SIGTERM})
    command = Command([sys.executable, "-c", code], blocked=blocked)
    process = Supervised(lambda: command, "the scribe", spawning)
    process.start()
    process.terminate()
    process.wait(0.1)
    assert not process.runs
    assert f"the scribe (process {process.pid}) did not end in time and is killed" in caplog.text
    process.terminate()  # twice is fine
    process.wait(0.1)
    spawning.shutdown()


def test_no_failure_ends_the_thread_that_looks_after_processes(caplog):
    stopping = threading.Event()
    looked = []

    class Failing(Supervised):
        def look_after(self, watched_s):
            looked.append(watched_s)
            if len(looked) == 3:
                stopping.set()
            raise OSError(24, "too many open files")

    keep_alive([Failing(lambda: Command([]), "worker 0", None)], stopping)
    assert len(looked) == 3
    assert caplog.text.count("worker 0 cannot be looked after") == 3


class Loading:
    """What asks a worker whose loads take `takes_s`."""

    def __init__(self, takes_s):
        self.takes_s = takes_s
        self.questions = []

    def begin(self, what, **arguments):
        self.questions.append(what)

    def result(self, answer, within_s):
        if self.questions[-1] == "prepare":
            time.sleep(self.takes_s)


@pytest.fixture
def loading(tmp_path, monkeypatch):
    """`loading(takes_s)`: a supervisor, its only worker, and a change."""
    made = []

    def make(takes_s):
        supervisor = Supervisor(ANYWHERE, ServingConfig(Limits()), workers=1)
        made.append(supervisor)
        (worker,) = supervisor._workers
        worker.peer = Loading(takes_s)
        monkeypatch.setattr(worker, "running", lambda: worker.peer)
        spec = ModelSpec("gb", "1", tmp_path).to_json()

        def change(turn_by_s):
            said = {"before": [], "after": [spec], "turn_by_s": turn_by_s}
            said |= {"plans_before": [], "plans_after": []}
            return supervisor._answer_control("replace", said)

        return supervisor, worker.peer, change

    yield make
    for supervisor in made:
        supervisor._workers[0].peer = None
        supervisor.stop()


def test_a_change_is_made_before_the_time_that_it_is_given(loading):
    supervisor, worker, change = loading(takes_s=0.0)
    assert change(time.monotonic() + 10) is True
    assert worker.questions == ["prepare", "commit"]
    assert [spec.model for spec in supervisor.services] == ["gb"]


def test_a_change_is_shown_to_callers_once_every_worker_has_turned_to_it(loading):
    """A caller that saw the new plan would be answered by the old one."""
    supervisor, worker, change = loading(takes_s=0.0)
    shown = []

    def result(answer, within_s):
        shown.append(len(supervisor._answer_control("services", {})))

    worker.result = result
    change(time.monotonic() + 10)
    shown.append(len(supervisor._answer_control("services", {})))
    assert worker.questions == ["prepare", "commit"]
    assert shown == [0, 0, 1]


def test_a_change_whose_time_is_over_once_it_is_loaded_is_not_made(loading):
    """Its caller was answered that it failed."""
    supervisor, worker, change = loading(takes_s=0.2)
    with pytest.raises(Unavailable, match="not be made in time, and nothing was changed"):
        change(time.monotonic() + 0.1)
    assert worker.questions == ["prepare", "abandon"]
    assert supervisor.services == ()


def test_a_change_that_waited_too_long_for_another_one_is_not_begun(loading):
    supervisor, worker, change = loading(takes_s=0.0)
    refused = []

    def late():
        with pytest.raises(Unavailable, match="not be made in time"):
            change(turn_by_s)
        refused.append(True)

    with supervisor._changing:
        turn_by_s = time.monotonic() + 0.1
        waiting = threading.Thread(target=late)
        waiting.start()
        while time.monotonic() <= turn_by_s:
            time.sleep(0.01)
    waiting.join(10)
    assert refused
    assert worker.questions == []


def test_a_process_that_a_signal_has_stopped_is_known_from_one_that_works_or_waits():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert _activity_of(process.pid)[0] != "T"
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert _activity_of(process.pid)[0] == "T"
        process.send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, process.pid, os.WCONTINUED)
        assert _activity_of(process.pid)[0] != "T"
        process.kill()
    assert _activity_of(process.pid) == ("", 0.0)


def test_a_stopped_process_is_killed_when_enough_looks_in_a_row_have_found_it_so(
    silent, monkeypatch
):
    process, _, kills = silent(silent_s=10.0, first_s=10.0)
    state = "T"
    monkeypatch.setattr("bascule.serving.workers.supervised._activity_of", lambda _: (state, 0.0))

    def looks(times):
        # The time passes by as much as it may; a suspended server makes no looks.
        for _ in range(times):
            process.look_after(0.0)

    looks(1)  # the first sees the beat
    looks(_STOPPED_LOOKS - 1)
    state = "S"
    looks(1)
    state = "T"
    looks(_STOPPED_LOOKS - 1)
    assert kills == []
    looks(1)
    assert kills == [1]
