"""When requests are due. Pure.

An open loop sends when the schedule says so, whether or not earlier answers have come, as callers
that do not know of each other do. A closed loop waits for its answers, and so spares a server that
is slow just when it is slow ("coordinated omission").
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]


def constant(rate_hz: float, seconds: float) -> Times:
    """Evenly spaced times in [0, seconds), in seconds."""
    return np.arange(math.floor(rate_hz * seconds)) / rate_hz


def poisson(rate_hz: float, seconds: float, seed: int) -> Times:
    """Times of a Poisson process in [0, seconds): independent callers. The count varies too."""
    random = np.random.default_rng(seed)
    count = random.poisson(rate_hz * seconds)
    times: Times = np.sort(random.uniform(0.0, seconds, count))
    return times


def perfect_latencies(due: Times, service_s: float) -> Times:
    """What callers would see of a server that does nothing but serve, one at a time, in order.

    Lindley's recursion. With random arrivals even that server has a queue: at 70 % load its 99th
    percentile is 4.4 times its median, so a bar below that asks for batching, not for care.

    Args:
        due: Arrival times in seconds, ascending.
        service_s: What each request takes.
    """
    steps = np.arange(len(due))
    # A request ends `service_s` after the later of its arrival and the end before it.
    ends: Times = np.maximum.accumulate(due - steps * service_s) + (steps + 1) * service_s
    return ends - due
