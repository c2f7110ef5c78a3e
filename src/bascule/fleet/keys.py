"""The private keys that sign a repository: of the root offline, of the other roles in the home."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from bascule.core import Invalid, replacing


def key_in(file: Path, *, create: bool = False) -> CryptoSigner:
    """The private key in a PEM file; with `create`, a new one (Ed25519) where there is no file.

    Raises:
        Invalid: It cannot be read or written.
    """
    if create and not file.exists():
        _write(file, CryptoSigner.generate_ed25519())
    try:
        return CryptoSigner(load_pem_private_key(file.read_bytes(), None))
    except (OSError, ValueError, TypeError) as problem:
        raise Invalid(f"{file} holds no private key: {problem}", hint="name a PEM file") from None


def _write(file: Path, signer: CryptoSigner) -> None:
    with replacing(file) as draft:
        draft.touch(mode=0o600)
        draft.write_bytes(signer.private_bytes)


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of the roles that the server signs for: `folder` has a file for each."""

    folder: Path

    def signer(self, role: str, *, create: bool = False) -> CryptoSigner:
        """The key of a role, read now; with `create`, a new one where there is none."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return key_in(self.folder / f"{role}.pem", create=create)

    def put(self, role: str, signer: CryptoSigner) -> None:
        """Have a role signed for by this key from now on."""
        _write(self.folder / f"{role}.pem", signer)
