"""The routes about inference that is answered later: submitted, looked at, read, ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from bascule.control.api.context import ControlContext
from bascule.control.api.conventions import etag_of
from bascule.control.api.rights import Authorise, caller_of, serves
from bascule.core import BasculeError, Invalid, NotFound, Refused, check_name
from bascule.jobs import (
    INFERENCE,
    DeferredOptions,
    Inference,
    Job,
    Payloads,
    Task,
    answer_of,
    check_callback,
    gone,
    operations as of_jobs,
)

_PASSED_ON = (
    "accept", "content-encoding", "content-type", "inference-header-content-length", "traceparent",
    "tracestate", "x-request-id",
)  # fmt: skip
_MAX_HEADERS = 8_192
_TAKES: dict[str, Any] = {
    kind: {"schema": {}} for kind in ("application/json", "application/octet-stream")
}


def add_inferences(app: FastAPI, context: ControlContext, authorise: Authorise) -> None:
    """Add the routes to `app`; they answer 404 where the server runs no jobs."""
    parts = context.parts

    def kept() -> tuple[DeferredOptions, Payloads]:
        if parts.deferred is None or parts.home is None:
            raise NotFound("this server answers nothing later", hint="ask one that has a home")
        return parts.deferred, Payloads(parts.deferred, parts.home)

    def visible(job_id: str, request: Request) -> Job:
        job = context.jobs().get(job_id)
        if job.kind != INFERENCE or job.id != job_id:
            raise NotFound(f"no inference {job_id!r}", hint="it is forgotten 14 days after its end")
        caller, model = caller_of(request), job.input["model"]
        is_own = (caller.key, caller.user) == (job.key, job.by)
        authorise(request, "infer" if is_own else "manage", model)
        return job

    @serves(
        app,
        of_jobs.DEFER,
        openapi_extra={"requestBody": {"required": True, "content": _TAKES}},
    )
    async def defer(
        model: str, request: Request, response: Response,
        version: Annotated[str, Query(max_length=64)] = "",
        parts: bool = False,
        callback: Annotated[str, Query(max_length=1_024)] = "",
    ) -> Inference:  # fmt: skip
        """Have a request answered later, that of `/v2/models/{model}/infer`, as it is sent there.

        `parts`: that of `infer_stream`, whose whole answer is kept. `callback`: an address that is
        sent the state at the end.
        """
        options, payloads = kept()
        caller, body = caller_of(request), await request.body()
        if caller.session:
            raise Refused("a session asks at once", hint="submit it with a key")
        if callback:
            check_callback(callback, options.callbacks)
        headers = _passed_on(request)

        def submit() -> Job:
            if check_name(model) not in context.server.names:
                raise NotFound(f"nothing is served as {model!r} here", hint="GET /api/v1/services")
            name = payloads.put(body)
            asked = {
                "model": model, "version": version, "parts": parts, "callback": callback,
                "headers": headers, "body": name,
            }  # fmt: skip
            task = Task(
                kind=INFERENCE, input=asked, title=f"inference of {model}", by=caller.user,
                key=caller.key,
            )  # fmt: skip
            try:
                return context.jobs().submit(
                    task, max_waiting=options.max_waiting,
                    max_of_caller=options.max_waiting_of_caller,
                )  # fmt: skip
            except BasculeError:
                payloads.remove(name)
                raise

        job = await run_in_threadpool(submit)
        response.headers["Location"] = of_jobs.INFERENCE.at(job=job.id)
        return Inference.of(job, options.kept_hours)

    @serves(app, of_jobs.INFERENCE)
    def inference(job: str, request: Request) -> Inference:
        """How far a request is."""
        return Inference.of(visible(job, request), kept()[0].kept_hours)

    @serves(app, of_jobs.INFERENCE_ANSWER, response_class=Response)
    def answer(job: str, request: Request) -> Response:
        """The bytes that the request would have been answered with; 409 before its end."""
        (options, payloads), found = kept(), visible(job, request)
        told = answer_of(found, options.kept_hours, datetime.now(UTC))
        path = payloads.path(told["file"])
        if not path.exists():
            raise gone(job, options.kept_hours)
        headers = {**told["headers"], "ETag": etag_of(told["file"])}
        return FileResponse(path, headers=headers, media_type=headers.pop("content-type", None))

    @serves(app, of_jobs.END_INFERENCE)
    def end(job: str, request: Request) -> Inference:
        """Cancel a request that is under way; delete the answer of one that has ended."""
        (options, payloads), found = kept(), visible(job, request)
        if found.is_ended:
            payloads.remove(found.input["body"], *filter(None, [(found.result or {}).get("file")]))
        else:
            found = context.jobs().command(job, "cancel", by=caller_of(request).user)
        return Inference.of(found, options.kept_hours)


def _passed_on(request: Request) -> dict[str, str]:
    """The headers that the server of predictions reads."""
    found = {
        name: value
        for name, value in request.headers.items()
        if name in _PASSED_ON or (name.startswith("bascule-") and name != "bascule-user")
    }
    if sum(map(len, found.values())) > _MAX_HEADERS:
        raise Invalid(f"the headers have over {_MAX_HEADERS:,} characters", hint="send fewer")
    return found
