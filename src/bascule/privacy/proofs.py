"""Proofs of erasures: in-toto statements in DSSE envelopes, signed by a key of the home.

`cosign` and other tools verify them with the public key. The person is in one as a keyed digest
alone. The audit chain has the digest of each proof, with the event `erasure_completed`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bascule.core import Untrusted, canonical_json, check_file
from bascule.security import open_envelope, sign_envelope

ERASURES = "erasures"
_SIGNING_KEY, _PUBLIC_KEY = "signing.key", "signing.pub"
_TYPES = STATEMENT_TYPE, PREDICATE_TYPE = (
    "https://in-toto.io/Statement/v1", "https://bascule.dev/erasure/v1",
)  # fmt: skip


def write_proof(home: Path, erasure: str, content: Mapping[str, Any]) -> None:
    """Sign a document, and keep it."""
    from bascule.monitoring.ledger import write_secret

    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "person", "digest": {"sha256": content["subject"]}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": content,
    }
    envelope = sign_envelope(canonical_json(statement), _signing_key(home))
    write_secret(home / ERASURES / f"{erasure}.json", json.dumps(envelope, indent=1).encode())


def content_of(envelope: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a proof whose signature was verified before, or is not of interest."""
    content: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    return content


def verify_proof(file: Path, public_key: Path | None = None) -> dict[str, Any]:
    """The document of a proof whose signature is good.

    Args:
        file: The proof.
        public_key: In PEM; by default the one beside the proof.

    Raises:
        NotFound: There is no such file.
        Untrusted: It is no proof, or was altered.
    """
    check_file(file, "proof")
    try:
        envelope = json.loads(file.read_bytes())
        statement, _ = open_envelope(envelope, [public_key or file.with_name(_PUBLIC_KEY)])
        is_proof = (statement["_type"], statement["predicateType"]) == _TYPES
    except (Untrusted, ValueError, KeyError, TypeError):
        is_proof = False
    if not is_proof:
        raise Untrusted(
            f"{file} is no proof of an erasure, or was altered, or another key has signed it",
            hint=f"verify it with {_PUBLIC_KEY} of the home that has written it",
        )
    return content_of(envelope)


def _signing_key(home: Path) -> Path:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    from bascule.monitoring.ledger import write_secret

    file = home / ERASURES / _SIGNING_KEY
    if not file.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        file.with_name(_PUBLIC_KEY).write_bytes(public)
        write_secret(file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return file
