"""What `Client` sends to a control API: paths, bodies, keys; read from the server that gets it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bascule_client import Client, Invalid
from bascule_client.errors import NotFound


@pytest.fixture
def asked():
    """A client, and the requests that its control API got; every answer is one empty page."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            seen.append((self.command, self.path, body, dict(self.headers)))
            status = 404 if self.path.endswith("absent") else 200
            content = json.dumps({"items": [], "next": None, "detail": "no such thing"}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        with Client("http://127.0.0.1:1", key="k", control_url=url) as client:
            yield client, seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("call", "method", "path", "body"),
    [
        (
            lambda c: [*c.list("GET /api/v1/endpoints")],
            "GET", "/api/v1/endpoints?limit=1000", None,
        ),
        (
            lambda c: [*c.list("GET /api/v1/rollouts", endpoint="late", state=None)],
            "GET", "/api/v1/rollouts?limit=1000&endpoint=late", None,
        ),
        (
            lambda c: c.do("GET /api/v1/endpoints/{endpoint}", endpoint="a/b"),
            "GET", "/api/v1/endpoints/a%2Fb", None,
        ),
        (
            lambda c: c.do("POST /api/v1/deployments", {"version": "late/2"}, user="ada"),
            "POST", "/api/v1/deployments", {"version": "late/2"},
        ),
        (
            lambda c: c.do(
                "DELETE /api/v1/endpoints/{endpoint}", user="ada", endpoint="late", reason="old"
            ),
            "DELETE", "/api/v1/endpoints/late?reason=old", None,
        ),
        (
            lambda c: c.do(
                "POST /api/v1/rollouts/{rollout}/{command}", {"reason": "errors"}, user="ada",
                rollout="late", command="abort",
            ),
            "POST", "/api/v1/rollouts/late/abort", {"reason": "errors"},
        ),
    ],
)  # fmt: skip
def test_a_call_is_one_documented_request(asked, call, method, path, body):
    client, seen = asked

    call(client.control)

    assert [one[:3] for one in seen] == [(method, path, body)]
    sent = seen[0][3]
    assert sent["Authorization"] == "Bearer k"
    assert ("Idempotency-Key" in sent) == ("Bascule-User" in sent) == (method != "GET")


def test_an_error_of_the_server_is_raised_as_its_kind(asked):
    client, _ = asked

    with pytest.raises(NotFound, match="no such thing"):
        client.control.do("GET /api/v1/rollouts/{rollout}", rollout="absent")


def test_without_an_address_the_control_api_is_beside_the_server():
    from bascule_client.addresses import parse_address
    from bascule_client.control import control_url_of

    def beside(url):
        return control_url_of(parse_address(url))

    assert beside("http://models:8080") == "http://models:8082"
    assert beside("https://models/front") == "https://models:8082"
    assert beside("http://[::1]:8080") == "http://[::1]:8082"
    with pytest.raises(Invalid, match="control_url"):
        beside("unix:/run/bascule.sock")
