"""Where a server is, and how it is proven to be the one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from bascule_client.errors import Invalid
from bascule_client.masking import masked

if TYPE_CHECKING:
    import ssl

_EXAMPLE = "give for example http://127.0.0.1:8080, or unix:/run/bascule.sock"


class Address(NamedTuple):
    """Where requests go.

    Attributes:
        url: As it was given.
        host: A name or an address; empty for a Unix socket.
        port: 1 to 65535; 0 for a Unix socket.
        host_header: What requests call the server.
        prefix: The path in front of every path, without a slash at its end.
        unix_socket: A path of the file system; empty for none.
        tls: The context; None where nothing is encrypted.
    """

    url: str
    host: str
    port: int
    host_header: str
    prefix: str = ""
    unix_socket: str = ""
    tls: ssl.SSLContext | None = None


def parse_address(
    url: str,
    *,
    tls_authority: str | Path | None = None,
    tls_certificate: str | Path | None = None,
    tls_key: str | Path | None = None,
) -> Address:
    """Read an address.

    Raises:
        Invalid: It is none, or a file of TLS cannot be used.
    """
    files = (tls_authority, tls_certificate, tls_key)
    if url.startswith("unix:"):
        _refuse_files(url, files)
        path = url.removeprefix("unix:")
        path = path.removeprefix("//") if path.startswith("///") else path
        if not path.strip("/"):
            raise Invalid(f"{masked(url)!r} names no socket", hint=_EXAMPLE)
        return Address(url, "", 0, "localhost", unix_socket=path)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https") or not url.isascii() or " " in url:
        raise Invalid(f"{masked(url)!r} is no address of a server", hint=_EXAMPLE)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise Invalid(f"{parts.hostname}: an address has no user, query or fragment", hint=_EXAMPLE)
    context = None
    if parts.scheme == "https":
        context = _context(*files)
    else:
        _refuse_files(url, files)
    return Address(
        url,
        host,
        port or (443 if parts.scheme == "https" else 80),
        parts.netloc,
        parts.path.rstrip("/"),
        tls=context,
    )


def _refuse_files(url: str, files: tuple[object, ...]) -> None:
    if any(file is not None for file in files):
        raise Invalid(
            f"{masked(url)} is not encrypted, and files of TLS are given", hint="give https://..."
        )


def _context(
    authority: str | Path | None, certificate: str | Path | None, key: str | Path | None
) -> ssl.SSLContext:
    import ssl  # two megabytes that a client without TLS does not need

    if key is not None and certificate is None:
        raise Invalid("tls_key is given, and tls_certificate is not", hint="give both, or neither")
    try:
        context = ssl.create_default_context(cafile=authority)
    except (OSError, ValueError) as problem:
        raise _unusable("tls_authority", authority, problem) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ValueError) as problem:
            raise _unusable("tls_certificate", certificate, problem) from None
    return context


def _no_password() -> str:
    raise ValueError("the key has a password")


def _unusable(name: str, file: object, problem: Exception) -> Invalid:
    reason = getattr(problem, "strerror", None) or getattr(problem, "reason", None) or problem
    return Invalid(f"{name}: {file} cannot be used: {reason}", hint="give PEM files")
