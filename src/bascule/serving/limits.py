"""The bounds within which a server works. Every queue and every wait has one."""

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
            bits cannot depend on its company where a program is not batch-invariant.
        confidence: How often the truth should be inside the set or the interval that every answer
            of a calibrated model carries, where the request does not say; 0 for none.
        max_body_bytes: The largest request body.
        max_held_bytes: How much is kept of requests that cannot begin yet, over all connections
            and models: their rest has not come, they wait for the answers before them on their
            connection, or, decoded, for the thread of their model or for its being loaded; on the
            thread they count until their run is over. 0 for sixteen of the largest bodies, or
            1 GiB if that is more. One more is answered 503 on its connection, and 429 before its
            model; never where nothing is held, nor where its model has nothing else to do.
        max_head_bytes: The largest request line and headers together.
        max_connections: Open connections per worker; one more is answered 503, or within TLS
            closed before the handshake. Within TLS a connection is open after its handshake.
        max_handshakes: Handshakes of TLS under way at one port of a worker; for one more the oldest
            is cut off. An honest one takes a few round trips, and so never becomes the oldest
            unless as many come within that time.
        handshake_timeout_s: How long a handshake of TLS may take.
        first_request_timeout_s: How long a new connection, within TLS one that is through with its
            handshake, may stay open before its first request begins; at most `idle_timeout_s`.
        idle_timeout_s: How long a connection may stay open between requests.
        receive_timeout_s: How long a request may take to arrive, and how long a client may take
            nothing of its answer, where that is larger than what the kernel takes.
        least_bytes_per_s: A request has another second to arrive for so much of its body that has
            come, and an answer to be taken for so much of it that has been: who is slow and steady
            gets through, and who sends or takes next to nothing does not.
        memory_budget_mb: How much memory the models of one worker may take, in millions of bytes; 0
            for no bound. Models that were not asked for the longest make room for others.
        drain_s: How long a worker that was told to stop lets requests finish.
        worker_silent_s: How long the event loop of a worker may stand still before it is killed.
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
    drain_s: float = 10.0
    worker_silent_s: float = 10.0

    def __post_init__(self) -> None:
        if not self.max_held_bytes:
            object.__setattr__(self, "max_held_bytes", max(1 << 30, 16 * self.max_body_bytes))

    def with_open_files(self, others: int) -> Limits:
        """The same with no more connections than this process may have files, but for `others`."""
        wanted = self.max_connections + self.max_handshakes
        share = min(1.0, max(64, allow_open_files(wanted + others) - others) / wanted)
        return replace(
            self,
            max_connections=int(self.max_connections * share),
            max_handshakes=int(self.max_handshakes * share),
        )


def allow_open_files(count: int) -> int:
    """Raise the soft limit, which is 1,024 nearly everywhere; how many of `count` it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        soft = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return count if soft == resource.RLIM_INFINITY else min(count, soft)
