"""Holds the bundles of a running process, so that garbage collection leaves them alone.

`holding` decides when they may go, and is pure; this renews the holds on a thread.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bascule.core.errors import BasculeError, NotFound

if TYPE_CHECKING:
    from bascule.registry.registry import Registry

log = logging.getLogger(__name__)

LASTS_S = 120.0
RENEW_EVERY_S = 30.0
LOADING_LASTS_S = 300.0
"""For a version that is being loaded, which is then renewed with the others."""
_LETTING_GO_S = 2.0


@contextmanager
def holding(
    used: Callable[[], Iterable[Path]], open_registry: Callable[[], Registry]
) -> Iterator[Callable[[Path], None]]:
    """Hold the bundles that are used while the block runs, on a thread; let go at its end.

    A registry that cannot be reached is logged once and tried again; the block goes on.

    Args:
        used: The folders of the bundles in use now; they may change.
        open_registry: Opens the registry; called again after a failure.

    Yields:
        A function that holds the bundle in a folder that is about to be loaded.
    """
    ended = threading.Event()
    holds = _Holds(used, open_registry)
    thread = threading.Thread(
        target=holds.keep, args=(ended.wait,), name="bascule-holds", daemon=True
    )
    thread.start()
    try:
        yield holds.take
    finally:
        ended.set()
        thread.join(_LETTING_GO_S)


class _Holds:
    def __init__(
        self, used: Callable[[], Iterable[Path]], open_registry: Callable[[], Registry]
    ) -> None:
        self._used = used
        self._open_registry = open_registry
        self._holder = f"server {socket.gethostname()} {os.getpid()}"
        self._held: set[str] = set()
        self._was_told = False

    def take(self, folder: Path) -> None:
        """Before it is loaded: what is being removed at this moment must not be."""
        from bascule.bundle.disk.format import digest_of

        with suppress(NotFound):  # no registry, or a folder that loading will speak of
            registry = self._open_registry()
            registry.hold([digest_of(folder)], self._holder, lasts_s=LOADING_LASTS_S)

    def keep(self, wait: Callable[[float], bool]) -> None:
        """Hold until `wait` says that it is the end."""
        registry: Registry | None = None
        while True:
            try:
                registry = registry or self._open_registry()
                self._renew(registry)
                self._was_told = False
            except NotFound:
                return  # there is no registry to hold in
            except Exception as error:
                # Whatever it is may pass, and what is not held may be removed.
                self._warn(error)
            if wait(RENEW_EVERY_S):
                break
        if registry is not None:
            with suppress(BasculeError, OSError):  # it ends by itself
                registry.release(sorted(self._held), self._holder)

    def _renew(self, registry: Registry) -> None:
        from bascule.bundle.disk.format import digest_of

        digests = set(map(digest_of, self._used()))
        registry.hold(sorted(digests), self._holder, lasts_s=LASTS_S)
        before, self._held = self._held, digests
        if before - digests:
            registry.release(sorted(before - digests), self._holder)

    def _warn(self, error: Exception) -> None:
        if not self._was_told:
            log.warning("what is served is not held: %s", error)
        self._was_told = True
