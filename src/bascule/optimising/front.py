"""Candidates, those that no other one beats, and their chart. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from bascule.charts import Lane, Series, Svg, lines, non_dominated
from bascule.edge import Timing

_UNKNOWN = (float("inf"), -float("inf"))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A smaller model, and what was measured of it.

    Attributes:
        settings: How it was made.
        size_mb: What a server reads, in 10^6 bytes.
        download_mb: Its program, compressed.
        latency_ms: Median for one row on the device.
        latency: Whether that is `measured`, or `estimated` from this machine.
        worst: Lower end of the interval of how much better it is than its parent, on the rows of
            the search.
        problem: Why it is not taken; empty where it is within the budget.
        confirmed: What the gate says of it on rows of its own; empty where it was not asked.
        on_device: What the device's own command says of it, where it was asked.
    """

    settings: Mapping[str, Any]
    size_mb: float = float("inf")
    download_mb: float = float("inf")
    latency_ms: float = float("inf")
    worst: float = -float("inf")
    problem: str = ""
    confirmed: str = ""
    latency: Literal["measured", "estimated"] = "estimated"
    on_device: Timing | None = None

    @property
    def losses(self) -> tuple[float, float, float]:
        """What is made small: size, latency, and how much worse it may be."""
        return self.size_mb, self.latency_ms, -self.worst

    @property
    def words(self) -> str:
        """How it was made, for people."""
        words = (f"{name} {value}" for name, value in self.settings.items())
        return ", ".join(words).removeprefix("way ").replace("_", " ")

    @property
    def figures(self) -> str:
        """What was measured, for people."""
        latency = f"{self.latency_ms:.3g} ms {self.latency}"
        return f"{self.size_mb:.3g} MB, {latency}, better by {self.worst:+.3g} or more"

    def to_json(self) -> dict[str, Any]:
        """What is known of it: infinite figures were not measured."""
        facts: dict[str, Any] = msgspec.to_builtins(self)
        known = {name: value for name, value in facts.items() if value not in _UNKNOWN}
        return {**known, "words": self.words}


def front_of(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other one beats; the largest first."""
    front = [candidates[place] for place in non_dominated([own.losses for own in candidates])]
    return sorted(front, key=lambda own: (-own.size_mb, -own.worst))


def draw(candidates: Sequence[Candidate], margin: float, metric: str) -> Svg | None:
    """Size against quality: the front as a line, every candidate as a dot; None without any."""
    known = [own for own in candidates if own.losses[0] < float("inf")]
    front = front_of(known)
    dots = [Series([(own.size_mb, own.worst)], "line c2") for own in known]
    listed = "; ".join(f"{own.words}: {own.figures}" for own in front)
    return lines(
        [Series([(own.size_mb, own.worst) for own in front]), *dots],
        ("MB", f"{metric}, beside the parent"), f"{len(known)} candidates, the front of {listed}",
        lanes=[Lane(-margin)],
    )  # fmt: skip
