"""Guardrails: what a candidate may not do worse than the current version, and by how much.

Each is a rate of arm against arm, so that `stats.sequential` can test it after every interval:

| guard | an event of the candidate | an event of the current version |
|---|---|---|
| `errors +1 pp` | an answer that the model failed | the same |
| `fallbacks +1 pp` | an answer that another model gave | the same |
| `p95 +20 %` | an answer slower than 1.2 T | an answer slower than T |
| `latency +20 %` | the same from p25 to p99.9, evidence averaged; shown at p50 and p95 | |
| `accuracy -2 pp` | a wrong answer, by its outcome | the same |
| `disagreement +5 pp` | an answer unlike that of the current version to the same request | |

T is the quantile of the current version's durations before the interval, of each class of work
(rows per request, in powers of four). If the candidate's durations are 1.2 times those of the
current version, both rates are equal for any T; a load that slows both arms changes neither side of
the comparison. Only answers with 200 count: failures have a guard of their own.

Few rollouts have the requests to show that a tail is within 20 % (`p99 +20 %` as a guard of its own
asks for it), so `latency` rolls back on the tail and promotes on p50 and p95.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np

from bascule.core import Invalid
from bascule.release.rollouts.evidence import (
    CANDIDATE,
    COMPARED,
    CURRENT,
    DISAGREEMENTS,
    MAX_LIMITS,
    Floats,
    Interval,
    Limits,
    column,
    grouped,
    slow_column,
)
from bascule.stats import Beyond, Evidence, mcnemar, quantiles, two_proportions
from bascule.stats.durations import CLASSES, counted_factor, dense, limits

_RATES = ("errors", "fallbacks", "accuracy", "disagreement")
_QUANTILES = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
_HARMED = (0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999)
_SHOWN = (0.5, 0.95)
_LEAST_DURATIONS = 100
"""Answers of the current version in a class of work, before its limits are chosen."""
_GUARD = re.compile(
    r"^(?P<name>[a-z0-9.]+)\s*(?P<sign>[+-])\s*(?P<amount>\d+(\.\d+)?)\s*(?P<unit>pp|%|ms)$"
)


class Guard(msgspec.Struct, frozen=True):
    """One guardrail.

    Attributes:
        name: `errors`, `fallbacks`, `accuracy`, `disagreement`, `latency`, or a quantile (`p95`).
        margin: What is allowed: a difference of rates (0.01), a share of the duration (0.2), or
            seconds.
        unit: `pp`, `%` or `ms`.
    """

    name: str
    margin: float
    unit: str

    @property
    def harmed(self) -> tuple[float, ...]:
        """The quantiles at which it is tested for harm; none of a rate."""
        if self.name == "latency":
            return _HARMED
        return (_QUANTILES[self.name],) if self.name in _QUANTILES else ()

    @property
    def shown(self) -> tuple[float, ...]:
        """Those at which a candidate must be shown to be within it, for a promotion."""
        return _SHOWN if self.name == "latency" else self.harmed

    @property
    def allowed(self) -> tuple[float, float]:
        """What a duration may become: a factor, and seconds more."""
        return (1.0, self.margin) if self.unit == "ms" else (1.0 + self.margin, 0.0)

    @property
    def rate_margin(self) -> float:
        """The difference of rates that is allowed; limits have that of durations."""
        return 0.0 if self.harmed else self.margin

    def __str__(self) -> str:
        amount = self.margin * {"pp": 100, "%": 100, "ms": 1_000}[self.unit]
        return f"{self.name} {'-' if self.name == 'accuracy' else '+'}{amount:g} {self.unit}"


DEFAULT_GUARDS = (Guard("errors", 0.01, "pp"), Guard("latency", 0.2, "%"))
SHADOW_GUARDS = (Guard("errors", 0.01, "pp"), Guard("disagreement", 0.05, "pp"))
OUTCOME_GUARDS = (*DEFAULT_GUARDS, Guard("accuracy", 0.02, "pp"))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the intervals say of one guardrail.

    Attributes:
        guard: The guardrail.
        requests: Of both arms, as far as they count.
        candidate: The candidate's rate over all of them, for people; the test is by intervals.
        current: The current version's.
        evidence: Without a confidence sequence.
        bounded: Of a rate: the test again, with one; takes other `margin` and `bounds`.
        worst: Of a latency: the quantile that `candidate` and `current` are of.
        least_shown: Of a latency: the quantile of which least is shown, and both rates there.
    """

    guard: Guard
    requests: int
    candidate: float
    current: float
    evidence: Evidence
    bounded: Callable[..., Evidence]
    worst: str = ""
    least_shown: tuple[str, float, float] = ("", 0.0, 0.0)


def parse_guard(text: str) -> Guard:
    """Read `errors +1 pp`. Raises `Invalid`."""
    found = _GUARD.match(text.strip().lower())
    known = ", ".join(["errors", "fallbacks", "latency", *_QUANTILES, "accuracy", "disagreement"])
    if found is None:
        raise Invalid(
            f"{text!r} is no guard", hint="write for example 'errors +1 pp' or 'p95 +20 %'"
        )
    name, sign, unit = found["name"], found["sign"], found["unit"]
    if name not in (*_RATES, *_QUANTILES, "latency"):
        raise Invalid(f"there is no guard {name!r}", hint=f"there are {known}")
    units = ("pp",) if name in _RATES else ("%", "ms")
    if unit not in units:
        raise Invalid(f"{name} is guarded in {' or '.join(units)}, not in {unit!r}")
    if (sign == "-") != (name == "accuracy"):
        worse = "falls" if name == "accuracy" else "rises"
        raise Invalid(f"{text!r} allows a gain", hint=f"a candidate is worse where {name} {worse}")
    amount = float(found["amount"]) / (1_000 if unit == "ms" else 100)
    if unit == "pp" and amount >= 1:
        raise Invalid(f"{text!r} allows everything", hint="a rate differs by less than 100 pp")
    if unit != "pp" and amount == 0:
        raise Invalid(
            f"{text!r} allows no noise",
            hint="allow at least '+4 %': equal versions differ in nothing but chance",
        )
    if unit == "%" and counted_factor(1 + amount, is_up=False) == 1:
        raise Invalid(
            f"no version can be shown to be within {text!r}: durations are counted in steps of "
            "3.7 %",
            hint="allow at least '+4 %'",
        )
    return Guard(name, amount, unit)


def check_limits(guards: Sequence[Guard]) -> None:
    """Raises `Invalid` where the guards compare more quantiles than an interval keeps."""
    if sum(len(guard.harmed) + len(guard.shown) for guard in guards) > MAX_LIMITS:
        raise Invalid(
            "the guards compare more quantiles of latency than are kept",
            hint="use 'latency +20 %', which compares p25 to p99.9, and two quantiles beside it",
        )


def limits_of(guards: Sequence[Guard], counted: Sequence[Interval]) -> Limits:
    """From which bins answers count as slow, in the order in which `judge` reads the counts.

    Args:
        guards: Of the rollout.
        counted: By all sources, before the interval that is to be sealed.

    Returns:
        Of the classes of work with enough answers, if a guard compares latency.
    """
    counts = sum((dense(one.current.durations) for one in counted), dense(()))
    known = np.flatnonzero(counts.sum(axis=1) >= _LEAST_DURATIONS)
    chosen = [
        limits(counts[known], 1 - quantile, guard.allowed, proves=proves)
        for guard in guards
        for quantiles, proves in ((guard.harmed, False), (guard.shown, True))
        for quantile in quantiles
    ]
    if not chosen:
        return {}
    sides = [np.stack(bins, axis=1).tolist() for bins in zip(*chosen, strict=True)]
    return {int(of): pair for of, *pair in zip(known, *sides, strict=True)}


def judge(guards: Sequence[Guard], table: Floats, alpha: float) -> list[Verdict]:
    """What the intervals of a table (`evidence.table_of`) say of each guardrail."""
    verdicts, first = [], 0
    for guard in guards:
        verdicts.append(_judged(guard, table, first, alpha))
        first += len(guard.harmed) + len(guard.shown)
    return verdicts


def _judged(guard: Guard, table: Floats, first: int, alpha: float) -> Verdict:
    if guard.harmed:
        return _latency(guard, table, first)
    if guard.name == "disagreement":
        compared, unlike = (int(table[:, one].sum()) for one in (COMPARED, DISAGREEMENTS))
        test = partial(mcnemar, unlike, 0, compared, margin=guard.margin, alpha=alpha)
        return Verdict(guard, compared, unlike / max(compared, 1), 0.0, test(bounds=False), test)
    total, event = _EVENTS[guard.name]
    counts = grouped(
        table,
        (
            column(CANDIDATE, total), column(CANDIDATE, event),
            column(CURRENT, total), column(CURRENT, event),
        ),
    )  # fmt: skip
    return _verdict(
        guard, counts, partial(two_proportions, counts, margin=guard.margin, alpha=alpha)
    )


def _verdict(guard: Guard, counts: Floats, test: Callable[..., Evidence]) -> Verdict:
    n_c, e_c, n_0, e_0 = (float(one) for one in counts.sum(axis=0))
    return Verdict(
        guard, int(n_c + n_0), e_c / max(n_c, 1), e_0 / max(n_0, 1), test(bounds=False), test
    )


def _latency(guard: Guard, table: Floats, first: int) -> Verdict:
    every = range(first, first + len(guard.harmed) + len(guard.shown))
    strata = [
        grouped(
            table,
            [
                slow_column(CANDIDATE, of), slow_column(CANDIDATE, of, first),
                slow_column(CURRENT, of), slow_column(CURRENT, of, first),
                *(slow_column(arm, of, limit) for arm in (CANDIDATE, CURRENT) for limit in every),
            ],
        )
        for of in range(CLASSES)
    ]  # fmt: skip

    def beyond(quantile: float, place: int) -> Beyond:
        columns = [0, 4 + place, 2, 4 + len(every) + place]
        return Beyond(1 - quantile, [counts[:, columns] for counts in strata])

    harm = [beyond(quantile, place) for place, quantile in enumerate(guard.harmed)]
    proof = [beyond(quantile, len(harm) + at) for at, quantile in enumerate(guard.shown)]
    evidence, worst, least = quantiles(harm, proof)
    return Verdict(
        guard, int(sum(counts[:, [0, 2]].sum() for counts in strata)), *harm[worst].rates(),
        evidence, lambda **_: evidence, _named(guard.harmed[worst]),
        (_named(guard.shown[least]), *proof[least].rates()),
    )  # fmt: skip


def _named(quantile: float) -> str:
    return f"p{100 * quantile:g}"


_EVENTS = {
    "errors": ("requests", "errors"),
    "fallbacks": ("requests", "fallbacks"),
    "accuracy": ("judged", "wrong"),
}
