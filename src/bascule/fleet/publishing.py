"""A version into a channel: its archive, the differences that lead to it, and what devices read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.bundle.disk import PASSPORT, read_statements
from bascule.core import BasculeError, Conflict, Refused, Scratch, check_name
from bascule.edge import (
    Archive,
    Channel,
    Offer,
    compress,
    device_statements,
    difference,
    hex_of,
    pack,
)
from bascule.fleet.repository import CHANNEL, place_of

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile

    from bascule.catalogue import Catalogue
    from bascule.fleet.repository import State, TufRepository
    from bascule.registry import Registry, Version

    Targets = dict[str, TargetFile]

_EARLIER = 3
"""Of so many former versions of a channel a difference leads to the next."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a channel says now; sizes are what a device receives.

    Attributes:
        channel: Its name.
        version: `late/4`.
        sequence: Of the channel.
        full_bytes: Without any of the earlier versions.
        delta_bytes: By the version that is there, where a difference is smaller.
    """

    channel: str
    version: str
    sequence: int
    full_bytes: int
    delta_bytes: Mapping[str, int]


def publish(
    registry: Registry, repository: TufRepository, reference: str, channel: str, *, by: str
) -> Published:
    """Have a channel offer a version to its devices, with its passports of now; twice is fine.

    Raises:
        Refused: The version failed its gates, or was retired.
        Untrusted: No required key signed it, no passport makes a required claim, or the
            repository was tampered with.
        Conflict: The channel is of another model, or others change the repository all the time.
    """
    check_name(channel, what="channel")
    version = registry.resolve(reference)
    if version.gates == "failed":
        raise Refused(f"{version} failed its gates", hint=f"bascule check {version}")
    published = _publish(registry, repository, version, channel, by)
    repository.prune()
    return published


def _publish(
    registry: Registry, repository: TufRepository, version: Version, channel: str, by: str,
    content: Channel | None = None,
) -> Published:  # fmt: skip
    bundle = registry.path(version)  # verified, with the claims of its passports
    with Scratch() as folder:
        work = _Publication(registry, repository, version, bundle, channel, by, folder, content)
        repository.change(work.change)
    return work.published


def record(catalogue: Catalogue, subject: str, kind: str, body: Mapping[str, Any], by: str) -> None:
    """Note in the history what happened to a role: `channel-NAME`, or one of the repository."""
    from bascule.catalogue import events

    catalogue.create()
    with catalogue.write() as connection:
        about, now = events.Subject("role", subject), datetime.now(UTC)
        events.append(connection, events.Event(about, kind, now, by, body=body))


@dataclass
class _Publication:
    registry: Registry
    repository: TufRepository
    version: Version
    bundle: Path
    channel: str
    by: str
    folder: Path
    content: Channel | None
    archives: dict[str, Archive] = field(default_factory=dict)

    def change(self, state: State) -> set[str] | None:
        """See `TufRepository.change`."""
        offer = Offer(str(self.version), self.version.digest)
        now, earlier = now_in(self.repository, state, self.channel)
        expected = self.content and self.content.sequence - 1
        if expected is not None and (now is None or now.sequence != expected):
            raise Conflict(f"channel {self.channel} was changed meanwhile", hint="try again")
        if now is not None and now.model != self.version.model:
            raise Conflict(f"channel {self.channel} is of {now.model}", hint="choose another name")
        targets = state.roles["targets"].signed.targets
        full = self._full(targets)
        others = [old for old in earlier if old.digest != offer.digest][:_EARLIER]
        deltas = {old.version: self._delta(targets, old, full) for old in others}
        is_same = now is not None and now.stable == offer and now.candidate is None
        is_new = not is_same or self.content is not None
        sequence = (now.sequence if now else 0) + is_new
        self.published = Published(
            self.channel, offer.version, sequence, full.length,
            {version: delta.length for version, delta in deltas.items() if delta},
        )  # fmt: skip
        is_stated = self._state(targets)
        if not is_new:
            return {"targets"} if is_stated else None
        self._drop_unreachable(state, targets)
        role, name = CHANNEL + self.channel, f"channels/{self.channel}.json"
        if not state.keyids(role):
            state.delegate(role, self.repository.keys.signer(role, create=True).public_key)
        channel = self.content or Channel(self.version.model, offer, sequence)
        target = self._put(
            name, msgspec.json.encode(channel), {"earlier": msgspec.to_builtins([offer, *others])}
        )
        state.roles[role].signed.targets = {name: target}
        return {"targets", role}

    def _drop_unreachable(self, state: State, targets: Targets) -> None:
        """Drop the bundles that no channel has named for so long that no device wants them."""
        _, recent = self.repository.recent(state)
        digests = {
            offer["digest"] for target in recent for offer in target.custom.get("earlier", ())
        }
        named = {hex_of(digest) for digest in (*digests, self.version.digest)}
        for name in list(targets):
            if name.partition(".")[0][-64:] not in named:  # the end of `deltas/FROM-TO.zst`
                del targets[name]

    def _full(self, targets: Targets) -> TargetFile:
        def write(file: Path) -> Mapping[str, Any]:
            archive = self._archive(self.version.digest, self.bundle)
            compress(archive, file)
            return {"digest": self.version.digest, "archive_sha256": archive.sha256,
                    "archive_bytes": archive.size_bytes}  # fmt: skip

        return self._in(targets, f"bundles/{hex_of(self.version.digest)}.tar.zst", write)

    def _delta(self, targets: Targets, old: Offer, full: TargetFile) -> TargetFile | None:
        """The difference from a version; None where it saves nothing, or the version is gone."""

        def write(file: Path) -> Mapping[str, Any]:
            version = self.registry.resolve(old.version, retired=True)
            before = self._archive(old.digest, self.registry.path_to_look_at(version))
            method = difference(before, self._archive(self.version.digest, self.bundle), file)
            return {"method": method, "from_sha256": before.sha256}

        name = f"deltas/{hex_of(old.digest)}-{hex_of(self.version.digest)}.zst"
        try:
            delta = self._in(targets, name, write)
        except BasculeError:
            return None
        if delta.length < full.length:
            return delta
        del targets[name]
        return None

    def _state(self, targets: Targets) -> bool:
        """Put what is stated of the bundle beside it; whether its passports are others now."""
        name = f"statements/{hex_of(self.version.digest)}.json"
        custom = {"of": [passport.file_name for passport in read_statements(self.bundle, PASSPORT)]}
        if name in targets and targets[name].custom == custom:
            return False
        targets[name] = self._put(name, device_statements(self.bundle, by=self.by), custom)
        return True

    def _in(
        self, targets: Targets, name: str, write: Callable[[Path], Mapping[str, Any]]
    ) -> TargetFile:
        """A target that is there, or is written now."""
        if name not in targets:
            file = self.folder / "target"
            custom = write(file)
            targets[name] = self._put(name, file.read_bytes(), custom)
        return targets[name]

    def _put(self, name: str, content: bytes, custom: Mapping[str, Any]) -> TargetFile:
        from tuf.api.metadata import TargetFile

        target = TargetFile.from_data(name, content, ["sha256"])
        target.unrecognized_fields["custom"] = dict(custom)
        self.repository.place.create(place_of(target), content)
        return target

    def _archive(self, digest: str, bundle: Path) -> Archive:
        if digest not in self.archives:
            self.archives[digest] = pack(bundle, self.folder / f"{hex_of(digest)}.tar")
        return self.archives[digest]


@dataclass(frozen=True, slots=True)
class RepositoryChannels:
    """The channels of a repository, as rollouts write them; see `store.Channels`."""

    open_registry: Callable[[], Registry]
    open_repository: Callable[[], TufRepository]

    def channel(self, name: str) -> Channel | None:
        repository = self.open_repository()
        return now_in(repository, repository.read(), name)[0]

    def publish_channel(self, name: str, content: Channel) -> None:
        registry, repository = self.open_registry(), self.open_repository()
        version = registry.resolve((content.candidate or content.stable).version)
        _publish(registry, repository, version, name, "rollouts", content)

    def root(self) -> bytes:
        return self.open_repository().root()

    def refresh(self) -> None:
        self.open_repository().refresh()


def now_in(
    repository: TufRepository, state: State, channel: str
) -> tuple[Channel | None, list[Offer]]:
    """What a channel says, and its versions, the latest first."""
    role = state.roles.get(CHANNEL + channel)
    if role is None or not role.signed.targets:
        return None, []
    (target,) = role.signed.targets.values()
    content = repository.place.read(place_of(target)) or b""
    target.verify_length_and_hashes(content)
    return Channel.parse(content), msgspec.convert(target.custom["earlier"], list[Offer])
