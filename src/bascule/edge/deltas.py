"""A bundle as one archive, and what leads from one archive to another.

An archive is an uncompressed tar of the files that the digest covers, with sorted names and without
times and owners: one digest, one sequence of bytes, so a device makes its own again from its
folder. A difference is made by two methods, and the smaller is taken:

- `prefix`: zstd, to which the old archive is what went before. For trees that were added.
- `planes`: files of the same name and size are subtracted byte by byte, and every fourth byte of
  the difference is put together. For fine-tuned networks, whose weights change in their low bytes
  alone: their high bytes become zeros, and stand together.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.bundle import read_manifest
from bascule.bundle.disk import MANIFEST
from bascule.core import Untrusted, is_inside, sha256_file

Method = Literal["full", "prefix", "planes"]
_Copies = list[tuple[int, int, int]]
"""Which bytes of the old archive stand in the new one: from, to, bytes."""
_LEVEL, _MAX_WINDOW_LOG = 19, 31
_CHUNK_BYTES = 1 << 20
_WIDTH, _HEAD_BYTES = 4, 4


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive in the file `path`."""

    path: Path
    sha256: str
    size_bytes: int


def corrupted(problem: object) -> Untrusted:
    """The error of content that is not what was published."""
    return Untrusted(f"corrupted: {problem}", hint="try again; else publish it again")


def pack(folder: Path, to: Path) -> Archive:
    """The archive of a bundle, whose files are verified; without card and statements."""
    import tarfile  # half a megabyte, which a device that only answers has no use for

    with tarfile.open(to, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted([MANIFEST, *read_manifest(folder).files]):
            member = tarfile.TarInfo(name)
            member.size = (folder / name).stat().st_size
            with (folder / name).open("rb") as file:
                archive.addfile(member, file)
    return Archive(to, sha256_file(to), to.stat().st_size)


def unpack(archive: Path, into: Path) -> None:
    """Write the files of an archive into a folder that is there.

    Raises:
        Untrusted: The archive is damaged, or holds more than plain files inside the folder.
    """
    import tarfile

    try:
        with tarfile.open(archive, "r:") as opened:
            for member in opened:
                content = opened.extractfile(member) if member.isreg() else None
                if content is None or not is_inside(member.name):
                    raise corrupted(f"the archive holds {member.name!r}")
                target = into / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(content, file)
    except tarfile.TarError as problem:
        raise corrupted(problem) from None


def compress(archive: Archive, to: Path) -> None:
    """Write the archive in its smallest form that needs no other."""
    to.write_bytes(_compressed(archive.path.read_bytes()))


def difference(old: Archive, new: Archive, to: Path) -> Method:
    """Write what leads from one archive to another, by the method that takes fewer bytes."""
    before, after = old.path.read_bytes(), new.path.read_bytes()
    forms: dict[Method, bytes] = {
        "prefix": _compressed(after, before),
        "planes": _compressed(_in_planes(before, after)),
    }
    method = min(forms, key=lambda name: len(forms[name]))
    to.write_bytes(forms[method])
    return method


def expand(
    file: Path, to: Path, method: Method, size_bytes: int, old: Archive | None = None
) -> None:
    """Write the archive that `compress` (`full`) or `difference` was given.

    Raises:
        Untrusted: The file is damaged, or does not lead to an archive of `size_bytes`.
    """
    from backports.zstd import ZstdError

    before = old.path.read_bytes() if old is not None else b""
    try:
        if method == "planes":
            to.write_bytes(_from_planes(before, b"".join(_expanded(file)), size_bytes))
        else:
            with to.open("wb") as archive:
                for chunk in _expanded(file, before):
                    if archive.write(chunk) and archive.tell() > size_bytes:
                        break
    except (ZstdError, ValueError, EOFError) as problem:
        raise corrupted(problem) from None
    if to.stat().st_size != size_bytes:
        raise corrupted(f"it does not lead to {size_bytes:,} bytes")


def _compressed(content: bytes, prefix: bytes = b"") -> bytes:
    from backports.zstd import CompressionParameter, ZstdCompressor, ZstdDict

    window_log = (len(content) + len(prefix)).bit_length()
    options: dict[int, int] = {
        CompressionParameter.compression_level: _LEVEL,
        CompressionParameter.window_log: min(max(window_log, 10), _MAX_WINDOW_LOG),
        CompressionParameter.enable_long_distance_matching: 1,
    }
    base = ZstdDict(prefix, is_raw=True).as_prefix if prefix else None
    compressor = ZstdCompressor(options=options, zstd_dict=base)
    return compressor.compress(content, mode=compressor.FLUSH_FRAME)


def _expanded(file: Path, prefix: bytes = b"") -> Iterator[bytes]:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdDict

    expander = ZstdDecompressor(
        ZstdDict(prefix, is_raw=True).as_prefix if prefix else None,
        {DecompressionParameter.window_log_max: _MAX_WINDOW_LOG},
    )
    with file.open("rb") as compressed:
        while not expander.eof:
            piece = compressed.read(_CHUNK_BYTES) if expander.needs_input else b""
            if expander.needs_input and not piece:
                raise EOFError("it ends too early")
            yield expander.decompress(piece, max_length=_CHUNK_BYTES)


def _in_planes(old: bytes, new: bytes) -> bytes:
    """The length of the copies, the copies, and what is to be added to them, in planes."""
    before, after = _members(old), _members(new)
    copies = [
        (before[name][0], place, size)
        for name, (place, size) in after.items()
        if name in before and before[name][1] == size
    ]
    head = msgspec.json.encode(copies)
    changed = _padded(new) - _copied(old, copies, len(new))
    return len(head).to_bytes(_HEAD_BYTES, "big") + head + changed.reshape(-1, _WIDTH).T.tobytes()


def _from_planes(old: bytes, content: bytes, size_bytes: int) -> bytes:
    end = _HEAD_BYTES + int.from_bytes(content[:_HEAD_BYTES], "big")
    copies = msgspec.json.decode(content[_HEAD_BYTES:end], type=_Copies)
    changed = np.frombuffer(content[end:], np.uint8).reshape(_WIDTH, -1).T.reshape(-1)
    return (changed + _copied(old, copies, size_bytes))[:size_bytes].tobytes()


def _members(archive: bytes) -> Mapping[str, tuple[int, int]]:
    """By name, where its bytes begin, and how many they are."""
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return {member.name: (member.offset_data, member.size) for member in opened}


def _copied(old: bytes, copies: _Copies, size_bytes: int) -> NDArray[np.uint8]:
    copied, before = _padded(bytes(size_bytes)), np.frombuffer(old, np.uint8)
    for from_, to, length in copies:
        copied[to : to + length] = before[from_ : from_ + length]
    return copied


def _padded(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(content + bytes(-len(content) % _WIDTH), np.uint8).copy()
