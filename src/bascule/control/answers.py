"""What the control API answers about its server, sessions and settings: values, nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self, TypeVar, cast

from bascule.monitoring.ledger import CallerCount
from bascule.security import Session

Answer = TypeVar("Answer")


def picked(kind: type[Answer], value: object) -> Answer:
    """The fields that an answer has of a value with more of them."""
    names = cast("Any", kind).__dataclass_fields__
    return kind(**{name: getattr(value, name) for name in names})


@dataclass(frozen=True, slots=True)
class Approval:
    """A request that takes a second person.

    Attributes:
        id: Unguessable.
        state: `waiting`, `declined`, `approved` (and not run yet), or what came of it: `done` or
            `failed`. One whose process was killed stays `approved`: nothing was done.
        thing: What is protected: `alias:late@production`.
        call: Method and path of the request.
        content: The start of its body, for the person that decides.
        by: The person that asked.
        at: When.
        ends_at: When it ends undecided.
        decided_by: The person that decided; empty for none.
        outcome: Status and body of the answer, once the request was run.
    """

    id: str
    state: str
    thing: str
    call: str
    content: str
    by: str
    at: datetime
    ends_at: datetime
    decided_by: str
    outcome: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the server answers predictions, and with which secrets of OpenBao or Vault.

    Attributes:
        secrets: `fresh`, or `stale` while their server is away and the last values are used.
    """

    live: bool
    ready: bool
    name: str
    secrets: Literal["fresh", "stale"] = "fresh"


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process.

    Attributes:
        restarts: How often it was started again.
    """

    worker: int
    pid: int
    alive: bool
    restarts: int


@dataclass(frozen=True, slots=True)
class Counted:
    """One version that is or was served, and what was counted for it.

    Attributes:
        is_served: False for one that was unloaded.
        errors: Answers with a status of 400 or more.
    """

    model: str
    version: str
    is_served: bool
    requests: int
    errors: int
    rows: int


@dataclass(frozen=True, slots=True)
class Server:
    """The running server."""

    version: str
    host: str
    port: int
    workers: Sequence[Worker]
    services: Sequence[Counted]


@dataclass(frozen=True, slots=True)
class Served:
    """One version that is served.

    Attributes:
        is_default: Whether it answers to the plain name.
        loaded_in: In how many workers it is in memory.
        size_bytes: What it takes in a worker, at most.
    """

    model: str
    version: str
    is_default: bool
    loaded_in: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version, in the words of the model repository extension."""

    name: str
    version: str
    state: Literal["READY"] = "READY"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Nothing:
    """The model repository extension answers with an empty object."""


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """What the workers of this server have counted for one arm of one plan.

    Attributes:
        arm: `shadow` for the shadow.
        requests: Answers; comparisons of a shadow.
        errors: Answers with 500, 503 or 504; failures of a shadow.
        slower: Answers over each of `slower_than_s`.
        disagreements: Shadow answers that differ.
        dropped: Requests that a busy shadow did not answer.
    """

    plan_number: int
    arm: str
    version: str
    requests: int
    errors: int
    fallbacks: int
    slower: Sequence[int]
    slower_than_s: Sequence[float]
    rows: int
    disagreements: int
    dropped: int


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """One row that was answered."""

    id: str
    row: int
    time: datetime
    model: str
    version: str
    endpoint: str
    arm: str
    caller: str
    protocol: str
    status: int
    latency_s: float


@dataclass(frozen=True, slots=True)
class PredictionRows:
    """The latest rows of a model."""

    items: Sequence[PredictionRow]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One request as it was recorded.

    Attributes:
        rows: In the ledger; at most 200 of them are shown.
    """

    id: str
    facts: Mapping[str, Any]
    rows: int
    inputs: Sequence[Mapping[str, Any]]
    outputs: Sequence[Mapping[str, Any]]
    truths: Sequence[Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Callers:
    """Who called a version.

    Attributes:
        since: Of its deprecation, or 30 days ago.
        callers: null: no rows are kept.
    """

    since: datetime
    callers: Sequence[CallerCount] | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Incident:
    """The draft of a postmortem."""

    incident: Mapping[str, Any]
    markdown: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSession:
    """The session of a person.

    Attributes:
        id: As it is in the history.
        key: The key whose right it is; empty for none.
        source: link or oidc.
    """

    id: str
    user: str
    key: str
    source: str
    permissions: Sequence[str]
    began_at: datetime
    ends_at: datetime

    @classmethod
    def of(cls, session: Session, **more: Any) -> Self:
        return cls(
            id=session.short_id, user=session.user, source=session.source,
            permissions=[str(one) for one in session.permissions],
            key="" if session.key is None else session.key.name,
            began_at=session.began_at, ends_at=session.ends_at, **more,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSession(ShownSession):
    """The session of the request, and the token that its other requests carry.

    Attributes:
        csrf_token: Send it as X-CSRF-Token with what changes.
    """

    csrf_token: str


@dataclass(frozen=True, slots=True)
class SignInLink:
    """A link, which begins one session.

    Attributes:
        path: Of the address of this API; it works once.
    """

    path: str
    user: str
    permissions: Sequence[str]
    lasts_s: float


@dataclass(frozen=True, slots=True)
class ShownSettings:
    """The settings of the control process.

    Attributes:
        version: Of Bascule.
    """

    version: str
    sections: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver of notifications.

    Attributes:
        place: The mail server; addresses of others are secrets.
    """

    name: str
    kind: str
    place: str


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of a notification for trial.

    Attributes:
        problem: Empty if the receiver has taken it.
    """

    receiver: str
    problem: str
