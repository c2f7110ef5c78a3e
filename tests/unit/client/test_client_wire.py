"""Bytes and tensors of the client: nothing gets lost, and what is no answer is told as such."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from tests.tiers import examples

from bascule_client.addresses import parse_address
from bascule_client.errors import Invalid, Untrusted
from bascule_client.fields import DType, Field
from bascule_client.tensors import RequestOptions, answer_of, infer_request, put_together
from bascule_client.wire import MAX_BODY_BYTES, MAX_HEAD_BYTES, Reply, ReplyReader, Request, head_of

# -- HTTP --

REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: Y\r\n\r\nabc"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_reply_is_read_however_it_arrives(size):
    reader = ReplyReader()
    for start in range(0, len(REPLY), size):
        reply = reader.feed(REPLY[start : start + size])
    assert reply == Reply(200, {"content-length": "3", "x": "Y"}, b"abc")
    assert reader.keeps


@pytest.mark.parametrize(
    ("data", "body", "keeps"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", b"a", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b"", False),
        (b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + REPLY, b"abc", True),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end", False),
        # RFC 9112, 6.1: chunks are not of HTTP/1.0, so what follows them cannot be trusted.
        (
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1\r\na\r\n0\r\n\r\n",
            b"a",
            False,
        ),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na", b"a", True),
    ],
)
def test_every_form_of_an_end_is_known(data, body, keeps):
    reader = ReplyReader()
    reply = reader.feed(data) or reader.feed(b"")
    assert (reply.body, reader.keeps) == (body, keeps)


def read_to_the_end(data):
    reader = ReplyReader()
    if data:
        reader.feed(data)
    return reader.feed(b"")


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@given(st.lists(st.binary(min_size=1), max_size=5), st.lists(st.integers(0, 400), max_size=6))
def test_chunks_are_put_together_wherever_the_bytes_are_cut(chunks, cuts):
    body = b"".join(b"%X;note=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    data = CHUNKED + body + b"0\r\nTrailer: x\r\n\r\n"
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader = ReplyReader()
    for start, end in pairwise(places):
        if start < end:
            reader.feed(data[start:end])
    assert reader.reply.body == b"".join(chunks)
    assert reader.keeps


@pytest.mark.parametrize(
    "head",
    [b"HTTP/2 200 OK", b"HTTP/1.1 20 OK", b"HTTP/1.1 200 O\0K", b"HTTP/1.1 200\nX: y",
     b"HTTP/1.1 200 OK\r\nX : y", b"HTTP/1.1 200 OK\r\nX: y\r\n folded",
     b"HTTP/1.1 200 OK\r\nX: a\nY: b", b"HTTP/1.1 200 OK\r\nno colon",
     b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3",
     b"HTTP/1.1 200 OK\r\nContent-Length: +3", b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3",
     b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked"],
)  # fmt: skip
def test_a_head_that_two_parsers_could_read_differently_is_refused(head):
    with pytest.raises(ValueError, match="no HTTP"):
        ReplyReader().feed(head + b"\r\n\r\n")


def test_a_long_header_of_spaces_is_refused_in_no_time():
    """A pattern that can split the spaces in many ways would take minutes."""
    began_s = time.process_time()
    with pytest.raises(ValueError, match="no HTTP"):
        ReplyReader().feed(b"HTTP/1.1 200 OK\r\nX:" + b" " * 30_000 + b"\x01\r\n\r\n")
    assert time.process_time() - began_s < 1.0


def test_one_of_several_connection_headers_ends_the_connection():
    reader = ReplyReader()
    assert reader.feed(b"HTTP/1.1 204 A\r\nConnection: close\r\nConnection: x\r\n\r\n")
    assert not reader.keeps


@pytest.mark.parametrize("chunks", [b"g\r\n", b"-1\r\n", b"1\r\nab\r\n", b"0x1\r\na\r\n"])
def test_chunks_that_are_malformed_are_refused(chunks):
    with pytest.raises(ValueError, match="no HTTP"):
        ReplyReader().feed(CHUNKED + chunks)


def test_what_has_no_body_by_its_status_is_over_with_its_head():
    reader = ReplyReader()
    assert reader.feed(b"HTTP/1.1 204 No Content\r\n\r\n").body == b""
    assert reader.keeps


@pytest.mark.parametrize(("spare", "is_read"), [(0, True), (1, False)])
def test_a_head_may_be_as_long_as_its_limit_and_no_longer(spare, is_read):
    start = b"HTTP/1.1 204 No Content\r\nX: "
    data = start + b"y" * (MAX_HEAD_BYTES - len(start) + spare) + b"\r\n\r\n"
    if is_read:
        assert ReplyReader().feed(data).status == 204
    else:
        with pytest.raises(ValueError, match="too long"):
            ReplyReader().feed(data)


@pytest.mark.parametrize(
    "data", [b"", REPLY[:20], REPLY[:-1], b"SSH-2.0-x\r\n",
             b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_reply_or_half_of_one_is_told(data):
    with pytest.raises(ValueError, match=r"ended|HTTP|long"):
        read_to_the_end(data)


@pytest.mark.parametrize(
    ("header", "keeps"),
    [("X: y", True), ("Content-Length: 0", True), ("Content-Length: 3", False),
     ("Transfer-Encoding: chunked", False)],
)  # fmt: skip
def test_a_status_without_a_body_ends_with_its_head_whatever_the_head_says(header, keeps):
    """RFC 9112, 6.3. A server that announces a body all the same may send it afterwards."""
    reader = ReplyReader()
    reply = reader.feed(f"HTTP/1.1 204 None\r\n{header}\r\n\r\n".encode())
    assert (reply.status, reply.body, reader.keeps) == (204, b"", keeps)


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c", "change of protocol"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Encoding: gzip", "compressed"),
        ("HTTP/1.1 204 None\r\nContent-Length: 1_0", "malformed length"),
    ],
)
def test_what_was_not_asked_for_is_refused(head, problem):
    with pytest.raises(ValueError, match=problem):
        ReplyReader().feed(f"{head}\r\n\r\n".encode())


def test_no_coding_is_a_coding_too():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Encoding: Identity\r\n\r\na"
    assert ReplyReader().feed(head).body == b"a"


@pytest.mark.parametrize("form", ["length", "chunks", "end"])
@pytest.mark.parametrize(("size", "is_read"), [(8, True), (9, False)])
def test_a_body_may_be_as_large_as_its_limit_and_no_larger(monkeypatch, form, size, is_read):
    monkeypatch.setattr("bascule_client.wire.MAX_BODY_BYTES", 8)
    body = b"a" * size
    data = (
        b"HTTP/1.1 200 OK\r\n"
        + {
            "length": b"Content-Length: %d\r\n\r\n%b" % (size, body),
            "chunks": b"Transfer-Encoding: chunked\r\n\r\n"
            b"4\r\naaaa\r\n%x\r\n%b\r\n0\r\n\r\n" % (size - 4, body[4:]),
            "end": b"\r\n" + body,
        }[form]
    )
    if is_read:
        reader = ReplyReader()
        assert (reader.feed(data) or reader.feed(b"")).body == body
    else:
        with pytest.raises(ValueError, match="over 8 bytes"):
            ReplyReader().feed(data)


def test_a_length_over_the_limit_is_refused_before_its_body_comes():
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n"
    with pytest.raises(ValueError, match="over 2,147,483,648 bytes"):
        ReplyReader().feed(head.encode())


@pytest.mark.parametrize("length", ["+57", "5_7", "-1", " 57", "\u0665\u0667", "5.7", ""])
def test_the_length_of_the_json_of_an_answer_is_digits_alone(length):
    """`int` reads more than RFC 9110 allows."""
    body = b'{"outputs":[{"name":"y","datatype":"FP64","shape":[0],"data":[]}]}'
    assert list(answer_of(Reply(200, {"inference-header-content-length": str(len(body))}, body)))
    body = body.ljust(57 * 10)
    with pytest.raises(Untrusted, match="malformed length"):
        answer_of(Reply(200, {"inference-header-content-length": length}, body))


def test_bytes_after_a_reply_are_of_nobody():
    reader = ReplyReader()
    reader.feed(REPLY)
    with pytest.raises(ValueError, match="after the end"):
        reader.feed(REPLY)


def test_a_head_says_how_long_its_body_is_and_a_question_has_none():
    assert head_of(Request("GET", "/x"), "/in", "Host: h\r\n") == (
        b"GET /in/x HTTP/1.1\r\nHost: h\r\n\r\n"
    )
    assert b"Content-Length: 0\r\n" in head_of(Request("POST", "/x"), "", "Host: h\r\n")


# -- addresses --


@pytest.mark.parametrize(
    ("url", "host", "port", "header", "prefix"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1", 8080, "127.0.0.1:8080", ""),
        ("http://models.example/", "models.example", 80, "models.example", ""),
        ("https://[::1]:8443/a/b/", "::1", 8443, "[::1]:8443", "/a/b"),
        ("https://x", "x", 443, "x", ""),
    ],
)
def test_an_address_is_a_place_and_what_stands_in_front(url, host, port, header, prefix):
    made = parse_address(url)
    assert (made.host, made.port, made.host_header, made.prefix) == (host, port, header, prefix)
    assert (made.tls is not None) == url.startswith("https")


@pytest.mark.parametrize("url", ["unix:/run/b.sock", "unix:///run/b.sock"])
def test_a_socket_of_the_file_system_is_an_address(url):
    assert parse_address(url).unix_socket == "/run/b.sock"


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8080", "ftp://x", "http://", "http://x:99999", "http://x y", "unix:",
     "http://a:b@x", "http://x/?q=1", "http://x\r\nEvil: 1"],
)  # fmt: skip
def test_what_is_no_address_is_told_with_one_that_is(url):
    with pytest.raises(Invalid) as told:
        parse_address(url)
    assert "http://127.0.0.1:8080" in told.value.hint


def test_files_of_tls_need_an_address_of_tls_and_must_be_there(tmp_path):
    with pytest.raises(Invalid, match="not encrypted"):
        parse_address("http://x", tls_authority="ca.pem")
    with pytest.raises(Invalid, match="not encrypted"):
        parse_address("unix:/x", tls_key="k.pem")
    for name in ("tls_authority", "tls_certificate"):
        with pytest.raises(Invalid, match=f"{name}: .* cannot be used"):
            parse_address("https://x", **{name: tmp_path / "none.pem"})
    with pytest.raises(Invalid, match="tls_certificate is not"):
        parse_address("https://x", tls_key="k.pem")


# -- tensors --

NUMBERS = [dtype for dtype in DType if dtype is not DType.BYTES]


def echoed(request, dtypes):
    """The reply of a server that answers what it was sent, in the form in which it was sent."""
    headers = {name.lower(): value for name, value in request.headers}
    length = headers.get("inference-header-content-length")
    cut = int(length) if length else len(request.body)
    said = json.loads(request.body[:cut])
    head = json.dumps({"outputs": said["inputs"], "model_version": "1"}).encode()
    if length:
        headers = {"inference-header-content-length": str(len(head))}
    return Reply(200, headers, head + request.body[cut:])


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
@settings(max_examples=examples(25))
@given(data=st.data())
def test_every_number_comes_back_with_its_bits(dtype, as_json, data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=3))
    finite = {"allow_infinity": False, "allow_nan": False} if dtype.is_float else {}
    values = data.draw(
        hnp.arrays(dtype.numpy, shape, elements=hnp.from_dtype(dtype.numpy, **finite))
    )
    field = Field("x", dtype, shape[1:])
    request = infer_request("/", {"x": values}, (field,), RequestOptions(as_json=as_json))
    back = answer_of(echoed(request, dtype))["x"]

    assert (back.dtype, back.shape) == (values.dtype, values.shape)
    assert back.tobytes() == values.tobytes()
    assert back.flags.writeable
    assert back.flags.aligned


@given(st.lists(st.none() | st.text(), min_size=1), st.booleans())
def test_every_text_comes_back_and_so_does_a_missing_one(texts, as_json):
    values = np.array(texts, object)
    field = Field("t", DType.BYTES, nullable=True)
    request = infer_request("/", {"t": values}, (field,), RequestOptions(as_json=as_json))
    assert answer_of(echoed(request, DType.BYTES))["t"].tolist() == texts


@pytest.mark.parametrize("as_json", [False, True])
def test_half_of_a_pair_of_surrogates_is_refused_with_its_column(as_json):
    values = np.array(["\ud800"], object)
    with pytest.raises(Invalid, match="'t' holds half"):
        infer_request(
            "/", {"t": values}, (Field("t", DType.BYTES),), RequestOptions(as_json=as_json)
        )


def test_missing_numbers_are_null_and_infinite_ones_cannot_be_json():
    field = (Field("x", DType.FP64, nullable=True),)
    request = infer_request(
        "/", {"x": np.array([np.nan, 1.0])}, field, RequestOptions(as_json=True)
    )
    assert json.loads(request.body)["inputs"][0]["data"] == [None, 1.0]
    with pytest.raises(Invalid, match="'x' holds an infinite"):
        infer_request("/", {"x": np.array([np.inf])}, field, RequestOptions(as_json=True))


TENSOR = {"name": "x", "datatype": "FP64", "shape": [1]}


@pytest.mark.parametrize(
    ("outputs", "tail"),
    [
        (None, b""),
        ([{"name": "x", "datatype": "BF16", "shape": [1], "data": [1]}], b""),
        ([{**TENSOR, "shape": [2], "data": [1]}], b""),
        ([{**TENSOR, "data": ["a"]}], b""),
        ([{**TENSOR, "data": [float("nan")]}], b""),
        ([TENSOR], b""),
        ([{**TENSOR, "parameters": {"binary_data_size": 8}}], b"short"),
        ([{**TENSOR, "parameters": {"binary_data_size": 4}}], b"1234"),
        ([{**TENSOR, "datatype": "BYTES", "parameters": {"binary_data_size": 5}}], b"\x09\0\0\0a"),
        ([{**TENSOR, "datatype": "BYTES", "parameters": {"binary_data_size": 5}}], b"\1\0\0\0\xff"),
        (
            [
                {
                    **TENSOR,
                    "datatype": "BYTES",
                    "shape": [10**13],
                    "parameters": {"binary_data_size": 5},
                }
            ],
            b"\1\0\0\0a",
        ),
    ],
)
def test_what_is_no_answer_is_never_read_as_one(outputs, tail):
    head = json.dumps({"outputs": outputs}).encode()
    reply = Reply(200, {"inference-header-content-length": str(len(head))}, head + tail)
    with pytest.raises(Untrusted, match="no answer of the Open Inference Protocol"):
        answer_of(reply)


def test_parts_whose_answers_differ_in_shape_are_no_whole():
    def one(width):
        tensor = {**TENSOR, "shape": [1, width], "data": [0.0] * width}
        return answer_of(Reply(200, {}, json.dumps({"outputs": [tensor]}).encode()))

    assert put_together([one(2), one(2)])["x"].shape == (2, 2)
    with pytest.raises(Invalid, match="different shapes"):
        put_together([one(2), one(3)])
