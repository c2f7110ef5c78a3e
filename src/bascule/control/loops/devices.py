"""Rolls versions out to devices: one control process, by a lease, looks at what they report."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING

from bascule.control.loops.turning import turning
from bascule.core import BasculeError, Conflict, Unavailable, holder_name, masked_text

if TYPE_CHECKING:
    from bascule.catalogue import Leadership
    from bascule.fleet import Fleet

log = logging.getLogger(__name__)

_EVERY_S, _LEASE_S = 10.0, 60.0
_FORGET_TURNS = 360


def rolling_out(
    open_fleet: Callable[[], Fleet] | None, *, after: threading.Event
) -> AbstractContextManager[None]:
    """Look at the rollouts over devices while the block runs, on a thread."""
    if open_fleet is None:
        return nullcontext()

    def run(ended: threading.Event) -> None:
        from bascule.catalogue import Leadership, Leases

        fleet = open_fleet()
        leadership = Leadership(Leases(fleet.catalogue), "devices", holder_name(), _LEASE_S)
        turns = 0
        try:
            while not ended.wait(_EVERY_S):
                turn(fleet, leadership)
                if turns % _FORGET_TURNS == 0 and leadership.lease is not None:
                    fleet.forget()
                turns += 1
        finally:
            leadership.release()

    return turning("rollouts to devices", run, after=after, pause_s=_EVERY_S)


def turn(fleet: Fleet, leadership: Leadership) -> None:
    """One look at each rollout that has not ended; what fails for one stays with that one."""
    active = fleet.rollouts(active=True)
    lease = leadership.keep() if active else leadership.lease
    for stored in active if lease is not None else ():
        try:
            with suppress(Conflict):  # decided on meanwhile: looked at again in the next turn
                fleet.advance(stored, lease)
        except Unavailable:
            raise
        except BasculeError as problem:
            log.warning("rollout %s: %s", stored.id, masked_text(str(problem)))
