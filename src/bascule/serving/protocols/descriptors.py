r"""The descriptors for gRPC reflection, compiled from the `.proto` files beside this one.

`services.binpb` is made in this folder, with `grpcio-tools` installed, by

    python -m grpc_tools.protoc -I. --descriptor_set_out=services.binpb \
        grpc_predict_v2.proto health.proto reflection_v1.proto reflection_v1alpha.proto \
        outcomes.proto

It is read as bytes, not by the protobuf library, which would enter every name into a table of the
process (see `codecs.protobuf`). Field numbers are those of `google/protobuf/descriptor.proto`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from bascule.serving.codecs import BYTES, fields

_PARTS_OF_FILE = {4: "message", 5: "enum", 6: "service"}
_PARTS_OF = {"message": {3: "message", 4: "enum"}, "service": {2: "method"}}


@dataclass(frozen=True, slots=True)
class ProtoFile:
    """One `.proto` file.

    Attributes:
        name: Of the file.
        symbols: The full names of its messages, enums, services and methods.
        services: The full names of its services.
        descriptor: The serialised `FileDescriptorProto`.
    """

    name: str
    symbols: frozenset[str]
    services: tuple[str, ...]
    descriptor: bytes


def read_descriptors() -> list[ProtoFile]:
    """Every file of the set, in the order of the command above."""
    data = files("bascule.serving.protocols").joinpath("services.binpb").read_bytes()
    return [_file(content) for _, content in _blocks(data)]


def _file(data: bytes) -> ProtoFile:
    texts = {number: content.decode() for number, content in _blocks(data) if number in (1, 2)}
    symbols = list(_symbols(data, texts[2], _PARTS_OF_FILE))
    services = tuple(name for kind, name in symbols if kind == "service")
    return ProtoFile(texts[1], frozenset(name for _, name in symbols), services, data)


def _symbols(data: bytes, scope: str, parts: dict[int, str]) -> Iterator[tuple[str, str]]:
    """The kind and the full name of what a file, a message or a service declares."""
    for number, content in _blocks(data):
        if kind := parts.get(number):
            name = next(text.decode() for number, text in _blocks(content) if number == 1)
            yield kind, f"{scope}.{name}"
            yield from _symbols(content, f"{scope}.{name}", _PARTS_OF.get(kind, {}))


def _blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The number and content of each field that is a text or a message."""
    for tag, _, start, end in fields(data, 0, len(data)):
        if tag & 7 == BYTES:
            yield tag >> 3, data[start:end]
