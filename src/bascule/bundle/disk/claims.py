"""What must be claimed of a bundle before it is used, and whether its passports do. Pure.

A requirement is `signed by NAME`, `MEASURE OPERATOR NUMBER`, or the name of a part of the passport:
`parity`, `gates`, `fairness`, `approvals`, `rollouts`, or another kind of statement. Where several
passports hold, the newest that speaks of a requirement decides: so a later failure counts.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bascule.core import Invalid

_COMPARISON = re.compile(r"\s*(\S(?:.*?\S)?)\s*(<=|>=|<|>)\s*(\S+)\s*")
_SIGNED = re.compile(r"\s*signed by\s+(\S+)\s*")
_PART = re.compile(r"\s*([a-z][a-z0-9_]*)\s*")
_OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_MIN_FINGERPRINT = 8


@dataclass(frozen=True, slots=True)
class Passport:
    """What a verified passport says.

    Attributes:
        predicate: Its claims; see `release.passports`.
        key: The fingerprint of the key that signed it.
        signer: The file of this key, without its ending.
        issued_at: ISO 8601, in UTC.
    """

    predicate: Mapping[str, Any]
    key: str
    signer: str
    issued_at: str


@dataclass(frozen=True, slots=True)
class Requirement:
    """One entry of `security.required_claims`.

    Attributes:
        text: As it is written.
        name: A part, a measure or a signer.
        kind: `part`, `number` or `signer`.
        sign: The operator of a `number`.
        limit: Its limit.
    """

    text: str
    name: str
    kind: str = "part"
    sign: str = ""
    limit: float = math.nan

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Raises `Invalid` where it is of none of the three forms."""
        if signed := _SIGNED.fullmatch(text):
            return cls(text, signed[1], "signer")
        if compared := _COMPARISON.fullmatch(text):
            try:
                limit = float(compared[3])
            except ValueError:
                limit = math.nan
            if math.isfinite(limit):
                return cls(text, "".join(compared[1].split()), "number", compared[2], limit)
        elif part := _PART.fullmatch(text):
            return cls(text, part[1])
        raise Invalid(
            f"{text!r} is no claim",
            hint="write 'parity', 'gates', 'signed by ada' or 'epsilon <= 3'",
        )


def missing(passports: Sequence[Passport], requirements: Sequence[Requirement]) -> dict[str, str]:
    """The requirements that are not met, each with the reason."""
    newest_first = sorted(passports, key=lambda passport: passport.issued_at, reverse=True)
    unmet = {}
    for required in requirements:
        verdicts = ((_judge(required, passport), passport) for passport in newest_first)
        says = next(((met, by) for met, by in verdicts if met is not None), None)
        if says is None:
            unmet[required.text] = "no valid passport says so"
        elif not says[0]:
            unmet[required.text] = f"the passport of {says[1].issued_at[:19]} says the contrary"
    return unmet


def _judge(required: Requirement, passport: Passport) -> bool | None:
    """Whether a passport meets the requirement; None where it does not speak of it."""
    if required.kind == "signer":
        is_key = len(required.name) >= _MIN_FINGERPRINT and passport.key.startswith(required.name)
        return True if is_key or passport.signer == required.name else None
    claims = passport.predicate
    if required.kind == "part":
        part = claims.get(required.name, claims.get("statements", {}).get(required.name))
        if isinstance(part, list):
            return bool(part[-1].get("passed", True)) if part else None
        return bool(part.get("passed", True)) if part else None
    values = _values(claims, required.name)
    compare = _OPERATORS[required.sign]
    return all(compare(value, required.limit) for value in values) if values else None


def _values(claims: Mapping[str, Any], name: str) -> list[float]:
    """The values of a measure: of the gates; else of the statements, those least deep.

    `epsilon` is that of any kind, and with `privacy.` before it of that kind alone. Where several
    are equally deep, each must meet the limit.
    """
    judged = [
        float(result["value"])
        for result in claims.get("gates", {}).get("results", ())
        if result.get("value") is not None
        and re.split("<=|>=|<|>", "".join(str(result["criterion"]).split()))[0] == name
    ]
    if judged:
        return judged
    parts = name.split(".")
    places = [
        (len(path), value)
        for path, value in _numbers(claims.get("statements", {}), ())
        if list(path[-len(parts) :]) == parts
    ]
    least = min((depth for depth, _ in places), default=0)
    return [value for depth, value in places if depth == least]


def _numbers(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _numbers(part, (*path, *str(name).split(".")))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)
