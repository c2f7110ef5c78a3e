"""A page of a browser points a name of its own at the loopback address, and asks the server."""

from __future__ import annotations

import contextlib
import socket
import struct

import grpc
import hpack
import pytest
from tests.conftest import start_server
from tests.http2_caller import END_HEADERS, HEADERS, SETTINGS, frame

OURS = [
    "localhost", "localhost:1", "LOCALHOST:8080", "localhost.", "models.localhost:80",
    "127.0.0.1", "127.8.9.10:65535", "[::1]", "[::1]:8080",
]  # fmt: skip
THEIRS = [
    "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example",
    "xlocalhost", "127.0.0.1:80@evil.example", "10.0.0.1", "0.0.0.0:8080", "2130706433",
    "[fe80::1]", "",
]  # fmt: skip
PATHS = ["/v2/health/live", "/v2/models/gb", "/nowhere", "/metrics"]


@pytest.fixture(scope="module")
def server(cancer_bundle, tmp_path_factory):
    socket_path = tmp_path_factory.mktemp("s") / "socket"
    server = start_server(
        cancer_bundle, "--grpc-port=0", env={"BASCULE_SERVING__UNIX_SOCKET": str(socket_path)}
    )
    server.unix_socket = socket_path
    yield server
    server.end()
    server.process.stdout.close()


def ask(connect, port, head):
    with connect(port) as client:
        return client.send(head.encode() + b"\r\n\r\n").answer()


@pytest.mark.parametrize("host", OURS)
@pytest.mark.parametrize("port", ["port", "control_port"])
def test_names_of_the_loopback_address_are_answered(server, connect, host, port):
    path = "/health" if port == "control_port" else "/v2/health/live"
    assert ask(connect, getattr(server, port), f"GET {path} HTTP/1.1\r\nHost: {host}").status == 200


@pytest.mark.parametrize("host", THEIRS)
@pytest.mark.parametrize("port", ["port", "control_port"])
def test_no_other_name_is_answered_on_any_path(server, connect, host, port):
    for path in (*PATHS, "/health", "/docs"):
        answer = ask(connect, getattr(server, port), f"GET {path} HTTP/1.1\r\nHost: {host}")
        assert answer.status in (400, 403)  # 400: it is no host at all
        if answer.status == 403:
            assert "serving.allowed_hosts" in answer.json["error"]


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:3000", 200), ("https://127.0.0.1", 200), ("http://[::1]:1", 200),
        ("HTTP://LOCALHOST", 200), ("http://app.localhost:3000", 200),
        ("null", 403), ("http://evil.example", 403), ("https://localhost.evil.example", 403),
        ("http://localhost@evil.example", 403), ("file://", 403), ("localhost", 403), ("", 403),
    ],
)  # fmt: skip
@pytest.mark.parametrize("port", ["port", "control_port"])
def test_a_page_from_elsewhere_is_refused_whatever_host_it_names(
    server, connect, origin, expected, port
):
    path = "/health" if port == "control_port" else "/v2/health/live"
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}"
    assert ask(connect, getattr(server, port), head).status == expected


def test_two_hosts_or_two_origins_are_not_answered(server, connect):
    for name in ("Host", "Origin"):
        value = "localhost" if name == "Host" else "http://localhost"
        head = (
            f"GET /v2 HTTP/1.1\r\nHost: localhost\r\n{name}: {value}\r\n{name}: http://evil.example"
        )
        assert ask(connect, server.port, head).status in (400, 403)
        assert ask(connect, server.control_port, head).status in (400, 403)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("http://localhost/v2/health/live", 200), ("http://127.0.0.1:80/v2/health/live", 200),
        ("http://evil.example/v2/health/live", 403), ("HTTP://evil.example/v2/health/live", 403),
        ("http://localhost@evil.example/v2/health/live", 403),
        ("http://evil.example?/localhost", 403),
    ],
)  # fmt: skip
def test_a_target_in_absolute_form_names_a_host_too(server, connect, target, expected):
    head = f"GET {target} HTTP/1.1\r\nHost: localhost"
    assert ask(connect, server.port, head).status == expected
    old = ask(connect, server.port, f"GET {target} HTTP/1.0")
    assert old.status == expected


def test_a_request_without_a_host_comes_from_no_browser(server, connect):
    assert ask(connect, server.port, "GET /v2/health/live HTTP/1.0").status == 200
    assert (
        ask(connect, server.port, "GET /v2/health/live HTTP/1.0\r\nHost: evil.example").status
        == 403
    )


def test_what_is_remembered_of_a_head_includes_the_verdict(server, connect, cancer_bundle):
    body = (cancer_bundle / "data/example.json").read_bytes()
    head = "POST /v2/models/gb/infer HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n"
    for host, expected in [("evil.example", 403), ("localhost", 200)] * 3:
        with connect(server.port) as client:
            request = head.format(host, len(body)).encode() + body
            assert client.send(request).answer().status == expected


def test_a_socket_of_the_file_system_answers_to_any_name_and_teaches_the_port_none(server, connect):
    request = b"GET /v2/health/live HTTP/1.1\r\nHost: bascule\r\n\r\n"
    for _ in range(3):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(str(server.unix_socket))
            client.sendall(request)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        with connect(server.port) as client:
            assert client.send(request).answer().status == 403


def grpc_code(port, authority):
    options = [("grpc.default_authority", authority)] if authority else []
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        try:
            call(b"", timeout=10)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", ""


@pytest.mark.parametrize("authority", ["", "localhost:1", "127.0.0.1", "[::1]:5", "%5B::1%5D:5"])
def test_grpc_answers_to_names_of_the_loopback_address(server, authority):
    assert grpc_code(server.grpc_port, authority)[0] == "OK"


@pytest.mark.parametrize("authority", ["evil.example", "evil.example:443", "10.0.0.1:1"])
def test_grpc_answers_to_no_other_authority(server, authority):
    for _ in range(2):
        code, words = grpc_code(server.grpc_port, authority)
        assert code == "PERMISSION_DENIED"
        assert "serving.allowed_hosts" in words


@pytest.mark.parametrize("name", ["host", "origin"])
def test_grpc_looks_at_host_and_origin_beside_the_authority(server, name):
    encoder = hpack.Encoder()
    block = encoder.encode(
        [
            (":method", "POST"), (":scheme", "http"),
            (":path", "/inference.GRPCInferenceService/ServerLive"), (":authority", "localhost"),
            ("content-type", "application/grpc"), (name, "http://evil.example"),
        ]
    )  # fmt: skip
    with socket.create_connection(("127.0.0.1", server.grpc_port), 10) as client:
        client.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(SETTINGS, 0, 0)
            + frame(HEADERS, END_HEADERS, 1, block)
        )
        assert _status_of(client) == "7"


def _status_of(client):
    decoder, rest = hpack.Decoder(), b""
    while True:
        rest += client.recv(1 << 16)
        while len(rest) >= 9 and len(rest) >= (stop := 9 + int.from_bytes(rest[:3])):
            kind, _, _ = struct.unpack_from(">BBI", rest, 3)
            if kind == HEADERS:
                named = dict(decoder.decode(rest[9:stop]))
                if "grpc-status" in named:
                    return named["grpc-status"]
            rest = rest[stop:]


def test_allowed_hosts_restrict_listeners_beyond_the_loopback_address_and_open_this_one(
    serve, connect, cancer_bundle
):
    allowed = '["models.example", "*.corp.example"]'
    beyond = serve(
        cancer_bundle, "--host=0.0.0.0",
        env={
            "BASCULE_SERVING__ALLOWED_HOSTS": allowed, "BASCULE_SECURITY__CALLERS": "anybody",
        },
    )  # fmt: skip
    for host, expected in [
        ("models.example", 200), ("MODELS.example.:1", 200), ("a.corp.example", 200),
        ("localhost", 200), ("10.0.0.1:8080", 200), ("evil.example", 403), ("corp.example", 403),
    ]:  # fmt: skip
        for port, path in ((beyond.port, "/v2/health/live"), (beyond.control_port, "/health")):
            assert ask(connect, port, f"GET {path} HTTP/1.1\r\nHost: {host}").status == expected, (
                host
            )


@pytest.mark.slow
def test_beyond_the_loopback_address_and_behind_keys_every_name_is_answered(
    serve, connect, cancer_bundle, tmp_path
):
    keyed = serve(
        cancer_bundle,
        env={"BASCULE_SECURITY__CALLERS": "keys", "BASCULE_HOME": str(tmp_path / "home")},
    )
    for port, path in ((keyed.port, "/v2/health/live"), (keyed.control_port, "/health")):
        assert ask(connect, port, f"GET {path} HTTP/1.1\r\nHost: models.example").status == 200
