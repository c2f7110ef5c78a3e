"""Shares the limits of callers with other servers: budgets by reservation, rates by one bucket.

Workers write what callers use into the shared file (`Meters`), and look at what may be used of a
budget: the rows that this thread has reserved in the catalogue. The rules:

- together the servers admit no more than a budget, and a row that is not reserved waits for it;
- what is left of a budget is reserved in ever smaller blocks, and given back when another server
  needs it; so nothing below a budget is refused while the catalogue can be reached, but for what
  calls that run may still use (tokens): a budget that was exhausted is asked for again while
  callers want it;
- while it cannot, what was reserved is used, and then calls are answered 503;
- what a caller spends of its rate on other servers is known here `SHARE_EVERY_S` later: until then
  each server gives it the rate, so the sum is over by at most what it can spend in that time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from random import random
from threading import Event
from typing import TYPE_CHECKING

from bascule.control.loops.turning import turning
from bascule.core import BasculeError, NotFound
from bascule.serving.execution import Meters, meters

if TYPE_CHECKING:
    from bascule.monitoring import Quotas

LOOK_EVERY_S = 0.02
SHARE_EVERY_S = 0.5
THROTTLE_EVERY_S = 5.0
EXHAUSTED_TRIES = 4
"""How often, `SHARE_EVERY_S` apart, rows are asked for before none are left: other servers give
back what they do not use in that time."""
_MOST_RETRIED = 16
"""How many exhausted budgets are asked for again, `SHARE_EVERY_S` apart; drawn where more are."""
_HOT_SHARE = 0.125
"""Of its rate: what a cheaper caller spends stays on this server."""


def sharing_budgets(
    shared: Meters,
    open_quotas: Callable[[], Quotas],
    throttled: Callable[[], Iterable[tuple[str, str]]],
    *,
    after: Event,
) -> AbstractContextManager[None]:
    """Share the limits of callers while the block runs, on a thread; see `Sharing`."""
    return turning("budgets", Sharing(shared, open_quotas, throttled).run, after=after, pause_s=0.2)


@dataclass(slots=True)
class Sharing:
    """One server's part; see the module.

    Attributes:
        shared: What its workers count.
        open_quotas: The sums of all servers; raises `NotFound` without a catalogue.
        throttled: The sections and the counters in them whose callers are slowed down now.
    """

    shared: Meters
    open_quotas: Callable[[], Quotas]
    throttled: Callable[[], Iterable[tuple[str, str]]] = tuple
    _forgotten_day: int = 0
    _spent_since_ns: int = field(default_factory=time.monotonic_ns)
    _tries: dict[str, int] = field(default_factory=dict)
    """How often rows were asked for in vain, by counter."""

    def run(self, ended: Event) -> None:
        """Reserve what workers ask for, and share, until the event is set."""
        share_at_s = throttle_at_s = 0.0
        while not ended.wait(LOOK_EVERY_S):
            now_s = time.monotonic()
            self.reserve(again=now_s >= share_at_s)
            if now_s >= share_at_s:
                share_at_s = now_s + SHARE_EVERY_S
                with suppress(NotFound):  # without a catalogue there is no other server
                    self.share(time.monotonic_ns())
            if now_s >= throttle_at_s:
                throttle_at_s = now_s + THROTTLE_EVERY_S
                self.throttle(time.monotonic_ns())

    def reserve(self, *, again: bool) -> None:
        """Reserve what workers ask for; `again` also what was not there before.

        Raises:
            Unavailable: The catalogue is away, which workers learn.
        """
        table = self.shared.table
        is_wanted = table[:, meters.WANTED] > table[:, meters.GRANTED]
        is_exhausted = is_wanted & (table[:, meters.STATE] == meters.EXHAUSTED)
        retried_share = again * _MOST_RETRIED / max(1, int(is_exhausted.sum()))
        for meter in self.shared.among(is_wanted):
            is_due = again or meter.name not in self._tries
            if meter.words[meters.STATE] == meters.EXHAUSTED:
                is_due = random() < retried_share
            if is_due:
                try:
                    self._reserve(meter)
                except BasculeError:
                    meter.words[meters.STATE] = meters.AWAY
                    raise

    def throttle(self, now_ns: int) -> None:
        """Slow callers down until this is to be said again, and a little longer."""
        for section, name in self.throttled():
            meter = self.shared.meter(section, name)
            meter.words[meters.THROTTLED_NS] = now_ns + round(3e9 * THROTTLE_EVERY_S)

    def share(self, now_ns: int) -> None:
        """Give back what other servers need, and exchange what callers spent of their rates."""
        quotas, day = self.open_quotas(), meters.today()
        if day != self._forgotten_day:
            quotas.forget(day)
            self._forgotten_day = day
        table = self.shared.table
        is_unused = (table[:, meters.DAY] == day) & (
            table[:, meters.GRANTED] > table[:, meters.ROWS]
        )
        is_unused &= table[:, meters.WANTED] <= table[:, meters.GRANTED]
        if is_unused.any() and (short := quotas.short(day)):
            back = {}
            with self.shared:
                for meter in self.shared.among(is_unused):
                    words = meter.words
                    if meter.name in short and words[meters.DAY] == day:
                        back[meter.name] = words[meters.GRANTED] - words[meters.ROWS]
                        words[meters.GRANTED], words[meters.WANTED] = words[meters.ROWS], 0
            quotas.give_back(day, back)
        self._spend(quotas, now_ns)

    def _reserve(self, meter: meters.Meter) -> None:
        words, name = meter.words, meter.name
        day, limit, granted = words[meters.DAY], words[meters.LIMIT], words[meters.GRANTED]
        at_least = words[meters.WANTED] - granted
        try:
            rows = self.open_quotas().reserve(name, day, at_least, limit)
        except NotFound:
            rows = limit - granted
        tries = self._tries.pop(name, 0) + 1
        with self.shared:
            if meter.name != name or words[meters.DAY] != day:
                return
            if words[meters.STATE] == meters.EXHAUSTED:
                tries = EXHAUSTED_TRIES
            words[meters.GRANTED] += rows
            words[meters.STATE] = meters.OPEN
            if rows >= at_least:
                return
            if tries < EXHAUSTED_TRIES:
                self._tries[name] = tries
            else:
                words[meters.STATE], words[meters.WANTED] = meters.EXHAUSTED, 0

    def _spend(self, quotas: Quotas, now_ns: int) -> None:
        """Have this server's buckets be as empty as that of all servers.

        Raises:
            Unavailable: The catalogue is away: what was spent since the last exchange stays here.
        """
        within_ns, self._spent_since_ns = now_ns - self._spent_since_ns, now_ns
        table = self.shared.table
        with self.shared:
            spent = table[:, meters.SPENT_NS]
            is_hot = (spent > _HOT_SHARE * within_ns) | (table[:, meters.FULL_AT_NS] > now_ns)
            hot = {meter.name: meter for meter in self.shared.among(is_hot)}
            costs_ns = {name: meter.words[meters.SPENT_NS] for name, meter in hot.items()}
            table[:, meters.SPENT_NS] = 0
        if not hot:
            return
        full_in_ns = quotas.spend(costs_ns, within_ns)
        with self.shared:
            for name, meter in hot.items():
                words = meter.words
                if meter.name == name:
                    full_at_ns = now_ns + full_in_ns[name] + words[meters.SPENT_NS]
                    words[meters.FULL_AT_NS] = max(words[meters.FULL_AT_NS], full_at_ns)
