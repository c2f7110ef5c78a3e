"""Which names a server answers to: the defence against DNS rebinding.

A page of a browser may reach a server on the loopback address under a name of its own, by pointing
the name there. Such requests carry the page's name in `Host`, and the page's origin in `Origin`. A
server without keys on a loopback listener therefore answers loopback names alone, and those of
`serving.allowed_hosts`. Other listeners answer every name unless `serving.allowed_hosts` is set; an
IP address is always answered there, because no name can be rebound to it and probes know no other.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import unquote

from bascule.core import Invalid, Refused

_AUTHORITY = re.compile(r"(?:\[([^\[\]]+)\]|([^:@/\[\]]*))(?::[0-9]*)?")
_ALLOWED = re.compile(r"\*|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(.+)", re.IGNORECASE)
_MAX_KNOWN = 256
_SHOWN_CHARS = 128


def host_of(authority: str) -> str | None:
    """The host of `HOST[:PORT]` in lower case, without brackets and final dot; None if malformed.

    Some gRPC libraries percent-encode the brackets of an IPv6 address.
    """
    found = _AUTHORITY.fullmatch(unquote(authority.strip(" \t")))
    if found is None:
        return None
    return (found[1] or found[2] or "").lower().removesuffix(".")


def is_loopback(host: str) -> bool:
    """Whether a host, as `host_of` gives it, is a loopback address or a name of `localhost`."""
    if host == "localhost" or host.endswith(".localhost"):
        return True  # RFC 6761, section 6.3
    address = _address_of(host)
    return address is not None and address.is_loopback


def _address_of(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def check_allowed_host(text: str) -> str:
    """An entry of `serving.allowed_hosts` in lower case; raises `Invalid`."""
    lower = text.lower().removesuffix(".")
    if not _ALLOWED.fullmatch(lower) and _address_of(lower.strip("[]")) is None:
        raise Invalid(
            f"{text!r} is not the name of a host",
            hint="write names without scheme and port: models.example.com, *.example.com, or *",
        )
    return lower.strip("[]")


class HostPolicy:
    """The hosts and origins that a listener answers to."""

    def __init__(self, allowed: Iterable[str], *, any_address: bool) -> None:
        """Answer loopback names and these.

        Args:
            allowed: Entries of `serving.allowed_hosts`.
            any_address: Whether every IP address is answered too.
        """
        entries = [check_allowed_host(one) for one in allowed]
        self._names = frozenset(one for one in entries if not one.startswith("*."))
        self._suffixes = tuple(one[1:] for one in entries if one.startswith("*."))
        self._any_address = any_address
        self.answered: set[bytes] = set()
        """Hosts that were answered before, for callers who look before they ask `refusal`."""

    def refusal(self, hosts: Sequence[bytes], origins: Sequence[bytes] = ()) -> Refused | None:
        """Why a request is not answered; None where it is.

        Args:
            hosts: All that it names as its host: `Host`, `:authority`, the authority of an absolute
                target. A request without any (HTTP/1.0) comes from no browser and is answered.
            origins: Its `Origin` headers; `null` is the origin of no page of this machine.
        """
        for what, values in (("host", hosts), ("origin", origins)):
            for value in values:
                if not self._answers(what, value):
                    shown = value.decode("latin-1")[:_SHOWN_CHARS]
                    return Refused(
                        f"requests {'for' if what == 'host' else 'from'} the {what} {shown!r} are "
                        "not answered",
                        hint="ask for localhost, or add the host to serving.allowed_hosts",
                    )
        if len(self.answered) < _MAX_KNOWN:
            self.answered.update(hosts)
        return None

    def _answers(self, what: str, value: bytes) -> bool:
        text = value.decode("latin-1")
        if what == "origin":
            origin = _ORIGIN.fullmatch(text.strip(" \t"))
            if origin is None:
                return False
            text = origin[1]
        host = host_of(text)
        if not host:
            return False
        return (
            is_loopback(host)
            or host in self._names
            or host.endswith(self._suffixes)
            or (self._any_address and _address_of(host) is not None)
        )


def policy_of(
    listener: socket.socket, allowed: Sequence[str], *, asks_for_keys: bool
) -> HostPolicy | None:
    """The policy of a listener; None where every name is answered.

    A socket of the file system is reached by no browser. Where callers need keys, a page has none,
    so that only an explicit list restricts names.
    """
    if listener.family not in (socket.AF_INET, socket.AF_INET6) or "*" in allowed:
        return None
    on_loopback = is_loopback(str(listener.getsockname()[0]))
    if not allowed and (asks_for_keys or not on_loopback):
        return None
    return HostPolicy(allowed, any_address=not on_loopback)


def absolute_authority(target: bytes) -> bytes | None:
    """The authority of a request target in absolute form, without its user; None in other forms."""
    if target.startswith(b"/"):
        return None
    scheme, separator, rest = target.partition(b"://")
    if not separator or not scheme.isalpha():
        return None
    return re.split(rb"[/?#]", rest, maxsplit=1)[0].rpartition(b"@")[2]
