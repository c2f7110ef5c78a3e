"""The Open Inference Protocol v2 over gRPC.

An answer has its numbers where the request had them: raw (`raw_output_contents`) or typed
(`contents`), as KServe does it and as clients expect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from bascule.core import (
    VERSION,
    BasculeError,
    Columns,
    DType,
    Field,
    Invalid,
    ModelFailed,
    NotFound,
)
from bascule.security import ANY
from bascule.serving.calls import Answer, AnsweredBy, Call, Outcome
from bascule.serving.codecs import (
    RawReader,
    Taker,
    block,
    count_mismatch,
    raw_of,
    raw_reader,
    read_text,
    taker,
    varint,
)
from bascule.serving.execution import Predictor
from bascule.serving.protocols import triton
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.oip_json import (
    At,
    add_optional,
    check_output,
    check_rows,
    datatypes_for,
    optional_targets,
    refuse_second,
    refuse_unsupported,
    rows_of,
    unknown_input,
    wrong_datatype,
    wrong_shape,
)
from bascule.serving.protocols.oip_messages import (
    CONTENTS_OF,
    InferRequest,
    Tensor,
    contents_of,
    parameter,
    read_first_name_and_version,
    read_infer_request,
    read_name_and_version,
    server_metadata,
    tensor_head,
    tensor_metadata,
    truth,
)
from bascule.serving.transports import (
    InParts,
    Method,
    PartForm,
    Rpc,
    RpcInParts,
    Unary,
    error_text,
)

SERVICE = "inference.GRPCInferenceService"
_MAX_KNOWN = 256
_ASIDE_FROM_BYTES = 256 << 10
"""A message of so many bytes may have half as many fields, and is read on a thread."""
_MAX_KNOWN_BYTES = 2048


class _At(At):
    """The place of one input of a message."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"inputs[{self.tensor}] ({self.name}) contents"


class _RawAt(At):
    """The place of one input's values where they are raw."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"raw_input_contents[{self.tensor}] ({self.name})"


class _Known(NamedTuple):
    """What a message says of all but its id, and its last part: the values of its only input.

    Attributes:
        before: All bytes before the id.
        after: Those from there to the values.
        id_at: Start and end of the id.
        start: Of the values.
        speaker: Of the model that the message names.
        read: From the message, and start and size of the values, to the columns.
        call: What it asks, without the columns.
    """

    before: bytes
    after: bytes
    id_at: tuple[int, int]
    start: int
    speaker: _Speaker
    read: Callable[[bytes, int, int], Columns]
    call: Call


class OipGrpc:
    """The methods of the service, over the models that the plane serves at that moment."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._spoken_of: object = None
        self._speakers: dict[tuple[str, str], _Speaker] = {}
        self._known: dict[int, _Known] = {}

    def methods(self) -> Iterator[Method]:
        """What the service has: all but the last have one message in and one out."""
        for name, handle, action in (
            ("ServerLive", self._server_live, "health"),
            ("ServerReady", self._server_ready, "health"),
            ("ModelReady", self._model_ready, "health"),
            ("ServerMetadata", self._server_metadata, "read"),
            ("ModelMetadata", self._model_metadata, "read"),
            ("ModelConfig", self._model_config, "read"),
            ("ModelStatistics", self._model_statistics, "read"),
            ("RepositoryIndex", self._repository_index, "read"),
        ):
            yield Unary(f"/{SERVICE}/{name}".encode(), handle, action)  # type: ignore[arg-type]
        yield Unary(f"/{SERVICE}/ModelInfer".encode(), self._infer, "infer", self._model_of)
        yield _InferInParts(self._plane).method()

    def _server_live(self, rpc: Rpc) -> None:
        rpc.answer(truth(True))

    def _server_ready(self, rpc: Rpc) -> None:
        rpc.answer(truth(self._plane.is_ready()))

    def _model_ready(self, rpc: Rpc) -> None:
        name, version = read_name_and_version(rpc.body)
        try:
            self._plane.find(name, version or None)
        except NotFound:
            # As Triton says it; its clients ask this before they load a model.
            rpc.answer(truth(False))
            return
        rpc.answer(truth(self._plane.is_ready()))

    def _server_metadata(self, rpc: Rpc) -> None:
        rpc.answer(server_metadata("bascule", VERSION, triton.EXTENSIONS))

    def _model_metadata(self, rpc: Rpc) -> None:
        name, version = read_name_and_version(rpc.body)
        model = self._plane.find(name, version or None)
        rpc.allow("read", model.name)
        parts = [
            block(1, model.name),
            *(block(2, one.version) for one in self._plane.versions(model.name)),
            block(3, "bascule"),
            *(tensor_metadata(4, field) for field in model.signature.inputs),
            *(tensor_metadata(5, field) for field in model.signature.outputs),
        ]
        rpc.answer(b"".join(parts))

    def _model_config(self, rpc: Rpc) -> None:
        name, version = read_name_and_version(rpc.body)
        model = self._plane.find(name, version or None)
        rpc.allow("read", model.name)
        rpc.answer(triton.config_message(model))

    def _model_statistics(self, rpc: Rpc) -> None:
        name, version = read_name_and_version(rpc.body)
        plane = self._plane
        models = [plane.find(name, version or None)] if name else [*plane.every_model()]
        rpc.allow("read", name or ANY)
        rpc.answer(triton.statistics_message(models))

    def _repository_index(self, rpc: Rpc) -> None:
        read_name_and_version(rpc.body)
        rpc.allow("read", ANY)
        listed = triton.index(self._plane.every_model(), is_ready=self._plane.is_ready())
        fields = (
            block(1, m["name"]) + block(2, m["version"]) + block(3, m["state"]) for m in listed
        )
        rpc.answer(b"".join(block(1, one) for one in fields))

    # -- inference --

    def _model_of(self, beginning: bytes) -> Predictor | None:
        """The model that a `ModelInferRequest` names first, as every library writes it."""
        name, version = read_first_name_and_version(beginning)
        try:
            return self._plane.find(name, version or None)
        except NotFound:
            return None

    def _infer(self, rpc: Rpc) -> None:
        if self._spoken_of is not self._plane.models:
            # Others are served now, and a name may mean another model.
            self._known, self._speakers = {}, {}
            self._spoken_of = self._plane.models
        body, rpc.body = rpc.body, b""
        known = self._known.get(len(body))
        if known is not None and body.startswith(known.before):
            id_start, id_end = known.id_at
            if body.startswith(known.after, id_end):
                speaker = known.speaker
                rpc.choose(speaker.model)
                call_id = read_text(body, id_start, id_end)
                start = known.start
                columns = known.read(body, start, len(body) - start)
                call = known.call._replace(columns=columns)
                self._run(rpc, speaker, call_id, call, is_raw=True)
                return
        if len(body) > _ASIDE_FROM_BYTES:
            rpc.body = body
            rpc.read_aside(lambda: self._read(body), lambda asked, _: self._take(rpc, body, asked))
        else:
            self._take(rpc, body, self._read(body))

    def _read(self, body: bytes) -> _Asked:
        request = read_infer_request(body)
        model = self._plane.find(request.model_name, request.model_version or None)
        speaker = self._speakers.get((model.name, model.service.version)) or _Speaker(model)
        try:
            return request, speaker, speaker.call(request, body)
        except BasculeError as problem:
            return request, speaker, problem

    def _take(self, rpc: Rpc, body: bytes, asked: _Asked) -> None:
        """Run a call if its caller may ask the model; otherwise its mistakes are not named."""
        request, speaker, call = asked
        rpc.body = b""
        rpc.choose(speaker.model)
        if isinstance(call, BasculeError):
            raise call
        self._speakers[speaker.model.name, speaker.model.service.version] = speaker
        if len(request.raw) == 1 and request.raw[0][1] == len(body):
            self._learn(request, body, speaker, call)
        self._run(rpc, speaker, request.id, call, is_raw=bool(request.raw))

    def _learn(self, request: InferRequest, body: bytes, speaker: _Speaker, call: Call) -> None:
        """Remember a message of which all but the id and the raw values may come again.

        A client that calls again sends the same names and shapes. Messages of the same length that
        have the same bytes there, those that say how long the id and the values are included,
        differ in the id and the values alone.
        """
        start = request.raw[0][0]
        if start > _MAX_KNOWN_BYTES or request.id_at[1] > start:
            return
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        id_start, id_end = request.id_at
        self._known[len(body)] = _Known(
            body[:id_start], body[id_end:start], request.id_at, start, speaker,
            speaker.raw_reader(request.inputs[0]), call._replace(columns={}),
        )  # fmt: skip

    def _run(self, rpc: Rpc, speaker: _Speaker, call_id: str, call: Call, *, is_raw: bool) -> None:
        rpc.identify(call_id)
        rpc.ask(call, partial(_tell, rpc, speaker, call.rows, is_raw))


class _InferInParts(OipGrpc):
    """`ModelStreamInfer` of Triton: a stream of requests, each answered in parts."""

    def method(self) -> InParts:
        path = f"/{SERVICE}/ModelStreamInfer".encode()
        return InParts(path, self._infer, "infer", self._model_of, failed=_failed)

    def _take(self, rpc: Rpc, body: bytes, asked: _Asked) -> None:  # noqa: ARG002
        request, speaker, call = asked
        rpc.body = b""
        call_id = rpc.identify(request.id)
        rpc.choose(speaker.model)
        if isinstance(call, BasculeError):
            raise call
        self._speakers[speaker.model.name, speaker.model.service.version] = speaker
        rpc.rows = call.rows
        is_raw = bool(request.raw)
        tells_end = request.parameters.get("triton_enable_empty_final_response") is True
        by = speaker.model.by

        def head(answering: AnsweredBy) -> tuple[bytes, bytes]:
            nonlocal by
            by = answering
            return b"", b""

        def part(answer: Answer) -> bytes:
            rows = len(next(iter(answer.outputs.values())))
            message = speaker.message(call_id, answer, rows, is_raw=is_raw)
            return block(2, message + _final(False) if tells_end else message)

        def end(parts: int, error: BasculeError | None) -> bytes:  # noqa: ARG001
            if error is not None:
                return _failed(rpc, error)
            last = _head_of(by) + block(3, call_id) + _final(True)
            return block(2, last) if tells_end else b""

        cast(RpcInParts, rpc).ask_in_parts(call, PartForm(head, part, end))


def _failed(rpc: Rpc, error: BasculeError) -> bytes:
    """A `ModelStreamInferResponse` of a request that failed, with its id."""
    return block(1, error_text(error)) + block(2, block(3, rpc.prediction_id))


def _final(is_final: bool) -> bytes:
    """Triton's parameter of a response; of `ModelInferResponse`."""
    return parameter(4, "triton_final_response", is_final)


def _tell(rpc: Rpc, speaker: _Speaker, rows: int, is_raw: bool, outcome: Outcome) -> None:
    if isinstance(outcome, BasculeError):
        rpc.fail(outcome)
        return
    rpc.reply = outcome
    try:
        message = speaker.message(rpc.prediction_id, outcome, rows, is_raw=is_raw)
    except ModelFailed as problem:
        rpc.fail(problem)
        return
    rpc.rows = rows
    rpc.answer(message)


_Asked = tuple[InferRequest, "_Speaker", Call | BasculeError]
"""What a message says, the speaker of the model that it names, and what it asks or is wrong."""


class _Input(NamedTuple):
    """How one input of a model is read, by the datatype that it is sent as."""

    field: Field
    allowed: frozenset[DType]
    raw_reader: Callable[[DType], RawReader]
    taker: Callable[[DType], Taker]


class _Speaker:
    """Reads and writes the messages of one model."""

    def __init__(self, model: Predictor) -> None:
        self.model = model
        self._inputs = {
            field.name: _Input(
                field,
                datatypes_for(field),
                cache(partial(raw_reader, field, target.dtype)),
                cache(partial(taker, field, target.dtype)),
            )
            for field, target in zip(model.signature.inputs, model.program.inputs, strict=True)
        }
        self._optional = optional_targets(model.signature.inputs, model.program.inputs)
        self._outputs = {
            field.name: field for field in (*model.signature.outputs, *model.extras.fields)
        }
        self._head = _head_of(model.by)
        self._heads_of_outputs: dict[tuple[Any, ...], bytes] = {}

    # -- reading --

    def call(self, request: InferRequest, body: bytes) -> Call:
        """What a message asks; raises `Invalid`."""
        columns: Columns = {}
        rows = 0
        raw = request.raw
        if raw and len(raw) != len(request.inputs):
            raise Invalid(
                f"raw_input_contents: {len(raw)} values, where there are {len(request.inputs)} "
                "inputs",
                hint="send one for every input, in their order",
            )
        for index, tensor in enumerate(request.inputs):
            if tensor.name not in self._inputs:
                raise unknown_input(index, tensor.name, self._inputs)
            refuse_second(index, tensor.name, columns)
            where = (_RawAt if raw else _At)(index, tensor.name)
            if tensor.parameters:
                refuse_unsupported(tensor.parameters, f"inputs[{index}].parameters")
            dtype, own_rows, count = self._shape(tensor, where)
            check_rows(own_rows, rows, self.model.limits.max_rows, where)
            rows = own_rows
            if raw:
                if tensor.contents:
                    raise Invalid(
                        f"inputs[{index}] ({tensor.name}).contents: the values come raw as well",
                        hint="send either contents or raw_input_contents",
                    )
                start, end = raw[index]
                read = self._inputs[tensor.name].raw_reader(dtype)
                array = read(body, start, end - start, count, where)
            else:
                take = self._inputs[tensor.name].taker(dtype)
                array = take(_typed(tensor, dtype, count, where), where)
            columns[tensor.name] = array.reshape(self._row_shape(tensor, own_rows))
        add_optional(columns, self._inputs, self._optional, rows)
        extras = self.model.extras
        wanted = extras.by_default
        if request.parameters:
            wanted = extras.read(request.parameters, "grpc")
        for index, parameters in request.output_parameters:
            refuse_unsupported(parameters, f"outputs[{index}].parameters")
        outputs = self._wanted(request.outputs)
        if outputs is not None:
            extras.check(outputs, wanted)
        return Call(columns, rows, outputs, wanted)

    def raw_reader(self, tensor: Tensor) -> Callable[[bytes, int, int], Columns]:
        """From the raw values of the only input of such a message to the columns."""
        where = _RawAt(0, tensor.name)
        dtype, rows, count = self._shape(tensor, where)
        name, shape = tensor.name, self._row_shape(tensor, rows)
        read = self._inputs[name].raw_reader(dtype)

        def columns(body: bytes, start: int, size: int) -> Columns:
            return {name: read(body, start, size, count, where).reshape(shape)}

        return columns

    def _shape(self, tensor: Tensor, where: At) -> tuple[DType, int, int]:
        """The datatype of a tensor, how many rows it has, and how many values."""
        field, allowed, *_ = self._inputs[tensor.name]
        if tensor.datatype not in allowed:
            raise wrong_datatype(where, tensor.datatype, field)
        shape = list(tensor.shape)
        if -1 in field.shape:
            if len(shape) != 1 + len(field.shape) or not all(
                length > 0 and declared in (-1, length)
                for length, declared in zip(shape, (-1, *field.shape), strict=True)
            ):
                tail = ["any" if length == -1 else str(length) for length in field.shape]
                raise wrong_shape(shape, ", ".join(["rows", *tail]), where)
            rows = shape[0]
        else:
            rows = rows_of(shape, field.shape, where)
        count = 1
        for length in shape:
            count *= length
        return DType(tensor.datatype), rows, count

    def _row_shape(self, tensor: Tensor, rows: int) -> tuple[int, ...]:
        # A field of one value a row may also be sent as rows of one value.
        return (rows, *tensor.shape[1:]) if self._inputs[tensor.name].field.shape else (rows,)

    def _wanted(self, names: list[str]) -> tuple[str, ...] | None:
        for index, name in enumerate(names):
            check_output(index, name, self._outputs)
        return tuple(dict.fromkeys(names)) or None

    # -- writing --

    def message(self, call_id: str, answer: Answer, rows: int, *, is_raw: bool) -> bytes:
        """The `ModelInferResponse`; raw too where an output has a type that only comes raw."""
        outputs, by = answer.outputs, answer.by
        head = self._head if by is self.model.by else _head_of(by)
        if not is_raw and all(self._outputs[name].dtype in CONTENTS_OF for name in outputs):
            tensors = [
                block(5, self._tensor_head(name, array, rows) + self._contents(name, array))
                for name, array in outputs.items()
            ]
            return b"".join([head, block(3, call_id), *tensors])
        key = (rows, *outputs, *(array.shape[1:] for array in outputs.values()))
        heads = self._heads_of_outputs.get(key)
        if heads is None:
            heads = b"".join(
                block(5, self._tensor_head(name, array, rows)) for name, array in outputs.items()
            )
            if len(self._heads_of_outputs) >= _MAX_KNOWN:
                self._heads_of_outputs.clear()
            self._heads_of_outputs[key] = heads
        parts = [head, block(3, call_id), heads]
        for name, array in outputs.items():
            raw = raw_of(array, self._outputs[name].dtype)
            if raw is None:
                raise _missing_text(name)
            parts += (b"\x32", varint(len(raw)), raw)
        return b"".join(parts)

    def _tensor_head(self, name: str, array: NDArray[Any], rows: int) -> bytes:
        return tensor_head(name, self._outputs[name].dtype, (rows, *array.shape[1:]))

    def _contents(self, name: str, array: NDArray[Any]) -> bytes:
        if array.dtype == object and None in array.ravel().tolist():
            raise _missing_text(name)
        return block(5, contents_of(array, self._outputs[name].dtype))


def _head_of(by: AnsweredBy) -> bytes:
    """The beginning of every answer by a version, up to the id."""
    return _head(by.endpoint or by.model, by.version, by.program)


@lru_cache(1_024)
def _head(name: str, version: str, program: str) -> bytes:
    return block(1, name) + block(2, version) + parameter(4, "program", program)


def _missing_text(name: str) -> ModelFailed:
    return ModelFailed(
        f"output {name!r} has a missing text, which gRPC cannot say",
        hint="ask over HTTP, which says null",
    )


def _typed(tensor: Tensor, dtype: DType, count: int, where: At) -> NDArray[Any] | list[bytes]:
    """The values of a tensor that are in its contents, as a `raw_tensors.Taker` takes them."""
    number = CONTENTS_OF.get(dtype)
    if number is None:
        raise Invalid(f"{where}: {dtype} has no typed contents", hint="send raw_input_contents")
    found = tensor.contents.get(number, np.empty(0) if dtype is not DType.BYTES else [])
    if len(tensor.contents) > (1 if number in tensor.contents else 0):
        raise Invalid(
            f"{where}: values in another field than that of {dtype}",
            hint=f"send all in {_FIELD_NAMES[number]}",
        )
    if len(found) != count:
        raise count_mismatch(len(found), count, where)
    if isinstance(found, list):
        return found
    info = np.iinfo(dtype.numpy) if dtype.is_integer else None
    if info is not None and found.dtype != dtype.numpy:
        wrong = np.flatnonzero((found < info.min) | (found > info.max))
        if len(wrong):
            place = int(wrong[0])
            raise Invalid(f"{where.value(place)}: {found[place]} does not fit {dtype}")
    return found.astype(dtype.numpy, copy=False)


_FIELD_NAMES = {
    number: f"{name}_contents"
    for number, name in enumerate(
        ("bool", "int", "int64", "uint", "uint64", "fp32", "fp64", "bytes"), start=1
    )
}
