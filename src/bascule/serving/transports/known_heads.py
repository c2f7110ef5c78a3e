"""Heads that the parser has read before: the same bytes mean the same, and are not parsed again.

Some headers have another value in each request: the key of a caller, ids, traces. Their values are
cut out, and what is left is looked up. A head is only known without a value if the parser has read
exactly that value of exactly that header, which the head has once; and another value is only put
in its place if it is of characters that every parser takes as they are.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from bascule.serving.telemetry import request_id_of
from bascule.serving.transports.exchange import Head

MAX_KNOWN = 1024
"""How many heads are known; one more, and all are forgotten."""
MAX_BYTES = 1024
"""Longer heads are always parsed."""
_NOT_KNOWN = frozenset((b"expect", b"transfer-encoding", b"upgrade"))
"""They say how to read on, so the parser reads a head that has one."""
_VARYING = frozenset((b"bascule-id", b"traceparent", b"tracestate", b"x-request-id"))
_VALUE = rb"[!-~](?:[ -~]*[!-~])?"


class KnownHead(NamedTuple):
    """A head without the values of the headers `names`, and the size of its request without."""

    head: Head
    names: tuple[bytes, ...]
    size: int


class KnownHeads:
    """The heads of one site."""

    def __init__(self) -> None:
        self.whole: dict[bytes, tuple[Head, int]] = {}
        """Heads without varying headers, by their bytes; and the sizes of their requests."""
        self.cut: dict[tuple[bytes, ...], KnownHead] = {}
        """Heads by the pieces between the values of varying headers."""
        self.vary(frozenset())

    def __len__(self) -> int:
        return len(self.whole) + len(self.cut)

    def vary(self, asked: frozenset[bytes]) -> None:
        """Forget all heads; cut out the values of these headers too.

        They must not say how a request is read or whether it is answered: no `host`, for example.
        """
        self._varying = _VARYING | asked
        names = b"|".join(map(re.escape, sorted(self._varying)))
        self._pieces = re.compile(rb"(\r\n(?i:%b): )(%b)(?=\r\n)" % (names, _VALUE))
        self._named = re.compile(rb"\r\n(?i:%b):" % names)
        self.whole.clear()
        self.cut.clear()

    def find_cut(self, data: bytes, head_bytes: int) -> Head | None:
        """The head of a whole request that begins with these bytes, with its own values."""
        pieces = self._pieces.split(data[:head_bytes])
        values = pieces[2::3]
        del pieces[2::3]
        known = self.cut.get(tuple(pieces))
        if known is None or known.size + sum(map(len, values)) != len(data):
            return None
        head, names, _ = known
        headers = head.headers.copy()
        headers.update(zip(names, values, strict=True))
        request_id = request_id_of(headers[b"x-request-id"]) if b"x-request-id" in names else b""
        return Head(head.method, head.target, headers, head.keep_alive, request_id, head.is_plain)

    def learn(self, data: bytes, head_bytes: int, head: Head) -> None:
        """Remember the head of a request that the parser has read whole."""
        if not _NOT_KNOWN.isdisjoint(head.headers):
            return
        if len(self) >= MAX_KNOWN:
            self.whole.clear()
            self.cut.clear()
        if self._varying.isdisjoint(head.headers):
            self.whole[data[:head_bytes]] = (head, len(data))
            return
        pieces = self._pieces.split(data[:head_bytes])
        names = tuple(piece[2:-2].lower() for piece in pieces[1::3])
        values = pieces[2::3]
        read = {name: head.headers[name] for name in self._varying if name in head.headers}
        is_each_once = len(self._named.findall(data[:head_bytes])) == len(values)
        if is_each_once and dict(zip(names, values, strict=True)) == read:
            del pieces[2::3]
            size = len(data) - sum(map(len, values))
            self.cut[tuple(pieces)] = KnownHead(head, names, size)
