"""The passport of a bundle: one signed envelope that says what was proven of it.

A statement of the kind `passport`, whose body is a DSSE envelope around an in-toto Statement v1.
Its first subject is the manifest, whose SHA-256 is the bundle's digest; the others are the files.
Later evidence makes a further passport: the earlier ones stay, and hold for what they say.

What must be claimed is `MEASURE OPERATOR NUMBER`, or the name of a part of the passport: `parity`,
`gates`, `approvals`, `rollouts`, or a kind of statement, such as `fairness`. Where several hold,
the newest passport that speaks of it decides: so a later failure counts.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from bascule.bundle.disk.manifest import MANIFEST, Manifest, Statement
from bascule.core import Invalid, Untrusted, canonical_json
from bascule.security import open_envelope, sign_envelope

PASSPORT = "passport"
_TYPES = {
    "_type": "https://in-toto.io/Statement/v1",
    "predicateType": "https://bascule.dev/passport/v1",
}
_SKEW = timedelta(minutes=5)
"""How far the clock of a signer may be ahead of that of a reader."""
_COMPARISON = re.compile(r"\s*(\S(?:.*?\S)?)\s*(<=|>=|<|>)\s*(-?\d*\.?\d+(?:e-?\d+)?)\s*")
_PART = re.compile(r"\s*[a-z][a-z0-9_]*\s*")
_OPERATOR = re.compile("<=|>=|<|>")
_OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


Claims = Mapping[str, Any]
"""The predicate of a passport; see `release.passports`."""


def sign_passport(
    manifest: Manifest, claims: Claims, private_key: Path, *, password: str | None = None,
    now: datetime, by: str, expires_at: datetime | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The envelope of a passport: the body of its statement.

    Raises:
        Invalid: The key cannot be read, or is on no elliptic curve.
    """
    digests = {MANIFEST: manifest.digest}
    digests |= {name: entry.sha256 for name, entry in manifest.files.items()}
    subjects = [
        {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}
        for name, digest in digests.items()
    ]
    dated = {
        **claims, "issued_at": now.isoformat(), "issued_by": by,
        "expires_at": None if expires_at is None else expires_at.isoformat(),
    }  # fmt: skip
    statement = {**_TYPES, "subject": subjects, "predicate": dated}
    return sign_envelope(canonical_json(statement), private_key, password=password)


def open_passport(
    envelope: Mapping[str, Any], digest: str, public_keys: Sequence[Path], *, now: datetime
) -> tuple[Claims, Path]:
    """What a passport claims, and the key that signed it; signature, bundle and time are good.

    Raises:
        Untrusted: None of the keys signed it, it is of another bundle, or it does not hold now.
    """
    statement, key = open_envelope(envelope, public_keys)
    try:
        subjects = {part["name"]: part["digest"]["sha256"] for part in statement["subject"]}
        claims = statement["predicate"]
        issued_at = datetime.fromisoformat(claims["issued_at"])
        expires_at = claims["expires_at"] and datetime.fromisoformat(claims["expires_at"])
        problems = {
            "it is a statement of another kind than a passport":
                any(statement[name] != value for name, value in _TYPES.items()),
            f"it is of another bundle, sha256:{subjects[MANIFEST][:12]}":
                subjects[MANIFEST] != digest.removeprefix("sha256:"),
            f"it expired at {expires_at}": expires_at and now >= expires_at,
            f"it was issued in the future, at {issued_at}": issued_at > now + _SKEW,
        }  # fmt: skip
    except (KeyError, TypeError, ValueError) as damage:
        problems = {f"it is not a passport as Bascule writes them: {damage!r}": True}
    if refused := [problem for problem, holds in problems.items() if holds]:
        raise Untrusted(refused[0], hint="bascule passport write makes another")
    return claims, key


def valid_passports(
    statements: Iterable[Statement], digest: str, public_keys: Sequence[Path], *, now: datetime
) -> tuple[list[tuple[Claims, Path]], list[str]]:
    """The passports among statements that hold, newest first, with keys; and why others do not."""
    valid, refused = [], []
    for statement in statements:
        if statement.kind != PASSPORT:
            continue
        try:
            valid.append(open_passport(statement.body, digest, public_keys, now=now))
        except Untrusted as problem:
            refused.append(f"the passport of {statement.at[:19]} is refused: {problem.message}")
    return sorted(valid, key=lambda passport: passport[0]["issued_at"], reverse=True), refused


def check_claims(
    statements: Iterable[Statement], digest: str, public_keys: Sequence[Path],
    required: Sequence[str], *, about: str, now: datetime,
) -> None:  # fmt: skip
    """Raise `Untrusted` unless valid passports make all the claims that are required.

    Args:
        statements: Of the bundle.
        digest: Of the bundle.
        public_keys: Those whose passports count.
        required: As in `security.required_claims`.
        about: The version or folder, for the message.
        now: When it is to be used.
    """
    if not required:
        return
    if not public_keys:
        raise Invalid("claims are required, and no key", hint="set security.required_keys")
    passports, refused = valid_passports(statements, digest, public_keys, now=now)
    for text in required:
        is_made = parse_claim(text)
        judged = ((is_made(claims), claims["issued_at"]) for claims, _ in passports)
        is_met, at = next((pair for pair in judged if pair[0] is not None), (None, ""))
        if is_met:
            continue
        reason = "no valid passport says so"
        if at:
            reason = f"the passport of {at[:19]} says the contrary"
        raise Untrusted(
            f"{about} may not be used: {text!r} is required of its passport, and "
            f"{'; '.join([reason, *refused])}",
            hint=f"gather the evidence, then: bascule passport write {about} --key KEY",
            claim=text,
        )


def parse_claim(text: str) -> Callable[[Claims], bool | None]:
    """Whether a passport makes a claim; None where it does not speak of it.

    Raises:
        Invalid: The text is of neither form.
    """
    if compared := _COMPARISON.fullmatch(text):
        name, sign, limit = "".join(compared[1].split()), compared[2], float(compared[3])
        return partial(_holds, name, lambda value: bool(_OPERATORS[sign](value, limit)))
    if _PART.fullmatch(text):
        return partial(_has_passed, text.strip())
    raise Invalid(
        f"{text!r} is no claim",
        hint="write 'parity', 'gates' or 'epsilon <= 3'",
    )


def _has_passed(name: str, claims: Claims) -> bool | None:
    part = claims.get(name) or claims.get("statements", {}).get(name)
    latest = part[-1] if isinstance(part, list) else part
    return bool(latest.get("passed", True)) if latest else None


def _holds(name: str, meets: Callable[[float], bool], claims: Claims) -> bool | None:
    """Of a measure of the gates; else a field of any statement, or `KIND.FIELD` of one."""
    gates = claims.get("gates", {}).get("results", ())
    values = [
        result["value"] for result in gates
        if name == _OPERATOR.split("".join(str(result["criterion"]).split()))[0]
    ]  # fmt: skip
    if not values:
        statements = claims.get("statements", {})
        kind, _, field = name.rpartition(".")
        bodies = [statements.get(kind, {})] if kind else statements.values()
        values = [body.get(field) for body in bodies]
    numbers = [value for value in values if isinstance(value, int | float)]
    return all(map(meets, numbers)) if numbers else None
