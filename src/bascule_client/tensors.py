"""Columns to the body of a request, and the body of an answer to an `Answer`.

Numbers are sent and read as the bytes that they are in memory (the binary tensor data extension of
the Open Inference Protocol), or as JSON where that is asked for; a column with missing texts is
always JSON, because its bytes have no form for one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bascule_client.answer import Answer, Places
from bascule_client.dates import Dates
from bascule_client.errors import Invalid, Untrusted
from bascule_client.fields import Columns, DType, Field, Signature
from bascule_client.tables import is_missing
from bascule_client.wire import Reply, Request, length_of

_LENGTH_HEADER = "inference-header-content-length"
_LENGTH_BYTES = 4
_NO_ANSWER = (LookupError, TypeError, ValueError, AttributeError, RecursionError)

_WRITER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class RequestOptions(NamedTuple):
    """The options of a prediction; see `Bundle.predict`."""

    outputs: tuple[str, ...] | None = None
    as_json: bool = False
    parameters: Mapping[str, Any] = {}
    """Of extra outputs, by name. What they mean is the server's: any is sent."""

    @classmethod
    def of(
        cls, outputs: Iterable[str] | None, parameters: Mapping[str, Any] | None, *,
        as_json: bool, **named: Any,
    ) -> Self:  # fmt: skip
        """From the arguments of `Client.predict`; an argument that is None is not sent."""
        sent = {name: value for name, value in named.items() if value is not None}
        listed = None if outputs is None else tuple(outputs)
        return cls(listed, as_json, sent | dict(parameters or {}))


def row_bytes(columns: Columns) -> int:
    """About how many bytes one row takes on its way."""
    total = 0
    for values in columns.values():
        if values.dtype.kind == "O":
            total += sum(_LENGTH_BYTES + len(text or "") for text in values.ravel().tolist())
        else:
            total += values.nbytes
    rows = len(next(iter(columns.values())))
    return max(1, -(-total // max(rows, 1)))


def infer_request(
    path: str, columns: Columns, inputs: Sequence[Field], asked: RequestOptions
) -> Request:
    """The request for the rows of `columns`, which are in the dtypes of `inputs`.

    Raises:
        Invalid: A number is infinite, or a text is none.
    """
    tensors: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for field in inputs:
        values = columns[field.name]
        tensor: dict[str, Any] = {
            "name": field.name,
            "datatype": field.dtype.value,
            "shape": list(values.shape),
        }
        sent = None if asked.as_json else _to_bytes(values, field)
        if sent is None:
            tensor["data"] = _to_list(values, field)
        else:
            tensor["parameters"] = {"binary_data_size": len(sent)}
            tail.append(sent)
        tensors.append(tensor)
    said: dict[str, Any] = {"inputs": tensors}
    if asked.outputs is not None:
        said["outputs"] = [{"name": name} for name in asked.outputs]
    parameters = {} if asked.as_json else {"binary_data_output": True}
    parameters |= asked.parameters
    if parameters:
        said["parameters"] = parameters
    head = _WRITER.encode(said).encode()
    if not tail:
        return Request("POST", path, head, (("Content-Type", "application/json"),))
    headers = (
        ("Content-Type", "application/octet-stream"),
        ("Inference-Header-Content-Length", str(len(head))),
    )
    return Request("POST", path, b"".join((head, *tail)), headers)


def _to_bytes(values: NDArray[Any], field: Field) -> bytes | None:
    if field.dtype is not DType.BYTES:
        return values.astype(_stored(field.dtype), copy=False).tobytes()
    parts = []
    for text in values.ravel().tolist():
        if text is None:
            return None
        encoded = _encoded(text, field)
        parts.append(len(encoded).to_bytes(_LENGTH_BYTES, "little"))
        parts.append(encoded)
    return b"".join(parts)


def _encoded(text: str, field: Field) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Invalid(
            f"column {field.name!r} holds half of a surrogate pair, which is no text",
            field=field.name,
        ) from None


def _to_list(values: NDArray[Any], field: Field) -> list[Any]:
    flat = values.ravel()
    if field.dtype is DType.BYTES:
        texts = flat.tolist()
        for text in texts:
            if text is not None:
                _encoded(text, field)
        return texts
    if flat.dtype.kind == "f":
        if np.isinf(flat).any():
            raise Invalid(
                f"column {field.name!r} holds an infinite number, for which JSON has no word",
                hint="send a finite number, or NaN for a missing one",
                field=field.name,
            )
        missing = is_missing(flat)
        if missing.any():
            flat = flat.astype(object)
            flat[missing] = None
    return list(flat.tolist())


# -- what comes back --


def answer_of(reply: Reply, places: Places | None = None) -> Answer:
    """The answer in a reply of 200. Its arrays are the caller's to change.

    `places`: the classes that the values in a row of an output stand for.

    Raises:
        Untrusted: It is not in the form of the protocol.
    """
    body = reply.body
    try:
        length = reply.headers.get(_LENGTH_HEADER)
        start = len(body) if length is None else length_of(length)
        said = read_json(body[:start])
        outputs: Columns = {}
        for tensor in said["outputs"]:
            dtype, shape = DType(tensor["datatype"]), tuple(tensor["shape"])
            size = (tensor.get("parameters") or {}).get("binary_data_size")
            if size is None:
                array = _from_list(tensor["data"], dtype)
            else:
                array = _from_bytes(body, start, size, dtype, math.prod(shape))
                start += size
            name = tensor["name"]
            if name in outputs:
                raise ValueError(f"two outputs {name!r}")
            outputs[name] = array.reshape(shape)
        program = (said.get("parameters") or {}).get("program", "")
        rows = next((int(values.shape[0]) for values in outputs.values() if values.ndim), 0)
        requests = [(str(said["id"]), rows)] if said.get("id") else []
        return Answer(outputs, str(program), str(said.get("model_version", "")), places, requests)
    except _NO_ANSWER as problem:
        raise no_answer(problem) from None


def check_answer(answer: Answer, rows: int, wanted: Iterable[str], first: Answer | None) -> None:
    """Refuse an answer that does not fit the rows that were sent.

    Args:
        answer: To one part of a table, or to all of it.
        rows: How many were sent.
        wanted: Outputs that it must have; it may have others, as extras.
        first: The answer to the first part, whose outputs all parts have; None if this is it.

    Raises:
        Untrusted: An output is missing, is not in the other parts, or has another number of rows.
    """
    names = set(answer)
    missing, surplus = set(wanted) - names, set[str]()
    if first is not None:
        missing, surplus = missing | set(first) - names, names - set(first)
    if missing or surplus:
        which = ", ".join(sorted(missing or surplus))
        there = "is missing" if missing else "is not in the other parts"
        raise no_answer(ValueError(f"output {which} {there}"))
    for name, values in answer.items():
        if values.shape[:1] != (rows,):
            shape = list(values.shape)
            raise no_answer(ValueError(f"output {name} has the shape {shape} for {rows} rows"))


def no_answer(problem: Exception) -> Untrusted:
    """That a reply is in no form that is known here."""
    said = " ".join(str(problem).split())
    return Untrusted(
        f"what came back is no answer of the Open Inference Protocol ({said})",
        hint="is this the address of a server's port for predictions?",
    )


def read_json(body: bytes) -> Any:
    """Decode JSON in UTF-8; `ValueError` also for `NaN` and `Infinity`, which are no JSON."""
    return json.loads(body.decode(), parse_constant=_no_number)


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def _from_list(data: Any, dtype: DType) -> NDArray[Any]:
    if dtype is DType.BYTES:
        made = np.empty(len(data), object)
        made[:] = data
        return made
    return np.array(data, dtype.numpy)  # None among numbers is NaN


def _from_bytes(body: bytes, start: int, size: int, dtype: DType, count: int) -> NDArray[Any]:
    if dtype is not DType.BYTES:
        if size != count * dtype.numpy.itemsize:
            raise ValueError(f"{size} bytes for {count} values of {dtype.value}")
        # A copy, so that it is aligned, can be written to, and does not keep the whole body.
        return np.frombuffer(body, _stored(dtype), count, start).astype(dtype.numpy, copy=True)
    if count * _LENGTH_BYTES > size:
        raise ValueError(f"{size} bytes for {count} texts")
    made = np.empty(count, object)
    end = start + size
    for place in range(count):
        begin = start + _LENGTH_BYTES
        start = begin + int.from_bytes(body[start:begin], "little")
        made[place] = body[begin:start].decode()
    if start != end:
        raise ValueError("texts that are longer or shorter than is said")
    return made


def _stored(dtype: DType) -> np.dtype[Any]:
    return dtype.numpy.newbyteorder("<")


def put_together(answers: Sequence[Answer]) -> Answer:
    """The answers to the parts of a table, in their order, as one.

    Raises:
        Invalid: Outputs whose lengths vary differ between the parts.
    """
    first = answers[0]
    if len(answers) == 1:
        return first
    try:
        outputs = {name: np.concatenate([one[name] for one in answers]) for name in first}
    except ValueError:
        raise Invalid(
            "the answers to the parts of the table have different shapes",
            hint="send fewer rows at a time",
        ) from None
    requests = [one for answer in answers for one in answer.requests]
    return Answer(outputs, first.program, first.version, first.places, requests)


# -- what a model takes --


class Described(NamedTuple):
    """What a model says of itself; `places` are the classes of its outputs, see `answer.Places`."""

    signature: Signature
    version: str
    places: Places


def described(metadata: Any) -> Described:
    """The signature and the version in the metadata of a model.

    Raises:
        Untrusted: They are not in the form of the protocol.
    """
    try:
        inputs = tuple(map(_field, metadata["inputs"]))
        outputs = tuple(map(_field, metadata["outputs"]))
        columns = tuple((metadata["inputs"][0].get("parameters") or {}).get("columns") or ())
        version = (metadata.get("parameters") or {}).get("version", "")
        return Described(
            Signature(inputs, outputs, columns), str(version), _places(metadata["outputs"])
        )
    except _NO_ANSWER as problem:
        raise no_answer(problem) from None


def _places(outputs: Any) -> Places:
    """The classes by output; those of the probabilities are also those of extra outputs."""
    said = {str(one["name"]): (one.get("parameters") or {}).get("labels") for one in outputs}
    named = {name: tuple(labels) for name, labels in said.items() if labels}
    return {**named, "": named["probabilities"]} if "probabilities" in named else named


def _field(tensor: Any) -> Field:
    parameters = tensor.get("parameters") or {}
    categories = parameters.get("categories")
    bounds = parameters.get("bounds")
    dates = parameters.get("dates")
    return Field(
        str(tensor["name"]),
        DType(tensor["datatype"]),
        tuple(map(int, tensor["shape"][1:])),
        bool(parameters.get("nullable", False)),
        None if categories is None else tuple(categories),
        None if bounds is None else (bounds[0], bounds[1]),
        bool(parameters.get("booleans", False)),
        None if dates is None else Dates(dates),
        bool(parameters.get("optional", False)),
    )
