"""Blocks: what the spool's files are made of. Some answers of one version, column by column.

| bytes | hold |
|---|---|
| 4 | `BLK2` |
| 4, 4 | length of the head and of the body, little-endian |
| 4 | CRC-32 of both |
| head | MessagePack: `Head` |
| body | pieces, one after the other: the requests (`REQUEST`), the ids, row numbers, every column |

A piece of numbers is a raw little-endian array; texts are two pieces, lengths in bytes (-1: none)
and UTF-8. Blocks of one version have the same layout, byte for byte, so that a reader joins their
pieces and looks at no value. A writer that dies leaves at most one block cut short at the end of
its file; the length or the sum tells that.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

_MAGIC = b"BLK2"
_FRAME = struct.Struct("<4sIII")
Array = NDArray[Any]

REQUEST = np.dtype(
    [
        ("time_ns", "<i8"), ("latency_ns", "<i8"), ("draw", "<f8"), ("rows", "<i4"),
        ("kept_rows", "<i4"), ("status", "<u2"), ("origin", "<u2"),
    ]
)  # fmt: skip
"""A request: `time_ns` of the epoch; `draw`, uniform on [0, 1): it is kept where that is below the
share of its interval; `origin` is a place in `Head.origins`."""
_PACKED = struct.Struct("<qqdiiHH")
pack_request = _PACKED.pack


TEXT, HASH = "text", "hash"
"""Kinds of texts: as they are, and keyed hashes of private values, which no profile counts."""
SEALING = {"encrypt": ".encrypted", "tokenise": ".token"}
"""By the rule of a field that the scribe seals, what is added to its name."""
SEALED = tuple(SEALING.values())
Origin = tuple[str, ...]
"""Caller, protocol and trace of a request; in a rollout also the unit of its key, see `FIXED`. Of
an answer in parts: the unit or nothing, how many parts, and how it ended. Of a request that was
steered by its context: these, or nothing, and the propensity."""


class Column(msgspec.Struct, frozen=True, array_like=True):
    """A field: its numpy dtype, `TEXT` or `HASH`, and the shape of one row."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()

    @property
    def is_text(self) -> bool:
        return self.dtype in (TEXT, HASH)

    @property
    def values_per_row(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


class Layout(msgspec.Struct, frozen=True, array_like=True):
    """What is the same in many blocks.

    Attributes:
        inputs: The fields of what was asked; none where nothing was.
        outputs: The fields of the answers; none where there are none.
        names: By field, what its columns are called in a baseline, where that is known.
        sealed: Fields whose values the scribe encrypts, or makes tokens of.
    """

    inputs: tuple[Column, ...] = ()
    outputs: tuple[Column, ...] = ()
    names: dict[str, tuple[str, ...]] = {}
    sealed: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        return _encode(self)


class Head(msgspec.Struct, frozen=True, array_like=True):
    """Some answers that one version gave within one interval.

    Attributes:
        model: Of the version that answered; the one that was asked where none did.
        version: Its version.
        endpoint: The model, or the endpoint, that was asked.
        interval: The number of the sampling interval of its writer.
        share: Of this interval's requests for the model, the share that is kept so far; a later
            block of the same interval may say less, and then counts for all of them.
        origins: The origins of its requests, each once.
        layout: A `Layout`, as bytes.
        is_anonymous: It is for profiles alone: it has no ids, callers and traces.
        sizes: Of the pieces, in bytes.
        arm: The arm of the endpoint's plan; empty without a plan.
        plan: The number of the plan; 0 without one.
    """

    model: str
    version: str
    endpoint: str
    interval: int
    share: float
    origins: tuple[Origin, ...]
    layout: bytes
    is_anonymous: bool = False
    sizes: tuple[int, ...] = ()
    arm: str = ""
    plan: int = 0


class Block(NamedTuple):
    """A block as it is read. The first pieces are requests, ids (two) and row numbers."""

    head: Head
    pieces: list[memoryview]

    @property
    def requests(self) -> Array:
        return np.frombuffer(self.pieces[0], REQUEST)


_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(Head).decode
read_layout = lru_cache(256)(msgspec.msgpack.Decoder(Layout).decode)


def text_pieces(texts: Sequence[str | None]) -> tuple[bytes, bytes]:
    """The two pieces of a column of texts."""
    if None not in texts:
        known = cast(Sequence[str], texts)
        joined = "".join(known)
        if joined.isascii():
            return array("i", map(len, known)).tobytes(), joined.encode()
    raw = [None if text is None else text.encode("utf-8", "replace") for text in texts]
    sizes = array("i", [-1 if one is None else len(one) for one in raw])
    return sizes.tobytes(), b"".join(one for one in raw if one is not None)


def to_bytes(head: Head, parts: Sequence[bytes | Array]) -> bytearray:
    """A block as it is appended to a file of the spool.

    Args:
        head: With the sizes of the pieces.
        parts: The pieces, each whole or as several parts. Their bytes are copied once.

    Raises:
        ValueError: The parts are not of those sizes.
    """
    written = _encode(head)
    try:
        made = bytearray().join(cast(Sequence[bytes], (bytes(_FRAME.size), written, *parts)))
    except TypeError:  # a column is a part of a table
        plain = [one.tobytes() if isinstance(one, np.ndarray) else one for one in parts]
        made = bytearray().join((bytes(_FRAME.size), written, *plain))
    size = sum(head.sizes)
    if len(made) != _FRAME.size + len(written) + size:
        raise ValueError(f"the pieces of a block are not of {size} bytes")
    check = zlib.crc32(memoryview(made)[_FRAME.size :])
    _FRAME.pack_into(made, 0, _MAGIC, len(written), size, check)
    return made


def read_blocks(data: bytes | memoryview) -> Iterator[tuple[Block, int]]:
    """The whole blocks at the front of `data`, each with the place where it ends.

    Stops before the first block that is cut short or whose sum is wrong.
    """
    view, at = memoryview(data), 0
    while len(view) - at >= _FRAME.size:
        magic, head_size, body_size, check = _FRAME.unpack_from(view, at)
        start = at + _FRAME.size
        end = start + head_size + body_size
        if magic != _MAGIC or end > len(view) or zlib.crc32(view[start:end]) != check:
            return
        head = _decode_head(view[start : start + head_size])
        places = accumulate(head.sizes, initial=start + head_size)
        yield Block(head, [view[here:there] for here, there in pairwise(places)]), end
        at = end
