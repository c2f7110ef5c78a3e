"""A body that decodes to many times its size delays no other client.

Each attack is made again and again beside eight calm clients; see `tests.attackers`.
"""

from __future__ import annotations

import zlib

import pytest
from tests.attackers import post, toll_of

pytestmark = pytest.mark.serial

GZIP = "Content-Encoding: gzip\r\n"
CSV = "Content-Type: text/csv\r\n"


def packed_repeat(piece, size, before=b"", after=b""):
    """`before`, then a piece for so many bytes, then `after`: in a thousandth of their size."""
    packer = zlib.compressobj(9, wbits=31)
    block = piece * max(1, (1 << 20) // len(piece))
    made = [packer.compress(block) for block in (before, *[block] * (size // len(block)), after)]
    return b"".join((*made, packer.flush()))


@pytest.fixture(scope="module")
def server(start, cancer_bundle):
    running = start(cancer_bundle)
    yield running
    running.end()
    running.process.stdout.close()


@pytest.fixture(scope="module")
def calm(cancer_bundle):
    """What the calm clients send."""
    body = (cancer_bundle / "data/example.json").read_bytes()
    return post("/v2/models/gb/infer", body)


@pytest.fixture
def toll(server, calm):
    def of(attack, seconds=1.0):
        made = toll_of(
            attack, port=server.port, pids=server.worker_pids(), request=calm, seconds=seconds
        )
        print(made)  # noqa: T201
        return made

    return of


BODY_BYTES = 60 << 20
"""Below what a body may have."""

JSONS = {
    "numbers": (b"1,", b"1]"),
    "floats": (b"1.25,", b"1]"),
    "nulls": (b"null,", b"1]"),
    "lists": (b"[],", b"[]]"),
    "rows": (b"[1,2],", b"[]]"),
    "objects": (b'{"a":1},', b"{}]"),
    "texts": (b'"ab",', b'""]'),
}
OIP = b'{"inputs":[{"name":"input","datatype":"FP64","shape":[1,30],"data":['
FORMS = {
    "oip": ("/v2/models/gb/infer", OIP),
    "invocations": ("/invocations", b"["),
    "split": ("/invocations", b'{"dataframe_split":{"data":['),
    "records": ("/invocations", b'{"dataframe_records":['),
    "tfserving": ("/v1/models/gb:predict", b'{"instances":['),
    "tfserving columns": ("/v1/models/gb:predict", b'{"inputs":{"a":['),
}  # fmt: skip
ENDS = {
    "oip": b"}]}",
    "invocations": b"",
    "split": b"}}",
    "records": b"}",
    "tfserving": b"}",
    "tfserving columns": b"}}",
}


BODIES = {
    "csv": ("/invocations", CSV, (b"1\n", b"", b"")),
    **{
        f"{form} of {values}": (FORMS[form][0], "", (piece, FORMS[form][1], last + ENDS[form]))
        for form in FORMS
        for values, (piece, last) in JSONS.items()
    },
}
QUICK = {"csv", "records of objects"}


@pytest.mark.parametrize(
    "body",
    [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in BODIES],
)
def test_a_small_body_of_millions_of_values_holds_up_nobody(toll, connect, server, body):
    path, headers, (piece, before, after) = BODIES[body]
    packed = packed_repeat(piece, BODY_BYTES, before, after)
    assert len(packed) < 250_000
    request = post(path, packed, GZIP + headers)

    def attack():
        with connect(server.port) as client:
            client.socket.settimeout(60)
            answer = client.send(request).answer()
        assert answer.status in (400, 413), answer

    toll(attack).assert_bearable()
