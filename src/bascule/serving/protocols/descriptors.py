"""From the `.proto` files beside this one to the descriptors that reflection tells.

A tool that has no stubs asks a server for the descriptor of its messages. The general library can
make it, and enters every name into a table of the process while it does (see
`protocols.protobuf`); so this reads the part of the language that our own files use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files

from bascule.serving.codecs.protobuf import block, number_field

_TOKEN = re.compile(r'"[^"]*"|[\w.]+|[{}()<>=;,]')
_SCALARS = {
    "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9,
    "bytes": 12, "uint32": 13,
}  # fmt: skip
_MESSAGE, _ENUM = 11, 14
_OPTIONAL, _REPEATED = 1, 3


@dataclass
class _Field:
    name: str
    number: int
    type: str
    label: int
    oneof: int | None


@dataclass
class _Message:
    name: str
    fields: list[_Field] = field(default_factory=list)
    oneofs: list[str] = field(default_factory=list)
    nested: list[_Message] = field(default_factory=list)
    enums: list[tuple[str, list[tuple[str, int]]]] = field(default_factory=list)
    is_map_entry: bool = False


@dataclass
class ProtoFile:
    """One `.proto` file.

    Attributes:
        name: Of the file.
        package: What every name in it begins with.
        symbols: The full names of its messages, enums, services and methods.
        services: The full names of its services.
        descriptor: The serialised `FileDescriptorProto`.
    """

    name: str
    package: str = ""
    symbols: set[str] = field(default_factory=set)
    services: list[str] = field(default_factory=list)
    descriptor: bytes = b""


def read_proto(name: str) -> ProtoFile:
    """Read a file that lies beside this module."""
    text = files("bascule.serving.protocols").joinpath(name).read_text()
    return _Reader(name, re.sub(r"//[^\n]*", "", text)).file()


class _Reader:
    def __init__(self, name: str, text: str) -> None:
        self._made = ProtoFile(name)
        self._tokens: Iterator[str] = iter(_TOKEN.findall(text))
        self._kinds: dict[str, int] = {}

    def file(self) -> ProtoFile:
        made = self._made
        messages: list[_Message] = []
        services: list[tuple[str, list[tuple[str, str, bool, str, bool]]]] = []
        for token in self._tokens:
            if token == "package":
                made.package = next(self._tokens)
            elif token == "message":
                messages.append(self._message(next(self._tokens), made.package))
            elif token == "service":
                services.append(self._service())
            else:
                assert token in ("syntax", "=", '"proto3"', ";"), token
        made.descriptor = b"".join(
            [
                block(1, made.name),
                block(2, made.package),
                *(block(4, self._message_bytes(one, made.package)) for one in messages),
                *(block(6, self._service_bytes(*one)) for one in services),
                block(12, "proto3"),
            ]
        )
        return made

    def _skip(self, *expected: str) -> None:
        for one in expected:
            token = next(self._tokens)
            assert token == one, (token, one)

    def _message(self, name: str, scope: str) -> _Message:
        made = _Message(name)
        own = f"{scope}.{name}"
        self._declare(own, _MESSAGE)
        self._skip("{")
        oneof: int | None = None
        for token in self._tokens:
            if token == "}":
                if oneof is None:
                    return made
                oneof = None
            elif token == "message":
                made.nested.append(self._message(next(self._tokens), own))
            elif token == "enum":
                made.enums.append(self._enum(own))
            elif token == "oneof":
                made.oneofs.append(next(self._tokens))
                oneof = len(made.oneofs) - 1
                self._skip("{")
            elif token == "map":
                made.fields.append(self._map(made, own))
            else:
                label = _OPTIONAL
                if token == "repeated":
                    label, token = _REPEATED, next(self._tokens)
                made.fields.append(self._field(token, label, oneof))
        raise AssertionError("the file ends early")

    def _field(self, kind: str, label: int, oneof: int | None) -> _Field:
        name = next(self._tokens)
        self._skip("=")
        number = int(next(self._tokens))
        self._skip(";")
        return _Field(name, number, kind, label, oneof)

    def _map(self, within: _Message, scope: str) -> _Field:
        """A map is a repeated message of a key and a value, with a name made from its own."""
        self._skip("<")
        key = next(self._tokens)
        self._skip(",")
        value = next(self._tokens)
        self._skip(">")
        made = self._field("", _REPEATED, None)
        entry = "".join(part.capitalize() for part in made.name.split("_")) + "Entry"
        self._declare(f"{scope}.{entry}", _MESSAGE)
        pair = [_Field("key", 1, key, _OPTIONAL, None), _Field("value", 2, value, _OPTIONAL, None)]
        within.nested.append(_Message(entry, pair, is_map_entry=True))
        made.type = entry
        return made

    def _enum(self, scope: str) -> tuple[str, list[tuple[str, int]]]:
        name = next(self._tokens)
        self._declare(f"{scope}.{name}", _ENUM)
        self._skip("{")
        values: list[tuple[str, int]] = []
        while (token := next(self._tokens)) != "}":
            self._skip("=")
            values.append((token, int(next(self._tokens))))
            self._skip(";")
        return name, values

    def _service(self) -> tuple[str, list[tuple[str, str, bool, str, bool]]]:
        name = next(self._tokens)
        own = f"{self._made.package}.{name}"
        self._made.symbols.add(own)
        self._made.services.append(own)
        self._skip("{")
        methods = []
        while next(self._tokens) == "rpc":
            method = next(self._tokens)
            self._made.symbols.add(f"{own}.{method}")
            takes, takes_many = self._stream_of()
            self._skip("returns")
            gives, gives_many = self._stream_of()
            self._skip(";")
            methods.append((method, takes, takes_many, gives, gives_many))
        return name, methods

    def _stream_of(self) -> tuple[str, bool]:
        self._skip("(")
        kind = next(self._tokens)
        is_stream = kind == "stream"
        if is_stream:
            kind = next(self._tokens)
        self._skip(")")
        return kind, is_stream

    def _declare(self, name: str, kind: int) -> None:
        self._kinds[name] = kind
        self._made.symbols.add(name)

    def _resolved(self, name: str, scope: str) -> str:
        """The full name of what a name means within a scope."""
        while f"{scope}.{name}" not in self._kinds:
            assert scope, name
            scope = scope.rpartition(".")[0]
        return f"{scope}.{name}"

    def _message_bytes(self, message: _Message, scope: str) -> bytes:
        own = f"{scope}.{message.name}"
        parts = [block(1, message.name)]
        parts += [block(2, self._field_bytes(one, own)) for one in message.fields]
        parts += [block(3, self._message_bytes(one, own)) for one in message.nested]
        for name, values in message.enums:
            told = [block(2, block(1, value) + number_field(2, n)) for value, n in values]
            parts.append(block(4, block(1, name) + b"".join(told)))
        if message.is_map_entry:
            parts.append(block(7, number_field(7, 1)))
        parts += [block(8, block(1, name)) for name in message.oneofs]
        return b"".join(parts)

    def _field_bytes(self, one: _Field, scope: str) -> bytes:
        made = block(1, one.name) + number_field(3, one.number) + number_field(4, one.label)
        kind = _SCALARS.get(one.type)
        if kind is None:
            full = self._resolved(one.type, scope)
            made += number_field(5, self._kinds[full]) + block(6, f".{full}")
        else:
            made += number_field(5, kind)
        if one.oneof is not None:
            made += number_field(9, one.oneof)
        first, *others = one.name.split("_")
        return made + block(10, first + "".join(part.capitalize() for part in others))

    def _service_bytes(self, name: str, methods: list[tuple[str, str, bool, str, bool]]) -> bytes:
        parts = [block(1, name)]
        for method, takes, takes_many, gives, gives_many in methods:
            package = self._made.package
            told = block(1, method) + block(2, f".{self._resolved(takes, package)}")
            told += block(3, f".{self._resolved(gives, package)}")
            told += number_field(5, 1) if takes_many else b""
            told += number_field(6, 1) if gives_many else b""
            parts.append(block(2, told))
        return b"".join(parts)
