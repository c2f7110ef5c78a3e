"""Parts of long lists: what is shown, and the addresses of the parts before and after it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode


@dataclass(frozen=True, slots=True)
class Pager:
    """The links below a part of a list; an address is empty where there is no such part."""

    back: str
    more: str
    said: str = ""


def pager_of(path: str, start: int, size: int, total: int, **query: str) -> Pager:
    """The links of `size` lines from `start` on, of `total`; `query` is kept. Pure."""
    given = {name: value for name, value in query.items() if value}

    def address(at: int) -> str:
        return f"{path}?{urlencode({**given, 'start': at})}"

    after = start + size
    return Pager(
        address(max(0, start - size)) if start else "", address(after) if after < total else "",
        f"{start + 1} to {min(after, total)} of {total}",
    )  # fmt: skip
