"""A running server holds the bundles that it serves, so that garbage collection keeps them."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from bascule.core import BasculeError, NotFound, masked_text

if TYPE_CHECKING:
    from bascule.registry import Registry
    from bascule.serving import ModelSpec

log = logging.getLogger(__name__)

LASTS_S = 120.0
RENEW_EVERY_S = 30.0
LOADING_LASTS_S = 300.0
"""For a version that is being loaded, which is then renewed with the others."""
_LETTING_GO_S = 2.0


@contextmanager
def holding_served(
    served: Callable[[], Sequence[ModelSpec]],
    open_registry: Callable[[], Registry],
    *,
    server_pid: int,
    after: threading.Event,
) -> Iterator[Callable[[ModelSpec], None]]:
    """Hold the bundles that are served while the block runs, on a thread; let go at its end.

    Serving goes on while the registry is unreachable: that is logged once, and tried again.

    Args:
        served: The versions that are served now; they may change.
        open_registry: Opens the registry.
        after: Set once opening the registry delays nothing else; holding begins then.
        server_pid: The supervisor's, so that the next control process renews the same holds.

    Yields:
        A function that holds the bundle of a version that is about to be loaded.
    """
    ended = threading.Event()
    holds = _Holds(served, open_registry, server_pid)

    def keep() -> None:
        after.wait()
        holds.keep(ended.wait)

    thread = threading.Thread(target=keep, name="bascule-holds", daemon=True)
    thread.start()
    try:
        yield holds.take
    finally:
        ended.set()
        thread.join(_LETTING_GO_S)


class _Holds:
    def __init__(
        self,
        served: Callable[[], Sequence[ModelSpec]],
        open_registry: Callable[[], Registry],
        server_pid: int,
    ) -> None:
        self._served = served
        self._registry = open_registry
        self._holder = f"server {socket.gethostname()} {server_pid}"
        self._held: set[str] = set()
        self._has_warned = False

    def take(self, service: ModelSpec) -> None:
        """Hold a version of the registry before it is loaded; see `Registry.hold`."""
        from bascule.bundle.disk import digest_of

        self._registry().hold([digest_of(service.path)], self._holder, lasts_s=LOADING_LASTS_S)

    def keep(self, wait: Callable[[float], bool]) -> None:
        """Renew the holds until `wait` returns true, then release them."""
        registry: Registry | None = None
        while True:
            try:
                registry = registry or self._registry()
                self._renew(registry)
                self._has_warned = False
            except NotFound:
                registry = None  # there may be one later
            except Exception as error:
                # Any failure may be temporary, and a bundle without a hold may be removed.
                self._warn(error)
            if wait(RENEW_EVERY_S):
                break
        if registry is not None:
            with suppress(BasculeError, OSError):  # it ends by itself
                registry.release(sorted(self._held), self._holder)

    def _renew(self, registry: Registry) -> None:
        from bascule.bundle.disk import digest_of

        digests = set()
        for service in self._served():
            with suppress(NotFound):  # a folder that was deleted is held by no registry
                digests.add(digest_of(service.path))
        registry.hold(sorted(digests), self._holder, lasts_s=LASTS_S)
        before, self._held = self._held, digests
        if before - digests:
            registry.release(sorted(before - digests), self._holder)

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            log.warning(
                "the served bundles are not held by the registry: %s", masked_text(str(error))
            )
        self._has_warned = True
