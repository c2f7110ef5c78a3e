"""Rolls versions out to devices: one control process, by a lease, looks at what they report.

Each one signs anew what devices are offered, and deletes old reports.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bascule.control.loops.turning import turning
from bascule.core import BasculeError, Conflict, holder_name, masked_text

if TYPE_CHECKING:
    from bascule.catalogue import Leadership
    from bascule.fleet import Fleet

log = logging.getLogger(__name__)

_EVERY_S, _LEASE_S = 10.0, 60.0
_UPKEEP_EVERY_S = 3_600.0
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)


def rolling_out(
    open_fleet: Callable[[], Fleet] | None, home: Path, *, after: threading.Event
) -> AbstractContextManager[None]:
    """Look at the rollouts over devices, and copy their profiles, while the block runs."""
    if open_fleet is None:
        return nullcontext()

    def run(ended: threading.Event) -> None:
        from bascule.catalogue import Leadership, Leases

        fleet = open_fleet()
        leadership = Leadership(Leases(fleet.catalogue), "devices", holder_name(), _LEASE_S)
        upkeep_at_s, copied_to = time.monotonic(), _FIRST
        try:
            while not ended.wait(_EVERY_S):
                turn(fleet, leadership)
                copied_to = fleet.copy_windows(home, copied_to)
                if time.monotonic() >= upkeep_at_s:
                    keep_up(fleet)
                    copied_to = _FIRST  # an erasure changes old ones
                    upkeep_at_s = time.monotonic() + _UPKEEP_EVERY_S
        finally:
            leadership.release()

    return turning("rollouts to devices", run, after=after, pause_s=_EVERY_S)


def keep_up(fleet: Fleet) -> None:
    """What is due once an hour: in each process, of which another may lack the keys."""
    fleet.forget()
    try:
        with suppress(Conflict):  # signed meanwhile by another process
            fleet.refresh()
    except BasculeError as problem:
        log.warning("the repository of devices was not signed: %s", masked_text(str(problem)))


def turn(fleet: Fleet, leadership: Leadership) -> None:
    """One look at each rollout that has not ended; what fails for one stays with that one."""
    active = fleet.rollouts(active=True)
    if not active or (lease := leadership.keep()) is None:
        return
    for stored in active:
        try:
            with suppress(Conflict):  # decided on meanwhile: looked at again in the next turn
                fleet.advance(stored, lease)
        except BasculeError as problem:
            log.warning("rollout %s waits: %s", stored.id, masked_text(str(problem)))
