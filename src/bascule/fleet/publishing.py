"""A version into a channel: its archive, the differences that lead to it, and what devices read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.core import BasculeError, Conflict, Refused, Scratch, Untrusted, check_name
from bascule.edge import Archive, Channel, Offer, compress, difference, hex_of, pack
from bascule.fleet.repository import CHANNEL, State, TufRepository

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile

    from bascule.catalogue import Catalogue
    from bascule.registry import Registry

_EARLIER = 3
"""Of so many former versions of a channel a difference leads to the next."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a channel says now.

    Attributes:
        channel: Its name.
        version: `late/4`.
        digest: Of its bundle.
        sequence: Of the channel.
        full_bytes: What a device receives that has none of the earlier versions.
        delta_bytes: The same by the version that it has, where a difference is smaller.
    """

    channel: str
    version: str
    digest: str
    sequence: int
    full_bytes: int
    delta_bytes: Mapping[str, int]


def publish(
    registry: Registry, repository: TufRepository, reference: str, channel: str
) -> Published:
    """Have a channel offer a version to its devices; twice is fine.

    Args:
        registry: Has the version, and its rules say whether it may be used.
        repository: Has the channel, or will.
        reference: Of the version.
        channel: Its name; one is made where there is none.

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
    bundle = registry.path(version)  # verified, with the claims of its passports
    with Scratch() as folder:
        offer = Offer(str(version), version.digest)
        work = _Publication(registry, repository, offer, channel, bundle, folder)
        repository.change(work.change)
    return work.published


def record(catalogue: Catalogue, published: Published, *, by: str) -> None:
    """Note in the history what a channel offers."""
    from bascule.catalogue import events

    with catalogue.write() as connection:
        body = {"version": published.version, "sequence": published.sequence}
        subject = events.Subject("channel", published.channel)
        event = events.Event(subject, "channel_published", datetime.now(UTC), by, body=body)
        events.append(connection, event)


@dataclass
class _Publication:
    registry: Registry
    repository: TufRepository
    offer: Offer
    channel: str
    bundle: Path
    folder: Path
    archives: dict[str, Archive] = field(default_factory=dict)
    written: dict[str, TargetFile] = field(default_factory=dict)

    def change(self, state: State) -> set[str] | None:
        """See `TufRepository.change`."""
        now, earlier = _now(self.repository, state, self.channel)
        model = self.offer.version.partition("/")[0]
        if now is not None and now.model != model:
            raise Conflict(f"channel {self.channel} is of {now.model}", hint="choose another name")
        targets = state.roles["targets"].signed.targets
        full = self._bundle(targets)
        deltas = {
            old.version: delta.length
            for old in earlier[:_EARLIER]
            if old.digest != self.offer.digest and (delta := self._delta(targets, old, full))
        }
        is_new = now is None or now.stable != self.offer or now.candidate is not None
        sequence = (now.sequence if now else 0) + is_new
        self.published = Published(
            self.channel, self.offer.version, self.offer.digest, sequence, full.length, deltas
        )
        if not is_new:
            return None
        self._offer(state, Channel(model, self.offer, sequence), earlier)
        return {"targets", CHANNEL + self.channel}

    def say(self, state: State, content: Channel) -> set[str]:
        """Have the channel say this next. Raises `Conflict` where another was sooner."""
        now, earlier = _now(self.repository, state, self.channel)
        if now is None or now.sequence + 1 != content.sequence:
            raise Conflict(f"channel {self.channel} was changed meanwhile", hint="try again")
        targets = state.roles["targets"].signed.targets
        full = self._bundle(targets)
        for old in earlier[:_EARLIER]:
            if old.digest != self.offer.digest:
                self._delta(targets, old, full)
        self._offer(state, content, earlier)
        return {"targets", CHANNEL + self.channel}

    def _offer(self, state: State, channel: Channel, earlier: list[Offer]) -> None:
        role, name = CHANNEL + self.channel, f"channels/{self.channel}.json"
        if not state.keyids(role):
            state.delegate(role, self.repository.keys.new(role))
        versions = [self.offer, *(old for old in earlier if old.digest != self.offer.digest)]
        custom = {"earlier": msgspec.to_builtins(versions[: _EARLIER + 1])}
        file = self.folder / "channel.json"
        file.write_bytes(msgspec.json.encode(channel))
        state.roles[role].signed.targets = {name: self._put(name, file, custom)}

    def _bundle(self, targets: dict[str, TargetFile]) -> TargetFile:
        name = f"bundles/{hex_of(self.offer.digest)}.tar.zst"

        def write(file: Path) -> Mapping[str, Any]:
            archive = self._archive(self.offer.digest, self.bundle)
            compress(archive, file)
            return {
                "digest": self.offer.digest, "archive_sha256": archive.sha256,
                "archive_bytes": archive.size_bytes,
            }  # fmt: skip

        return self._in(targets, name, write)

    def _delta(
        self, targets: dict[str, TargetFile], old: Offer, full: TargetFile
    ) -> TargetFile | None:
        """The difference from a version; None where it saves nothing, or the version is gone."""
        name = f"deltas/{hex_of(old.digest)}-{hex_of(self.offer.digest)}.zst"
        try:
            version = self.registry.resolve(old.version, retired=True)
            before = self._archive(old.digest, self.registry.path_to_look_at(version))
        except BasculeError:
            return targets.get(name)

        def write(file: Path) -> Mapping[str, Any]:
            after = self._archive(self.offer.digest, self.bundle)
            method = difference(before, after, file)
            return {"method": method, "from_sha256": before.sha256}

        delta = self._in(targets, name, write)
        if delta.length < full.length:
            return delta
        del targets[name]
        return None

    def _in(
        self, targets: dict[str, TargetFile], name: str,
        write: Callable[[Path], Mapping[str, Any]],
    ) -> TargetFile:  # fmt: skip
        """A target that is there, or is written now; once, where others are sooner."""
        if name not in targets:
            if name not in self.written:
                file = self.folder / "target"
                self.written[name] = self._put(name, file, write(file))
            targets[name] = self.written[name]
        return targets[name]

    def _put(self, name: str, file: Path, custom: Mapping[str, Any]) -> TargetFile:
        from tuf.api.metadata import TargetFile

        target = TargetFile.from_file(name, str(file), ["sha256"])
        target.unrecognized_fields["custom"] = dict(custom)
        self.repository.place.create(_name_of(target), file)
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
        return _now(repository, repository.read(), name)[0]

    def publish_channel(self, name: str, content: Channel) -> None:
        registry, repository = self.open_registry(), self.open_repository()
        offer = content.stable
        if content.candidate is not None:
            offer = Offer(content.candidate.version, content.candidate.digest)
        bundle = registry.path(registry.resolve(offer.version))
        with Scratch() as folder:
            work = _Publication(registry, repository, offer, name, bundle, folder)
            repository.change(lambda state: work.say(state, content))

    def root(self) -> bytes:
        return self.open_repository().root()


def _now(
    repository: TufRepository, state: State, channel: str
) -> tuple[Channel | None, list[Offer]]:
    """What the channel says, and its versions, the latest first."""
    role, name = state.roles.get(CHANNEL + channel), f"channels/{channel}.json"
    target = role and role.signed.targets.get(name)
    if not target:
        return None, []
    content = repository.place.read(_name_of(target))
    if content is None:
        raise Untrusted(f"{name} is missing from the repository")
    target.verify_length_and_hashes(content)
    return Channel.parse(content), msgspec.convert(target.custom["earlier"], list[Offer])


def _name_of(target: TargetFile) -> str:
    """Where a target lies: its hash is in its name (specification 6.2)."""
    folder, _, name = target.path.rpartition("/")
    return f"targets/{folder}/{target.hashes['sha256']}.{name}"
