"""Signs folders and verifies them, in the form of the OpenSSF Model Signing specification 1.0.

The work is done by its reference implementation, the package `model-signing`: a Sigstore bundle
that holds a DSSE envelope around an in-toto statement with the SHA-256 of every file, signed by an
elliptic curve key (P-256, P-384 or P-521). So `model_signing verify key` accepts what is signed
here, and what `model_signing sign key` made is accepted here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.core import Invalid, MissingExtra, Scratch, Untrusted, first_line

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

_INSTALL = "pip install 'bascule[signing]'"
_HOW_TO_MAKE_ONE = "make one: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
MAX_SIGNATURE_BYTES = 16 << 20
"""It names every file: 200 bytes each."""


def sign_folder(
    folder: Path, private_key: Path, *, password: str | None = None, ignored: Iterable[str] = ()
) -> bytes:
    """A signature of every file in `folder` but those that are `ignored`.

    Args:
        folder: What to sign.
        private_key: A PEM file with a private key on P-256, P-384 or P-521.
        password: Of the key, if it has one.
        ignored: Files and folders inside that the signature says nothing of.

    Raises:
        Invalid: The key cannot be read, or is of another kind.
        MissingExtra: The package `model-signing` is not installed.
    """
    signing, _, hashing = _model_signing()
    secret: Any = None if password is None else password.encode()
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key, password=secret)
    except (OSError, TypeError, ValueError, AttributeError) as problem:
        raise no_key(private_key, "private", problem) from None
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=list(ignored)))
    with Scratch() as place:
        signature = place / "model.sig"
        config.sign(folder, signature)
        return signature.read_bytes()


def verify_folder(folder: Path, signature: bytes, public_key: Path) -> dict[str, str]:
    """The files that the signature covers, with the SHA-256 of each as hexadecimal digits.

    Key, signature and files were found to belong together. Files that it does not name are not
    looked at: whether it names enough is for the caller to say.

    Args:
        folder: Where the files are.
        signature: The bytes of the signature.
        public_key: A PEM file.

    Raises:
        Invalid: The key cannot be read.
        Untrusted: The signature is not this key's, or a file is not what was signed.
        MissingExtra: The package `model-signing` is not installed.
    """
    _, verifying, _ = _model_signing()
    key = fingerprint(public_key)
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise Untrusted(f"a signature of {folder} has more than {MAX_SIGNATURE_BYTES:,} bytes")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, AttributeError) as problem:
        raise no_key(public_key, "public", problem) from None
    config.set_ignore_unsigned_files(True)
    with Scratch() as place:
        file = place / "model.sig"
        file.write_bytes(signature)
        try:
            config.verify(folder, file)
            return _covered(signature)
        except Exception as problem:  # any exception means: no valid signature
            raise Untrusted(
                f"{folder} is not what the key {public_key} signed: {first_line(problem)}",
                path=str(folder),
                key=key,
            ) from None


def fingerprint(public_key: Path) -> str:
    """The SHA-256 of the key's PEM, as signatures of this form carry it as a hint."""
    from cryptography.hazmat.primitives import serialization

    pem = load_public_key(public_key).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(pem).hexdigest()


def load_public_key(file: Path) -> PublicKeyTypes:
    """A PEM file.

    Raises:
        Invalid: It cannot be read.
        MissingExtra: The package `cryptography` is not installed.
    """
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError:
        raise MissingExtra("the package cryptography is not installed", hint=_INSTALL) from None
    try:
        return serialization.load_pem_public_key(file.read_bytes())
    except (OSError, TypeError, ValueError) as problem:
        raise no_key(file, "public", problem) from None


def _covered(signature: bytes) -> dict[str, str]:
    """The files that the payload of a verified signature names; the form is the specification's."""
    payload = json.loads(base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"]))
    predicate = payload["predicate"]
    if predicate["serialization"]["method"] != "files":
        raise ValueError("it was signed in pieces, and not file by file")
    return {
        str(part["name"]): str(part["digest"])
        for part in predicate["resources"]
        if part["algorithm"] == "sha256"
    }


def _model_signing() -> tuple[Any, Any, Any]:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError:
        raise MissingExtra("the package model-signing is not installed", hint=_INSTALL) from None
    return signing, verifying, hashing


def no_key(path: Path, kind: str, problem: Exception) -> Invalid:
    """The error of a file that holds no `private` or `public` key that can be used."""
    hint = _HOW_TO_MAKE_ONE
    if kind == "public":
        hint = "take it from the private key: openssl ec -in key.pem -pubout -out key.pub"
    reason = "there is no such file" if isinstance(problem, FileNotFoundError) else str(problem)
    return Invalid(
        f"{path} is no {kind} key that can be used: {first_line(reason)}", hint=hint, path=str(path)
    )
