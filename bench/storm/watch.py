"""What a server held while it was stormed: facts alone, so that tables need no processes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Watch:
    """What a server's process tree held, once a second.

    Attributes:
        seconds: When, since the watch began.
        resident_mb: Resident memory of the whole tree.
        descriptors: Open descriptors of the whole tree.
    """

    seconds: list[float] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
