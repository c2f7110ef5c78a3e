"""On which rows, and in what state, a criterion is measured: what stands in its brackets. Pure.

roc_auc[carrier=AA]     the rows with that value
roc_auc[by carrier]     each value of the column; the worst one counts
roc_auc[missing 10%]    with values left out at random, where the model takes missing ones
roc_auc[noise 1%]       with noise of that part of each column's standard deviation
conformal_coverage[0.9] of sets or intervals that should hold the truth nine times in ten
equalized_odds_difference[sex*race]  the groups of rows by the values of columns, crossed
judge_score[helpful]    by the judge of that name
lm_eval[evals/sums/acc] by that metric of a task; see `harness`
robust_accuracy[linf=0.1]            rows changed by at most so much; see `robustness`
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bascule.core import Invalid

_STATE = re.compile(r"(?P<kind>missing|noise)\s+(?P<percent>\d+\.?\d*|\.\d+)\s*%")
_BY = re.compile(r"by\s+(?P<column>.+)")
_SLICE = re.compile(r"(?P<column>[^=]+?)\s*=\s*(?P<value>.+)")
_LEVEL = re.compile(r"\d*\.\d+")
_CHANGE = re.compile(r"(?P<kind>\w+)\s*=\s*(?P<size>(?:\d+\.?\d*|\.\d+)(?:[eE]-?\d{1,3})?)")
CHANGES = ("linf", "l2", "noise", "missing", "out_of_range")
"""What may be done to rows whose answers should stay."""
_EXAMPLES = "write [carrier=AA], [by carrier], [missing 10%] or [noise 1%]"


@dataclass(frozen=True, slots=True)
class Slice:
    """The rows in which `column` holds `value`."""

    column: str
    value: str

    def __str__(self) -> str:
        return f"{self.column}={self.value}"


@dataclass(frozen=True, slots=True)
class Each:
    """Every value of `column` in turn."""

    column: str

    def __str__(self) -> str:
        return f"by {self.column}"


@dataclass(frozen=True, slots=True)
class Missing:
    """Values are left out, each with this probability."""

    percent: float

    def __str__(self) -> str:
        return f"missing {self.percent:g}%"


@dataclass(frozen=True, slots=True)
class Noise:
    """Normal noise is added to numbers with a fraction."""

    percent: float

    def __str__(self) -> str:
        return f"noise {self.percent:g}%"


@dataclass(frozen=True, slots=True)
class Confidence:
    """What prediction sets and intervals are asked to hold the truth with."""

    level: float

    def __str__(self) -> str:
        return f"{self.level:.12g}"


@dataclass(frozen=True, slots=True)
class Groups:
    """The rows in groups, by the values of these columns crossed."""

    columns: tuple[str, ...]

    def __str__(self) -> str:
        return "*".join(self.columns)


@dataclass(frozen=True, slots=True)
class Change:
    """What rows are changed by: one of `CHANGES`, and how much of it."""

    kind: str
    size: float

    def __str__(self) -> str:
        return f"{self.kind}={self.size:.12g}"


Condition = str | Slice | Each | Missing | Noise | Confidence | Groups | Change
"""A text is the name of a judge, of a file, or of a metric of a task."""


def parse_condition(text: str, inside: str) -> Condition:
    """Read what stands in the brackets of the criterion `text`; raises `Invalid`."""
    inside = inside.strip()
    if state := _STATE.fullmatch(inside):
        percent = float(state["percent"])
        if state["kind"] == "missing" and not 0 < percent <= 100:
            raise Invalid(f"{text!r}: {percent:g}% is not a share above 0%", hint=_EXAMPLES)
        if percent <= 0 or percent > 1000:
            raise Invalid(f"{text!r}: {percent:g}% is no amount of noise", hint=_EXAMPLES)
        return Missing(percent) if state["kind"] == "missing" else Noise(percent)
    if by := _BY.fullmatch(inside):
        return Each(by["column"].strip())
    if one := _SLICE.fullmatch(inside):
        return Slice(one["column"].strip(), one["value"].strip())
    raise Invalid(f"{text!r}: [{inside}] says no rows and no state", hint=_EXAMPLES)


def parse_confidence(text: str, inside: str | None) -> Confidence:
    """Read the confidence in the brackets of the criterion `text`; raises `Invalid`."""
    hint = "write conformal_coverage[0.9] >= 0.88"
    if inside is None:
        raise Invalid(f"{text!r}: conformal_coverage needs a confidence", hint=hint)
    if not _LEVEL.fullmatch(inside.strip()) or not 0 < float(inside) < 1:
        raise Invalid(
            f"{text!r}: the confidence {inside.strip()!r} is not a number over 0 and under 1",
            hint=hint,
        )
    return Confidence(float(inside))


def parse_groups(text: str, inside: str | None) -> Groups:
    """Read the attributes in the brackets of the criterion `text`; raises `Invalid`."""
    columns = tuple(name.strip() for name in (inside or "").split("*"))
    if not all(columns) or len(set(columns)) < len(columns):
        raise Invalid(
            f"{text!r}: groups need an attribute, or several different ones",
            hint="write [sex], or [sex*race] for the groups of both",
        )
    return Groups(columns)


def parse_change(text: str, inside: str | None, kinds: tuple[str, ...]) -> Change:
    """Read the change in the brackets of the criterion `text`; raises `Invalid`."""
    change = _CHANGE.fullmatch((inside or "").strip())
    if change is None or change["kind"] not in kinds or not float(change["size"]):
        raise Invalid(
            f"{text!r}: [{inside or ''}] says no change of the rows",
            hint=f"write [{kinds[0]}=0.1]; there are {', '.join(kinds)}",
        )
    size = float(change["size"])
    if change["kind"] in ("missing", "out_of_range") and size > 1:
        raise Invalid(f"{text!r}: {size:g} is no share of the values", hint="write 0.05 for 5 %")
    return Change(change["kind"], size)
