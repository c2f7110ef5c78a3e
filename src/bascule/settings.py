"""Settings: what can be set, loaded, checked, and refused with the place that a value came from.

They come from `bascule.toml` in the working directory and from the environment, which wins:
`BASCULE_HOME`, `BASCULE_SERVING__WORKERS`. They are read once. A setting is one field here: what
takes it, such as `serving.Limits`, is made of the section by names (`app`).
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_type_hints
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le, Lt, MinLen

from bascule.bundle.generation import UPSTREAMS
from bascule.core import BasculeWarning, Invalid, is_kept_elsewhere, masked, secret_in
from bascule.monitoring import JudgeOptions, Prices
from bascule.monitoring.alerts import ReceiverOptions, RouteOptions
from bascule.monitoring.reviews import ReviewRule
from bascule.platforms import SAFE_PORTS, VARIABLES, other_ports
from bascule.serving.execution import ResiliencePolicy

SETTINGS_FILE = "bascule.toml"
PREFIX = "BASCULE_"
DELIMITER = "__"
CATALOGUES: Mapping[str, str] = {
    "sqlite": "bascule.catalogue.sqlite:open_database",
    "postgresql": "bascule.catalogue.postgresql:open_database",
}
"""Where names, numbers and history can be kept, by the scheme of `registry.store`."""

OBJECTS: Mapping[str, str] = {
    "files": "bascule.registry.stores.files:open_objects",
    "s3": "bascule.registry.stores.s3:open_objects",
}
"""Where bundles can be kept, by the scheme of `registry.objects`."""

_JSON_VALUES = (
    "criteria", "guards", "steps_percent", "required_keys", "required_claims", "protocols",
    "models", "allowed_hosts", "private", "receivers", "routers", "routes", "places", "oidc_scopes",
    "roles", "pull_secrets", "node_selector", "tolerations", "price_per_1000_rows", "providers",
    "lists", "retention_days", "anchors", "protected", "callbacks",
)  # fmt: skip
"""What a variable holds as JSON."""
_LIST_HINT = 'write a list as ["one", "two"], with straight quotes'

_SERVING_FILES = (
    "tls_certificate", "tls_key", "tls_client_authority", "unix_socket", "feature_store",
)  # fmt: skip

ProtocolName = Literal["oip", "tfserving", "invocations", "vertex", "azureml", "openai"]

_Port = Annotated[int, Ge(0), Le(65_535)]


class _Section:
    """Refuses names that it does not know."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings(_Section):
    """What a version must meet to move on.

    Attributes:
        criteria: As they are written: `roc_auc >= 0.8`, `latency_p99 <= 5 ms`.
    """

    criteria: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings(_Section):
    """Where the registry is, and how strict.

    Attributes:
        store: The catalogue: `sqlite` (in the home), or `postgresql://USER@HOST/NAME`. It may
            hold a password, so it is never shown, and may be kept elsewhere, all of it or a part
            in `${}`: `file:PATH` where an agent or an orchestrator puts secrets, `env:VARIABLE`,
            `vault:PATH#FIELD`. It is read again for each connection.
        objects: The bundles: `files` (in the home), `files:///FOLDER`, or `s3://BUCKET/PREFIX`; or
            where that is kept, as for `store`.
        require_gates: Whether an alias may only point to a version that was checked, for all of
            `gates.criteria` where there are any.
    """

    store: str = field(default="sqlite", repr=False)
    objects: str = field(default="files", repr=False)
    require_gates: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuritySettings(_Section):
    """Who must vouch for a bundle, and who may call a server.

    Attributes:
        required_keys: Files of public keys. With any, a bundle that none of them signed is neither
            taken into the registry, nor pointed to by an alias, nor used from it, nor served. A
            relative path is meant from the folder of the settings.
        required_claims: What a passport that one of these keys signed must claim of a bundle before
            an alias points to it, and before it is used or served: `parity`, `gates`,
            `epsilon <= 3`.
        callers: Whether callers of a server need a key: "keys" or "anybody"; "auto" asks for keys
            unless the server listens on the loopback address alone.
        keys_stale_s: How long the known keys hold while the catalogue cannot be read.
    """

    required_keys: tuple[Path, ...] = ()
    required_claims: tuple[str, ...] = ()
    callers: Literal["auto", "keys", "anybody"] = "auto"
    keys_stale_s: Annotated[float, Gt(0), Le(31_536_000)] = 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings(ResiliencePolicy, _Section):
    """The policies of one model: a section `[serving.models.NAME]`. Its own are of resilience.

    Attributes:
        policies: The settings of other policies, by the names of these.
    """

    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSettings(_Section):
    """How predictions are served.

    Attributes:
        host: The address to listen on.
        port: For predictions; 0 takes a free one.
        control_port: For registry, health and docs; 0 takes a free one.
        grpc_port: For predictions over gRPC; 0 takes a free one, -1 serves none.
        workers: Processes that share the ports.
        deadline_s: How long a request may take, unless it says less.
        max_body_bytes: Of a request.
        max_queue_requests: How many may wait for one model in a worker before the next is refused.
        drain_s: How long requests in flight have to finish after a stop was asked for.
        worker_silent_s: How long a worker's event loop may stand still before the worker is
            killed and replaced.
        batching: "auto" runs waiting callers together, "never" runs each alone.
        memory_budget_mb: How much memory the models of a worker may take; 0 is no bound.
        confidence: What the sets and intervals of answers hold the truth with, where a request
            does not say; 0 adds none.
        protocols: The protocols to speak; none named is all.
        vertex_health_route: Where Vertex AI asks for the health.
        vertex_predict_route: Where it asks for predictions.
        multi_model: Whether callers load and unload models, as SageMaker's multi-model endpoints
            do; a server may then begin with none.
        tls_certificate: A PEM file; with it and `tls_key`, both ports speak TLS alone.
        tls_key: A PEM file without a password.
        tls_client_authority: A PEM file: clients must have a certificate signed by it.
        unix_socket: A path to answer predictions on as well.
        log: The form of the log's lines: "text", or "json" for programs.
        access_log: Whether the log tells of every request; without it, of those that failed.
        log_exception_texts: Whether the log also has what exceptions say, which may quote rows.
        trace_endpoint: The address that takes spans (OTLP over HTTP); empty for none.
        allowed_hosts: Names that are answered as `Host` and `Origin`: `models.example.com`,
            `*.example.com`, or `*` for any. None named is loopback names alone on the loopback
            address without keys, and any elsewhere.
        default_model: What `bascule serve` without arguments serves, where no platform has put a
            bundle; an image names its bundle here.
        providers: Execution providers of ONNX Runtime, by its own names and in the order of
            preference: `OpenVINOExecutionProvider`. None named is the processor (CPU) alone.
        feature_store: Completes the rows of models packed with `--features`: a Feast repository.
        feature_timeout_s: How long it may take to answer for 1,000 rows.
        arms: Which arms of a plan are answered: "all", or "own", those of the versions that the
            server was started with, where a router in front splits (`rollouts.routers`).
        models: The policies of models, by their names.

    A relative file is meant from the folder of the settings; an empty text is none.
    """

    host: Annotated[str, MinLen(1)] = "127.0.0.1"
    port: _Port = 8080
    control_port: _Port = 8082
    grpc_port: Annotated[int, Ge(-1), Le(65_535)] = -1
    workers: Annotated[int, Ge(1), Le(1_024)] = 1
    deadline_s: Annotated[float, Gt(0), Le(3_600)] = 10.0
    max_body_bytes: Annotated[int, Ge(1)] = 64 << 20
    max_queue_requests: Annotated[int, Ge(1)] = 512
    drain_s: Annotated[float, Ge(0), Le(3_600)] = 10.0
    worker_silent_s: Annotated[float, Ge(2), Le(3_600)] = 10.0
    batching: Literal["auto", "never"] = "auto"
    memory_budget_mb: Annotated[int, Ge(0)] = 0
    confidence: Annotated[float, Ge(0), Lt(1)] = 0.0
    protocols: tuple[ProtocolName, ...] = ()
    vertex_health_route: Annotated[str, MinLen(1)] = "/vertex/health"
    vertex_predict_route: Annotated[str, MinLen(1)] = "/vertex/predict"
    multi_model: bool = False
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_authority: str = ""
    unix_socket: str = ""
    log: Literal["text", "json"] = "text"
    access_log: bool = False
    log_exception_texts: bool = False
    trace_endpoint: str = field(default="", repr=False)
    allowed_hosts: tuple[str, ...] = ()
    default_model: str = ""
    providers: tuple[Annotated[str, MinLen(1)], ...] = ()
    feature_store: str = ""
    feature_timeout_s: Annotated[float, Gt(0), Le(3_600)] = 0.5
    arms: Literal["all", "own"] = "all"
    models: Mapping[str, ModelSettings] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings(_Section):
    """What splits the requests of an endpoint: a section `[rollouts.routers.ENDPOINT]`.

    Attributes:
        target: What it is: the target of `bascule ship` that renders its files.
        folder: Where its files are written.
        command: Applies the files, in that folder: `["kubectl", "apply", "--filename", "."]`. Envoy
            reads a renamed file by itself, and needs none.
    """

    target: Literal["envoy", "gateway-api", "istio"] = "envoy"
    folder: Path
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings(_Section):
    """How versions are deployed where a command does not say: the section `[rollouts]`.

    Attributes:
        strategy: `all` at once, or by evidence: `canary`, `shadow`, `ab`, `bandit`, `blue-green`.
        guards: What a candidate may not do worse: `errors +1 pp`. None named is those of the
            strategy. Guards and steps are those of a canary; other strategies have their own.
        steps_percent: The candidate's share in each step. None named is 5, 25, 50, 100.
        step_s: How long a step lasts at least.
        max_s: When a rollout ends without a promotion.
        min_requests: Of the candidate, in each step.
        alpha: The promised share of good versions that are rolled back.
        beta: The promised share of versions at a guard that are promoted.
        bake_s: How long a promoted version is compared with the former one.
        needs_approval: Whether every rollout waits for an approval; a command cannot say otherwise.
        outcomes_sample: The share of the predictions that get an outcome, by `outcome_draw` of
            their ids; the others are not waited for.
        load_tries: After so many tries a host that cannot load the candidate ends the rollout.
        routers: By endpoint: routers in front of servers, which follow the shares of its plan.
    """

    strategy: Literal["all", "blue-green", "canary", "shadow", "ab", "bandit"] = "all"
    guards: tuple[str, ...] = ()
    steps_percent: tuple[float, ...] = ()
    step_s: Annotated[float, Ge(0)] = 300.0
    max_s: Annotated[float, Ge(0)] = 604_800.0
    min_requests: Annotated[int, Ge(0)] = 100
    alpha: Annotated[float, Gt(0), Le(0.5)] = 0.05
    beta: Annotated[float, Gt(0), Le(0.5)] = 0.05
    bake_s: Annotated[float, Ge(0)] = 0.0
    needs_approval: bool = False
    outcomes_sample: Annotated[float, Gt(0), Le(1)] = 1.0
    load_tries: Annotated[int, Ge(1)] = 5
    routers: Mapping[str, RouterSettings] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoringSettings(_Section):
    """What is recorded of answers.

    Attributes:
        ledger: What a server records: "on", rows and profiles; "profiles", profiles alone; "off";
            or "auto", "on" where it listens on the loopback address alone, else "profiles".
        keep: The share of requests that is kept, at most.
        max_rows_per_s: How many rows a second a worker keeps of a version; above, a uniform sample.
        max_gb: How much answers may take, and outcomes as well; the oldest days make room.
        retention_days: How long answers and outcomes are kept.
        max_values_per_row: A field with more, such as an image, is left out.
        private: By `FIELD` or `MODEL.FIELD`: "omit"; "hash" for a keyed hash in its place;
            "encrypt"; or "tokenise", which encrypts equal values alike. A list omits its fields.
    """

    ledger: Literal["auto", "on", "profiles", "off"] = "auto"
    keep: Annotated[float, Gt(0), Le(1)] = 1.0
    max_rows_per_s: Annotated[int, Ge(1)] = 5_000
    max_gb: Annotated[float, Gt(0)] = 10.0
    retention_days: Annotated[int, Ge(1)] = 365
    max_values_per_row: Annotated[int, Ge(1)] = 1_024
    private: Mapping[str, Literal["omit", "hash", "encrypt", "tokenise"]] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacySettings(_Section):
    """How data of people is kept and erased.

    Attributes:
        master: What wraps the keys of private fields: "file", a file of the home, or
            `vault:MOUNT/KEY`, of the transit engine at VAULT_ADDR.
        retention_days: By "inputs", "outputs", `FIELD` or `MODEL.FIELD`, how long the values are
            kept in the ledger, where that is less than monitoring.retention_days.
        late_days: How long rows of an erased subject that arrive late are erased as they come.
    """

    master: str = "file"
    retention_days: Mapping[str, Annotated[int, Ge(0)]] = field(default_factory=dict)
    late_days: Annotated[int, Ge(0)] = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverSettings(ReceiverOptions, _Section):
    """One receiver of notifications: a section `[alerts.receivers.NAME]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSettings(RouteOptions, _Section):
    """Which alerts go to which receivers: an entry `[[alerts.routes]]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveSettings(_Section):
    """What share of a model's requests must be good: a section `[alerts.objectives.MODEL]`.

    Attributes:
        availability: The share answered, and not with a status of 500 or more; null for none.
        latency_ms: How long an answer may take; null for no such objective. It is raised to the
            next bound of the histogram of durations.
        latency_share: The share of answers within `latency_ms`.
    """

    availability: Annotated[float, Gt(0), Lt(1)] | None = None
    latency_ms: Annotated[float, Gt(0), Le(10_000)] | None = None
    latency_share: Annotated[float, Gt(0), Lt(1)] = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings(_Section):
    """What raises an alert, and which receivers are notified.

    Attributes:
        watch: Whether the control process watches: "on", "off", or "auto": on with a receiver.
        error_share: The limit for answers with a status of 500 or more.
        refused_share: The limit for answers 429 and 503.
        latency_p99_ms: The limit for the 99th percentile of latency; 0 compares with the last 24
            hours.
        false_alarms_a_year: How many are acceptable for a model, of drift and of performance each.
        false_alarms_of: What that is for: each "version", or the "fleet" of all versions that have
            answered in the last 30 days.
        weights: Of models in the budget of a fleet; 1 for others.
        losses: Whether growing losses of answers raise alerts as their truths arrive; needs the
            extra `online`. False alarms have a budget of their own.
        every_s: How often health and ledger are looked at, and notifications are sent.
        for_s: How long something is wrong with the server before its alert fires.
        keep_firing_s: How long nothing is wrong with the server before its alert is resolved.
        repeat_s: How long after a notification an alert that still fires is repeated.
        public_url: The address of the control API, for links in notifications.
        objectives: What share of requests must be good, by the name of the model.
        receivers: Where notifications go, by name.
        routes: Which alerts go where; without any, all go to every receiver.
    """

    watch: Literal["auto", "on", "off"] = "auto"
    error_share: Annotated[float, Gt(0), Le(1)] = 0.01
    refused_share: Annotated[float, Gt(0), Le(1)] = 0.01
    latency_p99_ms: Annotated[float, Ge(0)] = 0.0
    false_alarms_a_year: Annotated[float, Gt(0)] = 4.0
    false_alarms_of: Literal["version", "fleet"] = "version"
    weights: Mapping[str, Annotated[float, Gt(0)]] = field(default_factory=dict)
    losses: bool = False
    every_s: Annotated[float, Ge(1), Le(300)] = 15.0
    for_s: Annotated[float, Ge(0)] = 60.0
    keep_firing_s: Annotated[float, Ge(0)] = 300.0
    repeat_s: Annotated[float, Ge(60)] = 14_400.0
    public_url: str = ""
    objectives: Mapping[str, ObjectiveSettings] = field(default_factory=dict)
    receivers: Mapping[str, ReceiverSettings] = field(default_factory=dict)
    routes: tuple[RouteSettings, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewSettings(ReviewRule, _Section):
    """Which answers of a model people review: a section `[reviews.MODEL]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings(JudgeOptions, _Section):
    """A model that scores answers: a section `[judges.NAME]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings(_Section):
    """What callers may run.

    Attributes:
        places: Where jobs that callers with keys start may read and write: folders, `s3://...`,
            `postgresql://HOST/DB` or `postgresql://HOST/DB#TABLE`; what is below them as well.
            Jobs of this machine's commands may read and write anywhere.
    """

    places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeferredSettings(_Section):
    """How requests are answered later: the section `[deferred]`.

    Attributes:
        kept_hours: How long a request is kept, and then its answer.
        max_mb: What requests and answers of all callers may take; each pair counts 64 KiB more,
            and an answer that is to come 16 MiB.
        max_key_mb: The same, of one key.
        max_key_requests: How many of one key may wait and run.
        runs_per_model: How many a server asks one of its models at once. More suit a model that
            answers several callers side by side, such as an engine by its URL.
        deadline_s: How long the model may take, where callers need keys; else it is the shorter
            of this and `serving.deadline_s`.
        callbacks: The addresses that callers may name for a message at the end.
        callback_secret: The key of its signature; or where that is, as for a receiver of alerts.
    """

    kept_hours: Annotated[float, Gt(0), Le(168)] = 24.0
    max_mb: Annotated[int, Ge(32)] = 4_096
    max_key_mb: Annotated[int, Ge(32)] = 1_024
    max_key_requests: Annotated[int, Ge(1), Le(32)] = 8
    runs_per_model: Annotated[int, Ge(1), Le(16)] = 1
    deadline_s: Annotated[float, Gt(0), Le(86_400)] = 300.0
    callbacks: tuple[str, ...] = ()
    callback_secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleSettings(_Section):
    """How people sign in to the console: the section `[console]`.

    Attributes:
        public_url: The address by which browsers reach the control port, where a proxy is in
            front: `https://models.example.com`. Links and the provider's redirect begin with it.
        session_hours: How long a person stays signed in.
        oidc_issuer: The address of an OpenID Connect provider; empty for sign-in by link alone.
        oidc_client_id: What the provider calls this server.
        oidc_client_secret: `env:VARIABLE`, `file:PATH` or `vault:PATH#FIELD`; empty for a public
            client (PKCE alone).
        oidc_scopes: What is asked of the provider.
        oidc_roles_claim: The claim of the ID token that has roles or groups; `realm_access.roles`
            for a nested one.
        oidc_user_claim: The claim that is the name for histories; `sub` where it is absent.
        roles: Roles by value of the claim: `ml-team = ["viewer:*", "operator:late"]`. None
            named: values that are roles themselves count.
    """

    public_url: str = ""
    session_hours: Annotated[float, Gt(0), Le(720)] = 12.0
    oidc_issuer: str = ""
    oidc_client_id: str = ""
    oidc_client_secret: str = field(default="", repr=False)
    oidc_scopes: tuple[str, ...] = ("openid", "profile", "email")
    oidc_roles_claim: Annotated[str, MinLen(1)] = "roles"
    oidc_user_claim: Annotated[str, MinLen(1)] = "email"
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShipSettings(_Section):
    """What `bascule ship` renders where a command does not say: the section `[ship]`.

    Attributes:
        image: REGISTRY/PATH of the images; empty for none.
        base: An image with Python and pip, to build on; empty for the slim one of this Python.
        platforms: Of an image for several: `linux/amd64`, `linux/arm64`; empty for that of the
            machine that builds.
        replicas: Pods of each arm, at least.
        max_replicas: Pods of each arm, at most.
        target_cpu_percent: Of the CPU that a pod requests: above, the autoscaler adds pods.
        overlay: The overlay of `kubernetes` that is applied.
        namespace: Of Kubernetes.
        pull_secrets: Names of secrets with which images are pulled.
        host: The name under which clients outside of the cluster call: an Ingress, or the hostname
            of a route; empty for none.
        tls_secret: The secret with the certificate of the host; empty for no TLS.
        ingress_class: Of the Ingress; empty for the default of the cluster.
        gateway: The Gateway that routes are attached to: `NAME` or `NAMESPACE/NAME`.
        node_selector: Labels that the nodes of the pods have.
        tolerations: Taints that the pods tolerate, as Kubernetes writes them.
    """

    image: str = ""
    base: str = ""
    platforms: tuple[str, ...] = ()
    replicas: Annotated[int, Ge(1)] = 2
    max_replicas: Annotated[int, Ge(1)] = 10
    target_cpu_percent: Annotated[int, Ge(1)] = 80
    overlay: Literal["production", "plain", "staging", "keda", "agent"] = "production"
    namespace: Annotated[str, MinLen(1)] = "bascule"
    pull_secrets: tuple[str, ...] = ()
    host: str = ""
    tls_secret: str = ""
    ingress_class: str = ""
    gateway: Annotated[str, MinLen(1)] = "bascule"
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSettings(_Section):
    """What `bascule document` reads beside the evidence: the section `[documents]`.

    Attributes:
        answers: What people wrote: a TOML file with a table for each document, and texts by the
            ids of its sections. It need not exist. A relative path is meant from the folder of the
            settings.
        lists: Further documents: TOML files of sections, each the document of its file's name.
    """

    answers: Path = Path("answers.toml")
    lists: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSettings(Prices, _Section):
    """What usage costs: the section `[usage]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings(_Section):
    """Where the audit chain is anchored, and which acts take a second person: `[audit]`.

    Attributes:
        anchors: Files, best on a disk of another machine, and `s3://BUCKET/PREFIX`. Control
            processes add what the chain is every 100 acts, or 5 minutes after one.
        protected: Acts that wait for the approval of another person: `alias:late@production`,
            `deploy:late`, `settings`, `erase`; `*` stands for any letters.
        approval_hours: How long such an act waits.
    """

    anchors: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    approval_hours: Annotated[float, Gt(0), Le(8_760)] = 24.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings(_Section):
    """What is published to devices: the section `[edge]`.

    Attributes:
        repository: Where the signed repository lies: `files:///FOLDER` or `s3://BUCKET/PREFIX`; a
            folder of the home if it is empty.
        timestamp_days: How long devices believe that nothing has changed; a control process signs
            that anew when it is half over.
    """

    repository: str = ""
    timestamp_days: Annotated[float, Ge(0.25)] = 7.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingSettings(_Section):
    """Where training runs are recorded beside the catalogue: the section `[tracking]`.

    Attributes:
        mlflow: A tracking server or store of MLflow, such as `http://HOST:5000` or
            `sqlite:///runs.db`; empty for none. `MLFLOW_TRACKING_USERNAME` and
            `MLFLOW_TRACKING_PASSWORD` are the server's, and never shown.
        wandb: A folder for offline runs of Weights & Biases, relative to that of the run; empty
            for none. `wandb sync FOLDER/offline-run-*` sends them.
    """

    mlflow: str = field(default="", repr=False)
    wandb: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set.

    Attributes:
        home: The folder of the registry. A relative one is meant from the folder of the settings.
        gates: Section `[gates]`.
        registry: Section `[registry]`.
        security: Section `[security]`.
        serving: Section `[serving]`.
        rollouts: Section `[rollouts]`.
        monitoring: Section `[monitoring]`.
        alerts: Section `[alerts]`.
        batch: Section `[batch]`.
        deferred: Section `[deferred]`.
        console: Section `[console]`.
        ship: Section `[ship]`.
        documents: Section `[documents]`.
        usage: Section `[usage]`.
        audit: Section `[audit]`.
        edge: Section `[edge]`.
        tracking: Section `[tracking]`.
        projects: Section `[projects]`: by the name of a project, the names of its models and
            endpoints, and prefixes of names: `fraud = ["fraud-*", "chargeback"]`.
        policies: Sections `[policies.NAME]`, by the name of a model or an endpoint: the keys that
            the policies of `serving.execution.POLICIES` declare, such as `rate = "100/s"`.
        reviews: Sections `[reviews.MODEL]`.
        judges: Sections `[judges.NAME]`.
        upstreams: Section `[upstreams]`: servers that models of text generation may ask, by their
            addresses as the bundles have them; where the key of each is kept (`env:VARIABLE`,
            `file:PATH`, `vault:PATH#FIELD`), or an empty text for none.
    """

    home: Path = Path(".bascule")
    gates: GateSettings = field(default_factory=GateSettings)
    registry: RegistrySettings = field(default_factory=RegistrySettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)
    serving: ServingSettings = field(default_factory=ServingSettings)
    rollouts: RolloutSettings = field(default_factory=RolloutSettings)
    monitoring: MonitoringSettings = field(default_factory=MonitoringSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    deferred: DeferredSettings = field(default_factory=DeferredSettings)
    console: ConsoleSettings = field(default_factory=ConsoleSettings)
    ship: ShipSettings = field(default_factory=ShipSettings)
    documents: DocumentSettings = field(default_factory=DocumentSettings)
    usage: UsageSettings = field(default_factory=UsageSettings)
    audit: AuditSettings = field(default_factory=AuditSettings)
    edge: EdgeSettings = field(default_factory=EdgeSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    projects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    policies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reviews: Mapping[str, ReviewSettings] = field(default_factory=dict)
    judges: Mapping[str, JudgeSettings] = field(default_factory=dict)
    upstreams: Mapping[str, str] = field(default_factory=dict, repr=False)


@cache
def _as_json() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Settings)


def to_json(settings: Settings) -> dict[str, Any]:
    """The settings for another process, which keeps them if files or variables change."""
    plain: dict[str, Any] = _as_json().dump_python(settings, mode="json")
    return plain


def from_json(plain: Mapping[str, Any]) -> Settings:
    """What `to_json` was given."""
    settings: Settings = _as_json().validate_python(plain)
    return settings


def load_settings(
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    serving: Mapping[str, object] | None = None,
    registry: Mapping[str, object] | None = None,
) -> Settings:
    """The settings of `folder` and the environment, checked.

    Args:
        folder: Where `bascule.toml` is looked for, and what a relative home is relative to; the
            working directory if None.
        environ: The environment; that of the process if None.
        serving: Settings of the section `[serving]` that the command line gives, by name; they
            win over both.
        registry: The same for the section `[registry]`.

    Raises:
        Invalid: A value is wrong or a name is unknown. The message says which, what is allowed,
            and whether the file, a variable or an option brought it.
    """
    here = (folder or Path.cwd()).resolve()
    variables = dict(os.environ if environ is None else environ)
    _refuse_misspelt(variables)
    shown = _take_what_the_platform_says(variables)
    for section, given in (("SERVING", serving), ("REGISTRY", registry)):
        for name, value in (given or {}).items():
            variable = f"{PREFIX}{section}{DELIMITER}{name.upper()}"
            variables[variable] = str(value)
            shown[variable] = f"--{name.replace('_', '-')}"
    settings = _checked(_Sources(here / SETTINGS_FILE, variables, shown))
    if environ is None:
        # For engines in this process, and in workers, which read no settings.
        os.environ[UPSTREAMS] = json.dumps(dict(settings.upstreams))
    return _with_whole_paths(settings, here, variables.get(SAFE_PORTS, ""))


def _checked(sources: _Sources) -> Settings:
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    try:
        settings = _read(sources.file, sources.variables)
        _check_criteria(settings.gates)
        _check_claims(settings.security)
        _check_stores(_with_kept_addresses(settings).registry)
        _check_protocols(settings.serving)
        _check_rollouts(settings.rollouts)
        _check_models(settings.serving)
        _check_allowed_hosts(settings.serving.allowed_hosts)
        _check_trace_endpoint(settings.serving.trace_endpoint)
        _check_alerts(settings.alerts)
        _check_console(settings.console, settings.projects)
        _check_projects(settings.projects)
        _check_sections(settings.policies)
        _check_upstreams(settings.upstreams)
    except ValidationError as error:
        raise _explained([dict(one) for one in error.errors()], sources) from None
    except _Wrong as error:
        raise _explained([error.problem], sources) from None
    except SettingsError as error:
        raise _explained_variable(error, sources) from None
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"{sources.file} is not TOML: {error}", hint="mend that line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{sources.file} cannot be read: {error}") from None
    return settings


def _with_whole_paths(settings: Settings, here: Path, safe_ports: str) -> Settings:
    keys = tuple(here / key.expanduser() for key in settings.security.required_keys)
    routers = {
        name: replace(one, folder=here / one.folder.expanduser())
        for name, one in settings.rollouts.routers.items()
    }
    files: dict[str, Any] = {
        name: str(here / Path(path).expanduser())
        for name in _SERVING_FILES
        if (path := getattr(settings.serving, name))
    }
    return replace(
        settings,
        home=here / settings.home.expanduser(),
        security=replace(settings.security, required_keys=keys),
        documents=replace(
            settings.documents,
            answers=here / settings.documents.answers.expanduser(),
            lists=tuple(here / file.expanduser() for file in settings.documents.lists),
        ),
        rollouts=replace(settings.rollouts, routers=routers),
        serving=_with_other_ports(replace(settings.serving, **files), safe_ports),
        audit=replace(
            settings.audit,
            anchors=tuple(
                place if place.startswith("s3://") else str(here / Path(place).expanduser())
                for place in settings.audit.anchors
            ),
        ),
    )


def _with_other_ports(serving: ServingSettings, safe_ports: str) -> ServingSettings:
    grpc, control = other_ports(
        serving.port,
        serving.grpc_port,
        serving.control_port,
        default=ServingSettings().control_port,
        safe_ports=safe_ports,
    )
    return replace(serving, grpc_port=grpc, control_port=control)


def _take_what_the_platform_says(variables: dict[str, str]) -> dict[str, str]:
    """Add what the platform's variables stand for; returns which of theirs each came from."""
    given = {name.upper() for name in variables}
    told_by: dict[str, str] = {}
    for theirs, ours in VARIABLES.items():
        if theirs in variables and PREFIX + ours not in given:
            variables[PREFIX + ours] = variables[theirs]
            told_by[PREFIX + ours] = theirs
            given.add(PREFIX + ours)
    return told_by


def scheme_of(address: str) -> str:
    """What stands before `://`: the key of `CATALOGUES` and `OBJECTS`."""
    return address.partition("://")[0]


class _Sources(NamedTuple):
    """Where a value can have come from.

    Attributes:
        file: The settings file.
        variables: The environment, with options and the platform's variables under our names.
        shown: What people wrote in place of some of these variables.
    """

    file: Path
    variables: Mapping[str, str]
    shown: Mapping[str, str]


class _Wrong(Exception):
    """A problem that a room found in a value, in the form in which pydantic tells its own."""

    def __init__(self, location: tuple[str | int, ...], said: str, hint: str) -> None:
        super().__init__(said)
        self.problem: dict[str, Any] = {
            "loc": location,
            "type": "criterion",
            "msg": said,
            "hint": hint,
        }


@contextmanager
def _about(*location: str | int, hint: str = "") -> Iterator[None]:
    """What is `Invalid` inside is wrong with the setting at `location`."""
    try:
        yield
    except Invalid as error:
        raise _Wrong(location, error.message, hint or error.hint) from None


def _read(file: Path, variables: Mapping[str, str]) -> Settings:
    model = _model()
    loaded = model(sources=(file, variables))
    return Settings(**{name: getattr(loaded, name) for name in model.model_fields})


@cache
def _model() -> Any:
    """Reads the keyword `sources`: a file and variables. Compiled once: 20 ms."""
    from pydantic import create_model, field_validator
    from pydantic_settings import (
        BaseSettings,
        EnvSettingsSource,
        InitSettingsSource,
        PydanticBaseSettingsSource,
        SettingsConfigDict,
        TomlConfigSettingsSource,
    )

    class Source(BaseSettings):
        model_config = SettingsConfigDict(
            env_prefix=PREFIX, env_nested_delimiter=DELIMITER, extra="forbid"
        )

        @field_validator(
            "gates", "security", "serving", "rollouts", "monitoring", "alerts", "batch", "deferred",
            "console", "ship", "usage", "privacy", "audit", "edge", mode="before",
            check_fields=False,
        )  # fmt: skip
        @classmethod
        def read_what_is_json_in_a_variable(cls, section: Any) -> Any:
            if not isinstance(section, dict):
                return section
            read = dict(section)
            for name in _JSON_VALUES:
                if isinstance(read.get(name), str):
                    with suppress(ValueError):
                        read[name] = json.loads(read[name])
            if isinstance(private := read.get("private"), list):
                read["private"] = dict.fromkeys(private, "omit")
            return read

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # two places are enough
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            assert isinstance(env_settings, EnvSettingsSource)
            assert isinstance(init_settings, InitSettingsSource)
            file, variables = init_settings.init_kwargs["sources"]
            env_settings.env_vars = {name.lower(): value for name, value in variables.items()}
            return env_settings, TomlConfigSettingsSource(settings_cls, toml_file=file)

    types, defaults = get_type_hints(Settings, include_extras=True), Settings()
    declared: Any = {name: (types[name], getattr(defaults, name)) for name in _names(())}
    return create_model("Loaded", __base__=Source, **declared)


def _with_kept_addresses(settings: Settings) -> Settings:
    def kept(name: str, said: str) -> str:
        return secret_in(said, lambda why: _Wrong(("registry", name), why, "give its whole path"))

    registry = settings.registry
    store, objects = kept("store", registry.store), kept("objects", registry.objects)
    return replace(settings, registry=replace(registry, store=store, objects=objects))


def _check_criteria(gates: GateSettings) -> None:
    from bascule.release import Criterion

    for index, text in enumerate(gates.criteria):
        with _about("gates", "criteria", index):
            Criterion.parse(text)


def _check_claims(security: SecuritySettings) -> None:
    if not security.required_claims:
        return
    from bascule.bundle.disk import parse_claim

    if not security.required_keys:
        raise _Wrong(
            ("security", "required_claims"),
            "no key is required that could sign passports",
            "name public keys in security.required_keys",
        )
    for index, text in enumerate(security.required_claims):
        with _about("security", "required_claims", index):
            parse_claim(text)


def _check_rollouts(rollouts: RolloutSettings) -> None:
    steps = rollouts.steps_percent
    if steps and (list(steps) != sorted(set(steps)) or steps[0] <= 0 or steps[-1] != 100):
        raise _Wrong(
            ("rollouts", "steps_percent"),
            f"steps must rise from over 0 to 100, not {list(steps)}",
            "for example [5, 25, 50, 100]",
        )
    from bascule.core import check_name

    for name in rollouts.routers:
        with _about("rollouts", "routers", name):
            check_name(name, what="endpoint")
    for index, text in enumerate(rollouts.guards):
        from bascule.release.rollouts import parse_guard

        with _about("rollouts", "guards", index):
            parse_guard(text)


def _check_stores(registry: RegistrySettings) -> None:
    for name, address, table in (
        ("store", registry.store, CATALOGUES),
        ("objects", registry.objects, OBJECTS),
    ):
        if scheme_of(address) not in table:
            raise _Wrong(
                ("registry", name),
                f"{masked(address)!r} is not of a kind that is known",
                f"kinds are {', '.join(table)}: "
                + ("postgresql://USER@HOST/NAME" if name == "store" else "s3://BUCKET/PREFIX"),
            )


def _check_protocols(serving: ServingSettings) -> None:
    plain = ServingSettings()
    routes = (serving.vertex_health_route, serving.vertex_predict_route)
    are_plain = routes == (plain.vertex_health_route, plain.vertex_predict_route)
    if are_plain and not serving.multi_model:
        return  # nothing can collide, and the room need not be imported
    from bascule.serving.protocols import choose_protocols

    try:
        names = choose_protocols(serving.protocols, *routes).names
    except Invalid as error:
        raise _Wrong(("serving", str(error.facts["field"])), error.message, error.hint) from None
    if serving.multi_model and "invocations" not in names:
        raise _Wrong(
            ("serving", "multi_model"),
            "models are loaded by the protocol 'invocations', which is left out",
            "leave it among serving.protocols, and give Vertex AI's routes other paths",
        )


def _check_upstreams(upstreams: Mapping[str, str]) -> None:
    for address, place in upstreams.items():
        with _about("upstreams", address):
            if not address.startswith(("http://", "https://")):
                raise Invalid(
                    "an address begins with http:// or https://", hint="write http://HOST:PORT/v1"
                )
            if place and not is_kept_elsewhere(place):
                raise Invalid(
                    "a key is not written here",
                    hint='say where it is kept: "env:VARIABLE", "file:PATH" or "vault:PATH#FIELD"',
                )


def _check_trace_endpoint(address: str) -> None:
    if address and not _is_web_address(address):
        raise _Wrong(
            ("serving", "trace_endpoint"),
            f"{masked(address)!r} is not the address of a collector",
            "write the whole of it: http://HOST:4318/v1/traces",
        )


def _check_allowed_hosts(hosts: Sequence[str]) -> None:
    from bascule.serving.transports import check_allowed_host

    for index, host in enumerate(hosts):
        with _about("serving", "allowed_hosts", index):
            check_allowed_host(host)


def _check_models(serving: ServingSettings) -> None:
    from bascule.core import check_name

    for model, chosen in serving.models.items():
        with _about("serving", "models", model):
            check_name(model)
        _check_policies(model, chosen)
        if not chosen.fallback:
            continue
        name, slash, version = chosen.fallback.partition("/")
        with _about("serving", "models", model, "fallback", hint="write NAME or NAME/VERSION"):
            check_name(name)
            if slash:
                check_name(version, what="version")


def _check_policies(model: str, chosen: ModelSettings) -> None:
    if not chosen.policies:
        return
    from bascule.serving.execution import read_chain

    for name, values in chosen.policies.items():
        with _about("serving", "models", model, "policies", name):
            if name == "resilience":
                raise Invalid("its settings are those of the model", hint="write them there")
            read_chain({name: values})


def _check_sections(sections: Mapping[str, Mapping[str, Any]]) -> None:
    if not sections:
        return
    from bascule.core import check_name
    from bascule.serving.execution import read_chain, values_of_keys

    for name, keys in sections.items():
        with _about("policies", name):
            check_name(name)
        try:
            read_chain(values_of_keys(keys))
        except Invalid as error:
            key = str(error.facts.get("key", ""))
            place = ("policies", name, key) if key in keys else ("policies", name)
            raise _Wrong(place, error.message, error.hint) from None


def _check_alerts(alerts: AlertSettings) -> None:
    if not alerts.receivers and not alerts.routes:
        return
    from bascule.core import check_name
    from bascule.monitoring.alerts.sinks import SINKS

    for name, receiver in alerts.receivers.items():
        place = ("alerts", "receivers", name)
        with _about(*place):
            check_name(name, what="receiver")
        for required in SINKS[receiver.kind][1]:
            if not getattr(receiver, required):
                raise _Wrong(
                    (*place, required),
                    f"a receiver of kind {receiver.kind!r} requires it",
                    "write it into bascule.toml; a secret as env:VARIABLE or file:PATH",
                )
    for index, route in enumerate(alerts.routes):
        unknown = [name for name in route.receivers if name not in alerts.receivers]
        if unknown or not route.receivers:
            raise _Wrong(
                ("alerts", "routes", index, "receivers"),
                f"there is no receiver {unknown[0]!r}" if unknown else "a route requires receivers",
                f"receivers are {', '.join(alerts.receivers) or 'none'}",
            )


def _check_console(console: ConsoleSettings, projects: Mapping[str, Sequence[str]]) -> None:
    for name in ("public_url", "oidc_issuer"):
        address = getattr(console, name)
        if address and not _is_web_address(address):
            raise _Wrong(
                ("console", name), f"{masked(address)!r} is not a web address",
                "write for example https://login.example.com",
            )  # fmt: skip
    if console.oidc_issuer:
        _check_provider(console)
    for value, roles in console.roles.items():
        from bascule.security import check_projects, permissions_of_roles

        with _about("console", "roles", value):
            check_projects(permissions_of_roles(roles), projects)


def _check_projects(projects: Mapping[str, Sequence[str]]) -> None:
    if not projects:
        return
    from bascule.core import check_name
    from bascule.security import ANY, PROJECT, check_models

    for name, models in projects.items():
        with _about("projects", name):
            check_name(name, what="project")
        for index, text in enumerate(models):
            with _about("projects", name, index):
                if text == ANY or text.startswith(PROJECT):
                    raise Invalid(f"{text!r} is no name and no prefix", hint="such as fraud-*")
                check_models(text)


def _check_provider(console: ConsoleSettings) -> None:
    from bascule.serving.transports import is_loopback

    parts = urlsplit(console.oidc_issuer)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise _Wrong(
            ("console", "oidc_issuer"),
            "a provider beyond this machine must be asked over https",
            "write https:// in front of it",
        )
    if not console.oidc_client_id:
        raise _Wrong(
            ("console", "oidc_client_id"), "a provider requires it",
            "register this server with the provider, and write the id that it gives",
        )  # fmt: skip
    secret = console.oidc_client_secret
    if secret and not is_kept_elsewhere(secret):
        raise _Wrong(
            ("console", "oidc_client_secret"), "the secret itself does not belong into settings",
            "write env:VARIABLE, file:PATH or vault:PATH#FIELD",
        )  # fmt: skip


def _is_web_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _explained(problems: Sequence[Mapping[str, Any]], sources: _Sources) -> Invalid:
    """One sentence a problem, each with the place that the value came from."""
    said = []
    for problem in problems:
        location = problem["loc"]
        name = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in location
        ).removeprefix(".")
        origin = _origin(location, sources)
        said.append(f"{name}: {_sentence(problem)} ({origin})")
    return Invalid("; ".join(said), hint=next(_hints(problems), ""))


def _sentence(problem: Mapping[str, Any]) -> str:
    value = problem.get("input")
    limits = {name: f"{limit:.15g}" for name, limit in _limits(problem)}
    match problem["type"]:
        case "greater_than_equal":
            return f"{value} is not >= {limits['ge']}"
        case "greater_than":
            return f"{value} is not > {limits['gt']}"
        case "less_than_equal":
            return f"{value} is not <= {limits['le']}"
        case "less_than":
            return f"{value} is not < {limits['lt']}"
        case "extra_forbidden" | "unexpected_keyword_argument":
            near = _near(problem["loc"])
            return "there is no such setting" + (f"; did you mean {near!r}?" if near else "")
        case "criterion":
            return str(problem["msg"])
        case "tuple_type":
            return f"{_shown(value)} is not a list"
        case _:
            said = str(problem["msg"])
            return f"{_shown(value)} is wrong: {said[:1].lower()}{said[1:]}"


def _shown(value: object) -> str:
    return repr(masked(value)) if isinstance(value, str) else masked(repr(value))


def _limits(problem: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name in ("ge", "gt", "le", "lt"):
        if name in problem.get("ctx", {}):
            yield name, problem["ctx"][name]


def _hints(problems: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for problem in problems:
        if problem["type"] == "criterion":
            yield problem["hint"]
        if problem["type"] == "tuple_type":
            yield _LIST_HINT
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            yield "settings here are " + ", ".join(_names(problem["loc"][:-1]))


def _names(section: Sequence[str | int]) -> list[str]:
    """The settings of a section; those of the top for an empty one."""
    holder: Any = Settings()
    entries = {"models": ModelSettings, "receivers": ReceiverSettings, "routes": RouteSettings}
    before = ""
    for part in section:
        is_entry = isinstance(holder, (Mapping, tuple))
        holder = entries.get(before) if is_entry else getattr(holder, str(part), None)
        before = str(part)
    return [one.name for one in fields(holder)] if is_dataclass(holder) else []


def _near(location: Sequence[str | int]) -> str | None:
    names = _names(location[:-1])
    near = difflib.get_close_matches(str(location[-1]).lower(), names, n=1, cutoff=0.6)
    return near[0] if near else None


def _origin(location: Sequence[str | int], sources: _Sources) -> str:
    """The variable that brought a value, or else the file: variables win."""
    parts = [part for part in location if isinstance(part, str)]
    written = {**{name.upper(): name for name in sources.variables}, **sources.shown}
    for length in range(len(parts), 0, -1):
        name = PREFIX + DELIMITER.join(parts[:length]).upper()
        if name in written:
            return written[name]
    return sources.file.name


def _explained_variable(error: Exception, sources: _Sources) -> Invalid:
    """A variable that should hold a list or a section, and is not the JSON of one."""
    named = re.search(r'field "(\w+)"', str(error))
    name = f"{PREFIX}{named[1].upper()}" if named else f"a variable {PREFIX}..."
    origin = next((one for one in sources.variables if one.upper().startswith(name)), name)
    return Invalid(f"{sources.shown.get(origin, origin)} is not JSON", hint=_LIST_HINT)


_OTHERS = """
    cache_dir certificate certificate_key conformance_only database hide_exception_texts key
    key_password server
"""
_OTHER_VARIABLES = frozenset(_OTHERS.split())
"""Variables of ours that are no settings, without the prefix."""
_OF_KUBERNETES = re.compile(r"(.*_)?service_(host|port)(_.*)?|port_\d+_(tcp|udp)(_.*)?")
"""What Kubernetes sets in every pod beside a service called `bascule`."""


def _refuse_misspelt(variables: Mapping[str, str]) -> None:
    """A variable that is nearly one of ours would otherwise be passed over in silence."""
    known = _names(())
    sections = {name: section for section in known for name in _names((section,))}
    for variable, value in variables.items():
        if not variable.upper().startswith(PREFIX):
            continue
        head = variable.upper().removeprefix(PREFIX).split(DELIMITER)[0].lower()
        if head in known or head in _OTHER_VARIABLES or _is_of_kubernetes(head, value):
            continue
        near = difflib.get_close_matches(head, known, n=1, cutoff=0.7)
        inside = difflib.get_close_matches(head, sections, n=1, cutoff=0.85)
        if near or inside:
            right = near[0] if near else f"{sections[inside[0]]}{DELIMITER}{inside[0]}"
            named = variable.upper().replace(head.upper(), right.upper(), 1)
            raise Invalid(
                f"there is no setting {variable}; did you mean {named}?",
                hint=f"settings are {', '.join(known)}",
            )
        warnings.warn(
            f"the variable {variable} is no setting and is ignored; sections are "
            f"{', '.join(known)}, as in {PREFIX}SERVING{DELIMITER}PORT",
            BasculeWarning,
            stacklevel=3,
        )


def _is_of_kubernetes(head: str, value: str) -> bool:
    return bool(_OF_KUBERNETES.fullmatch(head)) or (head == "port" and "://" in value)
