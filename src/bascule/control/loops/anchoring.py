"""Writes where the audit chain ends to places that a writer of the catalogue cannot rewrite.

Every control process does so, for the same anchor twice is fine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bascule.control.loops.turning import turning
from bascule.core import Invalid, Untrusted

if TYPE_CHECKING:
    from bascule.catalogue import Anchor, Catalogue

EVERY_ACTS = 100
EVERY = timedelta(minutes=5)
_LOOK_S = 2.0


def write(place: str, anchor: Anchor) -> None:
    """Keep an anchor for good: a line of a file, or an object that is only ever created.

    `chattr +a`, or a disk of another machine, keeps a file. Credentials of `s3://BUCKET/PREFIX` are
    those of `registry.objects`.

    Raises:
        BasculeError: It cannot be kept.
        OSError: The same, of a file.
    """
    content = msgspec.json.encode(anchor)
    if not place.startswith("s3://"):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with open(os.open(place, flags, 0o644), "wb", buffering=0) as file:
            file.write(content + b"\n")
            os.fsync(file.fileno())
        return
    from bascule.places import open_place

    bucket = open_place(place, "audit.anchors")
    name = f"{anchor.chain[:16]}/{anchor.sequence:012d}.json"
    if not bucket.create(name, content):
        (there,) = _parsed([bucket.read(name) or b""])
        if there.digest != anchor.digest:
            raise Untrusted(
                f"{place}/{name} anchors another entry {anchor.sequence}: the chain was rewritten",
                hint="bascule audit verify",
            )


def read_anchors(place: str) -> list[Anchor]:
    """All anchors of a place. Raises as `write` does, and `Invalid` for what is none."""
    if not place.startswith("s3://"):
        with Path(place).open("rb") as file:
            return _parsed(file)
    from bascule.places import open_place

    bucket = open_place(place, "audit.anchors")
    return _parsed(bucket.read(name) or b"" for name, _ in bucket.files(""))


def _parsed(lines: Iterable[bytes]) -> list[Anchor]:
    from bascule.catalogue import Anchor

    try:
        return [msgspec.json.decode(line, type=Anchor) for line in lines]
    except msgspec.MsgspecError as error:
        raise Invalid(f"no anchor: {error}", hint="give another file of anchors") from None


def is_due(sequence: int, last: Anchor | None, now: datetime) -> bool:
    """Whether a chain that ends with `sequence` is to be anchored again. Pure."""
    if last is None:
        return sequence > 0
    acts = sequence - last.sequence
    return acts >= EVERY_ACTS or (acts > 0 and now - last.at >= EVERY)


def anchor_due(
    catalogue: Catalogue, place: str, last: Anchor | None, *, now: datetime
) -> Anchor | None:
    """Anchor the chain where that is due; the last anchor. Raises as `write` does."""
    from bascule.catalogue import Anchor, sealing

    with catalogue.read() as connection:
        head = sealing.read_head(connection)
    if not is_due(head.sequence, last, now):
        return last
    anchor = Anchor(head.chain, head.sequence, head.digest, now)
    write(place, anchor)
    return anchor


@contextmanager
def anchoring(
    places: Sequence[str], open_catalogue: Callable[[], Catalogue], *, after: threading.Event
) -> Iterator[None]:
    """Anchor the chain while the block runs, on a thread for each place."""

    def run(place: str, ended: threading.Event) -> None:
        catalogue, last = open_catalogue(), None
        while not ended.wait(_LOOK_S):
            last = anchor_due(catalogue, place, last, now=datetime.now(UTC))

    with ExitStack() as threads:
        for place in places:
            threads.enter_context(
                turning(f"anchors at {place}", partial(run, place), after=after, pause_s=_LOOK_S)
            )
        yield
