"""Candidates that no other one beats, and their chart: what is gained against what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from bascule.charts.figures import Lane, Series, lines
from bascule.charts.frame import Point, Svg


class _HasLosses(Protocol):
    @property
    def losses(self) -> tuple[float, ...]:
        """What is made small."""


Candidate = TypeVar("Candidate", bound=_HasLosses)


def non_dominated(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other one equals in all losses and beats in one, in their order."""

    def is_beaten(own: Candidate) -> bool:
        return any(
            other.losses != own.losses
            and all(a <= b for a, b in zip(other.losses, own.losses, strict=True))
            for other in candidates
        )

    return [own for own in candidates if not is_beaten(own)]


def front(
    points: Sequence[Point],
    best: Sequence[Point],
    labels: tuple[str, str],
    alt: str,
    *,
    lanes: Sequence[Lane] = (),
) -> Svg | None:
    """The best points as a line, and every point as a dot; None without a point."""
    dots = [Series([point], "line c2") for point in points]
    return lines([Series(best), *dots], labels, alt, lanes=lanes)
