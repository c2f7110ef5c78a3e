"""`bascule passport`: what was proven of a version, in one signed envelope."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, KeyPassword, PrivateKey, PublicKeys, RefOrPath
from bascule.cli.screen import note, print_either, print_json, print_table

if TYPE_CHECKING:
    from bascule.bundle.disk import Statement
    from bascule.registry import Version


def write(
    bundle: RefOrPath,
    key: PrivateKey,
    password: KeyPassword = None,
    expires_days: Annotated[
        float | None,
        typer.Option(min=0, help="Days until it holds no longer. Default: never."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sign what is proven of a bundle by now: parity, gates, data, approvals, rollouts."""
    from bascule.bundle.disk import PASSPORT, read_manifest, sign_passport, write_statement
    from bascule.registry import Registry
    from bascule.release import claims_of

    version, path = context.find_to_look_at(bundle)
    manifest, statements = read_manifest(path), _statements(version, path)
    registry = context.registry() if version else None
    claims = claims_of(manifest, statements)
    if version and registry:
        claims = claims_of(
            manifest, statements, version, events=registry.history(version.model),
            approvals=_approvals(), rollouts=context.rollouts().rollouts(),
        )  # fmt: skip
    now, by = datetime.now(UTC), context.user()
    expires_at = None if expires_days is None else now + timedelta(days=expires_days)
    body = sign_passport(
        manifest, claims, key, password=password, now=now, by=by, expires_at=expires_at
    )
    if version and isinstance(registry, Registry):
        written = registry.add_statement(version, PASSPORT, body, at=now, by=by)
    else:
        written = write_statement(path, PASSPORT, body, at=now, by=by)
        if registry:  # of a server: what is pushed again adds statements alone
            registry.push(path, by=by)
    print_either(
        {"digest": manifest.digest, "file": written.file_name, "claims": sorted(claims)},
        f"passport of {version or manifest.digest[:19]}: {', '.join(sorted(claims))}",
        as_json=as_json,
    )


def show(
    bundle: RefOrPath,
    envelope: Annotated[
        Path | None,
        typer.Option(
            help="Write the newest envelope to this file, for cosign.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the passports of a bundle say, the newest last; `verify` says if they hold."""
    from bascule.core import NotFound, replacing

    version, path = context.find_to_look_at(bundle)
    passports = [each.body for each in _statements(version, path) if each.kind == "passport"]
    if not passports:
        raise NotFound(
            f"{bundle} has no passport", hint=f"bascule passport write {bundle} --key KEY"
        )
    if envelope is not None:
        with replacing(envelope) as draft:
            draft.write_text(json.dumps(passports[-1]) + "\n", encoding="utf-8")
        note(f"wrote {envelope}")
    payloads = [json.loads(base64.b64decode(body["payload"])) for body in passports]
    if as_json:
        print_json(payloads)
    elif envelope is None:
        rows = [(part, _summary(value)) for part, value in payloads[-1]["predicate"].items()]
        print_table(("claim", "says"), rows)
        note(f"the newest of {len(passports)}; verify it: bascule passport verify {bundle}")


def verify(
    bundle: RefOrPath,
    key: PublicKeys = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            help="A claim that must be made, such as 'epsilon <= 3'; may be repeated. Default: "
            "security.required_claims of bascule.toml.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify bundle and passports, and that the claims that are required are made."""
    from bascule.bundle.disk import check_claims, read_manifest, valid_passports
    from bascule.core import Invalid, Untrusted
    from bascule.security import fingerprint

    version, path = context.find_to_look_at(bundle)
    chosen, now = context.settings().security, datetime.now(UTC)
    keys: Sequence[Path] = key or chosen.required_keys
    if not keys:
        raise Invalid("there is no key to verify with", hint="name one with --key")
    digest = read_manifest(path).digest
    statements = _statements(version, path)
    passports, refused = valid_passports(statements, digest, keys, now=now)
    if not passports:
        raise Untrusted(
            f"{bundle} has no passport that holds{': ' if refused else ''}{'; '.join(refused)}",
            hint=f"bascule passport write {bundle} --key KEY",
        )
    check_claims(statements, digest, keys, require or chosen.required_claims, about=bundle, now=now)
    for problem in refused:
        note(f"warning: {problem}")
    (claims, signer), at = passports[0], passports[0][0]["issued_at"]
    print_either(
        {"digest": digest, "key": fingerprint(signer), "signer": signer.stem,
         "valid": len(passports), "issued_at": at, "claims": claims, "refused": refused},
        f"verified {digest[:19]}, passport of {at[:19]} signed by {signer.name} "
        f"({fingerprint(signer)[:16]})",
        as_json=as_json,
    )  # fmt: skip


def _statements(version: Version | None, path: Path) -> Sequence[Statement]:
    from bascule.bundle.disk import read_statements

    return read_statements(path) if version is None else context.statements(version)


def _approvals() -> list[dict[str, Any]]:
    """Requests that took a second person, by the fields of `control.Approval`."""
    from bascule.app import open_catalogue
    from bascule.control import Approvals, operations
    from bascule.core import Refused

    try:
        if context.is_remote():
            return list(map(asdict, context.remote().items(operations.APPROVALS)))
    except Refused as problem:
        note(f"warning: approvals are left out: {problem}")
        return []
    approvals = Approvals(partial(open_catalogue, context.settings()), timedelta())
    return list(map(asdict, approvals.list()))


def _summary(value: Any) -> str:
    """A claim in one line: values, and of parts their names; of records all that they say."""
    if isinstance(value, list):
        return "; ".join(" ".join(str(part) for part in row.values() if part) for row in value)
    if isinstance(value, dict):
        return ", ".join(
            name if isinstance(part, dict | list) else f"{name}: {part}"
            for name, part in value.items()
        )
    return str(value)


passport_group = context.group_of(
    "Say and verify what was proven of a version, in one signed envelope.", write, show, verify
)
