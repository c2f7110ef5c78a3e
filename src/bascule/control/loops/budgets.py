"""Shares the limits of callers with other servers: budgets by reservation, rates by their cost.

Workers write what callers use into the shared file (`Meters`), and look at what may be used of a
budget: the rows that this thread has reserved in the catalogue. The rules:

- together the servers admit no more than a budget, and a row that is not reserved waits for it;
- what is left of a budget is reserved in ever smaller blocks, and given back when another server
  needs it; so nothing below a budget is refused while the catalogue can be reached;
- while it cannot, what was reserved is used, and then calls are answered 503;
- what a caller costs of its rate on other servers is known here `SHARE_EVERY_S` later: until then
  each server gives it the rate, so the sum is over by at most what it can spend in that time.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

from bascule.control.loops.turning import turning
from bascule.core import BasculeError, NotFound
from bascule.serving.execution import Meters, meters

if TYPE_CHECKING:
    from bascule.monitoring import Quotas

LOOK_EVERY_S = 0.02
SHARE_EVERY_S = 0.5
EXHAUSTED_AFTER_S = 1.5
"""How long other servers have to give back what they do not use."""
_ASK_AGAIN_S = 0.25
_HOT_SHARE = 0.125
"""Of its rate: what a cheaper caller costs stays on this server."""


def sharing_budgets(
    shared: Meters, open_quotas: Callable[[], Quotas], *, after: Event
) -> AbstractContextManager[None]:
    """Share the limits of callers while the block runs, on a thread."""
    sharing = Sharing(shared, open_quotas, secrets.token_hex(8))
    return turning("budgets", sharing.run, after=after, pause_s=0.2)


@dataclass(slots=True)
class _Told:
    """How a caller stood at the last exchange, here and on the other servers."""

    own_ns: int
    at_ns: int
    idle_ns: int
    elsewhere_ns: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Sharing:
    """One server's part; see the module. `server` tells it from the others."""

    shared: Meters
    open_quotas: Callable[[], Quotas]
    server: str
    _day: int = 0
    _seen: int = -1
    _asked_s: dict[str, float] = field(default_factory=dict)
    _short_since_s: dict[str, float] = field(default_factory=dict)
    _told: dict[str, _Told] = field(default_factory=dict)

    def run(self, ended: Event) -> None:
        """Look for what workers ask, and share, until the event is set."""
        shared_s = 0.0
        while not ended.wait(LOOK_EVERY_S):
            asked, now_s = self.shared.asked(), time.monotonic()
            if asked != self._seen or self._short_since_s:
                self.grant(now_s)
                self._seen = asked
            if now_s - shared_s >= SHARE_EVERY_S:
                shared_s = now_s
                self.share(now_s, ended.wait)

    def grant(self, now_s: float) -> None:
        """Reserve what workers ask for; raises where the catalogue is away, which they learn."""
        self._turn_to(meters.today())
        short = [
            meter
            for meter in self._with_budget()
            if meter.wanted(self._day) > meter.granted(self._day)
        ]
        self._short_since_s = {
            meter.name: self._short_since_s.get(meter.name, 0.0) for meter in short
        }
        try:
            for meter in short:
                if now_s - self._asked_s.get(meter.name, 0.0) >= _ASK_AGAIN_S:
                    self._reserve(meter, now_s)
        except BasculeError:
            for meter in short:
                self._put(meter, meter.granted(self._day), meters.AWAY)
            raise

    def share(self, now_s: float, wait: Callable[[float], bool]) -> None:
        """Give back what other servers need, and exchange what callers cost."""
        unused = [
            meter
            for meter in self._with_budget()
            if meter.granted(self._day) > meter.rows(self._day)
            and meter.name not in self._short_since_s
        ]
        with suppress(NotFound):  # without a catalogue there is no other server
            if unused and (short := self.open_quotas().short(self._day)):
                self._return([meter for meter in unused if meter.name in short], wait)
            self._exchange(round(now_s * 1e9))

    def _turn_to(self, day: int) -> None:
        if day > self._day:
            self._day = day
            self._asked_s.clear()
            with suppress(NotFound):
                self.open_quotas().forget(day)

    def _with_budget(self) -> Iterator[meters.Meter]:
        words = self.shared.words
        return (meter for meter in self.shared.every() if words[meter.base + meters.LIMIT])

    def _reserve(self, meter: meters.Meter, now_s: float) -> None:
        name, granted = meter.name, meter.granted(self._day)
        limit = meter.words[meter.base + meters.LIMIT]
        at_least = meter.wanted(self._day) - granted
        try:
            got = self.open_quotas().reserve(name, self._day, at_least, limit)
        except NotFound:
            got = limit - granted
        self._asked_s[name] = now_s
        since_s = self._short_since_s.get(name) or now_s
        state = meters.OPEN
        if got >= at_least:
            self._short_since_s.pop(name, None)
            del self._asked_s[name]
        elif now_s - since_s < EXHAUSTED_AFTER_S:
            self._short_since_s[name] = since_s
        else:
            state = meters.EXHAUSTED
            self._short_since_s.pop(name, None)
        self._put(meter, granted + got, state)

    def _put(self, meter: meters.Meter, granted: int, state: int) -> None:
        words, base = meter.words, meter.base
        words[base + meters.GRANTED], words[base + meters.STATE] = granted, state
        words[base + meters.GRANT_DAY] = self._day

    def _return(self, unused: list[meters.Meter], wait: Callable[[float], bool]) -> None:
        """Take it from the workers, and give it back once no call can be using it any more.

        What a process that is killed in between has taken stays reserved.
        """
        before = {meter.name: meter.granted(self._day) for meter in unused}
        for meter in unused:
            self._put(meter, meter.rows(self._day), meters.OPEN)
        wait(LOOK_EVERY_S)
        for meter in unused:
            self._put(meter, max(meter.rows(self._day), meter.granted(self._day)), meters.OPEN)
        back = {meter.name: before[meter.name] - meter.granted(self._day) for meter in unused}
        if back:
            self.open_quotas().give_back(self._day, back)

    def _exchange(self, now_ns: int) -> None:
        hot = {meter.name: meter for meter in self.shared.every() if self._is_hot(meter, now_ns)}
        if not hot:
            return
        quotas = self.open_quotas()
        quotas.tell_costs(self.server, {name: meter.cost_ns() for name, meter in hot.items()})
        elsewhere = quotas.costs_elsewhere(self.server, hot)
        for name, meter in hot.items():
            self._count_elsewhere(meter, elsewhere.get(name, {}), now_ns)

    def _is_hot(self, meter: meters.Meter, now_ns: int) -> bool:
        """Whether a caller comes near its rate, or is over it by what it cost elsewhere."""
        told, own_ns = self._told.get(meter.name), meter.cost_ns()
        if told is not None:
            spent_share = (own_ns - told.own_ns) / max(now_ns - told.at_ns, 1)
            if spent_share > _HOT_SHARE or not meter.is_full(now_ns):
                return True
        self._told[meter.name] = _Told(own_ns, now_ns, meter.idle_ns(now_ns))
        return False

    def _count_elsewhere(
        self, meter: meters.Meter, costs_ns: Mapping[str, int], now_ns: int
    ) -> None:
        """Have the bucket know what its caller has cost on other servers since the last exchange.

        As far as the bucket was full here meanwhile, that cost is paid: one bucket for all servers
        would have been full for so much less.
        """
        told, idle_ns = self._told[meter.name], meter.idle_ns(now_ns)
        others_ns = sum(
            max(0, cost_ns - told.elsewhere_ns.get(server, cost_ns))
            for server, cost_ns in costs_ns.items()
        )
        paid_ns = max(0, idle_ns - told.idle_ns)
        meter.words[meter.base + meters.ELSEWHERE_NS] += max(0, others_ns - paid_ns)
        now_idle_ns = meter.idle_ns(now_ns)
        self._told[meter.name] = _Told(meter.cost_ns(), now_ns, now_idle_ns, costs_ns)
