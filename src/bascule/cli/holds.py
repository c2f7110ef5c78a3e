"""A running server holds what it serves, so that garbage collection leaves it alone."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from bascule.bundle.format import digest_of
from bascule.cli.screen import note
from bascule.core.errors import BasculeError, Conflict, NotFound

if TYPE_CHECKING:
    from bascule.app import Settings
    from bascule.registry import Registry
    from bascule.serving import Service

LASTS_S = 120.0
RENEW_EVERY_S = 30.0


@contextmanager
def holding_served(services: Sequence[Service], settings: Settings) -> Iterator[None]:
    """Hold the bundles of `services` while the block runs; let go at its end.

    A registry that is away is no reason not to serve: it is told once, and tried again.

    Raises:
        Conflict: One of them is being removed at this moment.
    """
    from bascule.app import open_registry

    registry = open_registry(settings)
    digests = sorted({digest_of(service.path) for service in services})
    holder = f"server {socket.gethostname()} {os.getpid()}"
    if not _take(registry, digests, holder):
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(
        target=_renew, args=(registry, digests, holder, ended.wait), name="bascule-holds",
        daemon=True,
    )  # fmt: skip
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(2.0)
        with suppress(BasculeError):  # it ends by itself
            registry.release(digests, holder)


def _take(registry: Registry, digests: Sequence[str], holder: str) -> bool:
    """Whether there is something to renew: folders are served without any registry."""
    try:
        registry.hold(digests, holder, lasts_s=LASTS_S)
    except Conflict:
        raise
    except NotFound:
        return False
    except BasculeError as error:
        note(f"warning: what is served is not held: {error}")
    return True


def _renew(
    registry: Registry, digests: Sequence[str], holder: str, wait: Callable[[float], bool]
) -> None:
    was_away = False
    while not wait(RENEW_EVERY_S):
        try:
            registry.hold(digests, holder, lasts_s=LASTS_S)
            was_away = False
        except BasculeError as error:
            if not was_away:
                note(f"warning: the hold on what is served was not renewed: {error}")
            was_away = True
