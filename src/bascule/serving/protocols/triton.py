"""Triton's extensions of the Open Inference Protocol: configuration, statistics, repository index.

perf_analyzer and PyTriton's `ModelClient` read these before their first inference. Pure: facts of
served models to JSON documents and to protobuf messages. The field numbers are those of Triton's
`model_config.proto` and `grpc_service.proto`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from bascule.core import DType, Field
from bascule.serving.codecs import block, number_field, varint
from bascule.serving.execution import Predictor

EXTENSIONS = (
    "binary_tensor_data", "model_configuration", "model_repository", "statistics",
)  # fmt: skip
"""What server metadata names. `model_repository` is the index; loading is on the control port."""

_INT32_MAX = 2**31 - 1
_TYPES = (
    DType.BOOL, DType.UINT8, DType.UINT16, DType.UINT32, DType.UINT64, DType.INT8, DType.INT16,
    DType.INT32, DType.INT64, DType.FP16, DType.FP32, DType.FP64, DType.BYTES,
)  # fmt: skip
_TYPE_NUMBERS = {dtype: number for number, dtype in enumerate(_TYPES, start=1)}
_DURATIONS = (
    "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit",
    "cache_miss",
)  # fmt: skip
"""The members of Triton's `InferStatistics`, in the order of their field numbers."""


def max_batch_size(model: Predictor) -> int:
    """The most rows of one request. Never 0, so clients add the rows as the first dimension."""
    return min(model.limits.max_rows, _INT32_MAX)


def config(model: Predictor) -> dict[str, Any]:
    """The model configuration as JSON.

    `dims` exclude the rows and are never empty, as in Triton: a field of one value a row has
    `[1]` and a `reshape` to `[]`, and requests may have either shape. Its outputs have no second
    dimension.
    """
    made: dict[str, Any] = {
        "name": model.name,
        "platform": "bascule",
        "backend": "bascule",
        "max_batch_size": max_batch_size(model),
        "input": [_tensor(field) for field in model.signature.inputs],
        "output": [_tensor(field) for field in model.signature.outputs],
    }
    if model.limits.batching == "auto":
        made["dynamic_batching"] = {}
    return made


def _tensor(field: Field) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": field.name,
        "data_type": f"TYPE_{'STRING' if field.dtype is DType.BYTES else field.dtype.value}",
        "dims": list(field.shape) or [1],
    }
    if not field.shape:
        made["reshape"] = {"shape": []}
    return made


def config_message(model: Predictor) -> bytes:
    """The same as a `ModelConfigResponse`."""
    parts = [
        block(1, model.name),
        block(2, "bascule"),
        number_field(4, max_batch_size(model)),
        *(block(5, _tensor_message(field, dims=4)) for field in model.signature.inputs),
        *(block(6, _tensor_message(field, dims=3)) for field in model.signature.outputs),
        block(17, "bascule"),
    ]
    if model.limits.batching == "auto":
        parts.append(block(11, b""))
    return block(1, b"".join(parts))


def _tensor_message(field: Field, dims: int) -> bytes:
    """A `ModelInput` or `ModelOutput`, which differ in the field number of `dims`."""
    made = block(1, field.name) + number_field(2, _TYPE_NUMBERS[field.dtype])
    made += block(dims, b"".join(map(varint, field.shape or (1,))))
    return made if field.shape else made + block(5, b"")


_Duration = tuple[int, int]
"""A count, and the sum of the times in nanoseconds."""


class _Counts(NamedTuple):
    """What one version has answered, over all workers."""

    inferences: int
    executions: int
    durations: tuple[_Duration, ...]


def _counts(model: Predictor) -> _Counts:
    """The counters in Triton's terms.

    `success` has the time of all answers. Queue and compute have counts and no times, which are
    not measured apart; perf_analyzer finds the version under test by the count of the queue. Runs
    of the program are not counted: each answered request is one execution.
    """
    totals = model.series.totals()
    answered = totals.by_status.get(200, 0)
    success = answered, int(totals.duration_s * 1e9)
    fail = totals.requests - answered, 0
    queue_and_compute, cache = [(answered, 0)] * 4, [(0, 0)] * 2
    return _Counts(totals.rows, answered, (success, fail, *queue_and_compute, *cache))


def statistics(models: Iterable[Predictor]) -> dict[str, Any]:
    """The statistics as JSON."""
    return {"model_stats": [_statistics(model) for model in models]}


def _statistics(model: Predictor) -> dict[str, Any]:
    inferences, executions, durations = _counts(model)
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": 0,
        "inference_count": inferences,
        "execution_count": executions,
        "inference_stats": {
            name: {"count": count, "ns": ns}
            for name, (count, ns) in zip(_DURATIONS, durations, strict=True)
        },
        "batch_stats": [],
    }


def statistics_message(models: Iterable[Predictor]) -> bytes:
    """The same as a `ModelStatisticsResponse`."""
    return b"".join(block(1, _statistics_message(model)) for model in models)


def _statistics_message(model: Predictor) -> bytes:
    inferences, executions, durations = _counts(model)
    measured = b"".join(
        block(number, number_field(1, count) + number_field(2, ns))
        for number, (count, ns) in enumerate(durations, start=1)
    )
    head = block(1, model.name) + block(2, model.version)
    return head + number_field(4, inferences) + number_field(5, executions) + block(6, measured)


def index(models: Iterable[Predictor], *, is_ready: bool) -> list[dict[str, str]]:
    """The repository index: every served version and its state."""
    state = "READY" if is_ready else "UNAVAILABLE"
    return [
        {"name": model.name, "version": model.version, "state": state, "reason": ""}
        for model in models
    ]
