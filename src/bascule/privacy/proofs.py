"""Proofs of erasures: signed documents, each of which names the one before it by its digest.

The form is DSSE (https://github.com/secure-systems-lab/dsse) with Ed25519, so other tools verify it
with the public key. The person is in it as a keyed digest alone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.core import Untrusted, canonical_json, check_file, sha256_bytes, sha256_file
from bascule.security import pre_authentication

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ERASURES = "erasures"
SIGNING_KEY, PUBLIC_KEY = "signing.key", "signing.pub"
TYPE = "application/vnd.bascule.erasure+json"


@dataclass(frozen=True, slots=True)
class Verified:
    """What a proof says, and what was looked at again.

    Attributes:
        content: The document.
        problems: In which files that are named an older content is back, and what is wrong in the
            chain; empty where all is well.
        is_last: Whether no later proof of this home names it.
    """

    content: Mapping[str, Any]
    problems: Sequence[str]
    is_last: bool


def write_proof(home: Path, erasure: str, content: Mapping[str, Any]) -> Path:
    """Sign a document, linked to the proof before it, and keep it; one that is there stays."""
    file = home / ERASURES / f"{erasure}.json"
    if file.exists():
        return file
    proofs = _in_order(home)
    previous = sha256_file(proofs[-1][0]) if proofs else ""
    number = proofs[-1][1]["number"] + 1 if proofs else 1
    payload = canonical_json({**content, "number": number, "previous": previous})
    key = _signing_key(home)
    public = _public_bytes(key)
    signature = {
        "keyid": sha256_bytes(public),
        "sig": _b64(key.sign(pre_authentication(TYPE, payload))),
    }
    envelope = {"payloadType": TYPE, "payload": _b64(payload), "signatures": [signature]}
    from bascule.monitoring.ledger import write_secret

    write_secret(file, json.dumps(envelope, indent=1).encode())
    return file


def verify_proof(file: Path, public_key: Path | None = None, home: Path | None = None) -> Verified:
    """Check the signature, the chain, and the files of the home that the proof names.

    Args:
        file: The proof.
        public_key: In PEM; by default the one beside the proof.
        home: Where files are looked at; without one, signature and document alone.

    Raises:
        NotFound: There is no such file.
        Untrusted: It is no proof, or was altered.
    """
    check_file(file, "proof")
    content = _opened(file, public_key or file.with_name(PUBLIC_KEY))
    if home is None:
        return Verified(content, [], is_last=True)
    problems = [
        f"{name} has its content from before the erasure"
        for place in content["places"]
        for name, (before, _) in place["files"].items()
        if before and (home / name).is_file() and sha256_file(home / name) == before
    ]
    previous = {sha256_file(path): known["number"] for path, known in _in_order(home)}
    if content["previous"] and content["previous"] not in previous:
        problems.append(f"the proof before it, number {content['number'] - 1}, is gone or altered")
    named = {known["previous"] for _, known in _in_order(home)}
    return Verified(content, problems, is_last=sha256_file(file) not in named)


def _in_order(home: Path) -> list[tuple[Path, dict[str, Any]]]:
    proofs = []
    for path in (home / ERASURES).glob("*.json"):
        payload = json.loads(path.read_bytes()).get("payload", "")
        proofs.append((path, json.loads(base64.b64decode(payload))))
    return sorted(proofs, key=lambda proof: proof[1]["number"])


def _opened(file: Path, public_key: Path) -> dict[str, Any]:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    check_file(public_key, "public key")
    try:
        envelope = json.loads(file.read_bytes())
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        key = load_pem_public_key(public_key.read_bytes())
        if envelope["payloadType"] != TYPE or not isinstance(key, Ed25519PublicKey):
            raise ValueError("another type")
        key.verify(signature, pre_authentication(TYPE, payload))
        content: dict[str, Any] = json.loads(payload)
    except (ValueError, KeyError, IndexError, TypeError, InvalidSignature):
        raise Untrusted(
            f"{file} is no proof of an erasure, or was altered, or another key has signed it",
            hint=f"verify it with {PUBLIC_KEY} of the home that has written it",
        ) from None
    return content


def _signing_key(home: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    from bascule.monitoring.ledger import write_secret

    file = home / ERASURES / SIGNING_KEY
    if not file.exists():
        made = Ed25519PrivateKey.generate()
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.parent.mkdir(parents=True, exist_ok=True)
        write_secret(file, made.private_bytes(*form))
    key = load_pem_private_key(file.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    (public := file.with_name(PUBLIC_KEY)).write_bytes(_public_bytes(key))
    public.chmod(0o644)
    return key


def _public_bytes(key: Ed25519PrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
