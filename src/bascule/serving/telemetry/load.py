"""What a server does at the moment: the difference of two looks at what it has counted. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class VersionLook:
    """What was counted for one version since the server started, and what is under way.

    Attributes:
        model: Its model's name; empty for everything but inference.
        version: The version; empty too then.
        is_served: False for one that was unloaded.
        requests: Answers.
        errors: Those with a status of 400 or more.
        rows: Rows answered.
        buckets: Answers by duration; one bucket more than there are bounds.
        open_calls: How many calls wait or run now.
    """

    model: str
    version: str
    is_served: bool
    requests: int
    errors: int
    rows: int
    buckets: tuple[int, ...]
    open_calls: int


@dataclass(frozen=True, slots=True)
class WorkerLook:
    """One worker process, with the processes of its models.

    Attributes:
        worker: Its number.
        pid: Of the process that it is now.
        alive: Whether it answers.
        restarts: How often it was started again.
        cpu_s: Processor time since it was started.
        rss_bytes: Memory that it holds.
        models_bytes: What the models in its memory were measured to take.
    """

    worker: int
    pid: int
    alive: bool
    restarts: int
    cpu_s: float
    rss_bytes: int
    models_bytes: int


@dataclass(frozen=True, slots=True)
class Look:
    """A server at one moment.

    Attributes:
        version: Of Bascule.
        at_s: By the server's own monotonic clock.
        bounds_s: Upper bounds of the buckets.
        versions: Everything but inference first, then each version that was ever served.
        workers: All of them.
    """

    version: str
    at_s: float
    bounds_s: tuple[float, ...]
    versions: tuple[VersionLook, ...]
    workers: tuple[WorkerLook, ...]


@dataclass(frozen=True, slots=True)
class VersionLoad:
    """What one version does; durations are None where nothing was answered."""

    model: str
    version: str
    is_served: bool
    requests_per_s: float
    errors_per_s: float
    rows_per_s: float
    p50_s: float | None
    p99_s: float | None
    open_calls: int
    requests: int


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What one worker does; `cpu_percent` is 100 for a whole processor."""

    worker: int
    pid: int
    alive: bool
    restarts: int
    cpu_percent: float
    rss_bytes: int
    models_bytes: int


@dataclass(frozen=True, slots=True)
class Load:
    """What a server did between two looks.

    Attributes:
        over_s: How long that was.
        inference: All versions together.
        other: Everything but inference.
        versions: Each version.
        workers: Each worker.
    """

    over_s: float
    inference: VersionLoad
    other: VersionLoad
    versions: tuple[VersionLoad, ...]
    workers: tuple[WorkerLoad, ...]


def load_between(before: Look, after: Look) -> Load:
    """What a server did between two looks at it.

    A server or a worker that was started again in between has counted from zero: what it has
    counted since is what it did.
    """
    over_s = after.at_s - before.at_s
    known = {(one.model, one.version): one for one in before.versions}
    processes = {one.pid: one for one in before.workers}
    if over_s <= 0 or any(one.requests < _same(known, one).requests for one in after.versions):
        known, processes = {}, {}
        over_s = after.at_s if over_s <= 0 else over_s
    over_s = max(over_s, 1e-9)
    done = [_less(one, _same(known, one)) for one in after.versions]
    served = [one for one in done if one.model]
    others = [one for one in done if not one.model]
    total = {(one.model, one.version): one.requests for one in after.versions}

    def version(did: VersionLook, requests: int) -> VersionLoad:
        return VersionLoad(
            model=did.model,
            version=did.version,
            is_served=did.is_served,
            requests_per_s=did.requests / over_s,
            errors_per_s=did.errors / over_s,
            rows_per_s=did.rows / over_s,
            p50_s=quantile_s(after.bounds_s, did.buckets, 0.5),
            p99_s=quantile_s(after.bounds_s, did.buckets, 0.99),
            open_calls=did.open_calls,
            requests=requests,
        )

    def worker(now: WorkerLook) -> WorkerLoad:
        was = processes.get(now.pid)
        return WorkerLoad(
            worker=now.worker,
            pid=now.pid,
            alive=now.alive,
            restarts=now.restarts,
            cpu_percent=max(0.0, now.cpu_s - (was.cpu_s if was else 0.0)) / over_s * 100,
            rss_bytes=now.rss_bytes,
            models_bytes=now.models_bytes,
        )

    return Load(
        over_s=over_s,
        inference=version(_sum(served), sum(total[one.model, one.version] for one in served)),
        other=version(_sum(others), sum(total[one.model, one.version] for one in others)),
        versions=tuple(version(one, total[one.model, one.version]) for one in served),
        workers=tuple(worker(one) for one in after.workers),
    )


def quantile_s(bounds_s: Sequence[float], buckets: Sequence[int], share: float) -> float | None:
    """The duration that this share of the answers did not exceed, as far as a histogram knows.

    Within a bucket it is taken to rise evenly. Of the last one, which has no upper bound, no more
    is known than its lower bound.

    Args:
        bounds_s: Upper bounds of all buckets but the last.
        buckets: Answers in each; one more than there are bounds.
        share: Greater than 0, at most 1.

    Returns:
        None if there are no answers.
    """
    total = sum(buckets)
    if not total:
        return None
    wanted = share * total
    below = 0
    lower_s = 0.0
    for upper_s, count in zip(bounds_s, buckets, strict=False):
        if count and below + count >= wanted:
            return lower_s + (upper_s - lower_s) * (wanted - below) / count
        below += count
        lower_s = upper_s
    return lower_s


_NOTHING = VersionLook(
    "", "", is_served=True, requests=0, errors=0, rows=0, buckets=(), open_calls=0
)


def _same(known: Mapping[tuple[str, str], VersionLook], one: VersionLook) -> VersionLook:
    return known.get((one.model, one.version), _NOTHING)


def _less(now: VersionLook, was: VersionLook) -> VersionLook:
    earlier = was.buckets or (0,) * len(now.buckets)
    return replace(
        now,
        requests=now.requests - was.requests,
        errors=now.errors - was.errors,
        rows=now.rows - was.rows,
        # Read one after the other while workers count: none may seem to fall.
        buckets=tuple(max(0, a - b) for a, b in zip(now.buckets, earlier, strict=True)),
    )


def _sum(looks: Sequence[VersionLook]) -> VersionLook:
    return replace(
        _NOTHING,
        requests=sum(one.requests for one in looks),
        errors=sum(one.errors for one in looks),
        rows=sum(one.rows for one in looks),
        buckets=tuple(map(sum, zip(*(one.buckets for one in looks), strict=True))),
        open_calls=sum(one.open_calls for one in looks),
    )
