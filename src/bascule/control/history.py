"""The history of everything in the catalogue: every act with its time, actor and reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bascule.core import NotFound
from bascule.documents import csv_line
from bascule.security import Permission, in_words

if TYPE_CHECKING:
    from bascule.catalogue import Catalogue, events

OF_ADMINISTRATORS = ("key", "session", "sign_in_link", "operation", "person")
"""Kinds of subjects that callers without the right `keys` do not see."""

_AT_ONCE = 1_000
_MAX_CELL = 32_000
"""Characters. Spreadsheets take 32,767."""

_SENTENCES: Mapping[str, str] = {
    "key_created": "key {name} made for {permissions}",
    "key_revoked": "key {name} revoked",
    "link_offered": "sign-in link made for {user} as {permissions}",
    "link_used": "sign-in link used",
    "signed_in": "{user} signed in ({source})",
    "signed_out": "signed out",
    "session_ended": "session of {user} ended",
    "rollout_asked": "rollout asked for",
    "alert_pending": "alert is pending",
    "alert_firing": "alert fires",
    "alert_resolved": "alert is resolved",
    "alert_acknowledged": "alert acknowledged",
    "silenced": "notifications silenced until {until}",
    "silence_ended": "silence ended",
    "schedule_added": "schedule added",
    "schedule_paused": "schedule paused",
    "schedule_resumed": "schedule resumed",
    "schedule_removed": "schedule removed",
    "schedule_run_started": "scheduled run of {due} started",
    "schedule_run_ended": "scheduled run of {due} ended",
    "job_submitted": "job submitted: {kind} {title}",
    "job_cancel_requested": "job to be cancelled: {kind} {title}",
    "job_resume_requested": "job to be resumed: {kind} {title}",
    "job_retry_requested": "job to be tried again: {kind} {title}",
    "job_done": "job done: {kind} {title}",
    "job_failed": "job failed: {kind} {title}",
    "job_cancelled": "job cancelled: {kind} {title}",
    "job_killed": "job killed: {kind} {title}",
    "person_forgotten": "a person was forgotten in the history",
    "deletion_requested": "deletion of recorded answers requested where {where}",
    "deletion_completed": "{rows} recorded answers deleted where {where}",
    "erasure_requested": "erasure of a person by {field} requested",
    "erasure_completed": "{rows} rows of a person erased by {field}",
    "subject_exported": "{rows} rows of a person exported by {field}",
    "channel_published": "{version} offered to devices",
    "role_rotated": "signed anew, with the key of now",
}
"""By kind of event: what happened, with values of its body. Kinds with a sentence in their body,
and those of models, need no line here."""

_OF_MODELS = ("number", "alias", "from_number", "to_number", "key", "from_value", "to_value")


@dataclass(frozen=True, slots=True)
class Asked:
    """Which part of the history; an empty value is any.

    Attributes:
        about: The kind of subject: model, endpoint, alert, silence, schedule, ledger, key.
        name: The name of the subject.
        kind: The kind of event: `alias_moved`.
        by: The actor.
        since: Recorded at this time or later.
        until: Recorded before this time.
    """

    about: str = ""
    name: str = ""
    kind: str = ""
    by: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Act:
    """One line of the history.

    Attributes:
        id: Its place in the history of all subjects.
        at: When it was recorded.
        by: The actor.
        about: The kind of subject.
        name: The name of the subject.
        kind: What happened: `alias_moved`.
        sentence: The same in words.
        reason: Why; may be empty.
        details: What is particular to the kind.
        entry: Its sequence in the audit chain; None for an act before the chain.
        origin: Operation or command (`via`), `key`, `session`, `role`, `address`, `request` and
            `approval`, as far as they are known; empty for callers without the right `keys`.
    """

    id: int
    at: datetime
    by: str
    about: str
    name: str
    kind: str
    sentence: str
    reason: str
    details: Mapping[str, Any]
    entry: int | None = None
    origin: Mapping[str, str] = field(default_factory=dict)


COLUMNS = tuple(Act.__slots__)


class History:
    """Reads the history of a catalogue, the latest act first."""

    def __init__(self, open_catalogue: Callable[[], Catalogue]) -> None:
        """Nothing is opened yet."""
        self._open = open_catalogue

    def page(
        self, asked: Asked, *, limit: int, after: int | None = None, with_keys: bool
    ) -> list[Act]:
        """At most `limit` acts before the act of the id `after`.

        `with_keys`: whether acts on keys and sessions are among them.
        """
        from bascule.catalogue import audit_chain, events, sealing

        if after is not None and not 0 < after < 2**63:
            return []
        try:
            with self._open().read() as connection:
                found = events.find(
                    connection,
                    subject_kind=asked.about or None,
                    subject_name=asked.name or None,
                    without=() if with_keys else OF_ADMINISTRATORS,
                    kinds=[asked.kind] if asked.kind else None,
                    actor=asked.by or None,
                    since=asked.since, until=asked.until,
                    cursor=after, latest_first=True, limit=limit,
                )  # fmt: skip
                ids = audit_chain.c.event.in_([event.id for event in found])
                entries, origins = dict[Any, int](), dict[Any, Mapping[str, str]]()
                for part in sealing.unsealed(connection, ids):
                    entries[part.event] = part.sequence
                    if part.origin and with_keys:
                        origins[part.event] = part.origin
        except NotFound:
            return []  # nothing was ever recorded
        return [act_of(event, entries.get(event.id), origins.get(event.id, {})) for event in found]

    def all(self, asked: Asked, *, with_keys: bool) -> Iterator[Act]:
        """Every act, read in parts."""
        after: int | None = None
        while True:
            part = self.page(asked, limit=_AT_ONCE, after=after, with_keys=with_keys)
            yield from part
            if len(part) < _AT_ONCE:
                return
            after = part[-1].id


def act_of(event: events.Event, entry: int | None, origin: Mapping[str, str]) -> Act:
    """An event of the catalogue as a line of the history."""
    body = dict(event.body)
    sentence = _sentence(event, body)
    about, name = event.subject
    if about in ("session", "sign_in_link"):
        name = name[:12]  # a hash: enough to tell them apart
    return Act(
        event.id or 0, event.at, event.actor, about, name, event.kind, sentence, event.reason, body,
        entry, origin,
    )  # fmt: skip


def _sentence(event: events.Event, body: dict[str, Any]) -> str:
    if said := body.pop("sentence", ""):
        return str(said)
    if event.subject.kind == "model":
        from bascule.registry import Event as OfModel

        kind: Any = event.kind
        about = {name: body[name] for name in _OF_MODELS if name in body}
        return OfModel(kind, event.subject.name, event.at, event.actor, **about).sentence
    words = _SENTENCES.get(event.kind, event.kind.replace("_", " "))
    said = {name: _in_words(value) for name, value in body.items()}
    if "permissions" in body:
        said["permissions"] = in_words(map(Permission.parse, body["permissions"]))
    return words.format_map(_Unknown(said))


class _Unknown(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "?"


def _in_words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def as_csv(acts: Iterator[Act]) -> Iterator[str]:
    """The lines of a table for spreadsheets, with a head."""
    yield csv_line(COLUMNS)
    for act in acts:
        yield csv_line(map(_cell, _row(act).values()))


def as_json_lines(acts: Iterator[Act]) -> Iterator[str]:
    """One JSON object a line."""
    for act in acts:
        yield json.dumps(_row(act), ensure_ascii=False) + "\n"


def _row(act: Act) -> dict[str, Any]:
    return asdict(act) | {"at": act.at.isoformat()}


def _cell(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
    return text[:_MAX_CELL]
