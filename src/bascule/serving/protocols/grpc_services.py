"""What every gRPC server is asked beside its own work: its health, and what it offers.

The services `grpc.health.v1.Health` and `grpc.reflection.{v1,v1alpha}.ServerReflection`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from bascule.core import NotFound
from bascule.serving.codecs import BYTES, block, fields, number_field, read_text
from bascule.serving.protocols.data_plane import DataPlane
from bascule.serving.protocols.descriptors import ProtoFile, read_descriptors
from bascule.serving.transports import NOT_FOUND, UNIMPLEMENTED, InParts, Method, Rpc, Unary, Watch

_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = (number_field(1, status) for status in (1, 2, 3))


class Health:
    """Tells whether the server, or one of its services or models, answers."""

    def __init__(self, plane: DataPlane, services: Iterable[str]) -> None:
        """`services`: the full names that may be asked for; and so may the names of models."""
        self._plane = plane
        self._services = frozenset(services)

    def methods(self) -> Iterator[Method]:
        """Check and Watch."""
        yield Unary(b"/grpc.health.v1.Health/Check", self._check, "health")
        yield Watch(b"/grpc.health.v1.Health/Watch", self._look, "health")

    def _check(self, rpc: Rpc) -> None:
        name = _service(rpc.body)
        state = self._state(name)
        if state is _SERVICE_UNKNOWN:
            raise NotFound(f"no service {name[:128]!r} here", hint="leave it out for the server")
        rpc.answer(state)

    def _look(self, message: bytes) -> partial[bytes]:
        return partial(self._state, _service(message))

    def _state(self, name: str) -> bytes:
        if name and name not in self._services and name not in self._plane.models:
            return _SERVICE_UNKNOWN
        return _SERVING if self._plane.is_ready() else _NOT_SERVING


def _service(message: bytes) -> str:
    name = ""
    for tag, _, start, end in fields(message, 0, len(message)):
        if tag == 1 << 3 | BYTES:
            name = read_text(message, start, end)
    return name


class Reflection:
    """Tells the services, and the descriptors of their messages."""

    def __init__(self) -> None:
        self.files = read_descriptors()

    @property
    def services(self) -> list[str]:
        """The full names of all services."""
        return [service for file in self.files for service in file.services]

    def methods(self) -> Iterator[Method]:
        """The one method, of both versions of the service: tools ask for the newer one first."""
        for version in ("v1", "v1alpha"):
            path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            yield InParts(path.encode(), self._answer, "read")

    def _answer(self, rpc: Rpc) -> None:
        rpc.answer(self.reply(rpc.body))

    def reply(self, request: bytes) -> bytes:
        """Answer one `ServerReflectionRequest`; the messages of both versions are the same."""
        host, asked, text = b"", 0, ""
        for tag, _, start, end in fields(request, 0, len(request)):
            if tag == 1 << 3 | BYTES:
                host = block(1, read_text(request, start, end))
            elif tag & 7 == BYTES and 3 <= tag >> 3 <= 7:
                asked = tag >> 3
                text = "" if asked == 5 else read_text(request, start, end)
        return host + block(2, request) + self._told(asked, text)

    def _told(self, asked: int, text: str) -> bytes:
        if asked == 7:
            return block(6, b"".join(block(1, block(1, name)) for name in self.services))
        file: ProtoFile | None = None
        if asked == 3:
            file = next((one for one in self.files if one.name == text), None)
        elif asked == 4:
            # A symbol may also be a field, which is found where its message is.
            holder = text.rpartition(".")[0]
            file = next((f for f in self.files if text in f.symbols or holder in f.symbols), None)
        elif asked == 0:
            return _error(UNIMPLEMENTED, "the request asks for nothing that is known here")
        if file is None:
            return _error(NOT_FOUND, f"no {text[:128]!r} here")
        return block(4, block(1, file.descriptor))


def _error(code: int, message: str) -> bytes:
    return block(7, number_field(1, code) + block(2, message))
