"""The metadata of a repository of The Update Framework: made, changed, refreshed, its keys rotated.

Rules of this module:

- A change is one write: that of the timestamp, on the condition that it is still the one that the
  change was made from. What it names is written before, under names that were free. So a process
  that is killed, or is second, leaves files that nothing names.
- What is signed again was verified before, from the root that this home has pinned: a place that
  was tampered with gets no signature.
- A snapshot names the `former` ones and when each ended, for as long as devices may be reading
  what they name: files are removed when no device can have reached them for `KEPT`.
- The private keys of the root are here only while a command that needs them runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from bascule.core import Conflict, Invalid, NotFound, Refused, Untrusted, replacing
from bascule.fleet.keys import Keys
from bascule.places import Place

_ONLINE = (Targets.type, Snapshot.type, Timestamp.type)
_TIMESTAMP, _FIRST_ROOT = "metadata/timestamp.json", "metadata/1.root.json"
_TRIES, _DAYS = 5, 365.0
KEPT = timedelta(days=30)
_AGAIN = "try again"
CHANNEL = "channel-"
"""What the name of a channel's role begins with."""
Part = TypeVar("Part", Root, Timestamp, Snapshot, Targets)


def place_of(target: TargetFile) -> str:
    """Where a target lies: its hash is in its name (specification 6.2)."""
    folder, _, name = target.path.rpartition("/")
    return f"targets/{folder}/{target.hashes['sha256']}.{name}"


@dataclass(frozen=True, slots=True)
class State:
    """What a repository says now, verified, to be changed.

    Attributes:
        before: The bytes of the timestamp; None before the first.
        root: The newest.
        timestamp: As it is.
        snapshot: As it is.
        roles: `targets`, and the roles of channels.
    """

    before: bytes | None
    root: Root
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    roles: dict[str, Metadata[Targets]]

    def parts(self) -> dict[str, Signed]:
        """All, by their roles."""
        roles = {role: part.signed for role, part in self.roles.items()}
        return {
            Root.type: self.root, Timestamp.type: self.timestamp.signed,
            Snapshot.type: self.snapshot.signed, **roles,
        }  # fmt: skip

    def keyids(self, role: str) -> Sequence[str]:
        """The keys that have a role."""
        if not role.startswith(CHANNEL):
            return self.root.roles[role].keyids
        delegations = self.roles[Targets.type].signed.delegations
        roles = (delegations and delegations.roles) or {}
        return roles[role].keyids if role in roles else ()

    def delegate(self, role: str, key: Key) -> set[str]:
        """Give the role of a channel to this key alone; the roles that this changes."""
        targets = self.roles[Targets.type].signed
        targets.delegations = delegations = targets.delegations or Delegations({}, {})
        assert delegations.roles is not None
        paths = [f"channels/{role.removeprefix(CHANNEL)}.json"]
        delegations.roles.setdefault(role, DelegatedRole(role, [], 1, True, paths))
        for keyid in set(self.keyids(role)) - {key.keyid}:
            targets.revoke_key(keyid, role)
        targets.add_key(key, role)
        self.roles.setdefault(role, _unwritten(Targets()))
        return {Targets.type, role}


class TufRepository:
    """A repository at a place."""

    def __init__(
        self, place: Place, keys: Keys, pinned: Path, *,
        timestamp_days: float = 7.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        """Read nothing yet.

        Args:
            place: Of the files.
            keys: Of the roles that the server signs for.
            pinned: The file of the root that this home trusts.
            timestamp_days: How long devices believe that nothing has changed.
            clock: Tells now.
        """
        self.place, self.keys, self._pinned, self._clock = place, keys, pinned, clock
        self._timestamp_days = timestamp_days

    def init(self, root_keys: Sequence[CryptoSigner], threshold: int = 1) -> None:
        """Make the repository, without a target; goes on where a killed process has ended.

        Args:
            root_keys: They sign the root, and are not kept.
            threshold: How many of them each later root needs.

        Raises:
            Conflict: There is one.
            Invalid: There are fewer keys than `threshold`.
        """
        if not 1 <= threshold <= len({key.public_key.keyid for key in root_keys}):
            raise Invalid(f"{len(root_keys)} keys are not {threshold}", hint="name more root keys")
        if self.place.read(_FIRST_ROOT) is None:
            root = Root(consistent_snapshot=True)
            for role in _ONLINE:
                root.add_key(self.keys.signer(role, create=True).public_key, role)
            for key in root_keys:
                root.add_key(key.public_key, Root.type)
            root.roles[Root.type].threshold = threshold
            self._pin(self._signed(Metadata(root), Root.type, root_keys))
            self.place.create(_FIRST_ROOT, self._pinned.read_bytes())
        pinned = self._pinned.read_bytes() if self._pinned.exists() else b""
        if self.place.read(_FIRST_ROOT) == pinned:
            root, targets = self._root().signed, {Targets.type: _unwritten(Targets())}
            state = State(None, root, _unwritten(Timestamp()), _unwritten(Snapshot()), targets)
            if self._commit(state, {Targets.type}):
                return
        raise Conflict("there is a repository already", hint="bascule edge publish")

    def root(self) -> bytes:
        """The newest root, for a device that is enrolled."""
        return self._root().to_bytes()

    def read(self) -> State:
        """What the repository says; expired metadata too.

        Raises:
            NotFound: There is none.
            Untrusted: It is not what this home's keys signed.
        """
        root, before = self._root().signed, self.place.read(_TIMESTAMP)
        if before is None:
            raise NotFound("there is no repository", hint="bascule edge init")
        with _verifying():
            timestamp = Metadata[Timestamp].from_bytes(before)
            root.verify_delegate(Timestamp.type, timestamp.signed_bytes, timestamp.signatures)
            version = timestamp.signed.snapshot_meta.version
            snapshot: Metadata[Snapshot] = self._part(Snapshot.type, version, root)
            versions = {name[:-5]: meta.version for name, meta in snapshot.signed.meta.items()}
            targets: Metadata[Targets] = self._part(Targets.type, versions.pop(Targets.type), root)
            channels = {
                role: self._part(role, version, targets.signed)
                for role, version in versions.items()
            }
        return State(before, root, timestamp, snapshot, {Targets.type: targets, **channels})

    def change(self, change: Callable[[State], set[str] | None]) -> None:
        """Change what the repository says, at once and as a whole.

        Args:
            change: Changes a state, and names the roles that it changed; None to leave all as it
                is. Called again where another process was sooner.

        Raises:
            Conflict: Others were sooner again and again.
        """
        for _ in range(_TRIES):
            state = self.read()
            changed = change(state)
            if changed is None or self._commit(state, changed):
                return
        raise Conflict("others change the repository", hint=_AGAIN)

    def refresh(self) -> tuple[datetime, datetime]:
        """Sign anew what is half over; when the timestamp and the root end."""

        def change(state: State) -> set[str] | None:
            old = {role for role, part in state.parts().items() if self._is_old(role, part)}
            return old & set(state.roles) if old - {Root.type} else None

        self.change(change)
        state = self.read()
        return state.timestamp.signed.expires, state.root.expires

    def ending(self) -> dict[str, datetime]:
        """When the roles end that were not signed anew in time: the root is, by a person alone."""
        return {
            role: part.expires for role, part in self.read().parts().items()
            if part.expires - self._now() < min(KEPT, self._period(role) / 4)
        }  # fmt: skip

    def recent(self, state: State) -> tuple[set[str], list[TargetFile]]:
        """The files of metadata that devices may be reading, and the targets that they name.

        They are not verified: nothing of them is signed again.
        """
        files: dict[str, Signed] = {}

        def read(name: str) -> Signed | None:
            if name not in files and (content := self.place.read(name)) is not None:
                files[name] = Metadata[Any].from_bytes(content).signed
            return files.get(name)

        for version in (state.snapshot.signed.version, *self._former(state.snapshot.signed)):
            snapshot = read(f"metadata/{version}.{Snapshot.type}.json")
            if isinstance(snapshot, Snapshot):
                for role, meta in snapshot.meta.items():
                    read(f"metadata/{meta.version}.{role}")
        parts = (part for part in files.values() if isinstance(part, Targets))
        return set(files), [target for part in parts for target in part.targets.values()]

    def prune(self) -> None:
        """Remove the files that no device can have reached for `KEPT`."""
        files, targets = self.recent(self.read())
        reachable = {_TIMESTAMP, *files, *map(place_of, targets)}
        is_root = re.compile(r"metadata/\d+\.root\.json").fullmatch
        for name, written_at in (*self.place.files("metadata"), *self.place.files("targets")):
            if name not in reachable and written_at < self._now() - KEPT and not is_root(name):
                self.place.remove(name)

    def rotate(
        self, role: str, root_keys: Sequence[CryptoSigner] = (),
        new_root_keys: Sequence[CryptoSigner] = (),
    ) -> None:  # fmt: skip
        """Give a role a new key, and take it from the others; twice is fine.

        Devices accept what the repository says at each step: the old key loses the role when the
        new one has signed.

        Args:
            role: `root`, `targets`, `snapshot`, `timestamp`, or `channel-NAME`.
            root_keys: As many as the root's threshold; of a channel none.
            new_root_keys: Of the root; without any the same keys sign it for another time.

        Raises:
            NotFound: There is no such role.
            Refused: The keys of the root are too few, or are others.
        """
        state = self.read()
        if role == Root.type:
            keys = [signer.public_key for signer in new_root_keys or root_keys]
            self._publish_root(role, keys, [*root_keys, *new_root_keys])
            return
        if role not in (*_ONLINE, *state.roles):
            raise NotFound(f"there is no role {role}", hint=f"roles: {', '.join(state.roles)}")
        former = state.keyids(role)
        signer = self.keys.signer(role, create=True)
        if signer.public_key.keyid in former:  # else a killed process has left a new one
            signer = CryptoSigner.generate_ed25519()
        if role.startswith(CHANNEL):
            self.keys.put(role, signer)
            self.change(lambda fresh: fresh.delegate(role, signer.public_key))
            return
        both = [*(state.root.keys[keyid] for keyid in former), signer.public_key]
        self._publish_root(role, both, root_keys)
        self.keys.put(role, signer)
        self.change(lambda _: {Targets.type})
        self._publish_root(role, [signer.public_key], root_keys)

    def _commit(self, state: State, changed: set[str]) -> bool:
        """Write what changed, and have the timestamp name it; False where another was sooner."""
        snapshot, timestamp = state.snapshot, state.timestamp
        for role in sorted(changed):
            self._write(state, role, state.roles[role])
            snapshot.signed.meta[f"{role}.json"] = MetaFile(state.roles[role].signed.version)
        if changed or self._is_old(Snapshot.type, snapshot.signed):
            former = self._former(snapshot.signed)
            former[str(snapshot.signed.version)] = self._now().isoformat()
            snapshot.signed.unrecognized_fields["former"] = former
            self._write(state, Snapshot.type, snapshot)
            timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
        timestamp.signed.version += 1
        content = self._signed(timestamp, Timestamp.type, [self._key(state, Timestamp.type)])
        return self.place.swap(_TIMESTAMP, state.before, content)

    def _write(self, state: State, role: str, part: Metadata[Any]) -> None:
        """Write a part under the next version that is free."""
        keys, is_written = [self._key(state, role)], False
        while not is_written:
            part.signed.version += 1
            name = f"metadata/{part.signed.version}.{role}.json"
            is_written = self.place.create(name, self._signed(part, role, keys))

    def _key(self, state: State, role: str) -> CryptoSigner:
        signer = self.keys.signer(role)
        if signer.public_key.keyid not in state.keyids(role):
            hint = f"bascule edge rotate {role}"
            raise Refused(f"the key of this home for {role} has not that role", hint=hint)
        return signer

    def _signed(self, part: Metadata[Any], role: str, keys: Sequence[CryptoSigner]) -> bytes:
        part.signed.expires = self._now() + self._period(role)
        part.signatures.clear()
        for key in keys:
            part.sign(key, append=True)
        return part.to_bytes()

    def _now(self) -> datetime:
        return self._clock().replace(microsecond=0)

    def _period(self, role: str) -> timedelta:
        return timedelta(days=self._timestamp_days if role == Timestamp.type else _DAYS)

    def _is_old(self, role: str, part: Signed) -> bool:
        return part.expires - self._now() < self._period(role) / 2

    def _former(self, snapshot: Snapshot) -> dict[str, str]:
        """The versions of former snapshots, and when they ended."""
        since = (self._now() - KEPT).isoformat()
        ended: dict[str, str] = snapshot.unrecognized_fields.get("former", {})
        return {version: until for version, until in ended.items() if until > since}

    def _root(self) -> Metadata[Root]:
        """The newest root, by the chain from the one that is pinned."""
        root = Metadata[Root].from_bytes(self._pinned.read_bytes())
        with _verifying():
            while content := self.place.read(f"metadata/{root.signed.version + 1}.root.json"):
                root = _next_root(root, content)
        return root

    def _part(self, role: str, version: int, delegator: Root | Targets) -> Metadata[Any]:
        content = self.place.read(f"metadata/{version}.{role}.json")
        if content is None:
            raise RepositoryError(f"{role} {version} is missing")
        part = Metadata[Any].from_bytes(content)
        delegator.verify_delegate(role, part.signed_bytes, part.signatures)
        if part.signed.version != version:
            raise RepositoryError(f"{role} {version} has the version {part.signed.version}")
        return part

    def _publish_root(
        self, role: str, keys: Sequence[Key], root_keys: Sequence[CryptoSigner]
    ) -> None:
        """Publish the next root, in which these keys alone have a role."""
        former, root = self._root(), self._root()
        for keyid in set(root.signed.roles[role].keyids) - {key.keyid for key in keys}:
            root.signed.revoke_key(keyid, role)
        for key in keys:
            root.signed.add_key(key, role)
        root.signed.version += 1
        content = self._signed(root, Root.type, root_keys)
        try:
            _next_root(former, content)
        except RepositoryError:
            needed = former.signed.roles[Root.type].threshold
            raise Refused(
                f"the root needs signatures of {needed} of its keys", hint="name them: --root-key"
            ) from None
        if not self.place.create(f"metadata/{root.signed.version}.root.json", content):
            raise Conflict("another process has published a root", hint=_AGAIN)
        self._pin(content)

    def _pin(self, content: bytes) -> None:
        self._pinned.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._pinned) as draft:
            draft.write_bytes(content)


def _next_root(former: Metadata[Root], content: bytes) -> Metadata[Root]:
    """The root after `former`; raises `RepositoryError`. Specification 5.3.4 and 5.3.5."""
    root = Metadata[Root].from_bytes(content)
    for trusted in (former.signed, root.signed):
        trusted.verify_delegate(Root.type, root.signed_bytes, root.signatures)
    if root.signed.version != former.signed.version + 1:
        raise RepositoryError(f"the root after {former.signed.version} is {root.signed.version}")
    return root


@contextmanager
def _verifying() -> Iterator[None]:
    try:
        yield
    except RepositoryError as problem:
        hint = "restore it from a backup, or make another"
        raise Untrusted(f"the repository was tampered with: {problem}", hint=hint) from None


def _unwritten(part: Part) -> Metadata[Part]:
    part.version = 0
    return Metadata(part)
