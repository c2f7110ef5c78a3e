"""Addresses as people may see them: without passwords, tokens and signed queries.

An address that is malformed hides its password no worse than a good one: `postgresql:/u:p@host`,
`u:p@host/db`, a password with a slash in it, and percent-encoded names of parameters.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

_HIDDEN = "***"
_USER = re.compile(r"\A((?:[a-z][a-z0-9+.-]*:(?=/|[^/@]*:))?/*+).*@", re.IGNORECASE | re.DOTALL)
_QUERY = re.compile(r"([?&;#][^=&;#?]*+=)[^&;#]*", re.DOTALL)
# Each pattern begins where a word begins, so that a long word is looked at once.
_ASSIGNED = re.compile(
    r"(?<![^\s?&;#=\"'{(,])([^\s?&;#=\"'{(,]++)(\s*+=\s*+)('[^']*'|[^\s&;#\"',)}]+)"
)
_SECRET_NAME = re.compile(
    r"pass|pwd|secret|token|signature|credential|authorization|(access|api|account).?key|^sig$",
    re.IGNORECASE,
)
_WORD = re.compile(r"(?<![^\s\"'<>(){},])[^\s\"'<>(){},]+@[^\s\"'<>(){},]*")
_TOKEN_AS_USER = re.compile(r"(?:[a-z]+\+)?https?:/*[^/]*@", re.IGNORECASE)
_PARTS = re.compile(r"((?:[a-z][a-z0-9+.-]*:(?=/|[^/@]*:))?/*+)(.*)@", re.IGNORECASE)
_URI_USER = re.compile(r"(?<!\w)(\w++:/++)[^\s\"']*@")
_URI_QUERY = re.compile(r"(?<!\w)(\w++:/++[^?\s\"']*+)\?[^\s\"']*")


def masked(value: object) -> str:
    """A whole value that should be an address, without its user and what its parameters say."""
    text = _USER.sub(rf"\1{_HIDDEN}@", str(value), count=1)
    return _masked_assignments(_QUERY.sub(rf"\1{_HIDDEN}", text))


def masked_text(text: str) -> str:
    """A sentence or a log without the secrets of the addresses in it.

    A user without a password stays, but for HTTP, where it is a token as a rule.
    """
    if "@" in text:
        text = _WORD.sub(_masked_word, text)
    return _masked_assignments(text) if "=" in text else text


def without_secrets(text: str) -> str:
    """Every URI in a text without its user, its password and its query: what may be published."""
    return _URI_QUERY.sub(r"\1", _URI_USER.sub(r"\1", text))


def _masked_word(found: re.Match[str]) -> str:
    word = found[0]
    parts = _PARTS.match(word)
    has_secret = parts is not None and ":" in parts[2]
    return masked(word) if has_secret or _TOKEN_AS_USER.match(word) else word


def _masked_assignments(text: str) -> str:
    def hide(found: re.Match[str]) -> str:
        is_secret = _SECRET_NAME.search(unquote(found[1]))
        return f"{found[1]}{found[2]}{_HIDDEN}" if is_secret else found[0]

    return _ASSIGNED.sub(hide, text)
