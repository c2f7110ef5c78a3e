"""The configuration that the supervisor sends to a worker process as one line of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bascule.serving.execution.resilience import ResiliencePolicy
from bascule.serving.limits import Limits
from bascule.serving.protocols.chosen import EVERY_PROTOCOL, ChosenProtocols
from bascule.serving.specs import ModelSpec
from bascule.serving.telemetry.request_log import FAILURES_ALONE, RequestLogConfig
from bascule.serving.transports.tls import Tls


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
        protocols: The protocols to speak.
        policies: How models are treated that fail, by their names.
        journal: What is told of requests.
        multi_model: Whether callers may have models loaded and unloaded.
        allowed_hosts: Names that are answered; see `serving.hosts`.
    """

    worker: int
    workers: int
    listener_fd: int
    counters: Path
    services: tuple[ModelSpec, ...]
    limits: Limits
    keys: Path | None = None
    tls: Tls | None = None
    unix_fd: int | None = None
    protocols: ChosenProtocols = EVERY_PROTOCOL
    grpc_fd: int | None = None
    policies: Mapping[str, ResiliencePolicy] = field(default_factory=dict)
    journal: RequestLogConfig = FAILURES_ALONE
    multi_model: bool = False
    allowed_hosts: tuple[str, ...] = ()

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
            "protocols": self.protocols.to_json(),
            "policies": {name: policy.to_json() for name, policy in self.policies.items()},
            "journal": asdict(self.journal),
            "multi_model": self.multi_model,
            "allowed_hosts": self.allowed_hosts,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> WorkerConfig:
        return cls(
            worker=value["worker"],
            workers=value["workers"],
            listener_fd=value["listener_fd"],
            grpc_fd=value["grpc_fd"],
            counters=Path(value["counters"]),
            services=tuple(ModelSpec.from_json(service) for service in value["services"]),
            limits=Limits(**value["limits"]),
            keys=None if value["keys"] is None else Path(value["keys"]),
            tls=None if value["tls"] is None else Tls.from_json(value["tls"]),
            unix_fd=value["unix_fd"],
            protocols=ChosenProtocols.from_json(value["protocols"]),
            policies={
                name: ResiliencePolicy(**policy) for name, policy in value["policies"].items()
            },
            journal=RequestLogConfig(**value["journal"]),
            multi_model=value["multi_model"],
            allowed_hosts=tuple(value["allowed_hosts"]),
        )
