"""Requests that wait for a second person: kept, decided once, and then run once.

What runs is the request as it came, with the rights that its caller has then. A process that is
killed between the approval and the act leaves the request `approved` and without an outcome: it is
never run again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bascule.catalogue import approvals as _table, events
from bascule.control.answers import Approval
from bascule.core import Conflict, NotFound
from bascule.security import Decision, Person, judge_decision

if TYPE_CHECKING:
    from bascule.catalogue import Catalogue

_MAX_SHOWN = 4_000


class Approvals:
    """Those of a catalogue."""

    def __init__(self, open_catalogue: Callable[[], Catalogue], lasts: timedelta) -> None:
        self._open, self._lasts = open_catalogue, lasts

    def ask(self, thing: str, act: Mapping[str, Any], body: bytes, asker: Person) -> Approval:
        """Keep a request; the same one of the same person that waits already is that one."""
        now = datetime.now(UTC)
        act = {**act, "thing": thing, "asker": asdict(asker)}
        with self._open().write(alone=True) as connection:
            act["seen"] = _seen(connection, thing)
            for row in connection.execute(sa.select(_table).where(_table.c.state == "waiting")):
                if row.act == act and row.body == body and row.ends_at > now:
                    return _shown(row)
            approval = secrets.token_hex(8)
            values = {
                "id": approval, "state": "waiting", "act": act, "body": body,
                "at": now, "ends_at": now + self._lasts,
            }  # fmt: skip
            connection.execute(sa.insert(_table).values(values))
            _record(connection, approval, "approval_asked", asker.user, act)
            return _shown(_row(connection, approval))

    def list(self) -> Sequence[Approval]:
        """All of them, the latest first."""
        with self._open().read() as connection:
            rows = connection.execute(sa.select(_table).order_by(_table.c.at.desc()))
            return [_shown(row) for row in rows]

    def get(self, approval: str) -> Approval:
        """One of them. Raises `NotFound`."""
        with self._open().read() as connection:
            return _shown(_row(connection, approval))

    def decide(
        self, approval: str, decision: Decision, decider: Person, *,
        may_approve: Callable[[str], bool], reason: str,
    ) -> tuple[Mapping[str, Any], bytes]:  # fmt: skip
        """Approve or decline; what is to run. Of two that decide at once, one succeeds.

        Raises:
            NotFound: There is none.
            Conflict: It was decided or has ended, or what it is about has changed since.
            Refused: See `judge_decision`.
        """
        with self._open().write() as connection:
            row = _row(connection, approval, locks=True)
            asker, thing = Person(**row.act["asker"]), row.act["thing"]
            judge_decision(
                decision, row.state, row.ends_at, asker, decider,
                may_approve=may_approve(thing), now=datetime.now(UTC),
            )  # fmt: skip
            if decision == "approve" and _seen(connection, thing) != row.act["seen"]:
                raise Conflict(f"{thing} has changed since it was asked", hint="ask again")
            state = "approved" if decision == "approve" else "declined"
            _set(connection, approval, state=state, decided_by=decider.user)
            _record(connection, approval, f"approval_{state}", decider.user, row.act, reason)
            return row.act, row.body

    def ended(self, approval: str, status: int, answer: Any) -> Approval:
        """Note what came of a request that was approved."""
        with self._open().write() as connection:
            state = "done" if status < 400 else "failed"
            _set(connection, approval, state=state, outcome={"status": status, "answer": answer})
            row = _row(connection, approval)
            _record(connection, approval, f"approval_{state}", row.decided_by, row.act)
            return _shown(row)


def _seen(connection: sa.Connection, thing: str) -> int:
    """The id of the last event that changed what is protected; 0 for none."""
    kind, _, name = thing.partition(":")
    if kind == "alias":
        model, _, alias = name.partition("@")
        about, kinds = events.Subject("model", model), ["alias_moved", "alias_dropped"]
        found = events.find(connection, subject=about, kinds=kinds, latest_first=True)
        return next((event.id or 0 for event in found if event.body.get("alias") == alias), 0)
    about = events.Subject("endpoint" if kind == "deploy" else "model", name)
    return next(
        (event.id or 0 for event in events.find(
            connection, subject=about, latest_first=True, limit=1
        )), 0,
    )  # fmt: skip


def _record(
    connection: sa.Connection, approval: str, kind: str, by: str, act: Mapping[str, Any],
    reason: str = "",
) -> None:  # fmt: skip
    body = {"thing": act["thing"], "call": act["call"], "asked_by": act["asker"]["user"]}
    subject = events.Subject("approval", approval)
    events.append(connection, events.Event(subject, kind, datetime.now(UTC), by, reason, body))


def _row(connection: sa.Connection, approval: str, *, locks: bool = False) -> Any:
    query = sa.select(_table).where(_table.c.id == approval)
    row = connection.execute(query.with_for_update() if locks else query).first()
    if row is None:
        raise NotFound(f"no request {approval!r} for approval", hint="bascule audit approvals")
    return row


def _set(connection: sa.Connection, approval: str, **values: Any) -> None:
    connection.execute(sa.update(_table).where(_table.c.id == approval).values(values))


def _shown(row: Any) -> Approval:
    content = row.body[:_MAX_SHOWN].decode(errors="replace")
    return Approval(
        row.id, row.state, row.act["thing"], row.act["call"], content, row.act["asker"]["user"],
        row.at, row.ends_at, row.decided_by or "", row.outcome or {},
    )  # fmt: skip
