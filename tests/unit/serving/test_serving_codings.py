"""Bodies and answers that are compressed for the way."""

from __future__ import annotations

import gzip
import json
import threading
import zlib

import pytest
from hypothesis import given, strategies as st

from bascule.core.errors import Invalid, TooLarge
from bascule.serving.codecs.compression import decoded, encoded, wanted

INFER = "/v2/models/m/infer"


def bare_deflate(body):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


PACKERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "GZip ": gzip.compress,
}


@pytest.mark.parametrize("coding", PACKERS)
@pytest.mark.parametrize("body", [b"", b"a", b"abc" * 10_000])
def test_a_body_is_what_it_was(coding, body):
    assert decoded(PACKERS[coding](body), coding.encode(), 30_000) == body


def test_deflate_is_taken_without_its_frame_as_some_send_it():
    assert decoded(bare_deflate(b"abc"), b"deflate", 10) == b"abc"


@given(st.binary(max_size=500), st.sampled_from([b"gzip", b"deflate"]))
def test_what_is_packed_is_unpacked(body, coding):
    assert decoded(encoded(body, coding), coding, 500) == body


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize(("size", "fits"), [(1_000, True), (1_001, False), (10_000_000, False)])
def test_what_a_body_becomes_is_bounded(coding, size, fits):
    packed = PACKERS[coding](b"0" * size)
    if fits:
        assert len(decoded(packed, coding.encode(), 1_000)) == size
        return
    with pytest.raises(TooLarge, match="over 1000 bytes once it is decompressed"):
        decoded(packed, coding.encode(), 1_000)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_body_that_is_cut_off_damaged_or_followed_by_more_is_refused(coding):
    packed = PACKERS[coding](b"abc" * 100)
    for cut in range(len(packed)):
        with pytest.raises(Invalid):
            decoded(packed[:cut], coding.encode(), 1_000)
    with pytest.raises(Invalid, match="goes on after the end"):
        decoded(packed + b"\0", coding.encode(), 1_000)
    with pytest.raises(Invalid, match="goes on after the end"):
        decoded(packed + packed, coding.encode(), 1_000)
    with pytest.raises(Invalid, match=f"the body is not {coding}"):
        decoded(packed[:-1] + bytes([packed[-1] ^ 1]), coding.encode(), 1_000)
    with pytest.raises(Invalid):
        decoded(b'{"inputs": []}', coding.encode(), 1_000)


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip", b"", b"\xff"])
def test_another_coding_is_refused_by_name(coding):
    with pytest.raises(Invalid, match="is not supported"):
        decoded(b"", coding, 1_000)


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (b"gzip", b"gzip"),
        (b"deflate", b"deflate"),
        (b"gzip, deflate, br, zstd", b"gzip"),
        (b"deflate, gzip;q=0.5", b"deflate"),
        (b"GZIP;q=1.0", b"gzip"),
        (b"*", b"gzip"),
        (b"*;q=0.1, gzip;q=0", b"deflate"),
        (b"identity", b""),
        (b"br", b""),
        (b"gzip;q=0", b""),
        (b"gzip;q=x", b""),
        (b"gzip;q=0, *;q=0", b""),
        (b"", b""),
        (b",;=,q=", b""),
    ],
)
def test_the_coding_of_an_answer_is_the_one_that_is_liked_best(accept, coding):
    assert wanted(accept) == coding


# -- over the wire --


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_request_is_answered(serve_models, program, inline, ask, coding):
    server = serve_models(("m", program, inline))
    body = PACKERS[coding](json.dumps(ask([1, 2])).encode())
    with server.client() as client:
        for _ in range(3):  # the second time the head is known
            answer = client.request("POST", INFER, body, f"Content-Encoding: {coding}\r\n").answer()
            assert answer.status == 200
            assert answer.json["outputs"][0]["data"] == [2, 4]


@pytest.mark.parametrize("rows", [1, 2_000, 20_000])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_long_answer_is_compressed_for_who_asks_and_the_same_inside(
    serve_models, program, inline, ask, rows, coding
):
    """The longest is compressed on a thread."""
    server = serve_models(("m", program, inline))
    body = ask(*[[i, 1.0] for i in range(rows)], id="1")
    with server.client() as client:
        plain = client.request("POST", INFER, body).answer()
        packed = client.request("POST", INFER, body, f"Accept-Encoding: {coding}\r\n").answer()
        after = client.request("GET", "/v2").answer()

    assert "content-encoding" not in plain.headers
    assert after.status == 200
    if rows == 1:
        assert "content-encoding" not in packed.headers
        assert packed.body == plain.body
        return
    assert packed.headers["content-encoding"] == coding
    assert packed.headers["vary"] == "Accept-Encoding"
    assert len(packed.body) < len(plain.body) / 2
    assert decoded(packed.body, coding.encode(), 10**8) == plain.body


def test_an_answer_that_cannot_be_compressed_is_a_failure_and_not_a_silence(
    serve_models, program, inline, ask, monkeypatch, caplog
):
    def fails(body, coding):
        raise MemoryError

    monkeypatch.setattr("bascule.serving.codecs.compression.encoded", fails)
    server = serve_models(("m", program, inline))
    with server.client() as client:
        for rows in (3_000, 60_000):
            body = ask(*[[1, 2]] * rows)
            answer = client.request("POST", INFER, body, "Accept-Encoding: gzip\r\n").answer()
            assert answer.status == 500
            assert "the server's log" in answer.json["error"]
            assert "content-encoding" not in answer.headers
    assert server.counted() == {500: 2}


def test_a_client_that_leaves_while_its_answer_is_compressed_is_counted_as_gone(
    serve_models, program, inline, ask, monkeypatch
):
    server = serve_models(("m", program, inline))
    begun, go_on = threading.Event(), threading.Event()

    def slowly(body, coding):
        begun.set()
        assert go_on.wait(10)
        return encoded(body, coding)

    monkeypatch.setattr("bascule.serving.codecs.compression.encoded", slowly)
    with server.client() as client:
        client.request("POST", INFER, ask(*[[1, 2]] * 60_000), "Accept-Encoding: gzip\r\n")
        assert begun.wait(10)
    server.until(lambda: not server.site.connections)
    go_on.set()
    server.until(lambda: server.counted().get(499) == 1)
    assert server.counted() == {499: 1}
