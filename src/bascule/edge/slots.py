"""The home of a device: verified bundles in slots, and the state that says which one serves.

    state.json       which version serves, which one did before, what is refused: `State`
    slots/HEX/       a bundle each, named by its digest
    outbox/          reports that the server does not have yet
    agent.lock       locked by the process that writes here

Rules that this module keeps, so that a device that loses power starts again:

- The state is written beside its place, synced and renamed: a reader sees the old or the new.
- A slot is proven, complete and synced before it has its name, and a state names it after that.
- A slot loses its name before its files are removed, and only where no state names it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bascule.core import Conflict, Untrusted, sync_folder, synced, writing
from bascule.edge.channels import Offer

_STATE = "state.json"
_HEX = "[0-9a-f]" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a device knows of itself; all of it survives a loss of power.

    Attributes:
        device: Its name.
        current: What serves; None before the first installation.
        last_good: What served before, and did well; None where there is nothing to return to.
        refused: Why a digest is never installed again.
        starts: How often `current` was opened since it last stayed up; 0 where it has.
        sequence: The highest number of a report that is no longer in the outbox.
        attempted: The highest number of a report that was sent, received or not.
    """

    device: str
    current: Offer | None = None
    last_good: Offer | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    starts: int = 0
    sequence: int = 0
    attempted: int = 0

    @property
    def digests(self) -> set[str]:
        """Of the slots that it names."""
        return {offer.digest for offer in (self.current, self.last_good) if offer is not None}


class Home:
    """The folder of one device. One process writes; others may read."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.outbox = self.path / "outbox"
        self._slots = self.path / "slots"
        self._lock = -1

    def lock(self) -> None:
        """Make the folders, and be the one process that writes here until this one ends.

        Raises:
            Conflict: Another process is.
        """
        with writing(self.path):
            for folder in (self._slots, self.outbox):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"another process is the agent of {self.path}", hint="end it, or use another --home"
            ) from None
        for folder in self._slots.glob(".*"):
            shutil.rmtree(folder, ignore_errors=True)

    def unlock(self) -> None:
        os.close(self._lock)

    def read_state(self) -> State | None:
        """The state; None where there is none.

        Raises:
            Untrusted: It is damaged, which no loss of power explains.
        """
        try:
            return msgspec.json.decode((self.path / _STATE).read_bytes(), type=State)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as damage:
            raise Untrusted(f"{self.path / _STATE} is damaged: {damage}") from None

    def write_state(self, state: State) -> None:
        """Replace the state; it is on the disk when this returns. Raises `Invalid`."""
        draft = self.path / f"{_STATE}.draft"
        with writing(self.path / _STATE):
            with synced(draft) as file:
                file.write(msgspec.json.encode(state))
            draft.replace(self.path / _STATE)
            sync_folder(self.path)

    def state_changed_ns(self) -> int:
        """A number that changes with the state; 0 where there is none."""
        try:
            return (self.path / _STATE).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def slot(self, digest: str) -> Path:
        """The folder of a bundle."""
        return self._slots / digest.removeprefix("sha256:")

    def digests(self) -> set[str]:
        """Of the bundles that are in slots."""
        return {f"sha256:{slot.name}" for slot in self._slots.glob(_HEX)}

    def incoming(self, digest: str) -> Path:
        """Where a bundle is put together before it has its slot."""
        return self._slots / f".{self.slot(digest).name}"

    def fill_slot(self, digest: str) -> None:
        """Give the bundle in `incoming` its slot, with all its files on the disk. Twice is fine."""
        incoming, slot = self.incoming(digest), self.slot(digest)
        with writing(slot):
            for root, _, files in os.walk(incoming):
                for name in files:
                    with (Path(root) / name).open("rb") as file:
                        os.fsync(file.fileno())
                sync_folder(Path(root))
            if not slot.exists():
                incoming.rename(slot)
            sync_folder(self._slots)

    def remove_others(self, digests: Iterable[str]) -> None:
        """Remove the slots of all other digests. What cannot be removed now stays until later."""
        keep = {self.slot(digest) for digest in digests}
        for slot in self._slots.glob(_HEX):
            if slot not in keep:
                leaving = self._slots / f".{slot.name}-leaving"
                with suppress(OSError):
                    slot.rename(leaving)
                shutil.rmtree(leaving, ignore_errors=True)
