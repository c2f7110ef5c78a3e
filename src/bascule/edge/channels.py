"""What a channel offers to its devices: a target that the role of the channel signs."""

from __future__ import annotations

import hashlib

import msgspec

from bascule.core import Untrusted


class Offer(msgspec.Struct, frozen=True):
    """A version: `late/4`, and the digest of its bundle."""

    version: str
    digest: str


class Candidate(Offer, frozen=True):
    """A version that a share of the devices takes first.

    Attributes:
        rollout: The id of its rollout.
        share: Of the devices, from 0 to 1.
        salt: Of the draw: another one draws other devices.
    """

    rollout: str
    share: float
    salt: str

    def takes(self, device: str) -> bool:
        """Whether a device is drawn; a device that is drawn stays so while the share grows."""
        drawn = hashlib.sha256((self.salt + device).encode()).digest()
        return int.from_bytes(drawn[:8], "big") / 2**64 < self.share


class Channel(msgspec.Struct, frozen=True):
    """What a channel says.

    Attributes:
        model: All its versions are of this model.
        stable: What devices run.
        sequence: Greater with each change.
        candidate: What some devices run instead.
    """

    model: str
    stable: Offer
    sequence: int
    candidate: Candidate | None = None

    @classmethod
    def parse(cls, content: bytes) -> Channel:
        """Raises `Untrusted` where it is no channel."""
        try:
            return msgspec.json.decode(content, type=cls)
        except msgspec.MsgspecError as problem:
            raise Untrusted(f"corrupted: the channel cannot be read: {problem}") from None
