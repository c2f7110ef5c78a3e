"""Errors of the control API as problem details (RFC 9457): one shape for every route."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from bascule.core import KINDS, BasculeError, Conflict, Invalid, NotFound, masked_text, next_step
from bascule.serving.transports import status_of

PROBLEM_TYPE = "application/problem+json"
KIND_URN = "urn:bascule:error:"
"""Prefix of `type`; the kind of error follows."""


class Problem(BaseModel):
    """One error, as problem details."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    error: str
    hint: str
    facts: dict[str, str] | None = None
    """What the caller decides by: the `model` that is not there."""


class PreconditionFailed(Conflict):
    """The resource is not in the state that `If-Match` or `If-None-Match` names."""


class KeyReused(Invalid):
    """An `Idempotency-Key` comes a second time with another request."""


_TOLD = ("model",)
"""The facts of an error that its answer has; others may be of the machine."""
_STATUS: Mapping[type[BasculeError], int] = {PreconditionFailed: 412, KeyReused: 422}


def problem_of(error: Exception, instance: str) -> JSONResponse | None:
    """The answer to an error at the path `instance`; None for an error that is a bug."""
    if isinstance(error, BasculeError):
        return _of_kind(error, instance)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        # A path of which a name is none of those that it may be is not there.
        kind = NotFound if place.startswith("path.") and "literal" in first["type"] else Invalid
        return _of_kind(kind(f"{place}: {first['msg']}"), instance)
    if isinstance(error, HTTPException):
        detail, status = str(error.detail), error.status_code
        return _answer("about:blank", status, detail, detail, "", instance, error.headers)
    return None


def bug(instance: str) -> JSONResponse:
    """The answer to an error that nothing foresees; the server's log has it."""
    text = "internal error; see the server's log"
    return _answer("about:blank", 500, text, text, "", instance)


def _of_kind(error: BasculeError, instance: str) -> JSONResponse:
    status = _STATUS.get(type(error), status_of(error))
    kind = next((one for one in type(error).__mro__ if one in KINDS), None)
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="bascule"'
    if "etag" in error.facts:
        headers["ETag"] = str(error.facts["etag"])
    if "retry_after_s" in error.facts:
        headers["Retry-After"] = str(max(1, round(float(str(error.facts["retry_after_s"])))))
    return _answer(
        "about:blank" if kind is None else KIND_URN + kind.__name__,
        status,
        masked_text(error.message),
        masked_text(f"{error.message}; {next_step(error)}"),
        next_step(error),
        instance,
        headers,
        {name: str(error.facts[name]) for name in _TOLD if name in error.facts},
    )


def _answer(
    kind: str,
    status: int,
    detail: str,
    text: str,
    hint: str,
    instance: str,
    headers: Mapping[str, str] | None = None,
    facts: dict[str, str] | None = None,
) -> JSONResponse:
    problem = Problem(
        type=kind, title=HTTPStatus(status).phrase, status=status, detail=detail,
        instance=instance, error=text, hint=hint, facts=facts or None,
    )  # fmt: skip
    return JSONResponse(problem.model_dump(exclude_none=True), status, headers, PROBLEM_TYPE)
