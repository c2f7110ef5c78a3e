"""Reports that wait for a server, and the server that takes them."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from bascule.core import Unavailable
from bascule.edge import State
from bascule.edge.device import Counts
from bascule.edge.reporting import Outbox, send
from bascule.stats import WindowProfile

STATE = State(device="d-1")


def counts(requests=10, version="1", rows=0):
    """A report of requests of one row each; `rows` of them are sampled."""
    counted, window = Counts(), WindowProfile(rows=requests, profiled_rows=requests)
    for request in range(requests):
        counted.add(failed=request % 10 == 0)
    window.inputs.add({"x": np.arange(requests, dtype=float)})
    sample = {"share": 0.1, "rows": [[{"x": 1.0}, {"y": 2.0}]] * rows}
    return {
        "event": "counts", "counts": counted.take(), "bytes_received": 1,
        "running": {"version": version, "digest": version}, "profile": window.to_json(),
        **({"sample": sample} if rows else {}),
    }  # fmt: skip


def event(name="installed"):
    return {"event": name, "running": None, "bytes_received": 0}


def reports(folder):
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def requests_in(folder):
    return sum(report["counts"]["requests"] for report in reports(folder) if "counts" in report)


def size_of(folder):
    return sum(file.stat().st_size for file in folder.iterdir())


def test_months_of_counts_and_profiles_stay_in_the_budget_and_none_of_them_is_lost(tmp_path):
    """Ninety days of two reports a day, in the room of twenty."""
    outbox = Outbox(tmp_path, 60_000)
    outbox.add(STATE, event())
    for _ in range(180):
        outbox.add(STATE, counts(requests=100))
    assert size_of(tmp_path) <= 60_000
    kept = reports(tmp_path)
    assert kept[0]["event"] == "installed"
    assert requests_in(tmp_path) == 100 * 180
    assert sum(report["profile"]["rows"] for report in kept[1:]) == 100 * 180
    oldest = WindowProfile.from_json(kept[1]["profile"])
    assert oldest.rows == kept[1]["counts"]["requests"] > 10_000
    assert oldest.inputs.columns["x"].quantiles.quantile(0.5) == pytest.approx(49, abs=3)
    assert not any(report.get("dropped") for report in kept)


def test_rows_are_dropped_first_and_events_last_and_the_newest_report_says_how_many(tmp_path):
    outbox = Outbox(tmp_path, 20_000)
    outbox.add(STATE, event())
    outbox.add(STATE, counts(rows=200))
    for number in range(29):
        outbox.add(STATE, counts(version=str(number), rows=200))  # of versions none is merged
    kept = reports(tmp_path)
    assert size_of(tmp_path) <= 20_000
    assert len(kept) == 31
    assert requests_in(tmp_path) == 300
    assert not any("sample" in report for report in kept)
    with_profile = [report["sequence"] for report in kept if "profile" in report]
    assert with_profile == list(range(32 - len(with_profile), 32)) != []
    dropped = Counter()
    for report in kept:
        dropped.update(report.get("dropped"))
    assert dropped == {"sample": 30 * 200, "profile": 30 - len(with_profile)}

    Outbox(tmp_path, 3_000).add(STATE, event("returned"))
    assert size_of(tmp_path) <= 3_000
    kept = reports(tmp_path)
    assert [kept[0]["event"], kept[-1]["event"]] == ["installed", "returned"]
    assert kept[-1]["dropped"]["reports"] == 32 - len(kept)


def test_counts_of_two_versions_are_not_merged(tmp_path):
    outbox = Outbox(tmp_path, 4_000)
    for version in ("1", "2", "1", "2"):
        outbox.add(STATE, counts(version=version))
    assert all(report["counts"]["requests"] == 10 for report in reports(tmp_path))


def test_a_report_that_was_sent_once_is_sent_again_as_it_was(tmp_path):
    outbox = Outbox(tmp_path, 20_000)
    outbox.add(STATE, counts())
    state, first = outbox.batch(STATE)
    sent = first[0].read_bytes()
    for _ in range(50):
        outbox.add(state, counts())
    again, second = outbox.batch(state)
    assert (again, [file.read_bytes() for file in second]) == (state, [sent])


def test_no_number_is_used_twice_though_the_outbox_is_empty(tmp_path):
    outbox = Outbox(tmp_path, 10_000)
    state, _ = outbox.batch(replace(STATE, sequence=0))
    assert state == STATE
    first = outbox.add(STATE, event())
    state, _ = outbox.batch(STATE)
    state = replace(state, sequence=first)
    outbox.remove(state)
    assert outbox.add(state, event()) == first + 1
    assert outbox.add(replace(state, sequence=90), event()) == 91


def test_a_budget_that_is_too_small_for_two_reports_keeps_the_newest(tmp_path):
    outbox = Outbox(tmp_path, 10)
    for name in ("installed", "returned"):
        outbox.add(STATE, event(name))
    assert [report["event"] for report in reports(tmp_path)] == ["returned"]


class Server(ThreadingHTTPServer):
    """The server's side: keeps each number once, and answers the highest that it has."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.received, self.keys, self.status = {}, set(), 200
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        assert self.path == "/api/v1/edge/reports"
        self.server.keys.add(self.headers["Authorization"])
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for report in body["reports"]:
            self.server.received.setdefault(report["sequence"], report)
        reply = json.dumps({"sequence": max(self.server.received)}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_reports_reach_the_server_once_though_its_answers_are_lost(
    run, publisher, versions, server
):
    device = run(server=server.url, key="secret")
    server.status = 500
    device.serves(publisher.publish(versions[0], "late/1"))
    device.until(lambda: server.received)
    first = dict(server.received)
    for _ in range(3):
        device.device.predict(np.zeros((1, 4)))
    device.agent._count()
    for _ in range(4):
        device.turn(3.0)
    assert server.received == first

    server.status = 200
    folder = device.agent.home.outbox
    device.until(lambda: not list(folder.iterdir()))
    assert server.received.items() >= first.items()
    assert sorted(server.received) == [1, 2]
    installed, counted = (server.received[number] for number in (1, 2))
    assert (installed["device"], installed["event"]) == ("d-1", "installed")
    assert counted["counts"]["requests"] == 3
    received = [report["bytes_received"] for report in server.received.values()]
    assert sum(received) == _size(publisher.place_of(device.state.current))
    assert server.keys == {"Bearer secret"}


def test_reports_that_no_server_will_take_are_given_up_and_others_kept(server, tmp_path):
    outbox = Outbox(tmp_path, 10_000)
    numbers = [outbox.add(STATE, event()) for _ in range(3)]
    files = [str(file) for file in sorted(tmp_path.iterdir())]
    question = {"server": server.url, "key": "", "reports": files}
    server.status = 400
    assert send(question) == {"sequence": numbers[-1]}
    for server.status in (401, 429, 500):
        with pytest.raises(Unavailable, match="took no reports"):
            send(question)


def _size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
