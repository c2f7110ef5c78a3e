from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
import time
import tracemalloc
from contextlib import ExitStack
from dataclasses import replace

import pytest

from bascule.serving.limits import Limits
from bascule.serving.transports.sites import LoopClock, unacknowledged_bytes

GET = b"GET /here HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture
def waiting():
    """The exchanges that `/later` was asked and has not answered."""
    return []


@pytest.fixture
def gone():
    """The bodies of the exchanges whose clients went away."""
    return []


@pytest.fixture
def serve(serve_routes, waiting, gone):
    def later(exchange):
        body = exchange.body
        exchange.on_gone = lambda: gone.append(body)
        waiting.append(exchange)

    def bug(exchange):
        raise KeyError("secret")

    def here(exchange):
        exchange.answer(b'{"here":true}')

    def started(**limits):
        return serve_routes(
            {
                b"/here": {b"GET": here},
                b"/echo": {b"POST": lambda exchange: exchange.answer(exchange.body)},
                b"/big": {b"GET": lambda exchange: exchange.answer(b" " * (32 << 20))},
                b"/later": {b"POST": later},
                b"/bug": {b"GET": bug},
            },
            **limits,
        )

    return started


@pytest.fixture
def server(serve):
    return serve()


def is_refused(client, status):
    """The refusal can be read to its end, says so in the one shape, and ends the connection."""
    answer = client.answer()
    assert answer.status == status
    assert list(answer.json) == ["error"]
    assert answer.headers["connection"] == "close"
    assert client.is_ended()
    return answer.json["error"]


# -- connections that are kept, and ended --


def test_a_connection_is_kept_for_the_next_request(server):
    with server.client() as client:
        for _ in range(3):
            answer = client.send(GET).answer()
            assert (answer.status, answer.json) == (200, {"here": True})
            assert "connection" not in answer.headers


def test_a_client_that_asks_for_the_end_gets_it_with_its_answer(server):
    with server.client() as client:
        answer = client.request("GET", "/here", headers="Connection: close\r\n").answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert client.is_ended()


def test_http_1_0_ends_after_one_answer_unless_asked_to_stay(server):
    with server.client() as client:
        assert client.send(b"GET /here HTTP/1.0\r\n\r\n").answer().headers["connection"] == "close"
        assert client.is_ended()
    with server.client() as client:
        for _ in range(2):
            client.send(b"GET /here HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert client.answer().headers["connection"] == "keep-alive"


def test_a_head_request_is_told_the_length_and_sent_no_body(server):
    with server.client() as client:
        answer = client.send(GET.replace(b"GET", b"HEAD")).answer(to_head=True)
        assert (answer.status, answer.headers["content-length"]) == (200, "13")
        assert client.send(GET).answer().body == b'{"here":true}'


def test_every_answer_is_dated_and_typed(server):
    with server.client() as client:
        headers = client.send(GET).answer().headers
    assert headers["content-type"] == "application/json"
    assert headers["date"].endswith(" GMT")


# -- paths and methods --


@pytest.mark.parametrize(
    "path", ["/here", "/here/", "/here?", "/here?a=b", "/here/?a=/x", "http://there/here"]
)
def test_a_path_is_found_with_a_query_a_trailing_slash_or_a_host(server, path):
    with server.client() as client:
        assert client.request("GET", path).answer().status == 200


@pytest.mark.parametrize("path", ["/", "/her", "/here/x", "/HERE", "*", "http://here", "//here"])
def test_any_other_path_is_not_found(server, path):
    with server.client() as client:
        answer = client.request("GET", path).answer()
        assert (answer.status, answer.json) == (404, {"error": "no such path"})
        assert client.send(GET).answer().status == 200


@pytest.mark.parametrize(
    ("method", "path", "allow"), [("POST", "/here", "GET, HEAD"), ("DELETE", "/echo", "POST")]
)
def test_a_method_that_is_not_allowed_is_told_those_that_are(server, method, path, allow):
    with server.client() as client:
        answer = client.request(method, path).answer()
    assert (answer.status, answer.headers["allow"]) == (405, allow)
    assert answer.json["error"] == f"{method} is not allowed here; use {allow}"


# -- bodies --


@pytest.mark.parametrize("cut", [1, 7, 40, 90])
def test_a_request_may_come_in_pieces(server, cut):
    request = POST + b"Content-Length: 30\r\n\r\n" + b"x" * 30
    with server.client() as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(request), cut):
            client.send(request[start : start + cut])
        assert client.answer().body == b"x" * 30


def test_a_chunked_body_is_put_together(server):
    with server.client() as client:
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        client.send(b"3\r\nabc\r\n").send(b"2;why=not\r\nde\r\n0\r\nTrailer: x\r\n\r\n")
        assert client.answer().body == b"abcde"
        assert client.send(GET).answer().status == 200


@pytest.mark.parametrize("in_pieces", [True, False])
def test_trailers_say_nothing_of_the_request_before_them_nor_of_the_next(
    server, waiting, in_pieces
):
    later = b"POST /later HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailers = (
        b"Authorization: Bearer x\r\nX-Request-Id: mine\r\nX-Request-Timeout-Ms: 0\r\n"
        b"Content-Type: text/csv\r\nContent-Encoding: gzip\r\nHost: b\r\nExpect: more\r\n"
        b"Connection: upgrade\r\nUpgrade: h2c\r\nTraceparent: 00-1-2-01\r\n\r\n"
    )
    with server.client() as client:
        for piece in [later + b"1\r\nx\r\n", b"0\r\n" + trailers[:20], trailers[20:]]:
            client.send(piece)
            if in_pieces:
                server.until(
                    lambda: all(c._reader.partial for c in server.site.connections) or waiting
                )
        server.until(lambda: len(waiting) == 1)
        assert waiting[0].head.headers == {b"host": b"a", b"transfer-encoding": b"chunked"}
        assert (waiting[0].request_id, waiting[0].body) == (b"", b"x")
        server.on_loop(lambda: waiting[0].answer(b"first"))
        assert client.answer().body == b"first"
        client.send(b"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        server.until(lambda: len(waiting) == 2)
        assert waiting[1].head.headers == {b"host": b"a", b"content-length": b"0"}


def test_a_body_in_tiny_chunks_takes_little_more_memory_than_its_bytes(server):
    chunks = b"2\r\nxx\r\n" * 100_000
    with server.client() as client:
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        tracemalloc.start()
        try:
            client.send(chunks)
            server.until(
                lambda: [c._reader.body_bytes for c in server.site.connections] == [200_000]
            )
            assert tracemalloc.get_traced_memory()[0] < 1_000_000
        finally:
            tracemalloc.stop()
        assert client.send(b"0\r\n\r\n").answer().body == b"x" * 200_000


def test_a_body_may_be_as_large_as_the_limit_and_no_larger(serve):
    server = serve(max_body_bytes=1_000)
    with server.client() as client:
        assert client.request("POST", "/echo", b"x" * 1_000).answer().body == b"x" * 1_000
        client.send(POST + b"Content-Length: 1001\r\n\r\n")
        assert "over 1000 bytes" in is_refused(client, 413)


def test_a_chunked_body_over_the_limit_is_refused_as_it_comes(serve):
    server = serve(max_body_bytes=1_000)
    with server.client() as client:
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        client.send(b"3e8\r\n" + b"x" * 1_000 + b"\r\n").send(b"1\r\nx\r\n")
        assert "over 1000 bytes" in is_refused(client, 413)


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_client_that_sends_all_of_a_large_body_before_it_reads_can_read_its_refusal(
    serve, framing
):
    """A reset while it sends would take the answer away."""
    server = serve(max_body_bytes=1_000)
    body = b"x" * (8 << 20)
    with server.client() as client:
        if framing == "length":
            client.send(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        else:
            client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
            client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert "over 1000 bytes" in is_refused(client, 413)


def test_a_client_that_expects_to_be_told_to_go_on_is_told(server):
    with server.client() as client:
        client.send(POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert client.answer().status == 100
        assert client.send(b"ok").answer().body == b"ok"


def test_a_client_that_asks_first_is_refused_before_it_sends(serve):
    server = serve(max_body_bytes=1_000)
    with server.client() as client:
        client.send(POST + b"Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
        is_refused(client, 413)
    with server.client() as client:
        client.send(POST + b"Content-Length: 2\r\nExpect: a miracle\r\n\r\n")
        assert "100-continue" in is_refused(client, 417)


def test_a_client_of_http_1_0_is_never_told_to_go_on(server):
    """It would take that for its answer."""
    with server.client() as client:
        client.send(b"POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        server.until(lambda: any(c._reader.receiving_since for c in server.site.connections))
        answer = client.send(b"ok").answer()
        assert (answer.status, answer.body) == (200, b"ok")


ASKS_FIRST = POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"


def test_a_client_that_asks_behind_another_request_is_told_to_go_on_in_its_turn(serve, waiting):
    server = serve(receive_timeout_s=20)
    with server.client() as client:
        client.send(b"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" + GET)
        client.send(ASKS_FIRST)
        server.until(lambda: any(c._reader.receiving_since for c in server.site.connections))
        server.after(60)  # it does not send, since it was not told to: that is not its fault
        server.on_loop(lambda: waiting[0].answer(b"first"))
        assert client.answer().body == b"first"
        assert client.answer().json == {"here": True}
        assert client.answer().status == 100
        server.after(19)
        assert client.send(b"ok").answer().body == b"ok"
        assert client.send(GET).answer().status == 200


def test_a_client_that_asks_in_one_piece_with_another_request_is_told_to_go_on(server):
    with server.client() as client:
        client.send(GET + ASKS_FIRST)
        assert client.answer().json == {"here": True}
        assert client.answer().status == 100
        assert client.send(b"ok").answer().body == b"ok"


def test_a_client_that_was_told_to_go_on_in_its_turn_and_does_not_is_refused(serve, waiting):
    server = serve(receive_timeout_s=20)
    with server.client() as client:
        client.send(b"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" + ASKS_FIRST)
        server.until(lambda: len(waiting) == 1)
        server.on_loop(lambda: waiting[0].answer(b"first"))
        assert [client.answer().status for _ in range(2)] == [200, 100]
        server.after(21)
        is_refused(client, 408)


def test_a_client_that_sends_without_being_told_to_is_answered_and_told_nothing(server, waiting):
    with server.client() as client:
        client.send(ASKS_FIRST + b"1.")
        assert client.answer().body == b"1."
        client.send(b"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" + ASKS_FIRST)
        client.send(b"2.")
        server.until(lambda: [len(c._pipeline) for c in server.site.connections] == [1])
        server.on_loop(lambda: waiting[0].answer(b"first"))
        assert [client.answer().body for _ in range(2)] == [b"first", b"2."]


# -- heads --


@pytest.mark.parametrize("in_pieces", [True, False])
def test_a_head_may_be_as_large_as_the_limit_and_no_larger(serve, in_pieces):
    server = serve(max_head_bytes=1_000)

    def head(size):
        start = b"GET /here HTTP/1.1\r\nHost: a\r\nX: "
        made = start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"
        return (made[:500], made[500:]) if in_pieces else (made,)

    with server.client() as client:
        for piece in head(1_000):
            client.send(piece)
        assert client.answer().status == 200
        for piece in head(1_005):
            client.send(piece)
        assert "over 1000 bytes" in is_refused(client, 431)


def head_of(size):
    start = b"GET /here HTTP/1.1\r\nHost: a\r\nX: "
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"


IN_CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"


@pytest.mark.parametrize(
    "first",
    [
        GET,
        GET * 40,
        POST + b"Content-Length: 9\r\n\r\nab\r\n\r\n\r\nc",
        POST + b"Content-Length: 5000\r\n\r\n" + b"\r\n" * 2_500,
        POST + IN_CHUNKS + b"\r\n",
        POST + IN_CHUNKS + b"Trailer: 1\r\n\r\n",
    ],
    ids=["a head", "many heads", "a body", "a large body", "chunks", "chunks with trailers"],
)
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4, 5])
def test_a_head_behind_another_request_in_one_read_is_bounded_as_any_other(serve, first, cut):
    """However the end of the request before it is cut."""
    server = serve(max_head_bytes=1_000)
    count = max(1, first.count(b"GET"))
    for size in (1_000, 1_001, 60_000):
        with server.client() as client:
            before, rest = first[: len(first) - cut], first[len(first) - cut :]
            if cut:
                client.send(before)
                server.until(lambda: any(c._reader.partial for c in server.site.connections))
            client.send((rest if cut else first) + head_of(size) + GET)
            assert [client.answer().status for _ in range(count)] == [200] * count
            if size > 1_000:
                assert "over 1000 bytes" in is_refused(client, 431)
            else:
                assert [client.answer().status for _ in range(2)] == [200, 200]


def test_a_large_request_that_comes_in_one_read_is_known_when_it_comes_again(serve):
    server = serve(max_head_bytes=1_000)
    with server.client() as client:
        request = POST + b"Content-Length: 5000\r\n\r\n" + b"x" * 5_000
        for _ in range(2):
            assert client.send(request).answer().body == b"x" * 5_000
    assert server.on_loop(lambda: [size for _, size in server.site.known_heads.whole.values()]) == [
        len(request)
    ]


def test_a_head_without_an_end_is_not_collected_without_an_end(serve):
    server = serve(max_head_bytes=1_000)
    with server.client() as client:
        client.send(b"GET /here HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000)
        is_refused(client, 431)


def test_trailers_without_an_end_are_not_collected_without_an_end(serve):
    server = serve(max_head_bytes=1_000)
    with server.client() as client:
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ")
        client.send(b"x" * 1_000_000)
        is_refused(client, 431)


def test_a_large_body_in_a_piece_with_its_head_is_not_taken_for_a_head(serve):
    server = serve(max_head_bytes=200)
    with server.client() as client:
        client.send((POST + b"Content-Length: 5000\r\n\r\n" + b"x" * 5_000) * 3 + GET[:10])
        for _ in range(3):
            assert client.answer().body == b"x" * 5_000
        assert client.send(GET[10:]).answer().status == 200


# -- requests one after another without waiting --


def test_pipelined_requests_are_answered_in_order_though_some_take_longer(server, waiting):
    post = b"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"
    with server.client() as client:
        client.send(post + b"1" + GET + post + b"2" + GET)
        server.until(lambda: len(waiting) == 1)
        server.on_loop(lambda: waiting[0].answer(b"first"))
        server.until(lambda: len(waiting) == 2)
        server.on_loop(lambda: waiting[1].answer(b"third"))
        bodies = [client.answer().body for _ in range(4)]
    assert bodies == [b"first", b'{"here":true}', b"third", b'{"here":true}']


def send_while_taken(client, data, most):
    """Send until the server stops to read; how many bytes it took."""
    client.socket.settimeout(0.2)
    sent = 0
    try:
        while sent < most:
            sent += client.socket.send(data[sent % len(data) :])
    except TimeoutError:
        pass
    client.socket.settimeout(10)
    return sent


def test_a_client_that_pipelines_without_end_is_not_read_without_end(server, waiting):
    request = GET[:-2] + b"X: " + b"x" * 5_000 + b"\r\n\r\n"
    with server.client() as client:
        client.send(b"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        sent = send_while_taken(client, request, 64 << 20)
        assert sent < 32 << 20
        server.until(lambda: len(waiting) == 1)
        server.on_loop(lambda: waiting[0].answer(b"go"))
        assert client.answer().body == b"go"
        for _ in range(sent // len(request)):
            assert client.answer().status == 200


def test_queued_bodies_are_bounded_as_one_body_is(serve, waiting):
    server = serve(max_body_bytes=1 << 20)
    request = POST + b"Content-Length: 1048576\r\n\r\n" + b"x" * (1 << 20)
    with server.client() as client:
        client.send(b"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        assert send_while_taken(client, request, 31 << 20) < 20 << 20


def test_what_follows_an_asked_for_end_is_not_answered(server):
    with server.client() as client:
        client.send(GET[:-2] + b"Connection: close\r\n\r\n" + GET)
        assert client.answer().status == 200
        assert client.is_ended()


# -- what is no HTTP/1.1 request --

CHUNKS = b"1\r\nx\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(
            POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="length and chunks",
        ),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            id="chunks and length",
        ),
        pytest.param(
            POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", id="two lengths alike"
        ),
        pytest.param(POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", id="two lengths"),
        pytest.param(POST + b"Content-Length: 1, 1\r\n\r\nx", id="a list of lengths"),
        pytest.param(POST + b"Content-Length: -1\r\n\r\n", id="a negative length"),
        pytest.param(POST + b"Content-Length: +1\r\n\r\nx", id="a signed length"),
        pytest.param(POST + b"Content-Length: 0x1\r\n\r\nx", id="a hexadecimal length"),
        pytest.param(POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", id="a huge length"),
        pytest.param(POST + b"Content-Length: \r\n\r\n", id="an empty length"),
        pytest.param(POST + b"Transfer-Encoding: identity\r\n\r\n", id="no last chunked"),
        pytest.param(POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", id="chunked not last"),
        pytest.param(POST + b"Transfer-Encoding: xchunked\r\n\r\n", id="almost chunked"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", id="a negative chunk"),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n", id="a huge chunk"
        ),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n", id="chunks by bare line feeds"
        ),
        pytest.param(b"GET /here HTTP/1.1\nHost: a\n\n", id="bare line feeds"),
        pytest.param(b"GET /here HTTP/1.1\r\nHost: a\r\nA: b\n\r\n", id="one bare line feed"),
        pytest.param(b"GET /here HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", id="a folded header"),
        pytest.param(
            b"GET /here HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", id="a space before the colon"
        ),
        pytest.param(b"GET /here HTTP/1.1\r\nHost: a\r\nA: b\x00c\r\n\r\n", id="a nul"),
        pytest.param(b"GET /he\xffre HTTP/1.1\r\nHost: a\r\n\r\n", id="a path that is not ASCII"),
        pytest.param(b"GET /here HTTP/1.2\r\n\r\n", id="another version"),
        pytest.param(b"GET /here HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"GET /here HTTP/1.1\r\nHost: a\r\nHOST: b\r\n\r\n", id="two hosts"),
        pytest.param(
            POST + b"Authorization: a\r\nAuthorization: b\r\nContent-Length: 0\r\n\r\n",
            id="two keys",
        ),
        pytest.param(POST + b"Transfer-Encoding: , chunked\r\n\r\n" + CHUNKS, id="an empty coding"),
        pytest.param(
            POST + b"Transfer-Encoding: g zip, chunked\r\n\r\n" + CHUNKS, id="a coding of two words"
        ),
        *(
            pytest.param(
                POST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS[:-2] + trailer + b"\r\n\r\n",
                id=f"{trailer.decode()} as a trailer",
            )
            for trailer in (b"Content-Length: 1", b"Transfer-Encoding: chunked")
        ),
        pytest.param(
            POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKS, id="chunked twice"
        ),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
            id="two headers of codings alike",
        ),
        pytest.param(
            POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
            id="two headers of codings",
        ),
        pytest.param(
            b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
            id="chunks in HTTP/1.0",
        ),
        *(
            pytest.param(b"GET /here HTTP/1.%d\r\nHost: %b\r\n\r\n" % (minor, host), id=name)
            for minor, host, name in [
                (1, b"a b", "a space in the host"),
                (1, b"a,b", "a list of hosts"),
                (1, b"a/b", "a path in the host"),
                (1, b"a b,c/d", "all that in the host"),
                (1, b"user@a", "a user in the host"),
                (1, b"a:b", "a port that is no number"),
                (1, b"a:80:80", "two ports"),
                (1, b"[::1", "a bracket that stays open"),
                (1, b"\xe4", "a host that is not ASCII"),
                (0, b"a b", "a space in the host of HTTP/1.0"),
            ]
        ),
        pytest.param(b"FETCH /here HTTP/1.1\r\nHost: a\r\n\r\n", id="another method"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", id="TLS"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_and_the_connection_ended(server, request_bytes):
    with server.client() as client:
        client.send(request_bytes)
        assert is_refused(client, 400).startswith("not an HTTP/1.1 request")
    assert server.counted() == {400: 1}


HERE = b"GET /here HTTP/1.1\r\nHost: a\r\n\r\n"
TWO_SPACES = [HERE.replace(b" /", b"  /"), HERE.replace(b"e HTTP", b"e  HTTP")]


@pytest.mark.parametrize("line", [*TWO_SPACES, HERE.replace(b" /", b"\t/", 1)])
@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"\r\n",
        HERE,
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n" + b" " * 9_000,
    ],
    ids=["first", "behind an empty line", "behind a request", "a body", "chunks", "a long body"],
)
@pytest.mark.parametrize("cut", [0, 1, -50, -40, -30, -25, -3])
def test_a_request_line_of_more_than_single_spaces_is_refused(server, line, before, cut):
    """A proxy may take the path for another one, or the rest of the line for its version."""
    sent = before + line
    with server.client() as client:
        client.send(HERE)
        assert client.answer().status == 200
        for piece in (sent[:cut], sent[cut:]) if cut else (sent,):
            client.send(piece)
            time.sleep(0.01 if cut else 0)
        if len(before) > 2:
            assert client.answer().status == 200
        assert is_refused(client, 400).startswith("not an HTTP/1.1 request")


def test_two_spaces_that_are_not_in_the_request_line_are_no_matter(server):
    body = b"GET  /here  HTTP/1.1\r\n\r\n"
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nAccept:  x  y\r\nContent-Length: %d\r\n\r\n"
    with server.client() as client:
        for _ in range(2):
            client.send(head % len(body) + body)
            assert client.answer().body == body
        client.send((head % len(body) + body) * 2)
        assert [client.answer().body for _ in range(2)] == [body] * 2


def test_a_connection_that_pipelines_thousands_has_a_turn_at_a_time(server):
    """Another one, which comes later, is answered long before all of them are."""
    requests = 20_000
    with server.client() as greedy, server.client() as calm:
        threading.Thread(target=greedy.send, args=(HERE * requests,)).start()
        assert greedy.answer().status == 200
        calm.send(HERE)
        assert calm.answer().status == 200
        assert sum(server.counted().values()) < requests / 2
        for _ in range(requests - 1):
            assert greedy.answer().status == 200
        assert server.on_loop(lambda: server.site.held.bytes) == 0


def test_what_waits_for_its_turn_is_given_up_with_its_connection(server):
    for _ in range(5):
        with server.client() as client:
            client.send(HERE * 10_000)
    server.until(lambda: not server.site.connections)
    assert server.on_loop(lambda: server.site.held.bytes) == 0


@pytest.fixture(params=["plain", "tls"])
def serve_either(request, serve, authority):
    """Starts a server, plain or with TLS; its `client` is a client of it."""

    def started(**limits):
        if request.param == "plain":
            return serve(**limits)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority("server"))
        running = serve(tls=context, **limits)
        connect, trusted = running.client, ssl.create_default_context(cafile=authority.root)

        def client():
            made = connect()
            made.socket = trusted.wrap_socket(made.socket, server_hostname="localhost")
            return made

        running.client = client
        return running

    return started


BIG = b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n"


def test_large_answers_come_whole_and_in_order(serve_either):
    server = serve_either()
    asks = b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    with server.client() as client:
        client.send(BIG + HERE + BIG + asks)
        for size in (32 << 20, 13, 32 << 20):
            answer = client.answer()
            assert (answer.status, len(answer.body)) == (200, size)
        assert client.answer().status == 100
        assert client.send(b"ok").answer().body == b"ok"
        client.send(BIG.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert len(client.answer().body) == 32 << 20
        server.after(1.0)
        # Within TLS the end waits for a tick after the client has it all.
        server.until(lambda: server.site.tick() or select.select([client.socket], [], [], 0)[0])
        assert client.is_ended()


def test_a_client_that_leaves_an_answer_unread_is_ended(serve_either):
    server = serve_either(receive_timeout_s=5.0)
    with server.client() as client:
        client.send(BIG)
        server.until(lambda: server.site.backlog.unread.bytes)
        for _ in range(3):
            server.after(4.0)
        server.until(lambda: not server.site.connections)
        assert server.counted()[499] == 1


def test_the_client_that_leaves_most_unread_is_cut_off_when_it_is_too_much(serve_either):
    """Each alone may leave as much as it likes, for a time."""
    server = serve_either(max_body_bytes=20 << 20)
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(3)]
        clients[0].send(BIG)
        server.until(lambda: server.site.backlog.unread.bytes > 20 << 20)
        clients[1].send(BIG)
        server.until(lambda: server.counted().get(499))
        server.until(lambda: len(server.site.connections) == 2)
        clients[2].send(HERE)
        assert clients[2].answer().status == 200
    server.until(lambda: server.site.backlog.unread.bytes == 0)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(
            POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS, 501, id="a known coding"
        ),
        pytest.param(
            POST + b"Transfer-Encoding: foo, chunked\r\n\r\n" + CHUNKS, 501, id="an unknown coding"
        ),
        pytest.param(
            POST + b"Transfer-Encoding: a;b=c, gzip ,\tchunked\r\n\r\n" + CHUNKS,
            501,
            id="several codings",
        ),
        pytest.param(b"GET /here HTTP/2.0\r\nHost: a\r\n\r\n", 505, id="HTTP/2.0"),
        pytest.param(b"GET /here HTTP/0.9\r\nHost: a\r\n\r\n", 505, id="HTTP/0.9"),
        pytest.param(
            b"GET /here HTTP/2.0\r\nConnection: keep-alive\r\n\r\n" + GET, 505, id="HTTP/2.0, kept"
        ),
    ],
)
def test_what_this_server_does_not_speak_is_refused_and_the_connection_ended(
    server, request_bytes, status
):
    with server.client() as client:
        client.send(request_bytes)
        is_refused(client, status)
    assert server.counted() == {status: 1}


@pytest.mark.parametrize("coding", [b"chunked", b"CHUNKED", b"Chunked "])
def test_chunked_is_chunked_however_it_is_written(server, coding):
    with server.client() as client:
        client.send(POST + b"Transfer-Encoding: " + coding + b"\r\n\r\n" + CHUNKS)
        assert client.answer().body == b"x"


@pytest.mark.parametrize(
    "host",
    [
        b"a", b"a:80", b"a:", b"", b"127.0.0.1:8080", b"[::1]", b"[fe80::1%25eth0]:8080",
        b"my_service.my-space.svc.cluster.local.", b"%2Frun%2Fbascule.sock", b"a \t",
    ],
)  # fmt: skip
def test_a_host_is_whatever_may_be_one(server, host):
    with server.client() as client:
        client.send(b"GET /here HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert client.answer().status == 200


def test_http_1_0_knows_no_hosts(server):
    with server.client() as client:
        assert client.send(b"GET /here HTTP/1.0\r\n\r\n").answer().status == 200


def test_a_refusal_waits_for_the_answers_before_it(server, waiting):
    with server.client() as client:
        client.send(b"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nnonsense\r\n\r\n")
        server.until(lambda: len(waiting) == 1)
        server.on_loop(lambda: waiting[0].answer(b"first"))
        assert client.answer().body == b"first"
        is_refused(client, 400)


def test_an_offer_of_another_protocol_is_not_taken_and_the_request_is_answered(server):
    """Some clients offer HTTP/2 with every request."""
    offer = b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    with server.client() as client:
        post = POST + offer + b"Content-Length: 3\r\n\r\nabc"
        client.send(post + GET + post)
        bodies = [client.answer().body for _ in range(3)]
        assert bodies == [b"abc", b'{"here":true}', b"abc"]
        chunked = POST + offer + b"Transfer-Encoding: chunked\r\n\r\n"
        assert client.send(chunked).send(b"3\r\nabc\r\n0\r\n\r\n").answer().body == b"abc"
        client.send(POST + offer + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert client.answer().status == 100
        assert client.send(b"ok").answer().body == b"ok"
        last = client.send(
            GET[:-2] + b"Upgrade: h2c\r\nConnection: close, Upgrade\r\n\r\n"
        ).answer()
        assert (last.status, last.headers["connection"]) == (200, "close")
        assert client.is_ended()


def test_the_body_of_a_request_with_an_offer_is_not_taken_for_a_request(server):
    offer = b"Upgrade: h2c\r\nConnection: Upgrade\r\n"
    with server.client() as client:
        client.send(POST + offer + b"Content-Length: %d\r\n\r\n" % len(GET) + GET)
        assert client.answer().body == GET
    assert server.counted() == {200: 1}


def test_many_offers_at_once_are_no_way_to_exhaust_the_stack(server):
    offer = b"GET /here HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    with server.client() as client:
        client.send(offer * 3_000)
        for _ in range(3_000):
            assert client.answer().status == 200


@pytest.mark.parametrize("target", [b"there:443", b"/here"])
@pytest.mark.parametrize("offer", [b"", b"Upgrade: x\r\nConnection: upgrade\r\n"])
def test_a_tunnel_is_refused_once_and_the_connection_ended(server, target, offer):
    with server.client() as client:
        client.send(
            b"CONNECT " + target + b" HTTP/1.1\r\nHost: a\r\n" + offer + b"\r\n\x00\x01\x02"
        )
        assert is_refused(client, 405) == "CONNECT is not served here"
    assert server.counted() == {405: 1}


# -- a bug of ours --


def test_a_bug_in_a_handler_is_answered_without_its_details_and_logged(server, caplog):
    with server.client() as client:
        answer = client.request("GET", "/bug").answer()
        assert answer.status == 500
        assert answer.json == {"error": "internal error; see the server's log"}
        assert client.send(GET).answer().status == 200
    assert "secret" in caplog.text


def test_a_bug_below_the_handlers_is_answered_as_well(server, caplog, monkeypatch):
    monkeypatch.setattr(
        "bascule.serving.transports.http1_requests.RequestReader.on_url", lambda *_: 1 / 0
    )
    with server.client() as client:
        assert is_refused(client.send(GET), 500) == "internal error; see the server's log"
    assert "division by zero" in caplog.text


# -- bounds --


def test_one_connection_more_than_the_limit_is_refused(serve):
    server = serve(max_connections=2)
    with server.client() as first, server.client() as second:
        assert first.send(GET).answer().status == 200
        assert second.send(GET).answer().status == 200
        with server.client() as third:
            assert "2 connections are open" in is_refused(third, 503)
    server.until(lambda: not server.site.connections)
    with server.client() as fourth:
        assert fourth.send(GET).answer().status == 200


def test_who_comes_when_all_connections_are_taken_is_told_when_to_come_again(serve):
    server = serve(max_connections=1)
    with server.client() as first:
        assert first.send(GET).answer().status == 200
        with server.client() as second:
            answer = second.answer()
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


def held(server):
    return server.on_loop(lambda: server.site.held.bytes)


def test_bodies_that_have_not_ended_are_bounded_over_all_connections(serve):
    server = serve(max_held_bytes=1_000)
    post = POST + b"Content-Length: 601\r\n\r\n"
    with server.client() as first, server.client() as second, server.client() as third:
        first.send(post + b"x" * 600)
        second.send(post + b"x" * 300).send(b"x" * 100)
        server.until(lambda: server.site.held.bytes == 1_000)
        third.send(post + b"x")
        answer = third.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "all of the 1000 bytes" in answer.json["error"]
        assert third.is_ended()
        assert held(server) == 1_000
        assert first.send(b"x").answer().body == b"x" * 601
        assert held(server) == 400
        assert second.send(b"x" * 201).answer().body == b"x" * 601
        assert held(server) == 0
        assert second.send(post + b"x" * 601).answer().status == 200


@pytest.mark.parametrize("how", ["goes", "is too slow", "is told the end"])
def test_what_has_come_of_a_body_is_not_counted_any_more_when_its_client(serve, waiting, how):
    server = serve(max_held_bytes=1_000, receive_timeout_s=20)
    with server.client() as client:
        if how == "is told the end":
            client.request("POST", "/later")
            server.until(lambda: len(waiting) == 1)
        client.send(POST + b"Content-Length: 999\r\n\r\n" + b"x" * 900)
        server.until(lambda: server.site.held.bytes == 900)
        if how == "is too slow":
            server.after(21)
            is_refused(client, 408)
        elif waiting:
            server.on_loop(lambda: setattr(server.site, "draining", True))
            server.on_loop(lambda: waiting[0].answer(b"last"))
            assert client.answer().headers["connection"] == "close"
        else:
            client.socket.close()
        server.until(lambda: server.site.held.bytes == 0)


def test_a_body_that_is_refused_as_too_large_is_not_counted_any_more(serve):
    server = serve(max_body_bytes=1_000)
    with server.client() as client:
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 1_000)
        server.until(lambda: server.site.held.bytes == 1_000)
        client.send(b"\r\n1\r\nx")
        is_refused(client, 413)
        assert held(server) == 0


LATER = b"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"


def echo(body):
    return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body


def test_whole_requests_that_wait_are_bounded_over_all_connections(serve, waiting):
    server = serve(max_held_bytes=12_000)
    with server.client() as first, server.client() as second, server.client() as third:
        for client, letter in ((first, b"a"), (second, b"b")):
            before = held(server)
            client.send(LATER + echo(letter * 4_000))
            server.until(lambda: server.site.held.bytes >= before + 4_000)  # noqa: B023
        before = held(server)
        refused = echo(b"d" * 4_000).replace(b"Host: a", b"Host: a\r\nX-Request-Id: mine")
        third.send(LATER + echo(b"c") + refused + GET)
        server.until(lambda: len(waiting) == 3)
        server.until(lambda: any(c._closing for c in server.site.connections))
        assert before < held(server) < 12_000
        for number, exchange in enumerate(waiting):
            server.on_loop(lambda: exchange.answer(b"%d" % number))  # noqa: B023

        assert [first.answer().body for _ in range(2)] == [b"0", b"a" * 4_000]
        assert [second.answer().body for _ in range(2)] == [b"1", b"b" * 4_000]
        assert [third.answer().body for _ in range(2)] == [b"2", b"c"]
        answer = third.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.json["error"].startswith(
            "requests that cannot begin yet take all of the 12000 bytes"
        )
        assert "retry later, with fewer requests ahead of their answers" in answer.json["error"]
        assert (answer.headers["connection"], answer.headers["x-request-id"]) == ("close", "mine")
        assert third.is_ended()  # and what came after it is not answered
        assert held(server) == 0
        assert first.send(echo(b"d" * 4_000)).answer().body == b"d" * 4_000


def test_one_request_at_a_time_is_never_held(serve):
    server = serve(max_held_bytes=1)
    with server.client() as client:
        for _ in range(3):
            assert client.send(GET).answer().status == 200
            assert client.send(echo(b"x" * 5_000)).answer().body == b"x" * 5_000


def test_requests_without_bodies_that_wait_are_bounded_over_all_connections_too(serve, waiting):
    """One read brings thousands of them, and in memory each is many times what was sent."""
    server = serve(max_held_bytes=50_000)
    with server.client() as client:
        client.send(LATER + GET * 1_000)
        server.until(lambda: len(waiting) == 1)
        server.on_loop(lambda: waiting[0].answer(b"go"))
        assert client.answer().body == b"go"
        answered = 0
        while (answer := client.answer()).status == 200:
            answered += 1
        assert answer.status == 503
        assert 40 < answered < 50
        assert client.is_ended()
        assert held(server) == 0


def test_a_request_that_is_whole_is_not_held_twice(serve, waiting):
    server = serve(max_held_bytes=10_000)
    with server.client() as client:
        client.send(LATER + POST + b"Content-Length: 6000\r\n\r\n" + b"x" * 5_999)
        server.until(lambda: server.site.held.bytes == 5_999)
        client.send(b"x")
        server.until(lambda: 6_000 < server.site.held.bytes < 8_000)
        server.on_loop(lambda: waiting[0].answer(b"go"))
        assert [client.answer().status for _ in range(2)] == [200, 200]
        assert held(server) == 0


@pytest.mark.parametrize(
    "how", ["goes", "is aborted", "is told the end", "reads nothing", "asks what is no request"]
)
def test_what_waits_is_not_counted_any_more_when_its_client(serve, waiting, how):
    server = serve(receive_timeout_s=20, drain_s=0.1)
    with server.client() as client:
        first = b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n" if how == "reads nothing" else LATER
        last = b"no request\r\n\r\n" if how == "asks what is no request" else b""
        client.send(first + echo(b"a" * 900) + echo(b"b" * 900) + last)
        server.until(lambda: server.site.held.bytes > 1_800)
        if how == "goes":
            client.socket.close()
        elif how == "is aborted":
            server.on_loop(lambda: [c.abort() for c in server.site.connections])
        elif how == "reads nothing":
            server.after(1)
            server.after(21)
        elif how == "asks what is no request":
            server.on_loop(lambda: waiting[0].answer(b"go"))
            assert [client.answer().status for _ in range(3)] == [200, 200, 200]
            is_refused(client, 400)
        else:
            server.on_loop(lambda: setattr(server.site, "draining", True))
            server.on_loop(lambda: waiting[0].answer(b"last"))
            assert client.answer().headers["connection"] == "close"
        server.until(lambda: server.site.held.bytes == 0)
        client.socket.close()
        server.until(lambda: not server.site.connections)
        assert held(server) == 0


def test_what_waits_is_not_counted_any_more_when_the_server_leaves(serve, waiting):
    import asyncio

    server = serve(drain_s=0.1)
    with server.client() as client:
        client.send(LATER + echo(b"a" * 900) + POST + b"Content-Length: 9\r\n\r\nx")
        server.until(lambda: server.site.held.bytes > 900)
        asyncio.run_coroutine_threadsafe(server.site.drain(), server.loop).result(10)
        server.until(lambda: not server.site.connections)
        assert held(server) == 0


def test_the_bound_of_what_is_held_has_room_for_sixteen_bodies_and_a_gibibyte():
    assert Limits().max_held_bytes == 1 << 30
    assert Limits(max_body_bytes=1 << 30).max_held_bytes == 16 << 30
    assert replace(Limits(max_held_bytes=5), max_rows=1).max_held_bytes == 5


def test_an_idle_connection_is_ended_after_its_time_and_not_before(serve):
    server = serve(idle_timeout_s=60)
    with server.client() as client:
        client.send(GET).answer()
        server.after(59)
        assert client.send(GET).answer().status == 200
        server.after(61)
        assert client.is_ended()


def test_a_connection_whose_next_request_has_come_is_not_ended_as_idle(serve):
    server = serve(idle_timeout_s=60)
    with server.client() as client:
        client.send(GET).answer()
        server.after(61, lambda: client.send(GET))
        assert client.answer().status == 200


@pytest.mark.parametrize("is_stopping", [False, True])
def test_a_connection_whose_request_waits_for_its_turn_is_not_idle(serve, is_stopping):
    server = serve(idle_timeout_s=60)
    with server.client() as client:
        client.send(GET).answer()
        (connection,) = server.site.connections

        def receive():
            server.site.backlog.later(lambda: None)  # another one has the turn
            connection.data_received(GET[:-2] + b"X-Long: %b\r\n\r\n" % (b"x" * 20_000))
            if is_stopping:
                connection.go_on_draining(61.0)

        server.after(61, receive)
        assert client.answer().status == 200


def test_a_client_is_not_slow_while_the_loop_stands_still(serve):
    server = serve(first_request_timeout_s=10, receive_timeout_s=20, idle_timeout_s=60)
    server.site.clock = LoopClock(server.site.clock)
    with server.client() as silent, server.client() as slow:
        slow.send(GET[:10])
        server.until(lambda: len(server.site.connections) == 2)
        server.until(lambda: any(c._reader.receiving_since for c in server.site.connections))
        server.after(600)
        assert slow.send(GET[10:]).answer().status == 200
        assert silent.send(GET).answer().status == 200


def test_a_connection_without_a_request_is_ended_after_a_time_of_its_own(serve):
    server = serve(first_request_timeout_s=10, idle_timeout_s=60)
    with server.client() as silent, server.client() as late, server.client() as slow:
        server.until(lambda: len(server.site.connections) == 3)
        slow.send(GET[:10])
        server.until(lambda: any(c._reader.receiving_since for c in server.site.connections))
        server.after(9)
        assert late.send(GET).answer().status == 200
        server.after(2)
        assert silent.is_ended()
        assert slow.send(GET[10:]).answer().status == 200  # it had begun
        server.after(57)
        assert late.send(GET).answer().status == 200
        assert slow.send(GET).answer().status == 200


def test_the_first_request_has_no_more_time_than_those_after_it(serve):
    server = serve(first_request_timeout_s=10, idle_timeout_s=5)
    with server.client() as client:
        server.until(lambda: len(server.site.connections) == 1)
        server.after(4)
        assert server.on_loop(lambda: len(server.site.connections)) == 1
        server.after(2)
        assert client.is_ended()


def test_a_request_that_does_not_arrive_in_time_is_refused(serve):
    server = serve(receive_timeout_s=20)
    with server.client() as client:
        client.send(POST + b"Content-Length: 5\r\n\r\nab")
        server.until(lambda: any(c._reader.receiving_since for c in server.site.connections))
        server.after(19)
        client.send(b"c")
        server.after(2)
        assert "within 20 s" in is_refused(client, 408)


def send_and_see(server, client, data):
    """Send a piece of a body, and wait until the server has it."""
    connection = next(iter(server.site.connections))
    seen = connection._reader.body_bytes + len(data)
    client.send(data)
    server.until(lambda: connection._reader.body_bytes == seen)


def test_a_client_that_sends_slowly_and_steadily_gets_through(serve):
    """Over a line of 1 Mbit/s."""
    server = serve(receive_timeout_s=20)
    seconds, line = 120, b"x" * 250_000
    with server.client() as client:
        client.send(POST + b"Content-Length: %d\r\n\r\n" % (seconds // 2 * len(line) + 1))
        server.until(lambda: any(c._reader.receiving_since for c in server.site.connections))
        for _ in range(seconds // 2):
            send_and_see(server, client, line)
            server.after(2)
        answer = client.send(b"x").answer()
        assert (answer.status, len(answer.body)) == (200, seconds // 2 * len(line) + 1)


@pytest.mark.parametrize("beyond_s", [-0.5, 0.5])
def test_what_has_come_of_a_body_adds_to_the_time_that_it_has(serve, beyond_s):
    server = serve(receive_timeout_s=20, least_bytes_per_s=1_000)
    with server.client() as client:
        client.send(POST + b"Content-Length: 5001\r\n\r\n")
        server.until(lambda: any(c._reader.receiving_since for c in server.site.connections))
        send_and_see(server, client, b"x" * 5_000)
        server.after(25 + beyond_s)
        if beyond_s > 0:
            assert "1 s more for every 1000 bytes" in is_refused(client, 408)
        else:
            assert client.send(b"x").answer().status == 200


def test_a_client_that_drips_is_refused(serve):
    server = serve(receive_timeout_s=20)
    with server.client() as client:
        client.send(POST + b"Content-Length: 500\r\n\r\n")
        server.until(lambda: any(c._reader.receiving_since for c in server.site.connections))
        for _ in range(19):
            send_and_see(server, client, b"x")
            server.after(1)
        server.after(2)
        is_refused(client, 408)


def test_a_request_under_way_is_not_idle(serve, waiting):
    server = serve(idle_timeout_s=60)
    with server.client() as client:
        client.request("POST", "/later", b"x")
        server.until(lambda: len(waiting) == 1)
        server.after(3_600)
        server.on_loop(lambda: waiting[0].answer(b"late"))
        assert client.answer().body == b"late"


def test_a_client_that_does_not_read_is_not_answered_further_and_is_ended(serve):
    server = serve(receive_timeout_s=20)
    with server.client(receive_buffer_bytes=4_096) as client:
        client.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n" * 4)
        server.until(lambda: server.counted() == {200: 1})
        server.after(1)
        server.after(19)
        assert server.on_loop(lambda: len(server.site.connections)) == 1
        server.after(2)
        server.until(lambda: not server.site.connections)
    assert server.counted() == {200: 1, 499: 1}


def left_to_take(server):
    """How much of its answer the only client of a server has not taken."""

    def unsent():
        (connection,) = server.site.connections
        transport = connection._transport
        return transport.get_write_buffer_size() + unacknowledged_bytes(transport)

    return server.on_loop(unsent)


def test_a_client_that_takes_next_to_nothing_of_its_answer_is_cut_off(serve):
    server = serve(receive_timeout_s=20)
    with server.client(receive_buffer_bytes=4_096) as client:
        client.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        server.until(lambda: server.counted() == {200: 1})
        server.after(1)
        for _ in range(3):
            assert server.on_loop(lambda: len(server.site.connections)) == 1
            before = left_to_take(server)
            while left_to_take(server) == before:
                client.socket.recv(1_024)
            server.after(7)
        server.until(lambda: not server.site.connections)
    assert server.counted() == {200: 1, 499: 1}


@pytest.mark.parametrize("beyond_s", [-0.5, 0.5])
def test_what_is_taken_of_an_answer_adds_to_the_time_that_there_is_for_it(serve, beyond_s):
    server = serve(receive_timeout_s=20, least_bytes_per_s=1_000_000)
    with server.client(receive_buffer_bytes=65_536) as client:
        client.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        server.until(lambda: server.counted() == {200: 1})
        first = settled(lambda: left_to_take(server))
        server.after(1)
        client._exactly(8 << 20)
        taken_s = (first - settled(lambda: left_to_take(server))) / 1_000_000
        assert taken_s > 8
        server.after(19)
        server.after(1 + taken_s + beyond_s)
        assert server.on_loop(lambda: len(server.site.connections)) == (beyond_s < 0)


def settled(look):
    """What is seen once it does not change any more: the kernels have passed on what they take."""
    seen = [look()]
    while len(seen) < 20 or len(set(seen[-20:])) > 1:
        time.sleep(0.005)
        seen.append(look())
    return seen[-1]


def test_a_client_that_reads_steadily_is_never_cut_off_however_large_the_answer(serve):
    """Over a line of less than 1 Mbit/s, for more than five minutes."""
    server = serve(receive_timeout_s=20)
    with server.client(receive_buffer_bytes=65_536) as client:
        client.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        client._until(b"\r\n\r\n")
        for _ in range(32):
            assert len(client._exactly(1 << 20)) == 1 << 20
            server.after(10)
        assert client.send(GET).answer().status == 200


def test_a_client_that_takes_one_large_answer_after_another_is_never_cut_off(serve):
    """When looked at, as much is left as before: of another answer."""
    server = serve(receive_timeout_s=20)
    with server.client(receive_buffer_bytes=65_536) as client:
        client.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        for number in range(1, 4):
            server.until(lambda: server.counted() == {200: number})  # noqa: B023
            server.after(15)
            assert len(client.answer().body) == 32 << 20


def test_a_client_that_reads_slowly_gets_everything(serve):
    server = serve(receive_timeout_s=20)
    with server.client(receive_buffer_bytes=65_536) as client:
        client.send(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        read = 0
        while piece := client.socket.recv(1 << 22):
            read += len(piece)
            server.after(0.3)
    assert read > 32 << 20


def test_a_client_that_asked_for_the_end_and_stays_is_ended(server):
    with server.client() as client:
        client.request("GET", "/here", headers="Connection: close\r\n").answer()
        assert client.is_ended()
        server.after(1.5)
        assert server.on_loop(lambda: len(server.site.connections)) == 1
        server.after(1)
        server.until(lambda: not server.site.connections)


def test_a_client_that_sends_on_after_its_refusal_is_ended_after_the_receive_timeout(serve):
    server = serve(max_body_bytes=10, receive_timeout_s=20)
    with server.client() as client:
        client.send(POST + b"Content-Length: 9999\r\n\r\n")
        is_refused(client, 413)
        for _ in range(10):
            assert server.on_loop(lambda: len(server.site.connections)) == 1
            client.send(b"x")
            server.until(
                lambda: all(
                    c._reader.receiving_since == server.site.now for c in server.site.connections
                )
            )
            server.after(1.9)
        server.after(1.9)
        server.until(lambda: not server.site.connections)


# -- clients that go --


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_goes_before_its_answer_is_counted_499_and_its_work_given_up(
    server, waiting, gone, how
):
    with server.client() as client:
        client.request("POST", "/later", b"mine")
        server.until(lambda: len(waiting) == 1)
        if how == "reset":
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    server.until(lambda: not server.site.connections)
    assert gone == [b"mine"]
    server.on_loop(lambda: waiting[0].answer(b"too late"))
    assert server.counted() == {499: 1}


def test_an_exchange_is_answered_once(server, waiting):
    with server.client() as client:
        client.request("POST", "/later", b"x")
        server.until(lambda: len(waiting) == 1)
        server.on_loop(lambda: [waiting[0].answer(b"one"), waiting[0].answer(b"two")])
        assert client.answer().body == b"one"
        assert client.send(GET).answer().json == {"here": True}
    assert server.counted() == {200: 2}


# -- the end --


def test_a_server_that_stops_answers_what_is_under_way_and_says_that_it_closes(server, waiting):
    with server.client() as client:
        client.request("POST", "/later", b"x")
        server.until(lambda: len(waiting) == 1)
        server.on_loop(lambda: setattr(server.site, "draining", True))
        server.on_loop(lambda: waiting[0].answer(b"done"))
        answer = client.answer()
        assert (answer.body, answer.headers["connection"]) == (b"done", "close")
        assert client.is_ended()


def test_a_server_that_stops_waits_for_work_and_not_for_the_idle(server, waiting):
    import asyncio

    with server.client() as idle, server.client() as busy:
        idle.send(GET).answer()
        busy.request("POST", "/later", b"x")
        server.until(lambda: len(waiting) == 1)
        drained = asyncio.run_coroutine_threadsafe(server.site.drain(), server.loop)
        assert idle.is_ended()
        assert not drained.done()
        server.on_loop(lambda: waiting[0].answer(b"done"))
        assert busy.answer().body == b"done"
        busy.socket.close()
        drained.result(10)


def test_a_connection_that_was_just_used_is_not_idle_because_the_clock_is_coarse(server):
    """Between two ticks the coarse clock stands still, and may be a second behind."""
    import asyncio

    with server.client() as client:
        client.send(GET).answer()
        server.on_loop(lambda: setattr(server.site, "now", server.site.now - 1))
        server.on_loop(
            lambda: [setattr(c, "_since", server.site.now) for c in server.site.connections]
        )
        drained = asyncio.run_coroutine_threadsafe(server.site.drain(), server.loop)
        server.until(lambda: server.site.draining)
        answer = client.send(GET).answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        client.socket.close()
        drained.result(10)


def test_a_server_that_stops_does_not_wait_for_ever_and_says_so(serve, waiting, gone):
    import asyncio

    server = serve(drain_s=0.1)
    with server.client() as client, server.client() as slow:
        client.request("POST", "/later", b"x")
        slow.send(GET[:10])
        server.until(lambda: len(waiting) == 1)
        server.until(lambda: any(c._reader.receiving_since for c in server.site.connections))
        drained = asyncio.run_coroutine_threadsafe(server.site.drain(), server.loop)
        assert "the server is stopping" in is_refused(client, 503)
        assert "the server is stopping" in is_refused(slow, 503)
        drained.result(10)
        server.until(lambda: not server.site.connections)
    assert gone == [b"x"], "the run goes on after its caller has been refused"
    assert server.counted() == {503: 2}


def test_nothing_is_logged_of_what_clients_do_wrong(server, caplog):
    with caplog.at_level(logging.INFO), server.client() as client:
        client.send(b"\x00\x01\x02\r\n\r\n")
        is_refused(client, 400)
    assert not caplog.records
