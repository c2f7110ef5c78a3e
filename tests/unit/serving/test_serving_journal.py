"""What is told of requests: their ids, the lines of the log, and the traces they belong to."""

from __future__ import annotations

import json
import logging
import re
import threading

import grpc
import pytest
from tests.unit.serving.conftest import INLINE, FakeProgram

from bascule.serving.telemetry import logs, request_log as log_module
from bascule.serving.telemetry.counters import MetricLabels
from bascule.serving.telemetry.request_log import (
    LogRecord,
    RequestLog,
    RequestLogConfig,
    line_of,
    request_id_of,
)
from bascule.serving.telemetry.trace_context import TraceContext, read_context

INFER = "/v2/models/m/infer"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
POISON = 13.0


def body(*numbers: float) -> dict[str, object]:
    tensor = {"name": "x", "datatype": "FP64", "shape": [1, 2], "data": list(numbers)}
    return {"inputs": [tensor]}


class Told:
    """Where a request log writes."""

    def __init__(self) -> None:
        self.text = b""

    def write(self, data: bytes) -> None:
        self.text += data

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.text.splitlines()]


class KeptSpans:
    """Keeps the spans that it is given."""

    def __init__(self) -> None:
        self.kept: list[tuple[LogRecord, TraceContext]] = []

    def add(self, note, context):
        self.kept.append((note, context))

    def close(self):
        pass


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def request_log(told):
    """A request log of all requests, in JSON."""
    made = RequestLog(RequestLogConfig("json", access_log=True), 3, write=told.write)
    yield made
    made.close()


@pytest.fixture
def quiet(told):
    """A request log of failures."""
    made = RequestLog(RequestLogConfig("json"), 3, write=told.write)
    yield made
    made.close()


def failing() -> FakeProgram:
    program = FakeProgram()
    program.poison = POISON
    return program


# -- ids --


def test_a_requests_id_comes_back_with_its_answer(serve_models):
    with serve_models(("m", FakeProgram(), INLINE)).client() as client:
        for said in ("abc", "a" * 128, "A-z_0.9:/+=@"):
            answer = client.request("POST", INFER, body(1, 2), f"X-Request-Id: {said}\r\n").answer()
            assert (answer.status, answer.headers["x-request-id"]) == (200, said)
        answer = client.request("POST", INFER, b"{", "X-Request-Id: bad\r\n").answer()
        assert (answer.status, answer.headers["x-request-id"]) == (400, "bad")


@pytest.mark.parametrize("said", ["a" * 129, "two words", 'quo"te', "\xe4", "a;b", "<b>", ""])
def test_an_id_that_could_harm_a_log_is_no_id(serve_models, said):
    with serve_models(("m", FakeProgram(), INLINE)).client() as client:
        client.request("POST", INFER, body(1, 2), f"X-Request-Id: {said}\r\n")
        answer = client.answer()
    assert answer.status == 200
    assert "x-request-id" not in answer.headers


def test_ends_of_lines_are_no_part_of_an_id():
    assert request_id_of(b"abc") == b"abc"
    assert request_id_of(b"abc\n") == b""
    assert request_id_of(b"abc\r\nSet-Cookie: a=b") == b""


def test_an_answer_to_nobodys_id_has_none_unless_it_failed(serve_models):
    with serve_models(("m", failing(), INLINE)).client() as client:
        assert "x-request-id" not in client.request("POST", INFER, body(1, 2)).answer().headers
        assert "x-request-id" not in client.request("POST", INFER, b"{").answer().headers
        failed = client.request("POST", INFER, body(POISON, 2)).answer()
        again = client.request("POST", INFER, body(POISON, 2)).answer()
    ids = [answer.headers["x-request-id"] for answer in (failed, again)]
    assert failed.status == again.status == 500
    assert ids[0] != ids[1]
    assert all(re.fullmatch("[0-9a-f]{16}-[0-9a-f]+", one) for one in ids)


def test_a_refused_request_gets_its_id_back(serve_models):
    with serve_models(("m", FakeProgram(), INLINE), max_body_bytes=10).client() as client:
        answer = client.request("POST", INFER, body(1, 2), "X-Request-Id: big\r\n").answer()
    assert (answer.status, answer.headers["x-request-id"]) == (413, "big")


def test_heads_that_differ_in_ids_and_traces_alone_are_remembered_once(serve_models):
    running = serve_models(("m", FakeProgram(), INLINE))
    with running.client() as client:
        for number in range(20):
            for header in ("X-Request-Id: id", "traceparent: ", "tracestate: a=", "Bascule-Id: "):
                said = f"{header}{number}\r\n"
                answer = client.request("POST", INFER, body(1, 2), said).answer()
                if header == "X-Request-Id: id":
                    assert answer.headers["x-request-id"] == f"id{number}"
        assert running.on_loop(lambda: len(running.site.known_heads)) == 4


@pytest.fixture
def infer_over_grpc(messages):
    """Calls, and returns the initial and the trailing metadata, and the code."""

    def infer(running, numbers, metadata=()):
        message = messages("ModelInferRequest")(model_name="m")
        tensor = message.inputs.add(name="x", datatype="FP64", shape=[1, 2])
        tensor.contents.fp64_contents.extend(numbers)
        with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            try:
                _, done = call.with_call(message.SerializeToString(), metadata=metadata, timeout=10)
            except grpc.RpcError as error:
                done = error
            return dict(done.initial_metadata() or ()), dict(done.trailing_metadata()), done.code()

    return infer


def test_ids_come_back_over_grpc(serve_models, infer_over_grpc, told, quiet):
    running = serve_models(("m", failing(), INLINE), request_log=quiet)

    first, _, code = infer_over_grpc(running, [1, 2], [("x-request-id", "mine")])
    assert (code, first["x-request-id"]) == (grpc.StatusCode.OK, "mine")
    first, last, code = infer_over_grpc(running, [1, 2])
    assert code is grpc.StatusCode.OK
    assert "x-request-id" not in first | last
    first, last, code = infer_over_grpc(running, [POISON, 2])
    given = (first | last)["x-request-id"]
    assert code is grpc.StatusCode.INTERNAL
    assert re.fullmatch("[0-9a-f]{16}-[0-9a-f]+", given)
    quiet.close()
    assert [line["request_id"] for line in told.lines] == [given]


def test_calls_with_ids_are_not_remembered_over_grpc(serve_models):
    running = serve_models(("m", FakeProgram(), INLINE))
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        live(b"", timeout=10)
        for number in range(10):
            live(b"", timeout=10, metadata=[("traceparent", f"{number}")])
        (connection,) = running.grpc.connections
        remembered = running.on_loop(lambda: list(connection.known_heads.values()))
    assert all(not head.traceparent for head in remembered)


# -- lines --


def test_a_failed_request_is_told_by_the_id_of_its_answer_and_never_by_its_input(
    serve_models, told, quiet, caplog
):
    with serve_models(("m", failing(), INLINE), request_log=quiet).client() as client:
        client.request("POST", INFER, body(1, 2)).answer()
        answer = client.request("POST", INFER, body(POISON, 8_128.5)).answer()
    quiet.close()
    (line,) = told.lines
    assert line.pop("time").endswith("Z")
    assert line.pop("duration_ms") > 0
    assert line == {
        "level": "error", "event": "request", "worker": 3, "model": "m", "version": "1",
        "status": 500, "error": "ModelFailed", "request_id": answer.headers["x-request-id"],
        "reason": line["reason"],
    }  # fmt: skip
    assert re.fullmatch(r"\w+ at conftest\.py:\d+ in run", line["reason"])
    assert "8128" not in told.text.decode() + caplog.text


def test_an_access_log_tells_of_every_request_once(serve_models, told, request_log):
    with serve_models(("m", FakeProgram(), INLINE), request_log=request_log).client() as client:
        client.request("POST", INFER, body(1, 2), f"traceparent: {SAMPLED}\r\n").answer()
        client.request("POST", INFER, b"{").answer()
        client.request("GET", "/v2/health/ready").answer()
        client.request("GET", "/nowhere?secret=1").answer()
    request_log.close()
    assert [(line["status"], line.get("model"), line.get("rows")) for line in told.lines] == [
        (200, "m", 1), (400, "m", None), (200, None, None), (404, None, None),
    ]  # fmt: skip
    assert [line.get("trace_id") for line in told.lines] == [TRACE, None, None, None]
    assert b"secret" not in told.text


def test_a_line_for_people_says_the_same():
    note = LogRecord(0.25, 503, 1_500_000, 0, MetricLabels("m", "2"), b"abc", "Unavailable")
    line = line_of(note, None, "text", 1).decode()
    assert line.endswith(
        ",250 WARNING request worker=1 request_id=abc model=m version=2 status=503"
        " duration_ms=1.5 error=Unavailable\n"
    )


def test_a_log_that_nobody_reads_holds_up_no_request_and_says_what_it_lost(
    told, monkeypatch, caplog
):
    monkeypatch.setattr(log_module, "_MAX_WAITING", 5)
    reading, writing = threading.Event(), threading.Event()

    def write(data: bytes) -> None:
        writing.set()
        assert reading.wait(10)
        told.write(data)

    made = RequestLog(RequestLogConfig("json", access_log=True), 0, write=write)

    def note(count: int) -> None:
        for _ in range(count):
            made.add(200, 1, 1, MetricLabels(), b"", "", b"", b"")

    note(1)
    assert writing.wait(10)
    note(8)
    reading.set()
    with caplog.at_level(logging.WARNING):
        made.close()
    assert len(told.lines) == 6
    assert "3 requests are not in this log" in caplog.text


def test_lines_are_written_whole_in_pieces_that_a_pipe_keeps_together():
    pieces: list[bytes] = []
    made = RequestLog(RequestLogConfig("json", access_log=True), 0, write=pieces.append)
    for _ in range(100):
        made.add(200, 1, 1, MetricLabels("m", "1"), b"i" * 100, "", b"", b"")
    made.close()
    assert sum(piece.count(b"\n") for piece in pieces) == 100
    assert all(piece.endswith(b"\n") and len(piece) <= 4096 for piece in pieces)


def test_what_libraries_log_has_the_same_form(capsys):
    before = logging.root.handlers[:], logging.root.level
    try:
        logs.start_logging("json", worker=2)
        try:
            raise ValueError("odd")
        except ValueError:
            logging.getLogger("some.library").exception("it %s", "broke")
        logs.start_logging("text", worker=2)
        logging.getLogger("some.library").warning("it is odd")
    finally:
        logging.root.handlers[:], logging.root.level = before[0], before[1]
    first, rest = capsys.readouterr().err.split("\n", 1)
    line = json.loads(first)
    assert (line["level"], line["event"], line["worker"]) == ("error", "it broke", 2)
    assert "ValueError: odd" in line["exception"]
    assert rest.endswith(" WARNING it is odd\n")


# -- traces --


@pytest.mark.parametrize(
    ("header", "read"),
    [
        (SAMPLED, (True, "")),
        (f"00-{TRACE}-{PARENT}-00", (False, "")),
        (f"00-{TRACE}-{PARENT}-fe", (False, "")),
        (f"00-{TRACE}-{PARENT}-ff", (True, "")),
        (f"01-{TRACE}-{PARENT}-01", (True, "")),
        (f"cc-{TRACE}-{PARENT}-01-what-comes", (True, "")),
        (f"00-{TRACE}-{PARENT}-01-what-comes", None),
        (f"00-{TRACE}-{PARENT}-01-", None),
        (f"cc-{TRACE}-{PARENT}-01.what", None),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{PARENT}-01", None),
        (f"00-{TRACE}-{PARENT}-1", None),
        (f"00-{TRACE}-{PARENT}", None),
        (f" {SAMPLED}", None),
        ("", None),
    ],
)
def test_a_traceparent_is_read_as_the_w3c_says(header, read):
    expected = read and TraceContext(int(TRACE, 16), int(PARENT, 16), *read)
    assert read_context(header.encode()) == expected


def test_a_tracestate_that_is_too_long_is_dropped_and_the_trace_kept():
    assert read_context(SAMPLED.encode(), b"a=b").state == "a=b"
    assert read_context(SAMPLED.encode(), b"a" * 512).state == "a" * 512
    assert read_context(SAMPLED.encode(), b"a" * 513).state == ""


def test_only_requests_of_a_sampled_trace_have_spans(serve_models, infer_over_grpc, told):
    spans = KeptSpans()
    request_log = RequestLog(RequestLogConfig("json"), 0, spans, write=told.write)
    headers = [
        f"traceparent: {SAMPLED}\r\ntracestate: a=1\r\ntracestate: b=2\r\n",
        f"traceparent: 00-{TRACE}-{PARENT}-00\r\n",
        f"traceparent: {SAMPLED}\r\ntraceparent: {SAMPLED}\r\n",
        "traceparent: nonsense\r\n",
        "",
    ]
    running = serve_models(("m", FakeProgram(), INLINE), request_log=request_log)
    with running.client() as client:
        for more in headers:
            assert client.request("POST", INFER, body(1, 2), more).answer().status == 200
    assert infer_over_grpc(running, [1, 2], [("traceparent", SAMPLED)])[2] is grpc.StatusCode.OK
    request_log.close()
    assert [(note.label, note.rows, context.state) for note, context in spans.kept] == [
        (MetricLabels("m", "1"), 1, "a=1,b=2"),
        (MetricLabels("m", "1"), 1, ""),
    ]
    assert told.lines == []
