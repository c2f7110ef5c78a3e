"""Keys and signatures: who vouches for a folder. Knows nothing of bundles."""

from __future__ import annotations

from bascule.security.signing import Signed, fingerprint, sign_folder, verify_folder

__all__ = ["Signed", "fingerprint", "sign_folder", "verify_folder"]
