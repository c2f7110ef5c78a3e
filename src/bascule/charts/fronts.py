"""Candidates that no other one beats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


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
