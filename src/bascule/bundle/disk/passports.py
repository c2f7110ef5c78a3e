"""The passport of a bundle: one signed envelope that says what was proven of it.

A statement of the kind `passport`, whose body is a DSSE envelope around an in-toto Statement v1.
Its first subject is the manifest, whose SHA-256 is the bundle's digest; the others are the files.
Later evidence makes a further passport: the earlier ones stay, and hold for what they say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bascule.bundle.disk.claims import Passport, Requirement, missing
from bascule.bundle.disk.manifest import MANIFEST, Manifest, Statement
from bascule.core import Invalid, Untrusted, canonical_json
from bascule.security import fingerprint, open_envelope, sign_envelope

PASSPORT = "passport"
_TYPES = STATEMENT_TYPE, PREDICATE_TYPE = (
    "https://in-toto.io/Statement/v1", "https://bascule.dev/passport/v1",
)  # fmt: skip
_SKEW = timedelta(minutes=5)
"""How far the clock of a signer may be ahead of that of a reader."""


def sign_passport(
    manifest: Manifest, claims: Mapping[str, Any], private_key: Path, *, password: str | None = None
) -> dict[str, Any]:
    """The envelope of a passport: the body of its statement.

    Args:
        manifest: The bundle that it is of.
        claims: The predicate, with `issued_at` and `expires_at` (or None) in ISO 8601.
        private_key: A PEM file.
        password: Of the key, if it has one.
    """
    digests = {MANIFEST: manifest.digest}
    digests |= {name: entry.sha256 for name, entry in manifest.files.items()}
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}
            for name, digest in digests.items()
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": claims,
    }
    return sign_envelope(canonical_json(statement), private_key, password=password)


def open_passport(
    envelope: Mapping[str, Any], digest: str, public_keys: Sequence[Path], *, now: datetime
) -> Passport:
    """A passport, after signature, bundle and time were found good.

    Raises:
        Untrusted: None of the keys signed it, it is of another bundle, or it does not hold now.
    """
    statement, key = open_envelope(envelope, public_keys)
    try:
        is_passport = (statement["_type"], statement["predicateType"]) == _TYPES
        subjects = {part["name"]: part["digest"]["sha256"] for part in statement["subject"]}
        claims = dict(statement["predicate"])
        issued_at = datetime.fromisoformat(claims["issued_at"])
        expires_at = claims["expires_at"] and datetime.fromisoformat(claims["expires_at"])
        problems = {
            "it is a statement of another kind than a passport": not is_passport,
            f"it is of another bundle, sha256:{subjects[MANIFEST][:12]}":
                subjects[MANIFEST] != digest.removeprefix("sha256:"),
            f"it expired at {claims['expires_at']}": expires_at and now >= expires_at,
            f"it was issued in the future, at {issued_at}": issued_at > now + _SKEW,
        }  # fmt: skip
    except (KeyError, TypeError, ValueError) as damage:
        problems = {f"it is not a passport as Bascule writes them: {damage!r}": True}
    if refused := [problem for problem, holds in problems.items() if holds]:
        raise Untrusted(refused[0], hint="bascule passport write makes another")
    return Passport(claims, fingerprint(key), key.stem, claims["issued_at"])


def valid_passports(
    statements: Iterable[Statement], digest: str, public_keys: Sequence[Path], *, now: datetime
) -> tuple[list[Passport], list[str]]:
    """The passports among statements that hold, oldest first; and why others do not."""
    valid, refused = [], []
    for statement in statements:
        if statement.kind != PASSPORT:
            continue
        try:
            valid.append(open_passport(statement.body, digest, public_keys, now=now))
        except Untrusted as problem:
            refused.append(f"the passport of {statement.at[:19]} is refused: {problem.message}")
    return sorted(valid, key=lambda passport: passport.issued_at), refused


def check_claims(
    statements: Iterable[Statement],
    digest: str,
    public_keys: Sequence[Path],
    required: Sequence[str],
    *,
    about: str,
    now: datetime,
) -> None:
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
    unmet = missing(passports, [Requirement.parse(text) for text in required])
    if unmet:
        claim, reason = next(iter(unmet.items()))
        raise Untrusted(
            f"{about} may not be used: {claim!r} is required of its passport, and "
            f"{'; '.join([reason, *refused])}",
            hint=f"gather the evidence, then: bascule passport write {about} --key KEY",
            claim=claim, missing=list(unmet),
        )  # fmt: skip
