"""From goals, requests and prices to the cheapest plan: real time, batch or edge. Pure.

A replica is a pod with one worker, as `bascule ship` renders it. Balancers and the kernel hand out
connections without a look at queues, so each worker has a queue of its own.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from bascule.core import Invalid, first_line, seconds_of
from bascule.planning.queueing import Estimate, Service, capacity_hz, forecast
from bascule.ship import Resources

_GOAL = re.compile(r"(p\d\d(?:\.\d+)?|availability|cost)\s*(?:<=|>=)?\s*([\d.]+|min)\s*([a-z%]*)")
_RATE = re.compile(r"([\d.]+)\s*(?:requests\s+)?per\s+(second|minute|hour|day)")
_SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
_HOURS_A_MONTH = 730.0
_SHORTEST_SCHEDULE_S, _JOB_START_S = 60.0, 20.0
_MORE_THAN_FORECAST = 1.5
"""What the autoscaler may grow to, over the highest rate of the forecast."""
_SCALES_EARLY = 0.9
"""The autoscaler adds a pod before the others are full: a new one takes a minute to start."""


class Goals(msgspec.Struct, frozen=True):
    """Limits in seconds by share of the answers, and the share of time with enough servers."""

    limits_s: dict[float, float]
    availability: float = 0.0

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Goals:
        """Read `p99 <= 50 ms`, `availability >= 99.9 %` and `cost min`, also between commas."""
        limits_s, availability = {}, 0.0
        for text in (part.strip() for each in texts for part in each.split(",")):
            match = _GOAL.fullmatch(text)
            name, number, unit = match.groups() if match else ("", "", "")
            if name.startswith("p") and number != "min" and unit:
                limits_s[float(name[1:]) / 100] = seconds_of(number + unit, "--goal")
            elif name == "availability" and unit == "%" and 0 < float(number) < 100:
                availability = float(number) / 100
            elif (name, number) != ("cost", "min"):  # which is always so
                raise Invalid(
                    f"{text!r} is not a goal",
                    hint="write 'p99 <= 50 ms', 'availability >= 99.9 %' or 'cost min'",
                )
        if not limits_s:
            raise Invalid("no goal says how soon answers come", hint="--goal 'p99 <= 50 ms'")
        return cls(limits_s, availability)


def rates_of(text: str) -> list[float]:
    """Requests a second, of `200 per second` or of a CSV table with a row for equal times each."""
    try:
        if match := _RATE.fullmatch(text.strip()):
            rates = [float(match[1]) / _SECONDS[match[2]]]
        else:
            rates = [float(row["requests_per_s"]) for row in csv.DictReader(text.splitlines())]
    except (KeyError, TypeError, ValueError):
        rates = []
    if not any(rates) or not all(0 <= rate < math.inf for rate in rates):
        raise Invalid(
            "the traffic is no rate of requests",
            hint="'200 per second', or a CSV file with a column requests_per_s",
        )
    return rates


class Instance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine to rent; `prices.toml` has the units."""

    vcpus: Annotated[int, msgspec.Meta(ge=1)]
    memory_gib: Annotated[float, msgspec.Meta(gt=0)]
    price: Annotated[float, msgspec.Meta(ge=0)]
    speed: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    available: Annotated[float, msgspec.Meta(gt=0.5, le=1)] = 0.995


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of instances, with the day of its prices."""

    as_of: str
    currency: str
    instances: dict[str, Instance]

    @classmethod
    def parse(cls, content: bytes) -> Prices:
        try:
            return msgspec.toml.decode(content, type=cls)
        except msgspec.MsgspecError as problem:
            words = f"the price table cannot be read: {first_line(problem)}"
            raise Invalid(words, hint="see docs/how-to/plan-capacity.md") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One way to answer the forecast within the goals.

    `cost` is per month, the mean over the forecast. `latencies_s`, `instances` and `replicas`
    (pods) are of the highest rate, with instances that may fail; `most_hz` is of one worker. The
    autoscaler has `min_replicas` for the lowest rate, `max_replicas` for 1.5 times the highest, and
    adds pods above `target_cpu_percent` of the CPU that a pod requests.
    """

    way: str
    cost: float
    latencies_s: Mapping[float, Estimate]
    instance: str = ""
    instances: int = 0
    replicas: int = 0
    batch_rows: int = 1
    memory_mib: int = 0
    most_hz: float = 0.0
    every_s: float = 0.0
    min_replicas: int = 0
    max_replicas: int = 0
    target_cpu_percent: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """Requests a second in equal times, what each takes of a worker, its pod, and the goals."""

    service: Service
    rates_hz: Sequence[float]
    goals: Goals
    pod: Resources


def choose(load: Load, prices: Prices, device_factor: float = 0.0) -> list[Plan]:
    """All plans within the goals, the cheapest first; empty where there is none.

    `device_factor`: how many times as long devices of the callers take; 0 for no devices.
    """
    plans: list[Plan] = []
    if device_factor:
        slow = load.service.scaled(device_factor)
        alone = forecast(slow, 1e-3 / slow.batches_s()[0], tuple(load.goals.limits_s))
        plans = [Plan(way="edge", cost=0.0, latencies_s=alone.latencies_s)]
    most_hz: dict[float, float] = {}  # by speed: the search simulates
    for name, instance in prices.instances.items():
        if instance.memory_gib * 1_024 < load.pod.memory_mib:
            continue
        service = load.service.scaled(1 / instance.speed)
        if instance.speed not in most_hz:
            most_hz[instance.speed] = capacity_hz(service, load.goals.limits_s)
        plans.append(_batch(load, name, instance))
        if most_hz[instance.speed] > 0:
            plans.append(_real_time(load, service, name, instance, most_hz[instance.speed]))
    limits_s = load.goals.limits_s.items()
    within = [p for p in plans if all(p.latencies_s[q].high <= limit for q, limit in limits_s)]
    return sorted(within, key=lambda plan: (plan.cost, plan.instances))


def instances_for(needed: int, available: float, goal: float) -> int:
    """The fewest of which `needed` work at once with the probability `goal`, failing independently.

    The exact tail of a binomial law. What takes many away at once is not in it: zones, releases.
    """
    count = needed
    works = exactly = available**needed
    while works < goal and exactly > 0:  # which ends where it is too small for a float
        exactly *= (1 - available) * count / (count + 1 - needed)
        works += exactly
        count += 1
    return count


def _real_time(load: Load, service: Service, name: str, instance: Instance, most_hz: float) -> Plan:
    per_instance = min(instance.vcpus, int(instance.memory_gib * 1_024 / load.pod.memory_mib))

    def sized(rate_hz: float) -> tuple[int, int]:
        """Instances, and pods on all of them."""
        pods = max(1, math.ceil(rate_hz / most_hz))
        needed = math.ceil(pods / per_instance)
        count = instances_for(needed, instance.available, load.goals.availability)
        return count, count * math.ceil(pods / needed)

    peak = max(load.rates_hz)
    count, replicas = sized(peak)
    # As many as may fail have failed.
    rate_hz = peak / math.ceil(peak / most_hz)
    full = forecast(service, most_hz * _SCALES_EARLY)
    costs = [sized(rate)[0] * instance.price * _HOURS_A_MONTH for rate in load.rates_hz]
    return Plan(
        way="real time", cost=sum(costs) / len(costs), instance=name, instances=count,
        replicas=replicas, batch_rows=len(service.batches_s()) * service.rows, most_hz=most_hz,
        memory_mib=load.pod.memory_mib,
        latencies_s=forecast(service, rate_hz, tuple(load.goals.limits_s)).latencies_s,
        min_replicas=sized(min(load.rates_hz))[1],
        max_replicas=sized(peak * _MORE_THAN_FORECAST)[1],
        target_cpu_percent=max(1, int(full.busy * 1e5 / load.pod.cpu_millis)),
    )  # fmt: skip


def _batch(load: Load, name: str, instance: Instance) -> Plan:
    """A job of one worker, as often as half of the tightest limit; the rest is for its run."""
    every_s = max(_SHORTEST_SCHEDULE_S, min(load.goals.limits_s.values()) / 2)
    rows, seconds = max(load.service.run_s.items())
    row_s = seconds / rows * load.service.rows / instance.speed
    mean_hz = sum(load.rates_hz) / len(load.rates_hz)
    took_s, mean_s = (
        _JOB_START_S + rate_hz * every_s * row_s for rate_hz in (max(load.rates_hz), mean_hz)
    )
    latest = Estimate(took_s, every_s / 2 + took_s, every_s + took_s)
    return Plan(
        way="batch", cost=mean_s / every_s * instance.price * _HOURS_A_MONTH, instance=name,
        instances=1, batch_rows=rows, every_s=every_s,
        latencies_s=dict.fromkeys(load.goals.limits_s, latest),
    )  # fmt: skip
