"""The ledger of several hosts, in the registry's object store.

    ledger/hosts/HOST.json      what one host has added: segments, gaps; written by its scribe alone
    ledger/merged.json          what the leader made of them: merged segments, and what is gone
    ledger/segments/...         the files that these name, each written once
    ledger/outcomes/MODEL/...   imports of outcomes, as in a home
    ledger/deletions/ID.json    deletions that each host carries out on what it has not added yet

The ledger consists of the segments that hosts name, without those that the leader calls gone,
and of those that it names itself. Both kinds of JSON are replaced on the condition that no one
else has: of two writers one fails. Host and leader may be killed anywhere.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec

from bascule.core import Conflict, Unavailable, Untrusted
from bascule.monitoring.ledger.manifest import LEDGER, Deleted, Gap, Request, Segment
from bascule.monitoring.ledger.outcome_spool import OUTCOMES, key_of
from bascule.monitoring.ledger.subjects import TOMBSTONES, Tombstone
from bascule.monitoring.profiles import ProfileFile
from bascule.places import bounded_stream, connect, explaining

MERGED = "merged.json"
_CONNECTED = "shared"
_DELETIONS = "deletions"
_MAX_GONE = 10_000
CATALOGUE_VARIABLE = "BASCULE_LEDGER_CATALOGUE"
"""Tells the scribe where the lease of the leader is; an address may hold a password."""
DAYS_KEPT_VARIABLE = "BASCULE_LEDGER_DAYS_KEPT"
"""Tells the scribe how long columns are kept, as JSON."""
_TRIES = 5
_SWEEP_AFTER = timedelta(days=1)
_REQUESTS_FOR = timedelta(days=90)
Kind = TypeVar("Kind", bound=msgspec.Struct)


class HostPart(msgspec.Struct, kw_only=True):
    """What one host has added.

    Attributes:
        host: Its name, unique among the hosts of the store.
        sequence: Grows with each write.
        written_at: ISO 8601.
        segments: Those that are in the store.
        profiles: Its windows, in the store below `profiles/HOST`.
        gaps: Of its writers.
        deletions: What became of those that it has carried out on its own rows.
    """

    format: int = 1
    host: str
    sequence: int = 0
    written_at: str = ""
    segments: list[Segment] = []
    profiles: list[ProfileFile] = []
    gaps: list[Gap] = []
    deletions: dict[str, Deleted] = {}


class Merged(msgspec.Struct, kw_only=True):
    """What the leader has made of the hosts' segments.

    Attributes:
        sequence: Grows with each write.
        writer: Drawn for each write: tells a retry of the same write from another's.
        segments: In place of those that are gone.
        gone: The files of segments that hosts still name and that count no more.
        deletions: What became of those that are carried out on the segments of all hosts.
        gone_outcomes: Names of files of outcomes that others have replaced.
    """

    format: int = 1
    sequence: int = 0
    writer: str = ""
    segments: list[Segment] = []
    gone: list[str] = []
    deletions: dict[str, Deleted] = {}
    gone_outcomes: list[str] = []


@dataclass(frozen=True, slots=True)
class View:
    """The shared ledger at one moment.

    Attributes:
        merged: The leader's part.
        hosts: By name, what each has added.
    """

    merged: Merged
    hosts: Mapping[str, HostPart]

    def segments(self) -> list[Segment]:
        """Those that count."""
        gone = set(self.merged.gone)
        added = {one.file: one for host in self.hosts.values() for one in host.segments}
        return [one for one in added.values() if one.file not in gone] + self.merged.segments

    def known(self) -> set[str]:
        """The files that hosts have added, gone ones included."""
        added = {one.file for host in self.hosts.values() for one in host.segments}
        return added | set(self.merged.gone)


NO_VIEW = View(Merged(), {})


class SharedStore:
    """The part of a bucket that holds the ledger, as one home uses it."""

    def __init__(self, url: str, home: Path) -> None:
        """Connect to nothing yet.

        Args:
            url: `s3://BUCKET/PREFIX`, that of the registry's objects.
            home: Has copies of shared segments in `cache/ledger`.
        """
        self.url = url
        self.home = home
        self.cache = home / "cache" / LEDGER
        self._requests: dict[str, Request] = {}
        self._buried: set[str] = set()

    @cached_property
    def _store(self) -> Any:
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        return connect(bucket, f"{prefix.strip('/')}/{LEDGER}".lstrip("/"))

    @property
    def _api(self) -> Any:
        import obstore

        return obstore

    def read(self, name: str, kind: type[Kind]) -> tuple[Kind | None, str | None]:
        """A JSON object and its tag; None and None where it is not there."""
        with explaining(self.url):
            try:
                got = self._api.get(self._store, name)
            except FileNotFoundError:
                return None, None
            data = bytes(got.bytes())
        try:
            found = msgspec.json.decode(data, type=kind)
        except msgspec.MsgspecError as error:
            raise Untrusted(f"{name} in {self.url} is not of a ledger: {error}") from None
        if getattr(found, "format", 1) != 1:
            raise Untrusted(
                f"{name} in {self.url} was written by a newer bascule", hint="update bascule"
            )
        return found, got.meta["e_tag"]

    def write(self, name: str, value: msgspec.Struct, tag: str | None) -> str:
        """Replace the object that had this tag, or make it where `tag` is None; its new tag.

        Raises:
            Conflict: Another has written it meanwhile.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        data = msgspec.json.encode(value)
        with explaining(self.url):
            try:
                mode = "create" if tag is None else {"e_tag": tag}
                return str(self._api.put(self._store, name, data, mode=mode)["e_tag"])
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                pass
        # The client repeats a request whose answer was lost: the other may be this one.
        found, found_tag = self.read(name, type(value))
        if found_tag is None or found is None or msgspec.json.encode(found) != data:
            raise Conflict(f"another process has written {name} in {self.url}", hint="try again")
        return found_tag

    def view(self) -> View:
        """The ledger of all hosts; the part of the leader was the same before and after."""
        for _ in range(_TRIES):
            merged, tag = self.read(MERGED, Merged)
            hosts = {}
            for name in self.names("hosts"):
                host, _ = self.read(name, HostPart)
                if host is not None:
                    hosts[host.host] = host
            if self._tag(MERGED) == tag:
                return View(merged or Merged(), hosts)
        raise Unavailable(f"the ledger in {self.url} changes faster than it can be read")

    def change_merged(self, before: Merged, **changes: Any) -> Merged:
        """Commit fields of the leader's part. Raises `Conflict` where `before` is not the last."""
        found, tag = self.read(MERGED, Merged)
        if (found or Merged()).sequence != before.sequence:
            raise Conflict("another leader has merged the ledger", hint="try again")
        made = msgspec.structs.replace(
            before, sequence=before.sequence + 1, writer=secrets.token_hex(8), **changes
        )
        self.write(MERGED, made, tag)
        return made

    def ask(self, asked: Request) -> None:
        """Have every host carry out a deletion."""
        self.write(f"{_DELETIONS}/{asked.id}.json", asked, None)

    def requests(self) -> list[Request]:
        """The deletions that hosts carry out, the oldest first."""
        for name in self.names(_DELETIONS):
            if name not in self._requests:
                found, _ = self.read(name, Request)
                if found is not None:
                    self._requests[name] = found
        return sorted(self._requests.values(), key=lambda one: one.at_s)

    def bury(self, tombstone: Tombstone) -> None:
        """Have every host keep late rows of an erased person out."""
        name = f"{TOMBSTONES}/{tombstone.id}.json"
        self.write(name, tombstone, self.read(name, Tombstone)[1])

    def tombstones(self) -> list[Tombstone]:
        """Those that this process has not read before and that are in force."""
        fresh = [name for name in self.names(TOMBSTONES) if name not in self._buried]
        self._buried.update(fresh)
        read = [self.read(name, Tombstone)[0] for name in fresh]
        return [one for one in read if one is not None and one.until_s > time.time()]

    def names(self, under: str) -> list[str]:
        """Of the objects below a name."""
        with explaining(self.url):
            pages = self._api.list(self._store, under, chunk_size=1_000)
            return sorted(one["path"] for one in bounded_stream(self.url, pages))

    def put_segment(self, segment: Segment, file: Path) -> Segment:
        """Upload it, fine where it is there, and keep a copy; it is the same with its digest."""
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        self._upload(f"segments/{segment.file}", file)
        copy = self.cache / segment.file
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file != copy and not copy.exists():
            copy.hardlink_to(file)
        return msgspec.structs.replace(segment, sha256=digest)

    def fetch(self, segment: Segment) -> Path:
        """The local copy of a segment; downloads it first where there is none.

        Raises:
            Gone: It has been merged: look at a newer view.
            Untrusted: Its bytes are not those that were added.
        """
        copy = self.cache / segment.file
        if not copy.exists():
            self._download(f"segments/{segment.file}", copy, segment.sha256)
        return copy

    def remove(self, names: list[str]) -> None:
        """Remove objects; fine where they are gone."""
        with explaining(self.url):
            for start in range(0, len(names), 1_000):
                self._api.delete(self._store, names[start : start + 1_000])

    def sweep(self) -> None:
        """Remove files that nothing names for a day, which hosts and leaders that died have left.

        Requests of deletions are removed after 90 days: their conditions may name persons.
        """
        self.remove(self._older_than(_DELETIONS, _REQUESTS_FOR))
        old = set(self._older_than("segments", _SWEEP_AFTER))
        view = self.view()
        named = view.known() | {one.file for one in view.segments()}
        self.remove(sorted(old - {f"segments/{file}" for file in named}))

    def _older_than(self, under: str, age: timedelta) -> list[str]:
        before = datetime.now(UTC) - age
        with explaining(self.url):
            pages = self._api.list(self._store, under, chunk_size=1_000)
            return [
                one["path"]
                for one in bounded_stream(self.url, pages)
                if one["last_modified"] < before
            ]

    def share_profiles(self, host: str, profiles: Sequence[ProfileFile]) -> None:
        """Upload the windows of this home."""
        for one in profiles:
            file = self.home / LEDGER / one.file
            self._upload(f"profiles/{host}/{one.file}", file)

    def remove_profiles(self, host: str, profiles: Sequence[ProfileFile]) -> None:
        """Remove windows that newer ones have replaced."""
        self.remove([f"profiles/{host}/{one.file}" for one in profiles])

    def fetch_profile(self, host: str, profile: ProfileFile) -> ProfileFile:
        """Download a window of another host; it, as the manifest of this home names it."""
        path = PurePosixPath(profile.file)
        place = str(path.with_name(f"{path.stem}@{host}{path.suffix}"))
        if not (self.home / LEDGER / place).exists():
            self._download(f"profiles/{host}/{profile.file}", self.home / LEDGER / place, "")
        return msgspec.structs.replace(profile, file=place, host=host)

    def replace_outcomes(self, drafts: Mapping[Path, Path | None]) -> None:
        """Put files in place of files of outcomes, here and on every host.

        Args:
            drafts: By the old file, the new one, which is named as it is to be, in another
                folder; None where nothing is left.
        """
        names = {file: self._outcome_name(file) for file in drafts}
        for file, draft in drafts.items():
            if draft is not None:
                self._upload(self._outcome_name(file.with_name(draft.name)), draft)
        for _ in range(_TRIES):
            before = self.read(MERGED, Merged)[0] or Merged()
            gone = [*before.gone_outcomes, *names.values()][-_MAX_GONE:]
            try:
                self.change_merged(before, gone_outcomes=gone)
                break
            except Conflict:
                continue
        else:
            raise Unavailable(f"the ledger in {self.url} changes faster than it can be written")
        self.remove(list(names.values()))
        for file, draft in drafts.items():
            if draft is not None:
                draft.rename(file.with_name(draft.name))
            file.unlink(missing_ok=True)

    def _outcome_name(self, file: Path) -> str:
        return f"{OUTCOMES}/{file.relative_to(self.home / OUTCOMES)}"

    def share_outcomes(self) -> None:
        """Have every file of outcomes both here and in the store.

        Those that are gone are in neither; those in a merged file go from the store.
        """
        # It loads pyarrow, and the supervisor of a server connects a home.
        from bascule.monitoring.ledger.outcomes import MERGED_SUFFIX, merged_of

        merged, _ = self.read(MERGED, Merged)
        gone = set(merged.gone_outcomes) if merged is not None else set()
        here = {
            f"{OUTCOMES}/{file.relative_to(self.home / OUTCOMES)}"
            for file in (self.home / OUTCOMES).glob("*/[0-9]*.parquet")
        }
        there = set(self.names(OUTCOMES))
        for name in here & gone:
            (self.home / name).unlink(missing_ok=True)
        for name in sorted(there - here - gone):
            self._download(name, self.home / name, "")
        files = [self.home / name for name in (here | there) - gone]
        into = merged_of([one for one in files if one.exists() or MERGED_SUFFIX not in one.name])
        replaced = {self._outcome_name(one) for one in files if (one.parent, key_of(one)) in into}
        for name in sorted(here - there - gone - replaced):
            self._upload(name, self.home / name)
        if there & replaced:
            self.remove(sorted(there & replaced))

    def _upload(self, name: str, file: Path) -> None:
        from obstore.exceptions import AlreadyExistsError

        with explaining(self.url), suppress(AlreadyExistsError):  # a name has the same bytes
            self._api.put(self._store, name, file, mode="create", use_multipart=False)

    def _download(self, name: str, target: Path, sha256: str) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        found = hashlib.sha256()
        with explaining(self.url):
            try:
                got = self._api.get(self._store, name)
            except FileNotFoundError:
                raise Gone(f"{name} is no longer in {self.url}", hint="try again") from None
            try:
                with draft.open("xb") as opened:
                    for chunk in got.stream():
                        found.update(chunk)
                        opened.write(chunk)
                if sha256 and found.hexdigest() != sha256:
                    raise Untrusted(
                        f"{name} in {self.url} was altered: its digest is not the one that its "
                        "host has recorded",
                        file=name, expected=sha256,
                    )  # fmt: skip
                draft.rename(target)
            finally:
                draft.unlink(missing_ok=True)

    def _tag(self, name: str) -> str | None:
        with explaining(self.url):
            try:
                return str(self._api.head(self._store, name)["e_tag"])
            except FileNotFoundError:
                return None


class Gone(Unavailable):
    """A segment has been merged since its name was read."""


def shares(url: str) -> bool:
    """Whether the ledgers of hosts with this `registry.objects` are one."""
    return url.startswith("s3://")


def connect_home(home: Path, url: str) -> SharedStore | None:
    """Note in a home where its ledger is shared; None where it is not."""
    file = home / LEDGER / _CONNECTED
    if not shares(url):
        file.unlink(missing_ok=True)
        return None
    if not file.exists() or file.read_text() != url:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(url)
    return SharedStore(url, home)


def shared_of(home: Path) -> SharedStore | None:
    """Where the ledger of a home is shared, as `connect_home` has noted."""
    try:
        url = (home / LEDGER / _CONNECTED).read_text()
    except OSError:
        return None
    return SharedStore(url, home)
