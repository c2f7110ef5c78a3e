"""What every route of the control API does alike: pages of lists, entity tags, preconditions."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import anyio
import msgspec
from fastapi import Depends, Header, Query, Request, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field
from pydantic_core import core_schema, to_jsonable_python

from bascule.control.api.problems import PreconditionFailed
from bascule.core import Invalid, Unavailable, in_utc

S = TypeVar("S")
T = TypeVar("T")
MAX_LIMIT = 1_000
DEFAULT_LIMIT = 100


def _written(value: object) -> object:
    """Pydantic takes a number for seconds since 1970, which the document does not say."""
    if not isinstance(value, datetime) and ":" not in str(value):
        raise ValueError("not a time such as 2026-11-26T12:00:00Z")
    return value


Moment: TypeAlias = Annotated[AwareDatetime, BeforeValidator(_written), AfterValidator(in_utc)]
"""A time that a caller gives; see `in_utc`."""
_ETAGS = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')


class Taken(BaseModel):
    """What a request carries: these fields, and no others."""

    model_config = {"extra": "forbid"}


def _same(item: Any) -> Any:
    return item


class Page(BaseModel, Generic[T]):
    """One page of a list."""

    items: list[T]
    next: Annotated[str | None, Field(description="`cursor` of the next page; null on the last")]


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page a caller asks for.

    Attributes:
        limit: How many items at most.
        after: Key of the last item of the page before; None for the first page.
    """

    limit: int
    after: int | str | None

    def page(
        self, items: Sequence[S], key: Callable[[S], Any], view: Callable[[S], Any] = _same,
        *, descending: bool = False,
    ) -> Page[Any]:  # fmt: skip
        """The page of `items`, which are sorted by `key`, an int or a str; each as `view` has it.

        The cursor holds a key, not a position: items that are added or removed meanwhile neither
        repeat nor hide others.

        Raises:
            Invalid: The cursor comes from another list.
        """
        rest = items
        if self.after is not None and items:
            after = self.after
            if type(key(items[0])) is not type(after):
                raise _bad_cursor()
            rest = [one for one in items if (key(one) < after if descending else key(one) > after)]
        return next_page(rest, self, key, view)

    def numbered(
        self, items: Sequence[S], view: Callable[[S], Any] = _same, *, descending: bool = False
    ) -> Page[Any]:
        """The page of `items` in their order, or the other way round, of which none goes away."""
        found = list(enumerate(items))[:: -1 if descending else 1]
        return self.page(found, lambda one: one[0], lambda one: view(one[1]), descending=descending)

    def number(self) -> int | None:
        """The key of the last item of the page before, where keys are numbers. Raises `Invalid`."""
        if isinstance(self.after, str):
            raise _bad_cursor()
        return self.after


def next_page(
    found: Sequence[S], paging: Paging, key: Callable[[S], int | str],
    view: Callable[[S], Any] = _same,
) -> Page[Any]:  # fmt: skip
    """The page of items that were read from `Paging.after` on, one more than the limit."""
    shown = found[: paging.limit]
    more = len(found) > len(shown)
    return Page(items=[view(one) for one in shown], next=_cursor(key(shown[-1])) if more else None)


def _cursor(key: int | str) -> str:
    return base64.urlsafe_b64encode(json.dumps([key]).encode()).decode().rstrip("=")


def _bad_cursor() -> Invalid:
    return Invalid("cursor: not a cursor of this list", hint="pass `next` of the page before as is")


def paging(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=1_024)] = None,
) -> Paging:
    """Read the page that a request asks for; raises `Invalid`."""
    if cursor is None:
        return Paging(limit, None)
    try:
        said = json.loads(base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        raise _bad_cursor() from None
    if not isinstance(said, list) or len(said) != 1 or type(said[0]) not in (int, str):
        raise _bad_cursor()
    return Paging(limit, said[0])


Paged = Annotated[Paging, Depends(paging)]


class _Encoded:
    """How FastAPI shows a value of msgspec: encoded and described by msgspec."""

    def __get_pydantic_core_schema__(self, source: Any, _: Any) -> core_schema.CoreSchema:
        encode = core_schema.plain_serializer_function_ser_schema(msgspec.to_builtins)
        return core_schema.is_instance_schema(source, serialization=encode)

    def __get_pydantic_json_schema__(self, schema: Any, _: Any) -> dict[str, Any]:
        described = msgspec.json.schema(schema["cls"])
        parts = described.pop("$defs", {})

        def inlined(part: Any) -> Any:
            if isinstance(part, list):
                return [inlined(one) for one in part]
            if not isinstance(part, dict):
                return part
            if "$ref" in part:
                return inlined(parts[part["$ref"].rpartition("/")[2]])
            return {name: inlined(one) for name, one in part.items() if name != "discriminator"}

        found: dict[str, Any] = inlined(described)
        return found


Encoded: TypeAlias = Annotated[T, _Encoded()]
"""An answer that holds values of msgspec."""


def etag_of(value: object) -> str:
    """The strong entity tag of a resource, or of its JSON: of the value, not of the bytes."""
    said = json.loads(value) if isinstance(value, bytes) else to_jsonable_python(value)
    content = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def conditional(request: Request, response: Response) -> Response:
    """The answer to a GET, tagged; 304 where the caller has the same (RFC 9110, 13.1.2)."""
    is_json = response.headers.get("content-type") == "application/json"
    if response.status_code != 200 or not (is_json or "etag" in response.headers):
        return response
    tag = response.headers.get("etag") or etag_of(bytes(response.body))
    response.headers["ETag"] = tag
    if _names(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers={"ETag": tag})
    return response


def _names(condition: str | None, tag: str) -> bool:
    if condition is None:
        return False
    named = {one.removeprefix("W/") for one in _ETAGS.findall(condition)}
    return condition.strip() == "*" or tag in named


@dataclass(frozen=True, slots=True)
class Precondition:
    """`If-Match` and `If-None-Match` of a request that changes a resource (RFC 9110, 13.1).

    Attributes:
        if_match: Entity tags, or `*` for a resource that exists; None for no condition.
        if_none_match: `*` for a resource that does not exist yet; None for no condition.
    """

    if_match: str | None
    if_none_match: str | None

    @property
    def is_given(self) -> bool:
        return self.if_match is not None or self.if_none_match is not None

    def check(self, current: object | None) -> None:
        """Raise `PreconditionFailed` unless the resource, None if absent, meets the condition."""
        tag = "" if current is None else etag_of(current)
        exists = current is not None
        if self.if_match is not None and not (exists and _names(self.if_match, tag)):
            raise stale(tag, "If-Match")
        if exists and _names(self.if_none_match, tag):
            raise stale(tag, "If-None-Match")


def stale(tag: str, header: str = "If-Match") -> PreconditionFailed:
    """The error of a condition that does not hold; `tag` is the current one, empty for none."""
    found = f"the resource has the entity tag {tag}" if tag else "the resource does not exist"
    return PreconditionFailed(
        f"{header}: {found}",
        hint="read the resource again, then decide again",
        **({"etag": tag} if tag else {}),
    )


def precondition(
    if_match: Annotated[str | None, Header(max_length=1_024)] = None,
    if_none_match: Annotated[str | None, Header(max_length=1_024)] = None,
) -> Precondition:
    """Read the condition of a request."""
    return Precondition(if_match, if_none_match)


Conditional = Annotated[Precondition, Depends(precondition)]


async def receive_file(request: Request, target: Path, what: str) -> None:
    """Write the body of a request to a file as it arrives. Raises `Unavailable`."""
    try:
        async with await anyio.open_file(target, "wb") as file:
            async for piece in request.stream():
                await file.write(piece)
    except OSError as problem:
        raise Unavailable(
            f"{what} cannot be kept while it is received: {problem.strerror or problem}",
            hint="free some space where the server's TMPDIR is",
        ) from None
