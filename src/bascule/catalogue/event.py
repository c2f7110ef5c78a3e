"""One act in the history of the catalogue, and what it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple


class Subject(NamedTuple):
    """What an event is about, such as `Subject("model", "late")`."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Event:
    """One line of history.

    Attributes:
        subject: What it happened to.
        kind: What happened, in the past tense: `alias_moved`.
        at: When it was recorded.
        actor: Who did it: the id of a key, or the name of a user.
        reason: Why, in a sentence; may be empty.
        body: What is particular to the kind, as JSON.
        id: Its place in the history of all subjects; None before `append`.
        person: Whose personal values the name, the reason and the body are, where that is another
            than the actor; forgotten with `forgetting.forget`.
    """

    subject: Subject
    kind: str
    at: datetime
    actor: str
    reason: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    id: int | None = None
    person: str = ""


def event_of(row: Any) -> Event:
    """The event of a row of the table."""
    subject = Subject(row.subject_kind, row.subject)
    return Event(subject, row.kind, row.at, row.actor, row.reason, row.body, row.id)
