"""What tests of several rooms share: packed models, a plain HTTP client, a running server."""

from __future__ import annotations

import functools
import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import psutil
import pytest
import typer.main
from tests.browsers import chromium  # noqa: F401
from tests.certificates import authority  # noqa: F401
from tests.harness_tasks import lm_eval  # noqa: F401
from tests.language_models import chat, smollm2  # noqa: F401
from tests.migrated import migrations_of_empty_catalogues  # noqa: F401
from tests.origins import dvc, dvc_made, dvc_program, mlflow_server  # noqa: F401
from tests.permissions import may_only_read  # noqa: F401
from tests.skips import pytest_runtest_makereport  # noqa: F401
from tests.stores import (  # noqa: F401
    bucket,
    gcs_server,
    gs_bucket,
    postgresql_server,
    postgresql_url,
    s3_bucket,
    s3_server,
    s3_url,
)
from tests.unclosed import watch_connections

WAIT_S = 20.0
# A server's ledger is a process, and is written to the folder that the tests run in. Tests of what
# servers do by default say `auto`.
os.environ.setdefault("BASCULE_MONITORING__LEDGER", "off")
pytest.register_assert_rewrite("tests.http2_caller")
# Typer makes all commands anew for each call: 0.2 s, and tests call a thousand in their process.
typer.main.get_command = functools.cache(typer.main.get_command)
# Thirteen thousand tests are a million objects: the collector looks through them neither while they
# are made nor, frozen, in each of its rounds during the tests, which are fewer than usual.
gc.disable()
watch_connections()


def pytest_configure(config: pytest.Config) -> None:
    """The first tier draws fewer examples, by `tests.tiers.examples` too."""
    count = 30 if "not slow" in config.option.markexpr else 100
    hypothesis.settings.register_profile("beside others", deadline=None, max_examples=count)
    hypothesis.settings.load_profile("beside others")


def pytest_collection_finish() -> None:
    """Let the collector look at what tests make."""
    gc.freeze()
    gc.set_threshold(200_000)
    gc.enable()


def pytest_runtest_setup() -> None:
    """Keep Keras' logger from closing what pytest captures, whenever a server sets up logging."""
    if absl := sys.modules.get("absl.logging"):
        absl.get_absl_handler().python_handler.stream = sys.__stderr__


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A pass does not load files of which it runs nothing: it would take half a minute."""
    marks, files = config.option.markexpr, [*collection_path.rglob("test_*.py")]
    if collection_path.match("test_*.py"):
        files = [collection_path]
    if "not slow" in marks and files and all(map(_is_slow, files)):
        return True
    if re.search(r"(?<!not )\bserial\b", marks):
        return None if any("mark.serial" in file.read_text() for file in files) else True
    return None


@functools.cache
def _is_slow(file: Path) -> bool:
    """Whether all tests of a file are of the second tier."""
    whole = r"^pytestmark = \[?pytest\.mark\.slow\b"
    return file.parent.name == "bench" or bool(re.search(whole, file.read_text(), re.MULTILINE))


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of `bench/`, which measures and is not shipped, are of the second tier."""
    for item in items:
        if item.path.parent.name == "bench":
            item.add_marker(pytest.mark.slow)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A socket that reads answers one by one."""

    def __init__(self, port: int, *, receive_buffer_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.settimeout(WAIT_S)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self._buffer = bytearray()  # bytes would be copied whole for each piece that arrives

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> Client:
        self.socket.sendall(data)
        return self

    def request(self, method: str, path: str, body: bytes | Any = b"", headers: str = "") -> Client:
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        length = f"Content-Length: {len(body)}\r\n" if body or method == "POST" else ""
        return self.send(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}{length}\r\n".encode() + body
        )

    def answer(self, *, to_head: bool = False) -> Answer:
        head = self._until(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        length = 0 if to_head else int(headers.get("content-length", 0))
        body = self._exactly(length)
        return Answer(int(first.split(" ")[1]), headers, body)

    def is_ended(self) -> bool:
        """Whether the server has ended the connection, and in order, with nothing more to say."""
        return not self._buffer and self.socket.recv(1) == b""

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._more()
        return self._take(self._buffer.index(end) + len(end))

    def _exactly(self, length: int) -> bytes:
        while len(self._buffer) < length:
            self._more()
        return self._take(length)

    def _take(self, length: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:length])
        del self._buffer[:length]
        return taken

    def _more(self) -> None:
        piece = self.socket.recv(1 << 16)
        assert piece, f"the connection ended after {self._buffer!r}"
        self._buffer += piece


@pytest.fixture(scope="session")
def connect() -> type[Client]:
    """`connect(port)`: a connection that sends bytes and reads answers."""
    return Client


def children_of(pid: int, module: str) -> list[int]:
    """The children of a process that run a module."""
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):
            if module in child.cmdline():
                found.append(child.pid)
    return found


@dataclass
class Server:
    """A running `bascule serve`."""

    process: subprocess.Popen[str]
    port: int
    control_port: int
    started_s: float
    announced_s: float
    grpc_port: int | None = None

    def worker_pids(self) -> list[int]:
        return children_of(self.process.pid, "bascule.serving.workers.worker")

    def control_pid(self) -> int | None:
        """The control process; None while it is being replaced."""
        return next(iter(children_of(self.process.pid, "bascule.processes.control")), None)

    def end(self, how: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(30)


def start_server(*arguments: Any, env: dict[str, str] | None = None, errors: Any = None) -> Server:
    started_s = time.monotonic()
    # As a user has it: output that is not flushed does not arrive.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [
            sys.executable, "-m", "bascule.cli", "serve", *map(str, arguments),
            "--port=0", "--control-port=0", "--json",
        ],
        stdout=subprocess.PIPE, stderr=errors, text=True, env={**environment, **(env or {})},
    )  # fmt: skip
    assert process.stdout is not None
    too_late = threading.Timer(60, process.kill)
    too_late.start()
    text = ""
    for line in process.stdout:
        text += line
        if line == "}\n":
            break
    too_late.cancel()
    assert text, f"the server ended with {process.wait()}"
    said = json.loads(text)
    return Server(
        process,
        int(said["serving"][0]["infer"].split(":")[2].split("/")[0]),
        int(said["control"].rsplit(":", 1)[1]),
        started_s,
        time.monotonic(),
        int(said["grpc"].rsplit(":", 1)[1]) if "grpc" in said else None,
    )


@pytest.fixture(scope="session")
def start() -> Any:
    """`start(PATH, "--workers=2")`: a server that whoever started it has to end."""
    return start_server


@pytest.fixture
def serve() -> Iterator[Any]:
    """`serve(PATH, "--workers=2")`: a server that ends with the test."""
    with ExitStack() as stack:

        def serving(*arguments: Any, **settings: Any) -> Server:
            server = start_server(*arguments, **settings)
            stack.callback(server.process.stdout.close)
            stack.callback(server.end)
            return server

        yield serving


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`packed(name, model, train, test)`: the folder of a bundle whose cost was not measured."""
    import bascule

    def pack(name: str, model: Any, train: Any, test: Any = None, **more: Any) -> Path:
        folder = tmp_path_factory.mktemp("bundles")  # two modules may pack one name
        return bascule.pack(
            model, name=name, train=train, test=test, to=folder / name, measure=False, **more
        ).path

    return pack


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`late/2` with its image; see `tests.shipped`. It takes minutes: for the second tier."""
    from tests.shipped import ship_late

    return ship_late(tmp_path_factory)


@pytest.fixture(scope="session")
def cancer_bundle(packed: Any) -> Path:
    """A hundred trees on thirty numbers: cheap, and batch-invariant."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import GradientBoostingClassifier

    X, y = load_breast_cancer(return_X_y=True)
    return packed("gb", GradientBoostingClassifier(random_state=0).fit(X, y), X, (X[:50], y[:50]))


@pytest.fixture(scope="session")
def body(cancer_bundle: Path) -> bytes:
    """A request for it, in JSON."""
    return (cancer_bundle / "data/example.json").read_bytes()


@pytest.fixture(scope="session")
def table_bundle(packed: Any) -> Path:
    """A table with text, closed categories, whole numbers and missing values."""
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

    random = np.random.default_rng(7)
    n = 400
    table = pd.DataFrame(
        {
            "carrier": random.choice(["AA", "BB", "CC"], n),
            "airport": random.choice(["EWR", "JFK"], n),
            "month": random.integers(1, 13, n),
            "wind": random.normal(size=n),
            "gust": random.normal(size=n),
        }
    )
    late = (table.wind > 0) ^ (table.carrier == "AA")
    table.loc[random.random(n) < 0.1, "wind"] = np.nan
    model = make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["carrier"]),
            (OrdinalEncoder(), ["airport", "month"]),
            (SimpleImputer(), ["wind"]),
            ("passthrough", ["gust"]),
        ),
        RandomForestClassifier(20, random_state=0),
    ).fit(table, late)
    return packed("table", model, table, (table[:50], late[:50]))


@pytest.fixture(scope="session")
def regressor_bundle(packed: Any) -> Path:
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import Ridge

    X, y = load_diabetes(return_X_y=True)
    return packed("ridge", Ridge().fit(X, y), X, (X[:50], y[:50]))


@pytest.fixture(scope="session")
def costly_bundle(packed: Any) -> Path:
    """A network that takes a millisecond or more for one row, so calls run on its thread."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(3)
    sizes = [16, 1_600, 1_600, 2]
    nodes, weights, last = [], [], "x"
    for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        matrix = (random.normal(size=(fan_in, fan_out)) / np.sqrt(fan_in)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [f"t{layer}"]))
        last = f"t{layer}"
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", sizes[0]])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", sizes[-1]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return packed("net", model, random.normal(size=(64, sizes[0])).astype(np.float32))


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command in this process: (exit code, output, messages)."""
    from bascule.cli import main

    def call(*words):
        monkeypatch.setattr("sys.argv", ["bascule", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
