"""What a request takes of a worker: by the cost statement, or by a short load test."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from bascule.bundle import Bundle
from bascule.bundle.disk import EXAMPLE, read_file
from bascule.core import Invalid, Unavailable
from bascule.planning.queueing import Floats, Service
from bascule_client.control import ControlClient

CAPACITY_KIND = "capacity"
"""A statement whose body is a `Service`."""
_PLAIN_S = 30e-6
"""Of a worker for any request: reading, routing and writing; see docs/benchmarks.md."""
_PERIODS, _PERIOD_S = 12, 1.0
_PAUSES, _PAUSE = 300, 3.0
"""Requests that find the worker idle, and the mean of the pause as a multiple of their time."""
_SHARES = np.arange(0.0025, 1, 0.005)


def service_of(bundle: Bundle, *, is_fresh: bool = False) -> Service:
    """Of the newest statement of `CAPACITY_KIND`; of the cost if there is none, or `is_fresh`.

    Raises:
        Invalid: The cost was not measured.
    """
    statements = [] if is_fresh else bundle.statements(CAPACITY_KIND)
    if statements:
        return msgspec.convert(statements[-1].body, Service, strict=False)
    cost = bundle.cost
    if cost is None:
        raise Invalid(f"the cost of {bundle.name} was not measured", hint="pack it with its cost")
    times = cost.latency_us[bundle.manifest.serves]
    return Service({rows: us / 1e6 for rows, us in times.items()}, overhead_s=_PLAIN_S)


def measure(url: str, control_url: str, bundle: Bundle, rows: int) -> Service:
    """Send single requests for some seconds to a server with one worker and this bundle alone.

    Requests for its health alternate with them: what those take is not the model's. Pauses between
    the last ones show what a request takes that finds the worker idle.

    Raises:
        Unavailable: The server refuses a request.
    """
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    body, heads = request_body(bundle, rows), {"Content-Type": "application/json"}
    path = f"/v2/models/{bundle.name}/infer"
    control = ControlClient(control_url, key=os.environ.get("BASCULE_KEY", ""))

    def took_s(*request: Any) -> float:
        before = time.perf_counter()
        connection.request(*request)
        response = connection.getresponse()
        content = response.read()
        if response.status != http.client.OK:
            problem = f"the server answered {response.status}: {content[:200]!r}"
            raise Unavailable(problem, hint="bascule predict shows what it refuses")
        return time.perf_counter() - before

    def period(length_s: float) -> tuple[Floats, float]:
        times: list[float] = []
        ends, before_s = time.perf_counter() + length_s, _cpu_s(control)
        while not times or time.perf_counter() < ends:
            plain_s = took_s("GET", "/v2/health/live")
            times += [plain_s, took_s("POST", path, body, heads)]
        return np.reshape(times, (-1, 2)), _cpu_s(control) - before_s

    period(_PERIOD_S / 4)  # warms up
    periods = [period(_PERIOD_S) for _ in range(_PERIODS)]
    pause_s = _PAUSE * float(np.median([np.median(times[:, 1]) for times, _ in periods]))
    paused_s = []
    for seconds in np.random.default_rng(0).exponential(pause_s, _PAUSES):
        time.sleep(seconds)
        paused_s.append(took_s("POST", path, body, heads))
    connection.close()
    fresh = replace(service_of(bundle, is_fresh=True), rows=rows)
    return measured_of(periods, np.array(paused_s), fresh)


def measured_of(
    periods: Sequence[tuple[Floats, float]], paused_s: Floats, service: Service
) -> Service:
    """From seconds of requests without and with a model, (requests, 2), and CPU time, by period.

    The time of a worker is CPU time: a clock counts other work of the machine as well. The spread
    of single times is that of the quietest period, around its mean, as CPU time over requests is
    one: where others hold the worker up, it must not seem busier. What exceeds the run is overhead.
    """
    cpu_s = np.array([max(spent / len(times), 2 * _PLAIN_S) - _PLAIN_S for times, spent in periods])
    request_s = float(np.median(cpu_s))
    quiet = min((times for times, _ in periods), key=lambda times: float(np.median(times)))
    outside_s = max(0.0, float(np.median(quiet[:, 0])) - _PLAIN_S)
    single_s = np.maximum(quiet[:, 1] - outside_s, _PLAIN_S)
    spread = np.quantile(single_s / single_s.mean(), _SHARES)
    starts_s = np.quantile(paused_s, _SHARES) - np.quantile(quiet[:, 1], _SHARES)
    ran_s = float(replace(service, overhead_s=0.0).batches_s()[0])
    return replace(
        service.scaled(min(1.0, request_s / (ran_s + _PLAIN_S))), outside_s=outside_s,
        overhead_s=max(_PLAIN_S, request_s - ran_s), spread=spread.round(4).tolist(),
        scales=(cpu_s / request_s).round(4).tolist(), starts_s=starts_s.clip(0).tolist(),
    )  # fmt: skip


def _cpu_s(control: ControlClient) -> float:
    """CPU time of the workers so far."""
    look = control.do("GET /api/v1/server/load")
    return float(sum(worker["cpu_s"] for worker in look["workers"]))


def request_body(bundle: Bundle, rows: int) -> bytes:
    """The example request of a bundle, its rows repeated."""
    request = json.loads(read_file(bundle.path, bundle.manifest, EXAMPLE))
    for column in request["inputs"]:
        width = len(column["data"]) // column["shape"][0]
        column["data"] = (column["data"] * rows)[: rows * width]
        column["shape"][0] = rows
    return json.dumps(request).encode()
