"""Requests that wait for a second person: kept, decided once, and then run once.

What runs is the request as it came, with the rights that its caller has then. The transaction of
the act makes the request `done` (`catalogue.sealing`): one that a killed process left `approved`
was not run, and never is.
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
            values = {
                "id": secrets.token_hex(8), "state": "waiting", "act": act, "body": body,
                "at": now, "ends_at": now + self._lasts,
            }  # fmt: skip
            row = connection.execute(sa.insert(_table).values(values).returning(*_table.c)).one()
            return _recorded(connection, row, "asked", asker.user)

    def list(self) -> Sequence[Approval]:
        """All of them, the latest first."""
        with self._open().read() as connection:
            rows = connection.execute(sa.select(_table).order_by(_table.c.at.desc()))
            return [_shown(row) for row in rows]

    def decide(
        self, approval: str, decision: Decision, decider: Person, *,
        may_approve: Callable[[str], bool], reason: str,
    ) -> tuple[Approval, Mapping[str, Any], bytes]:  # fmt: skip
        """Approve or decline; what is to run then. Of two that decide at once, one succeeds.

        Raises:
            NotFound: There is none.
            Conflict: It was decided or has ended, or what it is about has changed since.
            Refused: See `judge_decision`.
        """
        with self._open().write() as connection:
            query = sa.select(_table).where(_table.c.id == approval).with_for_update()
            row = connection.execute(query).first()
            if row is None:
                hint = "bascule audit approvals"
                raise NotFound(f"no request {approval!r} for approval", hint=hint)
            asker, thing = Person(**row.act["asker"]), row.act["thing"]
            judge_decision(
                decision, row.state, row.ends_at, asker, decider,
                may_approve=may_approve(thing), now=datetime.now(UTC),
            )  # fmt: skip
            if decision == "approve" and _seen(connection, thing) != row.act["seen"]:
                raise Conflict(f"{thing} has changed since it was asked", hint="ask again")
            state = "approved" if decision == "approve" else "declined"
            row = _changed(connection, approval, state=state, decided_by=decider.user)
            return _recorded(connection, row, state, decider.user, reason), row.act, row.body

    def ended(self, approval: str, status: int, answer: Any) -> Approval:
        """Note what came of a request that was approved."""
        with self._open().write() as connection:
            state = "done" if status < 400 else "failed"
            outcome = {"status": status, "answer": answer}
            row = _changed(connection, approval, state=state, outcome=outcome)
            return _recorded(connection, row, state, row.decided_by)


def _seen(connection: sa.Connection, thing: str) -> int:
    """The id of the last event that changed what is protected; 0 for none."""
    kind, _, name = thing.partition(":")
    model, _, alias = name.partition("@")
    changes = events.find(
        connection, latest_first=True, limit=None if alias else 1,
        subject=events.Subject("endpoint" if kind == "deploy" else "model", model),
        kinds=["alias_moved", "alias_dropped"] if alias else None,
    )  # fmt: skip
    ids = (event.id for event in changes if not alias or event.body.get("alias") == alias)
    return next(ids, None) or 0


def _recorded(
    connection: sa.Connection, row: Any, what: str, by: str, reason: str = ""
) -> Approval:
    act, subject = row.act, events.Subject("approval", row.id)
    body = {"thing": act["thing"], "call": act["call"], "asked_by": act["asker"]["user"]}
    event = events.Event(subject, f"approval_{what}", datetime.now(UTC), by, reason, body)
    events.append(connection, event)
    return _shown(row)


def _changed(connection: sa.Connection, approval: str, **values: Any) -> Any:
    change = sa.update(_table).where(_table.c.id == approval).values(values)
    return connection.execute(change.returning(*_table.c)).one()


def _shown(row: Any) -> Approval:
    content = row.body[:_MAX_SHOWN].decode(errors="replace")
    return Approval(
        row.id, row.state, row.act["thing"], row.act["call"], content, row.act["asker"]["user"],
        row.at, row.ends_at, row.decided_by or "", row.outcome or {},
    )  # fmt: skip
