from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import uvloop
from google.protobuf import descriptor_pool, message_factory

from bascule.bundle.extras.confidence import Confidence
from bascule.core.errors import NotFound
from bascule.core.fields import Columns, DType, Field, Signature
from bascule.core.programs import Program
from bascule.serving.execution.admission import AdmissionQueue, BufferBudget
from bascule.serving.execution.placement import Pace
from bascule.serving.execution.served import ServedModel
from bascule.serving.limits import Limits
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.grpc_methods import grpc_methods
from bascule.serving.protocols.grpc_services import Reflection
from bascule.serving.protocols.outcome_writer import OutcomeWriter
from bascule.serving.protocols.outcomes_rest import OutcomesRest
from bascule.serving.protocols.table import open_protocols
from bascule.serving.specs import ModelSpec
from bascule.serving.telemetry.counters import Counters, MetricLabels
from bascule.serving.telemetry.recorder import Recorder
from bascule.serving.telemetry.request_log import RequestLog
from bascule.serving.transports.http1 import Connection
from bascule.serving.transports.http1_requests import Site
from bascule.serving.transports.http2 import Http2Server
from bascule.serving.transports.routes import Route, table

WAIT_S = 10.0


class Running:
    """The inside of one worker on a thread: a real loop and real sockets."""

    def __init__(
        self,
        site: Callable[[asyncio.AbstractEventLoop], Site],
        connect: Callable[..., Any],
        grpc: Callable[[], Http2Server] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._connect = connect
        started: Future[None] = Future()
        self._offset_s = 0.0

        async def main() -> None:
            self.loop = asyncio.get_running_loop()
            self._stop = asyncio.Event()
            try:
                self.site = site(self.loop)
                self.site.clock = lambda: time.monotonic() + self._offset_s
                self.site.tick()
                servers = []
                self.server = await self.loop.create_server(
                    lambda: Connection(self.site), "127.0.0.1", 0, ssl=tls
                )
                self.port = self.server.sockets[0].getsockname()[1]
                if grpc is not None:
                    self.grpc = grpc()
                    self.grpc.clock = self.site.clock
                    self.grpc.tick()
                    servers.append(await self.loop.create_server(self.grpc.connect, "127.0.0.1", 0))
                    self.grpc_port = servers[-1].sockets[0].getsockname()[1]
            except BaseException as problem:
                started.set_exception(problem)
                raise
            started.set_result(None)
            await self._stop.wait()
            self.server.close()
            for server in servers:
                server.close()
            for connection in tuple(self.site.connections):
                connection.abort()
            if grpc is not None:
                for connection in tuple(self.grpc.connections):
                    connection.abort()

        self._thread = threading.Thread(target=lambda: uvloop.run(main()))
        self._thread.start()
        started.result(WAIT_S)

    def client(self, **settings: Any) -> Any:
        return self._connect(self.port, **settings)

    def on_loop(self, call: Callable[[], Any]) -> Any:
        """What `call` returns, called on the loop."""
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(call())
            except BaseException as problem:
                done.set_exception(problem)

        self.loop.call_soon_threadsafe(run)
        return done.result(WAIT_S)

    def after(self, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Move the clock on, and tick; what happens meanwhile the loop has not seen by then."""
        self._offset_s += seconds
        self.on_loop(lambda: [meanwhile(), self.site.tick()])
        if hasattr(self, "grpc"):
            self.on_loop(self.grpc.tick)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so on the loop; it must become so by itself."""
        give_up = time.monotonic() + WAIT_S
        while not self.on_loop(condition):
            assert time.monotonic() < give_up, "it did not come to be"
            time.sleep(0.002)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


class FakeProgram(Program):
    """Answers `twice` and `sum` of its only input `x`; can be made to block, fail and note."""

    name = "fake"
    outputs = (Field("twice", DType.FP64, (2,)), Field("sum", DType.FP64))

    def __init__(self) -> None:
        self.inputs = (Field("x", DType.FP64, (2,)),)
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Event()
        self.runs: list[int] = []
        self.poison: float | None = None
        self.problem: Exception = ValueError("secret of the model: /etc/passwd")

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        x = columns["x"]
        self.runs.append(len(x))
        self.running.set()
        assert self.gate.wait(WAIT_S)
        if self.poison is not None and (x == self.poison).any():
            raise self.problem
        made = {"twice": x * 2, "sum": x.sum(axis=1)}
        return {name: made[name] for name in (outputs or made)}

    @property
    def signature(self) -> Signature:
        return Signature(self.inputs, self.outputs)


def extras_of(program: Any, limits: Limits) -> list[Any]:
    """The extras of a fake program: its own, and `confidence` where it has a calibration."""
    calibration = getattr(program, "calibration", None)
    confidence = Confidence(calibration, program.outputs, limits.confidence)
    return [confidence, *getattr(program, "extras", ())]


INLINE = Pace(one_row_s=1e-6, inline_rows=1_000_000, batch_rows=256)
THREAD = Pace(one_row_s=1e-3, inline_rows=0, batch_rows=8)


@pytest.fixture
def run_site(connect):
    """Start servers; each is stopped, and must stop, when the test ends."""
    with ExitStack() as stack:

        def start(site, grpc=None, tls=None):
            running = Running(site, connect, grpc, tls)
            stack.callback(running.stop)
            return running

        yield start


@pytest.fixture
def serve_routes(run_site, tmp_path):
    """Serve handlers: `serve_routes({b"/path": {b"GET": handle}}, limits...)`."""

    def serve(handlers: dict[bytes, dict[bytes, Any]], tls: Any = None, **limits: Any) -> Running:
        counters = Counters(tmp_path / "counters", 1)
        bounds = Limits(**limits)
        running = run_site(
            lambda loop: Site(
                table(
                    Route(method, path, handle, "read")
                    for path, methods in handlers.items()
                    for method, handle in methods.items()
                ),
                lambda path: NotFound("no such path"),
                bounds,
                counters.series(0),
                backlog=AdmissionQueue(bounds.max_body_bytes),
                held=BufferBudget(bounds.max_held_bytes),
            ),
            tls=tls,
        )
        running.counted = lambda: counters.totals()[0].by_status
        return running

    return serve


@pytest.fixture
def serve_models(run_site, tmp_path):
    """Serve programs: `serve_models(("name", program, pace), ..., limits...)`."""

    def serve(
        *models: tuple[str, Any, Pace],
        request_log: RequestLog | None = None,
        wishes: Any = None,
        recorder: Recorder | None = None,
        guard: Any = None,
        outcomes_home: Path | None = None,
        tls: Any = None,
        **limits: Any,
    ) -> Running:
        bounds = Limits(**limits)
        counters = Counters(tmp_path / "counters", 1)
        writer = None if outcomes_home is None else OutcomeWriter(outcomes_home)
        labels = []
        for name, *_ in models:
            model, _, version = name.partition("/")
            labels.append(MetricLabels(model, version or "1"))
            counters.name(labels[-1])
        made: list[ServedModel] = []
        planes: list[DataPlane] = []
        backlog, held = AdmissionQueue(bounds.max_body_bytes), BufferBudget(bounds.max_held_bytes)

        def grpc() -> Http2Server:
            methods = grpc_methods(planes[0], writer)
            return Http2Server(
                methods, bounds, counters.series(0),
                request_log=request_log, recorder=recorder, guard=guard,
                backlog=backlog, held=held,
            )  # fmt: skip

        def site(loop: asyncio.AbstractEventLoop) -> Site:
            for (_, program, pace), label in zip(models, labels, strict=True):
                made.append(
                    ServedModel(
                        ModelSpec(label.model, label.version, tmp_path),
                        signature=program.signature,
                        program=program,
                        digest="sha256:" + "0" * 64,
                        batch_invariant=True,
                        pace=pace,
                        series=counters.series(0, label),
                        limits=bounds,
                        loop=loop,
                        extras=extras_of(program, bounds),
                        held=held,
                    )
                )
            own = [] if writer is None else [OutcomesRest(writer)]
            adapters = [*own, *open_protocols(wishes=wishes)]
            plane = DataPlane(adapters, lambda: not running_site.draining)
            planes.append(plane)
            running_site = Site(
                plane.serve(made), plane.not_found, bounds, counters.series(0),
                request_log=request_log, recorder=recorder, guard=guard, backlog=backlog, held=held,
            )  # fmt: skip
            return running_site

        running = run_site(site, grpc, tls)
        running.models = made
        running.outcomes = writer
        running.held = held

        def serve_predictors(*predictors: Any) -> None:
            def change() -> None:
                running.site.serve(planes[0].serve(predictors), planes[0].asked_headers)
                running.grpc.keep_headers(planes[0].asked_headers)

            running.on_loop(change)

        running.serve = serve_predictors
        running.labels = [MetricLabels(), *(MetricLabels(m.name, m.version) for m in made)]
        running.totals = counters.totals
        running.counters = counters
        running.counted = lambda: counters.totals()[1].by_status
        return running

    return serve


@pytest.fixture(scope="session")
def messages():
    """The messages as the real library makes them, from what reflection tells."""
    pool = descriptor_pool.DescriptorPool()
    for file in Reflection().files:
        pool.AddSerializedFile(file.descriptor)

    def message(name: str) -> Any:
        full = name if "." in name else f"inference.{name}"
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(full))

    return message


class GrpcClient:
    """A channel of grpcio that sends and reads bytes."""

    def __init__(self, port: int, messages: Any, **settings: Any) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", **settings)
        self._messages = messages

    def call(self, method: str, data: bytes = b"", **more: Any) -> bytes:
        """What the method of the inference service answers; raises `grpc.RpcError`."""
        return self.method(method)(data, timeout=more.pop("timeout", WAIT_S), **more)

    def method(self, name: str) -> Any:
        path = name if name.startswith("/") else f"/inference.GRPCInferenceService/{name}"
        return self.channel.unary_unary(path)

    def told(self, method: str, data: bytes = b"") -> Any:
        """The same as a message of the real library."""
        return self._messages(f"{method}Response").FromString(self.call(method, data))

    def infer(self, request: Any, **more: Any) -> Any:
        answer = self.call("ModelInfer", request.SerializeToString(), **more)
        return self._messages("ModelInferResponse").FromString(answer)

    def refusal(self, method: str, data: bytes = b"", **more: Any) -> tuple[str, str]:
        """The code and the words with which a call is refused."""
        with pytest.raises(grpc.RpcError) as refused:
            self.call(method, data, **more)
        return refused.value.code().name, refused.value.details()


@pytest.fixture
def grpc_client(messages):
    """`grpc_client(running)`: a channel to its gRPC port, closed when the test ends."""
    with ExitStack() as stack:

        def client(running: Any, **settings: Any) -> GrpcClient:
            made = GrpcClient(running.grpc_port, messages, **settings)
            stack.callback(made.channel.close)
            return made

        yield client


@pytest.fixture
def ask_grpc(messages):
    """A `ModelInferRequest` for the fake program."""

    def request(*rows: Sequence[float], raw: bool = True, **more: Any) -> Any:
        data = np.asarray(rows, np.float64)
        made = messages("ModelInferRequest")(model_name="fake", **more)
        tensor = made.inputs.add(name="x", datatype="FP64", shape=data.shape)
        if raw:
            made.raw_input_contents.append(data.tobytes())
        else:
            tensor.contents.fp64_contents.extend(data.ravel())
        return made

    return request


@pytest.fixture
def program():
    return FakeProgram()


@pytest.fixture(scope="session")
def fake():
    return FakeProgram


@pytest.fixture
def inline():
    return INLINE


@pytest.fixture
def thread():
    return THREAD


@pytest.fixture
def ask():
    """The body of a request for the fake program."""

    def body(*rows: Sequence[float], **more: Any) -> dict[str, Any]:
        data = np.asarray(rows, np.float64)
        tensor = {
            "name": "x",
            "datatype": "FP64",
            "shape": list(data.shape),
            "data": data.ravel().tolist(),
        }
        return {"inputs": [tensor], **more}

    return body
