"""Text models behind a real server: measured by arm, bounded in tokens, judged by their guards."""

from __future__ import annotations

import http.client
import json
import threading
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.scenarios.commands import run
from tests.waiting import until

import bascule
from bascule.core import NotFound
from bascule.monitoring.ledger import Ledger
from bascule.registry import open_registry

WAIT_S = 60.0
POLICY = {"output_checks": [{"pii": ["email"], "action": "redact"}]}


class Engine(BaseHTTPRequestHandler):
    """Writes what OpenAI-compatible engines write; below `/slow` it begins later."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(0.06 if self.path.startswith("/slow") else 0.01)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        events = [
            {"choices": [{"delta": {"content": text}}]} for text in ("Ask ada@", "a.org", " !")
        ]
        events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        events.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}})
        for event in events:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


@pytest.fixture
def chats(tmp_path, monkeypatch, serve):
    """A home with chat/1, and chat/2 whose engine begins later; and what starts its server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    addresses = [f"http://127.0.0.1:{server.server_port}/{speed}/v1" for speed in ("good", "slow")]
    upstreams = json.dumps(dict.fromkeys(addresses, ""))
    monkeypatch.setenv("UPSTREAMS_OF_BASCULE", upstreams)
    registry = open_registry(tmp_path / "home")
    for number, address in enumerate(addresses):
        model = bascule.TextGeneration(upstream=address, model="m")
        made = bascule.pack(model, name="chat", to=tmp_path / f"chat{number}", measure=False)
        registry.push(made.path, by="ada")
    monkeypatch.delenv("UPSTREAMS_OF_BASCULE")

    def start(policy, *words, **more):
        env = {
            "BASCULE_HOME": str(tmp_path / "home"), "BASCULE_UPSTREAMS": upstreams,
            "BASCULE_POLICIES": json.dumps({"chat": policy}),
        }  # fmt: skip
        return serve("chat/1", *words, env=env | more)

    yield tmp_path / "home", start
    server.shutdown()
    server.server_close()


def chat(port, **fields):
    body = {"model": "chat", "messages": [{"role": "user", "content": "Who?"}], **fields}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), answer.headers


@contextmanager
def traffic(server):
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            assert chat(server.port)[0] == 200

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
def test_a_text_model_that_begins_later_is_rolled_back_by_the_guards_of_text_models(chats):
    home, start = chats
    server = start(POLICY)

    def command(*words, or_code=0):
        port = str(server.control_port)
        code, out, errors = run(home, *words, "--json", BASCULE_SERVING__CONTROL_PORT=port)
        assert code in (0, or_code), errors or out
        return json.loads(out)

    with traffic(server):
        asked = "deploy", "chat/2", "--strategy", "canary", "--steps", "50,100", "--step-for", "1s"
        made = until(lambda: command(*asked, or_code=2).get("rollout"), 60.0)
        guards = [guard["name"] for guard in made["guards"]]
        assert guards == ["errors", "first_token", "tokens_per_s", "refusals"]
        ended = until(
            lambda: (now := command("rollout", "status", made["id"]))["ended_at"] and now, WAIT_S
        )
    assert ended["state"] == "aborted"
    assert "chat/2 is slower than chat/1 by more than first_token" in ended["latest"]["sentence"]
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    for line in ('bascule_arm_generations_total{endpoint="chat"', "bascule_text_checks_total{"):
        assert line in text
    assert chat(server.port)[1]["choices"][0]["message"]["content"] == "Ask [email] !"


def test_workers_share_a_budget_of_tokens_and_the_ledger_has_no_texts(chats):
    home, start = chats
    policy = POLICY | {"tokens_per_day": 100}
    server = start(policy, "--workers=2", BASCULE_MONITORING__LEDGER="on")
    answers = [chat(server.port, max_tokens=8) for _ in range(20)]
    statuses = [status for status, *_ in answers]
    assert statuses.count(200) * 8 <= 100
    assert statuses.count(200) >= 8
    assert set(statuses) == {200, 429}
    refused = next(answer for answer in answers if answer[0] == 429)
    assert "policies.chat.tokens_per_day" in refused[1]["error"]["message"]
    assert int(refused[2]["retry-after"]) > 0
    sql = 'SELECT "output.text.hash" t FROM predictions WHERE status = 200'

    def recorded():
        try:
            rows = Ledger(home).query(sql, model="chat")["t"].to_pylist()
        except NotFound:  # the first of them is not written yet
            return []
        return rows[7:] and rows

    hashes = until(recorded, 30.0)
    assert len(set(hashes)) == 1
    assert not any(b"[email]" in file.read_bytes() for file in home.rglob("*") if file.is_file())
