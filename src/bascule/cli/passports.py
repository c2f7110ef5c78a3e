"""`bascule passport`: what was proven of a version, in one signed envelope."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, KeyPassword, PrivateKey, RefOrPath
from bascule.cli.screen import note, print_either, print_json, print_table

if TYPE_CHECKING:
    from bascule.bundle.disk import Statement
    from bascule.registry import Version


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Say and verify what was proven of a version, in one signed envelope.")
    for command in (write, show, verify):
        group.command()(command)
    app.add_typer(group, name="passport")


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
    from bascule.bundle import read_manifest
    from bascule.release import claims_of, write_passport

    version, path = context.find_to_look_at(bundle)
    manifest, registry = read_manifest(path), context.registry() if version else None
    if version is None or registry is None:
        claims = claims_of(manifest, _statements(version, path))
    else:
        history, rollouts = registry.history(version.model), context.rollouts().rollouts()
        claims = claims_of(manifest, context.statements(version), history, rollouts, version)
    written = write_passport(
        path, claims, key, password=password, registry=registry, version=version,
        expires=None if expires_days is None else timedelta(days=expires_days),
        now=datetime.now(UTC), by=context.user(),
    )  # fmt: skip
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
    bom: Annotated[
        Path | None,
        typer.Option(
            help="Write a CycloneDX 1.6 ML-BOM of the model to this file.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the passports of a bundle say, the newest last; `verify` says if they hold."""
    from bascule.bundle import Said, read_manifest
    from bascule.core import NotFound
    from bascule.ship import ml_bill_of_materials

    version, path = context.find_to_look_at(bundle)
    statements = _statements(version, path)
    if bom is not None:
        known = Said.of(statements)
        _write(bom, ml_bill_of_materials(read_manifest(path), known, str(version or "")))
    passports = [each.body for each in statements if each.kind == "passport"]
    if not passports:
        if bom is not None:
            return
        hint = f"bascule passport write {bundle} --key KEY"
        raise NotFound(f"{bundle} has no passport", hint=hint)
    if envelope is not None:
        _write(envelope, json.dumps(passports[-1]) + "\n")
    payloads = [json.loads(base64.b64decode(body["payload"])) for body in passports]
    if as_json:
        print_json(payloads)
    elif envelope is None and bom is None:
        rows = [(part, _summary(value)) for part, value in payloads[-1]["predicate"].items()]
        print_table(("claim", "says"), rows)
        note(f"the newest of {len(passports)}; verify it: bascule passport verify {bundle}")


def _write(file: Path, text: str) -> None:
    from bascule.core import replacing

    with replacing(file) as draft:
        draft.write_text(text, encoding="utf-8")
    note(f"wrote {file}")


def verify(
    bundle: RefOrPath,
    key: Annotated[
        list[Path] | None,
        typer.Option(
            help="A public key whose passports count; may be repeated. Default: "
            "security.required_keys of bascule.toml.",
            show_default=False,
        ),
    ] = None,
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
    newest = passports[-1]
    print_either(
        {"digest": digest, "key": newest.key, "signer": newest.signer, "valid": len(passports),
         "issued_at": newest.issued_at, "claims": newest.predicate, "refused": refused},
        f"verified {digest[:19]}, passport of {newest.issued_at[:19]} signed by {newest.signer} "
        f"({newest.key[:16]})",
        as_json=as_json,
    )  # fmt: skip


def _statements(version: Version | None, path: Path) -> Sequence[Statement]:
    from bascule.bundle.disk import read_statements

    return read_statements(path) if version is None else context.registry().statements(version)


def _summary(value: Any) -> str:
    """A claim in one line: values, and of parts their names."""
    if isinstance(value, dict):
        return ", ".join(
            name if isinstance(part, dict | list) else f"{name}: {part}"
            for name, part in value.items()
        )
    return f"{len(value)} entries" if isinstance(value, list) else str(value)
