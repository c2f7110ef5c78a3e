"""Who may ask what: keys, as every worker knows them.

The supervisor writes the keys (hashes, no secrets) into a file that the workers share, whenever
they have changed; each worker looks at the file a few times a second. So a key that is revoked
opens nothing a second later, in any worker, and a store that is away changes nothing: the last
keys stay, and those that expire do so by the clock.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from bascule.core.errors import BasculeError
from bascule.security.keys import OPEN_ACTIONS, Action, Key, Keyring, not_allowed

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
"""How often a worker looks at the file, and the supervisor at the store: 0.4 s in all."""

_AUTHORIZATION = b"authorization"
_MAX_KNOWN = 4096


class Guard:
    """Lets callers in, in one process. One comparison of bytes for a caller who was here before."""

    def __init__(self, file: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)):
        self._file = file
        self._now = now
        self._seen: tuple[int, int] | None = None
        self._ring = Keyring(())
        self._known: dict[bytes, tuple[Key, set[tuple[Action, str]]]] = {}
        self.look()

    def look(self) -> None:
        """Read the keys again if the file has changed."""
        try:
            there = os.stat(self._file)
            seen = (there.st_ino, there.st_mtime_ns)
            if seen == self._seen:
                return
            ring = Keyring(map(Key.from_json, json.loads(self._file.read_bytes())))
        except (OSError, ValueError, KeyError, BasculeError):
            log.exception("the keys cannot be read; the last ones stay")
            return
        self._ring, self._seen, self._known = ring, seen, {}

    def check(self, authorization: bytes | None, action: Action, model: str) -> None:
        """Return if a caller may do something.

        Args:
            authorization: The header of that name, or the metadata of a gRPC call.
            action: What the route does.
            model: To which model; empty for none.

        Raises:
            Unauthenticated: No key, or none that is live.
            Refused: The key does not allow it.
        """
        if action in OPEN_ACTIONS:
            return
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

    def check_known(self, authorization: bytes | None) -> None:
        """Raise `Unauthenticated` unless the caller has a key of any kind."""
        if self._known.get(authorization or b"") is None:
            self._identify(authorization)

    def _identify(self, authorization: bytes | None) -> tuple[Key, set[tuple[Action, str]]]:
        said = (authorization or b"").decode("latin-1")
        key = self._ring.identify(said, now=self._now())
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        return self._known.setdefault(authorization or b"", (key, set()))


class KeysFile:
    """Keeps the shared file as the store has it; the supervisor's side.

    The file is alone in its folder, which goes with it.
    """

    def __init__(self, file: Path, keys: Callable[[], Sequence[Key]]) -> None:
        self.file = file
        self._keys = keys
        self._written: bytes | None = None
        self._was_told = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="bascule-keys", daemon=True)

    def start(self) -> None:
        """Write the file, then keep it up to date on a thread.

        Raises:
            BasculeError: The store cannot be read. A server that begins without keys would turn
                everybody away, so it does not begin.
        """
        self._write()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and remove the file and its folder. Safe to call twice."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self.file.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            self.file.parent.rmdir()

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            try:
                self._write()
                self._was_told = False
            except BasculeError as error:
                if not self._was_told:
                    log.warning("keys cannot be read, and stay as they are: %s", error)
                self._was_told = True
            except OSError:
                log.exception("keys cannot be written")

    def _write(self) -> None:
        content = json.dumps([key.to_json() for key in self._keys()]).encode()
        if content == self._written:
            return
        draft = self.file.with_suffix(".new")
        # Hashes open nothing, but they are nobody else's business either.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(draft, self.file)
        self._written = content
