"""How long requests wait and run in a worker at a given rate, by simulation. Pure.

A worker that becomes free takes all requests that wait, up to a limit: a queue M/G/k with batches.
Approximations of its means (Allen and Cunneen; Kingman 1961) say nothing of a 99 % quantile, so
requests are simulated by the recursion of Kiefer and Wolfowitz (1955), extended by batches, in many
runs side by side. All rates get the same random numbers: a higher one never looks faster by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_ROWS = 256
"""Of a batch: what `serving.limits` allows."""
_RUNS, _REQUESTS, _WARM_REQUESTS, _SEED = 64, 2_500, 500, 20261130
"""A run begins with an empty queue: its first requests are not counted."""
_SCALE, _SPREAD = 0.15, 0.2
"""Standard deviations of log factors where no load test has measured them: assumed."""
_PAYS = 1.05
"""A batch of twice the rows pays if it raises the rate by this factor, as in the server."""


@dataclass(frozen=True, slots=True)
class Service:
    """What a request takes of a worker.

    Attributes:
        run_s: Seconds of a run of the program, by its rows.
        rows: Rows of a request.
        overhead_s: Seconds of a worker for a request beside the run.
        outside_s: Seconds of client and network, which occupy no worker.
        spread: Times of single requests as multiples of their mean.
        scales: Means of whole periods as multiples of their median: the machine varies.
        starts_s: What a worker takes longer that was idle, by growing time of a request: it wakes,
            and its caches are cold (an exceptional first service: Welch 1964). No CPU time.
    """

    run_s: Mapping[int, float]
    rows: int = 1
    overhead_s: float = 0.0
    outside_s: float = 0.0
    spread: Sequence[float] = ()
    scales: Sequence[float] = ()
    starts_s: Sequence[float] = ()

    def scaled(self, factor: float) -> Service:
        """On a worker that takes `factor` times as long."""
        run_s = {rows: seconds * factor for rows, seconds in self.run_s.items()}
        return replace(self, run_s=run_s, overhead_s=self.overhead_s * factor)

    def batches_s(self) -> Floats:
        """Seconds of batches of 1, 2... requests, up to where more rows do not pay."""
        requests = np.arange(1, max(1, MOST_ROWS // self.rows) + 1)
        sizes = np.array(sorted(self.run_s), float)
        times = np.maximum.accumulate([self.run_s[int(size)] for size in sizes])
        ran_s = np.interp(requests * self.rows, sizes, times)
        ran_s = ran_s * np.maximum(1.0, requests * self.rows / sizes[-1])
        seconds: Floats = np.asarray(ran_s + requests * self.overhead_s)
        rates = requests / seconds
        return seconds[: int(np.argmax(rates * _PAYS >= rates.max())) + 1]


class Estimate(NamedTuple):
    """A forecast with its 90 % interval."""

    low: float
    middle: float
    high: float


class Forecast(NamedTuple):
    """Seconds from request to answer by share of the requests; the share of time a worker is busy.

    The interval is that of one period of a few minutes.
    """

    latencies_s: Mapping[float, Estimate]
    busy: float


def simulate(
    arrivals: Floats, batches_s: Floats, factors: Floats, starts_s: Floats, servers: int = 1
) -> tuple[Floats, Floats]:
    """Seconds from arrival to answer, shape (requests, runs), and of busy servers, shape (runs,).

    Args:
        arrivals: Moments, growing along the first axis. Shape (requests, runs).
        batches_s: Of 1, 2... requests, up to the largest batch.
        factors: Of the time of a batch that begins with this request. Shape (requests, runs).
        starts_s: What a batch takes longer that finds its server idle, like `factors`.
        servers: Behind one queue. Workers of a machine have a queue each: 1.
    """
    ends, lengths = np.empty_like(arrivals), np.empty_like(arrivals)
    joins = np.zeros(arrivals.shape, bool)
    runs = np.arange(arrivals.shape[1])
    free = np.zeros((len(runs), servers))
    begins, sizes = np.full(len(runs), -np.inf), np.zeros(len(runs), int)
    server, factor, start_s = np.zeros(len(runs), int), np.ones(len(runs)), np.zeros(len(runs))
    for request, now in enumerate(arrivals):
        # The newest batch takes all that arrive before it begins.
        joins[request] = waits = (now <= begins) & (sizes < len(batches_s))
        server = np.where(waits, server, free.argmin(axis=1))
        idle_s = np.where(now > free[runs, server], starts_s[request], 0.0)
        start_s = np.where(waits, start_s, idle_s)
        begins = np.where(waits, begins, np.maximum(now, free[runs, server]))
        sizes = np.where(waits, sizes + 1, 1)
        factor = np.where(waits, factor, factors[request])
        lengths[request] = factor * batches_s[sizes - 1]
        free[runs, server] = ends[request] = begins + start_s + lengths[request]
    is_last = np.ones_like(joins)
    is_last[:-1] = ~joins[1:]
    for request in range(len(arrivals) - 2, -1, -1):
        ends[request] = np.where(is_last[request], ends[request], ends[request + 1])
    return ends - arrivals, (lengths * is_last).sum(axis=0)


def forecast(
    service: Service, rate_hz: float, shares: Sequence[float] = (0.5, 0.95, 0.99)
) -> Forecast:
    """What a worker does that gets `rate_hz` requests a second, independent of each other.

    Each run has a scale of its own, and draws times with replacement (a bootstrap).
    """
    random = np.random.default_rng(_SEED)
    arrivals = np.cumsum(random.exponential(size=(_REQUESTS, _RUNS)), axis=0) / rate_hz
    draws, periods = random.random((_REQUESTS, _RUNS)), random.permutation(_RUNS)
    spread, scales = _law(service.spread, _SPREAD), _law(service.scales, _SCALE)
    factors = spread[(draws * len(spread)).astype(int)] * scales[periods * len(scales) // _RUNS]
    starts_s = np.asarray(service.starts_s or [0.0])[(draws * len(service.starts_s)).astype(int)]
    took_s, busy_s = simulate(arrivals, service.batches_s(), factors, starts_s)
    quantiles_s = np.quantile(took_s[_WARM_REQUESTS:], shares, axis=0) + service.outside_s
    ends = np.quantile(quantiles_s, (0.05, 0.5, 0.95), axis=1).T.tolist()
    latencies_s = {share: Estimate(*values) for share, values in zip(shares, ends, strict=True)}
    return Forecast(latencies_s, float(np.median(busy_s / (arrivals + took_s)[-1])))


def _law(measured: Sequence[float], deviation: float) -> Floats:
    """What was measured, or log-normal factors with a median of 1, in order."""
    if len(measured):
        return np.sort(np.asarray(measured, float))
    normal = np.sort(np.random.default_rng(_SEED).standard_normal(1_024))
    return np.exp(deviation * (normal - np.median(normal)))


def capacity_hz(service: Service, limits_s: Mapping[float, float]) -> float:
    """The most requests a second at which a worker keeps every limit; 0 where it never does.

    Limits are seconds by share of the requests. The upper end of the interval must keep them.
    """
    seconds = service.batches_s()
    low, high = 0.0, float((np.arange(1, len(seconds) + 1) / seconds).max())
    for _ in range(8):
        middle = (low + high) / 2
        at = forecast(service, middle, tuple(limits_s)).latencies_s
        is_within = all(at[share].high <= limit for share, limit in limits_s.items())
        low, high = (middle, high) if is_within else (low, middle)
    return low
