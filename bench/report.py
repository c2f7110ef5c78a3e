"""From single measurements to medians, claims, a table and files. Nothing here measures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table


def marks(name: str) -> tuple[str, str]:
    """Where a table begins and ends in a page."""
    return f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"


MARKS = marks("serving")


@dataclass(frozen=True, slots=True)
class Sample:
    """One system under one work in one round."""

    round: int
    system: str
    work: str
    cpu_s_per_1k: float
    rps: float
    p50_ms: float
    p99_ms: float
    errors: int


@dataclass(frozen=True, slots=True)
class Row:
    """The medians of a system's rounds.

    Attributes:
        spread: (largest - smallest) / median of the CPU figure over the rounds.
    """

    system: str
    work: str
    cpu_s_per_1k: float
    rps: float
    p50_ms: float
    p99_ms: float
    errors: int
    spread: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Start:
    """How one start went: time until the first answer, and memory after load, if it had any."""

    system: str
    first_answer_s: float
    worker_rss_mb: float | None = None
    worker_pss_mb: float | None = None
    all_pss_mb: float | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A figure that the project claims: `value` must not be over `bar`, or not under it.

    Attributes:
        void: Why the figure says nothing, where what measured it was itself at fault.
    """

    name: str
    value: float
    bar: float
    unit: str = "x"
    at_least: bool = False
    void: str = ""

    @property
    def met(self) -> bool | None:
        """None of a figure that says nothing."""
        if self.void:
            return None
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    @property
    def verdict(self) -> str:
        """The same in words."""
        return f"not judged: {self.void}" if self.void else "met" if self.met else "NOT MET"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def rows(samples: Iterable[Sample]) -> list[Row]:
    """One row for each system and work, in the order in which they were first seen."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.system, sample.work), []).append(sample)
    return [_row(system, work, group) for (system, work), group in groups.items()]


def _row(system: str, work: str, group: list[Sample]) -> Row:
    def middle(figure: Callable[[Sample], float]) -> float:
        return median(map(figure, group))

    costs = [sample.cpu_s_per_1k for sample in group]
    cost = median(costs)
    return Row(
        system=system,
        work=work,
        cpu_s_per_1k=cost,
        rps=middle(lambda sample: sample.rps),
        p50_ms=middle(lambda sample: sample.p50_ms),
        p99_ms=middle(lambda sample: sample.p99_ms),
        errors=sum(sample.errors for sample in group),
        spread=(max(costs) - min(costs)) / cost if cost else 0.0,
        rounds=len(group),
    )


def ratio(samples: Iterable[Sample], system: str, over: str, work: str) -> float | None:
    """The median over the rounds of one system's CPU per request by another's in the same round.

    Neighbours in time are compared, so that a clock which drifts over minutes cancels out. None
    where one of them was not measured, or had an error: errors void a result.
    """
    costs: dict[str, dict[int, float]] = {system: {}, over: {}}
    for sample in samples:
        if sample.work == work and sample.system in costs:
            if sample.errors:
                return None
            costs[sample.system][sample.round] = sample.cpu_s_per_1k
    shared = costs[system].keys() & costs[over].keys()
    if not shared:
        return None
    return median(costs[system][number] / costs[over][number] for number in shared)


_RATIOS = [
    ("bascule", "bare", "1 row", 1.8),
    ("bascule", "fastapi", "1 row", 1 / 10),
    ("bascule", "bare", "100 rows", 0.8),
    ("bascule", "fastapi", "100 rows", 1 / 8),
    ("bascule", "bare", "100 rows binary", 1.3),
    ("bascule-grpc", "bare-grpcio", "1 row gRPC", 1 / 2),
    ("bascule-grpc", "bare-grpcio", "100 rows gRPC", 1.0),
]
_START_BAR_S = 1.5
_WORKER_BAR_MB = 150.0


def claims(samples: list[Sample], starts: list[Start]) -> list[Claim]:
    """What Bascule claims of itself, as far as it was measured in this run."""
    made = []
    for system, over, work, bar in _RATIOS:
        value = ratio(samples, system, over, work)
        if value is not None:
            made.append(Claim(f"CPU per request, {work}: {system} / {over}", value, bar))
    own = [start for start in starts if start.system == "bascule"]
    if own:
        first = median(start.first_answer_s for start in own)
        memory = _middle(start.worker_rss_mb for start in own)
        made.append(Claim("start to first answer", first, _START_BAR_S, "s"))
        made.append(Claim("resident memory of a worker", memory, _WORKER_BAR_MB, "MB"))
    return made


_PEER_BARS = [
    ("bascule", "1 row", "scikit-learn", 1 / 15),
    ("bascule", "1 row", "onnx", 1 / 5),
    ("bascule", "100 rows", "", 1 / 8),
    ("bascule", "100 rows binary", "", 1 / 8),
    ("bascule-grpc", "1 row gRPC", "onnx", 1 / 2),
    ("bascule-grpc", "100 rows gRPC", "onnx", 1 / 2),
]
"""Ours, the work, what the peers in question run (any, if empty), and the most of the best one's
CPU."""


def peer_claims(samples: list[Sample], runs: Mapping[str, str]) -> list[Claim]:
    """Bascule beside the best peer, where there is one without errors.

    The best is the one that Bascule is the least ahead of, within the same rounds.

    Args:
        samples: Of everybody.
        runs: The peers, by name, and what each runs.
    """
    made = []
    for own, work, kind, bar in _PEER_BARS:
        found = {
            name: value
            for name, what in runs.items()
            if kind in ("", what) and (value := ratio(samples, own, name, work)) is not None
        }
        if found:
            best = max(found, key=found.__getitem__)
            among = f"the best peer with {kind}" if kind else "the best peer"
            made.append(
                Claim(f"CPU per request, {work}: {own} / {among} ({best})", found[best], bar)
            )
    return made


def in_one_line(text: str, most: int = 300) -> str:
    """A reason for a table: its beginning says who, its end says why."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:60]} ... {line[-(most - 65) :]}"


def start_rows(starts: list[Start]) -> list[dict[str, Any]]:
    """The medians of a system's starts."""
    figures = ("first_answer_s", "worker_rss_mb", "worker_pss_mb", "all_pss_mb")
    systems = dict.fromkeys(start.system for start in starts)
    found = []
    for system in systems:
        own = [start for start in starts if start.system == system]
        middles = {figure: _middle(getattr(start, figure) for start in own) for figure in figures}
        found.append({"system": system, "starts": len(own), **middles})
    return found


def _middle(values: Iterable[float | None]) -> float:
    return median([value for value in values if value is not None])


@dataclass(frozen=True, slots=True)
class Report:
    """One whole run.

    Attributes:
        samples: Every measurement.
        starts: Every start.
        machine: Where.
        versions: Of everything that was measured.
        settings: How.
        about: What each system is, in words.
        runs: What each peer runs, "scikit-learn" or "onnx".
        left_out: Peers that could not be measured, and why.
    """

    samples: list[Sample]
    starts: list[Start]
    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, Any]
    about: dict[str, str]
    runs: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        """Of all but the peers: those of a peer void its rows, and nobody else's."""
        return sum(sample.errors for sample in self.samples if sample.system not in self.runs)

    @property
    def claims(self) -> list[Claim]:
        return [*claims(self.samples, self.starts), *peer_claims(self.samples, self.runs)]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "rows": [asdict(row) for row in rows(self.samples)],
            "ratios": [claim.to_json() for claim in self.claims],
            "starts": start_rows(self.starts),
            "left_out": self.left_out,
            "samples": [asdict(sample) for sample in self.samples],
            "settings": self.settings,
            "machine": self.machine,
            "versions": self.versions,
        }

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n")


_HEADINGS = ["system", "work", "CPU s / 1,000", "req/s", "p50 ms", "p99 ms", "errors", "spread"]
_START_HEADINGS = ["system", "first answer s", "worker RSS MB", "worker PSS MB", "all PSS MB"]
CLAIM_HEADINGS = ["claim", "measured", "bar", ""]
Cells = list[list[str]]


def serving_cells(report: Report) -> Cells:
    return [
        [
            *(row.system, row.work, f"{row.cpu_s_per_1k:.4f}", f"{row.rps:,.0f}"),
            *(f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}"),
            *("0" if not row.errors else f"{row.errors} (void)", f"{row.spread:.0%}"),
        ]
        for row in sorted(rows(report.samples), key=lambda row: row.work)
    ]


def works_of(samples: Iterable[Sample]) -> list[str]:
    return sorted({sample.work for sample in samples})


def by_system(report: Report) -> tuple[list[str], Cells]:
    """A line for each system: CPU s for 1,000 requests and p99 ms by work, and the largest spread.

    A system with an error in a work has the number of its errors there: it says nothing.
    """
    works = works_of(report.samples)
    lines: dict[str, dict[str, Row]] = {}
    for row in rows(report.samples):
        lines.setdefault(row.system, {})[row.work] = row
    cells = [
        [
            *(system, *(_figure(by_work.get(work)) for work in works)),
            f"{max(row.spread for row in by_work.values()):.0%}",
        ]
        for system, by_work in lines.items()
    ]
    return ["system", *works, "spread"], cells


def _figure(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row.errors} (void)" if row.errors else f"{row.cpu_s_per_1k:.4f} ({row.p99_ms:.1f})"


def about_cells(report: Report) -> Cells:
    """What each system is, and how it started, where it did; beside peers, of these alone."""
    starts = {line[0]: line[1:] for line in start_cells(report)}
    named = report.runs.keys() & report.about.keys() or report.about
    return [
        [name, what, *starts.get(name, [""] * 4)]
        for name, what in report.about.items()
        if name in named
    ]


def start_cells(report: Report) -> Cells:
    return [
        [
            *(row["system"], f"{row['first_answer_s']:.2f}", f"{row['worker_rss_mb']:.0f}"),
            *(f"{row['worker_pss_mb']:.0f}", f"{row['all_pss_mb']:.0f}"),
        ]
        for row in start_rows(report.starts)
    ]


def claim_cells(made: Iterable[Claim]) -> Cells:
    return [
        [
            claim.name,
            f"{claim.value:.3g} {claim.unit}".rstrip(),
            f"{'>=' if claim.at_least else '<='} {claim.bar:.3g} {claim.unit}".rstrip(),
            claim.verdict,
        ]
        for claim in made
    ]


def tables(report: Report) -> list[Table]:
    """The run for a terminal."""
    return [
        table("Serving, 16 connections, one core", _HEADINGS, serving_cells(report)),
        table("Start and memory", _START_HEADINGS, start_cells(report)),
        table("Claims", CLAIM_HEADINGS, claim_cells(report.claims)),
    ]


def table(title: str, headings: list[str], cells: Cells) -> Table:
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        is_text = number == 0 or heading in ("work", "")
        table.add_column(heading, justify="left" if is_text else "right")
    for row in cells:
        table.add_row(*row)
    return table


def markdown(report: Report) -> str:
    """The run for the documentation: tables, what was measured, on what."""
    setting = report.settings
    peers = peer_claims(report.samples, report.runs)
    how = (
        f"{setting['rounds']} interleaved rounds of {setting['seconds']} s a work, medians; "
        f"{setting['connections']} connections; servers on core {setting['server_core']}, load on "
        f"core {setting['load_core']}. CPU is user and system time of the server's whole process "
        "tree for 1,000 requests; p99 ms in brackets. Spread is (largest - smallest) / median of "
        "the CPU figure, at its worst work. Of the programs in its "
        f"bundle, bascule pinned `{setting['pinned_program']}`; the bare server runs `onnx`. "
        f"Load average before: {setting['load_average_before']:.1f}."
    )
    return "\n\n".join(
        [
            how,
            grid(*by_system(report)),
            grid(CLAIM_HEADINGS, claim_cells(peers or report.claims)),
            grid(["system", "what it is", *_START_HEADINGS[1:]], about_cells(report)),
            *[f"Not measured: {name}: {why}" for name, why in report.left_out.items()],
            "Machine: " + "; ".join(f"{k} {v}" for k, v in report.machine.items()) + ".",
            "Versions: " + ", ".join(f"{k} {v}" for k, v in sorted(report.versions.items())) + ".",
        ]
    )


def grid(headings: list[str], cells: Cells) -> str:
    head, *lines = ["| " + " | ".join(line) + " |" for line in [headings, *cells]]
    return "\n".join([head, "|---" * len(headings) + "|", *lines])


def put_between_marks(page: str, text: str, name: str = "serving") -> str:
    """`page` with `text` in place of what stood between the marks; at its end if it has none."""
    opening, closing = marks(name)
    before, found, rest = page.partition(opening)
    if not found:
        return f"{page.rstrip()}\n\n{opening}\n\n{text}\n\n{closing}\n"
    _, found, after = rest.partition(closing)
    if not found:
        raise ValueError(f"the page opens {opening} and never closes it")
    return f"{before}{opening}\n\n{text}\n\n{closing}{after}"
