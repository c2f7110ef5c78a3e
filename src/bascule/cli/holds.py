"""A running server holds what it serves, so that garbage collection leaves it alone."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from bascule.cli.screen import note
from bascule.core.errors import BasculeError, NotFound

if TYPE_CHECKING:
    from bascule.app import Settings
    from bascule.registry import Registry
    from bascule.serving import Service

LASTS_S = 120.0
RENEW_EVERY_S = 30.0
_LETTING_GO_S = 2.0


@contextmanager
def holding_served(services: Sequence[Service], settings: Settings) -> Iterator[None]:
    """Hold the bundles of `services` while the block runs, on a thread; let go at its end.

    A registry that is away is no reason not to serve: that is told once, and tried again.
    """
    ended = threading.Event()
    thread = threading.Thread(
        target=_hold, args=(services, settings, ended.wait), name="bascule-holds", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_LETTING_GO_S)


def _hold(services: Sequence[Service], settings: Settings, wait: Callable[[float], bool]) -> None:
    from bascule.app import open_registry
    from bascule.bundle.format import digest_of

    holder = f"server {socket.gethostname()} {os.getpid()}"
    try:
        registry = open_registry(settings)
        digests = sorted({digest_of(service.path) for service in services})
    except BasculeError as error:
        note(f"warning: what is served is not held: {error}")
        return
    if _renew(registry, digests, holder, wait):
        with suppress(BasculeError):  # it ends by itself
            registry.release(digests, holder)


def _renew(
    registry: Registry, digests: Sequence[str], holder: str, wait: Callable[[float], bool]
) -> bool:
    """Hold until `wait` says that it is the end; False where there is no registry to hold in."""
    was_told = False
    while True:
        try:
            registry.hold(digests, holder, lasts_s=LASTS_S)
            was_told = False
        except NotFound:
            return False
        except BasculeError as error:
            if not was_told:
                note(f"warning: what is served is not held: {error}")
            was_told = True
        if wait(RENEW_EVERY_S):
            return True
