"""The routes that change the registry."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import IO, TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from bascule.control.api.conventions import (
    Conditional,
    Moment,
    Precondition,
    Taken,
    etag_of,
    receive_file,
    stale,
)
from bascule.control.api.rights import caller_of, serves
from bascule.control.api.routes.registry_reads import Number, version_of
from bascule.core import BasculeError, Conflict, Overloaded, Scratch
from bascule.registry import Alias, Event, Version, operations as of_registry

if TYPE_CHECKING:
    from bascule.registry import Registry

TakeIn = Callable[[FilePath, str, str], int]
"""Verifies an uploaded archive and pushes it: the file, the model, the user; gives the number."""

CheckMayEnd = Callable[[Request, str], None]
"""Raises `Refused` where the end of a version, `MODEL/NUMBER`, takes an approval not given."""

_MAX_TRANSFERS = 2
"""Uploads and downloads at once: each copies a bundle."""
_CHUNK_BYTES = 1 << 20
_OWN_PLACE = re.compile(r"\S*/bascule-(?:transfer|import)-[^/\s]*/bundle(?:\.tar)?")
"""A path that a caller has no use for."""

_Reason = Annotated[str, Query(max_length=1_024, description="Why, for the history")]
_ARCHIVE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


class AliasMove(Taken):
    """Where an alias is to point."""

    number: Annotated[int, Field(ge=1, lt=2**31)]
    reason: Annotated[str, Field(max_length=1_024, description="Why, for the history")] = ""


class NewDeprecation(Taken):
    """When a version ends, and what to use instead."""

    sunset: Annotated[
        Moment | None, Field(description="From then on it is answered 410; null: no date")
    ] = None
    successor: Annotated[str, Field(max_length=512, description="late/4, late@best")] = ""
    reason: Annotated[str, Field(max_length=1_024, description="Why, for the history")] = ""


class Retirement(Taken):
    """Why a version is taken out of use."""

    reason: Annotated[str, Field(max_length=1_024)]


def add_registry_writes(
    app: FastAPI, open_registry: Callable[[], Registry], take_in: TakeIn,
    check_may_end: CheckMayEnd,
) -> None:  # fmt: skip
    """Add the routes to `app`."""
    _add_aliases(app, open_registry)
    _add_tags(app, open_registry)
    _add_retirement(app, open_registry)
    _add_deprecation(app, open_registry, check_may_end)
    _add_bundles(app, open_registry, take_in)


@contextmanager
def _as_precondition(condition: Precondition, current: Callable[[], object]) -> Iterator[None]:
    """A resource that changed between the check and the change fails the condition as well."""
    try:
        yield
    except Conflict:
        if not condition.is_given:
            raise
        raise stale(etag_of(current())) from None


def _add_aliases(app: FastAPI, open_registry: Callable[[], Registry]) -> None:
    def current(registry: Registry, model: str, alias: str) -> Alias | None:
        return registry.aliases(model).get(alias)

    @serves(app, of_registry.SET_ALIAS)
    def move(
        model: str, alias: str, to: AliasMove, request: Request, response: Response,
        condition: Conditional,
    ) -> Event:  # fmt: skip
        """Point an alias to a version; the answer is the event, its tag that of the alias."""
        registry, expected = open_registry(), {}
        if condition.is_given:
            before = current(registry, model, alias)
            condition.check(before)
            expected["expected"] = None if before is None else before.number
        with _as_precondition(condition, lambda: registry.alias(model, alias)):
            event = registry.set_alias(
                model, alias, to.number, by=caller_of(request).user, reason=to.reason, **expected
            )
        response.headers["ETag"] = etag_of(registry.alias(model, alias))
        return event

    @serves(app, of_registry.DROP_ALIAS)
    def drop(
        model: str, alias: str, request: Request, condition: Conditional, reason: _Reason = ""
    ) -> Event:
        """Drop an alias; its history stays."""
        registry, expected = open_registry(), {}
        if condition.is_given:
            before = registry.alias(model, alias)
            condition.check(before)
            expected["expected"] = before.number
        with _as_precondition(condition, lambda: registry.alias(model, alias)):
            return registry.drop_alias(
                model, alias, by=caller_of(request).user, reason=reason, **expected
            )


def _add_tags(app: FastAPI, open_registry: Callable[[], Registry]) -> None:
    @serves(app, of_registry.CHANGE_TAGS)
    def change(
        model: str, number: Number, changes: dict[str, str | None], request: Request,
        response: Response, condition: Conditional,
    ) -> dict[str, str]:  # fmt: skip
        """Set tags, and unset those that are null (a JSON merge patch, RFC 7396): all or none."""
        registry = open_registry()
        version = version_of(registry, model, number)
        before = registry.tags(version)
        condition.check(before)
        with _as_precondition(condition, lambda: registry.tags(version)):
            registry.change_tags(
                version, changes, by=caller_of(request).user,
                expected=before if condition.is_given else None,
            )  # fmt: skip
        now = registry.tags(version)
        response.headers["ETag"] = etag_of(now)
        return now


def _conditional(registry: Registry, condition: Precondition, model: str, number: int) -> Registry:
    """The registry, once the conditions of a request are met by the version."""
    if condition.is_given:
        condition.check(version_of(registry, model, number))
    return registry


def _add_retirement(app: FastAPI, open_registry: Callable[[], Registry]) -> None:
    @serves(app, of_registry.RETIRE)
    def retire(
        model: str, number: Number, why: Retirement, request: Request, condition: Conditional
    ) -> Version:
        """Take a version out of use; conditions are about the version."""
        registry = _conditional(open_registry(), condition, model, number)
        user = caller_of(request).user
        return registry.retire(model, number, by=user, reason=why.reason)

    @serves(app, of_registry.RESTORE)
    def restore(
        model: str, number: Number, request: Request, condition: Conditional, reason: _Reason = ""
    ) -> Version:
        """Take a retired version back into use; conditions are about the version."""
        registry = _conditional(open_registry(), condition, model, number)
        user = caller_of(request).user
        return registry.restore(model, number, by=user, reason=reason)


def _add_deprecation(
    app: FastAPI, open_registry: Callable[[], Registry], check_may_end: CheckMayEnd
) -> None:
    def check(registry: Registry, request: Request, model: str, number: int, sunset: Any) -> None:
        version = version_of(registry, model, number)
        before = None if version.deprecated is None else version.deprecated.sunset
        if before != sunset and version.retired is None:
            check_may_end(request, str(version))

    @serves(app, of_registry.DEPRECATE)
    def deprecate(
        model: str, number: Number, said: NewDeprecation, request: Request, condition: Conditional
    ) -> Version:
        """Announce that a version will go away; conditions are about the version."""
        registry = _conditional(open_registry(), condition, model, number)
        check(registry, request, model, number, said.sunset)
        user = caller_of(request).user
        return registry.deprecate(model, number, by=user, **said.model_dump())

    @serves(app, of_registry.UNDEPRECATE)
    def undeprecate(
        model: str, number: Number, request: Request, condition: Conditional, reason: _Reason = ""
    ) -> Version:
        """Withdraw a deprecation; conditions are about the version."""
        registry = _conditional(open_registry(), condition, model, number)
        check(registry, request, model, number, None)
        user = caller_of(request).user
        return registry.undeprecate(model, number, by=user, reason=reason)


def _add_bundles(app: FastAPI, open_registry: Callable[[], Registry], take_in: TakeIn) -> None:
    places = threading.BoundedSemaphore(_MAX_TRANSFERS)

    @contextmanager
    def transferring() -> Iterator[FilePath]:
        if not places.acquire(blocking=False):
            raise Overloaded(
                f"{_MAX_TRANSFERS} bundles are being copied already", hint="retry", retry_after_s=5
            )
        try:
            with Scratch("bascule-transfer-") as folder:
                yield folder / "bundle.tar"
        finally:
            places.release()

    @serves(
        app,
        of_registry.PUSH,
        openapi_extra={"requestBody": {"required": True, "content": _ARCHIVE}},
    )
    async def push(model: str, request: Request, response: Response) -> Version:
        """Upload a version in the file that `bascule export` writes.

        It is verified, and pushed by a process of its own. The same bundle gives the version that
        it has.
        """
        user = caller_of(request).user
        with transferring() as file:
            await receive_file(request, file, "the bundle")
            try:
                number = await run_in_threadpool(take_in, file, model, user)
                version = version_of(open_registry(), model, number)
            except BasculeError as problem:
                message = _OWN_PLACE.sub("the uploaded bundle", problem.message)
                raise type(problem)(message, hint=problem.hint, **problem.facts) from None
        response.headers["Location"] = f"/api/v1/models/{model}/versions/{version.number}"
        return version

    @serves(
        app,
        of_registry.BUNDLE,
        response_class=StreamingResponse,
        responses={200: {"content": _ARCHIVE}},
    )
    def bundle(model: str, number: Number) -> StreamingResponse:
        """Download a version and its statements as the file that `bascule export` writes.

        The entity tag is the digest of its OCI manifest.
        """
        registry = open_registry()
        version = version_of(registry, model, number)
        with transferring() as target:
            digest = registry.export(version, target)
            size, file = target.stat().st_size, target.open("rb")
        # The file has no name any more: its space is free when it is closed.
        headers = {"ETag": f'"{digest}"', "Content-Length": str(size)}
        return StreamingResponse(_chunks(file), 200, headers, "application/octet-stream")


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
