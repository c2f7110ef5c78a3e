"""The counters in the Prometheus text exposition format 0.0.4."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from bascule.serving.telemetry.arms import SHADOW_ARM, ArmTotals
from bascule.serving.telemetry.counters import BUCKETS_S, MetricLabels, Pulse, Totals
from bascule.serving.telemetry.texts import TextTotals

SHOWN_PLANS = 3
"""Of each endpoint, so many of its last plans have metrics: every change of a plan makes series."""

_Family = tuple[str, str, str, Iterable[tuple[str, object]]]
"""Name, type, description; of each sample the labels and the value."""


def prometheus_text(
    labels: Sequence[MetricLabels],
    totals: Sequence[Totals],
    pulse: Pulse | None = None,
    arms: Sequence[ArmTotals] = (),
) -> str:
    """The text for counters of versions, processes and arms."""
    # A version that is named between two readings is in the next text.
    both = list(zip(labels, totals, strict=False))
    served = [
        (f'model="{label.model}",version="{label.version}"', total)
        for label, total in both
        if label.model
    ]
    others = [total for label, total in both if not label.model]
    families = (*_of_versions(served, others), *_of_arms(_last_plans(arms)), *_of(pulse or Pulse()))
    lines = [line for family in families for line in _lines(family)]
    texts = [(names, total.texts) for names, total in served if total.texts]
    of_arms = [(_arm_labels(arm), arm.texts) for arm in _last_plans(arms) if arm.texts]
    lines += [*_of_texts(texts, "bascule"), *_of_texts(of_arms, "bascule_arm")]
    return "\n".join([*lines, *_durations(served), ""])


def _lines(family: _Family) -> Iterator[str]:
    name, kind, about, samples = family
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"


def _of_versions(
    served: Sequence[tuple[str, Totals]], others: Sequence[Totals]
) -> Iterator[_Family]:
    yield (
        "bascule_requests_total", "counter", "Inference requests answered, by status.",
        (
            (f'{names},status="{status}"', count)
            for names, total in served
            for status, count in total.by_status.items()
        ),
    )  # fmt: skip
    yield (
        "bascule_other_requests_total", "counter",
        "Answers to anything but inference on a served model.",
        (
            (f'status="{status}"', count)
            for total in others
            for status, count in total.by_status.items()
        ),
    )  # fmt: skip
    for name, about in (
        ("rows", "Rows answered."),
        ("failures", "Calls that a version with a policy failed."),
        ("fallbacks", "Calls that another version answered in its place."),
        ("runs", "Runs of the program, each of one call or several."),
        ("outcomes", "Outcomes that were kept, by the default version."),
        ("parts", "Parts that were sent of answers in parts."),
    ):
        samples = [(names, getattr(total, name)) for names, total in served]
        yield f"bascule_{name}_total", "counter", about, samples
    yield (
        "bascule_answers_in_parts_total", "counter", "Answers in parts, by how they ended.",
        (
            (f'{names},ending="{ending}"', count)
            for names, total in served
            for ending, count in total.endings.items()
        ),
    )  # fmt: skip
    yield (
        "bascule_refused_by_limit_total", "counter",
        "Calls that limits of callers and other policies refused, by reason.",
        (
            (f'{names},reason="{reason}"', count)
            for names, total in served
            for reason, count in total.refusals.items()
        ),
    )  # fmt: skip
    for kind, unit, about in (
        ("runs", 1, "Runs of a part of a composition."),
        ("rows", 1, "Rows that a part of a composition was asked."),
        ("failures", 1, "Runs of a part of a composition that failed."),
        ("duration_ns", 1e-9, "Time of the runs of a part of a composition."),
    ):
        samples = [
            (f'{names},part="{part}"', getattr(done, kind) * unit)
            for names, total in served
            for part, done in total.of_composition.items()
        ]
        name = kind.replace("duration_ns", "seconds")
        yield f"bascule_composition_part_{name}_total", "counter", about, samples
    yield (
        "bascule_open_calls", "gauge", "Calls that wait or run, noted once a second.",
        [(names, total.open_calls) for names, total in served],
    )  # fmt: skip


def _durations(served: Sequence[tuple[str, Totals]]) -> Iterator[str]:
    name = "bascule_request_duration_seconds"
    yield f"# HELP {name} From a request's last byte to its answer."
    yield f"# TYPE {name} histogram"
    for names, total in served:
        for one in total.histograms:
            labels = f'{names},protocol="{one.protocol}",status_class="{one.status_class}"'
            yield from _histogram(name, labels, BUCKETS_S, one.buckets, one.duration_s)


def _of_texts(texts: Sequence[tuple[str, TextTotals]], prefix: str) -> Iterator[str]:
    """Of generated answers; nothing where there are none."""
    for name in texts[0][1].counts if texts else ():
        samples = [
            (f"{names},{labels}".rstrip(","), count)
            for names, total in texts
            for labels, count in total.counts[name].items()
        ]
        about = f"Of generated texts: {name.replace('_', ' ')}."
        if samples:
            yield from _lines((f"{prefix}_{name}_total", "counter", about, samples))
    for name in texts[0][1].histograms if texts else ():
        yield f"# HELP {prefix}_{name} Of generated texts: {name.replace('_', ' ')}."
        yield f"# TYPE {prefix}_{name} histogram"
        for names, total in texts:
            yield from _histogram(f"{prefix}_{name}", names, *total.histograms[name])


def _histogram(
    name: str, labels: str, bounds: Sequence[float], buckets: Sequence[int], total: float
) -> Iterator[str]:
    running = 0
    for bound, count in zip([*map(str, bounds), "+Inf"], buckets, strict=True):
        running += count
        yield f'{name}_bucket{{{labels},le="{bound}"}} {running}'
    yield f"{name}_sum{{{labels}}} {total}"
    yield f"{name}_count{{{labels}}} {running}"


def _last_plans(arms: Sequence[ArmTotals]) -> list[ArmTotals]:
    numbers: dict[str, set[int]] = defaultdict(set)
    for arm in arms:
        numbers[arm.endpoint].add(arm.plan_number)
    shown = {endpoint: sorted(found)[-SHOWN_PLANS:] for endpoint, found in numbers.items()}
    return [arm for arm in arms if arm.plan_number in shown[arm.endpoint]]


def _of_arms(arms: Sequence[ArmTotals]) -> Iterator[_Family]:
    each = [(_arm_labels(arm), arm) for arm in arms]
    shadows = [(labels, arm) for labels, arm in each if arm.arm == SHADOW_ARM]
    for name, about, shown in (
        ("requests", "Answers of an arm; comparisons of a shadow.", each),
        ("errors", "Answers of an arm with 500, 503 or 504; failures of a shadow.", each),
        ("fallbacks", "Answers that the fallback gave in place of the arm.", each),
        ("disagreements", "Answers of a shadow that differ.", shadows),
        ("dropped", "Requests that a shadow did not answer, because it was busy.", shadows),
    ):
        prefix = "bascule_shadow" if shown is shadows else "bascule_arm"
        samples = [(labels, getattr(arm, name)) for labels, arm in shown]
        yield f"{prefix}_{name}_total", "counter", about, samples
    slower = [
        (f'{labels},over_s="{bound:g}"', count)
        for labels, arm in each
        for bound, count in zip(arm.slower_than_s, arm.slower, strict=True)
    ]
    about = "Answers of an arm that took longer than a duration of its plan."
    yield "bascule_arm_slower_total", "counter", about, slower


def _arm_labels(arm: ArmTotals) -> str:
    model, _, version = arm.version.partition("/")
    return (
        f'endpoint="{arm.endpoint}",plan="{arm.plan_number}",arm="{arm.arm}",'
        f'model="{model}",version="{version}"'
    )


def _of(pulse: Pulse) -> Iterator[_Family]:
    for name, kind, about, value in (
        ("silent_workers_total", "counter", "Workers killed because their event loop stood still.",
         pulse.silent_workers),
        ("control_restarts_total", "counter", "Starts of the control process after the first.",
         pulse.control_restarts),
        ("keys_age_seconds", "gauge", "Since the keys were last read from the catalogue.",
         f"{pulse.keys_age_s:.3f}"),
        ("catalogue_away_seconds", "gauge", "Since the watcher of alerts lost the catalogue.",
         f"{pulse.catalogue_away_s:.3f}"),
        ("ledger_kept_total", "counter", "Requests that were kept for the ledger.",
         pulse.ledger_kept),
        ("ledger_dropped_total", "counter", "Kept requests that could not be written.",
         pulse.ledger_dropped),
        ("ledger_lag_seconds", "gauge", "The age of what the scribe has not taken in.",
         f"{pulse.ledger_lag_s:.3f}"),
    ):  # fmt: skip
        yield f"bascule_{name}", kind, about, [("", value)]
