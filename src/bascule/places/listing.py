"""Listings of buckets that may come from anybody: they end, or are ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from bascule.core import BasculeError, TooLarge, Unavailable

MAX_LISTED = 10_000_000
_ALLOWED_S = 60.0
_LEAST_PER_S = 100
"""A listing has another second for so many objects that have come."""
_Item = TypeVar("_Item")


def bounded(place: str, next_page: Callable[[float], Sequence[_Item] | None]) -> Iterator[_Item]:
    """What the pages of a listing hold.

    Args:
        place: What is listed, for messages.
        next_page: The next page, None at the end; it is given the seconds that it may take, and
            raises `TimeoutError` after them.

    Raises:
        Unavailable: The pages come too slowly, or without end and without objects.
        TooLarge: There are more than `MAX_LISTED` objects.
    """
    started_s, count = time.monotonic(), 0
    while True:
        left_s = started_s + _ALLOWED_S + count / _LEAST_PER_S - time.monotonic()
        try:
            if left_s <= 0:
                raise TimeoutError
            page = next_page(left_s)
        except TimeoutError:
            raise _endless(place, count, time.monotonic() - started_s) from None
        if page is None:
            return
        count += len(page)
        if count > MAX_LISTED:
            raise TooLarge(
                f"{place} holds more than {MAX_LISTED:,} objects",
                hint="name a place of its own, below a prefix or in a bucket",
                limit=MAX_LISTED,
            )
        yield from page


def bounded_stream(place: str, pages: AsyncIterator[Sequence[Any]]) -> Iterator[Any]:
    """The same of an asynchronous listing, which can be given up while a page is awaited."""

    async def awaited(left_s: float) -> Sequence[Any] | None:
        return await asyncio.wait_for(anext(pages, None), left_s)

    # On a thread, because the caller may have an event loop of its own.
    with ThreadPoolExecutor(1) as thread:
        yield from bounded(
            place, lambda left_s: thread.submit(asyncio.run, awaited(left_s)).result()
        )


def _endless(place: str, count: int, took_s: float) -> BasculeError:
    return Unavailable(
        f"the listing of {place} does not end: {count:,} objects in {took_s:.0f} s",
        hint="check the address and the store behind it",
    )
