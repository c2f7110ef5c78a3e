"""Facts that can raise an alert: what is wrong with what, in numbers, as one source saw it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
"""From the least to the most severe."""
RECEIVERS = "receivers"
"""The source of findings about a receiver, which go to the others."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        source: `health`, `objectives`, `ledger`, `silence`, `sunset`, `batch`, `rollouts`, `drift`,
            `performance`, `fairness`, `queries` or `receivers`.
        kind: What is wrong, such as `error_share`.
        model: Of which model; empty for the server itself.
        severity: How bad it is.
        sentence: With the numbers that decide.
        value: The number; None for a finding without one.
        limit: What the value has crossed.
        at: When it was seen.
        version: Of the model; empty for all.
        column: Of its inputs or answers; empty for all. Of `receivers`, the receiver.
        place: The host, for what one host alone can see; empty for what all hosts see.
        evidence: The command that shows more.
    """

    source: str
    kind: str
    model: str
    severity: Severity
    sentence: str
    value: float | None
    limit: float | None
    at: datetime
    version: str = ""
    column: str = ""
    place: str = ""
    evidence: str = ""

    @property
    def id(self) -> str:
        """The same for each look that finds the same thing wrong."""
        parts = (self.source, self.place, self.model, self.version, self.kind, self.column)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "at": self.at.isoformat()}

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Finding:
        return cls(**{**said, "at": datetime.fromisoformat(said["at"])})


@dataclass(frozen=True, slots=True)
class Observation:
    """One look of one source at one model (or the server, `""`): what is not found is over."""

    source: str
    place: str
    model: str
    findings: tuple[Finding, ...]

    def is_about(self, finding: Finding) -> bool:
        return (finding.source, finding.place, finding.model) == (
            self.source, self.place, self.model,
        )  # fmt: skip


class Source(ABC):
    """Where findings come from.

    Attributes:
        name: The `source` of its findings.
        every_s: How long to wait between two looks. A look that raises says nothing.
    """

    name: str
    every_s: float

    @abstractmethod
    def look(self, now: datetime) -> Sequence[Observation]:
        """What is wrong now."""

    def again(self) -> None:  # noqa: B027 -- for sources of which not each look is at everything
        """The last look was not kept: the next one is at everything."""
