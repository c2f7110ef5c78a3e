"""A head that was parsed once is not parsed again, and nobody can tell by the answers."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from bascule.core.errors import NotFound
from bascule.serving.execution.admission import AdmissionQueue, BufferBudget
from bascule.serving.limits import Limits
from bascule.serving.telemetry.counters import Counters
from bascule.serving.transports.http1 import Connection
from bascule.serving.transports.http1_requests import RequestReader, Site
from bascule.serving.transports.routes import Route, table

ECHO = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
HERE = b"GET /here HTTP/1.1\r\nHost: a\r\n\r\n"
MESSAGES = [
    ECHO + b"body",
    ECHO + b"\r\n\r\n",
    ECHO + HERE[:4],
    HERE,
    HERE.replace(b"GET", b"HEAD"),
    HERE.replace(b"Host: a\r\n", b""),
    HERE[:-2] + b"Authorization: Bearer one\r\n\r\n",
    b"\r\n" + HERE,
    HERE[:-2] + b"Content-Length: 0\r\n\r\n",
    HERE[:-2] + b"Connection: close\r\n\r\n",
    HERE[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    HERE[:-2] + b"X-Long: " + b"x" * 2000 + b"\r\n\r\n",
    HERE.replace(b"1.1", b"1.0"),
    HERE.replace(b"/here", b"/nowhere"),
    ECHO.replace(b": 4", b": 04") + b"body",
    ECHO.replace(b": 4", b": 999999") + b"body",
    ECHO.replace(b"Content-Length: 4", b"Expect: 100-continue\r\nContent-Length: 4") + b"body",
    ECHO.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"4\r\nbody\r\n0\r\n\r\n",
    ECHO.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + b"body",
    ECHO.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked")
    + b"4\r\nbody\r\n0\r\nContent-Type: text/csv\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ECHO.replace(b"Content-Length: 4", b"Transfer-Encoding: gzip, chunked\r\nX-Request-Id: m")
    + b"0\r\n\r\n",
    HERE.replace(b"1.1", b"2.0")[:-2] + b"X-Request-Id: m\r\n\r\n",
    HERE.replace(b"Host: a", b"Host: a b"),
    b"GET /here HTTP/1.1\nHost: a\n\n",
    b"what is this\r\n\r\n",
    *(
        ECHO.replace(b"Host: a", b"Host: a\r\n" + headers) + b"body"
        for headers in (
            b"Sticky: ada",
            b"Sticky: bob the builder",
            b"sTICKY: eve",
            b"Sticky:  two spaces",
            b"Sticky: end \t",
            b"Sticky:",
            b"Sticky: \xff",
            b"Sticky: \x01",
            b"Sticky: ada\r\nSticky: bob",
            b"Sticky: ada\r\nSticky:ada",
            b"Sticky: bob\r\nSticky:ada",
            b"Sticky: folded\r\n  on",
            b"Sticky: ada\r\nX-Request-Id: one",
            b"X-Request-Id: two",
            b'X-Request-Id: "',
            b"traceparent: one\r\ntraceparent: two",
            b"tracestate: one\r\ntracestate: two\r\nSticky: kim",
        )
    ),
]


class Socket:
    """A transport that keeps what was written."""

    def __init__(self):
        self.said = b""
        self.closing = False

    def write(self, data):
        self.said += data

    def is_closing(self):
        return self.closing

    def close(self):
        self.closing = True

    def can_write_eof(self):
        return True

    def write_eof(self):
        pass

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


class Forgetful(Site):
    """A site whose parser reads every head."""

    def learn(self, data, head):
        pass


@pytest.fixture(scope="module")
def make_site(tmp_path_factory):
    counters = Counters(tmp_path_factory.mktemp("heads") / "counters", 1)

    def echo(exchange):
        told = exchange.header(b"sticky"), *exchange.trace, exchange.body
        exchange.answer(b"%d %b" % (exchange.head.keep_alive, b"|".join(told)))

    def make(kind=Site, asked=b"sticky", **limits):
        site = kind(
            table([Route(b"POST", b"/echo", echo, "read"), Route(b"GET", b"/here", echo, "read")]),
            lambda path: NotFound(f"no {path!r}"),
            Limits(**limits),
            counters.series(0),
            backlog=AdmissionQueue(1 << 20),
            held=BufferBudget(1 << 30),
        )
        site.serve(site.routes, frozenset((asked,)))
        return site

    return make


def said(site, pieces):
    """What a site answers on a new connection to bytes that arrive in these pieces."""
    connection = Connection(site)
    connection.connection_made(socket := Socket())
    for piece in pieces:
        connection.data_received(piece)
    connection.connection_lost(None)
    return socket.said


@st.composite
def conversations(draw):
    """Requests, good and bad, in pieces: most of them whole, some cut, some run together."""
    pieces = []
    for message in draw(st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=6)):
        how = draw(st.sampled_from(["whole", "whole", "whole", "cut", "joined"]))
        if how == "joined" and pieces:
            pieces[-1] += message
        elif how == "cut":
            at = draw(st.integers(1, len(message) - 1))
            pieces += [message[:at], message[at:]]
        else:
            pieces.append(message)
    return pieces


@given(talks=st.lists(conversations(), min_size=1, max_size=4))
def test_whoever_remembers_heads_answers_what_whoever_parses_them_answers(make_site, talks):
    limits = {"max_body_bytes": 1000, "max_head_bytes": 1500}
    remembering, parsing = make_site(**limits), make_site(Forgetful, **limits)
    parsing.heads = remembering.heads  # one date
    for talk in talks:
        assert said(remembering, talk) == said(parsing, talk)


def test_a_head_is_parsed_once_for_all_connections(make_site, monkeypatch):
    site = make_site()
    said(site, [ECHO + b"body"])
    assert len(site.known_heads) == 1
    monkeypatch.setattr(RequestReader, "on_headers_complete", lambda self: 1 / 0)
    assert said(site, [ECHO + b"1234", ECHO + b"5678"]).endswith(b"1 |||5678")


def with_header(line):
    return ECHO.replace(b"Host: a", b"Host: a\r\n" + line) + b"body"


def test_a_head_with_another_value_of_an_asked_header_is_not_parsed_again(make_site, monkeypatch):
    site = make_site()
    said(site, [with_header(b"Sticky: ada")])
    monkeypatch.setattr(RequestReader, "on_headers_complete", lambda self: 1 / 0)
    assert said(site, [with_header(b"Sticky: longer than before")]).endswith(
        b"1 longer than before|||body"
    )
    assert len(site.known_heads) == 1


@pytest.mark.parametrize("name", [b"Host", b"Content-Length", b"Connection", b"Authorization"])
def test_a_header_that_says_how_to_read_keeps_its_value_even_if_it_is_asked_for(make_site, name):
    site = make_site(asked=name.lower())
    assert name.lower() not in site.known_heads._varying


@pytest.mark.parametrize(
    "message",
    [
        ECHO.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        ECHO.replace(b"Content-Length: 4", b"Expect: 100-continue\r\nContent-Length: 4") + b"body",
        HERE[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        HERE[:-2] + b"X-Long: " + b"x" * 2000 + b"\r\n\r\n",
        HERE + HERE,
        ECHO + b"body" + HERE,
        b"what is this\r\n\r\n",
    ],
)
def test_only_whole_single_plain_requests_are_learnt(make_site, message):
    site = make_site()
    said(site, [message])
    assert not site.known_heads


def test_the_end_of_a_head_that_is_too_large_for_one_piece_is_not_learnt_as_a_head(make_site):
    """Otherwise its sender would choose what later bytes of others mean."""
    site = make_site(max_head_bytes=1000)
    before = b"GET /nowhere HTTP/1.1\r\nHost: a\r\nX-Long: "
    tail = b"GET /here HTTP/1.1\r\nHost: a\r\n\r\n"
    filled = before + b"x" * (1000 - len(before) - 4)
    for cut in range(-8, 9):
        said(site, [filled[: len(filled) + min(cut, 0)] + b"y" * max(cut, 0) + b"\r\nA: " + tail])
    assert not site.known_heads


def test_heads_that_are_all_different_do_not_fill_the_memory(make_site):
    site = make_site()
    for number in range(3000):
        said(site, [HERE[:-2] + b"X-Id: %d\r\n\r\n" % number])
        assert len(site.known_heads) <= 1024
    assert said(site, [HERE]).endswith(b"1 |||")


def test_a_head_that_comes_again_with_its_value_is_found_by_its_bytes_alone(make_site, monkeypatch):
    site = make_site()
    for key in (b"ada", b"bob"):  # the first is parsed, the second cut, and both are then known
        said(site, [with_header(b"Sticky: " + key)] * 2)
    monkeypatch.setattr(site.known_heads, "find_cut", lambda *_: 1 / 0)
    for key in (b"ada", b"bob"):
        answer = said(site, [with_header(b"Sticky: " + key)])
        assert answer.endswith(b"1 %b|||body" % key)
    assert len(site.known_heads) == 1


def test_ids_do_not_come_again_and_are_not_kept(make_site):
    site = make_site()
    for number in range(10):
        said(site, [with_header(b"Sticky: ada\r\nX-Request-Id: %d" % number)])
    assert len(site.known_heads.whole) == 0


def test_values_that_are_all_different_do_not_fill_the_memory(make_site):
    site = make_site()
    for number in range(3000):
        answer = said(site, [with_header(b"Sticky: %d" % number)])
        assert answer.endswith(b"1 %d|||body" % number)
        assert len(site.known_heads.whole) <= 1024
    said(site, [ECHO + b"body"])
    assert len(site.known_heads) == 2, "heads without values are not forgotten for them"


def test_other_routes_answer_a_known_head(make_site):
    site = make_site()
    message = with_header(b"Sticky: ada")
    said(site, [message, message, message])

    def other(exchange):
        exchange.answer(b"other")

    site.serve(table([Route(b"POST", b"/echo", other, "read")]), frozenset((b"sticky",)))
    assert said(site, [message]).endswith(b"other")
    assert said(site, [message] * 2).endswith(b"other")
