"""What a running server tells of itself: its log, the traces of its callers, and `bascule top`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.waiting import until

INFER = "/v2/models/gb/infer"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ROWS = np.random.default_rng(5).normal(size=(3, 30)) * 100 + 200
SECRET = 31_415.9265
ROWS[0, 0] = SECRET
BODY = {
    "inputs": [
        {"name": "input", "datatype": "FP64", "shape": [3, 30], "data": ROWS.ravel().tolist()}
    ]
}


class Collector:
    """A receiver of OTLP over HTTP, which reads what it is sent."""

    def __init__(self) -> None:
        self.spans = []
        self.services = set()
        collector = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self):
                data = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
                    named = {
                        one.key: one.value.string_value for one in resource.resource.attributes
                    }
                    collector.services.add(named["service.name"])
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self.address = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_spans_of_sampled_requests_reach_a_collector_in_their_callers_trace(
    serve, connect, cancer_bundle
):
    with Collector() as collector:
        server = serve(cancer_bundle, env={"BASCULE_SERVING__TRACE_ENDPOINT": collector.address})
        asked_ns = time.time_ns()
        with connect(server.port) as client:
            for flags in ("00", "01"):
                headers = f"traceparent: 00-{TRACE}-{PARENT}-{flags}\r\nX-Request-Id: r{flags}\r\n"
                body = {**BODY, "id": f"p{flags}"}
                assert client.request("POST", INFER, body, headers).answer().status == 200
            assert client.request("POST", INFER, BODY).answer().status == 200
        until(lambda: collector.spans)
        (span,) = collector.spans
        with connect(server.port) as client:
            header = f"traceparent: 00-{TRACE}-{PARENT}-01\r\n"
            assert client.request("POST", INFER, BODY, header).answer().status == 200
        assert server.end() == 0
        assert len(collector.spans) == 2, "one that was not sent yet is sent when the server stops"
    attributes = {one.key: one.value.string_value or one.value.int_value for one in span.attributes}
    assert collector.services == {"bascule"}
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.name == "infer gb"
    assert attributes.pop("bascule.version")
    assert attributes == {
        "bascule.model": "gb", "bascule.rows": 3, "bascule.request_id": "r01",
        "bascule.prediction_id": "p01",
        "http.response.status_code": 200,
    }  # fmt: skip
    assert asked_ns - 10**6 < span.start_time_unix_nano < span.end_time_unix_nano < time.time_ns()


@pytest.mark.slow
@pytest.mark.serial
def test_a_collector_that_is_away_costs_no_answer_and_no_time_to_stop(
    serve, connect, cancer_bundle
):
    server = serve(cancer_bundle, env={"BASCULE_SERVING__TRACE_ENDPOINT": "http://127.0.0.1:9/"})
    with connect(server.port) as client:
        for _ in range(50):
            header = f"traceparent: 00-{TRACE}-{PARENT}-01\r\n"
            assert client.request("POST", INFER, BODY, header).answer().status == 200
    started_s = time.monotonic()
    assert server.end() == 0
    assert time.monotonic() - started_s < 8


def test_a_log_for_programs_is_json_in_every_line_and_holds_no_input(
    serve, connect, cancer_bundle, tmp_path
):
    file = tmp_path / "log"
    with file.open("w") as errors:
        server = serve(
            cancer_bundle,
            "--workers=2",
            env={"BASCULE_SERVING__LOG": "json", "BASCULE_SERVING__ACCESS_LOG": "true"},
            errors=errors,
        )
        for number in range(40):
            with connect(server.port) as client:
                header = f"X-Request-Id: number-{number}\r\n"
                assert client.request("POST", INFER, BODY, header).answer().status == 200
        until(lambda: file.read_text().count('"request_id"') == 40)
        killed = server.worker_pids()[0]
        os.kill(killed, signal.SIGKILL)
        until(lambda: f"process {killed}" in file.read_text())
        until(lambda: len(server.worker_pids()) == 2 and killed not in server.worker_pids())
        assert server.end() == 0
    text = file.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    asked = [line for line in lines if line["event"] == "request"]
    assert {line["request_id"] for line in asked} == {f"number-{n}" for n in range(40)}
    assert {line["worker"] for line in asked} == {0, 1}
    assert {(line["model"], line["status"], line["rows"]) for line in asked} == {("gb", 200, 3)}
    assert any(line["level"] == "warning" and str(killed) in line["event"] for line in lines)
    assert str(SECRET) not in text


def test_by_default_only_failures_are_told(serve, connect, cancer_bundle, tmp_path):
    file = tmp_path / "log"
    with file.open("w") as errors:
        server = serve(cancer_bundle, errors=errors)
        with connect(server.port) as client:
            assert client.request("POST", INFER, BODY).answer().status == 200
            assert client.request("POST", INFER, b"{").answer().status == 400
        assert server.end() == 0
    assert "request" not in file.read_text()


# -- bascule top --


def top(server, *arguments, **variables):
    return subprocess.run(
        [
            sys.executable, "-m", "bascule.cli", "top", f"--control-port={server.control_port}",
            *arguments,
        ],
        capture_output=True, text=True, timeout=60, env={**os.environ, **variables},
    )  # fmt: skip


@pytest.mark.slow
def test_top_tells_what_clients_saw_and_where_it_was_done(serve, connect, cancer_bundle):
    server = serve(cancer_bundle, "--workers=2")
    stopping = threading.Event()
    asked = 0

    def ask_on():
        nonlocal asked
        while not stopping.is_set():
            with connect(server.port) as client:
                for _ in range(20):
                    assert client.request("POST", INFER, BODY).answer().status == 200
                    asked += 1
                assert client.request("POST", INFER, b"{").answer().status == 400
                asked += 1

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        before = asked
        done = top(server, "--once", "--json", "--every=1")
        after = asked
    finally:
        stopping.set()
        asking.join()
    assert done.returncode == 0, done.stderr
    load = json.loads(done.stdout)
    (version,) = load["versions"]
    assert version["model"] == "gb"
    assert 0 < version["requests_per_s"] * load["over_s"] <= after - before
    assert version["rows_per_s"] == pytest.approx(
        3 * (version["requests_per_s"] - version["errors_per_s"]), rel=0.02
    )
    assert version["errors_per_s"] == pytest.approx(version["requests_per_s"] / 21, rel=0.2)
    assert 0 < version["p50_s"] <= version["p99_s"] < 1
    assert [worker["pid"] for worker in load["workers"]] == server.worker_pids()
    for worker in load["workers"]:
        assert worker["alive"]
        assert 0 < worker["models_bytes"] < worker["rss_bytes"]
    assert sum(worker["cpu_percent"] for worker in load["workers"]) > 0
    assert "gb/" in top(server, "--once", "--every=0.1").stdout


@pytest.mark.slow
def test_top_shows_its_key_where_callers_need_one(serve, cancer_bundle, tmp_path):
    home = {"BASCULE_HOME": str(tmp_path / "home")}
    made = subprocess.run(
        [
            sys.executable, "-m", "bascule.cli", "keys", "create", "ops", "--allow", "read:*",
            "--json",
        ],
        capture_output=True, text=True, check=True, env={**os.environ, **home},
    )  # fmt: skip
    key = json.loads(made.stdout)["token"]
    server = serve(cancer_bundle, env={**home, "BASCULE_SECURITY__CALLERS": "keys"})
    arguments = ("--once", "--json", "--every=0.1")
    refused = top(server, *arguments)
    assert (refused.returncode, json.loads(refused.stdout)["kind"]) == (1, "Unauthenticated")
    assert top(server, *arguments, f"--key={key}").returncode == 0
    assert top(server, *arguments, BASCULE_KEY=key).returncode == 0


def test_top_says_where_it_looked_when_there_is_no_server():
    done = subprocess.run(
        [sys.executable, "-m", "bascule.cli", "top", "--once", "--control-port=9"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "no server's control API answers at 127.0.0.1:9" in done.stderr
