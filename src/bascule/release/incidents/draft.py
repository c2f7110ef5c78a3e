"""What a postmortem says of an endpoint, from facts. Pure.

The draft is blameless: it names actors where history does, and asks about the system only. What
the facts cannot answer becomes an open question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bascule.release.rollouts import parse_guard


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the timeline.

    Attributes:
        at: When it was recorded.
        kind: What happened, as history names it: `alias_moved`, `alert_firing`.
        sentence: The same in words.
        by: The user, the key or the controller.
        reason: As the user gave it; may be empty.
    """

    at: datetime
    kind: str
    sentence: str
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One rollout.

    Attributes:
        id: Of the rollout.
        candidate: The version that was tried.
        current: The version that it was compared with.
        state: `promoted`, `aborted`, `running`...
        began_at: When the candidate first had traffic; None if it had none.
        ended_at: None while it goes on.
        sentence: Of the latest decision.
        guards: As they were given: `errors +1 pp`.
        log_e: By guard, the natural logarithm of the evidence of harm at that decision.
        requests: Of the candidate, exact.
        errors: Of them, failed.
        all_requests: Of both versions.
    """

    id: str
    candidate: str
    current: str
    state: str
    began_at: datetime | None
    ended_at: datetime | None
    sentence: str
    guards: Sequence[str]
    log_e: Mapping[str, float]
    requests: int
    errors: int
    all_requests: int


@dataclass(frozen=True, slots=True)
class Exposure:
    """What one caller got of one version, by the ledger; estimates where it keeps a share."""

    version: str
    caller: str
    requests: int
    errors: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Receipt:
    """One notification: to which receiver, about what, and whether it arrived."""

    at: datetime
    receiver: str
    about: str
    state: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an endpoint in a span of time.

    Attributes:
        endpoint: Its name.
        since: The start of the span.
        until: Its end.
        serves: What the endpoint serves at the end, in words.
        entries: The timeline, in any order.
        attempts: Rollouts that began or ended in the span.
        left: Versions that a rollback by hand took out of the endpoint.
        exposures: By version and caller; None where the ledger has nothing of the endpoint.
        receipts: Notifications about the endpoint, its models and the server.
        aliases: Aliases of the endpoint's models, `late@champion`, with their versions.
        passed: Versions whose gates passed.
        firing: Sentences of alerts that have not ended.
    """

    endpoint: str
    since: datetime
    until: datetime
    serves: str
    entries: Sequence[Entry]
    attempts: Sequence[Attempt]
    left: Mapping[str, str]
    exposures: Sequence[Exposure] | None
    receipts: Sequence[Receipt]
    aliases: Mapping[str, str]
    passed: frozenset[str]
    firing: Sequence[str]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A version that was taken out of the endpoint, and the sentence that says why."""

    version: str
    why: str
    lasted: timedelta | None


@dataclass(frozen=True, slots=True)
class Incident:
    """A draft: the facts in order, the versions that were taken out, and the open questions."""

    facts: Facts
    timeline: Sequence[Entry]
    suspects: Sequence[Suspect]
    exposures: Sequence[Exposure]
    questions: Sequence[str]


def draft(facts: Facts) -> Incident:
    """The draft of a postmortem. The same facts give the same draft."""
    suspects = [
        Suspect(
            one.candidate, one.sentence,
            one.ended_at - one.began_at if one.began_at and one.ended_at else None,
        )
        for one in facts.attempts
        if one.state == "aborted"
    ] + [Suspect(version, why, None) for version, why in facts.left.items()]  # fmt: skip
    versions = {one.version for one in suspects}
    exposures = [one for one in facts.exposures or () if one.version in versions]
    return Incident(
        facts=facts,
        timeline=sorted(facts.entries, key=lambda one: one.at),
        suspects=suspects,
        exposures=sorted(exposures, key=lambda one: (one.version, -one.requests)),
        questions=[*_questions(facts, suspects)],
    )


def _questions(facts: Facts, suspects: Sequence[Suspect]) -> Iterator[str]:
    if not suspects:
        yield (
            "No version was rolled back in this time. What made it an incident, and which guard or "
            "alert would have shown it?"
        )
    for one in suspects:
        if one.version in facts.passed:
            yield f"The gates of {one.version} passed. Which criterion would have failed it?"
        for alias, version in facts.aliases.items():
            if version == one.version:
                yield f"{alias} still points to {version}. Is that intended?"
    if suspects and facts.exposures is None:
        yield (
            "The ledger has no answers of this endpoint, so callers are unknown. Should "
            "monitoring.ledger be on?"
        )
    guards = [parse_guard(guard) for attempt in facts.attempts for guard in attempt.guards]
    if suspects and not any(guard.is_on_outcomes for guard in guards):
        yield "No rollout had a guard on outcomes. Do outcomes of these requests arrive in time?"
    if not facts.receipts:
        yield "No notification was sent. Which receiver should have had one?"
    for receipt in facts.receipts:
        if receipt.state != "sent":
            yield f"{receipt.receiver} was not reached ({receipt.problem or receipt.state}). Why?"
    for sentence in facts.firing:
        yield f"An alert has not ended: {sentence}. What ends it?"
    for entry in facts.entries:
        if entry.kind in ("deployed", "rollout_asked") and not entry.reason:
            yield f"No reason was recorded for: {entry.sentence}. What was the aim?"
    yield "What went well, and what was luck?"
