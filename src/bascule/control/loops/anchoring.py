"""Keeps what the audit chain is at places that a writer of the catalogue cannot rewrite.

Of the control processes of a catalogue, the one that holds the lease anchors. An anchor is written
before the catalogue notes it, so a process that is killed between writes the same one again.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bascule.control.audit import anchors_in
from bascule.control.loops.turning import turning
from bascule.core import BasculeError, Untrusted, holder_name, masked_text

if TYPE_CHECKING:
    from bascule.catalogue import Anchor, Catalogue, Lease, sealing

EVERY_ACTS = 100
EVERY = timedelta(minutes=5)
_LOOK_S, _LEASE_S = 2.0, 20.0
_LEASE = "audit-anchors"


class AnchorPlace(Protocol):
    """A place where anchors can be added and not be changed."""

    def write(self, anchor: Anchor) -> None:
        """Keep it for good; one that is there with the same content is fine.

        Raises:
            BasculeError: It cannot be kept.
        """

    def read(self) -> list[Anchor]:
        """All of them."""


class AnchorFile:
    """A line of JSON for each anchor: `chattr +a`, or a disk of another machine, keeps them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, anchor: Anchor) -> None:
        line = json.dumps(anchor.to_json()).encode() + b"\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with open(os.open(self._path, flags, 0o644), "wb", buffering=0) as file:
            file.write(line)
            os.fsync(file.fileno())

    def read(self) -> list[Anchor]:
        with self._path.open("rb") as file:
            return anchors_in(file)


class AnchorBucket:
    """An object for each anchor, which is only ever created (`If-None-Match: *`)."""

    def __init__(self, address: str) -> None:
        """`address` is `s3://BUCKET/PREFIX`; credentials are those of `registry.objects`."""
        self._address = address

    def write(self, anchor: Anchor) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        from bascule.registry.stores import explaining

        name = f"{anchor.chain[:16]}/{anchor.sequence:012d}.json"
        with explaining(self._address):
            try:
                obstore.put(self._store, name, json.dumps(anchor.to_json()).encode(), mode="create")
            except AlreadyExistsError:
                (there,) = anchors_in([bytes(obstore.get(self._store, name).bytes())])
                if there.digest != anchor.digest:
                    raise Untrusted(
                        f"{self._address}/{name} anchors another entry {anchor.sequence}: the "
                        "chain was rewritten",
                        hint="bascule audit verify",
                    ) from None

    def read(self) -> list[Anchor]:
        import obstore

        from bascule.registry.stores import explaining

        with explaining(self._address):
            names = [found["path"] for part in obstore.list(self._store) for found in part]
            return anchors_in(bytes(obstore.get(self._store, name).bytes()) for name in names)

    @property
    def _store(self) -> Any:
        from bascule.registry.stores import connect

        bucket, _, prefix = self._address.removeprefix("s3://").partition("/")
        return connect(bucket, prefix.strip("/"))


def place_of(address: str) -> AnchorPlace:
    """The place of a path, or of `s3://BUCKET/PREFIX`."""
    return AnchorBucket(address) if address.startswith("s3://") else AnchorFile(Path(address))


def is_due(head: sealing.Head, sequence: int, at: datetime | None, now: datetime) -> bool:
    """Whether a place that has the entry `sequence` since `at` is to have a new anchor. Pure."""
    if head.sequence <= sequence:
        return False
    return at is None or head.sequence - sequence >= EVERY_ACTS or now - at >= EVERY


def anchor_due(
    catalogue: Catalogue, addresses: Sequence[str], lease: Lease, *, now: datetime
) -> None:
    """Anchor the chain at each place where that is due; why one failed is kept in the catalogue.

    Raises:
        Conflict: The lease has gone to another process.
    """
    import sqlalchemy as sa

    from bascule.catalogue import Anchor, audit_anchors as table, check_held, put, sealing

    with catalogue.read() as connection:
        head = sealing.head(connection)
        known = {row.place: row for row in connection.execute(sa.select(table))}
    for address in addresses:
        row = known.get(address)
        sequence, at = (row.sequence, row.at) if row else (0, None)
        if not is_due(head, sequence, at, now):
            continue
        problem = ""
        try:
            place_of(address).write(Anchor(head.chain, head.sequence, head.digest, now))
            sequence = head.sequence
        except (BasculeError, OSError) as error:
            problem = masked_text(str(error))
        if problem and row is not None and row.problem == problem:
            continue  # a write would wake every watch
        values = {"sequence": sequence, "at": now, "problem": problem}
        if problem and row is not None:
            values["at"] = row.at
        with catalogue.write() as connection:
            check_held(connection, lease)
            put(connection, table, {"place": address}, values)


def anchoring(
    addresses: Sequence[str], open_catalogue: Callable[[], Catalogue], *, after: threading.Event
) -> AbstractContextManager[None]:
    """Anchor the chain at these places while the block runs, on a thread."""

    def run(ended: threading.Event) -> None:
        from bascule.catalogue import Leadership, Leases

        catalogue = open_catalogue()
        leader = Leadership(Leases(catalogue), _LEASE, holder_name(), _LEASE_S)
        try:
            while not ended.wait(_LOOK_S):
                lease = leader.keep()
                if lease is not None:
                    anchor_due(catalogue, addresses, lease, now=datetime.now(UTC))
        finally:
            leader.release()

    if not addresses:
        return nullcontext()
    return turning("anchors", run, after=after, pause_s=_LOOK_S)


def anchors_at(addresses: Sequence[str]) -> Iterator[Anchor]:
    """The anchors of all places. Raises as `AnchorPlace.read` does."""
    for address in addresses:
        yield from place_of(address).read()
