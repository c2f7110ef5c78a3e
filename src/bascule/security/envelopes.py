"""Signed envelopes: Dead Simple Signing Envelope (DSSE) 1.0 around an in-toto statement.

`cosign verify-blob-attestation --key` and every other verifier of DSSE takes them. Needs the
package `cryptography` alone, so that a device can verify one.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bascule.core import Untrusted
from bascule.security.signing import load_public_key, no_key

IN_TOTO = "application/vnd.in-toto+json"


def sign_envelope(
    payload: bytes, private_key: Path, *, password: str | None = None
) -> dict[str, Any]:
    """An envelope of an in-toto statement; ECDSA with SHA-256, on P-256, P-384 or P-521.

    Raises:
        Invalid: The key cannot be read, or is of another kind.
    """
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    secret = None if password is None else password.encode()
    try:
        key = serialization.load_pem_private_key(private_key.read_bytes(), secret)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("it is on no elliptic curve")
    except (OSError, TypeError, ValueError) as problem:
        raise no_key(private_key, "private", problem) from None
    signature = key.sign(_pre_authentication(IN_TOTO, payload), ec.ECDSA(hashes.SHA256()))
    return {
        "payloadType": IN_TOTO,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": "", "sig": base64.b64encode(signature).decode()}],
    }


def open_envelope(
    envelope: Mapping[str, Any], public_keys: Sequence[Path]
) -> tuple[dict[str, Any], Path]:
    """The in-toto statement of an envelope, and the first of the keys that signed it.

    It is not parsed before a signature was found good. The hint `keyid` is not used, as the
    specification asks.

    Raises:
        Untrusted: It is no envelope, or none of the keys signed it.
        Invalid: A key cannot be read.
    """
    try:
        payload = base64.b64decode(envelope["payload"])
        signed = _pre_authentication(str(envelope["payloadType"]), payload)
        signatures = [base64.b64decode(entry["sig"]) for entry in envelope["signatures"]]
        signer = next((key for key in public_keys if _signed(key, signed, signatures)), None)
        if signer is not None and envelope["payloadType"] == IN_TOTO:
            return dict(json.loads(payload)), signer
        problem = f"its payload is not {IN_TOTO}"
        if signer is None:
            problem = f"none of the keys ({', '.join(key.name for key in public_keys)}) signed it"
    except (KeyError, TypeError, ValueError) as damage:
        problem = f"it is no DSSE envelope of a statement: {damage!r}"
    raise Untrusted(problem, hint="take it from its source again, or have it signed anew")


def _signed(public_key: Path, content: bytes, signatures: Sequence[bytes]) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = load_public_key(public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise no_key(public_key, "public", TypeError("it is on no elliptic curve"))
    for signature in signatures:
        try:
            key.verify(signature, content, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            continue
        return True
    return False


def _pre_authentication(kind: str, payload: bytes) -> bytes:
    """What is signed: the pre-authentication encoding (PAE) of the specification."""
    encoded = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(encoded), encoded, len(payload), payload)
