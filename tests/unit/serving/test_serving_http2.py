"""HTTP/2 from both sides: a strict client library, and frames that no library would send."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time

import grpc
import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from bascule.core.errors import Invalid
from bascule.serving.transports import frames
from bascule.serving.transports.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    enclosed,
    frame,
    number_frame,
)
from bascule.serving.transports.http2 import MAX_IDLE_FRAMES
from bascule.serving.transports.http2_flow import MAX_WATCHES

WAIT_S = 10.0
LIVE = "/inference.GRPCInferenceService/ServerLive"
INFER = "/inference.GRPCInferenceService/ModelInfer"
GREETING = PREFACE + frame(SETTINGS, 0, 0)
IDLE_FRAMES_LEFT = MAX_IDLE_FRAMES - 1
"""After the greeting, whose settings are one."""


def call_headers(path=LIVE, **more):
    named = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "here"}
    named |= {"te": "trailers", "content-type": "application/grpc"}
    named |= {name.replace("__", ":").replace("_", "-"): value for name, value in more.items()}
    return list(named.items())


class Raw:
    """A connection that sends what it is told to, and cuts what comes into frames."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self._rest = b""

    def send(self, *pieces):
        self.socket.sendall(b"".join(pieces))
        return self

    def block(self, path=LIVE, **more):
        return self.encoder.encode(call_headers(path, **more))

    def call(self, id_, path=LIVE, message=b"", **more):
        return frame(HEADERS, END_HEADERS, id_, self.block(path, **more)) + frame(
            DATA, END_STREAM, id_, enclosed(message)
        )

    def frame(self):
        """The next frame: kind, flags, stream, payload; None at the end of the connection."""
        while len(self._rest) < 9 or len(self._rest) < 9 + int.from_bytes(self._rest[:3]):
            try:
                piece = self.socket.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not piece:
                return None
            self._rest += piece
        length = int.from_bytes(self._rest[:3])
        kind, flags, id_ = struct.unpack_from(">BBI", self._rest, 3)
        payload = self._rest[9 : 9 + length]
        self._rest = self._rest[9 + length :]
        return kind, flags, id_, payload

    def until(self, kind):
        while (found := self.frame()) is not None:
            if found[0] == kind:
                return found
        raise AssertionError("the connection ended")

    def trailers(self, id_):
        """The last headers of a call."""
        while (found := self.frame()) is not None:
            if found[0] == HEADERS:
                headers = dict(self.decoder.decode(found[3]))
                if found[2] == id_ and found[1] & END_STREAM:
                    return headers
        raise AssertionError("the connection ended")

    def broken(self):
        """The code with which the connection is ended, and that it is ended then."""
        _, _, _, payload = self.until(GOAWAY)
        while self.frame() is not None:
            pass
        return int.from_bytes(payload[4:8])


@pytest.fixture
def served(serve_models, program, inline):
    return serve_models(("fake", program, inline), max_body_bytes=1 << 20)


@pytest.fixture
def connect_raw():
    made = []

    def connect(running):
        made.append(Raw(running.grpc_port))
        return made[-1]

    yield connect
    for one in made:
        one.socket.close()


@pytest.fixture
def raw(connect_raw, served):
    return connect_raw(served).send(GREETING)


def test_a_strict_client_library_finds_nothing_wrong(served, connect_raw):
    raw = connect_raw(served)
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    events, sent = [], set()
    while not (len(sent) == 3 and sum(type(e) is h2.events.StreamEnded for e in events) == 3):
        for id_ in (1, 3, 5):
            if id_ not in sent:
                sent.add(id_)
                connection.send_headers(id_, call_headers())
                connection.send_data(id_, enclosed(b""), end_stream=True)
        raw.send(connection.data_to_send())
        events += connection.receive_data(raw.socket.recv(1 << 16))
    heads = [dict(e.headers) for e in events if type(e) is h2.events.ResponseReceived]
    assert heads == [{":status": "200", "content-type": "application/grpc"}] * 3
    trailers = [dict(e.headers) for e in events if type(e) is h2.events.TrailersReceived]
    assert trailers == [{"grpc-status": "0"}] * 3
    assert [e.data for e in events if type(e) is h2.events.DataReceived] == [
        enclosed(b"\x08\1")
    ] * 3


@pytest.mark.parametrize("size", [1, 2, 9, 30])
def test_it_does_not_matter_how_the_bytes_are_cut(raw, served, size):
    sent = raw.call(1) + raw.call(3) + frame(PING, 0, 0, b"12345678")
    for at in range(0, len(sent), size):
        raw.send(sent[at : at + size])
    assert raw.trailers(1) == {"grpc-status": "0"}
    assert raw.trailers(3) == {"grpc-status": "0"}
    assert raw.until(PING)[3] == b"12345678"


def test_headers_may_come_in_pieces_padded_and_with_a_priority(raw):
    block = raw.block()
    raw.send(
        frame(HEADERS, PADDED | 0x20, 1, b"\x02" + b"\0" * 4 + b"\x10" + block[:5] + b"\0\0"),
        frame(CONTINUATION, 0, 1, block[5:9]),
        frame(CONTINUATION, END_HEADERS, 1, block[9:]),
        frame(PRIORITY, 0, 1, bytes(5)),
        frame(0xBE, 0, 1, b"not known"),
        frame(DATA, PADDED | END_STREAM, 1, b"\x03" + enclosed(b"") + b"\0\0\0"),
    )
    assert raw.trailers(1) == {"grpc-status": "0"}


def test_a_message_may_come_in_pieces_and_end_with_an_empty_one(raw):
    raw.send(frame(HEADERS, END_HEADERS, 1, raw.block()))
    for piece in (b"\0", b"\0\0", b"\0\0"):
        raw.send(frame(DATA, 0, 1, piece))
    raw.send(frame(DATA, END_STREAM, 1))
    assert raw.trailers(1) == {"grpc-status": "0"}


def test_the_table_of_headers_may_change_between_calls(raw):
    """Blocks that look the same mean something else then."""
    for id_ in range(1, 60, 2):
        method = "ServerLive" if id_ % 4 == 1 else "Nothing"
        raw.send(raw.call(id_, f"/inference.GRPCInferenceService/{method}", x_extra=str(id_)))
        # The same block again, which the table now knows.
        status = "0" if method == "ServerLive" else "12"
        assert raw.trailers(id_)["grpc-status"] == status


@pytest.mark.parametrize("window", [0, 1, 1_000, 65_535])
def test_no_more_is_sent_than_the_client_has_room_for(raw, messages, ask_grpc, window):
    request = ask_grpc(*[[n, 1] for n in range(10_000)]).SerializeToString()
    setting = struct.pack(">HI", frames.INITIAL_WINDOW_SIZE, window)
    raw.send(frame(SETTINGS, 0, 0, setting), frame(HEADERS, END_HEADERS, 1, raw.block(INFER)))
    message = enclosed(request)
    pieces = [message[at : at + 16_384] for at in range(0, len(message), 16_384)]
    raw.send(*(frame(DATA, 0, 1, piece) for piece in pieces), frame(DATA, END_STREAM, 1))
    got, room, of_connection = b"", window, 65_535
    raw.send(frame(PING, 0, 0, b"all sent"))
    while True:
        kind, flags, _, payload = raw.frame()
        if kind == DATA:
            got += payload
            room -= len(payload)
            of_connection -= len(payload)
            assert min(room, of_connection) >= 0
            assert len(payload) <= 16_384
        elif kind == HEADERS and flags & END_STREAM:
            break
        elif kind == PING:
            pass
        if (min(room, of_connection) == 0 and kind == DATA) or kind == PING:
            raw.send(number_frame(WINDOW_UPDATE, 1, 50_000), number_frame(WINDOW_UPDATE, 0, 50_000))
            room += 50_000
            of_connection += 50_000
    answer = messages("ModelInferResponse").FromString(got[5:])
    assert len(got) == 5 + int.from_bytes(got[1:5])
    sums = np.frombuffer(answer.raw_output_contents[1])
    np.testing.assert_array_equal(sums, np.arange(10_000) + 1)


@pytest.fixture
def blocked(raw, served):
    """The server's side of a connection with thirty answers for which there is no room."""
    raw.send(frames.settings([(frames.INITIAL_WINDOW_SIZE, 0)]))
    raw.send(*(raw.call(id_) for id_ in range(1, 61, 2)))
    served.until(lambda: [len(one.flow.blocked) for one in served.grpc.connections] == [30])
    (connection,) = served.grpc.connections
    return connection


def looks(connection):
    """For which calls it is looked from now on whether there is room."""
    found, pump_one = [], connection.flow._pump_one

    def noted(stream):
        found.append(stream.id)
        pump_one(stream)

    connection.flow._pump_one = noted
    return found


def test_a_flood_of_windows_is_not_looked_at_for_every_call_that_waits(raw, blocked):
    found = looks(blocked)
    raw.send(number_frame(WINDOW_UPDATE, 0, 1) * 1_000, frame(PING, 0, 0, bytes(8)))
    raw.until(PING)
    assert found == []
    raw.send(*(number_frame(WINDOW_UPDATE, id_, 100) for id_ in range(1, 61, 2)))
    for id_ in range(1, 61, 2):
        assert raw.trailers(id_)["grpc-status"] == "0"
    assert len(found) == 30


def test_a_byte_of_room_for_all_calls_is_offered_to_no_more_than_take_it(raw, blocked, served):
    found = looks(blocked)
    served.on_loop(lambda: setattr(blocked.flow, "send_window", 0))
    raw.send(frames.settings([(frames.INITIAL_WINDOW_SIZE, 100)]), frame(PING, 0, 0, bytes(8)))
    raw.until(PING)
    assert found == []
    raw.send(number_frame(WINDOW_UPDATE, 0, 1) * 3, frame(PING, 0, 0, bytes(8)))
    raw.until(PING)
    assert found == [1, 1, 1]
    raw.send(number_frame(WINDOW_UPDATE, 0, 10_000))
    for id_ in range(1, 61, 2):
        assert raw.trailers(id_)["grpc-status"] == "0"


def test_settings_that_are_repeated_ten_thousand_times_are_looked_at_once(raw, blocked, served):
    class Counting(dict):
        walks = 0

        def values(self):
            self.walks += 1
            return super().values()

    served.on_loop(lambda: setattr(blocked.flow, "streams", Counting(blocked.flow.streams)))
    window = (frames.INITIAL_WINDOW_SIZE, 50)
    raw.send(frames.settings([(frames.INITIAL_WINDOW_SIZE, 7), window] * 5_000))
    for id_ in range(1, 61, 2):
        assert raw.trailers(id_)["grpc-status"] == "0"
    assert blocked.flow.streams.walks == 1


def test_a_small_answer_waits_for_room_too(raw):
    raw.send(frames.settings([(frames.INITIAL_WINDOW_SIZE, 6)]), raw.call(1))
    got = raw.until(DATA)[3]
    assert got == enclosed(b"\x08\1")[:6]
    raw.send(number_frame(WINDOW_UPDATE, 1, 1))
    assert raw.until(DATA)[3] == b"\1"
    assert raw.trailers(1) == {"grpc-status": "0"}


# -- what breaks the rules ends the connection, and says why --


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([frame(PING, 0, 0, bytes(7))], frames.FRAME_SIZE_ERROR),
        ([frame(PING, 0, 1, bytes(8))], frames.PROTOCOL_ERROR),
        ([frame(SETTINGS, 0, 0, bytes(5))], frames.FRAME_SIZE_ERROR),
        ([frame(SETTINGS, 1, 0, bytes(6))], frames.FRAME_SIZE_ERROR),
        ([frame(SETTINGS, 0, 1)], frames.PROTOCOL_ERROR),
        ([frames.settings([(frames.INITIAL_WINDOW_SIZE, 2**31)])], frames.FLOW_CONTROL_ERROR),
        ([frames.settings([(frames.MAX_FRAME_SIZE, 16_383)])], frames.PROTOCOL_ERROR),
        ([frames.settings([(frames.ENABLE_PUSH, 2)])], frames.PROTOCOL_ERROR),
        ([number_frame(WINDOW_UPDATE, 0, 0)], frames.PROTOCOL_ERROR),
        ([number_frame(WINDOW_UPDATE, 0, 2**31 - 1)], frames.FLOW_CONTROL_ERROR),
        ([number_frame(WINDOW_UPDATE, 5, 1)], frames.PROTOCOL_ERROR),
        ([frame(WINDOW_UPDATE, 0, 0, bytes(3))], frames.FRAME_SIZE_ERROR),
        ([number_frame(RST_STREAM, 1, 8)], frames.PROTOCOL_ERROR),
        ([frame(RST_STREAM, 0, 1, b"")], frames.FRAME_SIZE_ERROR),
        ([frame(PUSH_PROMISE, 4, 1, bytes(4))], frames.PROTOCOL_ERROR),
        ([frame(CONTINUATION, 4, 1, b"")], frames.PROTOCOL_ERROR),
        ([frame(PRIORITY, 0, 1, b"")], frames.FRAME_SIZE_ERROR),
        ([frame(DATA, 0, 1, b"x")], frames.PROTOCOL_ERROR),
        ([frame(DATA, 0, 0, b"x")], frames.PROTOCOL_ERROR),
        ([frame(HEADERS, END_HEADERS, 2, b"\x82")], frames.PROTOCOL_ERROR),
        ([frame(HEADERS, END_HEADERS, 0, b"\x82")], frames.PROTOCOL_ERROR),
        ([frame(HEADERS, END_HEADERS | PADDED, 1, b"\x09\x82")], frames.PROTOCOL_ERROR),
        ([frame(HEADERS, END_HEADERS | PADDED, 1, b"")], frames.PROTOCOL_ERROR),
        ([frame(HEADERS, END_HEADERS | 0x20, 1, b"\0\0")], frames.PROTOCOL_ERROR),
        ([frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\x7f")], frames.COMPRESSION_ERROR),
        ([frame(HEADERS, 0, 1, b"\x82"), frame(PING, 0, 0, bytes(8))], frames.PROTOCOL_ERROR),
        ([frame(HEADERS, 0, 1, b"\x82"), frame(DATA, 0, 1, b"")], frames.PROTOCOL_ERROR),
        ([frame(HEADERS, 0, 1, b"\x82"), frame(CONTINUATION, 4, 3, b"")], frames.PROTOCOL_ERROR),
        ([b"\xff\xff\xff" + bytes(6)], frames.FRAME_SIZE_ERROR),
    ],
)
def test_a_client_that_breaks_the_rules_is_told_which_and_closed(raw, served, sent, code):
    raw.send(*sent)
    assert raw.broken() == code
    raw.socket.close()
    served.until(lambda: not served.grpc.connections)


def test_within_a_call_the_rules_hold_too(connect_raw, served):
    for sent, code in (
        (lambda raw: frame(HEADERS, END_HEADERS, 1, raw.block()), frames.PROTOCOL_ERROR),
        (lambda raw: frame(DATA, PADDED, 1, b"\x05abc"), frames.PROTOCOL_ERROR),
    ):
        raw = connect_raw(served).send(GREETING)
        raw.send(frame(HEADERS, END_HEADERS, 1, raw.block()), sent(raw))
        assert raw.broken() == code


def test_whoever_speaks_http_1_is_told_so(connect_raw, served):
    raw = connect_raw(served).send(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    told = b""
    while piece := raw.socket.recv(1 << 16):
        told += piece
    assert told.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert told.endswith(b"this port speaks gRPC, over HTTP/2 alone\n")


def test_the_first_frame_is_settings(connect_raw, served):
    raw = connect_raw(served).send(PREFACE, frame(PING, 0, 0, bytes(8)))
    assert raw.broken() == frames.PROTOCOL_ERROR


edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 9), st.binary(max_size=9)), min_size=1, max_size=5
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=edits)
def test_garbage_ends_its_own_connection_at_most(connect_raw, served, edits):
    raw = connect_raw(served).send(GREETING)
    good = bytearray(raw.call(1) + raw.call(3, INFER, b"\x0a\x01x") + frame(PING, 0, 0, bytes(8)))
    for place, length, piece in edits:
        at = int(place * len(good))
        good[at : at + length] = piece
    raw.send(bytes(good))
    raw.socket.shutdown(socket.SHUT_WR)
    while raw.frame() is not None:
        pass
    raw.socket.close()
    served.until(lambda: not served.grpc.connections)
    assert 500 not in served.totals()[0].by_status
    assert 500 not in served.counted()


# -- what is bounded --


@pytest.mark.parametrize(
    "piece",
    [
        frame(PING, 0, 0, bytes(8)), frame(SETTINGS, 0, 0), frame(PRIORITY, 0, 1, bytes(5)),
        frame(0xBE, 0, 0),
    ],
    ids=["ping", "settings", "priority", "unknown"],
)  # fmt: skip
def test_a_flood_of_frames_that_ask_for_nothing_ends_the_connection(raw, piece):
    raw.socket.settimeout(WAIT_S)
    raw.send(piece * 1_900)
    raw.send(raw.call(1))
    assert raw.trailers(1) == {"grpc-status": "0"}
    raw.send(piece * 200)
    assert raw.broken() == frames.ENHANCE_YOUR_CALM


def test_a_flood_that_is_spread_over_time_is_none(raw, served):
    for round_ in range(3):
        raw.send(frame(PING, 0, 0, bytes(8)) * 1_900, raw.call(1 + 2 * round_))
        assert raw.trailers(1 + 2 * round_) == {"grpc-status": "0"}
        served.after(1)


def test_rapid_reset_ends_the_connection(raw, served):
    """CVE-2023-44487: calls that are made and given up at once cost a server what it has."""
    with pytest.raises((ConnectionError, AssertionError)):  # noqa: PT012 -- whoever notices first
        for id_ in range(1, 9_001, 2):
            raw.send(
                frame(HEADERS, END_HEADERS, id_, raw.block()), number_frame(RST_STREAM, id_, 8)
            )
        raw.trailers(9_001)
    counted = served.totals()[0].by_status
    assert set(counted) == {499}
    assert counted[499] <= 2_001


def headers(raw, ids, **more):
    return b"".join(frame(HEADERS, END_HEADERS, id_, raw.block(**more)) for id_ in ids)


def resets(ids):
    return b"".join(number_frame(RST_STREAM, id_, frames.CANCEL) for id_ in ids)


def assert_read(raw):
    """Returns once the server has read everything; it costs one frame that asks for nothing."""
    raw.send(frame(PING, 0, 0, b"all sent"))
    assert raw.until(PING)[3] == b"all sent"


@pytest.mark.parametrize("more", [{}, {"grpc_timeout": "10S"}], ids=["none", "not yet over"])
def test_calls_that_are_given_up_before_any_deadline_are_a_flood(raw, served, more):
    ids = range(3, 3 + 2 * IDLE_FRAMES_LEFT, 2)
    raw.send(headers(raw, [1]))
    for id_ in ids:
        raw.send(headers(raw, [id_], **more), resets([id_]))
    raw.send(frame(DATA, END_STREAM, 1, enclosed(b"")))
    assert raw.trailers(1) == {"grpc-status": "0"}
    raw.send(headers(raw, [9_001], **more), resets([9_001]))
    assert raw.broken() == frames.ENHANCE_YOUR_CALM
    assert served.totals()[0].by_status == {200: 1, 499: IDLE_FRAMES_LEFT + 1}


def test_calls_that_are_given_up_at_their_deadline_are_none_however_many(raw, served):
    """As every client does it; calls that it waits for on the same connection are answered."""
    raw.send(headers(raw, [1]))
    rounds = 11
    for number in range(rounds):
        ids = range(3 + 400 * number, 3 + 400 * (number + 1), 2)
        raw.send(headers(raw, ids, grpc_timeout="20m"))
        assert_read(raw)
        time.sleep(0.02)  # their deadline
        raw.send(resets(ids))
    raw.send(frame(DATA, END_STREAM, 1, enclosed(b"")))
    assert raw.trailers(1) == {"grpc-status": "0"}
    assert served.totals()[0].by_status == {200: 1, 504: 200 * rounds}

    raw.send(frame(PING, 0, 0, bytes(8)) * (IDLE_FRAMES_LEFT - rounds), raw.call(9_001))
    assert raw.trailers(9_001) == {"grpc-status": "0"}, "none of them was held against the client"
    raw.send(frame(PING, 0, 0, bytes(8)))
    assert raw.broken() == frames.ENHANCE_YOUR_CALM


def test_a_call_that_is_read_late_together_with_its_end_was_given_up_at_its_deadline(raw):
    """A loop that is behind reads both at once, and only knows when it read before that."""
    for number in range(11):
        ids = range(1 + 400 * number, 1 + 400 * (number + 1), 2)
        time.sleep(0.02)  # four deadlines in which the loop reads nothing
        raw.send(b"".join(headers(raw, [i], grpc_timeout="5m") + resets([i]) for i in ids))
        assert_read(raw)
    assert raw.send(raw.call(9_001)).trailers(9_001) == {"grpc-status": "0"}


def test_a_reset_that_crosses_with_its_answer_is_no_flood_and_a_second_one_is(raw):
    last = 2 * MAX_IDLE_FRAMES + 199
    for first in range(1, last, 200):
        ids = range(first, first + 200, 2)
        raw.send(*map(raw.call, ids))
        assert raw.trailers(ids[-1]) == {"grpc-status": "0"}
        raw.send(resets(ids))
    raw.send(resets([1]) * IDLE_FRAMES_LEFT, raw.call(last + 2))
    assert raw.trailers(last + 2) == {"grpc-status": "0"}
    raw.send(resets([last + 2]), resets([1]))
    assert raw.broken() == frames.ENHANCE_YOUR_CALM


def test_headers_without_end_end_the_connection(raw):
    """CVE-2024-27316 and its kin: CONTINUATION frames without number."""
    raw.send(frame(HEADERS, 0, 1, b"\x82"))
    raw.send(*[frame(CONTINUATION, 0, 1, bytes(1_000))] * 40)
    assert raw.broken() == frames.ENHANCE_YOUR_CALM


def test_headers_that_unpack_to_more_than_the_limit_end_the_connection(raw):
    """A few bytes name a long header again and again."""
    big = raw.encoder.encode([("x-big", "a" * 3_000)])
    again = raw.encoder.encode([("x-big", "a" * 3_000)])
    assert len(again) == 1
    raw.send(frame(HEADERS, END_HEADERS, 1, big + again * 20))
    assert raw.broken() == frames.COMPRESSION_ERROR


def test_more_calls_at_once_than_may_be_are_refused_and_may_be_made_again(
    serve_models, program, thread, connect_raw, ask_grpc
):
    running = serve_models(("fake", program, thread))
    raw = connect_raw(running).send(GREETING)
    program.gate.clear()
    message = ask_grpc([1, 2]).SerializeToString()
    for number in range(257):
        raw.send(raw.call(1 + 2 * number, INFER, message))
    _, _, id_, payload = raw.until(RST_STREAM)
    assert (id_, int.from_bytes(payload)) == (513, frames.REFUSED_STREAM)
    program.gate.set()
    assert raw.trailers(1)["grpc-status"] == "0"
    running.until(lambda: running.counted() == {200: 256})


@pytest.mark.parametrize(("more", "code"), [(0, "3"), (1, "3")])
def test_a_message_over_the_limit_is_refused_before_it_is_all_there(raw, served, more, code):
    limit = 1 << 20
    raw.send(frame(HEADERS, END_HEADERS, 1, raw.block(INFER)))
    raw.send(frame(DATA, 0, 1, b"\0" + (limit + more).to_bytes(4)))
    for _ in range(64):
        raw.send(frame(DATA, 0, 1, bytes(16_384)))
    raw.send(frame(DATA, 0 if more else END_STREAM, 1, bytes(more)))
    trailers = raw.trailers(1)
    assert trailers["grpc-status"] == code
    if more:
        assert "over 1048576 bytes" in trailers["grpc-message"]
        assert raw.until(RST_STREAM)[2:] == (1, bytes(4))
    assert served.totals()[0].by_status == {413 if more else 400: 1}


def test_many_unfinished_messages_are_bounded_together(raw, served):
    for id_ in (1, 3, 5):
        raw.send(frame(HEADERS, END_HEADERS, id_, raw.block(INFER)))
        for _ in range(60):
            raw.send(frame(DATA, 0, id_, bytes(16_384)))
    trailers = raw.trailers(5)
    assert trailers["grpc-status"] == "8"
    assert trailers["grpc-retry-pushback-ms"] == "1000"
    assert served.totals()[0].by_status == {429: 1}


@pytest.fixture
def narrow(serve_models, program, inline):
    return serve_models(("fake", program, inline), max_held_bytes=50_000)


def begun(raw, id_, size):
    """A call of which the rest has not come."""
    return frame(HEADERS, END_HEADERS, id_, raw.block(INFER)) + frame(DATA, 0, id_, bytes(size))


def test_unfinished_messages_are_bounded_over_all_connections_and_with_those_of_http(
    narrow, connect_raw, ask_grpc
):
    message = enclosed(ask_grpc([1, 2]).SerializeToString())
    raws = [connect_raw(narrow).send(GREETING) for _ in range(3)]
    with narrow.client() as client:
        client.send(b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 9001\r\n\r\n" + bytes(9_000))
        narrow.until(lambda: narrow.grpc.held.bytes == 9_000)
        raws[0].send(frame(HEADERS, END_HEADERS, 1, raws[0].block(INFER)))
        raws[0].send(frame(DATA, 0, 1, message[:20]))
        raws[1].send(begun(raws[1], 1, 16_000), begun(raws[1], 3, 16_000))
        narrow.until(lambda: narrow.grpc.held.bytes > 41_000)
        before = narrow.on_loop(lambda: narrow.grpc.held.bytes)

        raws[2].send(begun(raws[2], 1, 10_000))
        trailers = raws[2].trailers(1)
        assert trailers["grpc-status"] == "14"
        assert trailers["grpc-message"].startswith(
            "requests that cannot begin yet take all of the 50000 bytes"
        )
        assert trailers["grpc-retry-pushback-ms"] == "1000"
        assert raws[2].until(RST_STREAM)[2:] == (1, bytes(4))
        assert narrow.on_loop(lambda: narrow.grpc.held.bytes) == before
        # Calls that are whole, and those that were begun before, are answered.
        raws[2].send(raws[2].call(3, INFER, message[5:]))
        assert raws[2].trailers(3)["grpc-status"] == "0"
        raws[0].send(frame(DATA, END_STREAM, 1, message[20:]))
        assert raws[0].trailers(1)["grpc-status"] == "0"
    narrow.until(lambda: 32_000 < narrow.grpc.held.bytes < 33_000)
    assert narrow.totals()[0].by_status[503] == 1


def test_a_message_whose_end_is_there_is_answered_however_much_is_held(
    narrow, connect_raw, ask_grpc
):
    message = enclosed(ask_grpc(*[[1, 2]] * 1_000).SerializeToString())
    raws = [connect_raw(narrow).send(GREETING) for _ in range(2)]
    raws[0].send(frame(HEADERS, END_HEADERS, 1, raws[0].block(INFER)))
    raws[0].send(frame(DATA, 0, 1, message[:9_000]))
    narrow.until(lambda: narrow.grpc.held.bytes > 9_000)
    raws[1].send(begun(raws[1], 1, 16_000), begun(raws[1], 3, 16_000), begun(raws[1], 5, 8_000))
    narrow.until(lambda: narrow.grpc.held.bytes > 49_000)
    raws[0].send(frame(DATA, END_STREAM, 1, message[9_000:]))
    assert raws[0].trailers(1)["grpc-status"] == "0"
    narrow.until(lambda: 40_000 < narrow.grpc.held.bytes < 41_000)


def test_pieces_of_one_byte_are_bounded_by_what_they_take(narrow, connect_raw):
    raw = connect_raw(narrow).send(GREETING)
    raw.send(frame(HEADERS, END_HEADERS, 1, raw.block(INFER)))
    raw.send(frame(DATA, 0, 1, b"x") * 2_000)
    assert raw.trailers(1)["grpc-status"] == "14"
    assert narrow.on_loop(lambda: narrow.grpc.held.bytes) == 0


@pytest.mark.parametrize(
    "how", ["goes", "gives it up", "breaks the rules", "is too slow", "is cut"]
)
def test_what_has_come_of_a_call_is_not_counted_any_more_when_its_client(narrow, connect_raw, how):
    raw = connect_raw(narrow).send(GREETING)
    watching = "/grpc.health.v1.Health/Watch"
    raw.send(begun(raw, 1, 9_000), frame(DATA, 0, 1, bytes(9_000)))
    raw.send(frame(HEADERS, END_HEADERS, 3, raw.block(watching)), frame(DATA, 0, 3, bytes(4)))
    narrow.until(lambda: narrow.grpc.held.bytes == 18_004 + 3 * 64)
    if how == "goes":
        raw.socket.close()
    elif how == "gives it up":
        raw.send(*(frame(RST_STREAM, 0, id_, bytes(4)) for id_ in (1, 3)))
    elif how == "breaks the rules":
        raw.send(frame(DATA, 0, 9, b"x"))
        assert raw.broken() == frames.PROTOCOL_ERROR
    elif how == "is too slow":
        narrow.after(21)
    else:
        narrow.on_loop(lambda: [one.abort() for one in narrow.grpc.connections])
    narrow.until(lambda: narrow.grpc.held.bytes == 0)


def test_a_request_that_does_not_arrive_is_given_up(raw, served):
    raw.send(frame(HEADERS, END_HEADERS, 1, raw.block()), frame(PING, 0, 0, bytes(8)))
    raw.until(PING)
    served.after(19)
    assert served.totals()[0].by_status == {}
    served.after(2)
    assert raw.trailers(1)["grpc-status"] == "4"
    assert served.totals()[0].by_status == {504: 1}


def test_an_idle_connection_is_closed_and_told_so(raw, served):
    raw.send(raw.call(1)).trailers(1)
    served.after(74)
    raw.send(raw.call(3)).trailers(3)
    served.after(74)
    assert len(served.grpc.connections) == 1
    served.after(2)
    assert int.from_bytes(raw.until(GOAWAY)[3][:4]) == 2**31 - 1
    raw.send(raw.call(5))  # the client has not read it yet
    assert raw.trailers(5)["grpc-status"] == "0"
    served.after(2)
    assert raw.until(GOAWAY)[3] == (5).to_bytes(4) + frames.NO_ERROR.to_bytes(4)
    assert raw.frame() is None


@pytest.mark.parametrize("said", ["nothing", "a greeting", "pings"])
def test_a_connection_without_a_call_is_ended_after_a_time_of_its_own(connect_raw, served, said):
    raw = connect_raw(served)
    served.until(lambda: len(served.grpc.connections) == 1)
    if said != "nothing":
        raw.send(GREETING)
    served.after(9)
    if said == "pings":
        raw.send(frame(PING, 0, 0, bytes(8))).until(PING)
    assert not any(c._drained_s for c in served.grpc.connections)
    served.after(2)
    assert int.from_bytes(raw.until(GOAWAY)[3][:4]) == 2**31 - 1
    served.after(2)
    assert raw.broken() == frames.NO_ERROR


def test_a_client_that_takes_nothing_of_its_answer_is_given_up(raw, served, ask_grpc):
    raw.send(frames.settings([(frames.INITIAL_WINDOW_SIZE, 0)]))
    raw.send(raw.call(1, INFER, ask_grpc([1, 2]).SerializeToString()), frame(PING, 0, 0, bytes(8)))
    raw.until(PING)
    served.after(21)
    assert raw.until(RST_STREAM)[2:] == (1, frames.CANCEL.to_bytes(4))
    assert served.totals()[0].by_status == {499: 1}


@pytest.fixture
def patient(serve_models, program, inline):
    return serve_models(
        ("fake", program, inline), receive_timeout_s=20, least_bytes_per_s=1_000
    )  # fmt: skip


def asked(raw, ask_grpc, ids, rows, *, first_window):
    """Ask for an answer of 24 bytes a row on each of these streams."""
    message = ask_grpc(*[[1, 2]] * rows).SerializeToString()
    raw.send(GREETING, frames.settings([(frames.INITIAL_WINDOW_SIZE, first_window)]))
    for id_ in ids:
        pieces = [message[at : at + 16_384] for at in range(0, len(message), 16_384)]
        raw.send(frame(HEADERS, END_HEADERS, id_, raw.block(INFER)))
        raw.send(frame(DATA, 0, id_, b"\0" + len(message).to_bytes(4)))
        raw.send(*(frame(DATA, 0, id_, piece) for piece in pieces), frame(DATA, END_STREAM, id_))


def taken_until(raw, size):
    """Read frames until so many bytes of answers have come; returns them by their streams."""
    taken = {}
    while sum(taken.values()) < size:
        kind, _, id_, payload = raw.frame()
        assert kind not in (RST_STREAM, GOAWAY), payload
        if kind == DATA:
            taken[id_] = taken.get(id_, 0) + len(payload)
    return taken


def test_a_client_that_leaves_a_byte_of_room_now_and_then_is_given_up(
    patient, connect_raw, ask_grpc
):
    raw = connect_raw(patient)
    asked(raw, ask_grpc, [1], 1_000, first_window=0)
    for _ in range(3):
        raw.send(number_frame(WINDOW_UPDATE, 1, 1))
        assert taken_until(raw, 1) == {1: 1}
        patient.after(7)
    assert raw.until(RST_STREAM)[2:] == (1, frames.CANCEL.to_bytes(4))
    assert patient.totals()[0].by_status == {499: 1}
    assert raw.send(raw.call(3)).until(HEADERS)[2] == 3  # the connection does not end for it


def test_a_client_that_leaves_room_steadily_gets_all_however_large_the_answer(
    patient, connect_raw, ask_grpc
):
    raw = connect_raw(patient)
    asked(raw, ask_grpc, [1], 5_000, first_window=0)
    raw.send(number_frame(WINDOW_UPDATE, 0, 1 << 20))
    for _ in range(11):
        raw.send(number_frame(WINDOW_UPDATE, 1, 10_100))
        assert taken_until(raw, 10_100) == {1: 10_100}
        patient.after(10)
    raw.send(number_frame(WINDOW_UPDATE, 1, 10_100))
    assert raw.trailers(1)["grpc-status"] == "0"


def test_a_client_that_divides_its_room_between_calls_gets_all_of_them(
    patient, connect_raw, ask_grpc
):
    raw = connect_raw(patient)
    ids = [1, 3, 5, 7, 9]
    asked(raw, ask_grpc, ids, 500, first_window=0)
    for _ in range(5):
        for id_ in ids:
            raw.send(number_frame(WINDOW_UPDATE, id_, 2_100))
        assert taken_until(raw, 10_500) == dict.fromkeys(ids, 2_100)
        patient.after(10)
    for id_ in ids:
        raw.send(number_frame(WINDOW_UPDATE, id_, 9_000))
    ended = {raw.until(HEADERS)[2] for _ in ids}
    assert ended == set(ids)


def test_an_answer_that_waits_behind_another_is_not_given_up(patient, connect_raw, ask_grpc):
    raw = connect_raw(patient)
    asked(raw, ask_grpc, [1, 3], 5_000, first_window=frames.LARGEST_WINDOW)
    first = taken_until(raw, 65_535)
    assert first == {1: 65_535}  # as much as the connection has room for
    for _ in range(17):
        patient.after(10)
        raw.send(number_frame(WINDOW_UPDATE, 0, 10_100))
        taken_until(raw, 10_100)
    raw.send(number_frame(WINDOW_UPDATE, 0, 50_000))
    assert raw.trailers(3)["grpc-status"] == "0"
    assert patient.totals()[0].by_status == {}


def test_a_connection_that_leaves_a_byte_of_room_now_and_then_is_cut_off(
    patient, connect_raw, ask_grpc
):
    raw = connect_raw(patient)
    asked(raw, ask_grpc, [1, 3], 5_000, first_window=frames.LARGEST_WINDOW)
    taken_until(raw, 65_535)
    patient.after(1)
    for _ in range(3):
        raw.send(number_frame(WINDOW_UPDATE, 0, 1))
        taken_until(raw, 1)
        patient.after(7)
    patient.until(lambda: not patient.grpc.connections)
    assert patient.totals()[0].by_status == {499: 1}


@pytest.fixture
def large(patient, connect_raw, ask_grpc):
    """A connection on the way of which 24 MB of an answer are."""
    raw = connect_raw(patient)
    raw.send(GREETING, number_frame(WINDOW_UPDATE, 0, 1 << 30))
    asked_more = frames.LARGEST_WINDOW
    message = ask_grpc(*[[1, 2]] * 1_000_000).SerializeToString()
    raw.send(frames.settings([(frames.INITIAL_WINDOW_SIZE, asked_more)]))
    raw.send(frame(HEADERS, END_HEADERS, 1, raw.block(INFER)))
    raw.send(frame(DATA, 0, 1, b"\0" + len(message).to_bytes(4)))
    for at in range(0, len(message), 100_000):
        raw.send(frame(DATA, 0, 1, message[at : at + 100_000]))
    raw.send(frame(DATA, END_STREAM, 1))
    patient.until(
        lambda: any(c._transport.get_write_buffer_size() for c in patient.grpc.connections)
    )
    return raw


def test_a_client_that_takes_nothing_of_a_connection_is_cut_off(patient, large):
    patient.after(1)
    patient.after(19)
    assert len(patient.grpc.connections) == 1
    patient.after(2)
    patient.until(lambda: not patient.grpc.connections)
    assert patient.totals()[0].by_status == {499: 1}


def test_a_client_that_takes_a_large_answer_steadily_gets_all_of_it(patient, large):
    for _ in range(14):
        taken_until(large, 1_500_000)
        patient.after(10)
    assert large.trailers(1)["grpc-status"] == "0"


def test_more_connections_than_may_be_are_told_so(serve_models, program, inline, connect_raw):
    running = serve_models(("fake", program, inline), max_connections=1)
    first = connect_raw(running).send(GREETING)
    first.until(SETTINGS)
    second = connect_raw(running)
    assert second.broken() == frames.ENHANCE_YOUR_CALM
    assert first.send(first.call(1)).trailers(1) == {"grpc-status": "0"}


# -- single calls that are wrong --


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not exactly one message"),
        (b"\0\0\0\0", "not exactly one message"),
        (enclosed(b"") * 2, "not exactly one message"),
        (b"\0\0\0\0\x05a", "not exactly one message"),
        (b"\1\0\0\0\1a", "no grpc-encoding says how"),
        (b"\2\0\0\0\1a", "no grpc-encoding says how"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_data_that_are_not_one_message_are_invalid(raw, data, said, at_once):
    raw.send(frame(HEADERS, END_HEADERS, 1, raw.block()))
    if at_once:
        raw.send(frame(DATA, END_STREAM, 1, data))
    else:
        raw.send(frame(DATA, 0, 1, data), frame(DATA, END_STREAM, 1))
    trailers = raw.trailers(1)
    assert trailers["grpc-status"] == "3"
    assert said in trailers["grpc-message"]


@pytest.mark.parametrize(
    ("headers", "code", "status"),
    [
        ({"__method": "GET"}, "12", 415),
        ({"content_type": "text/plain"}, "12", 415),
        ({"content_type": "application/grpc+proto"}, "0", 200),
        ({"grpc_timeout": "10S"}, "0", 200),
        ({"grpc_timeout": "1x"}, "3", 400),
        ({"grpc_timeout": "-1S"}, "3", 400),
        ({"grpc_timeout": "123456789S"}, "3", 400),
        ({"grpc_timeout": "0m"}, "4", 504),
    ],
)
def test_headers_that_are_wrong_fail_their_call_alone(raw, served, headers, code, status):
    raw.send(raw.call(1, **headers), raw.call(3))
    assert raw.trailers(1)["grpc-status"] == code
    assert raw.trailers(3)["grpc-status"] == "0"
    expected = {200: 1}
    expected[status] = expected.get(status, 0) + 1
    assert served.totals()[0].by_status == expected


@pytest.mark.parametrize(
    "headers", [{"__method": "GET"}, {"content_type": "application/json"}, {"content_type": ""}]
)
def test_who_speaks_no_grpc_is_told_so_by_the_status_of_http_that_is_counted(raw, served, headers):
    """As the specification of gRPC has it: other clients would take 200 for an answer."""
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, raw.block(**headers)))
    told = raw.trailers(1)
    assert (told[":status"], told["grpc-status"]) == ("415", "12")
    assert "not a POST of application/grpc" in told["grpc-message"]
    assert served.totals()[0].by_status == {415: 1}
    assert raw.send(raw.call(3, LIVE + "ly")).trailers(3)[":status"] == "200"


def test_a_call_whose_deadline_is_over_when_it_is_all_there_is_not_run(
    raw, served, program, ask_grpc
):
    message = ask_grpc([1, 2]).SerializeToString()
    raw.send(headers(raw, [1], path=INFER, grpc_timeout="5m"))
    assert_read(raw)
    time.sleep(0.005)  # its deadline
    raw.send(frame(DATA, END_STREAM, 1, enclosed(message)))
    told = raw.trailers(1)
    assert told["grpc-status"] == "4"
    assert "after its deadline" in told["grpc-message"]
    assert program.runs == []
    assert served.counted() == {504: 1}
    raw.send(raw.call(3, INFER, message, grpc_timeout="5S"))
    assert raw.trailers(3) == {"grpc-status": "0"}


def test_an_encoding_that_is_not_known_is_unimplemented(raw):
    raw.send(frame(HEADERS, END_HEADERS, 1, raw.block(grpc_encoding="zstd")))
    raw.send(frame(DATA, END_STREAM, 1, b"\1\0\0\0\1a"))
    assert raw.trailers(1)["grpc-status"] == "12"


CALL = [(":method", "POST"), (":scheme", "http"), (":path", LIVE), (":authority", "here")]
GRPC = ("content-type", "application/grpc")


@pytest.mark.parametrize(
    "headers",
    [
        [*CALL, GRPC, ("X-Upper", "1")],
        [*CALL, ("Content-Type", "application/grpc")],
        [*CALL, GRPC, ("a b", "1")],
        [*CALL, GRPC, ("", "1")],
        [*CALL, GRPC, ("a:b", "1")],
        [*CALL[:3], GRPC, CALL[3]],
        [*CALL, GRPC, (":path", LIVE)],
        [*CALL, CALL[0], GRPC],
        [*CALL, (":status", "200"), GRPC],
        [*CALL, (":none", "1"), GRPC],
        [*CALL[1:], GRPC],
        [CALL[0], *CALL[2:], GRPC],
        [*CALL[:2], CALL[3], GRPC],
        [*CALL[:2], (":path", ""), GRPC],
        [*CALL, GRPC, ("connection", "close")],
        [*CALL, GRPC, ("keep-alive", "1")],
        [*CALL, GRPC, ("proxy-connection", "close")],
        [*CALL, GRPC, ("transfer-encoding", "chunked")],
        [*CALL, GRPC, ("upgrade", "h2c")],
        [*CALL, GRPC, ("te", "gzip")],
        [*CALL, GRPC, ("a", "b\r\nc: d")],
        [*CALL, GRPC, ("a", "b\0")],
        [*CALL, GRPC, ("a", " b")],
        [*CALL, GRPC, ("a", "b\t")],
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_headers_against_the_rules_of_http_2_reset_their_stream_alone(raw, served, headers, whole):
    """RFC 9113, 8.1.1: a request that is malformed is never answered, nor passed on."""
    for id_ in (1, 3):  # the second time they may be known
        block = raw.encoder.encode(headers, huffman=False)
        flags = END_HEADERS | (END_STREAM if whole else 0)
        raw.send(frame(HEADERS, flags, id_, block))
        reset = raw.until(RST_STREAM)
        assert reset[2:] == (id_, frames.PROTOCOL_ERROR.to_bytes(4))
        if not whole:
            raw.send(frame(DATA, END_STREAM, id_, enclosed(b"")))
    assert raw.send(raw.call(5)).trailers(5)["grpc-status"] == "0"
    assert served.totals()[0].by_status == {400: 2, 200: 1}


@pytest.mark.parametrize("trailer", [(":path", LIVE), ("Upper", "1"), ("connection", "close")])
def test_trailers_are_held_to_the_rules_too(raw, served, trailer):
    raw.send(frame(HEADERS, END_HEADERS, 1, raw.block()), frame(DATA, 0, 1, enclosed(b"")))
    block = raw.encoder.encode([trailer], huffman=False)
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
    assert raw.until(RST_STREAM)[2:] == (1, frames.PROTOCOL_ERROR.to_bytes(4))
    raw.send(frame(HEADERS, END_HEADERS, 3, raw.block()), frame(DATA, 0, 3, enclosed(b"")))
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, raw.encoder.encode([("sum", "1")])))
    assert raw.trailers(3)["grpc-status"] == "0"
    assert served.totals()[0].by_status == {400: 1, 200: 1}


def test_a_connection_that_asks_for_much_has_a_turn_at_a_time(served, connect_raw):
    greedy, calm = (connect_raw(served).send(GREETING) for _ in range(2))
    block = greedy.block("/none.Such/Method")
    calls = [frame(HEADERS, END_HEADERS | END_STREAM, id_, block) for id_ in range(1, 20_001, 2)]
    threading.Thread(target=greedy.send, args=calls).start()
    assert greedy.trailers(1)["grpc-status"] == "12"
    assert calm.send(calm.call(1)).trailers(1)["grpc-status"] == "0"
    assert served.totals()[0].by_status[404] < len(calls) / 2
    greedy.decoder.header_table.maxsize = 0
    assert greedy.trailers(2 * len(calls) - 1)["grpc-status"] == "12"
    assert served.on_loop(lambda: served.grpc.held.bytes) == 0


def test_the_connection_that_leaves_most_answers_unread_is_ended_when_it_is_too_much(
    serve_models, program, inline, connect_raw, ask_grpc
):
    served = serve_models(("fake", program, inline), max_body_bytes=50_000)
    shut, open_ = (connect_raw(served) for _ in range(2))
    asked(shut, ask_grpc, [*range(1, 21, 2)], 1_000, first_window=0)
    assert shut.broken() == frames.ENHANCE_YOUR_CALM
    served.until(lambda: served.grpc.backlog.unread.bytes == 0)
    asked(open_, ask_grpc, [1], 1_000, first_window=1 << 20)
    assert open_.trailers(1)["grpc-status"] == "0"


def test_watches_are_bounded_on_a_connection_and_end_with_it(raw, served, connect_raw):
    def watch(on, id_):
        return on.call(id_, "/grpc.health.v1.Health/Watch")

    raw.send(*(watch(raw, id_) for id_ in range(1, 2 * MAX_WATCHES + 2, 2)))
    assert raw.trailers(2 * MAX_WATCHES + 1)["grpc-status"] == "8"
    assert served.on_loop(lambda: served.grpc.watches) == MAX_WATCHES
    raw.send(number_frame(RST_STREAM, 1, frames.CANCEL), watch(raw, 2 * MAX_WATCHES + 3))
    raw.send(frame(PING, 0, 0, bytes(8))).until(PING)
    assert served.on_loop(lambda: served.grpc.watches) == MAX_WATCHES
    raw.socket.close()
    served.until(lambda: served.grpc.watches == 0)


def test_messages_of_a_stream_that_come_all_at_once_are_answered_in_turn(raw, served):
    """Each in a turn of the loop of its own, and no more than the client makes room for."""
    path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    raw.send(frame(HEADERS, END_HEADERS, 1, raw.block(path)))
    raw.send(frame(DATA, END_STREAM, 1, enclosed(b"\x3a\0") * 100))
    assert raw.trailers(1)["grpc-status"] == "0"
    assert served.totals()[0].by_status == {200: 1}
    assert served.on_loop(lambda: served.held.bytes) == 0


@given(st.floats(1e-9, 9e7), st.sampled_from("HMSmun"))
def test_a_timeout_is_read_with_its_unit(value, unit):
    number = min(int(value), 99_999_999)
    seconds = {"H": 3600, "M": 60, "S": 1, "m": 1e-3, "u": 1e-6, "n": 1e-9}[unit]
    assert frames.timeout_s(f"{number}{unit}".encode()) == pytest.approx(number * seconds)


@pytest.mark.parametrize("text", [b"", b"S", b"1", b"1s", b"1.5S", b"\xb2S"])
def test_what_is_no_timeout_is_refused(text):
    with pytest.raises(Invalid, match="grpc-timeout"):
        frames.timeout_s(text)


@given(st.text(max_size=50))
def test_words_are_encoded_so_that_clients_read_them(text):
    from urllib.parse import unquote

    encoded = frames.words_of(text)
    assert all(0x20 <= octet <= 0x7E for octet in encoded)
    assert unquote(encoded.decode()) == text


# -- leaving --


def goaway(raw):
    """The last stream and the code of the next GOAWAY."""
    payload = raw.until(GOAWAY)[3]
    return int.from_bytes(payload[:4]), int.from_bytes(payload[4:8])


def test_a_server_that_leaves_answers_what_it_was_sent_before_clients_heard_of_it(
    serve_models, program, thread, connect_raw, ask_grpc
):
    running = serve_models(("fake", program, thread))
    raw = connect_raw(running).send(GREETING)
    message = ask_grpc([1, 2]).SerializeToString()
    program.gate.clear()
    raw.send(raw.call(1, INFER, message))
    assert program.running.wait(WAIT_S)

    draining = asyncio.run_coroutine_threadsafe(running.grpc.drain(), running.loop)
    assert goaway(raw) == (2**31 - 1, frames.NO_ERROR)
    raw.send(raw.call(3, INFER, message))  # the client has not read it yet
    _, flags, _, data = raw.until(PING)
    assert not flags & frames.ACK
    # As grpcio writes them: a call that was begun goes after the acknowledgement.
    raw.send(frame(PING, frames.ACK, 0, data), raw.call(5, INFER, message))
    assert goaway(raw) == (5, frames.NO_ERROR)
    raw.send(raw.call(7, INFER, message))
    assert raw.until(RST_STREAM)[2:] == (7, frames.REFUSED_STREAM.to_bytes(4))
    assert not draining.done()
    program.gate.set()
    assert {id_: raw.trailers(id_)["grpc-status"] for id_ in (1, 3, 5)} == {1: "0", 3: "0", 5: "0"}
    assert raw.frame() is None
    raw.socket.close()
    draining.result(WAIT_S)
    assert running.counted() == {200: 3}


def test_a_server_that_leaves_ends_calls_at_its_limit_and_says_so(
    serve_models, program, thread, connect_raw, ask_grpc
):
    running = serve_models(("fake", program, thread), drain_s=0.1)
    raw = connect_raw(running).send(GREETING)
    message = ask_grpc([1, 2]).SerializeToString()
    program.gate.clear()
    raw.send(raw.call(1, INFER, message))
    raw.send(raw.call(3, INFER, message).removesuffix(message[-1:]))
    assert program.running.wait(WAIT_S)
    draining = asyncio.run_coroutine_threadsafe(running.grpc.drain(), running.loop)
    for stream in (1, 3):
        trailers = raw.trailers(stream)
        assert trailers["grpc-status"] == "14"
        assert "the%20server%20is%20stopping" in trailers["grpc-message"].replace(" ", "%20")
    draining.result(WAIT_S)
    program.gate.set()
    assert running.counted() == {503: 1}  # the other one has not come


def test_a_server_that_leaves_does_not_wait_for_a_client_that_does_not_listen(raw, served):
    raw.send(raw.call(1)).trailers(1)
    draining = asyncio.run_coroutine_threadsafe(served.grpc.drain(), served.loop)
    assert goaway(raw) == (2**31 - 1, frames.NO_ERROR)
    assert goaway(raw) == (1, frames.NO_ERROR)
    assert raw.frame() is None
    draining.result(WAIT_S)


def test_a_watcher_on_a_connection_that_was_idle_is_told_too_that_the_server_leaves(raw, served):
    served.after(76)
    assert goaway(raw) == (2**31 - 1, frames.NO_ERROR)
    watch = "/grpc.health.v1.Health/Watch"
    raw.send(frame(HEADERS, END_HEADERS, 1, raw.block(watch)), frame(DATA, 0, 1, enclosed(b"")))
    raw.until(DATA)
    asyncio.run_coroutine_threadsafe(served.grpc.drain(), served.loop)
    assert raw.trailers(1)["grpc-status"] == "14"


def test_a_client_that_breaks_the_rules_while_the_server_leaves_is_told_of_no_later_stream(
    raw, served
):
    """RFC 9113, 6.8: the last stream that a GOAWAY names never grows."""
    raw.send(raw.call(1)).trailers(1)
    draining = asyncio.run_coroutine_threadsafe(served.grpc.drain(), served.loop)
    stream = frame(HEADERS, END_HEADERS, 3, raw.block())
    raw.send(stream, frame(PING, frames.ACK, 0, raw.until(PING)[3]))
    assert goaway(raw) == (3, frames.NO_ERROR)
    raw.send(raw.call(5), frame(PING, 0, 0, b"short"))
    assert goaway(raw) == (3, frames.FRAME_SIZE_ERROR)
    assert raw.frame() is None
    draining.result(WAIT_S)


def test_a_server_that_leaves_tells_its_watchers(served, grpc_client):
    client = grpc_client(served)
    watch = client.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=WAIT_S)
    assert next(watch) == b"\x08\1"
    served.on_loop(lambda: setattr(served.site, "draining", True))
    draining = asyncio.run_coroutine_threadsafe(served.grpc.drain(), served.loop)
    assert next(watch) == b"\x08\2"
    with pytest.raises(grpc.RpcError) as ended:
        next(watch)
    assert ended.value.code().name == "UNAVAILABLE"
    draining.result(WAIT_S)
