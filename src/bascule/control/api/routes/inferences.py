"""The routes about inference that is answered later: submitted, read, ended. Each is a job."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote

from fastapi import FastAPI, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from bascule.control.api.context import ControlContext
from bascule.control.api.conventions import etag_of
from bascule.control.api.rights import caller_of, serves
from bascule.control.api.routes.jobs import Submissions
from bascule.core import BasculeError, NotFound, Overloaded, Refused
from bascule.jobs import CALLBACK, INFERENCE, QUEUED, Job, Payloads, Task, operations as of_jobs

_PASSED_ON = (
    "accept", "content-encoding", "content-type", "inference-header-content-length", "traceparent",
    "tracestate", "x-request-id",
)  # fmt: skip
"""The headers that the server of predictions reads, beside `bascule-...`."""
_MAX_CALLBACKS = 256


def add_inferences(app: FastAPI, context: ControlContext, submissions: Submissions) -> None:
    """Add the routes to `app`."""
    callbacks = context.parts.callbacks

    def payloads() -> Payloads:
        kept = context.jobs().payloads
        assert kept is not None  # of what is beside a server
        return kept

    @serves(app, of_jobs.DEFER)
    async def defer(
        model: str, request: Request, response: Response,
        version: Annotated[str, Query(max_length=64)] = "",
        callback: Annotated[str, Query(max_length=1_024)] = "",
    ) -> Job:  # fmt: skip
        """Have a request answered later: headers and body of the `infer` of that model.

        `callback`: one of `deferred.callbacks`, told the end.
        """
        caller, body = caller_of(request), await request.body()
        if caller.session:
            raise Refused("a session has no answers later", hint="submit it with a key")
        if callback and callback not in callbacks:
            raise Refused(f"{callback} is not in deferred.callbacks", hint="poll for the answer")
        place = quote(model, safe="") + (f"/versions/{quote(version, safe='')}" if version else "")
        fields = {
            "model": model, "path": f"/v2/models/{place}/infer", "callback": callback,
            "bytes": len(body),
            "headers": {
                name: value
                for name, value in request.headers.items()
                if name in _PASSED_ON or (name.startswith("bascule-") and name != "bascule-user")
            },
        }  # fmt: skip

        def submit() -> Job:
            if model not in context.server.names:
                raise NotFound(f"no {model!r} is served here", hint="GET /api/v1/services")
            waiting = context.jobs().find(kind=CALLBACK, stored=QUEUED, limit=_MAX_CALLBACKS)
            if callback and len(waiting) == _MAX_CALLBACKS:
                raise Overloaded("too many callbacks wait", hint="poll", retry_after_s=60)
            name = payloads().put(body)
            task = Task(
                kind=INFERENCE, input={**fields, "body": name}, title=f"inference of {model}",
                by=caller.user, key=caller.key,
            )  # fmt: skip
            try:
                return context.jobs().submit(task, payloads())
            except BasculeError:
                payloads().files.remove(name)
                raise

        job = await run_in_threadpool(submit)
        response.headers["Location"] = of_jobs.JOB.at(job=job.id)
        return job.shown()

    @serves(app, of_jobs.ANSWER, response_class=Response)
    def answer(job: str, request: Request) -> Response:
        """The bytes that the request would have been answered with; 409 before."""
        inference = submissions.visible(job, request)
        if inference.kind != INFERENCE:
            raise NotFound(f"job {job} is no inference", hint=f"GET /api/v1/jobs/{job}")
        content = payloads().answer_of(inference, datetime.now(UTC))
        headers = {**inference.result["headers"], "ETag": etag_of(inference.result["file"])}
        return Response(content, headers=headers)

    @serves(app, of_jobs.END)
    def end(job: str, request: Request) -> Job:
        """Cancel a job."""
        return submissions.command(submissions.visible(job, request), "cancel", request).shown()
