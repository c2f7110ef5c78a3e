"""Candidates, those that no other one beats, and their chart. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bascule.charts import Lane, Series, Svg, lines

_UNKNOWN = (float("inf"), -float("inf"))


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
        confirmed: What the gate says of it on rows of its own; empty where it was not asked.
    """

    settings: Mapping[str, Any]
    size_mb: float = float("inf")
    download_mb: float = float("inf")
    latency_ms: float = float("inf")
    worst: float = -float("inf")
    problem: str = ""
    confirmed: str = ""

    @property
    def losses(self) -> tuple[float, float, float]:
        """What is made small: size, latency, and how much worse it may be."""
        return self.size_mb, self.latency_ms, -self.worst

    @property
    def words(self) -> str:
        """How it was made, for people."""
        return ", ".join(
            f"{value}" if name == "way" else f"{name} {value}"
            for name, value in self.settings.items()
        ).replace("_", " ")

    def to_json(self) -> dict[str, Any]:
        """What is known of it: infinite figures were not measured."""
        known = {name: value for name, value in asdict(self).items() if value not in _UNKNOWN}
        return {**known, "words": self.words}


def non_dominated(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other one equals in all losses and beats in one; the largest first."""

    def is_beaten(own: Candidate) -> bool:
        return any(
            other.losses != own.losses
            and all(a <= b for a, b in zip(other.losses, own.losses, strict=True))
            for other in candidates
        )

    front = [own for own in candidates if not is_beaten(own)]
    return sorted(front, key=lambda own: (-own.size_mb, -own.worst))


def draw(candidates: Sequence[Candidate], margin: float, metric: str) -> Svg | None:
    """Size against quality: the front as a line, every candidate as a dot; None without any."""
    known = [own for own in candidates if own.losses[0] < float("inf")]
    front = non_dominated(known)
    dots = [Series([(own.size_mb, own.worst)], "line c2") for own in known]
    listed = "; ".join(f"{own.words}: {own.size_mb:.3g} MB, {own.worst:+.3g}" for own in front)
    return lines(
        [Series([(own.size_mb, own.worst) for own in front]), *dots],
        ("MB", f"{metric}, beside the parent"), f"{len(known)} candidates, the front of {listed}",
        lanes=[Lane(-margin)],
    )  # fmt: skip
