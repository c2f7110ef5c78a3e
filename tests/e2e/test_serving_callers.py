"""Who is let in by a running server: keys in every worker, certificates, a socket of files."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack

import grpc
import httpx
import pytest
from tests.pace import is_within
from tests.scenarios.commands import run
from tests.tiers import first_of
from tests.waiting import until

WITHIN_S = 10


def bascule(home, *arguments, fails=False):
    code, out, errors = run(home, *arguments, "--json")
    assert (code != 0) == fails, errors
    return json.loads(out or errors)


def refused(home, *arguments):
    """What a server says that does not start; its sockets are closed with its process."""
    ended = subprocess.run(
        [sys.executable, "-m", "bascule.cli", "serve", *map(str, arguments), "--json"],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "BASCULE_HOME": str(home)},
    )  # fmt: skip
    assert ended.returncode != 0
    return json.loads(ended.stdout or ended.stderr)


# -- keys --


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def asked(serve, cancer_bundle, home):
    """A server of two workers that asks for keys."""
    return serve(
        cancer_bundle,
        "--workers=2",
        env={"BASCULE_HOME": str(home), "BASCULE_SECURITY__CALLERS": "keys"},
    )


def statuses(connect, server, token, body, connections=12):
    """What every worker answers: connections are spread over them by the kernel."""
    header = f"Authorization: Bearer {token}\r\n"
    found = set()
    for _ in range(connections):
        with connect(server.port) as client:
            found.add(client.request("POST", "/v2/models/gb/infer", body, header).answer().status)
    return found


@pytest.mark.serial
def test_a_key_opens_all_workers_and_when_it_is_revoked_none_within_a_second(
    asked, connect, body, home
):
    assert statuses(connect, asked, "x", body) == {401}
    made = bascule(home, "keys", "create", "scoring", "--allow", "infer:gb")
    until(lambda: statuses(connect, asked, made["token"], body) == {200})
    header = {"Authorization": f"Bearer {made['token']}"}
    control = f"http://127.0.0.1:{asked.control_port}"
    assert httpx.get(f"{control}/api/v1/models/gb/history", headers=header).status_code == 404
    assert httpx.get(f"{control}/api/v1/models", headers=header).status_code == 403
    assert httpx.get(f"{control}/api/v1/models").status_code == 401
    assert httpx.get(f"{control}/health").status_code == 200

    bascule(home, "keys", "revoke", "scoring")
    revoked_s = time.monotonic()
    until(lambda: statuses(connect, asked, made["token"], body) == {401})
    took_s = time.monotonic() - revoked_s
    print(f"revoked in every worker {took_s:.2f} s after the command")  # noqa: T201
    assert is_within(took_s, 1.0)
    assert httpx.get(f"{control}/api/v1/models/gb/history", headers=header).status_code == 401


@pytest.mark.slow
def test_a_worker_that_is_started_again_knows_the_keys(asked, connect, body, home):
    token = bascule(home, "keys", "create", "scoring", "--allow", "infer:gb")["token"]
    until(lambda: statuses(connect, asked, token, body) == {200})
    for pid in asked.worker_pids():
        os.kill(pid, signal.SIGKILL)
    until(lambda: statuses(connect, asked, token, body) == {200})
    assert statuses(connect, asked, "x", body) == {401}


@pytest.mark.slow
def test_the_keys_of_a_catalogue_that_is_away_stay(asked, connect, body, home):
    token = bascule(home, "keys", "create", "scoring", "--allow", "infer:gb")["token"]
    until(lambda: statuses(connect, asked, token, body) == {200})
    (home / "catalogue.db").rename(home / "away.db")
    (home / "catalogue.db").mkdir()

    assert statuses(connect, asked, token, body) == {200}
    os.kill(asked.worker_pids()[0], signal.SIGKILL)
    until(lambda: len(asked.worker_pids()) == 2)
    until(lambda: statuses(connect, asked, token, body) == {200})


def test_the_commands_show_what_was_made_and_never_the_token(home):
    made = bascule(home, "keys", "create", "ci", "--allow", "read:*", "--expires", "90d")
    (listed,) = bascule(home, "keys", "list")
    assert listed["name"] == "ci"
    assert listed["state"] == "live"
    assert made["token"] not in json.dumps(listed)
    assert "token_sha256" not in listed
    assert bascule(home, "keys", "revoke", listed["id"])["state"] == "revoked"
    again = bascule(home, "keys", "revoke", "nobody", fails=True)
    assert "no key 'nobody'" in again["error"]


# -- TLS --


def tls_client(authority, certificate=None):
    context = ssl.create_default_context(cafile=str(authority.root))
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return httpx.Client(verify=context, timeout=60)  # the control process may still be starting


def tls_serve(serve, cancer_bundle, certificate, **more):
    return serve(
        cancer_bundle,
        f"--tls-certificate={certificate[0]}",
        f"--tls-key={certificate[1]}",
        **more,
    )


@pytest.fixture(scope="module")
def tls_server(start, cancer_bundle, authority):
    """`tls_server(certificate)`: a server within TLS on all ports, one for each certificate."""
    with ExitStack() as stack:

        @functools.cache
        def serving(certificate, **more):
            server = tls_serve(
                start, cancer_bundle, authority(certificate),
                env={"BASCULE_SERVING__GRPC_PORT": "0", **more},
            )  # fmt: skip
            stack.callback(server.process.stdout.close)
            stack.callback(lambda: _ends_well(server))
            return server

        yield serving


def _ends_well(server):
    assert server.end() == 0


def test_both_ports_speak_tls_and_nothing_else(tls_server, authority, body, connect):
    server = tls_server("server")
    with tls_client(authority) as client:
        for _ in range(3):  # on one connection
            url = f"https://127.0.0.1:{server.port}/v2/models/gb/infer"
            assert client.post(url, content=body).status_code == 200
        control = f"https://127.0.0.1:{server.control_port}/health"
        assert client.get(control).json()["ready"] is True
        big = client.post(url, content=body, headers={"Connection": "close"})
        assert big.status_code == 200
    with connect(server.port) as client, pytest.raises((OSError, AssertionError)):
        client.request("GET", "/v2/health/live").answer()


def test_a_renewed_certificate_is_taken_up_while_serving(tls_server, authority):
    server = tls_server("server")

    def serial():
        context = ssl.create_default_context(cafile=str(authority.root))
        with (
            socket.create_connection(("127.0.0.1", server.port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as wrapped,
        ):
            return wrapped.getpeercert()["serialNumber"]

    before = serial()
    authority("server")
    until(lambda: serial() != before)


def test_with_an_authority_of_clients_only_theirs_are_let_in(tls_server, authority, body):
    server = tls_server("guarded", BASCULE_SERVING__TLS_CLIENT_AUTHORITY=str(authority.root))
    url = f"https://127.0.0.1:{server.port}/v2/models/gb/infer"
    with tls_client(authority, authority("client")) as client:
        assert client.post(url, content=body).status_code == 200
        assert client.get(f"https://127.0.0.1:{server.control_port}/health").status_code == 200
    with tls_client(authority) as client:
        for port in (server.port, server.control_port):
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectError)):
                client.get(f"https://127.0.0.1:{port}/health")


@pytest.mark.parametrize(
    ("options", "told"),
    first_of(
        [
            (["--tls-certificate={0}"], "serving.tls_key is missing"),
            (["--tls-key={1}"], "serving.tls_certificate is missing"),
            (["--tls-certificate={0}", "--tls-key=nothing.pem"], "nothing.pem cannot be used"),
            (["--tls-certificate={0}", "--tls-key={0}"], "cannot be used"),
            (["--tls-certificate={0}", "--tls-key={2}"], "cannot be used"),
        ],
        2,
    ),
)
def test_files_that_make_no_server_are_one_sentence(cancer_bundle, authority, options, told, home):
    files = (*authority("server"), authority("other")[1])
    said = refused(
        home,
        cancer_bundle,
        "--port=0",
        "--control-port=0",
        *(option.format(*files) for option in options),
    )
    assert told in said["error"]


# -- gRPC --

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"


@pytest.fixture
def message():
    """One row as a `ModelInferRequest`, made without a client library."""
    from bascule.serving.codecs.protobuf import block

    head = block(1, "input") + block(2, "FP64") + block(3, b"\x01\x1e")
    return block(1, "gb") + block(5, head) + block(7, bytes(30 * 8))


def grpc_code(channel, message, token=None, method=INFER):
    shown = None if token is None else [("authorization", f"Bearer {token}")]
    try:
        channel.unary_unary(method)(message, metadata=shown, timeout=WITHIN_S)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


ALONE = [("grpc.use_local_subchannel_pool", 1)]


@pytest.mark.slow
@pytest.mark.serial
def test_a_key_that_is_revoked_opens_no_grpc_connection_within_a_second(
    serve, cancer_bundle, home, message
):
    """Channels that are open to both workers, and that have asked the same before."""
    token = bascule(home, "keys", "create", "scoring", "--allow", "infer:gb")["token"]
    server = serve(
        cancer_bundle, "--workers=2", "--grpc-port=0",
        env={"BASCULE_HOME": str(home), "BASCULE_SECURITY__CALLERS": "keys"},
    )  # fmt: skip
    address = f"127.0.0.1:{server.grpc_port}"
    channels = [grpc.insecure_channel(address, ALONE) for _ in range(8)]
    try:
        for channel in channels:
            assert [grpc_code(channel, message, token) for _ in range(5)] == ["OK"] * 5
            assert grpc_code(channel, message) == "UNAUTHENTICATED"
            assert grpc_code(channel, b"", method=LIVE) == "OK"
        bascule(home, "keys", "revoke", "scoring")
        revoked_s = time.monotonic()
        until(
            lambda: (
                {grpc_code(channel, message, token) for channel in channels} == {"UNAUTHENTICATED"}
            )
        )
        assert is_within(time.monotonic() - revoked_s, 1.0)
    finally:
        for channel in channels:
            channel.close()


def grpc_channel(server, authority, certificate=None):
    chain, key = certificate or (None, None)
    credentials = grpc.ssl_channel_credentials(
        authority.root.read_bytes(),
        None if key is None else key.read_bytes(),
        None if chain is None else chain.read_bytes(),
    )
    return grpc.secure_channel(f"127.0.0.1:{server.grpc_port}", credentials, ALONE)


def test_the_grpc_port_speaks_tls_and_nothing_else(tls_server, authority, message):
    server = tls_server("server")
    with grpc_channel(server, authority) as channel:
        assert [grpc_code(channel, message) for _ in range(3)] == ["OK"] * 3
        # Longer than a record of TLS, and than the window that a client begins with.
        large = message + bytes(1 << 20)
        assert grpc_code(channel, large) == "INVALID_ARGUMENT"
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", ALONE) as channel:
        assert grpc_code(channel, message) == "UNAVAILABLE"
    with tls_client(authority) as client:  # HTTP/1.1 is told what the port speaks
        answer = client.get(f"https://127.0.0.1:{server.grpc_port}/v2/health/live")
    assert answer.status_code == 400
    assert "this port speaks gRPC" in answer.text


def test_over_grpc_too_only_clients_of_the_authority_are_let_in(tls_server, authority, message):
    server = tls_server("guarded", BASCULE_SERVING__TLS_CLIENT_AUTHORITY=str(authority.root))
    with grpc_channel(server, authority, authority("client")) as channel:
        assert grpc_code(channel, message) == "OK"
    with grpc_channel(server, authority) as channel:
        assert grpc_code(channel, message) == "UNAVAILABLE"


def test_a_renewed_certificate_is_shown_to_new_grpc_connections(tls_server, authority, message):
    server = tls_server("server")

    def serial():
        context = ssl.create_default_context(cafile=str(authority.root))
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("127.0.0.1", server.grpc_port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as wrapped,
        ):
            assert wrapped.selected_alpn_protocol() == "h2"
            return wrapped.getpeercert()["serialNumber"]

    with grpc_channel(server, authority) as channel:
        assert grpc_code(channel, message) == "OK"
        before = serial()
        authority("server")
        until(lambda: serial() != before)
        assert grpc_code(channel, message) == "OK"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_is_told_to_stop_loses_no_grpc_call_within_tls(
    serve, cancer_bundle, authority, message, workers
):
    server = tls_serve(
        serve, cancer_bundle, authority("server"),
        env={"BASCULE_SERVING__GRPC_PORT": "0", "BASCULE_SERVING__WORKERS": str(workers)},
    )  # fmt: skip
    tally, words = Counter(), set()

    def ask():
        # grpcio makes a call again by itself if it has not left the client, or if the server said
        # that it had not taken it: nothing else, so a call that the server took and lost is seen.
        with grpc_channel(server, authority) as channel:
            infer = channel.unary_unary(INFER)
            while True:
                try:
                    infer(message, timeout=WITHIN_S)
                    tally["OK"] += 1
                except grpc.RpcError as error:
                    is_gone = "refused" in error.details().lower()
                    tally["gone" if is_gone else error.code().name] += 1
                    words.add(error.details())
                    return

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    until(lambda: tally["OK"] > 200)
    assert server.end() == 0
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert set(tally) == {"OK", "gone"}, words
    assert tally["gone"] == len(threads)


@pytest.mark.slow
def test_what_is_served_is_changed_over_tls_by_who_has_the_key(
    serve, cancer_bundle, regressor_bundle, authority, home
):
    certificate, key_file = authority("server")
    environ = {
        "BASCULE_HOME": str(home),
        "BASCULE_SECURITY__CALLERS": "keys",
        "BASCULE_SERVING__TLS_CERTIFICATE": str(certificate),
        "BASCULE_SERVING__TLS_KEY": str(key_file),
        "BASCULE_SERVING__TLS_CLIENT_AUTHORITY": str(authority.root),
    }
    server = serve(cancer_bundle, env=environ)
    made = bascule(home, "keys", "create", "ops", "--allow", "manage:*", "--allow", "read:*")

    def change(*words, key=made["token"], fails=False):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**environ, "BASCULE_KEY": key}.items():
                patch.setenv(name, value)
            return bascule(home, *words, f"--control-port={server.control_port}", fails=fails)

    until(lambda: change("top", "--once"))
    assert "needs a key" in change("load", regressor_bundle, key="", fails=True)["error"]
    assert [one["model"] for one in change("load", regressor_bundle)] == ["gb", "ridge"]
    assert [one["model"] for one in change("unload", "gb")] == ["ridge"]


# -- a socket of the file system --


def test_predictions_are_answered_on_a_socket_of_the_file_system_which_the_next_server_takes_over(
    serve, cancer_bundle, body, tmp_path, home
):
    path = tmp_path / "bascule.sock"
    first = serve(cancer_bundle, f"--unix-socket={path}", "--workers=2")
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
        answer = client.post("http://bascule/v2/models/gb/infer", content=body)
    with httpx.Client() as client:
        url = f"http://127.0.0.1:{first.port}/v2/models/gb/infer"
        assert answer.json()["outputs"] == client.post(url, content=body).json()["outputs"]
    assert path.stat().st_mode & 0o777 == 0o660

    said = refused(home, cancer_bundle, f"--unix-socket={path}", "--port=0", "--control-port=0")
    assert f"a server listens on {path}" in said["error"]
    first.end(signal.SIGKILL)
    until(lambda: not _answers(path))
    second = serve(cancer_bundle, f"--unix-socket={path}")
    assert _answers(path), "the socket of a server that was killed is taken over"
    assert second.end() == 0
    assert not path.exists()


def test_a_file_that_is_no_socket_is_left_alone(cancer_bundle, tmp_path, home):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    said = refused(home, cancer_bundle, f"--unix-socket={path}", "--port=0", "--control-port=0")
    assert f"cannot listen on {path}" in said["error"]
    assert path.read_text() == "mine"


def _answers(path):
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
