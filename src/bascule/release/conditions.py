"""On which rows, and in what state, a criterion is measured: what stands in its brackets. Pure.

roc_auc[carrier=AA]     the rows with that value
roc_auc[by carrier]     each value of the column; the worst one counts
roc_auc[missing 10%]    with values left out at random, where the model takes missing ones
roc_auc[noise 1%]       with noise of that part of each column's standard deviation
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bascule.core.errors import Invalid

_STATE = re.compile(r"(?P<kind>missing|noise)\s+(?P<percent>\d+\.?\d*|\.\d+)\s*%")
_BY = re.compile(r"by\s+(?P<column>.+)")
_SLICE = re.compile(r"(?P<column>[^=]+?)\s*=\s*(?P<value>.+)")
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


Condition = Slice | Each | Missing | Noise


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
