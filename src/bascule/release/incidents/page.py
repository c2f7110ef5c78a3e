"""The draft of a postmortem as a document. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from bascule.documents import Block, Bullets, Document, Section, Table, Text, code, strong
from bascule.release.incidents.draft import Attempt, Entry, Incident, Suspect
from bascule.release.rollouts import odds

_NONE = "None recorded."


def document_of(incident: Incident) -> Document:
    """One page, in the order in which a reader asks: what, when, why, how many, what next."""
    facts = incident.facts
    lead = Text(
        f"From {_time(facts.since)} to {_time(facts.until)}. {facts.endpoint} now serves "
        f"{facts.serves}. Drafted from recorded facts; it looks for causes in the system."
    )
    receipts = [(_time(one.at), one.receiver, one.about, one.state) for one in facts.receipts]
    sections = (
        Section("Summary", (_summary(incident.suspects),)),
        Section("Timeline", (_table("when what by", map(_row, incident.timeline)),)),
        Section("Evidence", tuple(_evidence(facts.attempts))),
        Section("Exposure", tuple(_exposure(incident))),
        Section("Notifications", (_table("when receiver about state", receipts),)),
        Section("Open questions", (Bullets(tuple(incident.questions), is_open=True),)),
    )
    return Document(f"Draft: incident of {facts.endpoint}", sections, (lead,))


def _summary(suspects: Sequence[Suspect]) -> Block:
    if not suspects:
        return Text("No version was rolled back in this time.")
    return Bullets(
        tuple((strong(one.version), f": {one.why}.{_lasted(one.lasted)}") for one in suspects)
    )


def _lasted(span: timedelta | None) -> str:
    return "" if span is None else f" It had traffic for {_length(span)}."


def _row(entry: Entry) -> tuple[str, str, str]:
    what = f"{entry.sentence} ({entry.reason})" if entry.reason else entry.sentence
    return _time(entry.at), what, entry.by


def _evidence(attempts: Sequence[Attempt]) -> Iterator[Block]:
    for one in attempts:
        yield Text(
            ("Rollout ", code(one.id), f" of {one.candidate} against {one.current}: {one.state}.")
        )
        rows = tuple(
            (guard, odds(log_e).removeprefix("evidence of "))
            for guard, log_e in one.log_e.items()
            if guard != "all"
        )
        yield Table(("guard", "evidence of harm"), rows, empty=_NONE)
        again = code(f"bascule rollout replay {one.id}")
        yield Text(("Each decision can be computed again: ", again, "."))
    if not attempts:
        yield Text("No rollout compared versions in this time.")


def _exposure(incident: Incident) -> Iterator[Block]:
    if attempts := incident.facts.attempts:
        yield Bullets(tuple(
            (f"{one.candidate} answered {one.requests:,} of {one.all_requests:,} requests of "
             "rollout ", code(one.id), f"; {one.errors:,} failed.")
            for one in attempts
        ))  # fmt: skip
    yield _table(
        "version caller requests errors first last",
        (
            (one.version, one.caller or "(no key)", f"{one.requests:,}", f"{one.errors:,}",
             _time(one.first_at), _time(one.last_at))
            for one in incident.exposures
        ),
    )  # fmt: skip


def _table(heads: str, rows: Iterable[tuple[str, ...]]) -> Table:
    return Table(tuple(heads.split()), tuple(rows), empty=_NONE)


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _length(span: timedelta) -> str:
    seconds = span.total_seconds()
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
