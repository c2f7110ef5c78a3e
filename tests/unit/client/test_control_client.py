"""What a client of the control API sends again, and how it tells of errors."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import NamedTuple

import pytest
from tests.receivers import answered_by, behind_a_prefix, dripping

from bascule.control.api.problems import problem_of
from bascule.core import KINDS, Invalid, NotFound, Overloaded, Unavailable
from bascule_client.control import ControlClient, placed


class Slow(NamedTuple):
    """A body of an answer that is sent in pieces, over some seconds."""

    pieces: list[bytes]
    seconds: float


@contextmanager
def answering(*answers):
    """A client of a server that gives one answer after the other; None ends the connection."""
    left, seen = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self):
            self.raw_requestline = self.rfile.readline()
            if not self.raw_requestline or not self.parse_request():
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append((self.command, self.path, dict(self.headers), body))
            answer, self.close_connection = left.pop(0), True
            if answer is not None:
                status, content = answer
                self.send_response(status)
                pieces, seconds = content if isinstance(content, Slow) else ([content], 0.0)
                self.send_header("Content-Length", str(sum(map(len, pieces))))
                self.end_headers()
                for piece in pieces:
                    time.sleep(seconds / len(pieces))
                    self.wfile.write(piece)

        def log_message(self, *_):
            pass

    with answered_by(Handler) as port:
        yield ControlClient(f"http://127.0.0.1:{port}", key="k"), seen


def said(value, status=200):
    return status, json.dumps(value).encode()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_of_the_server_is_raised_as_its_own_kind(kind):
    problem = problem_of(kind("no", hint="do this"), "/api/v1/models")
    answer = problem.status_code, problem.body
    with answering(answer) as (client, _), pytest.raises(kind) as raised:
        client.do("GET /api/v1/models")
    assert type(raised.value) is kind
    assert raised.value.message == "no"
    if kind.__name__ != "Unauthenticated":  # its hint is about the client's own key
        assert raised.value.hint == "do this"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((404, b"<html>"), NotFound),
        ((429, b"[]"), Overloaded),
        ((502, b""), Unavailable),
        ((418, b'{"type": 7}'), Invalid),
    ],
)
def test_an_answer_that_is_no_problem_document_is_told_by_its_status(answer, kind):
    told = f"the answer has status {answer[0]}"
    with answering(answer) as (client, _), pytest.raises(kind, match=told):
        client.do("GET /api/v1/models")


def test_a_change_whose_answer_is_lost_is_sent_again_with_the_same_key():
    with answering(None, said({"done": True})) as (client, seen):
        assert client.do("PUT /api/v1/x", {"a": 1}, user="ada è") == {"done": True}
    first, second = seen
    assert first[2]["Idempotency-Key"] == second[2]["Idempotency-Key"]
    assert first[3] == second[3] == b'{"a": 1}'
    assert first[2]["Bascule-User"] == "ada%20%C3%A8"
    assert first[2]["Authorization"] == "Bearer k"


def test_two_changes_have_two_keys():
    with answering(said(1), said(2)) as (client, seen):
        client.do("PUT /api/v1/x")
        client.do("PUT /api/v1/x")
    assert len({one[2]["Idempotency-Key"] for one in seen}) == 2


def test_a_server_that_is_lost_twice_is_unavailable():
    told = "no server's control API answers at 127"
    with answering(None, None) as (client, seen), pytest.raises(Unavailable, match=told):
        client.do("GET /api/v1/models")
    assert len(seen) == 2


def test_an_upload_whose_answer_is_lost_is_sent_again_from_its_start(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100_000)
    with answering(None, said({})) as (client, seen):
        client.upload("/api/v1/x", file)
    assert [len(body) for *_, body in seen] == [100_000, 100_000]


@pytest.mark.parametrize("drip", ["continue", "status", "header", "body", "chunk", "refusal"])
def test_a_server_that_never_finishes_its_answer_is_left_at_the_deadline(drip):
    with dripping(drip) as port:
        client = ControlClient(f"http://127.0.0.1:{port}", timeout_s=0.4)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            client.do("POST /api/v1/x", {})
    assert time.monotonic() - began < 2


def test_a_long_file_may_take_longer_than_the_timeout_while_it_comes(tmp_path):
    """The deadline is renewed by each 64 kB, and by nothing less."""
    with answering((200, Slow([b"x" * 100_000] * 10, seconds=1.0))) as (client, _):
        client._timeout_s = 0.3
        client.download("/api/v1/x", tmp_path / "file")
    assert (tmp_path / "file").stat().st_size == 1_000_000


@pytest.mark.parametrize("end", ["", "/"])
def test_a_server_behind_the_prefix_of_a_proxy_is_asked_for_its_own_paths(tmp_path, end):
    (tmp_path / "file").write_bytes(b"x")
    with (
        answering(said(1), said(2), said(3), (200, b"4")) as (direct, seen),
        behind_a_prefix(direct._address.port, "/ml/models") as url,
    ):
        client = ControlClient(url + end)
        assert client.do("PUT /api/v1/a%20b", {}, tag="x y") == 1
        assert client.upload("/api/v1/file", tmp_path / "file") == 2
        assert (
            client.send("/api/v1/rows", b"x", {"Content-Type": "text/csv"}, query={"limit": 1}) == 3
        )
        client.download("/api/v1/file", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"4"
    assert [path for _, path, *_ in seen] == [
        "/api/v1/a%20b?tag=x+y",
        "/api/v1/file",
        "/api/v1/rows?limit=1",
        "/api/v1/file",
    ]


def test_a_list_is_read_to_its_last_page():
    pages = said({"items": [1, 2], "next": "c"}), said({"items": [3], "next": None})
    with answering(*pages) as (client, seen):
        assert list(client.list("GET /api/v1/models", kind="a b", none=None)) == [1, 2, 3]
    assert [path for _, path, *_ in seen] == [
        "/api/v1/models?limit=1000&kind=a+b",
        "/api/v1/models?limit=1000&kind=a+b&cursor=c",
    ]


def test_names_in_a_path_are_quoted():
    names = {"model": "a/b c", "number": 3, "days": 7}
    path, others = placed("/api/v1/models/{model}/{number}", names)
    assert (path, others) == ("/api/v1/models/a%2Fb%20c/3", {"days": 7})


@pytest.mark.parametrize("url", ["nonsense", "unix:/run/bascule.sock", "http://ada@host"])
def test_an_address_that_cannot_be_one_is_refused(url):
    with pytest.raises(Invalid):
        ControlClient(url)
