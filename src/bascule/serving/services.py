"""What the supervisor tells its workers, in a form that crosses between processes.

Apart from the workers' own modules, because the supervisor must not load what a worker needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bascule.serving.counters import Label
from bascule.serving.faces import EVERY_FACE, ChosenFaces
from bascule.serving.limits import Limits
from bascule.serving.tls import Tls

BACKLOG = 2048
"""How many connections the kernel keeps for a worker that is busy, or being started again."""


@dataclass(frozen=True, slots=True)
class Service:
    """What a worker is told to serve.

    Attributes:
        model: The name that requests use.
        version: The version that answers carry.
        path: The bundle's folder.
    """

    model: str
    version: str
    path: Path

    def to_json(self) -> dict[str, str]:
        return {"model": self.model, "version": self.version, "path": str(self.path)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Service:
        return cls(value["model"], value["version"], Path(value["path"]))


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What the supervisor tells a worker.

    Attributes:
        worker: Its number, from 0; also the region of the counters that it writes.
        workers: How many there are.
        listener_fd: The inherited listening socket.
        grpc_fd: The one for gRPC; None for none.
        counters: The shared file of counters; may be an inherited descriptor, by its path.
        services: What to serve, the default version of a model before its others.
        limits: The bounds to keep.
        keys: The file of the keys that callers need; None where they need none.
        tls: What connections are encrypted with; None for not at all.
        unix_fd: The inherited listening socket of the file system; None where there is none.
        faces: The protocols to speak.
    """

    worker: int
    workers: int
    listener_fd: int
    counters: Path
    services: tuple[Service, ...]
    limits: Limits
    keys: Path | None = None
    tls: Tls | None = None
    unix_fd: int | None = None
    faces: ChosenFaces = EVERY_FACE
    grpc_fd: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "worker": self.worker,
            "workers": self.workers,
            "listener_fd": self.listener_fd,
            "grpc_fd": self.grpc_fd,
            "counters": str(self.counters),
            "services": [service.to_json() for service in self.services],
            "limits": self.limits.to_json(),
            "keys": None if self.keys is None else str(self.keys),
            "tls": None if self.tls is None else self.tls.to_json(),
            "unix_fd": self.unix_fd,
            "faces": self.faces.to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> WorkerConfig:
        return cls(
            worker=value["worker"],
            workers=value["workers"],
            listener_fd=value["listener_fd"],
            grpc_fd=value["grpc_fd"],
            counters=Path(value["counters"]),
            services=tuple(Service.from_json(service) for service in value["services"]),
            limits=Limits(**value["limits"]),
            keys=None if value["keys"] is None else Path(value["keys"]),
            tls=None if value["tls"] is None else Tls.from_json(value["tls"]),
            unix_fd=value["unix_fd"],
            faces=ChosenFaces.from_json(value["faces"]),
        )


def labels_of(services: tuple[Service, ...]) -> list[Label]:
    """The counters' labels: first everything that is no inference, then one per service."""
    return [Label(), *(Label(service.model, service.version) for service in services)]
