"""Heads that the parser has read before: the same bytes mean the same, and are not parsed again.

Some headers have another value in each request: the key of a caller, ids, traces. Their values are
cut out, and what is left is looked up. A head is only known without a value if the parser has read
exactly that value of exactly that header, which the head has once; and another value is only put
in its place if it is of characters that every parser takes as they are.

Headers that predictors ask for, such as a sticky key, come again with the same value: heads with
only such headers are also looked up whole.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from bascule.serving.calls import Memo
from bascule.serving.telemetry import request_id_of
from bascule.serving.transports.exchange import Head

MAX_KNOWN = 1024
"""How many heads are known; one more, and all are forgotten. As many more with their own values of
asked headers."""
MAX_BYTES = 1024
"""Longer heads are always parsed."""
_NOT_KNOWN = frozenset((b"expect", b"transfer-encoding", b"upgrade"))
"""They say how to read on, so the parser reads a head that has one."""
_VARYING = frozenset((b"bascule-id", b"traceparent", b"tracestate", b"x-request-id"))
_VALUE = rb"[!-~](?:[ -~]*[!-~])?"
_IS_VALUE = re.compile(_VALUE).fullmatch
_MAX_STARTS = 8
"""How many combinations of varying headers are known."""


class KnownHead(NamedTuple):
    """A head without the values of the headers `names`, and the size of its request without.

    `may_repeat`: the values may come again; ids and traces do not.
    """

    head: Head
    names: tuple[bytes, ...]
    size: int
    may_repeat: bool


_Starts = tuple[bytes, ...]
"""What stands before each value, as the client writes it: `\\r\\nBascule-Sticky: `."""


class KnownHeads:
    """The heads of one site."""

    def __init__(self) -> None:
        self.whole: dict[bytes, tuple[Head, int]] = {}
        """Heads without varying headers, by their bytes; and the sizes of their requests."""
        self.cut: dict[_Starts, dict[bytes, KnownHead]] = {}
        """Heads with varying headers: by these, then by their bytes without the values."""
        self._repeated: list[bytes] = []
        self.vary(frozenset())

    def __len__(self) -> int:
        return len(self.whole) - len(self._repeated) + sum(map(len, self.cut.values()))

    def vary(self, asked: frozenset[bytes]) -> None:
        """Forget all heads; cut out the values of these headers too.

        They must not say how a request is read or whether it is answered: no `host`, for example.
        """
        self._varying = _VARYING | asked
        names = b"|".join(map(re.escape, sorted(self._varying)))
        self._pieces = re.compile(rb"(\r\n(?i:%b): )(%b)(?=\r\n)" % (names, _VALUE))
        self._named = re.compile(rb"\r\n(?i:%b):" % names)
        self._clear()

    def _clear(self) -> None:
        self.whole.clear()
        self.cut.clear()
        self._repeated.clear()

    def find_cut(self, data: bytes, head_bytes: int) -> Head | None:
        """The head of a whole request that begins with these bytes, with its own values."""
        for starts, heads in self.cut.items():
            left, values, at = b"", [], 0
            for start in starts:
                begin = data.find(start, at, head_bytes) + len(start)
                if begin < len(start):
                    break
                left += data[at:begin]
                at = data.find(b"\r\n", begin, head_bytes)
                values.append(data[begin:at])
            else:
                known = heads.get(left + data[at:head_bytes])
                if known is not None and known.size + sum(map(len, values)) == len(data):
                    head = _with_values(known, values)
                    if head is not None and known.may_repeat:
                        self._remember(data[:head_bytes], head, len(data))
                    return head
        return None

    def _remember(self, head_bytes: bytes, head: Head, size: int) -> None:
        """Find a head with its values by its bytes alone when it comes again."""
        if len(self._repeated) >= MAX_KNOWN:
            for one in self._repeated:
                del self.whole[one]
            self._repeated.clear()
        self._repeated.append(head_bytes)
        self.whole[head_bytes] = (head, size)

    def learn(self, data: bytes, head_bytes: int, head: Head) -> None:
        """Remember the head of a request that the parser has read whole."""
        if not _NOT_KNOWN.isdisjoint(head.headers):
            return
        if len(self) >= MAX_KNOWN:
            self._clear()
        if self._varying.isdisjoint(head.headers):
            self.whole[data[:head_bytes]] = (head._replace(memo=Memo()), len(data))
            return
        pieces = self._pieces.split(data[:head_bytes])
        starts, values = tuple(pieces[1::3]), pieces[2::3]
        names = tuple(start[2:-2].lower() for start in starts)
        read = {name: head.headers[name] for name in self._varying if name in head.headers}
        is_each_once = len(self._named.findall(data[:head_bytes])) == len(values)
        if is_each_once and dict(zip(names, values, strict=True)) == read:
            if starts not in self.cut and len(self.cut) >= _MAX_STARTS:
                self.cut.clear()
            del pieces[2::3]
            size = len(data) - sum(map(len, values))
            known = KnownHead(head, names, size, _VARYING.isdisjoint(names))
            self.cut.setdefault(starts, {})[b"".join(pieces)] = known


def _with_values(known: KnownHead, values: list[bytes]) -> Head | None:
    """The head with other values; None if one is not of characters that are taken as they are."""
    head, names, _, may_repeat = known
    headers = head.headers.copy()
    for name, value in zip(names, values, strict=True):
        if _IS_VALUE(value) is None:
            return None
        headers[name] = value
    sent_id = headers.get(b"x-request-id")
    request_id = request_id_of(sent_id) if sent_id else b""
    # Its own constructor takes twice the time.
    memo = Memo() if may_repeat else None
    said = head.method, head.target, headers, head.keep_alive, request_id, head.is_plain, memo
    return tuple.__new__(Head, said)
