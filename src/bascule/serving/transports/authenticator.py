"""Who may ask what: keys, as every worker knows them.

The control process writes the keys (hashes, no secrets) into a file that the workers share,
whenever they have changed; each worker looks at the file a few times a second. So a key that is
revoked opens nothing a second later, in any worker, and those that expire do so by the clock.

A few times a second the control process also says that the keys hold: it has read them just now, or
the catalogue is away and they were read no longer ago than `security.keys_stale_s`. Where it has
not said so for `KEYS_SILENT_S`, no key opens anything until it does. A control process that dies or
hangs is replaced within 3 s, and the next one goes on with the keys in the file, as old as they
are; so `KEYS_SILENT_S` is reached only where no control process can be started, or none can read or
write.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bascule.core import BasculeError, Refused, Unavailable
from bascule.security import OPEN_ACTIONS, Action, Key, KnownKeys, not_allowed

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
"""How often a worker looks at the file, and the control process at the store: 0.4 s in all."""

KEYS_SILENT_S = 5.0
"""After so long without word from the control process, the keys are not taken to hold."""

_MAX_KNOWN = 4096
_FRESH_S, _TELL_EVERY_S = 2.0, 60.0


class Authenticator:
    """Lets callers in, in one process. One comparison of bytes for a caller who was here before."""

    def __init__(
        self,
        file: Path,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        held_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Read the keys.

        Args:
            file: Where they are.
            now: The time by which they expire.
            held_ns: When the control process last said that they hold, by the monotonic clock.
        """
        self._file = file
        self._descriptor = os.open(file, os.O_RDONLY)
        self._now = now
        self._held_ns = held_ns
        self.is_open = True
        self._looked_ns = time.monotonic_ns()
        self._told_ns = 0
        self._seen: tuple[int, int, int] | None = None
        self._ring = KnownKeys(())
        self._known: dict[bytes, tuple[Key, set[tuple[Action, str]]]] = {}
        self.look()

    def look(self) -> None:
        """Read the keys again if the file has changed, and look whether they hold."""
        now_ns = time.monotonic_ns()
        try:
            self._look_at_keys()
            self._looked_ns = now_ns
        except (OSError, ValueError, KeyError, BasculeError):
            if self._looked_ns > self._told_ns:
                log.exception("the keys cannot be read; the last ones stay for %g s", KEYS_SILENT_S)
                self._told_ns = now_ns
        is_open = now_ns - min(self._looked_ns, self._held_ns()) < KEYS_SILENT_S * 1e9
        if is_open is not self.is_open:
            self.is_open, self._known = is_open, {}
            log.warning("the keys %s", "hold again" if is_open else "hold no more: all are refused")

    def _look_at_keys(self) -> None:
        there = os.stat(self._file)
        seen = (there.st_ino, there.st_mtime_ns, there.st_size)
        if seen != self._seen:
            # Opened again only if it is another file: there may be no descriptor for it.
            if there.st_ino != os.fstat(self._descriptor).st_ino:
                os.close(self._descriptor)
                self._descriptor = os.open(self._file, os.O_RDONLY)
            content = os.pread(self._descriptor, there.st_size, 0)
            ring = KnownKeys(map(Key.from_json, _parse(content)))
            self._ring, self._seen, self._known = ring, seen, {}

    def check(self, authorization: bytes | None, action: Action, model: str) -> str:
        """The id of a caller's key, if the caller may do something; empty where no key is needed.

        Args:
            authorization: The header of that name, or the metadata of a gRPC call.
            action: What the route does.
            model: To which model; empty for none.

        Raises:
            Unauthenticated: No key, or none that is live.
            Refused: The key does not allow it.
        """
        if action in OPEN_ACTIONS:
            return ""
        known = self._known.get(authorization or b"")
        if known is None:
            known = self._identify(authorization)
        key, allowed = known
        if key.expires_at is not None and key.state(self._now()) != "live":
            self._known.clear()
            self._identify(authorization)
        if (action, model) not in allowed:
            if not key.allows(action, model):
                raise not_allowed(key, action, model)
            allowed.add((action, model))
        return key.id

    @property
    def state(self) -> object:
        """What the answers of `check` follow from: another object once keys have changed."""
        return self._known

    def stays(self, authorization: bytes | None) -> bool:
        """Whether the key was checked, and is live as long as `state` is the same."""
        known = self._known.get(authorization or b"")
        return known is not None and known[0].expires_at is None

    def key_of(self, authorization: bytes | None) -> Key:
        """The caller's key; raises `Unauthenticated`."""
        known = self._known.get(authorization or b"") or self._identify(authorization)
        return known[0]

    def name_of_id(self, key_id: str) -> str:
        """The name of the key of this id; empty where there is none."""
        key = self._ring.with_id(key_id)
        return "" if key is None else key.name

    def check_id(self, key_id: str, action: Action, model: str) -> None:
        """Raise `Refused` unless the key of this id is live and allows that."""
        key = self._ring.with_id(key_id)
        is_live = key is not None and key.state(self._now()) == "live"
        if key is None or not is_live or not key.allows(action, model):
            raise Refused(
                f"the key does not allow {action}:{model}",
                hint=f"bascule keys create NAME --allow {action}:{model} makes one that does",
            )

    def check_known(self, authorization: bytes | None) -> None:
        """Raise `Unauthenticated` unless the caller has a key of any kind."""
        if self._known.get(authorization or b"") is None:
            self._identify(authorization)

    def _identify(self, authorization: bytes | None) -> tuple[Key, set[tuple[Action, str]]]:
        if not self.is_open:
            raise Unavailable(
                f"keys cannot be checked: for {KEYS_SILENT_S:g} s or more the server has not "
                "confirmed that they hold",
                hint="retry; the server's log says why",
                retry_after_s=1,
            )
        said = (authorization or b"").decode("latin-1")
        # Read before the keys: another thread's `look` may replace both, and a key that it revokes
        # must not get into the cache that comes with the new keys.
        known = self._known
        key = self._ring.identify(said, now=self._now())
        if len(known) >= _MAX_KNOWN:
            known.clear()
        return known.setdefault(authorization or b"", (key, set()))


class KeysFile:
    """Keeps the shared file as the catalogue has it; the control process's side.

    One thread reads the catalogue, which may take its time. Another says that the keys hold.
    """

    def __init__(
        self,
        descriptor: int,
        keys: Callable[[], Sequence[Key]],
        hold: Callable[[int], None],
        *,
        stale_s: float = 3_600.0,
        written_read_ns: int = 0,
        may_wait: bool = False,
        own: Sequence[Key] = (),
    ) -> None:
        """Nothing is read yet.

        Args:
            descriptor: The shared file, which nothing else writes to.
            keys: Reads the catalogue.
            hold: Tells the workers that the keys hold, and when they were read.
            stale_s: How long they hold where they cannot be read again.
            written_read_ns: When the keys that are in the file were read; 0 if none are.
            may_wait: Whether a server may begin while the catalogue is away: it is not ready, and
                answers no request that needs a key, until the keys are read.
            own: Keys of this process, written after those of the catalogue. An earlier process had
                keys of the same ids.
        """
        self.path = Path(f"/dev/fd/{descriptor}")
        self._descriptor = descriptor
        self._keys = keys
        self._hold = hold
        self._stale_s = stale_s
        self._may_wait = may_wait
        self._own = own
        self._has_keys = False
        self._content = b""
        self._written = b""
        self._read_ns = written_read_ns
        self._is_sound = True
        self._problem = ""
        self._told, self._told_s = "", 0.0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(call,), name=name, daemon=True)
            for call, name in ((self._read, "bascule-keys"), (self._renew, "bascule-keys-hold"))
        ]

    def start(self) -> None:
        """Write the file, then keep it up to date on threads.

        The keys that an earlier process has left in the file are taken over without the catalogue.

        Raises:
            BasculeError: The catalogue cannot be read, and the server may not wait for it: without
                keys it would turn everybody away.
        """
        if not self._take_over():
            try:
                self._take()
            except BasculeError as error:
                if not self._may_wait:
                    raise
                self._content = _of_file([])
                self._problem = str(error)
        self._renew()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads; one that waits for the catalogue ends with the process."""
        self._stopping.set()
        with self._lock:
            pass  # nothing is written from now on, and the file may be closed
        for thread in self._threads:
            if thread.is_alive():
                thread.join(2 * LOOK_EVERY_S)

    def _repeat(self, call: Callable[[], None]) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            try:
                call()
            except Exception as error:
                # No failure may end it: the workers would refuse every key from then on.
                self._problem, self._is_sound = repr(error), False

    def _read(self) -> None:
        try:
            self._take()
        except BasculeError as error:
            # Where this process lacks descriptors, the catalogue is not what is away.
            os.close(os.dup(self._descriptor))
            self._problem = str(error)
        self._renew(again=True)

    def _take_over(self) -> bool:
        """Whether an earlier process has left keys in the file."""
        if not self._read_ns:
            return False
        content = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        try:
            found = _parse(content)
        except ValueError:  # empty, or its writer was killed while it wrote
            return False
        own = {key.id for key in self._own}
        self._has_keys = any(one["id"] not in own for one in found)
        self._content = self._written = content
        self._problem = "the catalogue does not answer"
        return True

    def _take(self) -> None:
        read_ns = time.monotonic_ns()
        keys = self._keys()
        if self._has_keys and not keys:  # they are never removed, not even when they are revoked
            raise Unavailable("the catalogue of the keys is gone", hint="start the server again")
        self._has_keys = bool(keys)
        self._content = _of_file([*keys, *self._own])
        self._read_ns = read_ns
        self._problem = "the catalogue does not answer"

    def _renew(self, *, again: bool = False) -> None:
        """Write what was read, and say that it holds unless it is too old.

        After a failure that is not the catalogue's, only `again` once that was read.
        """
        with self._lock:
            if self._stopping.is_set():
                return
            if self._is_sound or again:
                if self._content != self._written:
                    self._written = b""
                    os.pwrite(self._descriptor, self._content, 0)
                    os.ftruncate(self._descriptor, len(self._content))
                    self._written = self._content
                self._is_sound = True
            age_s = (time.monotonic_ns() - self._read_ns) / 1e9
            holds = self._is_sound and self._read_ns > 0 and age_s < self._stale_s
            if holds:
                self._hold(self._read_ns)
            self._tell("hold" if holds else "are refused", age_s)

    def _tell(self, becomes: str, age_s: float) -> None:
        """Log a problem when it begins, when it grows and once a minute, and its end."""
        now_s = time.monotonic()
        is_fresh = becomes == "hold" and age_s < _FRESH_S
        if is_fresh and self._told:
            log.warning("keys are read again")
            self._told = ""
        elif not is_fresh and (becomes != self._told or now_s - self._told_s > _TELL_EVERY_S):
            read = f"were read {age_s:.0f} s ago" if self._read_ns else "were never read"
            log.error("keys %s (%s) and %s", read, self._problem, becomes)
            self._told, self._told_s = becomes, now_s


def _of_file(keys: Sequence[Key]) -> bytes:
    text = json.dumps([key.to_json() for key in keys]).encode()
    return text + b"\n" + hashlib.sha256(text).hexdigest().encode()


def _parse(content: bytes) -> list[dict[str, Any]]:
    """The keys in a file, which may be read while it is written."""
    text, _, digest = content.partition(b"\n")
    if digest and digest.decode() != hashlib.sha256(text).hexdigest():
        raise ValueError("the file of the keys is being written, or damaged")
    found: list[dict[str, Any]] = json.loads(text)
    return found
