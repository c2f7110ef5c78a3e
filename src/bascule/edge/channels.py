"""What a channel offers to its devices: a target that the role of the channel signs."""

from __future__ import annotations

import hashlib

import msgspec


class Offer(msgspec.Struct, frozen=True):
    """A version, such as `late/4`, and the digest of its bundle."""

    version: str
    digest: str


class Candidate(msgspec.Struct, frozen=True):
    """A version that a share of the devices takes first; another `salt` draws other devices."""

    version: str
    digest: str
    rollout: str
    share: float
    salt: str

    def takes(self, device: str) -> bool:
        """Whether a device is drawn; a device that is drawn stays so while the share grows."""
        drawn = hashlib.sha256((self.salt + device).encode()).digest()
        return int.from_bytes(drawn[:8], "big") / 2**64 < self.share


class Channel(msgspec.Struct, frozen=True):
    """What a channel says; `sequence` grows with each change."""

    model: str
    stable: Offer
    sequence: int
    candidate: Candidate | None = None
