"""The service of `outcomes.proto`: the truth about predictions over gRPC."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial

from bascule.core import BasculeError, Invalid, TooLarge
from bascule.serving.codecs import (
    BYTES,
    FIXED64,
    VARINT,
    block,
    fields,
    number_field,
    read_text,
)
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.outcome_writer import Added, OutcomeWriter
from bascule.serving.transports import Method, Rpc, Unary

_NAME, _OUTCOME = 1 << 3 | BYTES, 2 << 3 | BYTES
_ID, _TEXT, _TIME = 1 << 3 | BYTES, 2 << 3 | BYTES, 5 << 3 | BYTES
_NUMBER, _FLAG = 3 << 3 | FIXED64, 4 << 3 | VARINT
_MAX_OUTCOMES = 10_000
_Place = tuple[int, int]


class OutcomesGrpc:
    """The methods of the service."""

    def __init__(self, plane: DataPlane, writer: OutcomeWriter) -> None:
        self._plane = plane
        self._writer = writer

    def methods(self) -> Iterator[Method]:
        """Add."""
        yield Unary(b"/bascule.v1.Outcomes/Add", self._add, "outcome")

    def _add(self, rpc: Rpc) -> None:
        body, rpc.body = rpc.body, b""
        name, places = _read_request(body)
        if not name:
            raise Invalid("model_name: missing", hint="name the model that was asked")
        rpc.allow("outcome", name)
        model = self._plane.find(name)

        def tell(added: Added | BasculeError) -> None:
            if isinstance(added, BasculeError):
                rpc.fail(added)
                return
            model.series.count_outcomes(added.taken)
            rpc.answer(_response(added))

        self._writer.add(name, len(body), partial(_outcomes, body, places), tell)


def _read_request(body: bytes) -> tuple[str, list[_Place]]:
    """The model, and the place of each outcome."""
    name, places = "", []
    for tag, _, start, end in fields(body, 0, len(body)):
        if tag == _NAME:
            name = read_text(body, start, end)
        elif tag == _OUTCOME:
            places.append((start, end))
            if len(places) > _MAX_OUTCOMES:
                raise TooLarge(
                    f"outcomes: over {_MAX_OUTCOMES:,}, the limit of one request",
                    hint="send several requests",
                )
    return name, places


def _outcomes(body: bytes, places: list[_Place]) -> list[object]:
    # Imported here: a worker that receives no outcomes need not have it in memory.
    from bascule.monitoring.ledger import OutcomeInput

    made: list[object] = []
    for start, end in places:
        texts: dict[int, str] = {}
        truth: object = None
        for tag, value, at, after in fields(body, start, end):
            if tag in (_ID, _TIME):
                texts[tag] = read_text(body, at, after)
            elif tag == _TEXT:
                truth = read_text(body, at, after)
            elif tag == _NUMBER:
                (truth,) = struct.unpack_from("<d", body, at)
            elif tag == _FLAG:
                truth = bool(value)
        made.append(OutcomeInput(texts.get(_ID), truth, texts.get(_TIME) or None))
    return made


def _response(added: Added) -> bytes:
    refused = (
        number_field(1, one.index) + block(2, one.id) + block(3, one.reason)
        for one in added.refused
    )
    return number_field(1, added.taken) + b"".join(block(2, one) for one in refused)
