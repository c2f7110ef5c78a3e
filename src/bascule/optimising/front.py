"""Candidates, those that no other one beats, and their chart. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bascule.charts import Lane, Series, Svg, lines


@dataclass(frozen=True, slots=True)
class Candidate:
    """A smaller model, and what was measured of it.

    Attributes:
        settings: How it was made.
        size_mb: What a server reads, in 10^6 bytes.
        download_mb: Its program, compressed.
        latency_ms: Median for one row on this machine.
        worst: Lower end of the interval of how much better it is than its parent, on the rows of
            the search.
        problem: Why it is not taken; empty where it is within the budget.
        confirmed: The same on the rows of the gate: the result in words; empty where not asked.
    """

    settings: Mapping[str, Any]
    size_mb: float
    download_mb: float
    latency_ms: float
    worst: float
    problem: str = ""
    confirmed: str = ""

    @property
    def words(self) -> str:
        """How it was made, for people."""
        return ", ".join(
            str(value) if name in ("way", "numbers") else f"{name.replace('_', ' ')} {value:g}"
            for name, value in self.settings.items()
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "words": self.words}


def non_dominated(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other one equals in size, latency and quality and beats in one; by size."""

    def losses(candidate: Candidate) -> tuple[float, float, float]:
        return candidate.size_mb, candidate.latency_ms, -candidate.worst

    def beats(other: Candidate, candidate: Candidate) -> bool:
        pairs = list(zip(losses(other), losses(candidate), strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    front = [own for own in candidates if not any(beats(other, own) for other in candidates)]
    return sorted(front, key=lambda candidate: (-candidate.size_mb, -candidate.worst))


def draw(candidates: Sequence[Candidate], margin: float, metric: str) -> Svg | None:
    """Size against quality: the front as a line, every candidate as a dot; None without any."""
    front = non_dominated(candidates)
    curve = Series([(own.size_mb, own.worst) for own in front])
    alone = [Series([(own.size_mb, own.worst)], "line c2") for own in candidates]
    told = "; ".join(f"{own.words}: {own.size_mb:.3g} MB, {own.worst:+.3g}" for own in front)
    return lines(
        [curve, *alone], ("MB", f"{metric} beside the parent, lower end"),
        f"The front of {len(candidates)} candidates: {told}", lanes=[Lane(-margin)],
    )  # fmt: skip
