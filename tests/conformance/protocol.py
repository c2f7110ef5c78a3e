"""What the suite of protocols needs: rows, forms of requests, and a worker without sockets."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bascule.core.fields import Columns, DType, Field, Signature
from bascule.core.programs import Program
from bascule.serving.execution.admission import AdmissionQueue, BufferBudget
from bascule.serving.execution.placement import Pace
from bascule.serving.execution.resilience import ResiliencePolicy
from bascule.serving.execution.resilient import ResilientPredictor
from bascule.serving.execution.served import ServedModel
from bascule.serving.limits import Limits
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.table import open_protocols
from bascule.serving.specs import ModelSpec
from bascule.serving.telemetry.counters import Counters, MetricLabels
from bascule.serving.transports.http1 import Connection
from bascule.serving.transports.http1_requests import Site


@dataclass(frozen=True)
class Rows:
    """Rows for a model: one value per column, None where it is missing.

    Attributes:
        signature: The model's.
        names: Of its columns: those of a matrix, or else its inputs.
        values: Row by row.
        call_id: What a request for them is called, in the forms that have a place for it.
    """

    signature: Signature
    names: tuple[str, ...]
    values: list[list[Any]]
    call_id: str = "1"

    @classmethod
    def of(cls, signature: Signature, values: list[list[Any]], call_id: str = "1") -> Rows:
        if not signature.is_matrix:
            names = tuple(field.name for field in signature.inputs)
            return cls(signature, names, values, call_id)
        width = signature.inputs[0].shape[0]
        names = signature.columns or tuple(map(str, range(width)))
        return cls(signature, names, values, call_id)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [dict(zip(self.names, row, strict=True)) for row in self.values]

    @property
    def by_input(self) -> dict[str, list[Any]]:
        """The rows of a matrix under its one name, or the values of each column."""
        if self.signature.is_matrix:
            return {self.signature.inputs[0].name: self.values}
        columns = map(list, zip(*self.values, strict=True))
        return dict(zip(self.names, columns, strict=True))

    def columns(self, inputs: Iterable[Field]) -> Columns:
        """As a program reads them, made without any code of the server."""
        made = {}
        for field in inputs:
            values = self.by_input[field.name]
            if field.dtype is DType.BYTES:
                made[field.name] = np.array([*values, None], object)[:-1]
            else:
                plain = [np.nan if value is None else value for value in values]
                made[field.name] = np.array(plain).astype(field.dtype.numpy)
        return made


@dataclass(frozen=True)
class Request:
    path: str
    body: bytes
    headers: tuple[str, ...] = ()
    method: str = "POST"

    @property
    def sent(self) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: localhost", *self.headers]
        if self.method == "POST":
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def of_json(path: str, value: Any, *headers: str) -> Request:
    sent = json.dumps(value).encode()
    return Request(path, sent, ("Content-Type: application/json", *headers))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Form:
    """One way to ask a protocol for predictions of the model `m`.

    Attributes:
        ask: From rows to a request; None where the form cannot carry them.
        read: From the answer, and the names of all outputs, to outputs by name.
        call_id: The id in an answer; None where the form has no place for one.
    """

    ask: Callable[[Rows], Request | None]
    read: Callable[[Answer, Sequence[str]], dict[str, Any]]
    call_id: Callable[[Answer], str] | None = None


def by_row(predictions: list[Any], names: Sequence[str]) -> dict[str, Any]:
    """Outputs of rows that are objects; of bare values, the first output."""
    if not isinstance(predictions[0], dict):
        return {names[0]: predictions}
    return {name: [row[name] for row in predictions] for name in predictions[0]}


INLINE = Pace(one_row_s=1e-6, inline_rows=1_000_000, batch_rows=256)


class _Wire(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.has_answered = asyncio.Event()
        self.ended = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.written += data
        self.has_answered.set()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return False


class Inside:
    """A worker's routes and models on one connection, without a socket. Calls run inline."""

    def __init__(
        self,
        folder: Path,
        program: Any,
        signature: Signature,
        *,
        example: Columns | None = None,
        extras: Sequence[Any] = (),
        wishes: Any = None,
        recorder: Any = None,
        **limits: Any,
    ) -> None:
        self.limits = Limits(**limits)
        self.counters = Counters(folder / "counters", 1)
        self.counters.name(MetricLabels("m", "1"))
        self.loop = asyncio.new_event_loop()
        self.held = BufferBudget(self.limits.max_held_bytes)
        self.program = program
        self.model = ServedModel(
            ModelSpec("m", "1", folder),
            signature=signature,
            program=program,
            digest="sha256:" + "0" * 64,
            batch_invariant=True,
            pace=INLINE,
            series=self.counters.series(0, MetricLabels("m", "1")),
            limits=self.limits,
            loop=self.loop,
            extras=extras,
            example=example,
            held=self.held,
        )
        self.plane = DataPlane(open_protocols(wishes=wishes), lambda: True)
        self.routes = self.plane.serve([self.model])
        self.site = Site(
            self.routes, self.plane.not_found, self.limits, self.counters.series(0),
            backlog=AdmissionQueue(self.limits.max_body_bytes, turn_s=math.inf),
            held=self.held, recorder=recorder,
        )  # fmt: skip

    def stand_in(self, program: Any) -> None:
        """Have another version, `m/0`, answer what the model fails."""
        other = ServedModel(
            ModelSpec("m", "0", self.model.service.path),
            signature=self.model.signature,
            program=program,
            digest=self.model.digest,
            batch_invariant=True,
            pace=INLINE,
            series=self.model.series,
            limits=self.limits,
            loop=self.loop,
            held=self.held,
        )
        policy = ResiliencePolicy(fallback="m/0")
        served = ResilientPredictor(self.model, policy, {"m/0": other}.get, self.loop)
        self.site.serve(self.plane.serve([served]))

    def close(self) -> None:
        self.loop.close()

    def ask(self, request: Request) -> Answer:
        return self.send(request.sent)

    async def _answered(self, data: bytes) -> _Wire:
        connection, wire = Connection(self.site), _Wire()
        connection.connection_made(wire)
        connection.data_received(data)
        await asyncio.wait_for(wire.has_answered.wait(), 10)
        return wire

    def send(self, data: bytes) -> Answer:
        wire = self.loop.run_until_complete(self._answered(data))
        head, _, body = wire.written.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        raw = re.sub(rb"Date: [^\r]*\r\n", b"", wire.written)
        return Answer(int(first.split()[1]), headers, body, raw)


class Fixed(Program):
    """A program that is a formula: the same bits on every machine."""

    name = "fixed"
    inputs = (
        Field("hour", DType.INT64),
        Field("carrier", DType.BYTES, nullable=True),
        Field("wind", DType.FP64, nullable=True),
    )
    outputs = (
        Field("late", DType.BOOL),
        Field("score", DType.FP32, (2,)),
        Field("word", DType.BYTES),
    )
    signature = Signature(inputs, outputs)

    def __init__(self) -> None:
        self.problem: Exception | None = None

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        if self.problem is not None:
            raise self.problem
        hour, wind = columns["hour"], np.nan_to_num(columns["wind"], nan=-1.0)
        with np.errstate(over="ignore"):  # of any number at all
            score = (hour / 24 + wind / 64).astype(np.float32)
        words = [f"{carrier}-{h}" for carrier, h in zip(columns["carrier"], hour, strict=True)]
        made: Columns = {
            "late": score > 0.5,
            "score": np.stack([score, 1 - score], axis=1),
            "word": np.array(words, object),
        }
        return {name: made[name] for name in (outputs or made)}


FIXED_ROWS = Rows.of(Fixed.signature, [[17, "AA", 4.5], [3, None, None], [0, "é", -96.5]])


def without_missing(rows: Rows) -> Rows:
    return replace(rows, values=[row for row in rows.values if None not in row])
