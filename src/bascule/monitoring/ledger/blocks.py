"""Blocks: what the spool's files are made of. Some answers of one version, column by column.

| bytes | hold |
|---|---|
| 4 | `BLK1` |
| 4, 4 | length of the head and of the columns, little-endian |
| 4 | CRC-32 of both |
| head | MessagePack: who answered, how many, and the name, type and shape of every column |
| columns | their bytes, one after the other |

Numbers are raw little-endian arrays, texts a MessagePack list. A writer that dies leaves at most
one block cut short at the end of its file; the length or the sum tells that.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

_MAGIC = b"BLK1"
_FRAME = struct.Struct("<4sIII")
Array = NDArray[Any]
Texts = list[str | None]


class Block(msgspec.Struct, kw_only=True):
    """Some answers that one version gave within one interval.

    Attributes:
        model: Of the version that answered; the one that was asked where none did.
        version: Its version.
        endpoint: The model that was asked.
        interval: The number of the sampling interval of its writer.
        share: Of this interval's requests for the model, the share that is kept so far; a later
            block of the same interval may say less, and then counts for all of them.
        requests: One value a request: `id`, `time_ns` (of the epoch), `latency_ns`, `status`,
            `rows`, `kept_rows`, `draw` (uniform on [0, 1): kept where it is below the share), and
            the texts `caller`, `protocol`, `trace`.
        rows: The number of each kept row within its request, where some are kept in part; None
            where all are whole.
        inputs: One value a row, by field; empty where nothing was asked of the version.
        outputs: The same of the answers; empty where there are none.
    """

    model: str
    version: str
    endpoint: str
    interval: int
    share: float
    requests: dict[str, Array | Texts]
    rows: Array | None = None
    inputs: dict[str, Array]
    outputs: dict[str, Array]


class _Column(msgspec.Struct, array_like=True):
    part: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int


class _Head(msgspec.Struct):
    model: str
    version: str
    endpoint: str
    interval: int
    share: float
    columns: list[_Column]


_TEXT = "text"
_PARTS = ("requests", "rows", "inputs", "outputs")
_encode_head = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(_Head).decode


def to_bytes(block: Block) -> bytes:
    """A block as it is appended to a file of the spool."""
    columns: list[_Column] = []
    pieces: list[bytes] = []
    for part in _PARTS:
        content = {"": block.rows} if part == "rows" else getattr(block, part)
        for name, values in content.items():
            if values is None:
                continue
            if isinstance(values, list) or values.dtype == object:
                # Texts of more than one axis, such as a table of them, keep their shape.
                shape = (len(values),) if isinstance(values, list) else values.shape
                flat = values if isinstance(values, list) else values.ravel().tolist()
                piece, dtype = _encode_head(flat), _TEXT
            else:
                shape, dtype = values.shape, values.dtype.str
                piece = values.tobytes()
            columns.append(_Column(part, name, dtype, shape, len(piece)))
            pieces.append(piece)
    head = _encode_head(
        _Head(
            block.model, block.version, block.endpoint, block.interval, block.share,
            columns,
        )
    )  # fmt: skip
    body = b"".join(pieces)
    check = zlib.crc32(body, zlib.crc32(head))
    return _FRAME.pack(_MAGIC, len(head), len(body), check) + head + body


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
        yield _from_bytes(view[start : start + head_size], view[start + head_size : end]), end
        at = end


def _from_bytes(head_bytes: memoryview, body: memoryview) -> Block:
    head = _decode_head(head_bytes)
    parts: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
    at = 0
    for column in head.columns:
        piece = body[at : at + column.size]
        at += column.size
        if column.dtype == _TEXT:
            texts = msgspec.msgpack.decode(piece)
            if column.part != "requests":
                made = np.empty(len(texts), object)
                made[:] = texts
                texts = made.reshape(column.shape)
            parts[column.part][column.name] = texts
        else:
            values = np.frombuffer(piece, np.dtype(column.dtype))
            parts[column.part][column.name] = values.reshape(column.shape)
    return Block(
        model=head.model, version=head.version, endpoint=head.endpoint,
        interval=head.interval, share=head.share, requests=parts["requests"],
        rows=parts["rows"].get(""), inputs=parts["inputs"], outputs=parts["outputs"],
    )  # fmt: skip
