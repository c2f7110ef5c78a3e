"""The audit chain in the catalogue: every event gets its entry at the end of its transaction.

`events.append` notes the event, and `Catalogue.write` seals all that were noted before it commits.
So a commit has both or neither, and the chain is in the order of commits, which ids are not on
PostgreSQL. The row of the head is the last lock that a transaction takes and is held only until
the commit, so it joins no deadlock; two hosts that write at once wait for each other's commit.
"""

from __future__ import annotations

import binascii
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from bascule.catalogue import chain, origins, schema
from bascule.catalogue.chain import Anchor, Entry, Head, Verified
from bascule.catalogue.event import Event
from bascule.catalogue.origins import Origin

if TYPE_CHECKING:
    from bascule.catalogue.catalogue import Catalogue

_NOTED = "acts"
_SALT_BYTES, _KEY_BYTES, _NONCE_BYTES = 16, 32, 12
_AT_ONCE = 2_000
_ITSELF = Origin("process")
"""Of what a process does by itself: rollouts, jobs, alerts, schedules."""
REFUSED = "refused"
"""The kind of the event of a request that was refused."""


def note(connection: sa.Connection, event: Event) -> None:
    """Have the event join the chain at the end of the transaction."""
    request = origins.current()
    origin = _ITSELF if request is None else request.origin
    connection.info.setdefault(_NOTED, []).append((event, origin))
    if request is not None:
        request.has_recorded = True


def seal(connection: sa.Connection) -> None:
    """Add what was noted to the chain. Nothing else may follow in the transaction.

    An approval that the acts carry out is `done` with them.
    """
    acts: list[tuple[Event, Origin]] = connection.info.pop(_NOTED, [])
    if not acts:
        return
    approved = {origin.approval for event, origin in acts if event.kind != REFUSED} - {""}
    if approved:
        table = schema.approvals
        same = (table.c.id.in_(approved), table.c.state == "approved")
        connection.execute(sa.update(table).where(*same).values(state="done"))
    head = read_head(connection, locks=True)
    keys = _keys(connection, {person for event, _ in acts for person in _owners(event).values()})
    sequence, digest, links, sealed = head.sequence, head.digest, [], []
    for event, origin in acts:
        sequence += 1
        entry = _entry(sequence, event, origin)
        digest = chain.digest_of_entry(digest, entry)
        links.append({
            "sequence": sequence, "event": event.id, "digests": entry.digests, "digest": digest,
        })  # fmt: skip
        owners = _owners(event)
        for person in {owners[part] for part in entry.salts}:
            key_id, cipher = keys[person]
            content: dict[str, Any] = {
                "salts": {p: salt for p, salt in entry.salts.items() if owners[p] == person}
            }
            if person == event.actor:
                content["origin"] = origin.known()
            text = encrypted(cipher, sequence, content)
            sealed.append({"sequence": sequence, "key": key_id, "sealed": text})
    connection.execute(sa.insert(schema.audit_chain), links)
    connection.execute(sa.insert(schema.audit_values), sealed)
    connection.execute(sa.update(schema.audit_head).values(sequence=sequence, digest=digest))


def _owners(event: Event) -> dict[str, str]:
    """By part, whose key encrypts it; that of nobody outlives every author."""
    about = event.person
    return {"who": event.actor, "why": about or event.actor, "what": about, "name": about}


def _entry(sequence: int, event: Event, origin: Origin) -> Entry:
    """The entry of an event, without its digest, which needs the one before it."""
    about, name = event.subject
    parts = chain.parts_of(event.actor, event.reason, name, event.body, origin.known())
    plain = {"what"} if event.kind == chain.FORGOTTEN else set()
    if not event.person:
        plain.add("name")
    salts = {part: secrets.token_hex(_SALT_BYTES) for part in parts if part not in plain}
    digests = {part: chain.digest_of_value(salt, parts[part]) for part, salt in salts.items()}
    shown = {part: parts[part] for part in plain}
    return Entry(
        sequence, event.id or 0, event.at.isoformat(), event.kind, about, shown, digests, "", salts,
        {},
    )  # fmt: skip


def read_head(connection: sa.Connection, *, locks: bool = False) -> Head:
    """Where the chain stands; with `locks`, others wait until the end of the transaction."""
    table = schema.audit_head.c
    query = sa.select(table.chain, table.after_event, table.sequence, table.digest)
    return Head(*connection.execute(query.with_for_update() if locks else query).one())


def read(connection: sa.Connection) -> tuple[Head, Iterator[Entry]]:
    """The whole chain: its head, and its entries in their order, read in parts."""
    head = read_head(connection)
    links, events = schema.audit_chain, schema.events
    joined = events.outerjoin(links, links.c.event == events.c.id)
    unlinked = (links.c.event.is_(None), events.c.id > head.after_event)
    query = sa.select(events.c.id).select_from(joined).where(*unlinked).order_by(events.c.id)
    outside = tuple(connection.scalars(query.limit(1_000)))
    return msgspec.structs.replace(head, outside=outside), _entries(connection)


def verify(open_catalogue: Callable[[], Catalogue], anchors: Sequence[Anchor] = ()) -> Verified:
    """See `chain.verify`."""
    with open_catalogue().read() as connection:
        return chain.verify(*read(connection), anchors)


def export(open_catalogue: Callable[[], Catalogue]) -> Iterator[bytes]:
    """One JSON object a line: the head of the chain, then each entry with salts and values.

    It is one view of the catalogue, which stays open until the last line is taken.
    """
    encode = msgspec.json.Encoder().encode
    with open_catalogue().read() as connection:
        head, entries = read(connection)
        yield encode(head) + b"\n"
        for entry in entries:
            yield encode(entry) + b"\n"


def _entries(connection: sa.Connection) -> Iterator[Entry]:
    table = schema.audit_keys
    ciphers = {row.id: cipher_of(row.key) for row in connection.execute(sa.select(table))}
    links, events, values = schema.audit_chain, schema.events, schema.audit_values
    # JSON as the texts that are stored: SQLAlchemy reads them at a third of the pace.
    query = sa.select(
        links.c.sequence, links.c.event, sa.cast(links.c.digests, sa.Text), links.c.digest,
        events.c.at, events.c.kind, events.c.subject_kind, events.c.subject, events.c.actor,
        events.c.reason, sa.cast(events.c.body, sa.Text),
    ).join_from(links, events, links.c.event == events.c.id, isouter=True)  # fmt: skip
    after, decode = 0, msgspec.json.decode
    while True:
        part = query.where(links.c.sequence > after).order_by(links.c.sequence).limit(_AT_ONCE)
        rows = connection.execute(part).all()
        if not rows:
            return
        last = rows[-1].sequence
        opened = dict[int, tuple[dict[str, str], dict[str, str]]]()
        between = (values.c.sequence > after, values.c.sequence <= last)
        for sequence, key, sealed in connection.execute(sa.select(values).where(*between)):
            if key in ciphers:
                content = decrypted(ciphers[key], sequence, sealed)
                salts, origin = opened.setdefault(sequence, ({}, {}))
                salts.update(content["salts"])
                origin.update(content.get("origin", {}))
        for row in rows:
            sequence, event, digests, digest, at, kind, about, name, actor, reason, body = row
            salts, origin = opened.get(sequence, ({}, {}))
            known = decode(digests)
            if kind is None:  # the event was deleted
                parts = {}
            else:
                parts = chain.parts_of(actor, reason, name, decode(body), origin)
            yield Entry(
                sequence, event, at.isoformat() if at else "", kind or "", about or "",
                {part: value for part, value in parts.items() if part not in known}, known, digest,
                salts, {part: value for part, value in parts.items() if part in salts},
            )  # fmt: skip
        after = last


def origins_of(
    connection: sa.Connection, events: Sequence[int]
) -> dict[int, tuple[int, Mapping[str, str]]]:
    """By event: the sequence of its entry, and where the act came from as far as that is kept."""
    links, values, keys = schema.audit_chain, schema.audit_values, schema.audit_keys
    query = sa.select(links.c.event, links.c.sequence, values.c.sealed, keys.c.key)
    query = query.select_from(
        links.outerjoin(values, values.c.sequence == links.c.sequence)
        .outerjoin(keys, keys.c.id == values.c.key)
    ).where(links.c.event.in_(events))  # fmt: skip
    known = dict[int, tuple[int, dict[str, str]]]()
    for event, sequence, sealed, key in connection.execute(query):
        _, origin = known.setdefault(event, (sequence, {}))
        if key is not None:
            origin.update(decrypted(cipher_of(key), sequence, sealed).get("origin", {}))
    return dict(known)


def _keys(connection: sa.Connection, persons: set[str]) -> dict[str, tuple[str, Any]]:
    """Id and cipher of each person's key; made where they are new, under the lock of the head."""
    table = schema.audit_keys
    rows = connection.execute(sa.select(table).where(table.c.person.in_(persons))).all()
    keys = {row.person: (row.id, row.key) for row in rows}
    for person in sorted(persons - set(keys)):
        key_id, key = secrets.token_hex(8), secrets.token_hex(_KEY_BYTES)
        connection.execute(sa.insert(table).values(id=key_id, person=person, key=key))
        keys[person] = (key_id, key)
    return {person: (key_id, cipher_of(key)) for person, (key_id, key) in keys.items()}


def cipher_of(key: str) -> Any:
    """What encrypts and decrypts by the key of a person."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(bytes.fromhex(key))


def encrypted(cipher: Any, sequence: int, content: Mapping[str, Any]) -> str:
    """Salts and origin of an entry, by the key of a person."""
    nonce, about = os.urandom(_NONCE_BYTES), str(sequence).encode()
    sealed = nonce + cipher.encrypt(nonce, msgspec.json.encode(content), about)
    return binascii.b2a_base64(sealed, newline=False).decode()


def decrypted(cipher: Any, sequence: int, sealed: str) -> dict[str, Any]:
    """Salts and origin; of what was changed nothing, so that its salts are missing."""
    from cryptography.exceptions import InvalidTag

    try:
        data = binascii.a2b_base64(sealed)
        nonce, about = data[:_NONCE_BYTES], str(sequence).encode()
        content: dict[str, Any] = msgspec.json.decode(
            cipher.decrypt(nonce, data[_NONCE_BYTES:], about)
        )
    except (InvalidTag, ValueError):
        return {"salts": {}}
    return content
