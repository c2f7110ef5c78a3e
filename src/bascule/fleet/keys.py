"""The private keys that sign a repository: of the root offline, of the other roles here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from bascule.core import Invalid, replacing, secret_in


def key_in(file: Path, password: str | None = None, *, create: bool = False) -> CryptoSigner:
    """The private key in a PEM file; with `create`, a new one (Ed25519) where there is no file.

    Raises:
        Invalid: It cannot be read or written.
    """
    if create and not file.exists():
        _write(file, CryptoSigner.generate_ed25519(), password)
    try:
        return _signer(file.read_bytes(), password)
    except (OSError, ValueError, TypeError) as problem:
        raise Invalid(f"{file} holds no private key: {problem}", hint="name a PEM file") from None


def _signer(pem: bytes, password: str | None = None) -> CryptoSigner:
    return CryptoSigner(load_pem_private_key(pem, password.encode() if password else None))


def _write(file: Path, signer: CryptoSigner, password: str | None = None) -> None:
    pem = signer.private_bytes
    if password:
        encryption = BestAvailableEncryption(password.encode())
        key = load_pem_private_key(pem, None)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    with replacing(file) as draft:
        draft.touch(mode=0o600)
        draft.write_bytes(pem)


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of the roles that the server signs for, one each.

    Attributes:
        folder: Has a file for each.
        elsewhere: Where they are instead, with `{role}` for the role; see `core.secret_in`.
    """

    folder: Path
    elsewhere: str = ""

    def signer(self, role: str, *, create: bool = False) -> CryptoSigner:
        """The key of a role, read now; with `create`, a new one where there is none."""
        if not self.elsewhere:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return key_in(self.folder / f"{role}.pem", create=create)
        try:
            return _signer(secret_in(self.elsewhere.replace("{role}", role)).encode())
        except ValueError as problem:
            hint = "put a PEM key there"
            raise Invalid(f"edge.keys: no key for {role}: {problem}", hint=hint) from None

    def successor(self, role: str, former: Sequence[str]) -> CryptoSigner:
        """A new key. One that a killed process left there is taken, unless it is of `former`."""
        signer = self.signer(role, create=True)
        is_former = signer.public_key.keyid in former and not self.elsewhere
        return CryptoSigner.generate_ed25519() if is_former else signer

    def put(self, role: str, signer: CryptoSigner) -> None:
        """Have a role signed for by this key from now on."""
        if not self.elsewhere:
            _write(self.folder / f"{role}.pem", signer)
