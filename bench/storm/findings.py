"""From what a storm saw to claims and tables. Nothing here measures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.report import CLAIM_HEADINGS, Cells, Claim, claim_cells, grid
from bench.storm.tally import Tally, described, growth, percentile, slope_per_hour
from bench.storm.watch import Watch

TAIL_BAR = 3.0
GOODPUT_BAR = 0.9
GROWTH_BAR = 0.02
"""The memory of a server that has filled its pools may grow by this share between the second and
the last quarter of a run: more than its noise, less than a leak."""
SLOPE_BAR_MB = 2.0
ALONE_BAR = 0.85
LONE_BAR = 1.1
"""The 99th percentile of a lone client, batched over unbatched: two noisy figures."""
LATE_SHARE = 0.1
"""A generator that was itself late by more than this share of what is judged judges nothing."""
BUSY_SHARE = 0.85
"""A capacity at which the server's core was idle for longer than this leaves is not the server's:
the generator was the limit, or what else ran on this machine."""
CALM_SHARE, BUSY_SLACK = 0.7, 0.08
"""How busy a core is where its latency is judged, and how far from it that may be."""
_OWN = "share_of_alone"
_LONG_S = 1_200.0
"""A slope per hour is claimed of runs that last a good part of one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One run of one work.

    Attributes:
        work: Which.
        subject: What was asked, in words.
        tally: What the clients saw.
        watch: What the server held meanwhile.
        facts: Figures of this work, by name with their unit.
    """

    work: str
    subject: str
    tally: Tally
    watch: Watch
    facts: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return {
            "work": self.work,
            "subject": self.subject,
            **described(self.tally),
            **self.facts,
            "resident_mb": self.watch.resident_mb,
            "descriptors": self.watch.descriptors,
        }

    def line(self) -> str:
        """For whoever watches the run."""
        seen = self.tally
        facts = "  ".join(f"{name} {value:,.3g}" for name, value in self.facts.items())
        return (
            f"{self.subject}: {seen.accepted_hz:,.0f} right/s  "
            f"p50 {percentile(seen.accepted_ms, 0.5):.2f}  "
            f"p99 {percentile(seen.accepted_ms, 0.99):.2f} ms  {_statuses(seen)}  "
            f"unsent {seen.unsent}  wrong {seen.wrong}  broken {seen.broken}  {facts}"
        )


def claims_of(findings: Iterable[Finding]) -> list[Claim]:
    """What is claimed, as far as it was measured."""
    found = list(findings)
    made: list[Claim] = []
    for finding in found:
        made += _CLAIMS[finding.work](finding)
    made += [*_lone_claims(found), *_peer_claims(found)]
    if found:
        errors = sum(finding.tally.errors for finding in found)
        made.append(Claim("wrong answers, broken connections, other errors", errors, 0, ""))
    return made


def _late(finding: Finding, judged_ms: float) -> str:
    """Why a time is not judged: the generator was late by more than a little part of it."""
    late_ms = finding.tally.send_lag_p99_ms
    is_late = late_ms > LATE_SHARE * judged_ms
    return f"the generator was {late_ms:.3g} ms late" if is_late else ""


def _no_capacity(finding: Finding) -> str:
    """Why there is no capacity to compare with."""
    busy = finding.facts.get("busy_at_capacity", 1.0)
    return f"the server had {busy:.0%} of its core at its capacity" if busy < BUSY_SHARE else ""


def _calm_claims(finding: Finding) -> list[Claim]:
    tail, busy = finding.facts["p99_over_p50"], finding.facts["busy_share"]
    # What is judged is whether the 99th percentile is below so many medians.
    void = _no_capacity(finding) or _late(finding, TAIL_BAR * finding.facts["p50_ms"])
    if not void and abs(busy - CALM_SHARE) > BUSY_SLACK:
        void = f"the server's core was {busy:.0%} busy"
    return [Claim(f"p99 / p50 at 70 % load, {finding.subject}", tail, TAIL_BAR, void=void)]


def _overload_claims(finding: Finding) -> list[Claim]:
    seen, who = finding.tally, f"overload, {finding.subject}"
    deadline_ms = finding.facts["deadline_ms"]
    late = _late(finding, deadline_ms)
    goodput, p99_ms = finding.facts["goodput_share"], percentile(seen.accepted_ms, 0.99)
    return [
        Claim(
            f"{who}: goodput / capacity",
            goodput,
            GOODPUT_BAR,
            "x",
            at_least=True,
            void=late or _no_capacity(finding),
        ),
        Claim(f"{who}: p99 of what was accepted", p99_ms, deadline_ms, "ms", void=late),
        Claim(f"{who}: growth of memory", growth(finding.watch.resident_mb), GROWTH_BAR, ""),
        Claim(f"{who}: shed without Retry-After", seen.shed_without_retry_after, 0, ""),
    ]


def _network_claims(finding: Finding) -> list[Claim]:
    if _OWN not in finding.facts:
        return []
    share = finding.facts[_OWN]
    void = _late(finding, percentile(finding.tally.accepted_ms, 0.5))
    name = "4 ms network, 16 clients / the model alone"
    return [Claim(name, share, ALONE_BAR, "x", at_least=True, void=void)]


def _lone_claims(findings: list[Finding]) -> list[Claim]:
    lone = [one for one in findings if one.work == "network" and one.facts["clients"] == 1]
    batched = next((one for one in lone if one.subject.endswith("auto")), None)
    unbatched = next((one for one in lone if one.subject.endswith("never")), None)
    if batched is None or unbatched is None:
        return []
    p99 = [percentile(one.tally.accepted_ms, 0.99) for one in (batched, unbatched)]
    void = _late(batched, p99[0]) or _late(unbatched, p99[1])
    name = "4 ms network, one client: p99 / p99 unbatched"
    return [Claim(name, p99[0] / p99[1], LONE_BAR, void=void)]


def _peer_claims(findings: list[Finding]) -> list[Claim]:
    """Each beside the model alone in the same minute, since the machine's speed changes."""
    shares = {
        finding.subject: finding.facts["peer_share_of_alone"]
        for finding in findings
        if "peer_share_of_alone" in finding.facts
    }
    own = next((one.facts[_OWN] for one in findings if _OWN in one.facts), None)
    if own is None or not shares:
        return []
    best = max(shares, key=lambda subject: shares[subject])
    name = f"4 ms network: the best peer that batches ({best}) / bascule"
    return [Claim(name, shares[best] / own, 1.0)]


def _soak_claims(finding: Finding) -> list[Claim]:
    watch = finding.watch
    half = watch.descriptors[len(watch.descriptors) // 4 :]
    made = [
        Claim("soak: growth of memory", growth(watch.resident_mb), GROWTH_BAR, ""),
        Claim("soak: descriptors gained", max(half[-1] - half[0], 0) if half else 0, 0, ""),
    ]
    if finding.facts["seconds"] >= _LONG_S:
        slope = slope_per_hour(watch.seconds, watch.resident_mb)
        made.append(Claim("soak: slope of memory", slope, SLOPE_BAR_MB, "MB/h"))
    return made


_CLAIMS = {
    "calm": _calm_claims,
    "overload": _overload_claims,
    "network": _network_claims,
    "soak": _soak_claims,
}

_HEADINGS = ["run", "right/s", "p50 ms", "p99 ms", "statuses", "unsent", "errors", "RSS MB"]
_TITLES = {
    "calm": "A core that is busy for 70 % of the time, open loop",
    "overload": "At three times capacity, open loop",
    "network": "A costly network, 4 ms away",
    "soak": "At half of capacity, for long",
}
_FACTS = {
    "capacity_hz": "capacity {:,.0f}/s",
    "least_capacity_hz": "at least {:,.0f}",
    "most_capacity_hz": "at most {:,.0f}",
    "busy_at_capacity": "core {:.0%} busy there",
    "rate_hz": "asked {:,.0f}/s",
    "busy_share": "core {:.0%} busy",
    "p99_over_p50": "p99/p50 of the median piece {:.2f}",
    "least_tail": "of the best {:.2f}",
    "most_tail": "of the worst {:.2f}",
    "perfect_p99_over_p50": "of a perfect server as busy {:.2f}",
    "goodput_share": "goodput {:.0%} of capacity",
    "least_goodput_share": "at least {:.0%}",
    "most_goodput_share": "at most {:.0%}",
    "goodput_by_cpu_share": "{:.0%} by the processor's time",
    "alone_hz": "the model alone {:,.0f} rows/s",
    "share_of_alone": "{:.0%} of it",
    "peer_share_of_alone": "{:.0%} of it",
    "most_of_alone": "the network leaves {:.0%}",
    "seconds": "{:,.0f} s",
}


def cells(findings: Iterable[Finding]) -> list[tuple[str, list[str], Cells]]:
    """A table for each work: title, headings, lines."""
    groups: dict[str, Cells] = {}
    for finding in findings:
        seen, resident = finding.tally, finding.watch.resident_mb
        told = ", ".join(
            text.format(finding.facts[name])
            for name, text in _FACTS.items()
            if name in finding.facts
        )
        groups.setdefault(finding.work, []).append(
            [
                *(finding.subject, f"{seen.accepted_hz:,.0f}"),
                f"{percentile(seen.accepted_ms, 0.5):.2f}",
                f"{percentile(seen.accepted_ms, 0.99):.2f}",
                *(_statuses(seen), str(seen.unsent), str(seen.errors)),
                f"{resident[0]:.0f} to {resident[-1]:.0f}" if resident else "-",
                f"{seen.send_lag_p99_ms:.2f}",
                told,
            ]
        )
    headings = [*_HEADINGS, "generator late ms", "facts"]
    return [(_TITLES[work], headings, lines) for work, lines in groups.items()]


def table(findings: Iterable[Finding]) -> str:
    """Every run as a line of CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, (title, headings, lines) in enumerate(cells(findings)):
        if not number:
            writer.writerow(["work", *headings])
        writer.writerows([title, *line] for line in lines)
    return text.getvalue()


def markdown(made: list[Claim], facts: Mapping[str, Any]) -> str:
    """The storm for the documentation: the claims, where, with what."""
    seconds = ", ".join(f"{work} {value:g} s" for work, value in facts["seconds"].items())
    parts = [
        f"A run lasts: {seconds}. Load average before: {facts['load_average_before']:.1f}. "
        "Latencies are from the moment a request was due. [Every run](measured/storm.csv).",
        grid(CLAIM_HEADINGS, claim_cells(made)),
        "Machine: " + "; ".join(f"{k} {v}" for k, v in facts["machine"].items()) + ".",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in sorted(facts["versions"].items())) + ".",
    ]
    return "\n\n".join(parts)


def _statuses(seen: Tally) -> str:
    told = [f"{count:,} x {status}" for status, count in sorted(seen.statuses.items())]
    if seen.unanswered:
        told.append(f"{seen.unanswered} unanswered")
    return ", ".join(told) or "none"
