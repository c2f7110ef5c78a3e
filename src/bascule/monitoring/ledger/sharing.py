"""Adds what a host has recorded to the ledger that hosts share, and merges it as their leader.

A segment is uploaded, then named in the host's part, then dropped from the home's manifest. A
scribe that dies in between finds it named when it starts, and drops it: a reader of the home
counts a segment that the host's part names once. The leader merges segments of all hosts and
applies the retention; the lease spares work that two leaders would do twice, and the condition on
its part refuses the second.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec import structs

from bascule.catalogue import Leadership, Leases
from bascule.core import BasculeError, Conflict, NotFound
from bascule.monitoring.ledger.compaction import to_merge, write_merged
from bascule.monitoring.ledger.deletion import Deletions, carry_out
from bascule.monitoring.ledger.manifest import LEDGER, Deleted, Request, Segment
from bascule.monitoring.ledger.outcome_upkeep import LINGER_S, OutcomeUpkeep
from bascule.monitoring.ledger.outcomes import Outcomes
from bascule.monitoring.ledger.query import Ledger
from bascule.monitoring.ledger.scribe import FOR_EVER, Retention, Scribe, kept_segments
from bascule.monitoring.ledger.shared import MERGED, HostPart, Merged, SharedStore, View
from bascule.monitoring.ledger.subjects import put_tombstone
from bascule.monitoring.ledger.trimming import Trimming

log = logging.getLogger(__name__)

_LEASE = "ledger"
_LEASE_S = 60.0
_EVERY_S = 10.0
_BEAT_S = 30.0
_AWAY_S = 120.0
"""A host that has not written for so long is away: deletions do not wait for it."""
_SWEEP_EVERY_S = 3_600.0
_AT_ONCE = 100
_WARN_EVERY_S = 60.0


class Leader:
    """Asks whether this host leads: by a lease in the catalogue, which all hosts share."""

    def __init__(self, leases: Leases, holder: str) -> None:
        """Ask nothing yet.

        Args:
            leases: Of the catalogue.
            holder: The name of this host.
        """
        self._leadership = Leadership(leases, _LEASE, holder, _LEASE_S)

    def __call__(self) -> bool:
        """Take the lease, or renew it; True where there is no catalogue to have one in."""
        try:
            return self._leadership.keep() is not None
        except NotFound:
            return True


class Sharing:
    """The chore of a scribe that keeps the shared ledger up to date."""

    def __init__(
        self,
        store: SharedStore,
        *,
        retention: Retention = FOR_EVER,
        may_lead: Callable[[], bool] = lambda: True,
        every_s: float = _EVERY_S,
        trimming: Trimming | None = None,
    ) -> None:
        """Read and write nothing yet.

        Args:
            store: Where.
            retention: Of all hosts together.
            may_lead: Whether this host has the lease of the leader, or no one needs one.
            every_s: How long a round is put off after the last.
            trimming: Takes columns out of segments whose retention is over.
        """
        self._trimming = trimming
        self._store = store
        self._retention = retention
        self._may_lead = may_lead
        self._every_s = every_s
        self._upkeep = OutcomeUpkeep(store)
        self._deletions = Deletions(store)
        self._next_s = self._warned_s = self._sweep_s = 0.0

    def work(self, scribe: Scribe, stopping: threading.Event) -> None:
        now_s = time.monotonic()
        if now_s < self._next_s and not stopping.is_set():
            return
        self._next_s = now_s + self._every_s
        try:
            while self.add(scribe):
                pass
            view = self._store.view()
            self._adopt(scribe, view)  # before it leads: a deletion is over for this home, too
            if not stopping.is_set() and self._may_lead():
                view = self.lead(view)
                self._upkeep.work(scribe, stopping)
            self._forget_copies(view)
        except BasculeError as error:  # the spool goes on being taken in, and is added later
            if now_s - self._warned_s >= _WARN_EVERY_S or not self._warned_s:
                self._warned_s = now_s
                log.warning("the ledger is not shared now: %s", error)

    def add(self, scribe: Scribe) -> bool:
        """Move segments of the home to the shared ledger; whether there are more."""
        host = host_of(scribe.home)
        name = f"hosts/{host}.json"
        found, tag = self._store.read(name, HostPart)
        part = found or HostPart(host=host)
        merged, _ = self._store.read(MERGED, Merged)
        gone = set(merged.gone) if merged is not None else set()
        self._drop(scribe, {one.file for one in part.segments} | gone)
        for tombstone in self._store.tombstones():
            put_tombstone(scribe.home, tombstone)
        for asked in self._store.requests():
            if asked.id not in scribe.manifest.deletions:
                self._deletions.carry_out(scribe, asked)
        self._deletions.erase_late(scribe.home)
        Outcomes(scribe.home).fold()
        Outcomes(scribe.home).forget_merged(older_than_s=LINGER_S)
        added = [
            self._store.put_segment(one, scribe.home / LEDGER / one.file)
            for one in scribe.manifest.segments[:_AT_ONCE]
        ]
        self._store.share_outcomes()
        profiles = [one for one in scribe.manifest.profiles if "@" not in one.file]
        self._store.share_profiles(host, [one for one in profiles if one not in part.profiles])
        made = structs.replace(
            part,
            segments=[one for one in part.segments if one.file not in gone] + added,
            profiles=profiles, gaps=scribe.manifest.gaps, deletions=scribe.manifest.deletions,
        )  # fmt: skip
        if made == part and age_s(part) < _BEAT_S:
            return False
        made.sequence, made.written_at = part.sequence + 1, datetime.now(UTC).isoformat()
        self._store.write(name, made, tag)
        self._store.remove_profiles(host, [one for one in part.profiles if one not in profiles])
        self._drop(scribe, {one.file for one in added})
        return bool(scribe.manifest.segments)

    def lead(self, view: View) -> View:
        """Merge and remove what is due in the shared ledger, each merge one commit."""
        view = self._retire(view)
        for asked in self._store.requests():
            if asked.id not in view.merged.deletions and is_carried_out(asked, view):
                view = self._delete(view, asked)
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        if self._trimming is not None:
            view = self._trim(view, self._trimming)
        for group in to_merge(view.segments(), today):
            view = self.replace(view, group, [self._merged(group)])
        if time.monotonic() >= self._sweep_s:
            self._sweep_s = time.monotonic() + _SWEEP_EVERY_S
            self._store.sweep()
        return view

    def _trim(self, view: View, trimming: Trimming) -> View:
        for segment in view.segments():
            self._store.fetch(segment)
            if trimmed := trimming.trim(self._store.home, segment, self._store.cache):
                added = self._store.put_segment(trimmed, self._store.cache / trimmed.file)
                view = self.replace(view, [segment], [added])
        return view

    def replace(
        self,
        view: View,
        removed: Sequence[Segment],
        added: Sequence[Segment],
        deletions: Mapping[str, Deleted] | None = None,
    ) -> View:
        """Commit segments in place of others, and remove the files of those that no host names.

        Raises:
            Conflict: Another leader was faster. What was uploaded stays until it is swept: an
                answer that was lost may have hidden that the commit was made.
        """
        files = {one.file for one in removed}
        if not files <= {one.file for one in view.segments()}:
            raise Conflict("another leader has merged the ledger", hint="try again")
        named = {one.file for host in view.hosts.values() for one in host.segments}
        gone = sorted((files | set(view.merged.gone)) & named)
        staying = [one for one in view.merged.segments if one.file not in files]
        made = self._store.change_merged(
            view.merged, segments=[*staying, *added], gone=gone,
            deletions={**view.merged.deletions, **(deletions or {})},
        )  # fmt: skip
        self._store.remove([f"segments/{file}" for file in files])
        return View(made, view.hosts)

    def _retire(self, view: View) -> View:
        segments = view.segments()
        kept = kept_segments(segments, self._retention, datetime.now(UTC))
        named = {one.file for host in view.hosts.values() for one in host.segments}
        if len(kept) == len(segments) and set(view.merged.gone) <= named:
            return view
        staying = {one.file for one in kept}
        return self.replace(view, [one for one in segments if one.file not in staying], [])

    def _delete(self, view: View, asked: Request) -> View:
        """Carry out a deletion on the segments of all hosts."""
        ledger, cache = Ledger(self._store.home, is_private=True), self._store.cache
        segments = [one for one in view.segments() if one.model == asked.model]
        removed, made, done = carry_out(ledger, asked, segments, cache, self._store)
        added = [self._store.put_segment(one, cache / one.file) for one in made]
        # Outcomes that were replaced have changed the leader's part.
        return self.replace(self._store.view(), removed, added, {asked.id: done})

    def _adopt(self, scribe: Scribe, view: View) -> None:
        """Name the windows of other hosts in the home's manifest, for readers of profiles."""
        mine = host_of(scribe.home)
        others = [
            self._store.fetch_profile(host, one)
            for host, part in view.hosts.items()
            if host != mine
            for one in part.profiles
        ]
        if others != [one for one in scribe.manifest.profiles if "@" in one.file]:
            scribe.replace([], [], profiles=others)

    def _merged(self, group: list[Segment]) -> Segment:
        first, token = group[0], secrets.token_hex(4)
        made = write_merged(
            self._store.home, [self._store.fetch(one) for one in group],
            first.model, first.version, first.day, f"{time.time_ns():020d}-merged-{token}.parquet",
            folder=self._store.cache,
        )  # fmt: skip
        assert made is not None, "segments have rows"
        return self._store.put_segment(made, self._store.cache / made.file)

    def _forget_copies(self, view: View) -> None:
        """Remove copies of segments that are gone; a reader in flight downloads others."""
        named = {one.file for one in view.segments()}
        for file in self._store.cache.glob("*/*/*/[!.]*.parquet"):
            if str(file.relative_to(self._store.cache)) not in named:
                file.unlink(missing_ok=True)

    @staticmethod
    def _drop(scribe: Scribe, files: set[str]) -> None:
        if dropped := [one for one in scribe.manifest.segments if one.file in files]:
            scribe.replace(dropped, [])


def age_s(part: HostPart) -> float:
    """Since a host has last written its part."""
    if not part.written_at:
        return float("inf")
    return (datetime.now(UTC) - datetime.fromisoformat(part.written_at)).total_seconds()


def is_carried_out(asked: Request, view: View) -> bool:
    """Whether every host that is not away has carried out a deletion on its own rows."""
    hosts = view.hosts.values()
    return all(asked.id in one.deletions or age_s(one) > _AWAY_S for one in hosts)


def host_of(home: Path) -> str:
    """The name of this home among those that share a ledger; drawn once."""
    file = home / LEDGER / "host"
    if not file.exists():
        draft = file.with_name("host.new")
        draft.write_text(f"{socket.gethostname()}-{secrets.token_hex(4)}")
        draft.rename(file)
    return file.read_text()
