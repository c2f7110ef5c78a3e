"""The status of each kind of error over HTTP and gRPC, and the one shape of its message.

Answers of both are counted by the status of HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bascule.core import (
    BasculeError,
    Conflict,
    Gone,
    Invalid,
    MissingExtra,
    ModelFailed,
    NoRoom,
    NotFound,
    Overloaded,
    Refused,
    TimedOut,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unconvertible,
    Untrusted,
)

STATUS_OF: Mapping[type[BasculeError], int] = {
    Invalid: 400,
    Unauthenticated: 401,
    Unconvertible: 400,
    TooLarge: 413,
    NotFound: 404,
    Gone: 410,
    Conflict: 409,
    Refused: 403,
    NoRoom: 507,
    Untrusted: 403,
    Overloaded: 429,
    Unavailable: 503,
    TimedOut: 504,
    ModelFailed: 500,
    MissingExtra: 501,
}

(
    OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS,
    PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE,
    UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED,
) = range(17)  # fmt: skip
"""The codes of gRPC."""

CODE_OF: Mapping[type[BasculeError], int] = {
    Invalid: INVALID_ARGUMENT,
    Unconvertible: INVALID_ARGUMENT,
    # Not RESOURCE_EXHAUSTED: a client that tries again after that would do so for ever.
    TooLarge: INVALID_ARGUMENT,
    NotFound: NOT_FOUND,
    Gone: FAILED_PRECONDITION,
    Conflict: ABORTED,
    Unauthenticated: UNAUTHENTICATED,
    Refused: PERMISSION_DENIED,
    NoRoom: RESOURCE_EXHAUSTED,
    Untrusted: PERMISSION_DENIED,
    Overloaded: RESOURCE_EXHAUSTED,
    Unavailable: UNAVAILABLE,
    TimedOut: DEADLINE_EXCEEDED,
    ModelFailed: INTERNAL,
    MissingExtra: UNIMPLEMENTED,
}


_NAME_OF_CODE = {
    INVALID_ARGUMENT: "INVALID_ARGUMENT", DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    NOT_FOUND: "NOT_FOUND", PERMISSION_DENIED: "PERMISSION_DENIED",
    RESOURCE_EXHAUSTED: "RESOURCE_EXHAUSTED", FAILED_PRECONDITION: "FAILED_PRECONDITION",
    ABORTED: "ABORTED", UNIMPLEMENTED: "UNIMPLEMENTED", UNAVAILABLE: "UNAVAILABLE",
    UNAUTHENTICATED: "UNAUTHENTICATED",
}  # fmt: skip
_MLFLOW_CODE_OF = {
    INVALID_ARGUMENT: "INVALID_PARAMETER_VALUE", DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    NOT_FOUND: "RESOURCE_DOES_NOT_EXIST", FAILED_PRECONDITION: "RESOURCE_DOES_NOT_EXIST",
    PERMISSION_DENIED: "PERMISSION_DENIED", RESOURCE_EXHAUSTED: "RESOURCE_EXHAUSTED",
    ABORTED: "ABORTED", UNIMPLEMENTED: "NOT_IMPLEMENTED", UNAVAILABLE: "TEMPORARILY_UNAVAILABLE",
    UNAUTHENTICATED: "UNAUTHENTICATED",
}  # fmt: skip
"""MLflow's own names (`mlflow/protos/databricks.proto`); its clients fail on any other."""


class HttpError(BasculeError):
    """The request was refused by the transport itself; `facts["status"]` says how.

    Over gRPC `facts["code"]` does, and the status says under what it is counted.
    """


def internal_error() -> HttpError:
    """The error that a caller gets for a bug."""
    return HttpError("internal error", hint="see the server's log", status=500)


def status_of(error: BasculeError) -> int:
    """The HTTP status of an error: that of its nearest kind."""
    if isinstance(error, HttpError):
        return int(str(error.facts["status"]))
    return next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), 500)


def code_of(error: BasculeError) -> int:
    """The gRPC code of an error: that of its nearest kind."""
    if isinstance(error, HttpError):
        return int(str(error.facts.get("code", INTERNAL)))
    return next((CODE_OF[kind] for kind in type(error).__mro__ if kind in CODE_OF), INTERNAL)


def kind_of(error: BasculeError | None) -> str:
    """The name of an error's kind; empty of none, and of what only a protocol has a word for."""
    return "" if error is None or isinstance(error, HttpError) else type(error).__name__


def error_text(error: BasculeError) -> str:
    """What went wrong and the next step, in one line."""
    return f"{error.message}; {error.hint}" if error.hint else error.message


def error_body(error: BasculeError, protocol: str = "") -> dict[str, Any]:
    """An error as the clients of a protocol read it; `{"error": text}` where they read no more.

    Vertex AI: google-api-core reads the `message` inside `error`; `status` names the gRPC code.
    `/invocations`: MLflow's clients read `error_code` and `message`, and botocore `message`.
    OpenAI: its clients read the members of `error`, and raise by the status.
    """
    text = error_text(error)
    if protocol == "vertex":
        status = _NAME_OF_CODE.get(code_of(error), "INTERNAL")
        return {"error": {"code": status_of(error), "message": text, "status": status}}
    if protocol == "invocations":
        code = _MLFLOW_CODE_OF.get(code_of(error), "INTERNAL_ERROR")
        return {"error": text, "error_code": code, "message": text}
    if protocol == "openai":
        return {"error": _openai_error(error, text)}
    return {"error": text}


_OPENAI_OF = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", None),
    404: ("invalid_request_error", "model_not_found"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}


def _openai_error(error: BasculeError, text: str) -> dict[str, Any]:
    status = status_of(error)
    other = "server_error" if status >= 500 else "invalid_request_error"
    kind, code = _OPENAI_OF.get(status, (other, None))
    return {"message": text, "type": kind, "param": error.facts.get("field"), "code": code}


def reason_of(error: BasculeError | None) -> str:
    """Why a model failed, for the log alone; empty of other errors."""
    return str(error.facts.get("reason", "")) if isinstance(error, ModelFailed) else ""


def named_failure(error: BasculeError, request_id: bytes) -> BasculeError:
    """The failure of a model for its caller: it names the id under which the log has the reason."""
    if not isinstance(error, ModelFailed):
        return error
    hint = f"the server's log has the reason under id {request_id.decode()}"
    return ModelFailed(error.message, hint=hint, **error.facts)


def error_of(status: int, text: str) -> BasculeError:
    """The error that another server answered: of the first kind with that status."""
    kind = next((kind for kind, one in STATUS_OF.items() if one == status), None)
    if kind is None:
        return ModelFailed(text) if status >= 500 else Invalid(text)
    return kind(text)
