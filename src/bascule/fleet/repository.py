"""The metadata of a repository of The Update Framework: made, changed, refreshed, its keys rotated.

Rules of this module:

- A change is one write: that of `timestamp.json`, on the condition that it is still the one that
  the change was made from. What is named by it is written before, under names that were free. So a
  process that is killed, or is second, leaves files that nothing names.
- What is signed again was verified before, from the root that this home has pinned: a place that
  was tampered with gets no signature.
- The private keys of the root are here only while a command that needs them runs.
"""

from __future__ import annotations

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
    Snapshot,
    Targets,
    Timestamp,
)

from bascule.core import Conflict, Invalid, NotFound, Refused, Untrusted, replacing, secret_in
from bascule.fleet.places import Place

ONLINE = (Targets.type, Snapshot.type, Timestamp.type)
"""The roles whose keys the server has, beside those of channels."""
CHANNEL = "channel-"
"""What the name of a channel's role begins with."""
_TIMESTAMP = "metadata/timestamp.json"
_TRIES = 5
_DAYS = 365.0

Signed = TypeVar("Signed", Root, Timestamp, Snapshot, Targets)


def key_in(file: Path, password: str | None = None, *, create: bool = False) -> CryptoSigner:
    """The private key in a PEM file; with `create`, a new one (Ed25519) where there is no file.

    Raises:
        Invalid: It cannot be read or written.
    """
    if create and not file.exists():
        with replacing(file, overwrite=False) as draft:
            draft.touch(mode=0o600)
            draft.write_bytes(_pem_of(CryptoSigner.generate_ed25519(), password))
    try:
        return _signer(file.read_bytes(), password)
    except (OSError, ValueError, TypeError) as problem:
        raise Invalid(f"{file} holds no private key: {problem}", hint="name a PEM file") from None


def _pem_of(signer: CryptoSigner, password: str | None) -> bytes:
    from cryptography.hazmat.primitives import serialization

    if not password:
        return signer.private_bytes
    key = serialization.load_pem_private_key(signer.private_bytes, None)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password.encode()),
    )  # fmt: skip


def _signer(pem: bytes, password: str | None = None) -> CryptoSigner:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key: Any = load_pem_private_key(pem, password.encode() if password else None)
    return CryptoSigner(key)


@dataclass(frozen=True, slots=True)
class Keys:
    """The private keys of the roles that the server signs for, one each.

    Attributes:
        folder: Has a file `ROLE.pem` for each.
        elsewhere: Where they are instead, with `{role}` for the role: `vault:PATH#{role}`.
    """

    folder: Path
    elsewhere: str = ""

    def signer(self, role: str) -> CryptoSigner:
        """The key of a role, read now. Raises `Invalid`."""
        if not self.elsewhere:
            return key_in(self._file(role))
        try:
            return _signer(secret_in(self.elsewhere.replace("{role}", role)).encode())
        except ValueError as problem:
            raise Invalid(f"edge.keys has no private key for {role}: {problem}") from None

    def new(self, role: str) -> CryptoSigner:
        """The key of a role that has none yet; one that is there is taken."""
        return self.signer(role) if self.elsewhere else key_in(self._file(role), create=True)

    def renew(self, role: str, former: Sequence[str]) -> CryptoSigner:
        """A key that is none of `former`; that which is there, where another process made it."""
        signer = self.signer(role)
        if signer.public_key.keyid in former and not self.elsewhere:
            signer = CryptoSigner.generate_ed25519()
            with replacing(self._file(role)) as draft:
                draft.touch(mode=0o600)
                draft.write_bytes(signer.private_bytes)
        return signer

    def _file(self, role: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.folder / f"{role}.pem"


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

    def keyids(self, role: str) -> Sequence[str]:
        """The keys that have a role."""
        delegations = self.roles[Targets.type].signed.delegations
        if role.startswith(CHANNEL):
            roles = (delegations.roles or {}) if delegations else {}
            return roles[role].keyids if role in roles else ()
        return self.root.roles[role].keyids

    def delegate(self, role: str, signer: CryptoSigner) -> Targets:
        """Give the role of a channel to this key alone; what the channel has so far."""
        targets = self.roles[Targets.type].signed
        delegations = targets.delegations = targets.delegations or Delegations({}, {})
        path = f"channels/{role.removeprefix(CHANNEL)}.json"
        assert delegations.roles is not None
        delegations.roles.setdefault(role, DelegatedRole(role, [], 1, False, [path]))
        for keyid in set(self.keyids(role)) - {signer.public_key.keyid}:
            targets.revoke_key(keyid, role)
        targets.add_key(signer.public_key, role)
        return self.roles.setdefault(role, _unwritten(Targets())).signed


class TufRepository:
    """A repository at a place."""

    def __init__(
        self, place: Place, keys: Keys, pinned: Path, *,
        timestamp_days: float = 7.0, root_days: float = 365.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        """Read nothing yet.

        Args:
            place: Of the files.
            keys: Of the roles that the server signs for.
            pinned: The file of the root that this home trusts.
            timestamp_days: How long devices believe that nothing has changed.
            root_days: How long the root holds.
            clock: Tells now.
        """
        self.place = place
        self.keys, self._pinned, self._clock = keys, pinned, clock
        self._days = {Timestamp.type: timestamp_days, Root.type: root_days}

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
            raise Invalid(f"{len(root_keys)} keys of the root do not make {threshold}")
        if self.place.read("metadata/1.root.json") is None:
            root = Root(consistent_snapshot=True)
            for role in ONLINE:
                root.add_key(self.keys.new(role).public_key, role)
            for key in root_keys:
                root.add_key(key.public_key, Root.type)
            root.roles[Root.type].threshold = threshold
            content = self._signed(_unwritten(root), Root.type, root_keys)
            _pin(self._pinned, content)
            self.place.create("metadata/1.root.json", content)
        if self.place.read("metadata/1.root.json") != _read(self._pinned):
            raise Conflict("another home has made this repository", hint="choose another place")
        targets = {Targets.type: _unwritten(Targets())}
        root = self._root().signed
        state = State(None, root, _unwritten(Timestamp()), _unwritten(Snapshot()), targets)
        if not self._commit(state, {Targets.type}):
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
        with _trusting():
            timestamp = Metadata[Timestamp].from_bytes(before)
            root.verify_delegate(Timestamp.type, timestamp.signed_bytes, timestamp.signatures)
            version = timestamp.signed.snapshot_meta.version
            snapshot: Metadata[Snapshot] = self._part(Snapshot.type, version, root)
            state = State(before, root, timestamp, snapshot, {})
            delegator: Root | Targets = root
            for file, meta in sorted(snapshot.signed.meta.items(), key=_targets_first):
                role = file.removesuffix(".json")
                state.roles[role] = self._part(role, meta.version, delegator)
                delegator = state.roles[Targets.type].signed
        return state

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
        raise Conflict("others change the repository", hint="try again")

    def refresh(self) -> datetime:
        """Sign that nothing has changed; what expires soon is signed again. When it expires."""
        state = self.read()

        def what_is_old(fresh: State) -> set[str]:
            nonlocal state
            state = fresh
            return {role for role, part in fresh.roles.items() if self._is_old(role, part)}

        self.change(what_is_old)
        return state.timestamp.signed.expires

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
            self._publish_root({Root.type: keys}, [*root_keys, *new_root_keys])
        elif role.startswith(CHANNEL) and role in state.roles:
            signer = self.keys.renew(role, state.keyids(role))

            def give(fresh: State) -> set[str]:
                fresh.delegate(role, signer)
                return {Targets.type, role}

            self.change(give)
        elif role in ONLINE:
            _check_threshold(state.root, root_keys)
            former = [state.root.keys[keyid] for keyid in state.keyids(role)]
            key = self.keys.renew(role, state.keyids(role)).public_key
            self._publish_root({role: [*former, key]}, root_keys)
            self.change(lambda _: {Targets.type})
            self._publish_root({role: [key]}, root_keys)
        else:
            raise NotFound(f"there is no role {role!r}", hint=f"roles: {', '.join(state.roles)}")

    def _commit(self, state: State, changed: set[str]) -> bool:
        """Write what changed, and have the timestamp name it; False where another was sooner."""
        for role in sorted(changed):
            self._write(state, role, state.roles[role])
            version = state.roles[role].signed.version
            state.snapshot.signed.meta[f"{role}.json"] = MetaFile(version)
        if changed or self._is_old(Snapshot.type, state.snapshot):
            self._write(state, Snapshot.type, state.snapshot)
            state.timestamp.signed.snapshot_meta = MetaFile(state.snapshot.signed.version)
        state.timestamp.signed.version += 1
        keys = [self._key(state, Timestamp.type)]
        content = self._signed(state.timestamp, Timestamp.type, keys)
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
            raise Refused(
                f"the key of this home for {role} has not that role",
                hint=f"bascule edge rotate {role}",
            )
        return signer

    def _signed(self, part: Metadata[Any], role: str, keys: Sequence[CryptoSigner]) -> bytes:
        part.signed.expires = self._now() + timedelta(days=self._lasts(role))
        part.signatures.clear()
        for key in keys:
            part.sign(key, append=True)
        return part.to_bytes()

    def _lasts(self, role: str) -> float:
        return self._days.get(role, _DAYS)

    def _now(self) -> datetime:
        return self._clock().replace(microsecond=0)

    def _is_old(self, role: str, part: Metadata[Any]) -> bool:
        remaining: timedelta = part.signed.expires - self._now()
        return remaining < timedelta(days=self._lasts(role)) / 2

    def _root(self) -> Metadata[Root]:
        """The newest root, by the chain from the one that is pinned."""
        pinned = _read(self._pinned)
        if pinned is None:
            raise NotFound(
                "this home has made no repository",
                hint=f"bascule edge init, or copy {self._pinned} from the home that has",
            )
        root = Metadata[Root].from_bytes(pinned)
        while content := self.place.read(f"metadata/{root.signed.version + 1}.root.json"):
            with _trusting():
                root = _next_root(root, content)
        return root

    def _part(self, role: str, version: int, delegator: Root | Targets) -> Metadata[Any]:
        name = f"metadata/{version}.{role}.json"
        content = self.place.read(name)
        if content is None:
            raise Untrusted(f"{name} is missing from the repository")
        part = Metadata[Any].from_bytes(content)
        delegator.verify_delegate(role, part.signed_bytes, part.signatures)
        if part.signed.version != version:
            raise Untrusted(f"mixed and matched: {name} is of version {part.signed.version}")
        return part

    def _publish_root(
        self, keys: dict[str, Sequence[Key]], root_keys: Sequence[CryptoSigner]
    ) -> None:
        """Publish the next root, in which roles have these keys alone."""
        former = self._root()
        root = Metadata[Root].from_bytes(former.to_bytes())
        for role, chosen in keys.items():
            for keyid in set(root.signed.roles[role].keyids) - {key.keyid for key in chosen}:
                root.signed.revoke_key(keyid, role)
            for key in chosen:
                root.signed.add_key(key, role)
        root.signed.version += 1
        content = self._signed(root, Root.type, root_keys)
        try:
            _next_root(former, content)
        except RepositoryError:
            raise _too_few(root.signed) from None
        if not self.place.create(f"metadata/{root.signed.version}.root.json", content):
            raise Conflict("another process has published a root", hint="try again")
        _pin(self._pinned, content)


def _next_root(former: Metadata[Root], content: bytes) -> Metadata[Root]:
    """The root after `former`; raises `RepositoryError`. Specification 5.3.4 and 5.3.5."""
    root = Metadata[Root].from_bytes(content)
    for trusted in (former.signed, root.signed):
        trusted.verify_delegate(Root.type, root.signed_bytes, root.signatures)
    if root.signed.version != former.signed.version + 1:
        raise RepositoryError(f"the root after {former.signed.version} is {root.signed.version}")
    return root


def _check_threshold(root: Root, keys: Sequence[CryptoSigner]) -> None:
    role = root.roles[Root.type]
    if len({key.public_key.keyid for key in keys} & set(role.keyids)) < role.threshold:
        raise _too_few(root)


def _too_few(root: Root) -> Refused:
    return Refused(
        f"the root needs signatures of {root.roles[Root.type].threshold} of its keys",
        hint="name their files with --root-key",
    )


@contextmanager
def _trusting() -> Iterator[None]:
    try:
        yield
    except RepositoryError as problem:
        raise Untrusted(f"the repository was tampered with: {problem}") from None


def _unwritten(part: Signed) -> Metadata[Signed]:
    part.version = 0 if part.type != Root.type else 1
    return Metadata(part)


def _targets_first(entry: tuple[str, MetaFile]) -> tuple[bool, str]:
    return entry[0] != f"{Targets.type}.json", entry[0]


def _read(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def _pin(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as draft:
        draft.write_bytes(content)
