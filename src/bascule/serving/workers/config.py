"""The configuration that the supervisor sends to a worker process as one line of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bascule.serving.limits import Limits
from bascule.serving.protocols import EVERY_PROTOCOL, ChosenProtocols
from bascule.serving.specs import ModelSpec, Plans
from bascule.serving.telemetry import FAILURES_ALONE, RequestLogConfig
from bascule.serving.transports import Tls


@dataclass(frozen=True, slots=True)
class LedgerConfig:
    """What a worker records of its answers.

    Attributes:
        home: Where the spool is.
        keep: The share of requests to keep, at most.
        max_rows_per_s: Of a version in one worker; above it answers are sampled.
        private: By `FIELD` or `MODEL.FIELD`, "omit" or "hash".
        is_anonymous: Rows are for profiles alone, without ids and callers.
        max_values_per_row: A field with more is left out.
    """

    home: Path
    keep: float = 1.0
    max_rows_per_s: int = 5_000
    private: Mapping[str, str] = field(default_factory=dict)
    is_anonymous: bool = False
    max_values_per_row: int = 1_024


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """How every worker of a server serves, from the settings.

    Attributes:
        limits: The bounds to keep.
        tls: What connections are encrypted with; None for not at all.
        protocols: The protocols to speak.
        policies: By the names of models, the settings of each policy by its name.
        request_log: What the request log records.
        allowed_hosts: Names that are answered; see `transports.hosts`.
        ledger: What is recorded of answers; None for nothing.
        outcomes_home: The home that keeps outcomes; None for a server that takes none.
    """

    limits: Limits
    tls: Tls | None = None
    protocols: ChosenProtocols = EVERY_PROTOCOL
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    request_log: RequestLogConfig = FAILURES_ALONE
    allowed_hosts: tuple[str, ...] = ()
    ledger: LedgerConfig | None = None
    outcomes_home: Path | None = None


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What the supervisor tells a worker.

    Both forms are made of the fields, here and in what they hold: a new one is written once.

    Attributes:
        worker: Its number, from 0; also the region of the counters that it writes.
        workers: How many there are.
        listener_fd: The inherited listening socket.
        counters: The shared file of counters; may be an inherited descriptor, by its path.
        serving: How to serve.
        services: What to serve, the default version of a model before its others.
        plans: The plans of endpoints.
        keys: The file of the keys that callers need; None where they need none.
        grpc_fd: The inherited socket for gRPC; None for none.
        unix_fd: The inherited listening socket of the file system; None where there is none.
        multi_model: Whether callers may have models loaded and unloaded.
        control_port: Of the control API, for callers that look for it here; None for none.
        meters: The shared file of what callers have used; None where no policy needs it.
    """

    worker: int
    workers: int
    listener_fd: int
    counters: Path
    serving: ServingConfig
    services: tuple[ModelSpec, ...] = ()
    plans: Plans = ()
    keys: Path | None = None
    grpc_fd: int | None = None
    unix_fd: int | None = None
    multi_model: bool = False
    control_port: int | None = None
    meters: Path | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self, dict_factory=_with_plain_paths)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> WorkerConfig:
        """The same from JSON; a field that is not there has its default."""
        import msgspec  # which the supervisor does not need

        from bascule.serving.execution import read_chain

        config = msgspec.convert(value, cls, dec_hook=_from_plain)
        policies = {name: read_chain(chain) for name, chain in config.serving.policies.items()}
        return replace(config, serving=replace(config.serving, policies=policies))


def _with_plain_paths(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: str(one) if isinstance(one, Path) else one for name, one in items}


def _from_plain(kind: type[Any], text: Any) -> Any:
    return kind(text)  # paths alone have no form of their own in JSON
