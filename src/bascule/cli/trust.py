"""The commands about trust: sign a bundle, verify who did, show its card."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from bascule.cli import context
from bascule.cli.context import AsJson, KeyPassword, PrivateKey, RefOrPath
from bascule.cli.screen import print_json, say


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (sign, verify, card):
        app.command()(command)


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
    if as_json:
        print_json({"digest": manifest.digest, "signature": str(bundle / FILE)})
    else:
        say(f"signed {manifest.digest[:19]}: {bundle / FILE}")


def verify(
    bundle: RefOrPath,
    key: Annotated[
        list[Path] | None,
        typer.Option(
            help="A public key that may vouch for it; may be repeated. Default: "
            "security.required_keys of bascule.toml.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify that a bundle is what was sealed, and that one of the keys signed it."""
    from bascule.bundle.disk import verify_bundle

    _, path = context.find_to_look_at(bundle)
    found = verify_bundle(path, key or list(context.settings().security.required_keys))
    if as_json:
        print_json(
            {
                "digest": found.manifest.digest,
                "key": found.key,
                "statements": list(found.statements),
            }
        )
    else:
        also = f", with {len(found.statements)} statements" if found.statements else ""
        say(f"verified {found.manifest.digest[:19]}, signed by {found.key[:16]}{also}")


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
