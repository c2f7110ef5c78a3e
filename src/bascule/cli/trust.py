"""The commands about trust: sign a bundle, verify who did, show its card."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, KeyPassword, PrivateKey, PublicKeys, RefOrPath
from bascule.cli.screen import print_either


def sign(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.", show_default=False)
    ],
    key: PrivateKey,
    password: KeyPassword = None,
    statements: Annotated[
        bool, typer.Option(help="Sign what is said of it too: gates, parity, cost.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Sign a bundle, in the OpenSSF form: `model_signing verify key` takes it."""
    from bascule.bundle.disk import FILE, sign_bundle

    manifest = sign_bundle(
        bundle, key, password=password, statements=statements,
        now=datetime.now(UTC), by=context.user(),
    )  # fmt: skip
    print_either(
        {"digest": manifest.digest, "signature": str(bundle / FILE)},
        f"signed {manifest.digest[:19]}: {bundle / FILE}",
        as_json=as_json,
    )


def verify(
    bundle: RefOrPath,
    key: PublicKeys = None,
    as_json: AsJson = False,
) -> None:
    """Verify that a bundle is what was sealed, and that one of the keys signed it."""
    from bascule.bundle.disk import verify_bundle

    _, path = context.find_to_look_at(bundle)
    verified = verify_bundle(path, key or list(context.settings().security.required_keys))
    digest, signed = verified.manifest.digest, list(verified.statements)
    also = f", with {len(signed)} statements" if signed else ""
    print_either(
        {"digest": digest, "key": verified.key, "statements": signed},
        f"verified {digest[:19]}, signed by {verified.key[:16]}{also}",
        as_json=as_json,
    )


def card(
    bundle: RefOrPath,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write it: .md or .html. Default: print Markdown.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the card of a bundle: what it is for, how good, within which limits."""
    from bascule.cli.cards import write_card

    version, path = context.find_to_look_at(bundle)
    write_card(
        path, version, context.statements(version) if version else None, output,
        by=context.user(), as_json=as_json,
    )  # fmt: skip
