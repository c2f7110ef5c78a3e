"""Signatures of bundles: who vouches for the manifest, and by it for every file.

A signature is kept twice beside the bundle: as `statements/model.sig`, which `model_signing verify
key` reads, and as a statement of the kind `signature`, which goes with the bundle into a registry.
The signature covers the bundle without its card and, unless requested, without its statements.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bascule.bundle.disk import folder as disk
from bascule.bundle.disk.limits import MAX_STATEMENT_BYTES
from bascule.bundle.disk.manifest import CARD, MANIFEST, STATEMENTS, Manifest, Statement
from bascule.bundle.disk.reading import parse, shaped
from bascule.core import Invalid, Untrusted, canonical_json, sha256_bytes
from bascule.security import fingerprint, sign_folder, verify_folder

KIND = "signature"
FILE = f"{STATEMENTS}/model.sig"


@dataclass(frozen=True, slots=True)
class Verified:
    """A bundle and the key that vouches for it.

    Attributes:
        manifest: What the bundle is.
        key: The fingerprint of the key.
        files: The files that are signed, with the SHA-256 of each as hexadecimal digits.
    """

    manifest: Manifest
    key: str
    files: Mapping[str, str]

    @property
    def statements(self) -> tuple[str, ...]:
        """The files of statements that are signed as well."""
        return tuple(sorted(name for name in self.files if name.startswith(f"{STATEMENTS}/")))

    def covers(self, statement: Statement) -> bool:
        """Whether the key vouches for this very statement, too."""
        content = sha256_bytes(canonical_json(statement.to_json())).removeprefix("sha256:")
        return self.files.get(f"{STATEMENTS}/{statement.file_name}") == content


def sign_bundle(
    path: Path,
    private_key: Path,
    *,
    password: str | None = None,
    statements: bool = False,
    now: datetime,
    by: str,
) -> Manifest:
    """Sign the bundle at `path`, and lay the signature beside it.

    Args:
        path: The bundle's folder.
        private_key: A PEM file.
        password: Of the key, if it has one.
        statements: Whether to sign the statements that are there as well. Later ones may join
            them, and are not signed.
        now: When, for the statement.
        by: Who signs.

    Raises:
        Untrusted: A byte of it was altered since it was sealed. Nothing is signed.
        Invalid: The key cannot be read, or the signature cannot be written.
    """
    manifest = disk.read_manifest(path)
    folder = path / STATEMENTS
    ignored = [CARD, STATEMENTS]
    if statements:
        earlier = [f"{STATEMENTS}/{file.name}" for file in folder.glob(f"{KIND}-*.json")]
        ignored = [CARD, FILE, *earlier]
    signature = sign_folder(path, private_key, password=password, ignored=ignored)
    disk.write_beside(path, Path(FILE).name, signature)
    disk.write_statement(path, KIND, json.loads(signature), at=now, by=by)
    return manifest


def verify_bundle(path: Path, public_keys: Sequence[Path]) -> Verified:
    """The bundle at `path`, after its files and the signature of one of the keys were checked.

    Raises:
        Untrusted: It is altered, or none of the keys vouches for it as it is.
    """
    if not public_keys:
        raise Invalid("there is no key to verify with", hint="name one with --key")
    manifest = disk.read_manifest(path)
    refused: list[str] = []
    for signature in _signatures(path):
        for key in public_keys:
            try:
                files = verify_folder(path, signature, key)
            except Untrusted as problem:
                refused.append(problem.message)
                continue
            # It covers the manifest, with which every other file was compared already.
            if files.get(MANIFEST) == manifest.digest.removeprefix("sha256:"):
                return Verified(manifest, fingerprint(key), files)
            refused.append(f"{key} signed other files of {path} than its {MANIFEST}")
    raise Untrusted(
        refused[0] if refused else f"bundle {path} is not signed",
        hint=f"sign it with one of {', '.join(str(key) for key in public_keys)}: "
        "bascule sign BUNDLE --key KEY",
        path=str(path),
    )


def signature_beside(path: Path, *, at: datetime, by: str) -> list[Statement]:
    """The signature in `statements/model.sig` as a statement, where none says the same yet.

    So one that `model_signing sign key` made goes into a registry too.

    Raises:
        Untrusted: The file is no signature.
    """
    file = path / FILE
    if not file.is_file() or file.is_symlink():
        return []
    if file.stat().st_size > MAX_STATEMENT_BYTES:
        raise Untrusted(f"{file} has more than {MAX_STATEMENT_BYTES:,} bytes", file=FILE)
    body = shaped(
        parse(file.read_bytes(), FILE, what="a signature"), dict[str, Any], FILE, what="a signature"
    )
    if any(statement.body == body for statement in disk.read_statements(path, KIND)):
        return []
    return [Statement(KIND, disk.digest_of(path), at.isoformat(), by, body)]


def _signatures(path: Path) -> Iterator[bytes]:
    for statement in reversed(disk.read_statements(path, KIND)):
        yield json.dumps(statement.body).encode()
    file = path / FILE
    if file.is_file() and not file.is_symlink():
        yield file.read_bytes()
