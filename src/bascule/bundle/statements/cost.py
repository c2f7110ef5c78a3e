"""Cost: what a program takes of time by batch size, of memory, and of disk."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH_SIZES = (1, 8, 64, 512, 8192, 65536)


@dataclass(frozen=True, slots=True)
class Cost:
    """What was measured, on one thread.

    Attributes:
        latency_us: By program (and `original`), by batch size: the median time of one call.
        peak_memory_bytes: The most that a fresh process held which loaded the program and
            answered 512 rows, or as many of them as it answers in about a second; None where it
            could not be measured.
        size_bytes: What the bundle's files take on disk.
        machine: What it was measured on.
    """

    latency_us: Mapping[str, Mapping[int, float]]
    peak_memory_bytes: int | None
    size_bytes: int
    machine: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            "latency_us": {
                program: {str(size): us for size, us in sizes.items()}
                for program, sizes in self.latency_us.items()
            },
            "peak_memory_bytes": self.peak_memory_bytes,
            "size_bytes": self.size_bytes,
            "machine": dict(self.machine),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Cost:
        return cls(
            latency_us={
                program: {size: float(sizes[str(size)]) for size in sorted(map(int, sizes))}
                for program, sizes in value["latency_us"].items()
            },
            peak_memory_bytes=value["peak_memory_bytes"],
            size_bytes=int(value["size_bytes"]),
            machine=dict(value["machine"]),
        )


def cpu_name() -> str:
    """What the processor of this machine calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
