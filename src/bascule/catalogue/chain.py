"""The hash chain over the history: what an entry says, and whether a chain is whole. Pure.

An entry is the SHA-256 of a canonical JSON object: its sequence, the digest of the entry before it,
the event, and a digest of each field that may name a person: SHA-256(salt || JSON of the value).
Salts of 128 bits lie beside the chain; once a salt is gone, the value cannot be guessed from its
digest, and the chain still verifies. It is a list and no tree as in RFC 6962: every act is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from json.encoder import encode_basestring_ascii
from typing import Any

from bascule.catalogue.event import Event

ERASED = "erased"
"""In place of an actor or a name whose person was forgotten."""
FORGOTTEN = "person_forgotten"
"""The kind of the event that names the entries whose values an erasure took."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One act in the chain.

    Attributes:
        sequence: From 1, without gaps, in the order of commits.
        event: The id of the event.
        at: When.
        kind: What happened.
        about: The kind of the subject.
        plain: The fields that name no person, by name.
        digests: Of the other fields, each of its salt and value.
        digest: Of all that, and of the entry before.
        salts: By field, in hexadecimal; those of a person who was forgotten are gone.
        values: By field, as they are now.
    """

    sequence: int
    event: int
    at: datetime
    kind: str
    about: str
    plain: Mapping[str, Any]
    digests: Mapping[str, str]
    digest: str
    salts: Mapping[str, str]
    values: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """A line of an export; values whose salt is gone are left out."""
        content = {name: getattr(self, name) for name in self.__slots__}
        values = {name: value for name, value in self.values.items() if name in self.salts}
        return content | {"at": self.at.isoformat(), "values": values}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Entry:
        """Raises `KeyError`, `TypeError` or `ValueError` where it is of another form."""
        known = {name: content[name] for name in cls.__slots__}
        at = datetime.fromisoformat(known["at"])
        if at.isoformat() != known["at"]:
            raise ValueError(known["at"])
        return cls(**known | {"at": at})


@dataclass(frozen=True, slots=True)
class Anchor:
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

    def to_json(self) -> dict[str, Any]:
        return {
            "chain": self.chain, "sequence": self.sequence, "digest": self.digest,
            "at": self.at.isoformat(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Anchor:
        """Raises as `Entry.from_json` does."""
        at = datetime.fromisoformat(content["at"])
        return cls(content["chain"], content["sequence"], content["digest"], at)


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def canonical(value: Any) -> bytes:
    """The same bytes for the same JSON: ASCII, names sorted, no spaces."""
    # Most values are texts, for which an encoder need not be set up.
    return (encode_basestring_ascii(value) if type(value) is str else _encode(value)).encode()


def digest_of_value(salt: str, value: Any) -> str:
    """Of one field; `salt` is hexadecimal, whose letters are hashed and not what they stand for."""
    return hashlib.sha256(salt.encode() + canonical(value)).hexdigest()


def digest_of_entry(previous: str, entry: Entry) -> str:
    """Of an entry; `previous` is the digest before it, for the first the id of the chain."""
    content = {
        "sequence": entry.sequence, "previous": previous, "event": entry.event,
        "at": entry.at.isoformat(), "kind": entry.kind, "about": entry.about,
        "plain": entry.plain, "digests": entry.digests,
    }  # fmt: skip
    return hashlib.sha256(canonical(content)).hexdigest()


def fields_of_event(event: Event) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that name no person, and those that may: who, why, what was changed.

    Values of the body that begin with `from_` are what was before.
    """
    body, name = event.body, {"name": event.subject.name}
    change = {
        "before": {name[5:]: body[name] for name in body if name.startswith("from_")},
        "after": {name: body[name] for name in body if not name.startswith("from_")},
    }
    personal = {"actor": event.actor, "reason": event.reason}
    if event.kind == FORGOTTEN:
        return name | change, personal
    return ({}, personal | change | name) if event.person else (name, personal | change)


def problems_of(
    chain: str, entries: Iterable[Entry], anchors: Sequence[Anchor] = ()
) -> Iterator[str]:
    """What is wrong with a chain, each in a sentence; nothing where it is whole.

    Found: an entry or a value that was changed, dropped, added or moved; values that are gone
    without an act that says so; a chain that is shorter than an anchor or differs from it.
    """
    previous, last = chain, 0
    expected = dict[int, list[Anchor]]()
    for anchor in anchors:
        if anchor.chain == chain:
            expected.setdefault(anchor.sequence, []).append(anchor)
    if anchors and not expected:
        yield "the anchors are those of another chain"
    missing, excused = set[int](), set[int]()
    for entry in entries:
        if entry.sequence != last + 1:
            yield f"after entry {last} comes {entry.sequence}: entries were dropped or moved"
        yield from _wrong_values(entry)
        if digest_of_entry(previous, entry) != entry.digest:
            yield f"entry {entry.sequence} or the one before it was changed"
        if len(entry.salts) < len(entry.digests):
            missing.add(entry.sequence)
        if entry.kind == FORGOTTEN:
            excused.update(_named_by(entry))
        for anchor in expected.pop(entry.sequence, ()):
            if anchor.digest != entry.digest:
                yield f"entry {entry.sequence} is not the one that was anchored at {anchor.at}"
        previous, last = entry.digest, entry.sequence
    for sequence in sorted(missing - excused):
        yield f"entry {sequence} has lost values, and no act says that a person was forgotten"
    for anchor in (anchors[0] for anchors in expected.values()):
        yield (
            f"the entries {last + 1} to {anchor.sequence} are missing: entry {anchor.sequence} was "
            f"anchored at {anchor.at}"
        )


def _named_by(entry: Entry) -> set[int]:
    """The entries whose values an erasure took; none where its record was changed."""
    try:
        ranges = entry.plain["after"]["entries"]
        return {number for first, end in ranges for number in range(first, end + 1)}
    except (KeyError, TypeError, ValueError):
        return set()


def _wrong_values(entry: Entry) -> Iterator[str]:
    for name, salt in entry.salts.items():
        value = entry.values.get(name)
        if digest_of_value(salt, value) != entry.digests.get(name):
            yield f"entry {entry.sequence}: the value of {name} was changed"
