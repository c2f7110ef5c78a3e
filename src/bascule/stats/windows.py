"""What a version was asked and answered in some time, as profiles that merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bascule.core import Untrusted
from bascule.stats.sketches import ColumnProfile, Profile

_FORMAT = 1


@dataclass(slots=True)
class WindowProfile:
    """What one version was asked and answered on one UTC day; on a device, since its last report.

    Attributes:
        model: The model that answered.
        version: Its version.
        day: As `2026-11-26`.
        rows: How many rows were answered. An estimate without bias where requests were sampled.
        profiled_rows: How many are in the sketches: above a rate, a uniform sample of each turn.
        inputs: Of what was asked, by the names of the baseline's columns.
        outputs: Of the answers.
    """

    model: str = ""
    version: str = ""
    day: str = ""
    rows: int = 0
    profiled_rows: int = 0
    inputs: Profile = field(default_factory=Profile)
    outputs: Profile = field(default_factory=Profile)

    def merge(self, other: WindowProfile) -> None:
        """Take in a window of other rows of the same version.

        A column of the other kind, which no program of the version gives, is left out.
        """
        self.rows += other.rows
        self.profiled_rows += other.profiled_rows
        for mine, its in ((self.inputs, other.inputs), (self.outputs, other.outputs)):
            mine.rows += its.rows
            # Column by column: an output that only some callers ask for is in some windows alone.
            for name, column in its.columns.items():
                known = mine.columns.setdefault(name, ColumnProfile(column.kind))
                if known.kind == column.kind:
                    known.merge(column)

    def to_json(self) -> dict[str, Any]:
        """Without its names."""
        inputs, outputs = self.inputs.to_json(), self.outputs.to_json()
        counted = {"rows": self.rows, "profiled_rows": self.profiled_rows}
        return {**counted, "inputs": inputs, "outputs": outputs, "format": _FORMAT}

    @classmethod
    def from_json(
        cls, value: Mapping[str, Any], model: str = "", version: str = "", day: str = ""
    ) -> WindowProfile:
        """Raises `Untrusted` where it is not what `to_json` gives, or of a newer format."""
        try:
            if value["format"] != _FORMAT:
                raise ValueError(f"format {value['format']!r} is of a newer release")
            rows, profiled_rows = int(value["rows"]), int(value["profiled_rows"])
            inputs, outputs = (Profile.from_json(value[part]) for part in ("inputs", "outputs"))
        except (KeyError, TypeError, ValueError, OverflowError) as problem:
            message = f"the profiles cannot be read: {problem}"
            raise Untrusted(message, hint="update what reads them") from None
        return cls(model, version, day, rows, profiled_rows, inputs, outputs)
