"""The limits of a server. Every queue and every wait has one."""

from __future__ import annotations

import resource
from dataclasses import dataclass, replace
from typing import Literal

Batching = Literal["auto", "never"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one worker.

    Attributes:
        deadline_s: How long a request may take from its last byte to its answer, unless it asks
            for less (`X-Request-Timeout-Ms`).
        max_queue_requests: How many requests may wait for one model; one more is answered 429.
        max_rows: The most rows in one request.
        max_batch_rows: The most rows in one run of a program when callers are batched together.
        batching: "auto" runs waiting callers together; "never" runs each alone, so that a row's
            bits cannot depend on its batch mates if a program is not batch-invariant.
        confidence: The default coverage of the prediction set or interval in every answer of a
            calibrated model, if the request does not set it; 0 for none.
        max_body_bytes: The largest request body.
        max_held_bytes: The bytes buffered, over all connections and models, for requests that are
            incomplete, pipelined, queued, or waiting for a model to load; a request on a model's
            thread counts until its run ends. 0 for 1 GiB, or for sixteen bodies of
            `max_body_bytes` if that is more. Above the limit, a request that is being read is
            answered 503, and a decoded one 429; but a request is accepted if nothing else is
            buffered, or if its model is idle.
        max_head_bytes: The largest request line and headers together.
        max_connections: Open connections per worker; one more is answered 503, or within TLS
            closed before the handshake. Within TLS a connection is open after its handshake.
        max_handshakes: TLS handshakes in progress at one port of a worker; one more ends the
            oldest. A real client's handshake takes a few round trips, and so becomes the oldest
            only if as many others begin within that time.
        handshake_timeout_s: How long a TLS handshake may take.
        first_request_timeout_s: How long a new connection (with TLS, after its handshake) may stay
            open before its first request begins; at most `idle_timeout_s`.
        idle_timeout_s: How long a connection may stay open between requests.
        receive_timeout_s: How long a request may take to arrive, and how long a client may read
            nothing of an answer that exceeds the kernel's buffers.
        least_bytes_per_s: For every so many bytes that have arrived, a request may take another
            second to arrive; for every so many that were read, an answer may take another second
            to be read. Slow and steady clients succeed; clients that send or read next to nothing
            are cut off.
        memory_budget_mb: How much memory the models of one worker may take, in millions of bytes; 0
            for no limit. The models with the oldest last request are unloaded for others.
        providers: Execution providers of ONNX Runtime, in the order of preference; none named is
            the processor (CPU) alone.
        feature_store: Completes the rows of models packed with features: a Feast repository.
        feature_timeout_s: How long it may take to answer for 1,000 rows.
        drain_s: How long a worker lets requests finish after the signal to stop.
        worker_silent_s: How long a worker's event loop may stand still before it is killed.
    """

    deadline_s: float = 10.0
    max_queue_requests: int = 512
    max_rows: int = 1_000_000
    max_batch_rows: int = 256
    batching: Batching = "auto"
    confidence: float = 0.0
    max_body_bytes: int = 64 << 20
    max_held_bytes: int = 0
    max_head_bytes: int = 32 << 10
    max_connections: int = 10_000
    max_handshakes: int = 2_000
    handshake_timeout_s: float = 5.0
    first_request_timeout_s: float = 10.0
    idle_timeout_s: float = 75.0
    receive_timeout_s: float = 20.0
    least_bytes_per_s: int = 64 << 10
    memory_budget_mb: int = 0
    providers: tuple[str, ...] = ()
    feature_store: str = ""
    feature_timeout_s: float = 0.5
    drain_s: float = 10.0
    worker_silent_s: float = 10.0

    def __post_init__(self) -> None:
        if not self.max_held_bytes:
            object.__setattr__(self, "max_held_bytes", max(1 << 30, 16 * self.max_body_bytes))

    def with_open_files(self, others: int) -> Limits:
        """The same, with fewer connections if the open-file limit, less `others`, requires it."""
        wanted = self.max_connections + self.max_handshakes
        share = min(1.0, max(64, allow_open_files(wanted + others) - others) / wanted)
        return replace(
            self,
            max_connections=int(self.max_connections * share),
            max_handshakes=int(self.max_handshakes * share),
        )


def allow_open_files(count: int) -> int:
    """Raise the soft limit of open files, usually 1,024; returns how many of `count` it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        soft = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return count if soft == resource.RLIM_INFINITY else min(count, soft)
