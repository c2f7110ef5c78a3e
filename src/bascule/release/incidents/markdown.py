"""The draft of a postmortem as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from bascule.release.incidents.draft import Attempt, Entry, Incident, Suspect
from bascule.release.rollouts import odds


def to_markdown(incident: Incident) -> str:
    """One page, in the order in which a reader asks: what, when, why, how many, what next."""
    facts = incident.facts
    lines = [
        f"# Draft: incident of {facts.endpoint}",
        "",
        f"From {_time(facts.since)} to {_time(facts.until)}. {facts.endpoint} now serves "
        f"{facts.serves}. Drafted from recorded facts; it looks for causes in the system.",
        "",
        "## Summary",
        "",
        *[_said(one) for one in incident.suspects],
        *([] if incident.suspects else ["No version was rolled back in this time."]),
        "",
        "## Timeline",
        "",
        *_table(("when", "what", "by"), map(_row, incident.timeline)),
        "",
        "## Evidence",
        "",
        *_evidence(facts.attempts),
        "## Exposure",
        "",
        *_exposure(incident),
        "",
        "## Notifications",
        "",
        *_table(
            ("when", "receiver", "about", "state"),
            ((_time(one.at), one.receiver, one.about, one.state) for one in facts.receipts),
        ),
        "",
        "## Open questions",
        "",
        *[f"- [ ] {question}" for question in incident.questions],
    ]
    return "\n".join(lines) + "\n"


def _said(suspect: Suspect) -> str:
    lasted = "" if suspect.lasted is None else f" It had traffic for {_length(suspect.lasted)}."
    return f"- **{suspect.version}**: {suspect.why}.{lasted}"


def _row(entry: Entry) -> tuple[str, str, str]:
    what = f"{entry.sentence} ({entry.reason})" if entry.reason else entry.sentence
    return _time(entry.at), what, entry.by


def _evidence(attempts: Sequence[Attempt]) -> Iterator[str]:
    for one in attempts:
        yield f"Rollout `{one.id}` of {one.candidate} against {one.current}: {one.state}."
        yield ""
        rows = [
            (guard, odds(log_e).removeprefix("evidence of "))
            for guard, log_e in one.log_e.items()
            if guard != "all"
        ]
        yield from _table(("guard", "evidence of harm"), rows)
        yield ""
        yield f"Each decision can be computed again: `bascule rollout replay {one.id}`."
        yield ""
    if not attempts:
        yield "No rollout compared versions in this time."
        yield ""


def _exposure(incident: Incident) -> Iterator[str]:
    for one in incident.facts.attempts:
        yield (
            f"- {one.candidate} answered {one.requests:,} of {one.all_requests:,} requests of "
            f"rollout `{one.id}`; {one.errors:,} failed."
        )
    yield ""
    rows = [
        (one.version, one.caller or "(no key)", f"{one.requests:,}", f"{one.errors:,}",
         _time(one.first_at), _time(one.last_at))
        for one in incident.exposures
    ]  # fmt: skip
    yield from _table(("version", "caller", "requests", "errors", "first", "last"), rows)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    made = [*rows]
    if not made:
        yield "None recorded."
        return
    for cells in (titles, ["---"] * len(titles), *made):
        yield "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    """Texts of users stay in their cell, and are no markup."""
    for character in "\\`*_[]<>|":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _length(span: timedelta) -> str:
    seconds = span.total_seconds()
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
