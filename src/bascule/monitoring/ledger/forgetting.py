"""Asks the scribe for deletions, and waits for them.

Without a server, the process that asks is the scribe for as long as it takes. Where hosts share
the ledger, each carries a deletion out on what it has not added yet, and the leader then on the
segments of all. A host that is away does its part before it adds anything.
"""

from __future__ import annotations

import secrets
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bascule.catalogue import Catalogue, events
from bascule.core import Conflict, Invalid, TimedOut, replacing, sync_folder, synced
from bascule.monitoring.ledger.deletion import REQUESTS, Deletions
from bascule.monitoring.ledger.manifest import LEDGER, Deleted, Request, Subject, read_manifest
from bascule.monitoring.ledger.scribe import Chore, Scribe
from bascule.monitoring.ledger.shared import SharedStore, shared_of
from bascule.monitoring.ledger.sharing import Sharing

_LOOK_S = 0.1
_LOOK_AT_STORE_S = 1.0


def delete(
    home: Path,
    model: str,
    where: str,
    *,
    subject: Subject | None = None,
    within_s: float = 600.0,
) -> Deleted:
    """Delete the rows of a model that were answered until now and meet a condition.

    Rows that a server holds in memory are waited for. Answers that follow are new.

    Args:
        home: The home.
        model: Whose answers.
        where: One SQL expression over the columns of `predictions`; empty with a subject.
        subject: Whose rows are deleted in its place.
        within_s: How long the scribe of a server may take.

    Raises:
        Invalid: The scribe could not evaluate the condition; nothing is deleted.
        TimedOut: It has not answered; the deletion stays asked for.
    """
    store = shared_of(home)
    request = Request(
        id=secrets.token_hex(8), model=model, where=where, at_s=time.time(), subject=subject
    )
    _put(home, request, store)
    chore: Chore = Deletions() if store is None else Sharing(store, every_s=0)
    deadline_s = time.monotonic() + within_s
    while (done := _result(home, request, store)) is None:
        if not _has_worked(home, chore):
            if time.monotonic() > deadline_s:
                raise TimedOut(
                    f"the scribe has not carried out the deletion in {within_s:g} s",
                    hint="it stays asked for: look at the server's log, and at bascule ledger "
                    "status",
                )
            time.sleep(_LOOK_S if store is None else _LOOK_AT_STORE_S)
    if store is not None:
        _has_worked(home, chore)  # copies of what another host has removed go
    if done.error:
        raise Invalid(done.error, hint="nothing is deleted")
    return done


def _has_worked(home: Path, chore: Chore) -> bool:
    """Do the work as the scribe of a home; False where a server's scribe does it."""
    try:
        scribe = Scribe(home)
    except Conflict:
        return False
    try:
        chore.work(scribe, threading.Event())
    finally:
        scribe.close()
    return True


def delete_and_record(
    catalogue: Catalogue, home: Path, model: str, where: str, *, by: str, reason: str = ""
) -> Deleted:
    """Delete as `delete` does, with an event before and after in the catalogue's history.

    The values of the condition are left out of the history: they may name the person that asked
    to be forgotten. Where the history cannot be written, nothing is deleted.
    """
    catalogue.create()
    body: dict[str, Any] = {"where": without_values(where)}

    def record(kind: str) -> None:
        with catalogue.write() as connection:
            subject = events.Subject("ledger", model)
            events.append(
                connection, events.Event(subject, kind, datetime.now(UTC), by, reason, body)
            )

    record("deletion_requested")
    done = delete(home, model, where)
    body |= {"rows": done.rows, "outcomes": done.outcomes}
    record("deletion_completed")
    return done


def without_values(where: str) -> str:
    """A condition with `?` in place of each text and number, and without comments."""
    import duckdb

    plain = str(duckdb.SQLExpression(where))
    tokens = duckdb.tokenize(plain)
    ends = [start for start, _ in tokens[1:]] + [len(plain.encode())]
    values = (duckdb.token_type.string_const, duckdb.token_type.numeric_const)
    parts = [
        b"? " if kind in values else plain.encode()[start:end]
        for (start, kind), end in zip(tokens, ends, strict=True)
    ]
    return b"".join(parts).decode(errors="replace").strip()


def _result(home: Path, request: Request, store: SharedStore | None) -> Deleted | None:
    """What became of a deletion; of all hosts together where they share the ledger."""
    if store is None:
        return read_manifest(home).deletions.get(request.id)
    view = store.view()
    last = view.merged.deletions.get(request.id)
    if last is None:
        return None
    parts = [
        host.deletions[request.id] for host in view.hosts.values() if request.id in host.deletions
    ]
    return Deleted(
        at=last.at,
        rows=sum(part.rows for part in [last, *parts]),
        outcomes=sum(part.outcomes for part in [last, *parts]),
        error=next((part.error for part in [last, *parts] if part.error), ""),
    )


def _put(home: Path, request: Request, store: SharedStore | None) -> None:
    """Have the request be on the disk, or in the store, whole or not at all."""
    if store is not None:
        store.ask(request)
        return
    folder = home / LEDGER / REQUESTS
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{request.id}.json") as draft, synced(draft) as file:
        file.write(msgspec.json.encode(request))
    sync_folder(folder)
