"""Holds on bundles, and garbage collection of unused ones.

What may go is decided in `holding`; here it is looked up, written down and done. Each decision is
made under the lock of the digest that it is about.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from bascule.core import BasculeError, Conflict, Refused
from bascule.registry.holding import Garbage, Hold, Marked, is_abandoned, next_mark, why_unneeded
from bascule.registry.versions import Event

if TYPE_CHECKING:
    from bascule.registry.stores import Objects, Records, Transaction

_ASK_AGAIN_S = 0.1


def take_holds(
    records: Records,
    digests: Iterable[str],
    holder: str,
    *,
    lasts: timedelta,
    clock: Callable[[], datetime],
) -> None:
    """Hold bundles for `lasts`, or as much longer; they are unmarked by it.

    Raises:
        Conflict: One of them is being removed at this moment.
    """
    with records.write() as book:
        for digest in sorted(set(digests)):  # in one order, so that two never wait for each other
            now = clock()
            marked = book.lock_object(digest, at=now)
            if marked.state == "removing" and not is_abandoned(marked, now=now):
                raise Conflict(
                    f"the files of {digest} are being removed at this moment",
                    hint="try again in a moment; push the bundle to have it back",
                    digest=digest,
                )
            if marked.state != "kept":
                book.put_object(digest, Marked("kept", now))
            book.put_hold(Hold(digest, holder, now + lasts))


@contextmanager
def holding(
    records: Records,
    digest: str,
    holder: str,
    *,
    lasts: timedelta,
    wait_s: float,
    clock: Callable[[], datetime],
) -> Iterator[None]:
    """Hold one bundle for the block, after waiting for a removal of it that is under way.

    The block lets go of it in the transaction that makes it needed; an error does so here.
    """
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            take_holds(records, [digest], holder, lasts=lasts, clock=clock)
            break
        except Conflict:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(_ASK_AGAIN_S)
    try:
        yield
    except BaseException:
        # If this fails too, the hold ends by itself.
        with suppress(BasculeError):
            drop_holds(records, [digest], holder)
        raise


def drop_holds(records: Records, digests: Iterable[str], holder: str) -> None:
    """Let go; fine where there is no hold."""
    with records.write() as book:
        for digest in sorted(set(digests)):
            book.drop_hold(digest, holder)


def collect(
    records: Records,
    objects: Objects,
    *,
    grace: timedelta,
    dry_run: bool,
    by: str,
    clock: Callable[[], datetime],
) -> list[Garbage]:
    """Mark unused bundles, and remove those marked for the grace period.

    Raises:
        Refused: The objects belong to another catalogue, which may name what this one does not.
    """
    with records.read() as book:
        book.models()  # raises where there is no registry, before anything is written
    _check_owner(records, objects)
    found = []
    for digest in sorted(objects.digests()):
        garbage = (
            _look(records, objects, digest, grace=grace, now=clock())
            if dry_run
            else _collect_one(records, objects, digest, grace=grace, by=by, clock=clock)
        )
        if garbage is not None:
            found.append(garbage)
    return found


def _check_owner(records: Records, objects: Objects) -> None:
    with records.write() as book:
        own = book.identity()
    if objects.owner(own) != own:
        raise Refused(
            "the objects belong to another catalogue: what this one does not know, that one may "
            "need",
            hint="check registry.store and registry.objects; collect with the catalogue that "
            "pushed there first",
        )


def _look(
    records: Records, objects: Objects, digest: str, *, grace: timedelta, now: datetime
) -> Garbage | None:
    with records.read() as book:
        reason = _reason(book, digest, now)
        marked = book.objects().get(digest, Marked("kept", now))
    if reason is None:
        return None
    after = next_mark(marked, grace=grace, now=now)
    return Garbage(
        digest,
        reason,
        objects.size_bytes(digest),
        "removed" if after.state == "removing" else "marked",
        now if marked.state == "kept" else marked.since,
    )


def _collect_one(
    records: Records,
    objects: Objects,
    digest: str,
    *,
    grace: timedelta,
    by: str,
    clock: Callable[[], datetime],
) -> Garbage | None:
    with records.write() as book:
        now = clock()
        marked = book.lock_object(digest, at=now)
        reason = _reason(book, digest, now)
        if reason is None:
            if marked.state == "marked":
                book.put_object(digest, Marked("kept", now))
            return None
        after = next_mark(marked, grace=grace, now=now)
        if after != marked:
            book.put_object(digest, after)
    garbage = Garbage(digest, reason, objects.size_bytes(digest), "marked", after.since)
    # Removing already, and not by us: another process collects at the same time.
    if after.state != "removing" or after == marked:
        return garbage
    objects.remove(digest)
    with records.write() as book:
        versions = book.versions_of(digest)
        for model in sorted({version.model for version in versions}):
            book.lock_model(model, at=clock())
        book.lock_object(digest, at=clock())
        book.forget_object(digest)
        for version in versions:
            book.add_event(
                Event(
                    kind="collected", model=version.model, number=version.number, at=clock(),
                    by=by, reason=f"{garbage.size_bytes:,} bytes given back",
                )
            )  # fmt: skip
    return replace(garbage, state="removed")


def _reason(book: Transaction, digest: str, now: datetime) -> str | None:
    versions = book.versions_of(digest)
    aliases = [
        alias
        for model in sorted({version.model for version in versions})
        for alias in book.aliases(model).values()
    ]
    return why_unneeded(versions, aliases, book.holds(digest), now=now)
