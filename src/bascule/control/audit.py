"""The audit chain as a file that anyone can verify, and whether it is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.core import Invalid

if TYPE_CHECKING:
    from bascule.catalogue import Anchor, Catalogue, Entry


@dataclass(frozen=True, slots=True)
class Verified:
    """What the verification of a chain found.

    Attributes:
        chain: The id of the chain.
        entries: How many there are.
        problems: What is wrong, each in a sentence; none where the chain is whole.
        anchored: The greatest sequence that is anchored; 0 without anchors. Entries after it could
            have been cut off without a trace.
        anchored_at: When that was; None without anchors.
    """

    chain: str
    entries: int
    problems: tuple[str, ...]
    anchored: int
    anchored_at: datetime | None


def export(open_catalogue: Callable[[], Catalogue]) -> Iterator[bytes]:
    """One JSON object a line: the head of the chain, then each entry with salts and values.

    It is one view of the catalogue, which stays open until the last line is taken.
    """
    from bascule.catalogue import sealing

    with open_catalogue().read() as connection:
        head = sealing.head(connection)
        outside = sealing.outside(connection)
        yield msgspec.json.encode({**head._asdict(), "outside": outside}) + b"\n"
        for entry in sealing.entries(connection):
            yield msgspec.json.encode(entry.to_json()) + b"\n"


def verify(lines: Iterable[str | bytes], anchors: Sequence[Anchor] = ()) -> Verified:
    """Whether an export is whole; raises `Invalid` where its first line is none of an export."""
    from bascule.catalogue import chain

    rest = iter(lines)
    try:
        head: dict[str, Any] = msgspec.json.decode(next(rest, b""))
        chain_id, sequence, digest = head["chain"], head["sequence"], head["digest"]
    except (ValueError, KeyError, TypeError):
        raise Invalid(
            "the file is no export of an audit chain", hint="bascule audit export > FILE"
        ) from None
    last: list[Entry] = []
    problems = list(chain.problems_of(chain_id, _entries(rest, last), anchors))
    count = last[-1].sequence if last else 0
    if (count, last[-1].digest if last else chain_id) != (sequence, digest):
        problems.append(f"the chain ends with entry {count}, and its head says {sequence}")
    problems += [f"event {event} is in no entry" for event in head.get("outside", ())]
    ours = [anchor for anchor in anchors if anchor.chain == chain_id]
    newest = max(ours, key=lambda anchor: anchor.sequence, default=None)
    return Verified(
        chain_id, count, tuple(problems), newest.sequence if newest else 0,
        newest.at if newest else None,
    )  # fmt: skip


def _entries(lines: Iterator[str | bytes], last: list[Entry]) -> Iterator[Entry]:
    """The entries of an export; the last one is kept in `last`. One that cannot be read ends it."""
    from bascule.catalogue import Entry

    for line in lines:
        try:
            entry = Entry.from_json(msgspec.json.decode(line))
        except (ValueError, KeyError, TypeError):
            return  # the head says how many there should be
        last[:] = [entry]
        yield entry


def anchors_in(lines: Iterable[str | bytes]) -> list[Anchor]:
    """The anchors of a file; raises `Invalid` for a line that is none."""
    from bascule.catalogue import Anchor

    anchors = []
    for number, line in enumerate(lines, 1):
        try:
            anchors.append(Anchor.from_json(msgspec.json.decode(line)))
        except (ValueError, KeyError, TypeError):
            raise Invalid(
                f"line {number} of the anchors is no anchor", hint="give another file of anchors"
            ) from None
    return anchors
