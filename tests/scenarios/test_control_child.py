"""The control process dies, hangs or runs out of memory: predictions do not notice."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress

import httpx
import psutil
import pytest
from tests.pace import is_within, slowness_of_starts, until_soon
from tests.scenarios.commands import bascule
from tests.waiting import until

BACK_WITHIN_S = 3.0
JSON = "Content-Type: application/json\r\n"
INFER = "/v2/models/gb/infer"
HEAD = (
    b"POST /api/v1/server/services HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@contextmanager
def load(connect, port, body, header="", clients=3):
    """Clients that ask over and over; yields what they saw: statuses, and failures as texts."""
    tally, stop = Counter(), threading.Event()

    def ask():
        with connect(port) as client:
            while not stop.is_set():
                try:
                    tally[client.request("POST", INFER, body, header).answer().status] += 1
                except (OSError, AssertionError) as problem:
                    tally[repr(problem)] += 1
                    return
                stop.wait(0.01)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: tally[200] > 50)
        yield tally
        more = tally[200] + 50
        until(lambda: tally[200] > more or set(tally) != {200})
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)


def answers(connect, port, path):
    """Whether an API answers at all; connections wait while its process is replaced."""
    try:
        with connect(port) as client:
            return client.request("GET", path).answer().status > 0
    except (OSError, AssertionError):
        return False  # the connection was that of the process that has ended


def control_answers(connect, server):
    return answers(connect, server.control_port, "/docs")


def start_and_await_control(serve, connect, *arguments, **more):
    server = serve(*arguments, **more)
    until(lambda: control_answers(connect, server))
    return server


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def stop(pid):
    os.kill(pid, signal.SIGSTOP)


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize("harm", [kill, stop])
def test_no_request_fails_while_the_control_process_is_replaced(
    serve, connect, body, cancer_bundle, harm
):
    server = start_and_await_control(serve, connect, cancer_bundle, "--workers=2")
    workers, before = server.worker_pids(), server.control_pid()
    with load(connect, server.port, body) as tally:
        harm(before)
        harmed_s = time.monotonic()
        until(lambda: server.control_pid() not in (before, None))
        until(lambda: control_answers(connect, server))
        back_s = time.monotonic() - harmed_s
        slowness = slowness_of_starts()
    print(f"control back after {back_s:.2f} s, {tally}")  # noqa: T201
    assert set(tally) == {200}
    assert back_s <= BACK_WITHIN_S * slowness
    assert server.worker_pids() == workers


@pytest.mark.slow
@pytest.mark.serial
def test_a_control_process_out_of_memory_ends_and_the_next_one_answers(
    serve, connect, body, cancer_bundle
):
    """The limit is on the process alone: a cgroup of its own needs rights that tests have not."""
    server = start_and_await_control(serve, connect, cancer_bundle)
    before = server.control_pid()
    with load(connect, server.port, body) as tally, ExitStack() as clients:
        taken = psutil.Process(before).memory_info().vms
        resource.prlimit(before, resource.RLIMIT_AS, (taken, taken))

        def is_replaced():
            if server.control_pid() == before:  # one more body that has not come to its end
                client = clients.enter_context(connect(server.control_port))
                with suppress(OSError):
                    client.send(HEAD + b"x" * 900_000)
            return server.control_pid() not in (before, None)

        until(is_replaced, within_s=20)
        ended_s = time.monotonic()
        until(lambda: control_answers(connect, server))
        back_s = time.monotonic() - ended_s
        slowness = slowness_of_starts()
    print(f"control back after {back_s:.2f} s, {tally}")  # noqa: T201
    assert set(tally) == {200}
    assert back_s <= BACK_WITHIN_S * slowness


def likelihood_to_be_killed(pid):
    """How likely the kernel is to end this process where memory runs out."""
    with open(f"/proc/{pid}/oom_score_adj") as file:
        return int(file.read())


@pytest.mark.serial
def test_no_request_fails_and_keys_hold_and_are_revoked_across_deaths_of_the_control_process(
    serve, connect, body, cancer_bundle, home
):
    token = bascule(home, "keys", "create", "a", "--allow", "infer:*")["token"]
    header = f"Authorization: Bearer {token}\r\n"
    env = {"BASCULE_HOME": str(home), "BASCULE_SECURITY__CALLERS": "keys"}
    server = start_and_await_control(serve, connect, cancer_bundle, "--workers=2", env=env)
    workers = server.worker_pids()
    likelihood = likelihood_to_be_killed(server.control_pid())
    assert likelihood > max(map(likelihood_to_be_killed, [server.process.pid, *workers]))
    with load(connect, server.port, body, header) as tally:
        for harm in (kill, stop):
            before, harmed_s = server.control_pid(), time.monotonic()
            harm(before)
            until(lambda before=before: server.control_pid() not in (before, None))
            until(lambda: control_answers(connect, server))
            # One that stands still is noticed after a while.
            assert harm is stop or is_within(time.monotonic() - harmed_s, BACK_WITHIN_S)
    assert set(tally) == {200}
    assert server.worker_pids() == workers
    bascule(home, "keys", "revoke", "a")
    revoked_s = time.monotonic()

    def status():
        with connect(server.port) as client:
            return client.request("POST", INFER, body, header).answer().status

    until(lambda: status() == 401)
    assert is_within(time.monotonic() - revoked_s, 1.0)


@pytest.mark.slow
@pytest.mark.serial
def test_keys_outlive_a_control_process_that_dies_while_the_catalogue_is_away(
    serve, connect, body, cancer_bundle, home
):
    token = bascule(home, "keys", "create", "a", "--allow", "infer:*")["token"]
    header = f"Authorization: Bearer {token}\r\n"
    env = {"BASCULE_HOME": str(home), "BASCULE_SECURITY__CALLERS": "keys"}
    server = start_and_await_control(serve, connect, cancer_bundle, env=env)
    with load(connect, server.port, body, header) as tally:
        (home / "catalogue.db").rename(home / "away.db")
        before = server.control_pid()
        kill(before)
        until(lambda: server.control_pid() not in (before, None))
        until(lambda: control_answers(connect, server))
        quiet_until_s = time.monotonic() + 6  # longer than keys hold without a word
        until(lambda: time.monotonic() > quiet_until_s)
    assert set(tally) == {200}


@pytest.mark.slow
@pytest.mark.serial
def test_what_is_served_is_still_changed_by_the_next_control_process(
    serve, connect, cancer_bundle, body, tmp_path
):
    home = tmp_path / "home"
    bascule(home, "push", str(cancer_bundle))
    server = start_and_await_control(serve, connect, "gb", env={"BASCULE_HOME": str(home)})
    before = server.control_pid()
    kill(before)
    until(lambda: server.control_pid() not in (before, None))
    folder = str(cancer_bundle)
    with connect(server.control_port) as client:
        wish = {"reference": folder, "role": "swap"}
        answer = client.request("POST", "/api/v1/server/services", wish, JSON).answer()
    assert answer.status == 200, answer.body
    with connect(server.port) as client:
        assert client.request("POST", INFER, body).answer().status == 200


@contextmanager
def running(home, *words, **environ):
    """A command that announces itself as JSON, and what it announced."""
    env = {**os.environ, "BASCULE_HOME": str(home), **environ}
    with subprocess.Popen(
        [sys.executable, *map(str, words), "--json"],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        try:
            text = ""
            for line in process.stdout:
                text += line
                if line == "}\n":
                    break
            yield process, json.loads(text)
        finally:
            process.terminate()
            process.wait(20)


def port_of(url):
    return int(url.rsplit(":", 1)[1])


def test_up_serves_the_models_that_have_the_alias(
    connect, body, cancer_bundle, regressor_bundle, home
):
    for bundle in (cancer_bundle, regressor_bundle):
        bascule(home, "push", str(bundle))
    bascule(home, "alias", "gb/1", "champion")
    words = ("-m", "bascule.cli", "up", "--port=0", "--control-port=0")
    with running(home, *words) as (_, said):
        assert [(one["model"], one["version"]) for one in said["serving"]] == [("gb", "1")]
        with connect(port_of(said["predictions"])) as client:
            assert client.request("POST", INFER, body).answer().status == 200


@pytest.mark.slow
def test_up_without_an_alias_begins_with_no_model(connect, home):
    with running(home, "-m", "bascule.cli", "up", "--port=0", "--control-port=0") as (_, said):
        assert said["serving"] == []
        with connect(port_of(said["predictions"])) as client:
            assert client.request("GET", "/v2/health/live").answer().status == 200


def test_control_alone_tells_of_the_registry_and_of_no_server_and_ends_while_pages_are_open(
    connect, cancer_bundle, home
):
    bascule(home, "push", str(cancer_bundle))
    with running(home, "-m", "bascule.cli", "control", "--control-port=0") as (process, said):

        def ask(path, method="GET", sent=b"", header=""):
            with connect(port_of(said["control"])) as client:
                return client.request(method, path, sent, header).answer()

        assert ask("/health").json["ready"] is True
        assert [one["name"] for one in ask("/api/v1/models").json["items"]] == ["gb"]
        assert ask("/metrics").status == 200
        assert ask("/api/v1/server/services").json == {"items": [], "next": None}
        assert ask("/api/v1/server").status == 404
        answer = ask("/api/v1/server/services", "POST", {"reference": "gb"}, JSON)
        assert (answer.status, "no server runs beside" in answer.json["error"]) == (404, True)
        assert not psutil.Process(process.pid).children()
        with httpx.stream("GET", f"{said['control']}/changes", timeout=20) as page:
            assert page.headers["content-type"].startswith("text/event-stream")
            texts = page.iter_text()
            assert next(texts).startswith("retry: ")
            process.terminate()
            assert process.wait(20) == 0
            assert "".join(texts) == "", "the stream was ended, and not cut off"


@pytest.mark.serial
def test_control_alone_lets_in_by_keys_and_a_key_that_is_revoked_no_more(connect, home):
    token = bascule(home, "keys", "create", "a", "--allow", "read:*")["token"]
    header = f"Authorization: Bearer {token}\r\n"
    words = ("-m", "bascule.cli", "control", "--control-port=0")
    with running(home, *words, BASCULE_SECURITY__CALLERS="keys") as (_, said):

        def status(header):
            with connect(port_of(said["control"])) as client:
                return client.request("GET", "/api/v1/models", b"", header).answer().status

        assert (status(header), status("")) == (200, 401)
        bascule(home, "keys", "revoke", "a")
        until_soon(lambda: status(header) == 401, 1.0)


LISTING = """
import os, signal, sys
from pathlib import Path
def list_modules(*_):
    half = Path(os.environ["LISTED"] + ".half")
    half.write_text("\\n".join(sys.modules))
    half.rename(os.environ["LISTED"])
signal.signal(signal.SIGUSR1, list_modules)
from bascule.cli import main
main()
"""


def test_the_supervisor_loads_neither_http_nor_sql_nor_arrow(
    connect, cancer_bundle, home, tmp_path
):
    """Asked of the process itself, when it serves a registered version with keys."""
    bascule(home, "push", str(cancer_bundle))
    bascule(home, "keys", "create", "a", "--allow", "metrics")
    words = ("serve", "gb", "--port=0", "--control-port=0")
    keys = {"BASCULE_SECURITY__CALLERS": "keys", "BASCULE_MONITORING__LEDGER": "auto"}
    keys["LISTED"] = str(tmp_path / "modules")
    with running(home, "-c", LISTING, *words, **keys) as (process, said):
        until(lambda: answers(connect, port_of(said["control"]), "/docs"))
        process.send_signal(signal.SIGUSR1)
        until(lambda: (tmp_path / "modules").exists())
    modules = set((tmp_path / "modules").read_text().split())
    assert "bascule.serving.workers.supervisor" in modules
    heavy = {
        "sqlalchemy", "fastapi", "starlette", "uvicorn", "obstore", "sklearn", "onnxruntime",
        "pyarrow",
    }  # fmt: skip
    assert not heavy & modules
