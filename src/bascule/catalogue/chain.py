"""The hash chain over the history: what an entry says, and whether a chain is whole. Pure.

An entry is the SHA-256 of a canonical JSON object: its sequence, the digest of the entry before it,
the event, and a digest of each part that may name a person: SHA-256(salt || JSON of the value).
Salts of 128 bits lie beside the chain; once a salt is gone, the value cannot be guessed from its
digest, and the chain still verifies. It is a list and no tree as in RFC 6962: every act is read.

The parts of an act are `who` (actor, key, session, address...), `why`, `what` (before and after)
and `name`, of what it is about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from json.encoder import encode_basestring_ascii
from typing import Any

import msgspec

from bascule.core import Invalid

ERASED = "erased"
"""In place of an actor or a name whose person was forgotten."""
FORGOTTEN = "person_forgotten"
"""The kind of the event that names the entries whose values an erasure took."""


class Head(msgspec.Struct, frozen=True):
    """The first line of an export.

    Attributes:
        chain: The id of the chain.
        after_event: The last event that is older than the chain.
        sequence: Of its last entry.
        digest: Of its last entry.
        outside: Events that are younger than the chain and in no entry.
    """

    chain: str
    after_event: int
    sequence: int
    digest: str
    outside: tuple[int, ...] = ()


class Entry(msgspec.Struct, frozen=True):
    """One act in the chain, a line of an export.

    Attributes:
        sequence: From 1, without gaps, in the order of commits.
        event: The id of the event.
        at: When.
        kind: What happened.
        about: The kind of the subject.
        plain: The parts that name no person.
        digests: Of the other parts, each of its salt and value.
        digest: Of all that, and of the entry before.
        salts: By part, in hexadecimal; those of a person who was forgotten are gone.
        values: By part, as they are now; none without its salt.
    """

    sequence: int
    event: int
    at: str
    kind: str
    about: str
    plain: dict[str, Any]
    digests: dict[str, str]
    digest: str
    salts: dict[str, str]
    values: dict[str, Any]


class Anchor(msgspec.Struct, frozen=True):
    """What the chain was at a time, kept where a writer of the catalogue cannot change it.

    Attributes:
        chain: The id of the chain.
        sequence: Of its last entry then.
        digest: Of that entry.
        at: When it was anchored.
    """

    chain: str
    sequence: int
    digest: str
    at: datetime


class Verified(msgspec.Struct, frozen=True):
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


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def canonical(value: Any) -> bytes:
    """The same bytes for the same JSON: ASCII, names sorted, no spaces."""
    # Many values are texts, for which an encoder need not be set up.
    return (encode_basestring_ascii(value) if type(value) is str else _encode(value)).encode()


def digest_of_value(salt: str, value: Any) -> str:
    """Of one part; `salt` is hexadecimal, whose letters are hashed and not what they stand for."""
    return hashlib.sha256(salt.encode() + canonical(value)).hexdigest()


def digest_of_entry(previous: str, entry: Entry) -> str:
    """Of an entry; `previous` is the digest before it, for the first the id of the chain."""
    content = {
        "sequence": entry.sequence, "previous": previous, "event": entry.event, "at": entry.at,
        "kind": entry.kind, "about": entry.about, "plain": entry.plain, "digests": entry.digests,
    }  # fmt: skip
    return hashlib.sha256(canonical(content)).hexdigest()


def parts_of(
    actor: str, reason: str, name: str, body: Mapping[str, Any], origin: Mapping[str, str]
) -> dict[str, Any]:
    """The parts of an act. Values of the body that begin with `from_` are what was before."""
    before = {field[5:]: body[field] for field in body if field.startswith("from_")}
    after = {field: body[field] for field in body if not field.startswith("from_")}
    return {
        "who": {"actor": actor, **origin}, "why": reason, "name": name,
        "what": {"before": before, "after": after},
    }  # fmt: skip


def read_export(lines: Iterable[str | bytes]) -> tuple[Head, Iterator[Entry]]:
    """Head and entries of an export; raises `Invalid` where its first line is none of an export.

    A line that is no entry ends the entries: the head says how many there should be.
    """
    rest = iter(lines)
    try:
        head = msgspec.json.decode(next(rest, b""), type=Head)
    except ValueError:
        raise Invalid(
            "the file is no export of an audit chain", hint="bascule audit export > FILE"
        ) from None
    return head, _entries(rest)


def _entries(lines: Iterator[str | bytes]) -> Iterator[Entry]:
    decoder = msgspec.json.Decoder(Entry)
    for line in lines:
        try:
            yield decoder.decode(line)
        except ValueError:
            return


def verify(head: Head, entries: Iterable[Entry], anchors: Sequence[Anchor] = ()) -> Verified:
    """Whether a chain is whole.

    Found: an entry or a value that was changed, dropped, added or moved; values that are gone
    without an act that says so; a chain that is shorter than an anchor or differs from it.
    """
    ours = sorted((one for one in anchors if one.chain == head.chain), key=_sequence)
    anchored = {sequence: list(group) for sequence, group in groupby(ours, _sequence)}
    problems = ["the anchors are those of another chain"] if anchors and not ours else []
    previous, last = head.chain, 0
    lost, excused = set[int](), set[int]()
    for entry in entries:
        if entry.sequence != last + 1:
            problems.append(
                f"after entry {last} comes {entry.sequence}: entries were dropped or moved"
            )
        for part, salt in entry.salts.items():
            if digest_of_value(salt, entry.values.get(part)) != entry.digests.get(part):
                problems.append(f"entry {entry.sequence}: {part} was changed")
        if digest_of_entry(previous, entry) != entry.digest:
            problems.append(f"entry {entry.sequence} or the one before it was changed")
        if len(entry.salts) < len(entry.digests):
            lost.add(entry.sequence)
        if entry.kind == FORGOTTEN:
            excused |= _named_by(entry)
        problems += [
            f"entry {entry.sequence} is not the one that was anchored at {anchor.at}"
            for anchor in anchored.pop(entry.sequence, ())
            if anchor.digest != entry.digest
        ]
        previous, last = entry.digest, entry.sequence
    if (last, previous) != (head.sequence, head.digest):
        problems.append(f"the chain ends with entry {last}, and its head says {head.sequence}")
    problems += [
        f"entry {sequence} has lost values, and no act says that a person was forgotten"
        for sequence in sorted(lost - excused)
    ]
    problems += [
        f"the entries {last + 1} to {sequence} are missing: entry {sequence} was anchored at "
        f"{group[0].at}"
        for sequence, group in anchored.items()
    ]
    problems += [f"event {event} is in no entry" for event in head.outside]
    newest = ours[-1] if ours else None
    return Verified(
        head.chain, last, tuple(problems), newest.sequence if newest else 0,
        newest.at if newest else None,
    )  # fmt: skip


def _sequence(anchor: Anchor) -> int:
    return anchor.sequence


def _named_by(entry: Entry) -> set[int]:
    """The entries whose values an erasure took; none where its record was changed."""
    try:
        ranges = entry.plain["what"]["after"]["entries"]
        return {number for first, end in ranges for number in range(first, end + 1)}
    except (KeyError, TypeError, ValueError):
        return set()
