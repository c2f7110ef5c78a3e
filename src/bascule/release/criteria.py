"""One quantitative requirement, and how it is written. Pure: nothing is measured here.

`bascule.metrics` has the facts of the quality metrics.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from bascule.core import Invalid
from bascule.metrics import DISPARITIES, METRICS as QUALITY_METRICS, is_error
from bascule.release.conditions import (
    CHANGES,
    Condition,
    Each,
    Missing,
    Noise,
    Slice,
    parse_change,
    parse_condition,
    parse_confidence,
    parse_groups,
)

Operator = Literal[">=", "<=", ">", "<"]

LATENCIES = ("latency_p50", "latency_p99")
SIZES = ("peak_memory", "size")
DATA = (
    "conformal_coverage",
    "coverage",
    "finite",
    "stability",
    "target_in_features",
    "train_test_overlap",
)
"""What is asked of the held-out rows, and of the answers to them."""
OF_FORM = frozenset({"parity", *LATENCIES, *SIZES})
"""What can be asked of a bundle without held-out rows."""
QUALITIES = frozenset(QUALITY_METRICS)
"""What is measured of answers with their truth: see `metrics.table`."""
PRIVACIES = ("epsilon", "membership_epsilon")
"""What is claimed of the training, and what an attack showed: see `bundle.statements.privacy`."""
ROBUST = {"robust_accuracy": CHANGES, "certified_accuracy": ("l2",)}
"""What is measured of answers to changed rows, and the changes of each."""
TEXTS = {
    "exact_match": False, "judge_score": False, "lm_eval": False, "perplexity": True,
    "toxicity": True,
}  # fmt: skip
"""What is measured of models that generate text, and whether less is better; see `texts`."""
METRICS = QUALITIES | {*LATENCIES, *SIZES, *DATA, *PRIVACIES, "parity", *ROBUST, *TEXTS}
"""Every metric that a criterion may name, beside `metrics.DISPARITIES`."""
_KNOWN = METRICS | DISPARITIES.keys()

FIRST_CRITERION = {
    "classification": "accuracy >= 0.9",
    "generation": "exact_match >= 0.7",
    "outlier-detection": "balanced_accuracy >= 0.8",
    "ranking": "ndcg_10 >= 0.7",
    "regression": "r2 >= 0.5",
    "survival": "concordance >= 0.7",
}
"""By task: one to begin with."""
_USUAL = ("accuracy", "roc_auc", "rmse")

_MILLISECONDS = {"us": Decimal("0.001"), "ms": Decimal(1), "s": Decimal(1000)}
_MEGABYTES = {"KB": Decimal("0.001"), "MB": Decimal(1), "GB": Decimal(1000)}
_WRITTEN = re.compile(
    r"\s*(?P<metric>[A-Za-z_][A-Za-z0-9_]*)\s*(?:\[(?P<inside>.*)\])?"
    r"\s*(?P<operator>>=|<=|==|!=|=|>|<)"
    r"\s*(?P<limit>[-+]?[^\s]*?)\s*(?P<unit>[A-Za-z%]*)\s*"
)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9@/._-]*")
_OPERATORS = (">=", "<=", ">", "<")
_EXAMPLES = "write it like 'roc_auc >= 0.8', 'latency_p99[100] <= 5 ms' or 'size <= 20 MB'"


@dataclass(frozen=True, slots=True)
class Criterion:
    """A metric, how it must compare, and the limit.

    Attributes:
        metric: One of `METRICS`.
        operator: How the measured value must stand to the limit.
        limit: In milliseconds for a latency, in megabytes (10^6 bytes) for a size, else as is.
        batch: Rows in a request, for a latency; None for everything else.
        condition: Which rows, or in what state, for a quality; None for all rows as they are.
    """

    metric: str
    operator: Operator
    limit: float
    batch: int | None = None
    condition: Condition | None = None

    @classmethod
    def parse(cls, text: str) -> Criterion:
        """Read `metric >= limit unit`. Raises `Invalid`, which names what is wrong with it."""
        if compared := _COMPARED.fullmatch(text):
            return _not_worse(text, compared)
        if not (written := _WRITTEN.fullmatch(text)):
            raise _no_criterion(text)
        metric, operator = written["metric"], written["operator"]
        if metric not in _KNOWN:
            raise _unknown_metric(text, metric)
        against = written["limit"] + written["unit"]
        is_name = _NAME.fullmatch(against) and against.casefold() not in ("inf", "infinity", "nan")
        if is_name and (metric in QUALITIES or metric in TEXTS):
            sign = ("<=", "+") if _is_error(metric) else (">=", "-")
            raise Invalid(
                f"{text!r}: a comparison with {against!r} needs a margin",
                hint=f"write '{metric} {sign[0]} {against} {sign[1]} 0.01'",
            )
        if operator not in _OPERATORS:
            raise Invalid(
                f"{text!r} compares with {operator!r}, which is not one of {', '.join(_OPERATORS)}",
                hint=_EXAMPLES,
            )
        return cls(
            metric,
            operator,  # type: ignore[arg-type]  # checked against the four of them above
            _limit(text, metric, written["limit"], written["unit"]),
            _batch(text, metric, written["inside"]),
            _condition(text, metric, written["inside"]),
        )

    @property
    def measure(self) -> str:
        """What has to be measured for it, `latency_p99[100]`: the key of its fact."""
        if isinstance(self.condition, Each) or self.metric == "lm_eval":
            # The worst slice, and the end of an interval that counts, depend on the direction.
            return f"{'least' if self.wants_more else 'most'} {self._named}"
        return self._named

    @property
    def wants_more(self) -> bool:
        """Whether larger values meet it."""
        return self.operator.startswith(">")

    @property
    def _named(self) -> str:
        inside = self.batch if self.condition is None else self.condition
        return self.metric if inside is None else f"{self.metric}[{inside}]"

    @property
    def unit(self) -> str:
        """Of the limit and of the value: `ms`, `MB`, or nothing."""
        return _unit(self.metric)

    def accepts(self, value: float) -> bool:
        """Whether a value meets it. What is not a number meets nothing."""
        match self.operator:
            case ">=":
                return value >= self.limit
            case "<=":
                return value <= self.limit
            case ">":
                return value > self.limit
            case "<":
                return value < self.limit

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        name = self.metric if self.batch == 1 else self._named
        return f"{name} {self.operator} {self.limit:.12g}{unit}"


def _is_error(metric: str) -> bool:
    return TEXTS[metric] if metric in TEXTS else is_error(metric)


def _unit(metric: str) -> str:
    if metric in LATENCIES:
        return "ms"
    return "MB" if metric in SIZES else ""


def _limit(text: str, metric: str, limit: str, unit: str) -> float:
    if not _NUMBER.fullmatch(limit):
        raise Invalid(f"{text!r}: the limit {limit + unit!r} is not a number", hint=_EXAMPLES)
    factors: Mapping[str, Decimal] = {"ms": _MILLISECONDS, "MB": _MEGABYTES}.get(_unit(metric), {})
    if not factors and unit:
        raise Invalid(f"{text!r}: {metric} has no unit, and {unit!r} is given", hint=_EXAMPLES)
    if factors and unit not in factors:
        allowed = ", ".join(factors)
        found = f"{unit!r} is none of them" if unit else "there is none"
        raise Invalid(
            f"{text!r}: {metric} needs a unit of {allowed}, and {found}",
            hint=f"write {metric} <= 5 {_unit(metric)}",
        )
    # Decimal, so that 0.0003 s is 0.3 ms and not a little less.
    value = float(Decimal(limit) * factors.get(unit, Decimal(1)))
    if value in (float("inf"), float("-inf")):
        raise Invalid(f"{text!r}: the limit {limit} is too large for a number", hint=_EXAMPLES)
    return value


_NAMED = {
    "judge_score": "judge_score[NAME] >= 0.7, a judge of the settings",
    "lm_eval": "lm_eval[TASK/METRIC] >= 0.4 or lm_eval[FOLDER/TASK/METRIC] >= 0.4",
    "toxicity": "toxicity[words.txt] <= 0.01, a file with a word a line",
}


def _condition(text: str, metric: str, inside: str | None) -> Condition | None:
    """What the brackets say; only some metrics have any."""
    if metric in LATENCIES:
        return None
    if metric == "conformal_coverage":
        return parse_confidence(text, inside)
    if metric in DISPARITIES:
        return parse_groups(text, inside)
    if metric in _NAMED:
        name = (inside or "").strip()
        if name and (metric != "lm_eval" or all(name.rpartition("/"))):
            return name
        raise Invalid(f"{text!r}: {metric} needs a name", hint=f"write {_NAMED[metric]}")
    if metric in ROBUST:
        return parse_change(text, inside, ROBUST[metric])
    if inside is None:
        if metric == "stability":
            raise Invalid(
                f"{text!r}: stability needs a state", hint="write stability[noise 1%] >= 0.99"
            )
        return None
    allowed: tuple[type, ...] = ()
    if metric in QUALITIES:
        allowed = (Slice, Each, Missing, Noise)
    elif metric in ("finite", "stability"):
        allowed = (Missing, Noise)
    if not allowed:
        raise Invalid(
            f"{text!r}: {metric} has nothing in brackets", hint=f"write {metric} without [{inside}]"
        )
    condition = parse_condition(text, inside)
    if not isinstance(condition, allowed):
        raise Invalid(
            f"{text!r}: {metric} is measured on all rows", hint=f"write {metric}[noise 1%] >= 0.99"
        )
    return condition


def _batch(text: str, metric: str, batch: str | None) -> int | None:
    if metric not in LATENCIES:
        return None
    if batch is None:
        return 1
    digits = batch.strip()
    if not (digits.isascii() and digits.isdigit() and 1 <= int(digits) <= MAX_BATCH):
        raise Invalid(
            f"{text!r}: the batch size {batch!r} is not a whole number from 1 to {MAX_BATCH}",
            hint=f"write {metric}[100] <= 5 ms",
        )
    return int(digits)


MAX_BATCH = 65_536
"""Rows of the largest batch whose latency is measured."""


def _no_criterion(text: str) -> Invalid:
    """What is wrong with a text that has no operator."""
    metric = text.partition("[")[0].strip()
    if metric not in _KNOWN:
        return Invalid(f"{text!r} is not a criterion", hint=_EXAMPLES)
    unit = f" {_unit(metric)}" if _unit(metric) else ""
    sign = "<=" if unit or _is_error(metric) or metric.endswith("_difference") else ">="
    return Invalid(
        f"{text!r} is not a criterion: it has no limit",
        hint=f"quote it: -c '{text.strip()} {sign} 1{unit}'; a shell takes {sign[0]} outside of "
        "quotes for a file",
    )


def _unknown_metric(text: str, metric: str) -> Invalid:
    typed = metric.casefold()
    # Fairness of every metric is among what is known, and would hide the metric itself.
    among = _KNOWN if typed.endswith(("difference", "ratio")) else METRICS
    begun = [one for one in sorted(among) if len(typed) > 2 and one.startswith(typed)]
    alike = difflib.get_close_matches(typed, among, n=3, cutoff=0.5)
    near = list(dict.fromkeys([*begun, *alike]))[:3]
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return Invalid(
        f"{text!r}: there is no metric {metric!r}{guess}",
        hint=f"{'the nearest are' if near else 'usual ones are'} "
        f"{', '.join(near or _USUAL)}; docs/reference/criteria.md lists all",
        metric=metric,
    )


# -- compared with another version --

_COMPARED = re.compile(
    r"\s*(?P<metric>[A-Za-z_][A-Za-z0-9_]*)\s*(?:\[(?P<inside>[^\]]*)\])?"
    r"\s*(?P<operator>>=|<=|==|!=|=|>|<)\s*(?P<against>[A-Za-z][A-Za-z0-9@/._-]*)\s+(?P<sign>[-+])\s*(?P<margin>\S+)\s*"
)
_COMPARISONS = "write it like 'roc_auc >= champion - 0.01' or 'rmse <= champion + 0.5'"


@dataclass(frozen=True, slots=True)
class NotWorse(Criterion):
    """A quality that may not be worse than that of another version by a margin or more.

    What is measured for it is the lower end of the interval of the difference, better when larger,
    on the same rows: that must be over minus the margin, which is the limit.

    Attributes:
        against: The other version: an alias of the same model, or a reference.
    """

    against: str = ""

    @property
    def margin(self) -> float:
        """How much worse the quality must not be."""
        return -self.limit

    @property
    def measure(self) -> str:
        return str(self)

    def __str__(self) -> str:
        operator, sign = ("<=", "+") if _is_error(self.metric) else (">=", "-")
        return f"{self._named} {operator} {self.against} {sign} {self.margin:.12g}"


def _not_worse(text: str, compared: re.Match[str]) -> NotWorse:
    metric, against = compared["metric"], compared["against"]
    if metric not in METRICS:
        raise _unknown_metric(text, metric)
    if metric not in QUALITIES and metric not in TEXTS:
        raise Invalid(
            f"{text!r}: {metric} is not compared with another version, only a quality is",
            hint=_COMPARISONS,
        )
    sign = ("<=", "+") if _is_error(metric) else (">=", "-")
    if (compared["operator"], compared["sign"]) != sign:
        better = "smaller" if _is_error(metric) else "larger"
        raise Invalid(
            f"{text!r}: {metric} is better when {better}",
            hint=f"write {metric} {sign[0]} {against} {sign[1]} {compared['margin']}",
        )
    margin = float(compared["margin"]) if _NUMBER.fullmatch(compared["margin"]) else 0.0
    if not 0 < margin < float("inf"):
        raise Invalid(
            f"{text!r}: the margin {compared['margin']!r} is not a number over 0; no test can show "
            "that nothing at all is lost",
            hint=_COMPARISONS,
        )
    if compared["inside"] is not None and metric not in TEXTS:
        raise Invalid(
            f"{text!r}: {metric} is compared on all rows", hint=f"leave out [{compared['inside']}]"
        )
    condition = _condition(text, metric, compared["inside"])
    return NotWorse(metric, ">", -margin, condition=condition, against=against)
