"""What programs of the device ask: by HTTP, a Unix socket, and MQTT."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import threading
from contextlib import suppress
from queue import Empty, Queue

import numpy as np
import pytest
from paho.mqtt.client import Client as MqttClient, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from tests.stores import free_ports
from tests.waiting import until

from bascule.core import Invalid
from bascule.edge import Device
from bascule.edge.messages import MqttBridge
from bascule.edge.serving import HttpServer
from bascule_client import Client

INFER = "/v2/models/late/infer"


@pytest.fixture(scope="module")
def device(settled_home):
    return Device(settled_home)


@pytest.fixture
def server(device):
    server = HttpServer(device, "127.0.0.1:0")
    yield server
    server.close()


@pytest.fixture
def ask(server):
    """`ask(method, path, body, **headers)`: status, headers and body, on one connection."""
    connection = http.client.HTTPConnection(*server.server_address, timeout=20)

    def send(method, path, body=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()

    yield send
    connection.close()


@pytest.fixture(scope="module")
def body(versions):
    return (versions[0] / "data/example.json").read_bytes()


def test_a_request_is_answered_as_a_server_answers_it(ask, body, device):
    status, _, reply = ask("POST", INFER, body)
    reply = json.loads(reply)
    assert status == 200
    assert (reply["model_name"], reply["model_version"]) == ("late", "1")
    rows = np.array(json.loads(body)["inputs"][0]["data"]).reshape(-1, 4)
    expected = device.predict(rows)["probabilities"].ravel().tolist()
    assert reply["outputs"][1]["data"] == expected
    assert ask("POST", "/v2/models/late/versions/1/infer", body)[0] == 200


def test_the_client_of_a_server_asks_a_device(server, device):
    rows = np.random.default_rng(2).normal(size=(5, 4))
    with Client(f"http://{server.address}", model="late") as client:
        answer = client.predict(rows)
        with pytest.raises(Invalid, match="takes"):
            client.predict(rows[:, :3])
    expected = device.predict(rows)
    assert answer["probabilities"].tolist() == expected["probabilities"].tolist()


def test_tensors_come_and_go_as_bytes_after_the_json(ask):
    rows = np.ones((2, 4))
    tensor = {"name": "input", "datatype": "FP64", "shape": [2, 4]}
    tensor["parameters"] = {"binary_data_size": rows.nbytes}
    said = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    header = {"Inference_Header_Content_Length": str(len(said))}
    status, headers, reply = ask("POST", INFER, said + rows.tobytes(), **header)
    assert status == 200, reply
    json_bytes = int(headers["Inference-Header-Content-Length"])
    described = json.loads(reply[:json_bytes])["outputs"]
    sizes = [output["parameters"]["binary_data_size"] for output in described]
    assert sum(sizes) == len(reply) - json_bytes


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "text"),
    [
        (INFER, b"{", {}, 400, "the body is not JSON"),
        (INFER, b'{"inputs": []}', {}, 400, "inputs: 'input' missing"),
        (INFER, b"{}", {"Host": "evil.example"}, 403, "the host 'evil.example'"),
        (INFER, b"{}", {"Origin": "http://evil.example"}, 403, "the origin"),
        (INFER, b"", {"Content_Length": str(1 << 40)}, 413, "over 16,777,216 bytes"),
        (INFER, b"{}", {"Inference_Header_Content_Length": "x"}, 400, "not a whole number"),
        ("/v2/models/other/infer", b"{}", {}, 404, "no such path"),
    ],
)
def test_what_is_refused_is_refused_in_the_words_of_a_server(
    ask, path, body, headers, status, text
):
    got, _, reply = ask("POST", path, body, **headers)
    assert (got, text in json.loads(reply)["error"]) == (status, True), reply


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\n" + b"a: b\r\n" * 2000 + b"\r\n", 413),
        (b"GET /v2 HTTP/1.1\r\na: b\r\n folded\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\nHost: localhost\n\r\n\r\n", 400),
        (b"GET /" + b"a" * 10_000, 413),
        (b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT /v2 HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(server, sent, status):
    with socket.create_connection(server.server_address, timeout=20) as client:
        client.sendall(sent)
        with client.makefile("rb") as reply:
            said = reply.read()
    assert said.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close" in said


def test_the_model_is_described_and_its_health_is_told(ask, device):
    described = json.loads(ask("GET", "/v2/models/late")[2])
    assert described["parameters"]["digest"] == device.opened.bundle.digest
    assert described["inputs"] == [{"name": "input", "datatype": "FP64", "shape": [-1, 4]}]
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/late/ready"):
        assert ask("GET", path)[0] == 200
    assert ask("GET", "/v2/else")[0] == 404


def test_a_device_without_a_version_lives_and_is_not_ready(tmp_path):
    server = HttpServer(Device(tmp_path), "127.0.0.1:0")
    connection = http.client.HTTPConnection(*server.server_address, timeout=20)
    statuses = []
    for path in ("/v2/health/live", "/v2/health/ready"):
        connection.request("GET", path)
        reply = connection.getresponse()
        reply.read()
        statuses.append(reply.status)
    connection.close()
    server.close()
    assert statuses == [200, 503]


def test_a_unix_socket_answers_and_replaces_what_a_killed_agent_left(device, body, tmp_path):
    for _ in range(2):
        server = HttpServer(device, f"unix:{tmp_path}/model.sock")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(f"{tmp_path}/model.sock")
            head = f"POST {INFER} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            client.sendall(head + body)
            assert client.recv(64).startswith(b"HTTP/1.1 200 ")
        server.close()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "example.com:80", "127.0.0.1:x", "nowhere"])
def test_no_address_that_others_reach_is_listened_on(device, address):
    with pytest.raises(Invalid):
        HttpServer(device, address)


@pytest.fixture
def broker(tmp_path, authority):
    """`broker(*lines)`: the port of a Mosquitto with these lines in its configuration."""
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    started = []

    def start(*lines):
        (port,) = free_ports(1)
        conf = [f"listener {port} 127.0.0.1", "user root", *lines]
        (tmp_path / "conf").write_text("\n".join(conf))
        started.append(subprocess.Popen([program, "-c", tmp_path / "conf"]))
        return port

    yield start
    for process in started:
        process.terminate()
        process.wait()


@pytest.fixture
def messages():
    """`messages(port, ca, *login)`: a client that has subscribed, and the queue of its messages."""
    clients = []

    def connect(port, ca=None, *login):
        client, arrived, ready = (
            MqttClient(CallbackAPIVersion.VERSION2, protocol=MQTTv5),
            Queue(),
            threading.Event(),
        )
        if ca is not None:
            client.tls_set(ca)
            client.username_pw_set(*login)
        client.on_message = lambda _, __, message: arrived.put(message)
        client.on_subscribe = lambda *_: ready.set()
        client.on_connect = lambda *_: client.subscribe([("me/#", 1), ("plant/late/answer", 1)])
        client.reconnect_delay_set(1, 1)
        client.connect_async("127.0.0.1", port)
        client.loop_start()
        clients.append(client)
        assert ready.wait(30)
        return client, arrived

    yield connect
    for client in clients:
        client.disconnect()
        client.loop_stop()


def answered(client, arrived, body, about=None):
    """The answer to a message, which is sent until the device has subscribed."""

    def send():
        client.publish("plant/late", body, qos=1, properties=about)
        with suppress(Empty):
            return arrived.get(timeout=1)

    return until(send)


def test_a_message_is_answered_where_it_names_and_with_its_correlation(
    device, body, broker, messages
):
    port = broker("allow_anonymous true")
    bridge = MqttBridge(device, f"mqtt://127.0.0.1:{port}/plant/late")
    client, arrived = messages(port)
    refused = answered(client, arrived, b"{")
    assert (refused.topic, json.loads(refused.payload)["status"]) == ("plant/late/answer", 400)
    about = Properties(PacketTypes.PUBLISH)
    about.ResponseTopic, about.CorrelationData = "me/late", b"7"
    client.publish("plant/late", body, qos=1, properties=about)
    answer = until(lambda: (got := arrived.get(timeout=30)).topic == "me/late" and got)
    bridge.close()
    assert answer.properties.CorrelationData == b"7"
    assert json.loads(answer.payload)["model_version"] == "1"


def test_a_broker_is_asked_within_tls_with_the_password_of_a_file(
    device, body, broker, messages, authority, tmp_path, capfd
):
    certificate, key = authority("broker")
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "late", "p@ss"], check=True)
    port = broker(
        "allow_anonymous false", f"password_file {passwords}", f"certfile {certificate}",
        f"keyfile {key}",
    )  # fmt: skip
    client, arrived = messages(port, authority.root, "late", "p@ss")
    address = f"mqtts://late:${{file:{tmp_path}/secret}}@localhost:{port}/plant/late"
    (tmp_path / "secret").write_text("wrong")
    refused = MqttBridge(device, address, str(authority.root))
    until(lambda: "the broker refused the connection" in capfd.readouterr().err)
    refused.close()
    (tmp_path / "secret").write_text("p@ss")
    bridge = MqttBridge(device, address, str(authority.root))
    assert json.loads(answered(client, arrived, body).payload)["model_version"] == "1"
    bridge.close()


@pytest.mark.parametrize(
    ("address", "ca"),
    [("http://h/t", None), ("mqtt://h", None), ("mqtt://h:x/t", None), ("mqtts://h/t", "/none"),
     ("mqtt://u:${file:/none}@h/t", None)],
)  # fmt: skip
def test_an_address_that_is_no_topic_of_a_broker_is_refused(device, address, ca):
    with pytest.raises(Invalid, match="cannot be"):
        MqttBridge(device, address, ca)
