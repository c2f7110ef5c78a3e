"""The counts of a stream in Prometheus's format, on a port of its own: no server is beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bascule.batch.streams.running import Streamed, StreamJob
from bascule.core import Invalid, library, masked

_COUNTS = {
    "messages": "Messages that are answered and committed.",
    "quarantined": "Messages that went to the dead letters.",
    "faults": "Faults of the broker, after which the stream was opened again.",
    "busy_seconds": "Seconds in which messages were scored and published.",
}
_GAUGES = {
    "lag": "Messages that wait at the broker for this process.",
    "committed_seconds": "When the last messages were committed, in Unix time.",
}


class _Collector:
    """What `prometheus_client` asks for the samples of each scrape."""

    def __init__(self, job: StreamJob) -> None:
        self.done = Streamed()
        self._labels = {"model": job.model, "source": masked(job.source)}

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        done = self.done
        values = vars(done) | {
            "busy_seconds": done.busy_s, "committed_seconds": done.committed_at
        }  # fmt: skip
        for kind, named in ((CounterMetricFamily, _COUNTS), (GaugeMetricFamily, _GAUGES)):
            for name, about in named.items():
                family = kind(f"bascule_stream_{name}", about, labels=[*self._labels])
                family.add_metric([*self._labels.values()], values[name])
                yield family

    def keep(self, done: Streamed) -> None:
        self.done = done


def serve_metrics(job: StreamJob, address: str) -> Callable[[Streamed], None]:
    """Answer scrapes at `HOST:PORT` on a thread; the function tells what the stream has done.

    Raises:
        Invalid: The address is none, or is in use.
        MissingExtra: The client of Prometheus is not installed.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise Invalid(f"metrics: {address!r} is no HOST:PORT", hint="write 127.0.0.1:9105")
    prometheus = library("prometheus_client", "streams")
    collector, registry = _Collector(job), prometheus.CollectorRegistry()
    registry.register(collector)
    try:
        prometheus.start_http_server(int(port), host.strip("[]"), registry)
    except (OSError, OverflowError) as problem:
        raise Invalid(
            f"metrics: {address} cannot be listened on: {problem}", hint="choose another port"
        ) from None
    return collector.keep
