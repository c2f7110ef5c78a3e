"""TLS, and client certificates where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bascule.core import Invalid

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of a server that speaks TLS.

    Attributes:
        certificate: PEM: the server's, then those between it and the authority.
        key: PEM, without a password: a worker that restarts has no user to type it.
        client_authority: PEM: who must have signed the certificates of clients (mTLS); None
            lets clients come without.
    """

    certificate: Path
    key: Path
    client_authority: Path | None = None

    def context(self, protocol: str = "http/1.1") -> ssl.SSLContext:
        """A context for servers: TLS 1.2 or later, as RFC 9325 recommends.

        Args:
            protocol: What is spoken inside, by its name in ALPN (RFC 7301): `http/1.1` or `h2`.

        Raises:
            Invalid: A file cannot be read, or the key is not that of the certificate.
        """
        import ssl  # two megabytes that a server without TLS does not need

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols([protocol])
        self.load(context)
        if self.client_authority is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(cafile=str(self.client_authority))
            except OSError as problem:
                raise _refused(
                    "serving.tls_client_authority", self.client_authority, problem
                ) from None
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Read certificate and key into a context; also into one in use, after a renewal."""
        for name, file in (("tls_certificate", self.certificate), ("tls_key", self.key)):
            if not file.is_file():
                raise _refused(f"serving.{name}", file, FileNotFoundError("no such file"))
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ValueError) as problem:
            raise _refused("serving.tls_key", self.key, problem) from None

    def changed_at_ns(self) -> int:
        """When one of certificate and key was last changed."""
        try:
            return max(self.certificate.stat().st_mtime_ns, self.key.stat().st_mtime_ns)
        except OSError:
            return 0  # being replaced


def _no_password() -> str:
    raise ValueError("the key has a password")


def _refused(setting: str, file: Path, problem: Exception) -> Invalid:
    reason = getattr(problem, "strerror", None) or getattr(problem, "reason", None) or problem
    return Invalid(
        f"{setting}: {file} cannot be used: {reason}",
        hint="give PEM files, and the key that belongs to the certificate, without a password",
    )
