"""Guardrails: what a candidate may not do worse than the current version, and by how much.

Each is a rate of arm against arm, so that `stats.sequential` can test it after every interval:

| guard | an event of the candidate | an event of the current version |
|---|---|---|
| `errors +1 pp` | an answer that the model failed, or with a value that is not finite | the same |
| `fallbacks +1 pp` | an answer that another model gave | the same |
| `p95 +20 %` | an answer slower than 1.2 T | an answer slower than T |
| `latency +20 %` | the same from p25 to p99.9, evidence averaged; shown at p50 and p95 | |
| `accuracy -2 pp`, `mae +5 %`... | the loss by an outcome (see `losses`, `stats.late`) | the same |
| `first_token +20 %` | as `p95`, of the time to the first token of a text | |
| `tokens_per_s -20 %` | as `p95`, of the time between tokens | |
| `length +50 %`, `brevity +50 %` | as `p95`, of the tokens of an answer: more, or fewer | |
| `refusals +5 pp` | a text that begins as refusals do | the same |
| `malformed +2 pp` | a text that breaks the JSON schema that was asked for | the same |
| `disagreement +5 pp` | an answer unlike that of the current version to the same request | |
| `disagreement[0.2] +5 pp` | of texts: one further away than 0.2, see `Alike` | |
| `answers +20 pp` | an answer with a certain label, or up to a certain value | the same |
| `p95[PART] +20 %`, `latency[PART] +20 %` | the same of a part of a composition | the same |
| `accuracy[PART] -2 pp`, `roc_auc[PART] -1 pp` | the loss by an outcome of the part | the same |

Of requests with a sticky key, errors, fallbacks and outcomes count once a key; see `keys`.

T is the quantile of the current version's durations before the interval, of each class of work
(rows per request, in powers of four). If the candidate's durations are 1.2 times those of the
current version, both rates are equal for any T; a load that slows both arms changes neither side of
the comparison. Only answers with 200 count: failures have a guard of their own.

Few rollouts have the requests to show that a tail is within 20 % (`p99 +20 %` as a guard of its own
asks for it), so `latency` rolls back on the tail and promotes on p50 and p95.

The time of a part is that of a run with all requests that ran together, of any size, and is counted
once. An answer fails where a part does, so that `errors` sees those of all parts.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import numpy as np

from bascule.core import Invalid
from bascule.endpoints import MAX_TIMED_PARTS
from bascule.release.rollouts.answers import AnswersEvidence, judge_answers
from bascule.release.rollouts.evidence import (
    ANSWER_FIELDS,
    ANSWERS_OF_CANDIDATE,
    ANSWERS_OF_CURRENT,
    CANDIDATE,
    COMPARED,
    CURRENT,
    DISAGREEMENTS,
    MAX_LIMITS,
    ROUND,
    SHARE,
    Cohort,
    Floats,
    Interval,
    Limits,
    cohorts_of,
    column,
    counted_once,
    cut_shares,
    grouped,
    slow_column,
)
from bascule.release.rollouts.losses import (
    LABELS,
    Loss,
    is_on_outcomes,
    is_rate,
    units_of,
)
from bascule.stats import (
    Beyond,
    Evidence,
    decisive_cohorts,
    durations as duration_bins,
    late_proportions,
    mcnemar,
    quantiles,
    two_proportions,
)

_TEXT_RATES = {"refusals": ("texts", "refused"), "malformed": ("checked", "malformed")}
_RATES = ("errors", "fallbacks", "disagreement", "answers", *_TEXT_RATES)
_OF_TEXTS = {
    "first_token": duration_bins.FIRST_TOKEN, "tokens_per_s": duration_bins.TOKEN,
    "length": duration_bins.LENGTH, "brevity": duration_bins.BREVITY,
}  # fmt: skip
"""What is worse where it is less."""
_SHARE_OF_UNUSABLE = 0.1
"""Of the evidence of `errors`: answers that are not finite are rare, or all."""
_QUANTILES = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
_OF_PARTS = ("latency", *_QUANTILES, "accuracy", "roc_auc")
_HARMED = (0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999)
_SHOWN = (0.5, 0.95)
_HALF = 0.5
_LEAST_DURATIONS = 100
"""Answers of the current version in a class of work, before its limits are chosen."""
_GUARD = re.compile(
    r"^(?P<name>[a-z0-9._]+(?:\[[a-z0-9._]+\])?|cost\..+?|(?:wrong|judged|disagreement)\[.+?\])\s*(?P<sign>[+-])\s*(?P<amount>\d+(\.\d+)?(e-?\d+)?)\s*"
    r"(?P<unit>pp|%|ms|)$",
    re.IGNORECASE,
)
_PART = re.compile(r"(?P<name>[a-z0-9._]+)\[(?P<part>[a-z0-9._]+)\]")
_ALIKE = re.compile(
    r"disagreement\[\s*(?:(?P<model>\S+/\d+)\s+)?(?P<distance>0|0?\.\d+|1)\s*\]", re.IGNORECASE
)
_OUTCOMES = (
    "accuracy, roc_auc, log_loss, mae, mse, mape, pinball0.9, cost.COLUMN, wrong[COLUMN=VALUE], "
    "approval, judged[NAME]"
)


class Alike(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which texts agree: up to this distance, of edits or of a model's embeddings."""

    distance: float = 0.0
    embedding: str = ""

    def __str__(self) -> str:
        return f"{self.embedding} {self.distance:g}".strip()


class Guard(msgspec.Struct, frozen=True, omit_defaults=True):
    """One guardrail.

    Attributes:
        name: `errors`, `fallbacks`, `disagreement`, `answers`, `latency`, a quantile (`p95`), or
            one on outcomes (see `losses`).
        margin: What is allowed: a difference of rates (0.01), a share of the duration or of the
            loss (0.2), seconds, or a difference of losses.
        unit: `pp`, `%`, `ms`, or empty for the unit of the loss.
        loss: How outcomes are measured, once a rollout is begun.
        alike: Of `disagreement[...]`: which texts agree.
        part: Of compositions, the part that is compared; empty for the whole.
    """

    name: str
    margin: float
    unit: str
    loss: Loss | None = None
    alike: Alike | None = None
    part: str = ""

    @property
    def title(self) -> str:
        """Its name, and what it is of: `p95[score]`."""
        argument = self.part if self.alike is None else str(self.alike)
        return f"{self.name}[{argument}]" if argument else self.name

    @property
    def harmed(self) -> tuple[float, ...]:
        """The quantiles at which it is tested for harm; none of a rate."""
        if self.name == "latency":
            return _HARMED
        if self.name in _OF_TEXTS:
            return _SHOWN
        return (_QUANTILES[self.name],) if self.name in _QUANTILES else ()

    @property
    def shown(self) -> tuple[float, ...]:
        """Those at which a candidate must be shown to be within it, for a promotion."""
        return _SHOWN if self.name == "latency" else self.harmed

    @property
    def allowed(self) -> tuple[float, float]:
        """What a duration may become: a factor, and seconds more."""
        if self.name == "tokens_per_s":  # its durations are between tokens
            return 1.0 / (1.0 - self.margin), 0.0
        return (1.0, self.margin) if self.unit == "ms" else (1.0 + self.margin, 0.0)

    @property
    def is_of_texts(self) -> bool:
        """Whether only models that generate text can be compared by it."""
        return self.name in _OF_TEXTS or self.name in _TEXT_RATES

    @property
    def is_on_outcomes(self) -> bool:
        """Whether it compares answers with truths that come later."""
        return is_on_outcomes(self.name)

    @property
    def is_of_pairs(self) -> bool:
        """Whether it compares pairs of predictions."""
        return self.name == "roc_auc"

    @property
    def measure(self) -> Loss:
        """How outcomes are measured; rollouts begun by older versions stored none for accuracy."""
        return self.loss or LABELS

    @property
    def rate_margin(self) -> float:
        """The difference of rates that is allowed; limits have that of durations.

        Of losses, in units of their bound: relative ones are to the current version's level.
        """
        if self.harmed:
            return 0.0
        if not self.is_on_outcomes:
            return self.margin
        level = self.measure.level if self.unit == "%" else 1.0
        return self.margin * level / self.measure.bound

    def __str__(self) -> str:
        amount = self.margin * {"pp": 100, "%": 100, "ms": 1_000, "": 1}[self.unit]
        sign = "-" if _falls(self.name) else "+"
        return f"{self.title} {sign}{amount:g} {self.unit}".rstrip()


ANSWERS_GUARD = Guard("answers", 0.2, "pp")
"""The demo's model of flights, trained again with one month more, is 14 to 16 points away, and most
models of other data up to 10."""
DEFAULT_GUARDS = (Guard("errors", 0.01, "pp"), Guard("latency", 0.2, "%"), ANSWERS_GUARD)
TEXT_GUARDS = (
    Guard("errors", 0.01, "pp"), Guard("first_token", 0.2, "%"), Guard("tokens_per_s", 0.2, "%"),
    Guard("refusals", 0.05, "pp"),
)  # fmt: skip
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
        unknown: The share of the predictions of both arms without a truth; 0 where none is needed.
        cut: The shares of the losses that were cut at their bound, the candidate's first.
        worst: Of a latency: the quantile that `candidate` and `current` are of.
        least_shown: Of a latency: the quantile of which least is shown, and both rates there.
        answers: Of the guard `answers`: what the intervals say of it.
        unusable: Of the guard `errors`: the share of the answers of the candidate and the current
            version that have a value that is not finite.
        keys: Of `requests`, the first ones of units of sticky keys.
        again: Of keys that were counted again in a later round, what shows most harm; its
            `log_e_worse` has paid for the number of rounds. None where there is none.
    """

    guard: Guard
    requests: int
    candidate: float
    current: float
    evidence: Evidence
    bounded: Callable[..., Evidence]
    unknown: float = 0.0
    cut: tuple[float, float] = (0.0, 0.0)
    worst: str = ""
    least_shown: tuple[str, float, float] = ("", 0.0, 0.0)
    answers: AnswersEvidence | None = None
    unusable: tuple[float, float] = (0.0, 0.0)
    keys: int = 0
    again: Verdict | None = None


def _falls(name: str) -> bool:
    """Whether less of it is worse."""
    return is_rate(name) or name == "tokens_per_s"


def parse_guard(text: str) -> Guard:
    """Read `errors +1 pp`. Raises `Invalid`."""
    match = _GUARD.match(text.strip())
    known = ", ".join(
        [
            "errors",
            "fallbacks",
            "latency",
            *_QUANTILES,
            "disagreement",
            "answers",
            *_OF_TEXTS,
            *_TEXT_RATES,
            _OUTCOMES,
            "p95[PART], accuracy[PART] of a composition",
        ]
    )
    if match is None:
        raise Invalid(
            f"{text!r} is no guard", hint="write for example 'errors +1 pp' or 'p95 +20 %'"
        )
    name, sign, unit, part = match["name"], match["sign"], match["unit"].lower(), ""
    alike = _ALIKE.fullmatch(name)
    if alike is not None:
        name = "disagreement"
    elif not name.startswith(("cost.", "wrong[", "judged[")):
        name = name.lower()
        if of_part := _PART.fullmatch(name):
            name, part = of_part.groups()
    if part and name not in _OF_PARTS:
        raise Invalid(
            f"{name} is not compared for a part of a composition",
            hint=f"{', '.join(_OF_PARTS)} are; an answer of a part is where the composition has it "
            "among its outputs, and errors are those of all parts",
        )
    if is_on_outcomes(name):
        units = units_of(name)
    elif name in (*_RATES, *_QUANTILES, *_OF_TEXTS, "latency"):
        units = ("pp",) if name in _RATES else ("%", "ms")
        units = ("%",) if name in ("tokens_per_s", "length", "brevity") else units
    else:
        raise Invalid(
            f"there is no guard {name!r}",
            hint="'mse +5 %' is shown as rmse" if name == "rmse" else f"there are {known}",
        )
    if unit not in units:
        among = " or ".join(allowed or "its own unit ('mae +0.2')" for allowed in units)
        raise Invalid(f"{name} is guarded in {among}, not in {unit or 'a number alone'!r}")
    if (sign == "-") != _falls(name):
        worse = "falls" if _falls(name) else "rises"
        raise Invalid(f"{text!r} allows a gain", hint=f"a candidate is worse where {name} {worse}")
    amount = float(match["amount"]) / {"ms": 1_000, "": 1}.get(unit, 100)
    if amount >= 1 and (unit == "pp" or name == "tokens_per_s"):
        raise Invalid(f"{text!r} allows everything", hint="a rate differs by less than 100 pp")
    if unit != "pp" and amount == 0:
        raise Invalid(
            f"{text!r} allows no noise",
            hint="allow at least '+4 %': equal versions differ in nothing but chance",
        )
    is_of_durations = name not in _RATES and not is_on_outcomes(name)
    if (
        unit == "%"
        and is_of_durations
        and duration_bins.counted_factor(1 + amount, is_up=False) == 1
    ):
        raise Invalid(
            f"no version can be shown to be within {text!r}: durations are counted in steps of "
            "3.7 %",
            hint="allow at least '+4 %'",
        )
    if alike is None:
        return Guard(name, amount, unit, part=part)
    return Guard(name, amount, unit, alike=Alike(float(alike["distance"]), alike["model"] or ""))


def check_limits(guards: Sequence[Guard]) -> None:
    """Raises `Invalid` where the guards compare more quantiles or parts than are kept."""
    if len(parts := parts_of(guards)) > MAX_TIMED_PARTS:
        raise Invalid(
            f"the guards compare the times of {len(parts)} parts: {', '.join(parts)}",
            hint=f"name {MAX_TIMED_PARTS} at most; latency compares the whole",
        )
    limits = Counter[str]()
    for guard in guards:
        limits[guard.part] += len(guard.harmed) + len(guard.shown)
    if max(limits.values()) > MAX_LIMITS:
        raise Invalid(
            "the guards compare more quantiles of latency than are kept",
            hint="use 'latency +20 %', which compares p25 to p99.9, and two quantiles beside it",
        )


def parts_of(guards: Sequence[Guard]) -> tuple[str, ...]:
    """The parts whose times are compared, in the order of their classes (`durations.PARTS`)."""
    return tuple(dict.fromkeys(guard.part for guard in guards if guard.part and guard.harmed))


def _strata(guard: Guard, guards: Sequence[Guard]) -> Sequence[int]:
    """Of a latency, or what is counted as one: the classes in which it is compared."""
    if guard.part:
        return (duration_bins.PARTS[parts_of(guards).index(guard.part)],)
    return (_OF_TEXTS[guard.name],) if guard.name in _OF_TEXTS else duration_bins.WORK


def limits_of(guards: Sequence[Guard], counted: Sequence[Interval]) -> Limits:
    """From which bins answers count as slow, in the order in which `judge` reads the counts.

    Args:
        guards: Of the rollout.
        counted: By all sources, before the interval that is to be sealed.

    Returns:
        Of the classes of work with enough answers, if a guard compares latency.
    """
    counts = sum(
        (duration_bins.dense(interval.current.durations) for interval in counted),
        duration_bins.dense(()),
    )
    known = np.flatnonzero(counts.sum(axis=1) >= _LEAST_DURATIONS).tolist()
    parts = dict(zip(duration_bins.PARTS, parts_of(guards), strict=False))
    limits: dict[int, Sequence[Sequence[int]]] = {}
    for part in ("", *parts.values()):
        classes = [of for of in known if parts.get(of, "") == part]
        chosen = [
            duration_bins.limits(counts[classes], 1 - quantile, guard.allowed, proves=proves)
            for guard in guards
            for quantiles, proves in ((guard.harmed, False), (guard.shown, True))
            for quantile in quantiles
            if guard.part == part
        ]
        if chosen:
            sides = [np.stack(bins, axis=1).tolist() for bins in zip(*chosen, strict=True)]
            limits |= {of: pair for of, *pair in zip(classes, *sides, strict=True)}
    return limits


def judge(
    guards: Sequence[Guard], table: Floats, cohorts: Sequence[Cohort], alpha: float,
    *, in_pairs: bool = True,
) -> list[Verdict]:  # fmt: skip
    """What the evidence says of each guardrail.

    Args:
        guards: Of the rollout.
        table: Its intervals, see `evidence.table_of`.
        cohorts: In the order of time.
        alpha: The promised share of good versions that are rolled back.
        in_pairs: Whether the current version answers some of the candidate's requests too.
    """
    verdicts, outcome = [], 0
    firsts = Counter[str]()  # limits of a class are those of one part, or of the whole
    for guard in guards:
        if guard.is_on_outcomes:
            verdicts.append(_by_outcomes(guard, cohorts, outcome, alpha))
            outcome += 1
        elif guard.harmed:
            strata, first = _strata(guard, guards), firsts[guard.part]
            verdicts.append(_latency(guard, table, first, strata))
            firsts[guard.part] += len(guard.harmed) + len(guard.shown)
        else:
            verdicts.append(_judged(guard, table, alpha, in_pairs=in_pairs))
    return verdicts


def _by_outcomes(guard: Guard, cohorts: Sequence[Cohort], place: int, alpha: float) -> Verdict:
    """The rates are those of the cohorts that decide, at their worst for what they show.

    A rate is a mean loss in units of its bound.
    """
    with_squares = not is_rate(guard.name) or guard.measure.rectifier is not None
    counts = cohorts_of(cohorts, place, with_squares=with_squares, of_pairs=guard.is_of_pairs)
    test = partial(late_proportions, counts, margin=guard.rate_margin, alpha=alpha)
    evidence = test(bounds=False)
    harm = evidence.log_e_worse >= evidence.log_e_safe
    last = decisive_cohorts(counts, margin=guard.rate_margin, harm=harm) or len(counts)
    columns = [0, 1, 3, 4, 5, 7] if with_squares else list(range(6))
    n_c, k_c, u_c, n_0, k_0, u_0 = map(float, counts[:last, columns].sum(axis=0))
    candidate, current = (k_c, k_0 + u_0) if harm else (k_c + u_c, k_0)
    n_of_c, _, u_of_c, n_of_0, _, u_of_0 = map(float, counts[:, columns].sum(axis=0))
    return Verdict(
        guard, int(n_of_c + n_of_0), candidate / max(n_c, 1), current / max(n_0, 1), evidence,
        test, (u_of_c + u_of_0) / max(n_of_c + n_of_0, 1), cut_shares(cohorts, place),
    )  # fmt: skip


def _judged(guard: Guard, table: Floats, alpha: float, *, in_pairs: bool) -> Verdict:
    if guard.name == "disagreement":
        compared, unlike = (int(table[:, place].sum()) for place in (COMPARED, DISAGREEMENTS))
        test = partial(mcnemar, unlike, 0, compared, margin=guard.margin, alpha=alpha)
        return Verdict(guard, compared, unlike / max(compared, 1), 0.0, test(bounds=False), test)
    if guard.name in _TEXT_RATES:
        counts = grouped(table, _columns_of_answers(*_TEXT_RATES[guard.name]))
        test = partial(two_proportions, counts, margin=guard.margin, alpha=alpha)
        return _verdict(guard, counts, test)
    if guard.name == "answers":
        return _answers_verdict(guard, table, in_pairs=in_pairs)
    return _by_rate(guard, table, alpha)


def _by_rate(guard: Guard, table: Floats, alpha: float) -> Verdict:
    """Errors or fallbacks; of later rounds, the one that shows most harm at its stake."""
    keys = int(table[:, [column(CANDIDATE, "keys"), column(CURRENT, "keys")]].sum())

    def verdict(rows: Floats) -> Verdict:
        counts = grouped(counted_once(rows, guard.name), (1, 2, 3, 4))
        test = partial(two_proportions, counts, margin=guard.margin, alpha=alpha)
        return replace(_verdict(guard, counts, test), keys=keys)

    places = table[:, [0, ROUND]]
    again: Verdict | None = None
    for number, place in enumerate(_later_rounds(places), 1):
        later = verdict(table[(places == place).all(axis=1)])
        log_e = later.evidence.log_e_worse - math.log(number * (number + 1))
        if again is None or log_e > again.evidence.log_e_worse:
            again = replace(later, evidence=replace(later.evidence, log_e_worse=log_e))
    first = replace(verdict(table[places[:, 1] == 0]), again=again)
    return _with_unusable(first, table) if guard.name == "errors" else first


def _later_rounds(places: Floats) -> Floats:
    """The stages and rounds after the first round of each stage, in the order of time.

    From (intervals, 2). Each keeps its number when others follow.
    """
    later = places[places[:, 1] > 0]
    _, first = np.unique(later, axis=0, return_index=True)
    return np.asarray(later[np.sort(first)])


def _answers_verdict(guard: Guard, table: Floats, *, in_pairs: bool) -> Verdict:
    """Harm is a constant answer alone; safe is what is within the margin and of the same rows."""
    answers = judge_answers(table, guard.margin, in_pairs=in_pairs)
    evidence = Evidence(
        answers.log_e_constant, min(answers.log_e_within, answers.log_e_aligned),
        answers.candidate - answers.current, -1.0, 1.0,
    )  # fmt: skip
    return Verdict(
        guard, answers.requests, answers.candidate, answers.current, evidence, lambda **_: evidence,
        answers=answers,
    )  # fmt: skip


def _with_unusable(verdict: Verdict, table: Floats) -> Verdict:
    """With the answers that have a value that is not finite, of those that were looked at."""
    counts = grouped(table, _columns_of_answers("looked", "unusable"))
    if not counts[:, 0].any():
        return verdict
    test = two_proportions(counts, margin=verdict.guard.margin, bounds=False)
    n_c, e_c, n_0, e_0 = counts.sum(axis=0).tolist()
    evidence = replace(
        verdict.evidence,
        log_e_worse=float(
            np.logaddexp(
                math.log1p(-_SHARE_OF_UNUSABLE) + verdict.evidence.log_e_worse,
                math.log(_SHARE_OF_UNUSABLE) + test.log_e_worse,
            )
        ),
        log_e_safe=min(verdict.evidence.log_e_safe, test.log_e_safe),
    )
    return replace(verdict, evidence=evidence, unusable=(e_c / max(n_c, 1), e_0 / max(n_0, 1)))


def _columns_of_answers(*names: str) -> list[int]:
    """The columns of counts of answers, the candidate's first."""
    arms = (ANSWERS_OF_CANDIDATE, ANSWERS_OF_CURRENT)
    return [arm + ANSWER_FIELDS.index(name) for arm in arms for name in names]


def _verdict(guard: Guard, counts: Floats, test: Callable[..., Evidence]) -> Verdict:
    n_c, e_c, n_0, e_0 = (float(total) for total in counts.sum(axis=0))
    return Verdict(
        guard, int(n_c + n_0), e_c / max(n_c, 1), e_0 / max(n_0, 1), test(bounds=False), test
    )


def _latency(guard: Guard, table: Floats, first: int, strata_of: Sequence[int]) -> Verdict:
    # More requests of the larger arm run together, so that its parts seem slower. Harm of a part is
    # counted where the candidate has half of the requests or less, and proof where half or more.
    both = [table, table]
    if guard.part:
        both = [table[table[:, SHARE] <= _HALF + 1e-9], table[table[:, SHARE] >= _HALF - 1e-9]]
    harming, proving = (_slow_counts(guard, rows, first, strata_of) for rows in both)

    def beyond(counted: list[Floats], quantile: float, place: int) -> Beyond:
        columns = [0, 4 + place, 2, 4 + len(guard.harmed) + len(guard.shown) + place]
        return Beyond(1 - quantile, [counts[:, columns] for counts in counted])

    harm = [beyond(harming, quantile, place) for place, quantile in enumerate(guard.harmed)]
    proof = [beyond(proving, quantile, len(harm) + at) for at, quantile in enumerate(guard.shown)]
    evidence, worst, least = quantiles(harm, proof)
    requests = [
        sum(counts[:, [0, 2]].sum() for counts in counted) for counted in (harming, proving)
    ]
    return Verdict(
        guard, int(max(requests)), *harm[worst].rates(), evidence,
        lambda **_: evidence, worst=_named(guard.harmed[worst]),
        least_shown=(_named(guard.shown[least]), *proof[least].rates()),
    )  # fmt: skip


def _slow_counts(guard: Guard, table: Floats, first: int, strata_of: Sequence[int]) -> list[Floats]:
    """By class: groups of all answers of both arms, and those beyond each limit."""
    every = range(first, first + len(guard.harmed) + len(guard.shown))
    return [
        grouped(
            table,
            [
                slow_column(CANDIDATE, of), slow_column(CANDIDATE, of, first),
                slow_column(CURRENT, of), slow_column(CURRENT, of, first),
                *(slow_column(arm, of, limit) for arm in (CANDIDATE, CURRENT) for limit in every),
            ],
        )
        for of in strata_of
    ]  # fmt: skip


def _named(quantile: float) -> str:
    return f"p{100 * quantile:g}"
