"""The draft of a postmortem as a document. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from bascule.documents import Block, Bullets, Document, Line, Section, Table, Text, code, strong
from bascule.release.incidents.draft import (
    Attempt,
    Entry,
    Exposure,
    Incident,
    Receipt,
    Suspect,
)
from bascule.release.rollouts import odds

_NONE = "None recorded."


def document_of(incident: Incident) -> Document:
    """One page, in the order in which a reader asks: what, when, why, how many, what next."""
    facts = incident.facts
    lead = Text(
        f"From {_time(facts.since)} to {_time(facts.until)}. {facts.endpoint} now serves "
        f"{facts.serves}. Drafted from recorded facts; it looks for causes in the system."
    )
    notifications = _table("when receiver about state", map(_receipt, facts.receipts))
    sections = (
        Section("Summary", (_summary(incident.suspects),)),
        Section("Timeline", (_table("when what by", map(_row, incident.timeline)),)),
        Section("Evidence", tuple(_evidence(facts.attempts))),
        Section("Exposure", tuple(_exposure(incident))),
        Section("Notifications", (notifications,)),
        Section("Open questions", (Bullets(tuple(incident.questions), is_open=True),)),
    )
    return Document(f"Draft: incident of {facts.endpoint}", sections, (lead,))


def _summary(suspects: Sequence[Suspect]) -> Block:
    if not suspects:
        return Text("No version was rolled back in this time.")
    return Bullets(tuple(map(_suspect, suspects)))


def _suspect(suspect: Suspect) -> Line:
    return strong(suspect.version), f": {suspect.why}.{_lasted(suspect.lasted)}"


def _lasted(span: timedelta | None) -> str:
    return "" if span is None else f" It had traffic for {_length(span)}."


def _row(entry: Entry) -> tuple[str, str, str]:
    what = f"{entry.sentence} ({entry.reason})" if entry.reason else entry.sentence
    return _time(entry.at), what, entry.by


def _evidence(attempts: Sequence[Attempt]) -> Iterator[Block]:
    for attempt in attempts:
        versions = f" of {attempt.candidate} against {attempt.current}"
        yield Text(("Rollout ", code(attempt.id), f"{versions}: {attempt.state}."))
        rows = tuple(
            (guard, odds(log_e).removeprefix("evidence of "))
            for guard, log_e in attempt.log_e.items()
            if guard != "all"
        )
        yield Table(("guard", "evidence of harm"), rows, empty=_NONE)
        again = code(f"bascule rollout replay {attempt.id}")
        yield Text(("Each decision can be computed again: ", again, "."))
    if not attempts:
        yield Text("No rollout compared versions in this time.")


def _exposure(incident: Incident) -> Iterator[Block]:
    if attempts := incident.facts.attempts:
        yield Bullets(tuple(map(_answered, attempts)))
    heads = "version caller requests errors first last"
    yield _table(heads, map(_exposed, incident.exposures))


def _answered(attempt: Attempt) -> Line:
    share = f"{attempt.requests:,} of {attempt.all_requests:,} requests of rollout "
    failed = f"; {attempt.errors:,} failed."
    return f"{attempt.candidate} answered {share}", code(attempt.id), failed


def _exposed(exposure: Exposure) -> tuple[str, ...]:
    counts, times = (exposure.requests, exposure.errors), (exposure.first_at, exposure.last_at)
    caller = exposure.caller or "(no key)"
    return exposure.version, caller, *(f"{count:,}" for count in counts), *map(_time, times)


def _receipt(receipt: Receipt) -> tuple[str, ...]:
    return _time(receipt.at), receipt.receiver, receipt.about, receipt.state


def _table(heads: str, rows: Iterable[tuple[str, ...]]) -> Table:
    return Table(tuple(heads.split()), tuple(rows), empty=_NONE)


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _length(span: timedelta) -> str:
    seconds = span.total_seconds()
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
